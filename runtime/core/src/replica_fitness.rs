//! Fitness to lead: when a leader goes, before others have to notice, and when a candidate stands again.
//!
//! ```text
//! on_tick ─┬ hears no quorum ─────────────────────→ steps down, stands: its pre-vote tells who still hears it
//!          ├ its disk stands still, others' do not ┐
//!          └ no longer a voter ────────────────────┴→ hands over to the voter that answers and has the most
//! ```
//!
//! Promise: a leader hands over only if the others can elect without it; until then it goes on serving
//! reads.

use raft::StateRole;

use super::Replica;
use crate::election_timer::EarlyStand;
use crate::ids::ReplicaId;

impl<W, R> Replica<W, R> {
    /// A leader that hears no quorum for an election timeout steps down. Others may still hear it, and
    /// wait for it: it stands, so that its pre-vote tells them (see `forget_ended_leader`).
    pub(super) fn step_down_if_cut_off(&mut self) {
        let (tick, patience) = (self.tick, self.config.election_ticks);
        let raft = &mut self.raft.raft;
        if raft.state != StateRole::Leader {
            return;
        }
        self.contact.leads(raft.term, tick);
        if self.contact.is_lost(raft.prs(), raft.id, tick, patience) {
            raft.become_follower(raft.term, 0);
            let wait = 2 * self.config.heartbeat_ticks;
            self.early_stand = Some(EarlyStand { due: tick + 1, wait });
        }
    }

    /// A leader whose disk stands still for an election timeout applies nothing (RL-6), and one that a
    /// change left without a vote does not step down in raft-rs (DESIGN §3, rule 11). Asked before
    /// raft-rs's own tick: the one in which it gives a hand-over up also forgets who has answered.
    pub(super) fn successor_if_unfit(&mut self) -> Option<ReplicaId> {
        let is_stalled =
            self.stall.on_tick(self.persisted < self.appended) >= self.config.election_ticks;
        let raft = &self.raft.raft;
        let must_go = !self.configuration.is_voter(self.id) || is_stalled && self.others_persist();
        if raft.state != StateRole::Leader || !must_go {
            return None;
        }
        let fitness = |id: &&ReplicaId| {
            raft.prs().get(id.get()).map(|progress| (progress.recent_active, progress.matched))
        };
        let others = self.configuration.voters.iter().filter(|voter| **voter != self.id);
        others.max_by_key(fitness).copied()
    }

    /// Whether a quorum without this replica has made durable what this one has not. Where every disk is
    /// full, a successor could not make its votes durable: nobody would lead, and nobody serve reads (ST-5).
    fn others_persist(&self) -> bool {
        let raft = &self.raft.raft;
        let persisted = raft.raft_log.persisted;
        let ahead = raft.prs().iter().filter(|(_, progress)| progress.matched > persisted);
        raft.prs().has_quorum(&ahead.map(|(id, _)| *id).filter(|id| *id != raft.id).collect())
    }

    /// After its pre-vote a candidate is refused because another stands too. Where the votes were split,
    /// nobody waits for a further election timeout: they stand again, one after the other.
    pub(super) fn stand_again_in_turn(&mut self) {
        if self.raft.raft.leader_id == 0 && self.early_stand.is_none() {
            self.stand_early(1 + self.turn());
        }
    }

    pub(super) fn resign(&mut self, successor: Option<ReplicaId>) {
        let raft = &self.raft.raft;
        let is_idle = raft.state == StateRole::Leader && raft.lead_transferee.is_none();
        if let Some(successor) = successor.filter(|_| is_idle) {
            self.raft.transfer_leader(successor.get());
        }
    }

    /// The node's disk has made something durable, of whatever group: it does not stand still.
    pub fn on_disk_progress(&mut self) {
        self.stall.ended();
    }
}
