//! Misfortune: crashes, disks, clocks, links, and changes of membership at bad moments.

use polyraft_core::conf_change::{ConfChange, ConfChangeKind, ConfChangeStep, ConfTransition};
use polyraft_core::entry::Member;
use polyraft_core::ids::NodeId;
use polyraft_storage::journal::JournalOptions;
use polyraft_storage::memory::FailedCommit;
use polyraft_storage::memory_file::{BLOCK_SECTORS, TornWrite};

use super::world::{Seat, World};
use crate::host::{DiskFailure, Sabotage};
use crate::invariants::Violation;

impl World {
    pub fn misfortune(&mut self) -> Result<(), Violation> {
        let at = self.dice.below(self.seats.len() as u64) as usize;
        let to = self.dice.below(self.seats.len() as u64) as usize;
        if self.dice.per_mille(self.habits.crash) {
            self.crash(at)?;
        }
        if self.dice.per_mille(self.habits.replace_writer)
            && self.seats[at].host.replica().is_some()
        {
            self.replace_log_writer(at)?;
        }
        if self.dice.per_mille(self.habits.restart) {
            self.restart_if_needed(to)?;
        }
        self.trouble_members(at, to);
        self.trouble_links(at, to);
        self.trouble_disk(at)?;
        self.trouble_clock(to);
        self.operate()
    }

    fn trouble_members(&mut self, at: usize, to: usize) {
        let other = self.seats[to].host.node();
        if self.dice.per_mille(self.habits.transfer)
            && let Some(replica) = self.seats[at].host.replica_mut()
        {
            replica.transfer_leader(other);
        }
        if self.dice.per_mille(self.habits.change) {
            self.change_members(at, to);
        }
    }

    fn trouble_links(&mut self, at: usize, to: usize) {
        let (node, other) = (self.seats[at].host.node(), self.seats[to].host.node());
        if self.dice.per_mille(self.habits.cut) {
            self.cut(node, other);
        }
        if self.dice.per_mille(self.habits.heal) {
            self.network.heal();
        }
    }

    fn trouble_disk(&mut self, at: usize) -> Result<(), Violation> {
        let (now, for_ticks) = (self.now(), 5 + self.dice.below(60));
        let node = self.seats[at].host.node();
        if self.dice.per_mille(self.habits.stall) {
            self.history.note(format_args!("n{node}'s disk stands still for {for_ticks} ticks"));
            self.history.counts.stalls += 1;
            self.seats[at].stalled_until = now + for_ticks;
        }
        if self.dice.per_mille(self.habits.full) {
            self.history.note(format_args!("n{node}'s disk is full for {for_ticks} ticks"));
            self.history.counts.full += 1;
            self.seats[at].full_until = now + for_ticks;
        }
        if self.dice.per_mille(self.habits.fail) && self.seats[at].host.replica().is_some() {
            let failure = self.disk_failure();
            self.history.note(format_args!("n{node}'s disk will fail: {failure:?}"));
            self.seats[at].host.fail_disk(failure);
        }
        for seat in &self.seats {
            seat.host.set_full(seat.full_until > now);
        }
        self.lose_memory(at)
    }

    /// Damages or empties a disk: of a minority, so that the others can go on.
    fn lose_memory(&mut self, at: usize) -> Result<(), Violation> {
        let is_spare = self.lost.len() < (self.seats.len() - 1) / 2 && self.is_whole();
        let is_spare = is_spare || self.lost.contains(&at);
        let host = &self.seats[at].host;
        if !is_spare || host.replica().is_none() || host.is_failed() {
            return Ok(());
        }
        let node = host.node();
        let random = self.dice.number();
        if self.dice.per_mille(self.habits.flip) && self.seats[at].host.flip_bit(random) {
            self.history.note(format_args!("n{node} has a flipped bit"));
            self.history.counts.flips += 1;
            if self.sabotage != Some(Sabotage::ChecksumIgnored) {
                self.lost.insert(at);
            }
        } else if self.dice.per_mille(self.habits.wipe) && !self.lost.contains(&at) {
            self.crash(at)?;
            self.lost.insert(at);
            self.wipe(at)?;
        }
        Ok(())
    }

    /// Some part of a write, in any order of its blocks.
    fn disk_failure(&mut self) -> DiskFailure {
        let outcome = self.dice.pick(&[FailedCommit::Lost, FailedCommit::Written]);
        let sectors = self.dice.below(BLOCK_SECTORS as u64 + 1) as usize;
        match self.dice.below(4) {
            0 => DiskFailure::Transaction(outcome),
            1 => DiskFailure::Flush(outcome),
            _ => DiskFailure::Write(TornWrite { blocks: self.dice.number() % 16, sectors }),
        }
    }

