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
    end_bytes: u64,
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
        let bytes: usize = entries.iter().map(charged_bytes).sum();
        Self {
            initial,
            compacted,
            term_runs: term_runs.into(),
            entries: entries.into(),
            bytes,
            end_bytes: bytes as u64,
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

    /// Bytes charged for all of the log that was ever in memory, less what was replaced.
    pub(crate) fn end_bytes(&self) -> u64 {
        self.end_bytes
    }

    /// The first index in memory; one after the last if there is none.
    pub fn tail_start(&self) -> LogIndex {
        LogIndex::new(self.last.get() + 1 - self.entries.len() as u64)
    }

    /// The entries behind `index`, all of which are in memory.
    pub(crate) fn entries_after(&self, index: LogIndex) -> impl Iterator<Item = &Entry> {
        let start = self.tail_start();
        assert!(index.next() >= start, "entries from {start} are in memory, not all after {index}");
        self.entries.range((index.get() + 1 - start.get()) as usize..)
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
            self.end_bytes += charged_bytes(entry) as u64;
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
            self.end_bytes -= charged_bytes(&entry) as u64;
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

pub(crate) fn charged_bytes(entry: &Entry) -> usize {
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
#[path = "log_tail_tests.rs"]
mod tests;
