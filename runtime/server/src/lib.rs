//! polyraft, the binary: thousands of etcd v3 keyspaces on one small cluster.
//!
//! ```text
//! commands (dev, node, …) → Instance ─┬ Node        the runtime, as any embedder has it
//!                                     ├ etcd        gRPC, a keyspace per group ─→ mvcc
//!                                     ├ admin       HTTP: health, metrics, status page, chaos
//!                                     └ otlp        traces, to a collector
//!            systemd                  readiness and watchdog, to the service manager
//!                                  chaos          a cluster under load and faults, judged
//! ```
//!
//! Not here: anything about Raft, disks or QUIC; the runtime is used through its public API.

pub mod access;
pub mod access_token;
pub mod admin;
pub mod admin_client;
mod audit_log;
pub mod chaos;
pub mod chaos_routes;
pub mod commands;
pub mod etcd;
pub mod event_log;
pub mod event_watch;
pub mod group_ranking;
mod group_rates;
pub mod instance;
pub mod latency;
pub mod mvcc;
#[cfg(feature = "otlp")]
pub mod otlp;
#[cfg(not(feature = "otlp"))]
#[path = "otlp_left_out.rs"]
pub mod otlp;
pub mod page;
pub mod proto;
pub mod recorder;
pub mod report;
pub mod summary;
pub mod systemd;
