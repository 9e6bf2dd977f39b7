//! What must hold whatever fails: one file each, citing its source.
//!
//! Each invariant is told what happened or shown the hosts, and remembers what it needs. Rules about
//! logs are checked against a chain of hashes, so that one comparison covers a whole prefix.

pub mod acknowledged_once;
pub mod batch_accounts;
pub mod election_safety;
pub mod index_order;
pub mod leader_completeness;
pub mod linearizable_reads;
pub mod log_matching;
pub mod one_change;
pub mod one_vote;
pub mod state_agreement;
pub mod state_machine_safety;

use polyraft_core::entry::{EntryKind, LogEntry};
use polyraft_core::split_mix;

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
pub struct Violation {
    /// The invariant.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// `rule` was broken by `what`.
    pub fn new(rule: &'static str, what: String) -> Self {
        Self { rule, what }
    }
}

/// Mixes `value` into `hash`: the finalizer of SplitMix64.
pub fn mix(hash: u64, value: u64) -> u64 {
    split_mix::mix((hash ^ value).wrapping_add(split_mix::STEP))
}

/// The hash of a log up to and including `entry`, from that of the log before it.
pub fn chain(before: u64, entry: &LogEntry) -> u64 {
    let kind = u64::from(entry.kind == EntryKind::ConfChange);
    let head = mix(mix(mix(before, entry.index.get()), entry.term.get()), kind);
    entry.data.chunks(8).fold(head, |hash, bytes| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        mix(hash, u64::from_be_bytes(word))
    })
}
