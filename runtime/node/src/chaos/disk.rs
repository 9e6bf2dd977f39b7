//! Disk faults: commits of the log and of the state that are slow, stand still, fail or find no room.
//!
//! ```text
//! log writer ───commit→ FaultyLog ──(delay, stall, eio, full)→ journal
//! state flusher ─flush→ FaultyState ─(the same)──────────────→ state store
//! ```
//!
//! Both stores' threads are meant to block, so that is what a slow disk does here. Promise: a wait ends
//! with its fault; after a failed commit the store fails for good, as the ports ask (ST-12).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use polyraft_actors::log_writer::StoreKind;
use polyraft_core::entry::CompactionPoint;
use polyraft_core::ids::{GroupId, LogIndex};
use polyraft_core::ports::{
    CommitStats, GroupAppend, GroupIdentity, GroupState, LogReader, LogStats, LogStore,
    RestoredLog, StateFlush, StateStore, StorageError,
};

use super::fault::{DiskError, DiskFault, Store};
use super::in_force::InForce;

/// One disk fault in force.
#[derive(Debug)]
pub(super) struct ActiveDisk {
    fault: DiskFault,
    ended: Mutex<bool>,
    changed: Condvar,
    pub(super) delayed: AtomicU64,
    pub(super) stalled: AtomicU64,
    pub(super) stalled_us: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl ActiveDisk {
    pub(super) fn new(fault: DiskFault) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            fault,
            ended: Mutex::new(false),
            changed: Condvar::new(),
            delayed: zero(),
            stalled: zero(),
            stalled_us: zero(),
            failed: zero(),
            refused: zero(),
        }
    }

    fn concerns(&self, store: StoreKind) -> bool {
        match self.fault.store {
            Store::Log => store == StoreKind::Log,
            Store::State => store == StoreKind::State,
            Store::Both => true,
        }
    }

    /// Whoever waits for it goes on.
    fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_ended(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until the fault is ended, for at most `longest`.
    fn wait(&self, longest: Duration) {
        let began = Instant::now();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(ended, longest, |ended| !*ended));
        self.stalled_us.fetch_add(began.elapsed().as_micros() as u64, Relaxed);
    }

    /// What a commit goes through before it reaches the store.
    fn before_commit(&self) -> Result<(), StorageError> {
        if !self.fault.delay.is_zero() {
            self.delayed.fetch_add(1, Relaxed);
            self.wait(self.fault.delay);
        }
        if self.fault.stall {
            self.stalled.fetch_add(1, Relaxed);
            self.wait(Duration::MAX);
        }
        if self.is_ended() {
            return Ok(());
        }
        if self.fault.error == Some(DiskError::Eio) {
            self.failed.fetch_add(1, Relaxed);
            let source = Box::new(std::io::Error::other("EIO, injected"));
            return Err(StorageError::Io { doing: "committing", source });
        }
        if self.fault.full {
            self.refused.fetch_add(1, Relaxed);
            return Err(StorageError::Full { what: "the disk, as was injected".to_owned() });
        }
        Ok(())
    }
}

/// The faults of both stores of a node.
#[derive(Debug, Default)]
pub(super) struct DiskFaults {
    in_force: InForce<ActiveDisk>,
    log_failed: AtomicBool,
    state_failed: AtomicBool,
}

impl DiskFaults {
    pub(super) fn add(&self, fault: Arc<ActiveDisk>) {
        self.in_force.add(fault);
    }

    pub(super) fn end(&self, fault: &Arc<ActiveDisk>) {
        self.in_force.remove(fault);
        fault.end();
    }

    fn before_commit(&self, store: StoreKind) -> Result<(), StorageError> {
        let failed = match store {
            StoreKind::Log => &self.log_failed,
            StoreKind::State => &self.state_failed,
        };
        if failed.load(SeqCst) {
            return Err(StorageError::Poisoned);
        }
        for fault in self.in_force.those(|fault| fault.concerns(store)) {
            fault.before_commit().inspect_err(|error| {
                failed.fetch_or(!matches!(error, StorageError::Full { .. }), SeqCst);
            })?;
        }
        Ok(())
    }
}

