//! Proposals in flight: the waiters that travel with a committed entry, and how they are answered.
//!
//! ```text
//! BatchWaiters ─with the entry→ Applier ─resolve→ each caller's oneshot
//! ```
//!
//! Waiters are woken by the applier itself, one per unit, as soon as the entry is applied (AP-11).
//! A waiter that is dropped unanswered tells its caller the same as [`ProposeError::Unknown`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use polyraft_core::entry::LogEntry;
use polyraft_core::error::ProposeError;
use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use polyraft_core::message::{AppliedUnit, Body, Envelope, ForwardReply};
use polyraft_core::state_machine::Response;
use polyraft_core::time::Moment;
use tokio::sync::oneshot;

use crate::batcher::BatchDecided;
use crate::directory::Directory;
use crate::mailbox::{ActorKind, deliver_fact, offer};
use crate::peer_link::SendEnvelopes;
use crate::proposal_trace::{TraceOutlet, TracedBatch, TracedUnit};
use crate::stage_clock::Durable;

/// Where the outcome of one unit goes.
#[derive(Debug)]
pub enum UnitReply {
    /// A caller on this node, who may have gone.
    Local(oneshot::Sender<Result<AppliedUnit, ProposeError>>),
    /// A caller's node, which forwarded the unit.
    Remote(RemoteReply),
}

impl UnitReply {
    /// Answers. An answer that cannot be delivered is of no interest any more.
    pub fn send(self, outcome: Result<AppliedUnit, ProposeError>) {
        match self {
            Self::Local(reply) => drop(reply.send(outcome)),
            Self::Remote(reply) => reply.send(outcome),
        }
    }
}

/// Answers a forwarded unit over the link to the node that forwarded it. Dropped unanswered, it says
/// that the outcome is unknown.
pub struct RemoteReply {
    directory: Arc<Directory>,
    group: GroupId,
    from: ReplicaId,
    to: (NodeId, ReplicaId),
    request_id: u64,
    answered: bool,
}

impl RemoteReply {
    /// A reply of the group's replica `from` to the request of the replica `to`.
    pub fn new(
        directory: Arc<Directory>,
        group: GroupId,
        from: ReplicaId,
        to: (NodeId, ReplicaId),
        request_id: u64,
    ) -> Self {
        Self { directory, group, from, to, request_id, answered: false }
    }

    fn send(mut self, outcome: Result<AppliedUnit, ProposeError>) {
        self.answer(outcome);
    }

    fn answer(&mut self, outcome: Result<AppliedUnit, ProposeError>) {
        self.answered = true;
        let (to_node, to) = self.to;
        let Some(link) = self.directory.link(to_node) else { return };
        let reply = ForwardReply { request_id: self.request_id, results: vec![outcome] };
        let body = Body::ForwardReply(reply);
        let envelope = Envelope { group: self.group, from: self.from, to, to_node, body };
        // A reply that is dropped here leaves its caller to its deadline.
        let message = SendEnvelopes { envelopes: vec![envelope] };
        let _ = offer(&link, ActorKind::PeerLink, message);
    }
}

impl fmt::Debug for RemoteReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteReply({} to {:?})", self.request_id, self.to)
    }
}

impl Drop for RemoteReply {
    fn drop(&mut self) {
        if !self.answered {
            self.answer(Err(ProposeError::Unknown { group: self.group }));
        }
    }
}

/// Someone who waits for one unit of a batch.
#[derive(Debug)]
pub struct UnitWaiter {
    /// Commands in the unit; its share of the entry's responses.
    pub commands: u32,
    /// Where the outcome goes.
    pub reply: UnitReply,
    /// How long the caller was ready to wait, and until when: for a unit that goes back in line.
    pub patience: (Duration, Moment),
    /// If the caller is sampled.
    pub trace: Option<TracedUnit>,
}

/// One batch in flight; gives its credit back to the batcher when dropped, whichever way it ended.
#[derive(Debug)]
pub struct BatchCredit(Recipient<BatchDecided>);

impl BatchCredit {
    /// A credit of the batcher `of`.
    pub fn new(of: Recipient<BatchDecided>) -> Self {
        Self(of)
    }
}

impl Drop for BatchCredit {
    fn drop(&mut self) {
        deliver_fact(&self.0, BatchDecided);
    }
}

/// Everyone who waits for one entry, in the order of its units.
#[derive(Debug, Default)]
pub struct BatchWaiters {
    units: Vec<UnitWaiter>,
    /// When the stage was reached that the batch is in.
    reached: Option<Moment>,
    /// If one of the units is sampled, and somebody wants to know.
    traced: Option<Box<TracedBatch>>,
    _credit: Option<BatchCredit>,
}

impl BatchWaiters {
    /// Waiters in the order of the batch's units.
    pub fn new(units: Vec<UnitWaiter>, credit: Option<BatchCredit>) -> Self {
        Self { units, reached: None, traced: None, _credit: credit }
    }

    /// The same waiters, whose batch has reached its next stage.
    #[must_use]
    pub fn reached(self, now: Moment) -> Self {
        Self { reached: Some(now), ..self }
    }

    /// The same waiters; the stages of those that are sampled are told there, when the batch ends.
    #[must_use]
    pub fn told_to(mut self, outlet: Option<&TraceOutlet>) -> Self {
        let outlet = outlet.filter(|_| self.units.iter().any(|unit| unit.trace.is_some()));
        self.traced = outlet.map(|outlet| Box::new(TracedBatch::new(outlet.clone())));
        self
    }

    /// The batch is in the leader's log.
    pub(crate) fn submitted(&mut self, now: Moment) {
        if let Some(traced) = &mut self.traced {
            traced.submitted(now);
        }
    }

