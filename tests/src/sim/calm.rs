//! Calm weather: everything heals, and everything must come to an end.
//!
//! ```text
//! heal ─→ all proposals answered, all logs applied, nobody hands over ─→ appliers stand still: the leader stays
//!      ─→ again all answered, all applied ─→ judge the whole log
//! ```

use polyraft_core::ids::Term;
use polyraft_core::status::{GroupStatus, Role};

use super::Failure;
use super::habits::FAIR;
use super::world::World;
use crate::host::{Host, Sabotage};
use crate::invariants::Violation;

/// Ticks without faults in which everything must come to an end.
const CALM_TICKS: u64 = 800;
/// Ticks in which a hand-over that began before the weather was fair comes to its end.
const HAND_OVER_TICKS: u64 = 40;
/// Ticks for which no applier gets a turn: several election timeouts.
const STILL_TICKS: u64 = 60;

impl World {
    pub fn calm(&mut self) -> Result<(), Failure> {
        self.heal()?;
        self.settle()?;
        for _ in 0..HAND_OVER_TICKS {
            self.history.counts.ticks += 1;
            self.replace_failed()?;
            self.advance()?;
        }
        self.stand_still()?;
        self.settle()?;
        Ok(self.finish()?)
    }

    fn heal(&mut self) -> Result<(), Violation> {
        self.network.heal();
        self.weather = FAIR;
        self.habits = self.habits.calm();
        for seat in &mut self.seats {
            (seat.stalled_until, seat.full_until, seat.clock.paused_until) = (0, 0, 0);
            seat.clock.rate = 1_000;
            seat.host.set_full(false);
            seat.host.heal_disk();
        }
        (0..self.seats.len()).try_for_each(|at| self.restart_if_needed(at))
    }

    /// Goes on until nothing is left to do.
    fn settle(&mut self) -> Result<(), Failure> {
        let mut what = String::new();
        for tick in 0..CALM_TICKS {
            self.history.counts.ticks += 1;
            if tick % 20 == 0 && tick < CALM_TICKS / 2 {
                let at = self.busiest();
                self.propose(at)?;
            }
            self.operate()?;
            self.replace_failed()?;
            self.advance()?;
            match self.unfinished() {
                Some(unfinished) => what = unfinished,
                None => return Ok(()),
            }
        }
        Err(Failure::Stuck { what, ticks: CALM_TICKS })
    }

    /// Old damage may be found only now; a process whose storage failed is started again.
    fn replace_failed(&mut self) -> Result<(), Violation> {
        let failed = |at: &usize| {
            let host = &self.seats[*at].host;
            host.is_failed() && host.replica().is_some()
        };
        let failed: Vec<_> = (0..self.seats.len()).filter(failed).collect();
        failed.into_iter().try_for_each(|at| self.restart_if_needed(at))
    }

    /// Goal: nothing that a state machine does costs a leader its leadership (TK-3). One whose old damage is
    /// found only now goes out of service, and is replaced; one whose storage fails of it hands over.
    fn stand_still(&mut self) -> Result<(), Violation> {
        let before = self.leadership();
        self.appliers_stand_still = true;
        for tick in 0..STILL_TICKS {
            self.history.counts.ticks += 1;
            if tick % 4 == 0 {
                let at = self.busiest();
                self.propose(at)?;
            }
            self.advance()?;
        }
        self.appliers_stand_still = false;
        let after = self.leadership();
        let is_out = |host: &Host| host.replica().is_none() || host.is_failed();
        let is_gone = before.is_some_and(|(at, _)| is_out(&self.seats[at].host));
        if before == after || is_gone {
            return Ok(());
        }
        let what = format!("{before:?} led; {after:?} when no entry was applied for a while");
        Err(Violation::new("steady leader", what))
    }

    fn leadership(&self) -> Option<(usize, Term)> {
        let at = self.leader()?;
        Some((at, self.seats[at].host.replica()?.status().term))
    }

    /// What is still to happen.
    fn unfinished(&self) -> Option<String> {
        let unanswered = self.history.proposals.unanswered();
        if unanswered > 0 && self.sabotage != Some(Sabotage::AnswerOnSubmit) {
            return Some(format!("{unanswered} proposals unanswered"));
        }
        if self.history.reads.unanswered() > 0 {
            return Some(format!("{} reads unanswered", self.history.reads.unanswered()));
        }
        let statuses: Vec<_> = self
            .in_service()
            .filter_map(|seat| seat.host.replica().map(|replica| replica.status()))
            .collect();
        if self.keeps_logs && statuses.len() < self.seats.len() {
            return Some(format!("{} nodes of {} serve", statuses.len(), self.seats.len()));
        }
        let leaders = statuses.iter().filter(|status| status.role == Role::Leader).count();
        if leaders != 1 {
            return Some(format!("{leaders} leaders"));
        }
        let has_vote = |status: &GroupStatus| {
            let configuration = &status.configuration;
            configuration.voters.contains(&status.replica)
                && configuration.voters_outgoing.is_empty()
        };
        if !statuses.iter().any(|status| status.role == Role::Leader && has_vote(status)) {
            return Some("the leader hands over, or a change is under way".to_owned());
        }
        let last = statuses.iter().map(|status| status.last).max();
        let behind = statuses.iter().find(|status| Some(status.applied) != last);
        behind.map(|status| format!("replica {} behind {last:?}: {status:?}", status.replica))
    }

    fn finish(&mut self) -> Result<(), Violation> {
        for seat in 0..self.seats.len() {
            self.stop(seat)?;
        }
        let log = self.history.applied.entries();
        self.history.proposals.finish(log)?;
        self.history.counts.overwritten = self.history.proposals.overwritten(log)?;
        let hash = self.history.applied.hash(log.len());
        self.history.note(format_args!("state {hash}"));
        Ok(())
    }

    /// The process ends in order: nobody waits any more.
    fn stop(&mut self, at: usize) -> Result<(), Violation> {
        let (batches, readers) = self.seats[at].host.crash(0);
        self.stopped(at, batches, readers)
    }
}