/// A journal under faults.
pub(super) struct FaultyLog {
    pub(super) inner: Box<dyn LogStore>,
    pub(super) faults: Arc<DiskFaults>,
}

impl LogStore for FaultyLog {
    fn commit(&mut self, appends: &[GroupAppend]) -> Result<CommitStats, StorageError> {
        let started = Instant::now();
        self.faults.before_commit(StoreKind::Log)?;
        let waited = started.elapsed();
        let stats = self.inner.commit(appends)?;
        // A slow disk is one whose syncs are slow.
        Ok(CommitStats { sync: stats.sync + waited, ..stats })
    }

    fn compact(&mut self, points: &[(GroupId, CompactionPoint)]) -> Result<(), StorageError> {
        self.faults.before_commit(StoreKind::Log)?;
        self.inner.compact(points)
    }

    fn restore(&self, group: GroupId, applied: LogIndex) -> Result<RestoredLog, StorageError> {
        self.inner.restore(group, applied)
    }

    fn groups(&self) -> Vec<(GroupId, GroupIdentity)> {
        self.inner.groups()
    }

    fn collect_garbage(&mut self) -> Result<bool, StorageError> {
        self.faults.before_commit(StoreKind::Log)?;
        self.inner.collect_garbage()
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.inner.reader()
    }

    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}

/// A state store under faults.
pub(super) struct FaultyState {
    pub(super) inner: Arc<dyn StateStore>,
    pub(super) faults: Arc<DiskFaults>,
}

impl StateStore for FaultyState {
    fn open(&self, group: GroupId) -> Result<Box<dyn GroupState>, StorageError> {
        self.inner.open(group)
    }

    fn flush(&self, flushes: &[StateFlush]) -> Result<usize, StorageError> {
        self.faults.before_commit(StoreKind::State)?;
        self.inner.flush(flushes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inject(faults: &DiskFaults, change: impl Fn(&mut DiskFault)) -> Arc<ActiveDisk> {
        let mut fault = DiskFault::new(Store::Log);
        change(&mut fault);
        let active = Arc::new(ActiveDisk::new(fault));
        faults.add(active.clone());
        active
    }

    #[test]
    fn a_full_disk_has_room_again_and_a_failed_one_never_works_again() {
        let faults = DiskFaults::default();
        let full = inject(&faults, |fault| fault.full = true);
        assert!(matches!(faults.before_commit(StoreKind::Log), Err(StorageError::Full { .. })));
        assert!(faults.before_commit(StoreKind::State).is_ok(), "the other store has room");
        faults.end(&full);
        assert!(faults.before_commit(StoreKind::Log).is_ok());
        let broken = inject(&faults, |fault| fault.error = Some(DiskError::Eio));
        assert!(matches!(faults.before_commit(StoreKind::Log), Err(StorageError::Io { .. })));
        faults.end(&broken);
        assert!(matches!(faults.before_commit(StoreKind::Log), Err(StorageError::Poisoned)));
        assert_eq!((full.refused.load(Relaxed), broken.failed.load(Relaxed)), (1, 1));
    }

    #[test]
    fn a_commit_waits_for_its_delay_and_a_stalled_one_until_the_end() {
        let faults = DiskFaults::default();
        let slow = inject(&faults, |fault| fault.delay = Duration::from_millis(20));
        let began = Instant::now();
        assert!(faults.before_commit(StoreKind::Log).is_ok());
        assert!(began.elapsed() >= Duration::from_millis(20));
        faults.end(&slow);
        let stalled = inject(&faults, |fault| fault.stall = true);
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| faults.before_commit(StoreKind::Log).is_ok());
            while stalled.stalled.load(Relaxed) == 0 {
                std::thread::yield_now();
            }
            assert!(!commit.is_finished(), "it goes on only once the fault is over");
            faults.end(&stalled);
            assert!(commit.join().expect("no panic"));
        });
        assert_eq!((slow.delayed.load(Relaxed), stalled.stalled.load(Relaxed)), (1, 1));
    }
}
