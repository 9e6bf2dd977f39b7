//! Leader completeness: an entry committed in a term is in the logs of the leaders of later terms.
//!
//! Source: Raft thesis, figure 3.2 and §3.6.3.

use std::collections::BTreeMap;

use polyraft_core::entry::LogEntry;
use polyraft_core::ids::{LogIndex, ReplicaId, Term};

use super::Violation;

/// Every entry that some replica knew to be committed, and that replica's term then.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    committed: Vec<(LogEntry, Term)>,
    /// How far each leader's log was compared: within its term it only appends.
    compared: BTreeMap<(Term, ReplicaId), usize>,
}

impl LeaderCompleteness {
    /// A replica in `term` knows that `log` is committed up to `commit`, a count from index 1.
    ///
    /// # Errors
    /// Another entry was committed at one of the indexes.
    pub fn committed(
        &mut self,
        log: &[LogEntry],
        commit: usize,
        term: Term,
    ) -> Result<(), Violation> {
        for entry in log.iter().take(commit).skip(self.committed.len()) {
            self.committed.push((entry.clone(), term));
        }
        let known = commit.min(self.committed.len());
        match log.get(known.wrapping_sub(1)) {
            Some(entry) if *entry != self.committed[known - 1].0 => {
                let what = format!("{entry:?} and {:?} committed", self.committed[known - 1].0);
                Err(Violation::new("leader completeness", what))
            }
            _ => Ok(()),
        }
    }

    /// Everything up to here is known to be committed.
    pub fn upto(&self) -> LogIndex {
        LogIndex::new(self.committed.len() as u64)
    }

    /// `leader`, the owner of `log`, leads in `term`.
    ///
    /// # Errors
    /// It lacks an entry that was committed in an earlier term.
    pub fn leads(
        &mut self,
        leader: ReplicaId,
        log: &[LogEntry],
        term: Term,
    ) -> Result<(), Violation> {
        let compared = self.compared.entry((term, leader)).or_default();
        let from = std::mem::replace(compared, self.committed.len());
        for (at, (entry, of)) in self.committed.iter().enumerate().skip(from) {
            if *of >= term {
                break;
            }
            if log.get(at) != Some(entry) {
                let what = format!("the leader of term {term} lacks {entry:?}");
                return Err(Violation::new("leader completeness", what));
            }
        }
        Ok(())
    }
}
