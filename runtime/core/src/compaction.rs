//! When and how far a log is compacted.
//!
//! A log keeps what some replica lacks, what is not durably applied here, and a tail for replicas
//! that will lag: `compacted ≤ min(floor, durable applied) − kept entries` (RF-9). The floor is what
//! every replica has durably, as its leader says with every append and heartbeat.

use crate::ids::LogIndex;

/// What stays in a log for replicas that lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Entries kept after everyone has them.
    pub keep_entries: u64,
    /// Compact only when at least this many entries go at once.
    pub step_entries: u64,
}

/// The bounds of one log's compaction; both only grow.
#[derive(Debug)]
pub struct Compaction {
    retention: Retention,
    floor: LogIndex,
    durable_applied: LogIndex,
}

impl Compaction {
    /// Nothing is known of other replicas yet.
    pub fn new(retention: Retention, durable_applied: LogIndex) -> Self {
        Self { retention, floor: LogIndex::ZERO, durable_applied }
    }

    /// Every replica has everything up to `floor`.
    pub fn raise_floor(&mut self, floor: LogIndex) {
        self.floor = self.floor.max(floor);
    }

    /// The state of this replica is durable up to `index`.
    pub fn durable_applied(&mut self, index: LogIndex) {
        self.durable_applied = self.durable_applied.max(index);
    }

    /// The index to compact to, if enough would go. `last` is the end of this replica's log: a
    /// leader's floor may be ahead of what this replica knows.
    pub fn due(&self, compacted: LogIndex, last: LogIndex) -> Option<LogIndex> {
        let safe = self.floor.min(self.durable_applied).min(last);
        let target = LogIndex::new(safe.get().saturating_sub(self.retention.keep_entries));
        let gain = target.distance_from(compacted);
        (gain > 0 && gain >= self.retention.step_entries).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(floor: u64, durable: u64, compacted: u64) -> Option<u64> {
        let retention = Retention { keep_entries: 10, step_entries: 5 };
        let mut compaction = Compaction::new(retention, LogIndex::new(durable));
        compaction.raise_floor(LogIndex::new(floor));
        compaction.due(LogIndex::new(compacted), LogIndex::new(1_000)).map(LogIndex::get)
    }

    #[test]
    fn the_slowest_bound_decides() {
        assert_eq!(due(100, 50, 0), Some(40));
        assert_eq!(due(50, 100, 0), Some(40));
        assert_eq!(due(0, 100, 0), None);
    }

    #[test]
    fn small_steps_wait() {
        assert_eq!(due(100, 100, 86), None);
        assert_eq!(due(100, 100, 85), Some(90));
    }

    #[test]
    fn bounds_never_fall() {
        let mut compaction =
            Compaction::new(Retention { keep_entries: 0, step_entries: 1 }, LogIndex::ZERO);
        for index in [9, 3] {
            compaction.raise_floor(LogIndex::new(index));
            compaction.durable_applied(LogIndex::new(index));
        }
        assert_eq!(compaction.due(LogIndex::ZERO, LogIndex::new(20)), Some(LogIndex::new(9)));
    }
}
