//! From a TOML file and the environment to a builder, without stopping at the first error.
//!
//! ```text
//! TOML ─┐
//! env ──┴figment→ Value ─Table::get, key by key→ NodeConfigBuilder + findings
//! ```
//!
//! serde would stop at the first value that does not fit, so the runtime's own keys are read one by
//! one. What belongs to the embedder goes through serde, with `serde_ignored` for unknown keys.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};
use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::ports::PeerAddress;
use serde::de::DeserializeOwned;

use crate::config::{NodeConfig, NodeConfigBuilder};
use crate::config_batching::{BatchingConfig, BatchingPreset};
use crate::config_cluster::{ClusterConfigBuilder, GroupSpec};
use crate::config_error::{ConfigError, ConfigErrors, Findings};
use crate::config_limits::{LimitsConfig, StorageConfig, ThreadsConfig};
use crate::profile::{Profile, TimingConfig};

/// Environment variables that begin with this are configuration.
const ENV_PREFIX: &str = "POLYRAFT_";
/// Separates tables from keys in a variable's name.
const ENV_SEPARATOR: &str = "__";

/// Reads the file at `path` with `vars` laid over it.
pub(crate) fn load(
    path: &Path,
    vars: impl Iterator<Item = (OsString, OsString)>,
) -> Result<NodeConfig, ConfigErrors> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::File { path: path.into(), source })?;
    parse(&text, path, vars)
}

/// As [`load`], from the text of a file.
pub(crate) fn parse(
    text: &str,
    path: &Path,
    vars: impl Iterator<Item = (OsString, OsString)>,
) -> Result<NodeConfig, ConfigErrors> {
    let figment = vars
        .filter_map(|(name, value)| Some((env_key(name.to_str()?)?, value)))
        .fold(Figment::from(Toml::string(text)), |figment, (key, value)| {
            figment.merge((key, env_value(&value)))
        });
    let root = figment
        .find_value("")
        .map_err(|e| ConfigError::Syntax { path: path.into(), source: Box::new(e) })?;
    let mut findings = Findings::default();
    let builder = read_node(&root, &mut findings);
    builder.build_after(findings)
}

/// The key that a variable sets: `POLYRAFT_CLUSTER__NAME` is `cluster.name`.
fn env_key(name: &str) -> Option<String> {
    let key = name.strip_prefix(ENV_PREFIX)?;
    Some(key.to_ascii_lowercase().replace(ENV_SEPARATOR, "."))
}

/// A variable's value, as TOML would read it where it can: numbers, lists, tables, else a string.
fn env_value(value: &OsString) -> Value {
    let text = value.to_string_lossy();
    if text.contains('\\') {
        // figment's own reader panics at some escapes; TOML's takes the same, but for bare words.
        let file = Figment::from(Toml::string(&format!("value = {text}")));
        return file.find_value("value").unwrap_or_else(|_| Value::from(text.into_owned()));
    }
    text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
}

/// Hands `value` to a type of the embedder's.
pub(crate) fn read_section<T: DeserializeOwned>(
    section: &'static str,
    value: &Value,
) -> Result<T, ConfigErrors> {
    let mut findings = Findings::default();
    let read = serde_ignored::deserialize(value, |path| {
        findings.push(ConfigError::UnknownKey { key: format!("{section}.{path}") });
    });
    match read {
        Ok(read) => findings.into_errors().map_or(Ok(read), Err),
        Err(source) => {
            findings.push(ConfigError::Section { section, source: Box::new(source) });
            Err(findings.into_errors().expect("an error was just recorded"))
        }
    }
}

/// Reads every top-level key.
fn read_node(root: &Value, findings: &mut Findings) -> NodeConfigBuilder {
    let mut table = Table::new(String::new(), Some(root), findings);
    let mut tls = table.table("tls", findings);
    let limits = table.table("limits", findings);
    let storage = table.table("storage", findings);
    let builder = NodeConfigBuilder {
        cluster: read_cluster(table.table("cluster", findings), findings),
        node_id: table.get("node_id", findings),
        data_dir: table.get("data_dir", findings),
        listen: table.get("listen", findings),
        tls_ca: tls.get("ca", findings),
        tls_cert: tls.get("cert", findings),
        tls_key: tls.get("key", findings),
        tls_crl: tls.get("crl", findings),
        tls_reload_interval: tls.get("reload_interval", findings),
        batching: read_batching(table.table("batching", findings), findings),
        limits: read_limits(limits, findings),
        storage: read_storage(storage, findings),
        threads: read_threads(table.table("threads", findings), findings),
        server: table.take("server").cloned(),
    };
    tls.refuse_the_rest(findings);
    table.refuse_the_rest(findings);
    builder
}

