//! What happened in a run: every invariant, the running hash, the counts.

use std::fmt;

use polyraft_core::ids::{LogIndex, NodeId};

use crate::host::Host;
use crate::invariants::acknowledged_once::AcknowledgedOnce;
use crate::invariants::election_safety::ElectionSafety;
use crate::invariants::index_order::IndexOrder;
use crate::invariants::leader_completeness::LeaderCompleteness;
use crate::invariants::linearizable_reads::LinearizableReads;
use crate::invariants::log_matching::LogMatching;
use crate::invariants::one_vote::OneVote;
use crate::invariants::state_machine_safety::StateMachineSafety;
use crate::invariants::{Violation, mix};

/// How much happened in a run, so that a quiet one is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Simulated ticks.
    pub ticks: u64,
    /// Terms with a leader.
    pub elections: usize,
    /// Proposals acknowledged.
    pub applied: usize,
    /// Reads answered.
    pub reads: usize,
    /// Crashes.
    pub crashes: usize,
    /// Log writers that died.
    pub log_writers_replaced: usize,
    /// Changes of membership that took effect.
    pub changes: usize,
    /// Proposals that were appended, and whose place another leader's entry took.
    pub overwritten: usize,
    /// Durable entries read for slow followers.
    pub fetches: usize,
}

impl Counts {
    /// Adds another run's counts to these.
    pub fn add(&mut self, other: &Self) {
        self.ticks += other.ticks;
        self.elections += other.elections;
        self.applied += other.applied;
        self.reads += other.reads;
        self.crashes += other.crashes;
        self.log_writers_replaced += other.log_writers_replaced;
        self.changes += other.changes;
        self.overwritten += other.overwritten;
        self.fetches += other.fetches;
    }
}

/// Every invariant, and what else a run is judged by.
#[derive(Debug, Default)]
pub(super) struct History {
    pub elections: ElectionSafety,
    pub votes: OneVote,
    pub logs: LogMatching,
    pub leaders: LeaderCompleteness,
    pub applied: StateMachineSafety,
    pub indexes: IndexOrder,
    pub proposals: AcknowledgedOnce,
    pub reads: LinearizableReads,
    pub counts: Counts,
    pub acknowledged: LogIndex,
    hash: u64,
    is_traced: bool,
}

impl History {
    pub fn new(is_traced: bool) -> Self {
        Self { is_traced, ..Self::default() }
    }

    /// Adds an event to the hash, and prints it if asked to.
    pub fn note(&mut self, event: fmt::Arguments<'_>) {
        let line = event.to_string();
        let hash = line.bytes().fold(self.hash, |hash, byte| mix(hash, u64::from(byte)));
        self.hash = hash;
        if self.is_traced {
            println!("{:>5} {line}", self.counts.ticks);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn counts(&self) -> Counts {
        Counts {
            elections: self.elections.elections(),
            applied: self.proposals.applied(),
            reads: self.reads.answered(),
            ..self.counts
        }
    }

    /// Checks one running host against every rule about logs and indexes.
    pub fn check_host(&mut self, host: &Host) -> Result<(), Violation> {
        let Some(replica) = host.replica() else { return Ok(()) };
        let status = replica.status();
        self.indexes.check(host.node(), &status)?;
        self.logs.check(host.durable_log())?;
        let commit = usize::try_from(status.commit.get()).expect("a test's log fits in memory");
        self.leaders.committed(host.log(), commit, status.term)?;
        if status.role == polyraft_core::status::Role::Leader {
            self.leaders.leads(host.log(), status.term)?;
        }
        Ok(())
    }

    pub fn stopped(&mut self, node: NodeId) {
        self.indexes.stopped(node);
    }
}
