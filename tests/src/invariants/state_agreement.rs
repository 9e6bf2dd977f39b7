//! State agreement: the state after an index is the same on every replica, in every life, and after
//! every replay; a state that was durable is found with the index that it belongs to.
//!
//! Source: requirements AP-3 and AP-8.

use std::collections::BTreeMap;

use polyraft_core::ids::{LogIndex, NodeId};

use super::Violation;

/// The hash of the state after each index, from whoever reached it first.
#[derive(Debug, Default)]
pub struct StateAgreement {
    states: BTreeMap<LogIndex, u64>,
    compared: usize,
}

impl StateAgreement {
    /// The state on `node` is `hash` after `index`.
    ///
    /// # Errors
    /// It was another on another node, or in an earlier life.
    pub fn reached(&mut self, node: NodeId, index: LogIndex, hash: u64) -> Result<(), Violation> {
        self.compared += usize::from(self.states.contains_key(&index));
        let first = *self.states.entry(index).or_insert(hash);
        if first == hash {
            return Ok(());
        }
        let what = format!("n{node} has state {hash:016x} after {index}; it was {first:016x}");
        Err(Violation::new("state agreement", what))
    }

    /// States that were compared with an earlier one of the same index.
    pub fn compared(&self) -> usize {
        self.compared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_that_ends_elsewhere_is_found() {
        let mut agreement = StateAgreement::default();
        let mut reached =
            |index, hash| agreement.reached(NodeId::new(1), LogIndex::new(index), hash).is_ok();
        assert!(reached(1, 7) && reached(2, 8) && reached(1, 7));
        assert!(!reached(2, 9));
        assert_eq!(agreement.compared(), 2);
    }
}
