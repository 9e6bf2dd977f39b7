//! Log matching: logs that agree on an entry's index and term agree on everything before it.
//!
//! Source: Raft thesis, figure 3.2.

use std::collections::BTreeMap;

use polyraft_core::entry::LogEntry;
use polyraft_core::ids::{LogIndex, NodeId, Term};

use super::{Violation, chain};

/// The hash of the prefix that ends with each (index, term) ever seen.
#[derive(Debug, Default)]
pub struct LogMatching {
    prefixes: BTreeMap<(LogIndex, Term), u64>,
    /// The hash of every prefix of each node's log.
    logs: BTreeMap<NodeId, Vec<u64>>,
}

impl LogMatching {
    /// The log on `node` is now `log`, from index 1; its first `unchanged` entries are as they were.
    ///
    /// # Errors
    /// It has an entry that another log had after another prefix.
    pub fn check(
        &mut self,
        node: NodeId,
        log: &[LogEntry],
        unchanged: usize,
    ) -> Result<(), Violation> {
        let hashes = self.logs.entry(node).or_default();
        hashes.truncate(unchanged);
        for entry in &log[hashes.len()..] {
            let hash = chain(hashes.last().copied().unwrap_or(0), entry);
            hashes.push(hash);
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
        let mut check = |node, log: &[LogEntry], unchanged| {
            matching.check(NodeId::new(node), log, unchanged).is_ok()
        };
        assert!(check(1, &[entry(1, 1, "a"), entry(2, 2, "b")], 0));
        assert!(check(1, &[entry(1, 1, "a"), entry(2, 3, "c")], 1));
        assert!(!check(2, &[entry(1, 2, "x"), entry(2, 2, "b")], 0));
    }
}