    /// The same waiters, whose batch goes to the applier.
    #[must_use]
    pub(crate) fn committed(mut self, durable: Option<Durable>, now: Moment) -> Self {
        if let Some(traced) = &mut self.traced {
            traced.committed(durable, now);
        }
        self.reached(now)
    }

    /// How long the batch has been in its stage, if anybody measures it.
    pub fn since(&self, now: Moment) -> Option<Duration> {
        self.reached.map(|reached| now.since(reached))
    }

    /// The waiters, unanswered; the credit is given back, and nothing is told of any stage.
    pub fn into_units(self) -> Vec<UnitWaiter> {
        self.units
    }

    /// Answers every waiter with its share of `responses`. [`BatchWaiters::reached`] comes first: the
    /// batch was applied then.
    ///
    /// # Panics
    /// If the units' commands are not as many as the responses: callers would get each other's.
    pub fn resolve(mut self, index: LogIndex, term: Term, responses: Vec<Response>) {
        let expected: usize = self.units.iter().map(|u| u.commands as usize).sum();
        let got = responses.len();
        assert!(expected == got, "entry {index}: {got} responses for {expected} commands");
        let trace = self.trace();
        let mut responses = responses.into_iter();
        let mut first_sub_index = 0;
        for unit in self.units {
            let responses = responses.by_ref().take(unit.commands as usize).collect();
            unit.reply.send(Ok(AppliedUnit { index, term, first_sub_index, responses }));
            first_sub_index += unit.commands;
        }
        if let (Some((traced, units)), Some(applied)) = (trace, self.reached) {
            traced.applied(&units, applied, index);
        }
    }

    /// Answers every waiter with `error`.
    pub fn fail_all(mut self, error: &ProposeError) {
        let trace = self.trace();
        for unit in self.units {
            unit.reply.send(Err(error.clone()));
        }
        if let Some((traced, units)) = trace {
            traced.failed(&units, error);
        }
    }

    /// What there is to tell, and of whom.
    fn trace(&mut self) -> Option<(Box<TracedBatch>, Vec<TracedUnit>)> {
        let traced = self.traced.take()?;
        Some((traced, self.units.iter().filter_map(|unit| unit.trace).collect()))
    }
}

/// An entry that the group has committed, with those who wait for it on this node.
#[derive(Debug)]
pub struct CommittedEntry {
    /// The entry.
    pub entry: LogEntry,
    /// Who waits; `None` for entries proposed elsewhere, in an earlier life, or by Raft itself.
    pub waiters: Option<BatchWaiters>,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use polyraft_core::ids::GroupId;
    use polyraft_core::trace::TraceContext;

    use super::*;
    use crate::clock::VirtualClock;
    use crate::proposal_trace::{ProposalTrace, TraceSink};

    fn waiters(
        commands: &[u32],
    ) -> (BatchWaiters, Vec<oneshot::Receiver<Result<AppliedUnit, ProposeError>>>) {
        let (units, replies) = commands
            .iter()
            .map(|&commands| {
                let (reply, receiver) = oneshot::channel();
                let (reply, patience) = (UnitReply::Local(reply), (Duration::ZERO, Moment::START));
                (UnitWaiter { commands, reply, patience, trace: None }, receiver)
            })
            .unzip();
        (BatchWaiters::new(units, None), replies)
    }

    fn response(n: u8) -> Response {
        Response::Accepted(Bytes::copy_from_slice(&[n]))
    }

    #[test]
    fn each_unit_gets_its_own_share() {
        let (batch, mut replies) = waiters(&[2, 1]);
        drop(replies.remove(0));
        let (index, term) = (LogIndex::new(9), Term::new(4));
        batch.resolve(index, term, vec![response(0), response(1), response(2)]);
        let expected =
            AppliedUnit { index, term, first_sub_index: 2, responses: vec![response(2)] };
        assert_eq!(replies[0].try_recv().expect("answered"), Ok(expected));
    }

    /// Goal: proposals that nobody samples carry nothing for those that are. Method: the same outlet
    /// with and without a sampled unit, and no outlet.
    #[test]
    fn only_a_sampled_unit_makes_a_batch_traced() {
        let context = TraceContext::from_traceparent(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
        let trace = context.map(|context| TracedUnit::new(context, Moment::START));
        let outlet = TraceOutlet {
            sink: Arc::new(Deaf),
            clock: Arc::new(VirtualClock::start(0)),
            node: NodeId::new(1),
            group: GroupId::new(1),
        };
        let is_traced = |trace, outlet| {
            let (mut batch, _replies) = waiters(&[1, 1]);
            batch.units[1].trace = trace;
            batch.told_to(outlet).traced.is_some()
        };
        assert!(is_traced(trace, Some(&outlet)));
        assert!(!is_traced(None, Some(&outlet)) && !is_traced(trace, None));
    }

    #[derive(Debug)]
    struct Deaf;

    impl TraceSink for Deaf {
        fn ended(&self, _: &ProposalTrace) {}
    }

    #[test]
    fn failing_answers_everyone() {
        let (batch, replies) = waiters(&[1, 5, 1]);
        let error = ProposeError::Unknown { group: GroupId::new(1) };
        batch.fail_all(&error);
        for mut reply in replies {
            assert_eq!(reply.try_recv().expect("answered"), Err(error.clone()));
        }
    }

    #[test]
    #[should_panic(expected = "2 responses for 3 commands")]
    fn a_wrong_number_of_responses_is_never_spread() {
        let (batch, _replies) = waiters(&[2, 1]);
        batch.resolve(LogIndex::new(1), Term::new(1), vec![response(0), response(1)]);
    }
}
