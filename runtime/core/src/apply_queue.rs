//! The apply queue: committed entries on their way to the applier, in order, bounded.
//!
//! ```text
//! committed → [queued] ─hand→ [in flight at the applier] ─applied→ gone
//!                 └─ conf entry: waits until everything before it is applied
//! ```
//!
//! Promise: entries are handed over in index order without a gap; a conf entry is a barrier on both
//! sides (AP-7); bytes in flight are capped, and the backlog is what pushes back on proposals (AP-2).

use std::collections::VecDeque;

use raft::eraftpb::{Entry, EntryType};

use crate::entry::ENTRY_OVERHEAD_BYTES;
use crate::ids::LogIndex;

/// Committed entries of one group between commit and apply.
#[derive(Debug)]
pub struct ApplyQueue {
    queued: VecDeque<Entry>,
    in_flight: VecDeque<(LogIndex, usize)>,
    backlog_bytes: usize,
    in_flight_bytes: usize,
    in_flight_bytes_max: usize,
    last: LogIndex,
    applied: LogIndex,
    configured: LogIndex,
}

/// What to do with the next committed entry.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Hand it to the applier.
    Hand(Entry),
    /// Let it change the configuration; it is handed over by a later call.
    Configure(Entry),
}

impl ApplyQueue {
    /// A queue behind an applier that has applied everything up to `applied`.
    pub fn new(applied: LogIndex, in_flight_bytes_max: usize) -> Self {
        Self {
            queued: VecDeque::new(),
            in_flight: VecDeque::new(),
            backlog_bytes: 0,
            in_flight_bytes: 0,
            in_flight_bytes_max,
            last: applied,
            applied,
            configured: applied,
        }
    }

    /// Adds committed entries, in order.
    pub fn push(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            assert_eq!(entry.index, self.last.next().get(), "committed entries have a gap");
            self.last = self.last.next();
            self.backlog_bytes += charged_bytes(&entry);
            self.queued.push_back(entry);
        }
    }

    /// The next entry whose turn it is, if any.
    pub fn take_next(&mut self) -> Option<Next> {
        let front = self.queued.front()?;
        let is_conf = front.get_entry_type() != EntryType::EntryNormal;
        let barred = is_conf && self.applied.next().get() != front.index;
        if barred || self.in_flight_bytes >= self.in_flight_bytes_max {
            return None;
        }
        if is_conf && self.configured.get() < front.index {
            self.configured = LogIndex::new(front.index);
            return Some(Next::Configure(front.clone()));
        }
        let entry = self.queued.pop_front().expect("front was just seen");
        let bytes = charged_bytes(&entry);
        self.in_flight_bytes += bytes;
        self.in_flight.push_back((LogIndex::new(entry.index), bytes));
        Some(Next::Hand(entry))
    }

    /// The applier has applied everything up to `index`.
    pub fn on_applied(&mut self, index: LogIndex) {
        assert!(index >= self.applied, "applied fell from {} to {index}", self.applied);
        self.applied = index;
        while let Some(&(at, bytes)) = self.in_flight.front() {
            if at > index {
                break;
            }
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
            self.backlog_bytes -= bytes;
        }
    }

    /// The last applied index.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Bytes committed and not yet applied.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }
}

