//! A desk: where the clients of one host wait, around the production propose batcher.
//!
//! ```text
//! propose ─unit→ ProposeBatcher ─cut→ batch ─submit→ Replica ─applied, undecided→ its clients
//!                   └─ refused, expired, stopped → clients, never proposed
//! ```
//!
//! As the batcher's actor does, it hands a batch over when it believes that its replica leads, takes
//! the units back if that turns out to be wrong, and counts a batch as in flight until it is decided.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use polyraft_core::batch::{self, Unit};
use polyraft_core::batch_config::BatchConfig;
use polyraft_core::propose_batcher::{Cut, ProposeBatcher};

use super::clock::{Clock, TICK};
use crate::host::ProposalTag;
use crate::invariants::Violation;
use crate::invariants::batch_accounts::BatchAccounts;

/// How long a unit may wait for the next leader after its batch was refused.
const REQUEUED_DEADLINE: Duration = Duration::from_secs(2);

/// Who waits on one host, in one life of its process.
pub(super) struct Desk {
    batcher: ProposeBatcher<ProposalTag>,
    accounts: BatchAccounts,
    /// Batches that were submitted and are not decided, by their own tags.
    submitted: BTreeMap<u64, Vec<ProposalTag>>,
    /// Whether the replica leads, as far as its events have told.
    pub leads: bool,
}

impl Desk {
    pub fn new(config: BatchConfig) -> Self {
        let batcher = ProposeBatcher::new(config).expect("a valid config");
        let (accounts, submitted) = (BatchAccounts::default(), BTreeMap::new());
        Self { batcher, accounts, submitted, leads: false }
    }

    /// A client proposes. Returns whether it waits.
    pub fn push(&mut self, clock: &Clock, unit: Unit, wait: Duration, tag: ProposalTag) -> bool {
        self.accounts.pushed += 1;
        let now = clock.now();
        let is_queued = self.batcher.push(now, unit, Some(now.after(wait)), tag).is_ok();
        self.accounts.refused += u64::from(!is_queued);
        is_queued
    }

    /// The clients whose deadlines have passed.
    pub fn expire(&mut self, clock: &Clock) -> Vec<ProposalTag> {
        let expired = self.batcher.expire(clock.now());
        self.accounts.expired += expired.len() as u64;
        expired
    }

    /// The next batch, if one is due and the replica is believed to lead.
    pub fn cut(&mut self, clock: &Clock) -> Option<Cut<ProposalTag>> {
        let due = self.leads.then(|| self.batcher.poll(clock.now(), clock.wall_ms()))?;
        self.accounts.cut += due.as_ref().map_or(0, |cut| cut.waiters.len() as u64);
        due
    }

    /// The batch `tag` is proposed.
    pub fn submitted(&mut self, tag: u64, clients: Vec<ProposalTag>) {
        self.submitted.insert(tag, clients);
    }

    /// A batch was refused, but may be welcome elsewhere: its units go back in line. Returns who was
    /// refused a place.
    pub fn requeue(
        &mut self,
        clock: &Clock,
        batch: Bytes,
        clients: Vec<ProposalTag>,
    ) -> Vec<ProposalTag> {
        self.batcher.on_decided(clock.now());
        let units = batch::decode(batch).expect("it was encoded here").units;
        let mut refused = Vec::new();
        for (unit, tag) in units.into_iter().zip(clients) {
            if !self.push(clock, unit, REQUEUED_DEADLINE, tag) {
                refused.push(tag);
            }
        }
        refused
    }

    /// The batch `tag` has come to an end: its clients.
    pub fn decided(&mut self, clock: &Clock, tag: u64) -> Vec<ProposalTag> {
        let Some(clients) = self.submitted.remove(&tag) else { return Vec::new() };
        self.batcher.on_decided(clock.now());
        clients
    }

    /// A batch was refused for good.
    pub fn dropped(&mut self, clock: &Clock) {
        self.batcher.on_decided(clock.now());
    }

    /// Loses the queue: its clients hear nothing.
    pub fn lose_queue(&mut self) {
        drop(self.batcher.fail_all());
    }

    /// The process ends: who waits in the queue, and whose batches are undecided.
    ///
    /// # Errors
    /// The batcher has lost a unit.
    pub fn close(&mut self) -> Result<(Vec<ProposalTag>, Vec<ProposalTag>), Violation> {
        let queued = self.batcher.stop();
        self.accounts.failed += queued.len() as u64;
        self.accounts.close(&self.batcher.stats())?;
        let undecided = std::mem::take(&mut self.submitted).into_values().flatten().collect();
        Ok((queued, undecided))
    }
}

/// What batchers are told: small bounds, and the shortest linger that a tick can show.
pub(super) fn config(enabled: bool, linger_ticks: u32) -> BatchConfig {
    let (linger, queue_commands_max, queue_bytes_max) = (TICK * linger_ticks, 64, 4_096);
    BatchConfig { enabled, linger, queue_commands_max, queue_bytes_max, ..BatchConfig::tiny() }
}
