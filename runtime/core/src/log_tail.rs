//! The log tail: what raft-rs reads of the log, from memory.
//!
//! ```text
//! index:   1 … compacted │ … on disk only … │ tail_start … last
//! term:                  └──── term runs, in memory ─────────┘
//! data:                                      └── in memory ──┘
//! ```
//!
//! Promise: everything after the applied index is in memory, so that raft-rs never meets an entry
//! that it cannot have at once; entries before it may be fetched, asynchronously, for a slow
//! follower. Terms of all live entries are known, run-length encoded.
//! Not here: durability (`polyraft-storage`), what to compact (`compaction`).
//! Source: raft-rs `Storage`, `GetEntriesContext`.

use std::cell::RefCell;
use std::collections::VecDeque;

use raft::eraftpb::{Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::entry::{CompactionPoint, ENTRY_OVERHEAD_BYTES};
use crate::ids::{LogIndex, Term};

/// A read of durable entries that raft-rs waits for, to be handed to a [`crate::ports::LogReader`].
#[derive(Debug)]
pub struct Fetch {
    /// First index wanted.
    pub from: LogIndex,
    /// First index not wanted.
    pub to: LogIndex,
    /// Stop before exceeding this many bytes, but not before the first entry.
    pub bytes_max: usize,
    pub(crate) context: GetEntriesContext,
}

/// The in-memory part of one group's log.
pub struct LogTail {
    initial: RaftState,
    compacted: CompactionPoint,
    term_runs: VecDeque<(LogIndex, Term)>,
    entries: VecDeque<Entry>,
    bytes: usize,
    last: LogIndex,
    fetched: Vec<Entry>,
    fetches: RefCell<Vec<Fetch>>,
    fetching: RefCell<Vec<LogIndex>>,
}

impl LogTail {
    /// A tail over a log that ends at `last`; `entries` are its end, `term_runs` cover it whole.
    pub(crate) fn new(
        initial: RaftState,
        compacted: CompactionPoint,
        term_runs: Vec<(LogIndex, Term)>,
        last: LogIndex,
        entries: Vec<Entry>,
    ) -> Self {
        if let Some(end) = entries.last() {
            assert_eq!(end.index, last.get(), "restored entries end before the log does");
        }
        let bytes = entries.iter().map(charged_bytes).sum();
        Self {
            initial,
            compacted,
            term_runs: term_runs.into(),
            entries: entries.into(),
            bytes,
            last,
            fetched: Vec::new(),
            fetches: RefCell::new(Vec::new()),
            fetching: RefCell::new(Vec::new()),
        }
    }

    /// The last entry compacted away.
    pub fn compacted(&self) -> CompactionPoint {
        self.compacted
    }

    /// The last index; `compacted` for an empty log.
    pub fn last(&self) -> LogIndex {
        self.last
    }

    /// Bytes charged for the entries in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first index in memory; one after the last if there is none.
    pub fn tail_start(&self) -> LogIndex {
        LogIndex::new(self.last.get() + 1 - self.entries.len() as u64)
    }

    /// Replaces the log from the first entry's index on.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first().map(|e| LogIndex::new(e.index)) else { return };
        assert!(
            first > self.compacted.index && first <= self.last.next(),
            "append at {first} leaves a gap or rewrites history: log is ({}, {}]",
            self.compacted.index,
            self.last
        );
        self.truncate(first);
        for entry in entries {
            let (index, term) = (LogIndex::new(entry.index), Term::new(entry.term));
            assert_eq!(index, self.last.next(), "entries are not contiguous");
            if self.term_runs.back().is_none_or(|&(_, last_term)| last_term != term) {
                self.term_runs.push_back((index, term));
            }
            self.bytes += charged_bytes(entry);
            self.entries.push_back(entry.clone());
            self.last = index;
        }
    }

    fn truncate(&mut self, from: LogIndex) {
        assert!(
            from >= self.tail_start() || self.entries.is_empty(),
            "truncation at {from} reaches below the tail, which starts at {}",
            self.tail_start()
        );
        while self.last >= from {
            let Some(entry) = self.entries.pop_back() else { break };
            self.bytes -= charged_bytes(&entry);
            self.last = self.last.prev();
        }
        while self.term_runs.back().is_some_and(|&(start, _)| start >= from) {
            self.term_runs.pop_back();
        }
    }

    /// Drops entries from memory, oldest first, while more than `bytes_max` are held; never any
    /// after `keep_after`, which must not exceed what is applied and durable.
    pub(crate) fn evict(&mut self, bytes_max: usize, keep_after: LogIndex) {
        while self.bytes > bytes_max {
            match self.entries.front() {
                Some(entry) if entry.index <= keep_after.get() => {
                    self.bytes -= charged_bytes(entry);
                    self.entries.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Forgets everything up to and including `index`, and returns the new compaction point.
    pub(crate) fn compact(&mut self, index: LogIndex) -> CompactionPoint {
        assert!(
            index > self.compacted.index && index <= self.last,
            "compaction to {index} outside ({}, {}]",
            self.compacted.index,
            self.last
        );
        let term = self.term_at(index).expect("a live index has a term");
        while self.entries.front().is_some_and(|e| e.index <= index.get()) {
            let entry = self.entries.pop_front().expect("front was just seen");
            self.bytes -= charged_bytes(&entry);
        }
        while self.term_runs.get(1).is_some_and(|&(start, _)| start <= index.next()) {
            self.term_runs.pop_front();
        }
        self.fetching.borrow_mut().retain(|from| *from > index); // Those reads fail.
        self.compacted = CompactionPoint { index, term };
        self.compacted
    }

    /// The term of a live entry or of the compaction point.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index < self.compacted.index || index > self.last {
            return None;
        }
        let after = self.term_runs.partition_point(|&(start, _)| start <= index);
        after.checked_sub(1).map(|run| self.term_runs[run].1)
    }

    /// Takes the reads that raft-rs asked for since the last call.
    pub(crate) fn take_fetches(&mut self) -> Vec<Fetch> {
        self.fetches.take()
    }

    /// The read that started at `from` ended, with entries or without: it may be asked for again.
    pub(crate) fn fetch_ended(&mut self, from: LogIndex) {
        self.fetching.borrow_mut().retain(|started| *started != from);
    }

    /// Holds fetched entries for the one retry that raft-rs makes while `with` runs.
    pub(crate) fn set_fetched(&mut self, entries: Vec<Entry>) {
        self.fetched = entries;
    }

    fn fetched_slice(&self, low: u64, high: u64, bytes_max: u64) -> Option<Vec<Entry>> {
        let first = self.fetched.first()?.index;
        let offset = usize::try_from(low.checked_sub(first)?).ok()?;
        let entries = self.fetched.get(offset..).filter(|rest| !rest.is_empty())?;
        let wanted = entries.iter().take_while(|e| e.index < high);
        Some(limited(wanted, bytes_max))
    }
}

fn charged_bytes(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

fn limited<'a>(entries: impl Iterator<Item = &'a Entry>, bytes_max: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for entry in entries {
        bytes += charged_bytes(entry) as u64;
        if bytes > bytes_max && !taken.is_empty() {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

impl Storage for LogTail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.index.get() {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last.get() + 1, "entries [{low}, {high}) end after {}", self.last);
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let tail_start = self.tail_start().get();
        if low >= tail_start {
            let from = usize::try_from(low - tail_start).expect("the tail fits in memory");
            let to = usize::try_from(high - tail_start).expect("the tail fits in memory");
            return Ok(limited(self.entries.range(from..to), bytes_max));
        }
        if let Some(entries) = self.fetched_slice(low, high, bytes_max) {
            return Ok(entries);
        }
        assert!(
            context.can_async(),
            "raft-rs needs [{low}, {high}) now; memory has {tail_start}.."
        );
        // raft-rs asks again at every response of the follower. One read is enough: more would pile
        // up, and each answer would come for a range that nobody wants any more.
        let from = LogIndex::new(low);
        if self.fetching.borrow().contains(&from) {
            return Err(StorageError::LogTemporarilyUnavailable.into());
        }
        self.fetching.borrow_mut().push(from);
        self.fetches.borrow_mut().push(Fetch {
            from,
            to: LogIndex::new(high.min(tail_start)),
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            context,
        });
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let index = LogIndex::new(index);
        if index < self.compacted.index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index).map(Term::get).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.index.get() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.get())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // Compaction stays at or below what every replica has, so no follower needs one.
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry { index, term, data: vec![7; bytes].into(), ..Entry::default() }
    }

    fn tail(entries: &[Entry]) -> LogTail {
        let mut tail = LogTail::new(
            RaftState::default(),
            CompactionPoint::default(),
            Vec::new(),
            LogIndex::ZERO,
            Vec::new(),
        );
        tail.append(entries);
        tail
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|e| e.index).collect()
    }

    #[test]
    fn conflicting_suffix_is_replaced_with_its_terms() {
        let mut tail = tail(&[entry(1, 1, 0), entry(2, 1, 0), entry(3, 2, 0), entry(4, 2, 0)]);
        tail.append(&[entry(3, 5, 0)]);
        assert_eq!(tail.last(), LogIndex::new(3));
        let terms: Vec<_> =
            (0..=4).map(|i| tail.term_at(LogIndex::new(i)).map(Term::get)).collect();
        assert_eq!(terms, [Some(0), Some(1), Some(1), Some(5), None]);
    }

    #[test]
    fn bytes_are_limited_but_never_below_one_entry() {
        let tail = tail(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
        let read = |max| {
            indexes(
                &tail.entries(1, 4, Some(max), GetEntriesContext::empty(false)).expect("in memory"),
            )
        };
        assert_eq!(read(1), [1]);
        assert_eq!(read(2 * 132), [1, 2]);
        assert_eq!(read(u64::MAX), [1, 2, 3]);
    }

    #[test]
    fn evicted_entries_are_fetched_once_and_served_from_the_fetch() {
        let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
        tail.evict(0, LogIndex::new(2));
        assert_eq!(tail.tail_start(), LogIndex::new(3));
        let asked = tail.entries(1, 4, None, GetEntriesContext::empty(true));
        assert!(matches!(asked, Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable))));
        let fetch = tail.take_fetches().pop().expect("one fetch");
        assert_eq!((fetch.from.get(), fetch.to.get()), (1, 3));
        let again = tail.entries(1, 4, None, GetEntriesContext::empty(true));
        assert!(again.is_err() && tail.take_fetches().is_empty(), "one read is under way");
        tail.fetch_ended(fetch.from);
        tail.set_fetched(vec![entry(1, 1, 100), entry(2, 1, 100)]);
        let got = tail.entries(2, 4, None, GetEntriesContext::empty(true)).expect("fetched");
        assert_eq!(indexes(&got), [2]);
    }

    #[test]
    fn eviction_keeps_what_is_not_applied() {
        let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
        tail.evict(0, LogIndex::new(1));
        assert_eq!(tail.tail_start(), LogIndex::new(2));
        assert_eq!(tail.bytes(), 2 * 132);
    }

    #[test]
    fn compaction_keeps_the_term_at_its_point() {
        let mut tail = tail(&[entry(1, 1, 0), entry(2, 1, 0), entry(3, 2, 0), entry(4, 2, 0)]);
        let point = tail.compact(LogIndex::new(2));
        assert_eq!(point, CompactionPoint { index: LogIndex::new(2), term: Term::new(1) });
        assert_eq!(tail.term_at(LogIndex::new(1)), None);
        assert_eq!(tail.term_at(LogIndex::new(2)), Some(Term::new(1)));
        assert_eq!(tail.term_at(LogIndex::new(3)), Some(Term::new(2)));
        let compacted = tail.entries(2, 4, None, GetEntriesContext::empty(false));
        assert!(matches!(compacted, Err(raft::Error::Store(StorageError::Compacted))));
        assert_eq!(tail.first_index().expect("known"), 3);
    }

    #[test]
    #[should_panic(expected = "leaves a gap")]
    fn a_gap_is_a_bug() {
        tail(&[entry(1, 1, 0)]).append(&[entry(3, 1, 0)]);
    }
}
