//! Stage clock: how long a leader's batches take from stage to stage.
//!
//! ```text
//! submitted ─append left→ [at the disk] ─persisted→ [durable] ─committed→ (the waiters carry it on)
//! ```
//!
//! One moment per append and stage, not one per command. What a leader appended and did not see
//! committed, because it lost leadership, is forgotten.

use std::collections::VecDeque;
use std::time::Duration;

use polyraft_core::ids::{LogIndex, ReadyNumber};
use polyraft_core::time::Moment;

/// Appends whose stages are measured at a time. Beyond it the oldest is forgotten, not waited for.
const MEASURED_MAX: usize = 1_024;

/// When an append left for the disk, and since when it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Durable {
    pub left: Moment,
    pub since: Moment,
}

/// Where this leader's appends are, and since when.
#[derive(Debug, Default)]
pub(crate) struct StageClock {
    at_disk: VecDeque<(ReadyNumber, LogIndex, Moment)>,
    durable: VecDeque<(LogIndex, Durable)>,
}

impl StageClock {
    /// An append with entries up to `last` has left for the disk.
    pub(crate) fn left(&mut self, number: ReadyNumber, last: LogIndex, now: Moment) {
        if self.at_disk.len() < MEASURED_MAX {
            self.at_disk.push_back((number, last, now));
        }
    }

    /// Every append up to `upto` is durable: how long each has taken.
    pub(crate) fn persisted(&mut self, upto: ReadyNumber, now: Moment) -> Vec<Duration> {
        let count = self.at_disk.partition_point(|(number, ..)| *number <= upto);
        let mut took = Vec::with_capacity(count);
        for (_, last, left) in self.at_disk.drain(..count) {
            took.push(now.since(left));
            self.durable.push_back((last, Durable { left, since: now }));
        }
        let surplus = self.durable.len().saturating_sub(MEASURED_MAX);
        self.durable.drain(..surplus);
        took
    }

    /// The entry at `index` is committed: since when it is durable here, if this leader appended it.
    /// Indexes ascend.
    pub(crate) fn committed(&mut self, index: LogIndex) -> Option<Durable> {
        while self.durable.front().is_some_and(|(last, _)| *last < index) {
            self.durable.pop_front();
        }
        self.durable.front().map(|(_, durable)| *durable)
    }

    /// This replica does not lead any more.
    pub(crate) fn forget(&mut self) {
        self.at_disk.clear();
        self.durable.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::new(Duration::from_millis(ms))
    }

    fn number(n: u64) -> ReadyNumber {
        (0..n).fold(ReadyNumber::default(), |number, _| number.next())
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn each_append_is_measured_from_stage_to_stage() {
        let mut clock = StageClock::default();
        clock.left(number(1), LogIndex::new(5), at(10));
        clock.left(number(2), LogIndex::new(6), at(20));
        assert_eq!(clock.persisted(number(2), at(50)), [ms(40), ms(30)]);
        let durable = |left| Some(Durable { left: at(left), since: at(50) });
        assert_eq!(clock.committed(LogIndex::new(5)), durable(10));
        assert_eq!(clock.committed(LogIndex::new(6)), durable(20));
        assert_eq!(clock.committed(LogIndex::new(7)), None);
    }

    #[test]
    fn what_a_lost_leadership_leaves_is_forgotten() {
        let mut clock = StageClock::default();
        clock.left(number(1), LogIndex::new(5), at(0));
        clock.left(number(2), LogIndex::new(6), at(0));
        assert_eq!(clock.persisted(number(1), at(1)), [ms(1)]);
        clock.forget();
        assert_eq!(clock.persisted(number(2), at(2)), []);
        assert_eq!(clock.committed(LogIndex::new(5)), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut clock = StageClock::default();
        for n in 1..=2 * MEASURED_MAX as u64 {
            clock.left(number(n), LogIndex::new(n), at(0));
            assert_eq!(clock.persisted(number(n), at(0)).len(), 1);
        }
        assert_eq!(clock.durable.len(), MEASURED_MAX);
    }
}
