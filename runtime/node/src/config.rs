//! A node's configuration: parsed once, trusted after.
//!
//! ```text
//! TOML file ─┐
//! POLYRAFT_… ┴→ config_file ─┐
//! embedder's code ───────────┴→ NodeConfigBuilder ─build()→ NodeConfig | every error at once
//! ```
//!
//! Promise: whoever holds a [`NodeConfig`] need not check it again. Times are durations, never
//! ticks; sizes are bytes. Unknown keys are refused, in the file and in the environment (EM-5).
//! Not here: what the embedder configures for itself; see [`NodeConfig::server_section`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use figment::value::{Dict, Value};
use polyraft_actors::proposal_trace::TraceSink;
use polyraft_core::ids::NodeId;
use serde::de::DeserializeOwned;

use crate::config_batching::BatchingConfig;
use crate::config_cluster::{ClusterConfig, ClusterConfigBuilder};
use crate::config_error::{ConfigErrors, Findings};
use crate::config_file;
use crate::config_limits::{LimitsConfig, StorageConfig, ThreadsConfig};

const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
const RELOAD_INTERVAL_MIN: Duration = Duration::from_millis(100);
const RELOAD_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);

/// Everything a node needs to start. Made by [`NodeConfig::builder`] or
/// [`NodeConfig::from_toml_file`]; valid by construction.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    cluster: ClusterConfig,
    node_id: NodeId,
    data_dir: PathBuf,
    listen: SocketAddr,
    tls: TlsPaths,
    tls_reload_interval: Duration,
    batching: BatchingConfig,
    limits: LimitsConfig,
    storage: StorageConfig,
    threads: ThreadsConfig,
    server: Value,
    has_chaos: bool,
    trace_sink: Option<Arc<dyn TraceSink>>,
}

/// Where a node's identity lies, as PEM files. They are read at the start, again whenever their content
/// has changed ([`NodeConfig::tls_reload_interval`]), and by [`crate::Node::reload_certificates`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The authorities that this node trusts: several while one takes another's place.
    pub ca: PathBuf,
    /// This node's certificate, leaf first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Revocation lists, at most one of each authority. Default: none, nothing is revoked.
    pub crl: Option<PathBuf>,
}

impl TlsPaths {
    /// The names that `polyraft certs` gives the files of `node` in `dir`, without revocation lists.
    pub fn in_dir(dir: &Path, node: NodeId) -> Self {
        Self {
            ca: dir.join("ca.pem"),
            cert: dir.join(format!("node-{node}.pem")),
            key: dir.join(format!("node-{node}.key")),
            crl: None,
        }
    }

    /// The same with revocation lists.
    #[must_use]
    pub fn with_crl(mut self, path: impl Into<PathBuf>) -> Self {
        self.crl = Some(path.into());
        self
    }
}

impl NodeConfig {
    /// Starts from the defaults.
    pub fn builder() -> NodeConfigBuilder {
        NodeConfigBuilder::default()
    }

    /// Reads a TOML file and lays the environment over it: `POLYRAFT_NODE_ID` sets `node_id`,
    /// `POLYRAFT_CLUSTER__TIMING__TICK` sets `cluster.timing.tick`.
    ///
    /// # Errors
    /// The file cannot be read or parsed; else every unknown key, every malformed value and every
    /// broken rule, of the file and of the environment.
    pub fn from_toml_file(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        config_file::load(path.as_ref(), std::env::vars_os())
    }

    /// The file's `[server]` table as a type of the embedder's, with the same rule for unknown keys.
    /// Without such a table, `T` must accept an empty one.
    ///
    /// # Errors
    /// The first value that does not fit `T`, or else every unknown key.
    pub fn server_section<T: DeserializeOwned>(&self) -> Result<T, ConfigErrors> {
        config_file::read_section("server", &self.server)
    }

    /// What every node of the cluster says alike.
    pub fn cluster(&self) -> &ClusterConfig {
        &self.cluster
    }

    /// This node; one of the cluster's.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The directory that holds everything this node persists; no other node may share it.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The address that the QUIC endpoint binds.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where this node's certificate and key are.
    pub fn tls(&self) -> &TlsPaths {
        &self.tls
    }

    /// Between two looks at the files of [`NodeConfig::tls`]. What has changed is used once two looks
    /// agree on it. 100 ms to 1 h. Default 5 s: a look reads a few kilobytes.
    pub fn tls_reload_interval(&self) -> Duration {
        self.tls_reload_interval
    }

    /// How proposals are gathered into entries.
    pub fn batching(&self) -> &BatchingConfig {
        &self.batching
    }

    /// Limits on work and retention.
    pub fn limits(&self) -> &LimitsConfig {
        &self.limits
    }

    /// Sizes on disk.
    pub fn storage(&self) -> &StorageConfig {
        &self.storage
    }

