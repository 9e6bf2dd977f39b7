//! Store faults: any step of a node's stores says what a test wants, once; commits take as long as it wants.
//!
//! ```text
//! log writer, groups ─→ [open, commit, restore, collect, read] ─→ journal
//! state flusher ──────→ [open state, flush] ─→ state store
//! ```
//!
//! Promise: an armed fault is met by the next call of its step, which then does nothing else; until
//! then, and afterwards, the stores work as they are.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polyraft_core::entry::{CompactionPoint, LogEntry};
use polyraft_core::ids::{GroupId, LogIndex};
use polyraft_core::ports::{
    CommitStats, GroupAppend, GroupIdentity, GroupState, LogReader, LogStats, LogStore,
    RestoredLog, StateFlush, StateStore, StorageError,
};

use crate::ledger::block_for;

/// A call that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A log writer opens the journal.
    OpenLog,
    /// The log writer commits.
    Commit,
    /// The log writer reads a group's log for its next life.
    Restore,
    /// The log writer collects garbage.
    Collect,
    /// A group reads entries for a slow follower.
    Read,
    /// The flusher opens a group's state.
    OpenState,
    /// The flusher flushes.
    Flush,
}

/// What the call does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// Fails as a disk does.
    Io,
    /// Fails because of the data of the group that it is for, or of the first of many.
    Corrupt,
    /// Finds no room.
    Full,
    /// Panics.
    Panic,
}

/// The faults of one node's stores.
#[derive(Debug, Default)]
pub struct StoreFaults {
    commit_takes_us: AtomicU64,
    /// By step: the calls that go well before, and what then happens.
    armed: Mutex<BTreeMap<Step, (u64, StoreFault)>>,
}

impl StoreFaults {
    /// From now on each commit takes this much longer, on the log writer's thread.
    pub fn set_commit_takes(&self, duration: Duration) {
        self.commit_takes_us.store(duration.as_micros() as u64, Relaxed);
    }

    /// Makes the next call of `step` fail.
    pub fn arm(&self, step: Step, fault: StoreFault) {
        self.arm_after(0, step, fault);
    }

    /// Makes the call of `step` after `calls` more ones fail, once.
    pub fn arm_after(&self, calls: u64, step: Step, fault: StoreFault) {
        self.lock().insert(step, (calls, fault));
    }

    /// Nothing fails any more.
    pub fn disarm(&self) {
        self.lock().clear();
    }

    /// Whether a fault of `step` still waits to be met.
    pub fn is_armed(&self, step: Step) -> bool {
        self.lock().contains_key(&step)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Step, (u64, StoreFault)>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `inner` under these faults; its opening is the first step.
    ///
    /// # Errors
    /// What the opening was armed with.
    pub fn around_log(
        self: &Arc<Self>,
        inner: Box<dyn LogStore>,
    ) -> Result<Box<dyn LogStore>, StorageError> {
        self.meet(Step::OpenLog, first_of(&*inner))?;
        Ok(Box::new(FaultyLog { inner, faults: self.clone() }))
    }

    /// `inner` under these faults.
    pub fn around_state(self: &Arc<Self>, inner: Arc<dyn StateStore>) -> Arc<dyn StateStore> {
        Arc::new(FaultyState { inner, faults: self.clone() })
    }

    fn meet(&self, step: Step, group: GroupId) -> Result<(), StorageError> {
        match self.next(step) {
            None => Ok(()),
            Some(StoreFault::Io) => {
                let source = Box::new(std::io::Error::other("injected"));
                Err(StorageError::Io { doing: "what the test let fail", source })
            }
            Some(StoreFault::Corrupt) => {
                Err(StorageError::Corrupt { group, what: "injected".into() })
            }
            Some(StoreFault::Full) => Err(StorageError::Full { what: "the test's disk".into() }),
            Some(StoreFault::Panic) => panic!("{step:?} panics, as the test asked"),
        }
    }

    /// What the call of `step` that now begins meets.
    fn next(&self, step: Step) -> Option<StoreFault> {
        let mut armed = self.lock();
        let (calls, fault) = armed.get_mut(&step)?;
        if *calls > 0 {
            *calls -= 1;
            return None;
        }
        let fault = *fault;
        armed.remove(&step);
        Some(fault)
    }
}

fn first_of(log: &dyn LogStore) -> GroupId {
    log.groups().first().map_or(GroupId::new(1), |(group, _)| *group)
}

struct FaultyLog {
    inner: Box<dyn LogStore>,
    faults: Arc<StoreFaults>,
}

impl LogStore for FaultyLog {
    fn commit(&mut self, appends: &[GroupAppend]) -> Result<CommitStats, StorageError> {
        block_for(Duration::from_micros(self.faults.commit_takes_us.load(Relaxed)));
        self.faults.meet(Step::Commit, appends[0].group)?;
        self.inner.commit(appends)
    }

    fn compact(&mut self, points: &[(GroupId, CompactionPoint)]) -> Result<(), StorageError> {
        self.faults.meet(Step::Commit, first_of(&*self.inner))?;
        self.inner.compact(points)
    }

    fn restore(&self, group: GroupId, applied: LogIndex) -> Result<RestoredLog, StorageError> {
        self.faults.meet(Step::Restore, group)?;
        self.inner.restore(group, applied)
    }

    fn groups(&self) -> Vec<(GroupId, GroupIdentity)> {
        self.inner.groups()
    }

    fn collect_garbage(&mut self) -> Result<bool, StorageError> {
        self.faults.meet(Step::Collect, first_of(&*self.inner))?;
        self.inner.collect_garbage()
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(FaultyReader { inner: self.inner.reader(), faults: self.faults.clone() })
    }

    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}

struct FaultyReader {
    inner: Arc<dyn LogReader>,
    faults: Arc<StoreFaults>,
}

impl LogReader for FaultyReader {
    fn entries(
        &self,
        group: GroupId,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StorageError> {
        self.faults.meet(Step::Read, group)?;
        self.inner.entries(group, range, bytes_max)
    }
}

struct FaultyState {
    inner: Arc<dyn StateStore>,
    faults: Arc<StoreFaults>,
}

impl StateStore for FaultyState {
    fn open(&self, group: GroupId) -> Result<Box<dyn GroupState>, StorageError> {
        self.faults.meet(Step::OpenState, group)?;
        self.inner.open(group)
    }

    fn flush(&self, flushes: &[StateFlush]) -> Result<usize, StorageError> {
        self.faults.meet(Step::Flush, flushes[0].group)?;
        self.inner.flush(flushes)
    }
}
