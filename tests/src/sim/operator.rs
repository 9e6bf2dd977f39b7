//! The operator: gives a node that lost its memory a new replica.
//!
//! ```text
//! wiped, or out of service: wiped ─→ refused by its peers under its old id
//!     leader: remove the old replica, add a new one ─committed→ peers forget the old data
//!     node:   a new replica, which starts with the configuration that the group was created with
//! ```
//!
//! Only where logs are kept whole: there are no snapshots to bring a new replica up with.
//! Source: Ongaro's thesis §11.7.2; requirements RF-10 and ST-9.

use polyraft_core::conf_change::{ConfChange, ConfChangeKind, ConfChangeStep, ConfTransition};
use polyraft_core::entry::Member;
use polyraft_core::ids::ReplicaId;
use polyraft_core::peer_data::DataMark;
use polyraft_storage::journal::JournalOptions;

use super::world::World;
use crate::host::Sabotage;
use crate::invariants::Violation;

impl World {
    /// Looks after the nodes that were lost.
    pub fn operate(&mut self) -> Result<(), Violation> {
        let has_time = self.keeps_logs && self.dice.per_mille(200);
        if !has_time || self.sabotage == Some(Sabotage::WipedUnderOldId) {
            return Ok(());
        }
        for at in self.lost.clone() {
            if self.seats[at].host.fault().is_some() {
                self.wipe(at)?;
            } else if self.is_refused(at) {
                self.replace(at)?;
            }
        }
        Ok(())
    }

    /// The node comes back on an empty disk, which its peers do not know, and knows no better than
    /// to start the replica that it had.
    pub fn wipe(&mut self, at: usize) -> Result<(), Violation> {
        self.history.note(format_args!("n{} comes back on an empty disk", at + 1));
        self.history.counts.wiped += 1;
        let data = self.dice.number();
        let seat = &mut self.seats[at];
        seat.mark = DataMark { data, incarnation: 0, boot: 0 };
        let id = seat.host.id();
        seat.host.wipe(id, self.initial.clone(), JournalOptions::tiny());
        if self.sabotage == Some(Sabotage::WipedUnderOldId) {
            self.forget(at);
        }
        self.started(at)
    }

    /// Every peer takes this node for new, and it has met them all.
    fn forget(&mut self, at: usize) {
        let (node, mark) = (self.seats[at].host.node(), self.seats[at].mark);
        for peer in &self.seats {
            let known = if peer.host.node() == node { mark } else { peer.mark };
            self.known.insert((node, peer.host.node()), known);
            self.known.insert((peer.host.node(), node), mark);
        }
    }

    /// Whether every node that has its memory knows the replicas of all nodes, and no others, as
    /// voters: only then are so many nodes as many votes.
    pub fn is_whole(&self) -> bool {
        let mut ids: Vec<_> = self.seats.iter().map(|seat| seat.host.id()).collect();
        ids.sort();
        let knows_all = |at: usize| {
            let configuration = self.seats[at].host.configuration();
            configuration.voters == ids && configuration.voters_outgoing.is_empty()
        };
        (0..self.seats.len()).all(|at| self.lost.contains(&at) || knows_all(at))
    }

    /// Whether some peer knows this node by other data.
    pub fn is_refused(&self, at: usize) -> bool {
        let seat = &self.seats[at];
        let of_this = self.known.iter().filter(|((_, peer), _)| *peer == seat.host.node());
        of_this.map(|(_, known)| known).any(|known| seat.mark.follows(*known).is_err())
    }

    /// One step towards a new replica for the node, as far as the leader's configuration allows.
    fn replace(&mut self, at: usize) -> Result<(), Violation> {
        let node = self.seats[at].host.node();
        let old = self.seats[at].host.id();
        let new = ReplicaId::new(node.get() * 100 + self.seats[at].replicas + 1);
        let Some(leader) = self.leader().filter(|leader| *leader != at) else { return Ok(()) };
        let wants_at_once = self.dice.per_mille(500);
        let replica = self.seats[leader].host.replica().expect("it leads");
        let configuration = replica.status().configuration;
        if !configuration.voters_outgoing.is_empty() {
            return Ok(());
        }
        let (had, has) = (configuration.node_of(old).is_some(), configuration.is_voter(new));
        if !had && has {
            return self.join(at, new);
        }
        let is_member = |other: usize| configuration.node_of(self.seats[other].host.id()).is_some();
        let others = self.lost.iter().filter(|other| **other != at && self.is_refused(**other));
        let is_last = !others.clone().any(|other| is_member(*other));
        if !had && !is_last {
            return Ok(()); // A new replica could take an empty one for what it was.
        }
        let is_at_once = wants_at_once && is_last;
        let step = |kind, replica| ConfChangeStep { kind, replica };
        let mut steps = Vec::new();
        if had {
            steps.push(step(ConfChangeKind::Remove, old));
        }
        if !had || is_at_once {
            steps.push(step(ConfChangeKind::AddVoter, new));
        }
        let members = vec![Member { replica: new, node }];
        let members = if !had || is_at_once { members } else { Vec::new() };
        let change = ConfChange { transition: ConfTransition::Auto, steps, members };
        let replica = self.seats[leader].host.replica_mut().expect("it leads");
        let proposed = replica.propose_members(&change);
        self.history.note(format_args!("n{} replaces {old} by {new}: {proposed:?}", leader + 1));
        Ok(())
    }

    /// The old replica is no member any more: the new one starts, and peers may know the node again.
    fn join(&mut self, at: usize, id: ReplicaId) -> Result<(), Violation> {
        self.history.note(format_args!("n{} joins as {id}", at + 1));
        self.history.counts.rejoined += 1;
        self.crash(at)?;
        self.forget(at);
        let seat = &mut self.seats[at];
        seat.replicas += 1;
        seat.host.wipe(id, self.initial.clone(), JournalOptions::tiny());
        self.lost.remove(&at);
        self.started(at)
    }
}
