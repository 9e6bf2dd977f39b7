//! When and how far a log is compacted.
//!
//! ```text
//! index:  compacted … target │ … catch-up tail … safe │ … needed … last
//! ```
//!
//! A log keeps what some replica lacks and what is not durably applied here: everything after `safe`.
//! Before it, it keeps a tail for replicas that will lag, of at most `keep_entries` entries, and only
//! while the log as a whole has at most `keep_bytes` (RF-9). The floor is what every replica has
//! durably, as its leader says with every append and heartbeat.
//!
//! Bytes are known for what this life has appended or restored into memory; entries that were applied
//! before the start count as nothing, so a log may exceed its bytes by one earlier tail until those
//! entries are gone. They are marked a sixteenth of the cap apart: what is kept may fall short of the
//! cap by so much and one entry.

use std::collections::VecDeque;

use crate::ids::LogIndex;

/// What stays in a log for replicas that lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Entries kept after everyone has them.
    pub keep_entries: u64,
    /// Charged bytes of a log beyond which fewer entries are kept than that.
    pub keep_bytes: u64,
    /// Compact only when at least this many entries go at once, or the bytes are exceeded.
    pub step_entries: u64,
}

/// Marks per cap: what a mark costs against how closely the cap is used.
const MARKS_PER_CAP: u64 = 16;

/// The bounds of one log's compaction; both only grow.
#[derive(Debug)]
pub struct Compaction {
    retention: Retention,
    floor: LogIndex,
    durable_applied: LogIndex,
    /// Indexes, ascending, with the bytes of the log up to and including each.
    marks: VecDeque<(LogIndex, u64)>,
    /// The bytes up to the last mark that was compacted away.
    start_bytes: u64,
    /// The bytes up to the end of the log.
    end_bytes: u64,
}

impl Compaction {
    /// Nothing is known of other replicas yet.
    pub fn new(retention: Retention, durable_applied: LogIndex) -> Self {
        Self {
            retention,
            floor: LogIndex::ZERO,
            durable_applied,
            marks: VecDeque::new(),
            start_bytes: 0,
            end_bytes: 0,
        }
    }

    /// Every replica has everything up to `floor`.
    pub fn raise_floor(&mut self, floor: LogIndex) {
        self.floor = self.floor.max(floor);
    }

    /// The state of this replica is durable up to `index`.
    pub fn durable_applied(&mut self, index: LogIndex) {
        self.durable_applied = self.durable_applied.max(index);
    }

    /// The log was replaced from `first` on and ends at `last` now; `end_bytes` were charged for all
    /// that this life has seen of it, compacted entries included, replaced ones not.
    pub fn log_changed(&mut self, first: LogIndex, last: LogIndex, end_bytes: u64) {
        while self.marks.back().is_some_and(|&(at, _)| at >= first) {
            self.marks.pop_back();
        }
        self.end_bytes = end_bytes;
        let marked = self.marks.back().map_or(self.start_bytes, |&(_, bytes)| bytes);
        if (end_bytes - marked) * MARKS_PER_CAP >= self.retention.keep_bytes {
            self.marks.push_back((last, end_bytes));
        }
    }

    /// The index to compact to, if enough would go. `last` is the end of this replica's log: a
    /// leader's floor may be ahead of what this replica knows.
    pub fn due(&mut self, compacted: LogIndex, last: LogIndex) -> Option<LogIndex> {
        let safe = self.floor.min(self.durable_applied).min(last);
        let by_entries = LogIndex::new(safe.get().saturating_sub(self.retention.keep_entries));
        let gain = by_entries.distance_from(compacted);
        let by_entries = (gain > 0 && gain >= self.retention.step_entries).then_some(by_entries);
        let by_bytes = self.first_mark_to_keep(safe).filter(|mark| *mark > compacted);
        let target = by_entries.max(by_bytes)?;
        while let Some(&(_, bytes)) = self.marks.front().filter(|(at, _)| *at <= target) {
            self.marks.pop_front();
            self.start_bytes = bytes;
        }
        Some(target)
    }

    /// If the log has more bytes than may be kept: the first mark behind which it has not, or the
    /// last one up to `safe`.
    fn first_mark_to_keep(&self, safe: LogIndex) -> Option<LogIndex> {
        let mut bytes_before = self.start_bytes;
        let exceeding = self.marks.iter().take_while(|&&(at, bytes)| {
            let exceeds = self.end_bytes - bytes_before > self.retention.keep_bytes;
            bytes_before = bytes;
            at <= safe && exceeds
        });
        exceeding.last().map(|&(at, _)| at)
    }
}

#[cfg(test)]
#[path = "compaction_tests.rs"]
mod tests;
