//! Clients: who proposes and reads, and what they are told.

use std::time::Duration;

use bytes::Bytes;
use polyraft_core::batch::Unit;
use polyraft_core::ids::LogIndex;
use polyraft_core::output::{Refusal, Refused};
use polyraft_core::propose_batcher::Cut;
use polyraft_core::status::Role;

use super::clock::TICK;
use super::world::{Seat, World};
use crate::host::{ProposalTag, Sabotage};
use crate::invariants::Violation;
use crate::invariants::acknowledged_once::Answer;

impl World {
    pub fn clients(&mut self) -> Result<(), Violation> {
        if self.dice.per_mille(self.habits.propose) {
            for _ in 0..1 + self.dice.below(3) {
                let at = self.busiest();
                self.propose(at)?;
            }
        }
        if self.dice.per_mille(self.habits.read) {
            let at = self.dice.below(self.seats.len() as u64) as usize;
            self.read(at)?;
        }
        Ok(())
    }

    /// Mostly a leader, now and then anyone.
    pub fn busiest(&mut self) -> usize {
        let leads = |seat: &Seat| seat.host.replica().is_some_and(|r| r.role() == Role::Leader);
        let leaders: Vec<_> = (0..self.seats.len()).filter(|at| leads(&self.seats[*at])).collect();
        if leaders.is_empty() || self.dice.per_mille(100) {
            return self.dice.below(self.seats.len() as u64) as usize;
        }
        self.dice.pick(&leaders)
    }

    pub fn propose(&mut self, at: usize) -> Result<(), Violation> {
        let size = self.dice.pick(&[0, 10, 40]);
        let wait: Duration = TICK * self.dice.pick(&[5, 40, 300]);
        if self.seats[at].host.replica().is_none() {
            return Ok(());
        }
        self.next_proposal += 1;
        let tag = self.next_proposal;
        let mut command = format!("command {tag} ").into_bytes();
        command.resize(command.len() + size, b'.');
        let command = Bytes::from(command);
        self.history.proposals.proposed(tag, command.clone());
        let Seat { host, desk, clock, .. } = &mut self.seats[at];
        self.history.note(format_args!("n{} #{tag} proposed", host.node()));
        if desk.push(clock, Unit::single(command), wait, tag) {
            return Ok(());
        }
        self.never_proposed(vec![tag])
    }

    /// What the batcher's actor does: tells who waited too long, and submits what is due.
    pub fn serve(&mut self, at: usize) -> Result<(), Violation> {
        let Seat { host, desk, clock, .. } = &mut self.seats[at];
        if self.dice.per_mille(300) {
            // Not at once: the batcher is an actor of its own.
            desk.leads = host.replica().is_some_and(|replica| replica.role() == Role::Leader);
        }
        let expired = desk.expire(clock);
        self.never_proposed(expired)?;
        loop {
            let Seat { desk, clock, .. } = &mut self.seats[at];
            let Some(cut) = desk.cut(clock) else { return Ok(()) };
            self.submit(at, cut)?;
        }
    }

    fn submit(&mut self, at: usize, cut: Cut<ProposalTag>) -> Result<(), Violation> {
        self.next_batch += 1;
        let batch = self.next_batch;
        let clients: Vec<_> = cut.waiters.into_iter().map(|(tag, _)| tag).collect();
        let Seat { host, desk, clock, .. } = &mut self.seats[at];
        let status = host.replica().expect("it runs").status();
        let (node, index) = (host.node(), status.last.next());
        match host.propose(cut.batch, batch) {
            Ok(()) => {
                self.history
                    .note(format_args!("n{node} batch {batch} {clients:?} submitted: {index}"));
                desk.submitted(batch, clients.clone());
                let places = &mut self.history.proposals;
                clients.iter().for_each(|tag| places.appended(*tag, index, status.term));
                if self.sabotage == Some(Sabotage::AnswerOnSubmit) {
                    self.answer_all(clients, Answer::Applied(index))?;
                }
                Ok(())
            }
            Err(Refused { batch: data, why: Refusal::NotLeader, .. }) => {
                self.history.note(format_args!("n{node} batch {batch} goes back in line"));
                self.history.counts.requeued += 1;
                desk.leads = false;
                let refused = desk.requeue(clock, data, clients);
                self.never_proposed(refused)
            }
            Err(Refused { why, .. }) => {
                self.history.note(format_args!("n{node} batch {batch} refused: {why:?}"));
                desk.dropped(clock);
                self.never_proposed(clients)
            }
        }
    }

    /// The batch has come to an end.
    pub fn decided(&mut self, at: usize, batch: u64, answer: Answer) -> Result<(), Violation> {
        let Seat { desk, clock, .. } = &mut self.seats[at];
        let clients = desk.decided(clock, batch);
        if self.sabotage == Some(Sabotage::AnswerOnSubmit) {
            return Ok(());
        }
        self.answer_all(clients, answer)
    }

    /// Refused, expired or stopped before they were proposed.
    fn never_proposed(&mut self, clients: Vec<ProposalTag>) -> Result<(), Violation> {
        self.history.counts.never_proposed += clients.len();
        self.answer_all(clients, Answer::Never)
    }

    fn answer_all(&mut self, clients: Vec<ProposalTag>, answer: Answer) -> Result<(), Violation> {
        for tag in clients {
            match answer {
                Answer::Applied(index) => self.acknowledged(index),
                Answer::Unknown => self.history.counts.unknown += 1,
                Answer::Never => {}
            }
            self.history.proposals.answered(tag, answer)?;
        }
        Ok(())
    }

    /// The process on a host has ended: whoever waited there is told what is known.
    pub fn stopped(
        &mut self,
        at: usize,
        batches: Vec<u64>,
        readers: Vec<u64>,
    ) -> Result<(), Violation> {
        self.history.stopped(self.seats[at].host.node());
        for batch in batches {
            self.decided(at, batch, Answer::Unknown)?;
        }
        for tag in readers {
            self.history.reads.ended(tag)?;
        }
        let (queued, undecided) = self.seats[at].desk.close()?;
        self.seats[at].desk = super::desk::Desk::new(self.batching);
        self.never_proposed(queued)?;
        match self.sabotage {
            Some(Sabotage::AnswerOnSubmit) => Ok(()),
            _ => self.answer_all(undecided, Answer::Unknown),
        }
    }

    fn read(&mut self, at: usize) -> Result<(), Violation> {
        let applied = LogIndex::new(self.seats[at].host.applied().len() as u64);
        let Some(replica) = self.seats[at].host.replica_mut() else { return Ok(()) };
        self.next_read += 1;
        let tag = self.next_read;
        self.history.reads.asked(tag, self.history.acknowledged);
        if self.sabotage == Some(Sabotage::StaleRead) {
            return self.history.reads.confirmed(tag, applied);
        }
        replica.read(tag);
        Ok(())
    }
}
