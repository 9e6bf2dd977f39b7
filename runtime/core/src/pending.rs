//! Pending proposals: who waits for which entry.
//!
//! ```text
//! propose ─register (term, index)→ [pending] ─committed, same term→ waiter travels with the entry
//!                                      ├─ another term's entry there → superseded
//!                                      └─ leadership lost            → unknown
//! ```
//!
//! Promise: a waiter leaves exactly once, and is matched by term **and** index: an entry that took
//! the place of another is never mistaken for it (BP-13).
//! Not here: replies (the shell owns `W`).

use std::collections::VecDeque;

use crate::ids::{LogIndex, Term};

/// How a proposal ended without being applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecided {
    /// Another leader's entry holds its index: it never commits.
    Superseded,
    /// Leadership was lost while it was uncommitted: it may still commit.
    Unknown,
}

/// Waiters by (term, index), ascending.
#[derive(Debug)]
pub struct PendingProposals<W> {
    waiting: VecDeque<(LogIndex, Term, W)>,
}

impl<W> Default for PendingProposals<W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<W> PendingProposals<W> {
    /// Registers a waiter, before its entry is proposed.
    pub fn register(&mut self, index: LogIndex, term: Term, waiter: W) {
        if let Some(&(last, _, _)) = self.waiting.back() {
            assert!(index > last, "waiter for {index} registered after {last}");
        }
        self.waiting.push_back((index, term, waiter));
    }

    /// Takes back the waiter registered last: its entry was refused.
    pub fn unregister_last(&mut self) -> Option<W> {
        self.waiting.pop_back().map(|(_, _, waiter)| waiter)
    }

    /// The entry at (term, index) committed: its waiter, and through `superseded` those of entries
    /// that it or its predecessors replaced.
    pub fn committed(
        &mut self,
        index: LogIndex,
        term: Term,
        mut superseded: impl FnMut(W),
    ) -> Option<W> {
        while let Some(&(at, of, _)) = self.waiting.front() {
            if at > index {
                return None;
            }
            let (_, _, waiter) = self.waiting.pop_front().expect("front was just seen");
            if at == index && of == term {
                return Some(waiter);
            }
            superseded(waiter);
        }
        None
    }

    /// Leadership is lost: takes every waiter whose entry is after `commit`. Those at or before it
    /// are committed and will be applied.
    pub fn leadership_lost(&mut self, commit: LogIndex) -> impl Iterator<Item = W> + '_ {
        let keep = self.waiting.partition_point(|&(index, _, _)| index <= commit);
        self.waiting.drain(keep..).map(|(_, _, waiter)| waiter)
    }

    /// Waiters in line.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(raw: u64) -> LogIndex {
        LogIndex::new(raw)
    }

    fn pending(waiters: &[(u64, u64)]) -> PendingProposals<u64> {
        let mut pending = PendingProposals::default();
        for &(at, term) in waiters {
            pending.register(index(at), Term::new(term), at);
        }
        pending
    }

    #[test]
    fn a_waiter_is_matched_by_term_and_index() {
        let mut pending = pending(&[(5, 2), (6, 2)]);
        let mut superseded = Vec::new();
        let found = pending.committed(index(5), Term::new(3), |w| superseded.push(w));
        assert_eq!((found, superseded), (None, vec![5]));
        assert_eq!(pending.committed(index(6), Term::new(2), |_| unreachable!()), Some(6));
        assert!(pending.is_empty());
    }

    #[test]
    fn an_entry_nobody_waits_for_disturbs_nobody() {
        let mut pending = pending(&[(5, 2)]);
        assert_eq!(pending.committed(index(4), Term::new(2), |_| unreachable!()), None);
        assert_eq!(pending.len(), 1);
    }

    #[test]
    fn losing_leadership_spares_the_committed() {
        let mut pending = pending(&[(5, 2), (6, 2), (7, 2)]);
        assert_eq!(pending.leadership_lost(index(5)).collect::<Vec<_>>(), [6, 7]);
        assert_eq!(pending.committed(index(5), Term::new(2), |_| unreachable!()), Some(5));
    }

    #[test]
    #[should_panic(expected = "registered after")]
    fn registering_out_of_order_is_a_bug() {
        pending(&[(5, 2), (5, 2)]);
    }

    #[test]
    fn a_waiter_leaves_once() {
        let mut pending = pending(&[(5, 2)]);
        assert_eq!(pending.committed(index(5), Term::new(2), |_| unreachable!()), Some(5));
        assert_eq!(pending.committed(index(5), Term::new(2), |_| unreachable!()), None);
    }

    #[test]
    fn everyone_before_a_committed_entry_was_superseded() {
        let mut pending = pending(&[(3, 1), (4, 1), (5, 1), (6, 2)]);
        let mut superseded = Vec::new();
        let found = pending.committed(index(6), Term::new(2), |w| superseded.push(w));
        assert_eq!((found, superseded), (Some(6), vec![3, 4, 5]));
    }

    #[test]
    fn a_waiter_of_a_later_term_is_superseded_by_an_earlier_one_at_its_index() {
        let mut pending = pending(&[(5, 7)]);
        let mut superseded = Vec::new();
        assert_eq!(pending.committed(index(5), Term::new(6), |w| superseded.push(w)), None);
        assert_eq!(superseded, [5]);
    }

    #[test]
    fn a_refused_entry_gives_back_its_own_waiter() {
        let mut pending = pending(&[(5, 2), (6, 2)]);
        assert_eq!(pending.unregister_last(), Some(6));
        assert_eq!(pending.len(), 1);
        pending.register(index(6), Term::new(2), 60);
        assert_eq!(pending.unregister_last(), Some(60));
    }

    #[test]
    fn nobody_waits_for_a_refused_entry_that_nobody_proposed() {
        assert_eq!(pending(&[]).unregister_last(), None);
    }

    #[test]
    fn losing_leadership_before_any_commit_takes_everyone() {
        let mut pending = pending(&[(5, 2), (6, 2)]);
        assert_eq!(pending.leadership_lost(LogIndex::ZERO).collect::<Vec<_>>(), [5, 6]);
        assert!(pending.is_empty());
    }

    #[test]
    fn losing_leadership_after_the_last_commit_takes_nobody() {
        let mut pending = pending(&[(5, 2), (6, 2)]);
        assert_eq!(pending.leadership_lost(index(6)).count(), 0);
        assert_eq!(pending.len(), 2);
    }

    #[test]
    fn a_place_that_was_lost_can_be_waited_for_again() {
        let mut pending = pending(&[(5, 2), (6, 2)]);
        assert_eq!(pending.leadership_lost(LogIndex::new(4)).collect::<Vec<_>>(), [5, 6]);
        pending.register(index(5), Term::new(4), 50);
        assert_eq!(pending.committed(index(5), Term::new(4), |_| unreachable!()), Some(50));
    }

    #[test]
    fn somebody_waits_until_the_last_has_left() {
        let mut pending = pending(&[(5, 2), (6, 2)]);
        assert!(!pending.is_empty());
        assert_eq!(pending.committed(index(5), Term::new(2), |_| unreachable!()), Some(5));
        assert!(!pending.is_empty());
        assert_eq!(pending.unregister_last(), Some(6));
        assert!(pending.is_empty());
    }
}
