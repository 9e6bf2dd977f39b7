//! Log matching: logs that agree on an entry's index and term agree on everything before it.
//!
//! Source: Raft thesis, figure 3.2.

use std::collections::BTreeMap;

use polyraft_core::entry::LogEntry;
use polyraft_core::ids::{LogIndex, Term};

use super::{Violation, chain};

/// The hash of the prefix that ends with each (index, term) ever seen.
#[derive(Debug, Default)]
pub struct LogMatching {
    prefixes: BTreeMap<(LogIndex, Term), u64>,
}

impl LogMatching {
    /// A replica's log is now `log`, from index 1.
    ///
    /// # Errors
    /// It has an entry that another log had after another prefix.
    pub fn check(&mut self, log: &[LogEntry]) -> Result<(), Violation> {
        let mut hash = 0;
        for entry in log {
            hash = chain(hash, entry);
            let first = *self.prefixes.entry((entry.index, entry.term)).or_insert(hash);
            if first != hash {
                let (index, term) = (entry.index, entry.term);
                let what = format!("two logs differ before entry {index} of term {term}");
                return Err(Violation::new("log matching", what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polyraft_core::entry::EntryKind;

    fn entry(index: u64, term: u64, data: &'static str) -> LogEntry {
        LogEntry {
            index: LogIndex::new(index),
            term: Term::new(term),
            kind: EntryKind::Normal,
            data: data.into(),
        }
    }

    #[test]
    fn a_different_prefix_is_found_and_a_different_tail_is_not() {
        let mut matching = LogMatching::default();
        assert!(matching.check(&[entry(1, 1, "a"), entry(2, 2, "b")]).is_ok());
        assert!(matching.check(&[entry(1, 1, "a"), entry(2, 3, "c")]).is_ok());
        assert!(matching.check(&[entry(1, 2, "x"), entry(2, 2, "b")]).is_err());
    }
}