    fn trouble_clock(&mut self, at: usize) {
        let (now, for_ticks) = (self.now(), 3 + self.dice.below(60));
        let Seat { host, clock, .. } = &mut self.seats[at];
        let node = host.node();
        if self.dice.per_mille(self.habits.pause) && host.replica().is_some() {
            self.history.note(format_args!("n{node} stands still for {for_ticks} ticks"));
            self.history.counts.pauses += 1;
            clock.paused_until = now + for_ticks;
        }
        if self.dice.per_mille(self.habits.clock_jump) {
            clock.ahead_ms = self.dice.below(7_200_000) as i64 - 3_600_000;
            self.history.note(format_args!("n{node}'s wall clock is ahead {} ms", clock.ahead_ms));
            self.history.counts.clock_jumps += 1;
        }
    }

    /// One direction, one pair, or one node from everyone.
    fn cut(&mut self, node: NodeId, other: NodeId) {
        self.history.note(format_args!("cut n{node} n{other}"));
        self.network.cut(node, other);
        match self.dice.below(3) {
            0 => self.network.cut(other, node),
            1 => {
                for peer in self.seats.iter().map(|seat| seat.host.node()) {
                    self.network.cut(node, peer);
                    self.network.cut(peer, node);
                }
            }
            _ => {}
        }
    }

    /// Makes a voter a learner or the reverse; a vote is never taken from more than one.
    fn change_members(&mut self, at: usize, to: usize) {
        let other = &self.seats[to].host;
        let target = Member { replica: other.id(), node: other.node() };
        let transition = self.dice.pick(&[ConfTransition::Auto, ConfTransition::Implicit]);
        let Some(replica) = self.seats[at].host.replica_mut() else { return };
        let configuration = replica.status().configuration;
        let kind = if !configuration.is_voter(target.replica) {
            ConfChangeKind::AddVoter
        } else if configuration.voters.len() > 2 && configuration.learners.is_empty() {
            ConfChangeKind::AddLearner
        } else {
            return;
        };
        let steps = vec![ConfChangeStep { kind, replica: target.replica }];
        let change = ConfChange { transition, steps, members: vec![target] };
        let proposed = replica.propose_members(&change);
        self.history.note(format_args!("n{} {kind:?} n{}: {proposed:?}", at + 1, target.node));
    }

    /// Between two writes, behind some of them, or in the middle of one.
    pub fn crash(&mut self, at: usize) -> Result<(), Violation> {
        if self.seats[at].host.replica().is_none() {
            return Ok(());
        }
        let was_failed = self.seats[at].host.is_failed();
        let written = self.dice.below(self.seats[at].host.appends_waiting() as u64 + 1) as usize;
        let written = if self.dice.per_mille(500) { 0 } else { written };
        if self.dice.per_mille(500) && !was_failed {
            let failure = self.disk_failure();
            let count = 1 + self.dice.below(3) as usize;
            let host = &mut self.seats[at].host;
            host.interrupt(failure, count);
            if host.is_failed() {
                self.history.note(format_args!("n{} writes as it crashes: {failure:?}", at + 1));
                self.history.counts.interrupted += 1;
            }
        }
        self.history.note(format_args!("n{} crashes, {written} written", at + 1));
        self.history.counts.crashes += 1;
        let (batches, readers) = self.seats[at].host.crash(written);
        self.notice_fault(at)?;
        self.stopped(at, batches, readers)
    }

    fn replace_log_writer(&mut self, at: usize) -> Result<(), Violation> {
        let host = &mut self.seats[at].host;
        let written = self.dice.below(host.appends_waiting() as u64 + 1) as usize;
        self.history.note(format_args!("n{} loses its log writer, {written} written", at + 1));
        self.history.counts.log_writers_replaced += 1;
        host.replace_log_writer(written);
        self.notice_fault(at)
    }

    /// Starts what is down, and starts again what acknowledges nothing any more.
    pub fn restart_if_needed(&mut self, at: usize) -> Result<(), Violation> {
        if self.seats[at].host.is_failed() && self.seats[at].host.replica().is_some() {
            self.crash(at)?;
        }
        if self.seats[at].host.replica().is_some() {
            return Ok(());
        }
        self.history.note(format_args!("n{} restarts", at + 1));
        self.seats[at].host.restart(JournalOptions::tiny());
        self.started(at)
    }

    /// A process has started: another life of its data, and a state that must be a known one.
    pub fn started(&mut self, at: usize) -> Result<(), Violation> {
        let boot = self.dice.number();
        let Seat { host, mark, .. } = &mut self.seats[at];
        (mark.incarnation, mark.boot) = (mark.incarnation + 1, boot);
        let applied = host.applied().len() as u64;
        if applied > 0
            && let Some(hash) = host.state_hash()
        {
            let index = polyraft_core::ids::LogIndex::new(applied);
            self.history.states.reached(host.node(), index, hash)?;
        }
        self.notice_fault(at)
    }
}