    /// Threads.
    pub fn threads(&self) -> &ThreadsConfig {
        &self.threads
    }

    /// The same, for a node into which faults can be injected ([`crate::chaos`]): its clock, stores
    /// and transport are wrapped, which costs a little even without a fault. Said in code alone: no
    /// file and no variable of the environment enables it.
    #[must_use]
    pub fn with_chaos(mut self) -> Self {
        self.has_chaos = true;
        self
    }

    /// The same, for a node that tells `sink` of sampled proposals ([`crate::GroupHandle::with_trace`])
    /// whose batches it led, when they have ended. Default: nobody is told.
    #[must_use]
    pub fn with_trace_sink(mut self, sink: Arc<dyn TraceSink>) -> Self {
        self.trace_sink = Some(sink);
        self
    }

    /// Who is told of sampled proposals.
    pub fn trace_sink(&self) -> Option<&Arc<dyn TraceSink>> {
        self.trace_sink.as_ref()
    }

    /// Whether faults can be injected; by default not.
    pub fn has_chaos(&self) -> bool {
        self.has_chaos
    }
}

/// Collects a node's parts; nothing is checked before `build`.
#[derive(Debug, Clone, Default)]
pub struct NodeConfigBuilder {
    pub(crate) cluster: ClusterConfigBuilder,
    pub(crate) node_id: Option<NodeId>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) tls_crl: Option<PathBuf>,
    pub(crate) tls_reload_interval: Option<Duration>,
    pub(crate) batching: BatchingConfig,
    pub(crate) limits: LimitsConfig,
    pub(crate) storage: StorageConfig,
    pub(crate) threads: ThreadsConfig,
    pub(crate) server: Option<Value>,
}

impl NodeConfigBuilder {
    /// Limits that are hit within ten entries, for tests of what happens at them. Call it before the
    /// setters that it should not undo.
    #[must_use]
    pub fn tiny(mut self) -> Self {
        self.batching = BatchingConfig::tiny();
        self.limits = LimitsConfig::tiny();
        self.storage = StorageConfig::tiny();
        self.threads = ThreadsConfig::tiny();
        self
    }

    /// The cluster; required.
    #[must_use]
    pub fn cluster(mut self, cluster: ClusterConfigBuilder) -> Self {
        self.cluster = cluster;
        self
    }

    /// Which of the cluster's nodes this is; required.
    #[must_use]
    pub fn node_id(mut self, node: NodeId) -> Self {
        self.node_id = Some(node);
        self
    }

    /// Where to keep everything persistent; required.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// The address that the QUIC endpoint binds; required.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Where the certificate and key are; required.
    #[must_use]
    pub fn tls(mut self, paths: TlsPaths) -> Self {
        self.tls_ca = Some(paths.ca);
        self.tls_cert = Some(paths.cert);
        self.tls_key = Some(paths.key);
        self.tls_crl = paths.crl;
        self
    }

    /// Replaces the time between two looks at the certificate files; see
    /// [`NodeConfig::tls_reload_interval`].
    #[must_use]
    pub fn tls_reload_interval(mut self, interval: Duration) -> Self {
        self.tls_reload_interval = Some(interval);
        self
    }

    /// Replaces the batching.
    #[must_use]
    pub fn batching(mut self, batching: BatchingConfig) -> Self {
        self.batching = batching;
        self
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: LimitsConfig) -> Self {
        self.limits = limits;
        self
    }

    /// Replaces the sizes on disk.
    #[must_use]
    pub fn storage(mut self, storage: StorageConfig) -> Self {
        self.storage = storage;
        self
    }

    /// Replaces the threads.
    #[must_use]
    pub fn threads(mut self, threads: ThreadsConfig) -> Self {
        self.threads = threads;
        self
    }

    /// Checks everything.
    ///
    /// # Errors
    /// Every rule that is broken, with the values on both sides of it.
    pub fn build(self) -> Result<NodeConfig, ConfigErrors> {
        self.build_after(Findings::default())
    }

    /// Checks everything, after what reading a file already found.
    pub(crate) fn build_after(self, mut findings: Findings) -> Result<NodeConfig, ConfigErrors> {
        self.check(&mut findings);
        match findings.into_errors() {
            Some(errors) => Err(errors),
            None => Ok(self.finish()),
        }
    }