/// Reads `[cluster]`.
fn read_cluster(mut table: Table<'_>, findings: &mut Findings) -> ClusterConfigBuilder {
    let mut builder = ClusterConfigBuilder {
        name: table.get("name", findings),
        profile: table.get("profile", findings).unwrap_or_default(),
        ..ClusterConfigBuilder::default()
    };
    builder.timing = Some(read_timing(builder.profile, table.table("timing", findings), findings));
    for mut node in table.tables("nodes", findings) {
        let id = node.require("id", findings).unwrap_or_default();
        let address: String = node.require("address", findings).unwrap_or_default();
        builder.nodes.push(PeerAddress { node: id, address });
        node.refuse_the_rest(findings);
    }
    for mut group in table.tables("groups", findings) {
        let id: GroupId = group.require("id", findings).unwrap_or_default();
        let name: String = group.require("name", findings).unwrap_or_default();
        let nodes: Vec<NodeId> = group.get("nodes", findings).unwrap_or_default();
        builder.groups.push(GroupSpec::new(id, name).on(nodes));
        group.refuse_the_rest(findings);
    }
    table.refuse_the_rest(findings);
    builder
}

/// Reads `[cluster.timing]` over the profile's.
fn read_timing(profile: Profile, mut table: Table<'_>, findings: &mut Findings) -> TimingConfig {
    let mut timing = profile.timing();
    table.set("tick", &mut timing.tick, findings);
    table.set("heartbeat_interval", &mut timing.heartbeat_interval, findings);
    table.set("election_timeout", &mut timing.election_timeout, findings);
    table.refuse_the_rest(findings);
    timing
}

/// Reads `[batching]` over its preset's.
fn read_batching(mut table: Table<'_>, findings: &mut Findings) -> BatchingConfig {
    let preset: Option<BatchingPreset> = table.get("preset", findings);
    let mut batching = preset.unwrap_or_default().batching();
    table.set("enabled", &mut batching.enabled, findings);
    table.set("commands_max", &mut batching.commands_max, findings);
    table.set_bytes("bytes_max", &mut batching.bytes_max, findings);
    table.set("linger", &mut batching.linger, findings);
    table.set("in_flight_max", &mut batching.in_flight_max, findings);
    table.set("queue_commands_max", &mut batching.queue_commands_max, findings);
    table.set_bytes("queue_bytes_max", &mut batching.queue_bytes_max, findings);
    table.refuse_the_rest(findings);
    batching
}

/// Reads `[limits]`.
fn read_limits(mut table: Table<'_>, findings: &mut Findings) -> LimitsConfig {
    let mut limits = LimitsConfig::default();
    table.set("groups_max", &mut limits.groups_max, findings);
    table.set("proposal_deadline", &mut limits.proposal_deadline, findings);
    table.set("catch_up_entries", &mut limits.catch_up_entries, findings);
    table.set_bytes("catch_up_bytes", &mut limits.catch_up_bytes, findings);
    table.refuse_the_rest(findings);
    limits
}

/// Reads `[storage]`.
fn read_storage(mut table: Table<'_>, findings: &mut Findings) -> StorageConfig {
    let mut storage = StorageConfig::default();
    table.set_bytes("log_map_bytes", &mut storage.log_map_bytes, findings);
    table.set_bytes("state_map_bytes", &mut storage.state_map_bytes, findings);
    table.set_bytes("journal_bytes_max", &mut storage.journal_bytes_max, findings);
    table.refuse_the_rest(findings);
    storage
}

/// Reads `[threads]`.
fn read_threads(mut table: Table<'_>, findings: &mut Findings) -> ThreadsConfig {
    let threads = ThreadsConfig {
        shards: table.get("shards", findings),
        apply_workers: table.get("apply_workers", findings),
    };
    table.refuse_the_rest(findings);
    threads
}

/// A table that remembers which of its keys were asked for.
struct Table<'v> {
    path: String,
    dict: Option<&'v Dict>,
    asked: BTreeSet<&'static str>,
}

