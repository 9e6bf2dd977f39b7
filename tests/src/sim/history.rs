//! What happened in a run: every invariant, the running hash, the counts.

use std::fmt::{self, Write};

use polyraft_core::entry::Configuration;
use polyraft_core::ids::{LogIndex, NodeId};
use polyraft_core::message::{Body, Envelope};
use polyraft_core::status::Role;

use super::counts::Counts;
use crate::host::Host;
use crate::invariants::acknowledged_once::AcknowledgedOnce;
use crate::invariants::election_safety::ElectionSafety;
use crate::invariants::index_order::IndexOrder;
use crate::invariants::leader_completeness::LeaderCompleteness;
use crate::invariants::linearizable_reads::LinearizableReads;
use crate::invariants::log_matching::LogMatching;
use crate::invariants::one_change::OneChange;
use crate::invariants::one_vote::OneVote;
use crate::invariants::state_agreement::StateAgreement;
use crate::invariants::state_machine_safety::StateMachineSafety;
use crate::invariants::{Violation, mix};

/// Every invariant, and what else a run is judged by.
#[derive(Debug, Default)]
pub(super) struct History {
    pub elections: ElectionSafety,
    pub votes: OneVote,
    pub logs: LogMatching,
    pub leaders: LeaderCompleteness,
    pub changes: OneChange,
    pub applied: StateMachineSafety,
    pub states: StateAgreement,
    pub indexes: IndexOrder,
    pub proposals: AcknowledgedOnce,
    pub reads: LinearizableReads,
    pub counts: Counts,
    pub acknowledged: LogIndex,
    hash: u64,
    is_traced: bool,
}

/// Hashes text as it is formatted.
struct TextHash(u64);

impl Write for TextHash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = text
            .bytes()
            .fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Ok(())
    }
}

impl History {
    pub fn new(is_traced: bool) -> Self {
        Self { is_traced, ..Self::default() }
    }

    /// Adds an event to the hash, and prints it if asked to.
    pub fn note(&mut self, event: fmt::Arguments<'_>) {
        let mut text = TextHash(self.hash);
        text.write_fmt(event).expect("hashing never fails");
        self.hash = mix(text.0, 0);
        if self.is_traced {
            println!("{:>5} {event}", self.counts.ticks);
        }
    }

    /// Adds a message that `node` sends.
    pub fn note_sent(&mut self, node: NodeId, envelope: &Envelope) {
        let Body::Raft(message) = &envelope.body else { return };
        let to = envelope.to_node;
        let place = mix(message.term.get(), message.index.get());
        let tail = mix(message.entries.len() as u64, message.commit.get());
        let kind = mix(message.kind as u64, u64::from(message.reject));
        self.hash = mix(self.hash, mix(mix(node.get(), to.get()), mix(mix(place, tail), kind)));
        self.counts.messages += 1;
        if self.is_traced {
            println!("{:>5} {}", self.counts.ticks, crate::trace::describe_sent(node, envelope));
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
            states_compared: self.states.compared(),
            ..self.counts
        }
    }

    /// Checks one running host against every rule about logs and indexes.
    pub fn check_host(&mut self, host: &mut Host) -> Result<(), Violation> {
        let unchanged = host.take_unchanged();
        self.logs.check(host.node(), host.durable_log(), unchanged)?;
        let Some(replica) = host.replica() else { return Ok(()) };
        let status = replica.status();
        self.indexes.check(host.node(), &status)?;
        let commit = usize::try_from(status.commit.get()).expect("a test's log fits in memory");
        let before = self.leaders.upto();
        self.leaders.committed(host.log(), commit, status.term)?;
        let upto = self.leaders.upto();
        if upto > before {
            self.note(format_args!("n{} committed {upto}", host.node()));
        }
        self.changes.check(&status, upto)?;
        if status.role == Role::Leader {
            self.leaders.leads(host.id(), host.log(), status.term)?;
        }
        Ok(())
    }

    /// A configuration takes effect on `host`, whose replica has just learned what is committed.
    pub fn configured(
        &mut self,
        host: &Host,
        configuration: &Configuration,
    ) -> Result<(), Violation> {
        self.counts.changes += 1;
        let Some(replica) = host.replica() else { return Ok(()) };
        let status = replica.status();
        let commit = usize::try_from(status.commit.get()).expect("a test's log fits in memory");
        self.leaders.committed(host.log(), commit, status.term)?;
        self.changes.in_force(configuration, self.leaders.upto())
    }

    pub fn stopped(&mut self, node: NodeId) {
        self.indexes.stopped(node);
    }
}