fn charged_bytes(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, kind: EntryType) -> Entry {
        let mut entry = Entry { index, ..Entry::default() };
        entry.set_entry_type(kind);
        entry
    }

    fn normal(index: u64) -> Entry {
        entry(index, EntryType::EntryNormal)
    }

    fn conf(index: u64) -> Entry {
        entry(index, EntryType::EntryConfChangeV2)
    }

    #[test]
    fn a_conf_entry_is_a_barrier() {
        let mut queue = ApplyQueue::new(LogIndex::ZERO, usize::MAX);
        queue.push(vec![normal(1), conf(2), normal(3)]);
        assert_eq!(queue.take_next(), Some(Next::Hand(normal(1))));
        assert_eq!(queue.take_next(), None);
        queue.on_applied(LogIndex::new(1));
        assert_eq!(queue.take_next(), Some(Next::Configure(conf(2))));
        assert_eq!(queue.take_next(), Some(Next::Hand(conf(2))));
        assert_eq!(queue.take_next(), Some(Next::Hand(normal(3))));
    }

    #[test]
    fn bytes_in_flight_are_capped() {
        let mut queue = ApplyQueue::new(LogIndex::ZERO, 2 * ENTRY_OVERHEAD_BYTES);
        queue.push(vec![normal(1), normal(2), normal(3)]);
        assert!(queue.take_next().is_some() && queue.take_next().is_some());
        assert_eq!(queue.take_next(), None);
        assert_eq!(queue.backlog_bytes(), 3 * ENTRY_OVERHEAD_BYTES);
        queue.on_applied(LogIndex::new(1));
        assert_eq!(queue.take_next(), Some(Next::Hand(normal(3))));
        assert_eq!(queue.backlog_bytes(), 2 * ENTRY_OVERHEAD_BYTES);
    }

    #[test]
    #[should_panic(expected = "have a gap")]
    fn a_gap_is_a_bug() {
        ApplyQueue::new(LogIndex::ZERO, 1).push(vec![normal(2)]);
    }

    #[test]
    fn nothing_is_next_in_an_empty_queue() {
        assert_eq!(ApplyQueue::new(LogIndex::new(4), 1).take_next(), None);
    }

    #[test]
    fn a_queue_goes_on_after_what_was_applied_before() {
        let mut queue = ApplyQueue::new(LogIndex::new(4), usize::MAX);
        queue.push(vec![normal(5)]);
        assert_eq!(queue.take_next(), Some(Next::Hand(normal(5))));
        assert_eq!(queue.applied(), LogIndex::new(4));
    }

    #[test]
    fn nothing_passes_a_conf_entry_that_waits() {
        let mut queue = ApplyQueue::new(LogIndex::ZERO, usize::MAX);
        queue.push(vec![normal(1), conf(2), normal(3)]);
        assert_eq!(queue.take_next(), Some(Next::Hand(normal(1))));
        assert_eq!([queue.take_next(), queue.take_next()], [None, None]);
    }

    #[test]
    fn a_conf_entry_at_the_front_configures_at_once() {
        let mut queue = ApplyQueue::new(LogIndex::new(8), usize::MAX);
        queue.push(vec![conf(9)]);
        assert_eq!(queue.take_next(), Some(Next::Configure(conf(9))));
    }

    #[test]
    fn two_conf_entries_take_effect_one_after_the_other() {
        let mut queue = ApplyQueue::new(LogIndex::ZERO, usize::MAX);
        queue.push(vec![conf(1), conf(2)]);
        assert_eq!(queue.take_next(), Some(Next::Configure(conf(1))));
        assert_eq!(queue.take_next(), Some(Next::Hand(conf(1))));
        assert_eq!(queue.take_next(), None, "the first is not applied");
        queue.on_applied(LogIndex::new(1));
        assert_eq!(queue.take_next(), Some(Next::Configure(conf(2))));
    }

    #[test]
    fn an_old_conf_entry_is_a_barrier_too() {
        let old = || entry(2, EntryType::EntryConfChange);
        let mut queue = ApplyQueue::new(LogIndex::ZERO, usize::MAX);
        queue.push(vec![normal(1), old()]);
        assert!(queue.take_next().is_some());
        assert_eq!(queue.take_next(), None);
    }

    #[test]
    fn an_entry_above_the_credit_goes_alone() {
        let mut queue = ApplyQueue::new(LogIndex::ZERO, 1);
        queue.push(vec![normal(1), normal(2)]);
        assert_eq!(queue.take_next(), Some(Next::Hand(normal(1))));
        assert_eq!(queue.take_next(), None);
        queue.on_applied(LogIndex::new(1));
        assert_eq!(queue.take_next(), Some(Next::Hand(normal(2))));
    }

    #[test]
    fn a_backlog_shrinks_with_what_is_applied_and_not_with_what_is_handed_over() {
        let mut queue = ApplyQueue::new(LogIndex::ZERO, usize::MAX);
        queue.push(vec![normal(1), normal(2), normal(3)]);
        assert!(queue.take_next().is_some() && queue.take_next().is_some());
        assert_eq!(queue.backlog_bytes(), 3 * ENTRY_OVERHEAD_BYTES);
        queue.on_applied(LogIndex::new(2));
        assert_eq!(
            (queue.backlog_bytes(), queue.applied()),
            (ENTRY_OVERHEAD_BYTES, LogIndex::new(2))
        );
    }

    #[test]
    fn being_told_twice_frees_nothing_twice() {
        let mut queue = ApplyQueue::new(LogIndex::ZERO, usize::MAX);
        queue.push(vec![normal(1), normal(2)]);
        assert!(queue.take_next().is_some() && queue.take_next().is_some());
        queue.on_applied(LogIndex::new(1));
        queue.on_applied(LogIndex::new(1));
        assert_eq!(queue.backlog_bytes(), ENTRY_OVERHEAD_BYTES);
    }

    #[test]
    #[should_panic(expected = "applied fell")]
    fn what_is_applied_never_falls() {
        let mut queue = ApplyQueue::new(LogIndex::new(5), 1);
        queue.on_applied(LogIndex::new(4));
    }

    #[test]
    #[should_panic(expected = "have a gap")]
    fn an_entry_is_committed_once() {
        let mut queue = ApplyQueue::new(LogIndex::ZERO, 1);
        queue.push(vec![normal(1)]);
        queue.push(vec![normal(1)]);
    }

    #[test]
    fn data_is_charged_in_backlog_and_in_flight() {
        let large = Entry { data: vec![0; 100].into(), ..normal(1) };
        let mut queue = ApplyQueue::new(LogIndex::ZERO, 100 + ENTRY_OVERHEAD_BYTES);
        queue.push(vec![large.clone(), normal(2)]);
        assert_eq!(queue.backlog_bytes(), 100 + 2 * ENTRY_OVERHEAD_BYTES);
        assert_eq!(queue.take_next(), Some(Next::Hand(large)));
        assert_eq!(queue.take_next(), None, "the first takes all of the credit");
    }
}
