//! The log writer's progress, readable by anyone at any time: a beat and a status page must not wait
//! for a thread that is blocked in a sync (RT-7, RL-6).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use polyraft_core::time::Moment;

/// Written by the log writer, read without a lock. Each figure is exact, but two of them read one
/// after the other may be of different commits.
#[derive(Debug, Default)]
pub struct LogWriterProgress {
    queued: AtomicU64,
    commits: AtomicU64,
    durable_commits: AtomicU64,
    last_commit_us: AtomicU64,
    /// Microseconds of the node's clock plus one; 0 while no commit or collection is in progress.
    commit_since: AtomicU64,
    full: AtomicBool,
    poisoned: AtomicBool,
}

impl LogWriterProgress {
    /// Appends that the writer has taken from its mailbox and not yet made durable.
    pub fn queued(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    /// Commits tried since the start, successful or not.
    pub fn commits(&self) -> u64 {
        self.commits.load(Relaxed)
    }

    /// Commits since the start that became durable.
    pub fn durable_commits(&self) -> u64 {
        self.durable_commits.load(Relaxed)
    }

    pub(crate) fn commit_is_durable(&self) {
        self.durable_commits.fetch_add(1, Relaxed);
    }

    /// How long the last commit took.
    pub fn last_commit(&self) -> Duration {
        Duration::from_micros(self.last_commit_us.load(Relaxed))
    }

    /// How long the commit, or the piece of garbage collection, in progress has been going on at `now`,
    /// a reading of the node's clock; `None` between them.
    pub fn in_commit_for(&self, now: Moment) -> Option<Duration> {
        let since = self.commit_since.load(Relaxed).checked_sub(1)?;
        Some(now.since(Moment::new(Duration::from_micros(since))))
    }

    /// Whether the disk is full: nothing is acknowledged until it is not.
    pub fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// Whether the store failed: nothing is acknowledged ever again.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Relaxed)
    }

    pub(crate) fn commit_started(&self, now: Moment, queued: usize) {
        self.queued.store(queued as u64, Relaxed);
        self.write_started(now);
    }

    /// Returns how long the commit took.
    pub(crate) fn commit_ended(&self, now: Moment, queued: usize) -> Duration {
        let took = self.in_commit_for(now).unwrap_or_default();
        self.last_commit_us.store(took.as_micros() as u64, Relaxed);
        self.write_ended();
        self.commits.fetch_add(1, Relaxed);
        self.queued.store(queued as u64, Relaxed);
        took
    }

    /// Of a piece of garbage collection too: it waits for the same disk, and holds up the commits behind it.
    pub(crate) fn write_started(&self, now: Moment) {
        self.commit_since.store(now.since_start().as_micros() as u64 + 1, Relaxed);
    }

    pub(crate) fn write_ended(&self) {
        self.commit_since.store(0, Relaxed);
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Relaxed);
    }

    pub(crate) fn set_poisoned(&self) {
        self.poisoned.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_seen_while_it_lasts() {
        let progress = LogWriterProgress::default();
        let ms = Duration::from_millis;
        let at = |n| Moment::new(ms(n));
        assert_eq!(progress.in_commit_for(at(5)), None);
        progress.commit_started(Moment::START, 3);
        assert_eq!(progress.in_commit_for(at(700)), Some(ms(700)));
        assert_eq!(progress.queued(), 3);
        assert_eq!(progress.commit_ended(at(900), 1), ms(900));
        assert_eq!((progress.in_commit_for(at(901)), progress.queued()), (None, 1));
        assert_eq!((progress.last_commit(), progress.commits()), (ms(900), 1));
    }
}
