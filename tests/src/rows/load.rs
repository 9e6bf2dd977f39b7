//! Load: records offered at a fixed rate, whatever becomes of them; and a watch for elections.
//!
//! ```text
//! clock ─→ batches that are due ─propose_batch→ groups     none waits for an earlier one's answer
//! ```
//!
//! An open loop: a slow answer does not slow the producers down. `Overloaded` is an answer like any
//! other; what producers would have to hold back themselves counts as offered and shed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polyraft::{GroupEvent, GroupHandle, ProposeError, Term};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::report::{Micros, Report, micros, record};
use crate::cluster::Cluster;
use crate::machines::weight;

/// Between two looks at what is due.
const STEP: Duration = Duration::from_millis(5);
/// Batches without an answer, beyond which producers shed.
const OUTSTANDING_MAX: usize = 4_096;
/// Least share of what can be applied that is answered `Ok` under overload, in percent.
const GOODPUT_PERCENT_MIN: u64 = 80;
/// A caller's pause after a refusal, lest it spins.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// What is offered.
#[derive(Debug, Clone, Copy)]
pub struct OpenLoad {
    /// Records per second, over all groups.
    pub rate: u64,
    /// Records of one `propose_batch`.
    pub batch: u64,
    /// Bytes of a record.
    pub record_bytes: usize,
}

/// What became of it, in records.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Offered.
    pub offered: u64,
    /// Committed and applied.
    pub applied: u64,
    /// Refused as `Overloaded`.
    pub overloaded: u64,
    /// Held back by the producers themselves, with too much unanswered.
    pub shed: u64,
    /// Waited until their deadline and were never proposed.
    pub expired: u64,
    /// Proposed, and without an answer at their deadline.
    pub timed_out: u64,
    /// Ended otherwise: what leadership changes leave unknown, say.
    pub failed: u64,
    /// Applied, by the second in which the answer came.
    pub applied_by_second: Vec<u64>,
    /// Calls that were applied: how long they took.
    pub latency: Micros,
    took: Duration,
}

impl OpenLoad {
    /// Offers to `groups`, in turn, for `time`; then waits for every answer.
    pub async fn offer(self, groups: &[GroupHandle], time: Duration) -> Tally {
        let mut tally = Tally::default();
        let permits = Arc::new(Semaphore::new(OUTSTANDING_MAX));
        let (mut calls, mut groups) = (JoinSet::new(), groups.iter().cycle());
        let (began, mut ticks) = (Instant::now(), tokio::time::interval(STEP));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while began.elapsed() < time {
            ticks.tick().await;
            let due = (began.elapsed().min(time).as_secs_f64() * self.rate as f64) as u64;
            while tally.offered + self.batch <= due {
                tally.offered += self.batch;
                let group = groups.next().expect("a load has groups").clone();
                match permits.clone().try_acquire_owned() {
                    Ok(permit) => drop(calls.spawn(call(group, self.commands(), permit))),
                    Err(_) => tally.shed += self.batch,
                }
            }
            while let Some(answer) = calls.try_join_next() {
                tally.add_at(began, self.batch, answer.expect("a caller never panics"));
            }
        }
        tally.took = began.elapsed();
        while let Some(answer) = calls.join_next().await {
            tally.add_at(began, self.batch, answer.expect("a caller never panics"));
        }
        tally
    }
}

impl OpenLoad {
    /// One call's commands, each with memory of its own: shared ones would cost a queue nothing.
    fn commands(self) -> Vec<Bytes> {
        (0..self.batch).map(|_| weight(self.record_bytes)).collect()
    }
}

async fn call(
    group: GroupHandle,
    commands: Vec<Bytes>,
    _permit: tokio::sync::OwnedSemaphorePermit,
) -> Result<Duration, ProposeError> {
    let began = Instant::now();
    group.propose_batch(commands).await.map(|_| began.elapsed())
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            offered: 0,
            applied: 0,
            overloaded: 0,
            shed: 0,
            expired: 0,
            timed_out: 0,
            failed: 0,
            applied_by_second: Vec::new(),
            latency: micros(),
            took: Duration::ZERO,
        }
    }
}

impl Tally {
    fn add(&mut self, records: u64, answer: Result<Duration, ProposeError>) {
        match answer {
            Ok(took) => {
                self.applied += records;
                record(&mut self.latency, took);
            }
            Err(ProposeError::Overloaded { .. }) => self.overloaded += records,
            Err(ProposeError::Expired { .. }) => self.expired += records,
            Err(ProposeError::TimedOut { .. }) => self.timed_out += records,
            Err(_) => self.failed += records,
        }
    }

