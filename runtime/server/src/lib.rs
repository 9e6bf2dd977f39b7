//! polyraft, the binary: thousands of etcd v3 keyspaces on one small cluster.
//!
//! ```text
//! commands (dev, node, …) → Instance ─┬ Node        the runtime, as any embedder has it
//!                                     ├ etcd        gRPC, a keyspace per group ─→ mvcc
//!                                     └ admin       HTTP: health, metrics, status, chaos
//!                                  chaos          a cluster under load and faults, judged
//! ```
//!
//! Not here: anything about Raft, disks or QUIC; the runtime is used through its public API.

pub mod admin;
pub mod admin_client;
pub mod chaos;
pub mod chaos_routes;
pub mod commands;
pub mod etcd;
pub mod instance;
pub mod mvcc;
pub mod proto;
pub mod report;