impl<'v> Table<'v> {
    /// The table in `value`; an absent one has no keys.
    fn new(path: String, value: Option<&'v Value>, findings: &mut Findings) -> Self {
        let dict = value.and_then(Value::as_dict);
        if let (Some(value), None) = (value, dict) {
            let (key, value) = (path.clone(), render(value));
            findings.push(ConfigError::Malformed { key, value, expected: "a table" });
        }
        Self { path, dict, asked: BTreeSet::new() }
    }

    /// The full path of `key`.
    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// The raw value of `key`.
    fn take(&mut self, key: &'static str) -> Option<&'v Value> {
        self.asked.insert(key);
        self.dict?.get(key)
    }

    /// The value of `key`; `None` if it is absent or, which is recorded, malformed.
    fn get<T: FromValue>(&mut self, key: &'static str, findings: &mut Findings) -> Option<T> {
        let value = self.take(key)?;
        let read = T::from_value(value);
        if read.is_none() {
            let (key, value) = (self.key(key), render(value));
            findings.push(ConfigError::Malformed { key, value, expected: T::EXPECTED });
        }
        read
    }

    /// The value of `key`, whose absence is recorded too.
    fn require<T: FromValue>(&mut self, key: &'static str, findings: &mut Findings) -> Option<T> {
        if self.take(key).is_none() {
            findings.missing(&self.key(key));
        }
        self.get(key, findings)
    }

    /// Replaces `target` if `key` is given.
    fn set<T: FromValue>(&mut self, key: &'static str, target: &mut T, findings: &mut Findings) {
        if let Some(value) = self.get(key, findings) {
            *target = value;
        }
    }

    /// Replaces `target` if `key` is given, as bytes or with a unit.
    fn set_bytes<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        target: &mut T,
        findings: &mut Findings,
    ) {
        let Some(ByteSize(bytes)) = self.get(key, findings) else { return };
        match T::try_from(bytes) {
            Ok(bytes) => *target = bytes,
            Err(_) => findings.push(ConfigError::Malformed {
                key: self.key(key),
                value: bytes.to_string(),
                expected: ByteSize::EXPECTED,
            }),
        }
    }

    /// The table at `key`.
    fn table(&mut self, key: &'static str, findings: &mut Findings) -> Table<'v> {
        let value = self.take(key);
        Table::new(self.key(key), value, findings)
    }

    /// The tables in the list at `key`.
    fn tables(&mut self, key: &'static str, findings: &mut Findings) -> Vec<Table<'v>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let path = self.key(key);
        let Some(list) = value.as_array() else {
            let value = render(value);
            findings.push(ConfigError::Malformed { key: path, value, expected: "a list" });
            return Vec::new();
        };
        let tables = list.iter().enumerate();
        tables.map(|(at, v)| Table::new(format!("{path}[{at}]"), Some(v), findings)).collect()
    }

    /// Records every key that nobody asked for.
    fn refuse_the_rest(self, findings: &mut Findings) {
        for key in self.dict.into_iter().flat_map(|dict| dict.keys()) {
            if !self.asked.contains(key.as_str()) {
                findings.push(ConfigError::UnknownKey { key: self.key(key) });
            }
        }
    }
}

/// What a key may hold.
trait FromValue: Sized {
    /// For the error message.
    const EXPECTED: &'static str;

    fn from_value(value: &Value) -> Option<Self>;
}

/// Implements [`FromValue`] by one expression.
macro_rules! from_value {
    ($type:ty, $expected:literal, $read:expr) => {
        impl FromValue for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &Value) -> Option<Self> {
                #[allow(clippy::redundant_closure_call, reason = "the closure is the parameter")]
                ($read)(value)
            }
        }
    };
}

/// A size in bytes.
struct ByteSize(u64);

from_value!(String, "a string", text);
from_value!(PathBuf, "a path", |v| text(v).map(PathBuf::from));
from_value!(bool, "true or false", Value::to_bool);
from_value!(u64, "a whole number, 0 or more", whole);
from_value!(usize, "a whole number, 0 or more", |v| whole(v)?.try_into().ok());
from_value!(NodeId, "a node id", |v| whole(v).map(NodeId::new));
from_value!(GroupId, "a group id", |v| whole(v).map(GroupId::new));
from_value!(Duration, "a duration such as \"150ms\"", |v| {
    humantime::parse_duration(Value::as_str(v)?).ok()
});
from_value!(SocketAddr, "an ip:port", |v| Value::as_str(v)?.parse().ok());
from_value!(Profile, "dev, lan, low_latency or wan", |v| Value::as_str(v)?.parse().ok());
from_value!(BatchingPreset, "default, low_latency, balanced or high_throughput", |v| {
    Value::as_str(v)?.parse().ok()
});
from_value!(ByteSize, "bytes, or a size such as \"64MiB\"", |v| byte_size(v).map(ByteSize));
from_value!(Vec<NodeId>, "a list of node ids", |v| {
    Value::as_array(v)?.iter().map(NodeId::from_value).collect()
});