    fn add_at(&mut self, began: Instant, records: u64, answer: Result<Duration, ProposeError>) {
        if answer.is_ok() {
            let second = began.elapsed().as_secs() as usize;
            let seconds = self.applied_by_second.len().max(second + 1);
            self.applied_by_second.resize(seconds, 0);
            self.applied_by_second[second] += records;
        }
        self.add(records, answer);
    }

    /// Records per second that were applied while the load was offered.
    pub fn applied_rate(&self) -> f64 {
        self.applied as f64 / self.took.as_secs_f64()
    }

    /// Adds the figures.
    pub fn report(&self, report: &mut Report) {
        let Self { offered, applied, overloaded, shed, expired, timed_out, failed, .. } = self;
        let rate = *offered as f64 / self.took.as_secs_f64();
        report.histogram("call to applied", &self.latency);
        report.figure("records offered", format!("{offered} ({rate:.0}/s)"));
        report.figure("records applied", format!("{applied} ({:.0}/s)", self.applied_rate()));
        report.figure("overloaded, shed", format!("{overloaded}, {shed}"));
        let failures = format!("{expired}, {timed_out}, {failed}");
        report.figure("expired, timed out, failed", failures);
    }

    /// Adds the condition that most of what a machine can apply, `capacity` records per second, was
    /// answered `Ok`.
    pub fn report_goodput(&self, report: &mut Report, capacity: u64) {
        report.figure("applied in each second", format!("{:?}", self.applied_by_second));
        let seconds = (self.took.as_secs() as usize).min(self.applied_by_second.len());
        // What was answered while the load was offered: not the queue that it left behind.
        let answered: u64 = self.applied_by_second[..seconds].iter().sum();
        let rate = answered as f64 / self.took.as_secs_f64();
        let least = capacity * GOODPUT_PERCENT_MIN / 100;
        let seen = format!("{rate:.0}");
        let wanted = format!(">= {least}, of {capacity} that can be");
        report.check("records answered Ok per second", seen, wanted, rate >= least as f64);
    }
}

/// Watches for elections.
pub struct Terms(Vec<(GroupHandle, Term, Receiver<GroupEvent>)>);

impl Terms {
    /// Of `groups` on every node that runs, from now on.
    pub fn watch(cluster: &Cluster, groups: impl IntoIterator<Item = u64>) -> Self {
        let all = groups.into_iter().flat_map(|group| cluster.everywhere(group));
        let watched = all.map(|group| (group.clone(), group.status().term, group.subscribe()));
        Self(watched.collect())
    }

    /// Adds the conditions that nobody was elected and every term is what it was.
    pub fn report(self, report: &mut Report) {
        let (mut elections, mut changed) = (0, 0);
        for (group, term, mut events) in self.0 {
            changed += u32::from(group.status().term != term);
            loop {
                match events.try_recv() {
                    Ok(event) => {
                        elections += u64::from(matches!(event, GroupEvent::BecameLeader { .. }));
                    }
                    // More events than a quiet cluster has: whatever they were, not quiet.
                    Err(TryRecvError::Lagged(missed)) => elections += missed,
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
        }
        report.check("elections", elections, 0, elections == 0);
        report.check("replicas whose term changed", changed, 0, changed == 0);
    }
}

/// `callers` per group, each proposing again as soon as it has its answer, for `time`. A closed loop:
/// a service at saturation with a known number of calls in flight.
pub async fn saturate(
    groups: &[GroupHandle],
    callers: usize,
    command: Bytes,
    time: Duration,
) -> Tally {
    let until = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for group in groups.iter().cycle().take(groups.len() * callers) {
        tasks.spawn(call_until(group.clone(), command.clone(), until));
    }
    let mut all = Tally { took: time, ..Tally::default() };
    while let Some(own) = tasks.join_next().await {
        let own = own.expect("a caller never panics");
        all.offered += own.offered;
        all.applied += own.applied;
        all.overloaded += own.overloaded;
        all.expired += own.expired;
        all.timed_out += own.timed_out;
        all.failed += own.failed;
        all.latency.add(&own.latency).expect("all histograms have the same bounds");
    }
    all
}

async fn call_until(group: GroupHandle, command: Bytes, until: Instant) -> Tally {
    let mut own = Tally::default();
    while Instant::now() < until {
        let began = Instant::now();
        own.offered += 1;
        let answer = group.propose(command.clone()).await.map(|_| began.elapsed());
        if matches!(answer, Err(ProposeError::Overloaded { .. })) {
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
        own.add(1, answer);
    }
    own
}
