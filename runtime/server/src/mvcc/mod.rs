//! A keyspace: etcd's multi-version store as a replicated state machine.
//!
//! ```text
//! Command ─apply→ Keyspace ─rows→ State        Query ─query→ Keyspace ─scan→ State
//! ```
//!
//! | row | value | why |
//! |---|---|---|
//! | `v` key, revision descending | value, create revision, version; empty: deleted | one seek finds a key's version at any revision; a range is one scan |
//! | `e` revision | key | finds the current revision, and what a compaction may free, without a scan of the keys |
//! | `m` | compacted revision | |
//!
//! A put costs one seek and two rows; its value is stored once. Nothing grows in memory: an open
//! keyspace holds three numbers and `open` reads three rows, so that a node can host thousands of
//! them. The price is that a range walks superseded versions until they are compacted; runs of them
//! are skipped by seeking.
//!
//! Compaction takes effect at once, by its revision; the rows are freed a bounded number per later
//! command (`compaction`), so that no command stalls its group.
//!
//! Promise: revisions, versions, counts and refusals are etcd's, request by request.
//! Not here: validation of requests (`crate::etcd`), leases, watches.

mod compaction;
#[cfg(test)]
mod etcd_comparison;
mod hash;
mod keyspace;
#[cfg(test)]
mod model_tests;
mod range;
mod reader;
mod refused;
mod rows;
#[cfg(test)]
mod testing;
mod txn;
mod writer;

pub use keyspace::Keyspace;
pub use rows::{KEY_ENCODED_BYTES_MAX, encoded_key_len};
