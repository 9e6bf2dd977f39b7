//! What must never be: one variant per broken promise.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// A broken promise, with what shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Violation {
    /// Acknowledged, and not there.
    #[error("{keyspace}: put {value:x} of key {key}, acknowledged at revision {revision}, is lost")]
    Lost { keyspace: String, key: u32, value: u64, revision: i64 },
    /// There under another revision than was acknowledged.
    #[error("{keyspace}: put {value:x}, acknowledged at revision {acknowledged}, is at {found}")]
    Moved { keyspace: String, value: u64, acknowledged: i64, found: i64 },
    /// One put at several revisions.
    #[error("{keyspace}: put {value:x} was applied at each of {revisions:?}")]
    AppliedTwice { keyspace: String, value: u64, revisions: Vec<i64> },
    /// Refused for certain, and there.
    #[error("{keyspace}: put {value:x} was refused, and is at revision {revision}")]
    FailedButApplied { keyspace: String, value: u64, revision: i64 },
    /// A write that no client made.
    #[error("{keyspace}: nobody put what is at revision {revision}")]
    Unaccounted { keyspace: String, revision: i64 },
    /// Two writes at one revision.
    #[error("{keyspace}: several writes at revision {revision}")]
    SharedRevision { keyspace: String, revision: i64 },
    /// Revisions without a write.
    #[error("{keyspace}: no write at the revisions from {from} up to {to}")]
    Gap { keyspace: String, from: i64, to: i64 },
    /// A read that saw something else than was there.
    #[error(
        "{keyspace}: a read of key {key} at revision {revision} saw {seen:x?}, not {expected:x?}"
    )]
    WrongRead {
        keyspace: String,
        key: u32,
        revision: i64,
        seen: Option<(u64, i64)>,
        expected: Option<(u64, i64)>,
    },
    /// A request that stands before what was answered before it began: a stale read, or writes
    /// against the order of time.
    #[error(
        "{keyspace}: a {} that began at {began_ms} ms, after revision {answered} was answered, stands at {revision}",
        if *.is_write { "write" } else { "read" }
    )]
    OutOfOrder { keyspace: String, is_write: bool, revision: i64, answered: i64, began_ms: u64 },
    /// Nodes hash the same revision differently.
    #[error("{keyspace}: hashes at revision {revision} differ: {hashes:x?}")]
    Diverged { keyspace: String, revision: i64, hashes: BTreeMap<u64, u32> },
    /// Several leaders of one group in one term.
    #[error("group {group}: nodes {nodes:?} all led term {term}")]
    TwoLeaders { group: u64, term: u64, nodes: BTreeSet<u64> },
    /// A replica un-applied entries while its process lived.
    #[error("group {group} on node {node}: applied fell from {before} to {after}")]
    AppliedFell { node: u64, group: u64, before: u64, after: u64 },
    /// Something did not come back though every fault had ended.
    #[error("{what} did not come back within {within_s} s after the last fault: {last}")]
    NotRecovered { what: String, within_s: u64, last: String },
}
