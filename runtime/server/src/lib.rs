//! polyraft, the binary: thousands of etcd v3 keyspaces on one small cluster.

pub mod mvcc;
pub mod proto;
