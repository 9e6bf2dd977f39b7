//! State machine safety: no two replicas apply different entries at an index, nor one replica in two
//! lives; entries are applied in order, without a gap.
//!
//! Source: Raft thesis, figure 3.2; requirement AP-1.

use polyraft_core::entry::LogEntry;

use super::{Violation, chain};

/// The one sequence that every replica applies.
#[derive(Debug, Default)]
pub struct StateMachineSafety {
    entries: Vec<LogEntry>,
    hashes: Vec<u64>,
}

impl StateMachineSafety {
    /// A replica applies `entry` as its `position`-th, from 1.
    ///
    /// # Errors
    /// It is out of order, or not what another replica applied there.
    pub fn applied(&mut self, position: usize, entry: &LogEntry) -> Result<(), Violation> {
        let broken = |what| Err(Violation::new("state machine safety", what));
        if entry.index.get() != position as u64 {
            return broken(format!("entry {} is applied in place {position}", entry.index));
        }
        match self.entries.get(position - 1) {
            Some(first) if first == entry => Ok(()),
            Some(first) => broken(format!("entry {position} is {first:?} and {entry:?}")),
            None => {
                let before = self.hashes.last().copied().unwrap_or(0);
                self.hashes.push(chain(before, entry));
                self.entries.push(entry.clone());
                Ok(())
            }
        }
    }

    /// Everything applied by anyone, from index 1.
    pub fn entries(&self) -> &[LogEntry] {
        &self.entries
    }

    /// The hash of the state after `index`; 0 before the first entry.
    pub fn hash(&self, index: usize) -> u64 {
        index.checked_sub(1).map_or(0, |at| self.hashes[at])
    }
}
