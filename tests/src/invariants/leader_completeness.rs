//! Leader completeness: an entry committed in a term is in the logs of the leaders of later terms.
//!
//! Source: Raft thesis, figure 3.2 and §3.6.3.

use polyraft_core::entry::LogEntry;
use polyraft_core::ids::Term;

use super::Violation;

/// Every entry that some replica knew to be committed, and that replica's term then.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    committed: Vec<(LogEntry, Term)>,
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

    /// The owner of `log` leads in `term`.
    ///
    /// # Errors
    /// It lacks an entry that was committed in an earlier term.
    pub fn leads(&self, log: &[LogEntry], term: Term) -> Result<(), Violation> {
        let earlier = self.committed.iter().take_while(|(_, at)| *at < term);
        for (at, (entry, _)) in earlier.enumerate() {
            if log.get(at) != Some(entry) {
                let what = format!("the leader of term {term} lacks {entry:?}");
                return Err(Violation::new("leader completeness", what));
            }
        }
        Ok(())
    }
}
