//! Quorum contact: when a leader last heard each voter of its term, and whether that is too long ago.
//!
//! Promise: a leader that hears no quorum knows it after one election timeout. raft-rs looks once per
//! election timeout at who answered since it last looked, which takes up to two of them; meanwhile a leader
//! that is heard but hears nobody keeps everyone else from standing. Not here: stepping down (`replica_fitness`).

use std::collections::BTreeMap;

use raft::ProgressTracker;

/// What one leader has heard.
#[derive(Debug, Default)]
pub(crate) struct QuorumContact {
    /// The term that it leads.
    term: u64,
    /// When that began, in ticks: who was not heard since counts from here.
    since: u64,
    heard: BTreeMap<u64, u64>,
}

impl QuorumContact {
    /// The replica leads `term`. Of a new one, those who voted for it have just been heard.
    pub fn leads(&mut self, term: u64, tick: u64) {
        if self.term != term {
            *self = Self { term, since: tick, heard: BTreeMap::new() };
        }
    }

    /// `peer` has answered in the leader's term.
    pub fn heard(&mut self, peer: u64, tick: u64) {
        self.heard.insert(peer, tick);
    }

    /// The membership has changed: who is new counts from now.
    pub fn joined(&mut self, progress: &ProgressTracker, tick: u64) {
        for (peer, _) in progress.iter() {
            self.heard.entry(*peer).or_insert(tick);
        }
    }

    /// Whether `own` and those heard within `patience` ticks are no quorum of `progress`.
    pub fn is_lost(&self, progress: &ProgressTracker, own: u64, tick: u64, patience: u64) -> bool {
        let is_near = |peer: u64| {
            let heard = self.heard.get(&peer).copied().unwrap_or(self.since);
            peer == own || tick.saturating_sub(heard) <= patience
        };
        let peers = || progress.iter().map(|(peer, _)| *peer);
        !peers().all(is_near)
            && !progress.has_quorum(&peers().filter(|peer| is_near(*peer)).collect())
    }
}