    /// Records every rule that is broken.
    fn check(&self, findings: &mut Findings) {
        self.cluster.check(findings);
        for (key, is_given) in [
            ("node_id", self.node_id.is_some()),
            ("data_dir", self.data_dir.is_some()),
            ("listen", self.listen.is_some()),
            ("tls.ca", self.tls_ca.is_some()),
            ("tls.cert", self.tls_cert.is_some()),
            ("tls.key", self.tls_key.is_some()),
        ] {
            if !is_given {
                findings.missing(key);
            }
        }
        if let Some(node) = self.node_id {
            let known = self.cluster.nodes.iter().any(|peer| peer.node == node);
            findings.require(known, "node_id", node, "is not in cluster.nodes");
        }
        if let Some(interval) = self.tls_reload_interval {
            findings.require(
                (RELOAD_INTERVAL_MIN..=RELOAD_INTERVAL_MAX).contains(&interval),
                "tls.reload_interval",
                humantime::format_duration(interval),
                "must be 100 ms to 1 h",
            );
        }
        self.batching.check(findings);
        self.limits.check(findings);
        self.storage.check(&self.limits, findings);
        self.threads.check(findings);
        let groups = self.cluster.groups.len();
        findings.relate(
            groups <= self.limits.groups_max,
            ("limits.groups_max", self.limits.groups_max),
            "must be at least the number of",
            ("cluster.groups", groups),
        );
    }

    /// Builds what was checked.
    fn finish(self) -> NodeConfig {
        const REPORTED: &str = "check() reports every required key that is missing";
        NodeConfig {
            cluster: self.cluster.finish(),
            node_id: self.node_id.expect(REPORTED),
            data_dir: self.data_dir.expect(REPORTED),
            listen: self.listen.expect(REPORTED),
            tls: TlsPaths {
                ca: self.tls_ca.expect(REPORTED),
                cert: self.tls_cert.expect(REPORTED),
                key: self.tls_key.expect(REPORTED),
                crl: self.tls_crl,
            },
            tls_reload_interval: self.tls_reload_interval.unwrap_or(RELOAD_INTERVAL),
            batching: self.batching,
            limits: self.limits,
            storage: self.storage,
            threads: self.threads,
            server: self.server.unwrap_or_else(|| Value::from(Dict::new())),
            has_chaos: false,
            trace_sink: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use polyraft_core::ids::GroupId;

    use super::*;
    use crate::config_cluster::GroupSpec;

    fn good() -> NodeConfigBuilder {
        let cluster = ClusterConfig::builder("demo").node(NodeId::new(1), "127.0.0.1:7400");
        NodeConfig::builder()
            .cluster(cluster)
            .node_id(NodeId::new(1))
            .data_dir("data")
            .listen("127.0.0.1:7400".parse().unwrap())
            .tls(TlsPaths::in_dir(Path::new("certs"), NodeId::new(1)))
    }

    #[test]
    fn defaults_build() {
        let config = good().build().unwrap();
        assert_eq!(config.limits().groups_max, 20_000);
        assert_eq!(config.tls().key, Path::new("certs/node-1.key"));
        assert_eq!(config.cluster().effective_timing().heartbeat_ticks, 5);
    }

    /// Goal: `tiny` really is: each limit is met by ten small entries.
    #[test]
    fn tiny_limits_are_hit_within_ten_entries() {
        let config = good().tiny().build().unwrap();
        let entry_bytes = 1 << 10;
        assert!(config.batching().commands_max < 10 && config.batching().queue_commands_max < 10);
        assert!(config.batching().bytes_max < 10 * entry_bytes);
        assert!(config.batching().queue_bytes_max < 10 * entry_bytes);
        assert!(config.limits().groups_max < 10 && config.limits().catch_up_entries < 10);
        assert!(config.limits().catch_up_bytes < 10 * entry_bytes as u64);
        assert!(config.storage().journal_bytes_max < 10 * entry_bytes as u64);
    }

    #[test]
    fn an_empty_builder_reports_every_required_key() {
        let text = NodeConfig::builder().build().unwrap_err().to_string();
        for key in [
            "cluster.name",
            "cluster.nodes",
            "node_id",
            "data_dir",
            "listen",
            "tls.ca",
            "tls.cert",
            "tls.key",
        ] {
            assert!(text.contains(&format!("{key}: required, but missing")), "{key}: {text}");
        }
    }

    #[test]
    fn parts_that_disagree_are_reported_together() {
        let cluster = ClusterConfig::builder("demo").node(NodeId::new(1), "127.0.0.1:7400");
        let cluster = cluster
            .group(GroupSpec::new(GroupId::new(1), "a"))
            .group(GroupSpec::new(GroupId::new(2), "b"));
        let errors = good()
            .cluster(cluster)
            .node_id(NodeId::new(7))
            .limits(LimitsConfig { groups_max: 1, ..LimitsConfig::default() })
            .build()
            .unwrap_err();
        let text = errors.to_string();
        assert!(text.contains("node_id = 7: is not in cluster.nodes"), "{text}");
        assert!(text.contains("must be at least the number of cluster.groups = 2"), "{text}");
        assert_eq!(errors.as_slice().len(), 2);
    }
}