/// A whole number.
fn whole(value: &Value) -> Option<u64> {
    value.to_u128().and_then(|n| n.try_into().ok()).or_else(|| value.to_i128()?.try_into().ok())
}

/// A string; the environment cannot tell the number 7 from the name "7".
fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| whole(value).map(|n| n.to_string()))
}

/// A number of bytes, or a string with a binary unit.
fn byte_size(value: &Value) -> Option<u64> {
    let Some(text) = value.as_str() else { return whole(value) };
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A value as the user would write it.
fn render(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, c) => format!("{c:?}"),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, num) => match (num.to_i128(), num.to_u128(), num.to_f64()) {
            (Some(n), ..) => n.to_string(),
            (_, Some(n), _) => n.to_string(),
            (.., Some(n)) => n.to_string(),
            (None, None, None) => "a number".into(),
        },
        Value::Empty(..) => "nothing".into(),
        Value::Dict(..) => "{…}".into(),
        Value::Array(_, items) => {
            format!("[{}]", items.iter().map(render).collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const GOOD: &str = r#"
        node_id = 1
        data_dir = "data"
        listen = "127.0.0.1:7400"
        [tls]
        ca = "ca.pem"
        cert = "node-1.pem"
        key = "node-1.key"
        [cluster]
        name = "demo"
        profile = "wan"
        nodes = [{ id = 1, address = "127.0.0.1:7400" }, { id = 2, address = "127.0.0.1:7401" }]
        [cluster.timing]
        tick = "25ms"
        [[cluster.groups]]
        id = 1
        name = "default"
        [batching]
        preset = "balanced"
        bytes_max = "512KiB"
        [server]
        client_listen = "127.0.0.1:2379"
    "#;

    #[derive(Debug, serde::Deserialize)]
    struct Server {
        client_listen: String,
        #[serde(default)]
        keyspaces: u32,
    }

    fn load_text(text: &str, vars: &[(&str, &str)]) -> Result<NodeConfig, ConfigErrors> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        load(file.path(), vars.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn a_file_is_read_with_presets_and_overrides() {
        let config = load_text(GOOD, &[]).unwrap();
        assert_eq!(config.cluster().timing().tick, Duration::from_millis(25));
        assert_eq!(config.cluster().timing().election_timeout, Duration::from_secs(3));
        assert_eq!(config.batching().commands_max, 1_000);
        assert_eq!(config.batching().bytes_max, 512 << 10);
        assert_eq!(config.cluster().groups()[0].nodes(), [NodeId::new(1), NodeId::new(2)]);
        let server: Server = config.server_section().unwrap();
        assert_eq!((server.client_listen.as_str(), server.keyspaces), ("127.0.0.1:2379", 0));
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let vars = [
            ("POLYRAFT_NODE_ID", "2"),
            ("POLYRAFT_CLUSTER__NAME", "7"),
            ("POLYRAFT_CLUSTER__TIMING__TICK", "10ms"),
            ("POLYRAFT_SERVER__KEYSPACES", "12"),
            ("POLYRAFT_CLUSTER__GROUPS", r#"[{id=4, name="four", nodes=[2]}]"#),
            ("HOME", "/root"),
        ];
        let config = load_text(GOOD, &vars).unwrap();
        assert_eq!(config.node_id(), NodeId::new(2));
        assert_eq!(config.cluster().name(), "7");
        assert_eq!(config.cluster().timing().tick, Duration::from_millis(10));
        assert_eq!(config.cluster().groups()[0].nodes(), [NodeId::new(2)]);
        assert_eq!(config.server_section::<Server>().unwrap().keyspaces, 12);
    }

    /// Goal: no value of a variable makes a start panic. Method: an escape before letters of several
    /// bytes, in a string and in none.
    #[test]
    fn escapes_in_the_environment_are_read_or_left() {
        let named = |value| {
            let config = load_text(GOOD, &[("POLYRAFT_CLUSTER__GROUPS", value)])?;
            Ok::<_, ConfigErrors>(config.cluster().groups()[0].name().to_owned())
        };
        assert_eq!(named(r#"[{id=4, name="\u0066\u006fur"}]"#).unwrap(), "four");
        let odd = named(r#"[{id=4, name="\u00fc\u00fc\tü"}]"#).unwrap_err();
        assert!(odd.to_string().contains("= üü\tü:"), "{odd}");
        for broken in [r#"[{id=4, name="ÜÜ\ÜÜ27"}]"#, "\\", "\"\\Ü"] {
            named(broken).unwrap_err();
        }
    }

    /// Goal: EM-5, no finding hides another. Method: one error of each kind, in the file, in nested
    /// tables, in lists and in the environment; every one must be named, and nothing else.
    #[test]
    fn every_error_is_reported_at_once() {
        let broken = r#"
            node_id = "one"
            data_dri = "data"
            listen = "localhost"
            [tls]
            ca = "ca.pem"
            cret = "x"
            [cluster]
            name = "demo"
            nodes = [{ id = 1, address = "127.0.0.1:7400", rack = "a" }, { id = -2 }]
            [cluster.timing]
            tick = 50
            election_timeout = "400ms"
            [batching]
            preset = "fast"
            bytes_max = "1 parsec"
            [storage]
            log_map_bytes = 1000
        "#;
        let vars = [("POLYRAFT_LIMITS__GROUPS_MAX", "0"), ("POLYRAFT_SERVICE_HOST", "10.0.0.1")];
        let errors = load_text(broken, &vars).unwrap_err();
        let text = errors.to_string();
        for wanted in [
            r#"node_id = "one": expected a node id"#,
            "data_dri: unknown key",
            "data_dir: required, but missing",
            r#"listen = "localhost": expected an ip:port"#,
            "tls.cret: unknown key",
            "tls.cert: required, but missing",
            "tls.key: required, but missing",
            "cluster.nodes[0].rack: unknown key",
            "cluster.nodes[1].id = -2: expected a node id",
            "cluster.nodes[1].address: required, but missing",
            "cluster.timing.tick = 50: expected a duration",
            "cluster.timing.election_timeout = 400ms: must be 500ms",
            r#"batching.preset = "fast": expected default"#,
            r#"batching.bytes_max = "1 parsec": expected bytes"#,
            "storage.log_map_bytes = 1000: must be a multiple",
            "storage.log_map_bytes = 1000: must be at least twice",
            "limits.groups_max = 0: must be 1",
            "service_host: unknown key",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in {text}");
        }
        assert_eq!(errors.as_slice().len(), 18, "{text}");
    }

    #[test]
    fn a_server_key_that_the_embedder_does_not_know_is_refused() {
        let text = GOOD.replace("[server]", "[server]\ncleint_listen = 1");
        let errors = load_text(&text, &[]).unwrap().server_section::<Server>().unwrap_err();
        assert!(errors.to_string().contains("server.cleint_listen: unknown key"), "{errors}");
        let vars = [("POLYRAFT_SERVER__KEYSPACES", "many")];
        let errors = load_text(GOOD, &vars).unwrap().server_section::<Server>().unwrap_err();
        assert!(matches!(errors.as_slice(), [ConfigError::Section { .. }]), "{errors}");
    }

    #[test]
    fn a_table_of_the_wrong_type_is_one_error() {
        let errors = load_text(GOOD, &[("POLYRAFT_TLS", "off")]).unwrap_err();
        assert_eq!(errors.as_slice().len(), 1, "{errors}");
        assert!(errors.to_string().contains(r#"tls = "off": expected a table"#), "{errors}");
    }

    #[test]
    fn files_that_cannot_be_read_or_parsed_say_so() {
        let absent = load(Path::new("no-such-file.toml"), std::iter::empty()).unwrap_err();
        assert!(matches!(absent.as_slice(), [ConfigError::File { .. }]), "{absent}");
        let syntax = load_text("node_id = ", &[]).unwrap_err();
        assert!(matches!(syntax.as_slice(), [ConfigError::Syntax { .. }]), "{syntax}");
    }

    #[test]
    fn sizes_have_binary_units() {
        let size = |text: &str| byte_size(&Value::from(text));
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("1 GiB"), Some(1 << 30));
        assert_eq!(size("12"), Some(12));
        assert_eq!(size("12MB"), None);
        assert_eq!(size("MiB"), None);
        assert_eq!(size("99999999999TiB"), None);
    }

    #[test]
    fn the_example_in_deploy_is_valid() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/node.example.toml");
        load(&example, std::iter::empty()).unwrap();
    }
}
