//! A node's configuration: a TOML file, and environment variables laid over it.
//!
//! Properties: reading it twice gives the same configuration or the same findings, and every finding
//! has a text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use polyraft::seams::config_from_text;

/// The file, then for each variable its name and its value, separated by zero bytes.
pub fn run(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let Ok(text) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let rest: Vec<_> = parts.map(|part| OsString::from_vec(part.to_vec())).collect();
    let vars = || rest.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    let read = || match config_from_text(text, vars()) {
        Ok(config) => Ok(format!("{config:?}")),
        Err(errors) => Err(errors.to_string()),
    };
    let first = read();
    assert_ne!(first, Err(String::new()));
    assert_eq!(first, read());
}

const FILE: &str = r#"node_id = 1
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
heartbeat_interval = "150ms"
election_timeout = "3s"
[[cluster.groups]]
id = 1
name = "default"
nodes = [1, 2]
[batching]
preset = "balanced"
bytes_max = "512KiB"
linger = "1ms"
[limits]
groups_max = 10
proposal_deadline = "5s"
[storage]
log_map_bytes = "64MiB"
[threads]
shards = 2
"#;

pub fn seeds() -> Vec<Vec<u8>> {
    let with = |rest: &str| format!("{FILE}\0{rest}").into_bytes();
    vec![
        FILE.as_bytes().to_vec(),
        with("POLYRAFT_NODE_ID\x002\0POLYRAFT_CLUSTER__NAME\x007"),
        with("POLYRAFT_CLUSTER__GROUPS\0[{id=4, name=\"four\", nodes=[2]}]"),
        with("POLYRAFT_CLUSTER__TIMING__TICK\x0010ms\0POLYRAFT_\0{a=1}"),
    ]
}
