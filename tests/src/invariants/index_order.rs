//! `compacted ≤ applied ≤ commit ≤ last`, `persisted ≤ last`, and none of them goes back within a
//! life but for `last` and `persisted`, which a conflict may shorten, never below `commit`.
//!
//! Source: the core's own promise (`replica`); requirement AP-1.

use std::collections::BTreeMap;

use polyraft_core::ids::{LogIndex, NodeId};
use polyraft_core::status::GroupStatus;

use super::Violation;

/// The indexes that each running replica showed last: compacted, applied, commit.
#[derive(Debug, Default)]
pub struct IndexOrder {
    seen: BTreeMap<NodeId, [LogIndex; 3]>,
}

impl IndexOrder {
    /// The replica on `node` shows `status`.
    ///
    /// # Errors
    /// The order is broken, or an index went back.
    pub fn check(&mut self, node: NodeId, status: &GroupStatus) -> Result<(), Violation> {
        let GroupStatus { compacted, applied, commit, last, persisted, .. } = *status;
        let now = [compacted, applied, commit];
        let before = self.seen.insert(node, now).unwrap_or_default();
        let is_ordered = compacted <= applied && applied <= commit && commit <= last;
        let is_forward = before.iter().zip(&now).all(|(before, now)| before <= now);
        if is_ordered && is_forward && persisted <= last {
            return Ok(());
        }
        let what = format!("n{node}: {status:?} after {before:?}");
        Err(Violation::new("index order", what))
    }

    /// The replica on `node` stopped: what was not durable may go back.
    pub fn stopped(&mut self, node: NodeId) {
        self.seen.remove(&node);
    }
}
