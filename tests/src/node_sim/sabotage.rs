//! Sabotage: ports that break their promise, to see that the judge would notice.
//!
//! ```text
//! log writer ─GroupAppend→ [sabotage] → journal        flusher ─StateFlush→ [sabotage] → state
//! ```
//!
//! A sound run has the same wrappers with nothing broken: the log's tells the judge what is durable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use polyraft_core::entry::CompactionPoint;
use polyraft_core::ids::{GroupId, LogIndex, NodeId};
use polyraft_core::ports::{
    CommitStats, GroupAppend, GroupIdentity, GroupState, LogReader, LogStore, RestoredLog,
    StateFlush, StateStore, StorageError,
};
use tokio::time::Instant;

use super::judge::SharedJudge;
use crate::memory_node::WrapStores;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Disks report syncs that never happened, and crashes take back what was not synced.
    LyingDisks,
    /// The log is written without terms, votes and commit indexes.
    ForgottenVotes,
    /// State is made durable under the applied index of the flush before.
    StateWithoutIndex,
    /// The network repeats requests.
    RepeatedRequests,
    /// Machines read their own replica's clock.
    OwnClock,
    /// A node that lost its data is let in, and stays.
    WipedAdmitted,
    /// Reads ask nobody whether there is a newer leader.
    UnconfirmedReads,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::LyingDisks,
        Self::ForgottenVotes,
        Self::StateWithoutIndex,
        Self::RepeatedRequests,
        Self::OwnClock,
        Self::WipedAdmitted,
        Self::UnconfirmedReads,
    ];
}

/// What a machine mixes into its state that has no business there.
pub fn own_clock() -> u64 {
    thread_local! {
        static START: Instant = Instant::now();
    }
    START.with(|start| start.elapsed().as_micros() as u64)
}

/// The stores of a run.
pub struct Stores {
    /// Hears what is durable.
    pub judge: Arc<SharedJudge>,
    /// What is broken.
    pub sabotage: Option<Sabotage>,
}

impl WrapStores for Stores {
    fn log(&self, node: NodeId, inner: Box<dyn LogStore>) -> Box<dyn LogStore> {
        let forgets = self.sabotage == Some(Sabotage::ForgottenVotes);
        Box::new(ToldLog { node, inner, judge: self.judge.clone(), forgets })
    }

    fn state(&self, _: NodeId, inner: Arc<dyn StateStore>) -> Arc<dyn StateStore> {
        match self.sabotage {
            Some(Sabotage::StateWithoutIndex) => {
                Arc::new(LateIndex { inner, flushed: Mutex::default() })
            }
            _ => inner,
        }
    }
}

/// A log that tells what it wrote.
struct ToldLog {
    node: NodeId,
    inner: Box<dyn LogStore>,
    judge: Arc<SharedJudge>,
    forgets: bool,
}

impl LogStore for ToldLog {
    fn commit(&mut self, appends: &[GroupAppend]) -> Result<CommitStats, StorageError> {
        let stats = if self.forgets {
            let mut forgetful = appends.to_vec();
            forgetful.iter_mut().for_each(|append| append.hard_state = None);
            self.inner.commit(&forgetful)?
        } else {
            self.inner.commit(appends)?
        };
        self.judge.lock().persisted(self.node, appends);
        Ok(stats)
    }

    fn compact(&mut self, points: &[(GroupId, CompactionPoint)]) -> Result<(), StorageError> {
        self.inner.compact(points)
    }

    fn restore(&self, group: GroupId, applied: LogIndex) -> Result<RestoredLog, StorageError> {
        self.inner.restore(group, applied)
    }

    fn groups(&self) -> Vec<(GroupId, GroupIdentity)> {
        self.inner.groups()
    }

    fn collect_garbage(&mut self) -> Result<bool, StorageError> {
        self.inner.collect_garbage()
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.inner.reader()
    }
}

/// A state store whose applied indexes are one flush behind.
struct LateIndex {
    inner: Arc<dyn StateStore>,
    flushed: Mutex<BTreeMap<GroupId, StateFlush>>,
}

impl StateStore for LateIndex {
    fn open(&self, group: GroupId) -> Result<Box<dyn GroupState>, StorageError> {
        self.inner.open(group)
    }

    fn flush(&self, flushes: &[StateFlush]) -> Result<usize, StorageError> {
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        let late = flushes.iter().map(|flush| {
            let before = flushed.insert(flush.group, flush.clone());
            let (applied, applied_term) =
                before.map_or((flush.applied, flush.applied_term), |b| (b.applied, b.applied_term));
            StateFlush { applied, applied_term, ..flush.clone() }
        });
        self.inner.flush(&late.collect::<Vec<_>>())
    }
}
