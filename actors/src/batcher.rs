//! Batcher: one group's proposals, from every caller, into batches; or on to the leader's node.
//!
//! ```text
//! handle ─Propose→ ┐           ┌ leads here  → Submit → Group
//! link ─Forwarded→ ├ [queue] ──┤ leads there → Forward → PeerLink ⇄ leader's batcher
//! Group ─refused→  ┘           └ no leader   → waits, each unit until its deadline
//! ```
//!
//! Promise: every unit is answered once: applied, or failed with an error that says whether it may
//! still commit. A unit is forwarded one hop; what the other node refuses without proposing comes
//! back into the queue, what it may have proposed does not.
//! Not here: when a batch is cut (`polyraft_core::propose_batcher`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use polyraft_core::batch::{self, Unit};
use polyraft_core::error::ProposeError;
use polyraft_core::ids::{GroupId, NodeId, ReplicaId, Term};
use polyraft_core::message::{AppliedUnit, Body, Envelope, Forward};
use polyraft_core::output::Refusal;
use polyraft_core::propose_batcher::{BatcherStats, ProposeBatcher, RefuseReason, Refused};
use polyraft_core::time::Moment;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::directory::{Directory, GroupCell};
use crate::gauge_share::GaugeShare;
use crate::group::Submit;
use crate::guard::{DownGuard, killable};
use crate::mailbox::{ActorKind, Offer, Turn, deliver_fact, messages, offer};
use crate::peer_link::SendEnvelopes;
use crate::proposal::{BatchCredit, BatchWaiters, RemoteReply, UnitReply, UnitWaiter};
use crate::proposal_trace::{TraceOutlet, TracedUnit};

messages!(
    GetBatcherStats,
    Propose,
    Forwarded,
    ForwardOutcome,
    ForwardsLost,
    LeaderChanged,
    SubmitRefused,
    BatchDecided,
    Cut
);

/// Command from a handle: propose one unit. Refused when the mailbox is full: the caller is told
/// that the group is overloaded.
#[derive(Debug)]
pub struct Propose {
    /// What to propose.
    pub unit: Unit,
    /// How long it may wait before it is proposed.
    pub deadline: Duration,
    /// If the caller is sampled.
    pub trace: Option<TracedUnit>,
    /// Where the outcome goes.
    pub reply: UnitReply,
}

/// Fact from a link: a peer forwards one of its callers' units. Offered; the peer's caller times out
/// if it is dropped.
#[derive(Debug)]
pub struct Forwarded {
    /// The node that forwards.
    pub peer: NodeId,
    /// Its replica of the group.
    pub from: ReplicaId,
    /// The request.
    pub forward: Forward,
    /// The request's own, as of its arrival.
    pub trace: Option<TracedUnit>,
}

/// Fact from a link: the outcome of a unit that was forwarded. Offered.
#[derive(Debug)]
pub struct ForwardOutcome {
    /// The request.
    pub request_id: u64,
    /// What the leader's node said.
    pub outcome: Result<AppliedUnit, ProposeError>,
}

/// Fact from a link: the connection to a peer is gone, and answers with it.
#[derive(Debug, Clone, Copy)]
pub struct ForwardsLost {
    /// The peer.
    pub peer: NodeId,
}

/// Fact from the group: who leads. One per change.
#[derive(Debug, Clone, Copy)]
pub struct LeaderChanged {
    /// The term.
    pub term: Term,
    /// The leader's node, if known.
    pub leader: Option<NodeId>,
    /// Whether that is this node.
    pub leads: bool,
}

/// Fact from the group: a batch was not proposed. One per `Submit` at most.
#[derive(Debug)]
pub struct SubmitRefused {
    /// The batch.
    pub batch: Bytes,
    /// Who waits for it.
    pub waiters: BatchWaiters,
    /// Why.
    pub why: Refusal,
}

/// Fact from a [`BatchCredit`]: a batch has come to an end. One per `Submit`.
#[derive(Debug, Clone, Copy)]
pub struct BatchDecided;

/// Asks for the figures (BP-21).
#[derive(Debug)]
pub struct GetBatcherStats {
    /// Where they go.
    pub reply: oneshot::Sender<BatcherStats>,
}

/// To itself: cut what is due, behind everything that is already in the mailbox.
struct Cut;

/// Units forwarded and unanswered, beyond which the rest waits in the queue.
const FORWARDS_MAX: usize = 16_384;
/// Pause after a node, this one included, said that it does not lead, before units are sent to it
/// again: a leader that hands over refuses proposals until that has succeeded or failed.
const REFORWARD_PAUSE: Duration = Duration::from_millis(10);
/// How often forwarded units are held against their deadlines: a link may lose them silently.
const FORWARD_SWEEP: Duration = Duration::from_millis(100);

/// Who a batcher sends to, in one life of its group.
pub struct BatcherPorts {
    /// The group.
    pub submit: Recipient<Submit>,
    /// Links to peers.
    pub directory: Arc<Directory>,
    /// The group's published status.
    pub cell: Arc<GroupCell>,
    /// Monotonic and wall time.
    pub clock: Arc<dyn Clock>,
    /// Where sampled proposals are told of, if anywhere.
    pub traces: Option<TraceOutlet>,
}

/// Someone who waits, and for how long they were ready to.
struct Waiter {
    reply: UnitReply,
    deadline: Duration,
    expires: Moment,
    trace: Option<TracedUnit>,
}

/// A unit on another node.
struct Outstanding {
    peer: NodeId,
    unit: Unit,
    waiter: Waiter,
}

/// The actor.
pub struct Batcher {
    group: GroupId,
    batcher: ProposeBatcher<Waiter>,
    ports: BatcherPorts,
    leader: LeaderChanged,
    forwards: BTreeMap<u64, Outstanding>,
    next_request: u64,
    hold_until: Moment,
    sweep_at: Moment,
    cut_notified: bool,
    wake: Option<(Moment, SpawnHandle)>,
    turn: Turn,
    queued: GaugeShare,
    _guard: DownGuard,
}

impl Batcher {
    /// A batcher for one life of a group. `first_request` must not repeat ids of an earlier life.
    pub fn new(
        group: GroupId,
        batcher_config: polyraft_core::batch_config::BatchConfig,
        ports: BatcherPorts,
        first_request: u64,
        guard: DownGuard,
    ) -> Self {
        Self {
            group,
            batcher: ProposeBatcher::new(batcher_config).expect("the node's config was validated"),
            ports,
            leader: LeaderChanged { term: Term::default(), leader: None, leads: false },
            forwards: BTreeMap::new(),
            next_request: first_request,
            hold_until: Moment::START,
            sweep_at: Moment::START,
            cut_notified: false,
            wake: None,
            turn: Turn::of(ActorKind::Batcher),
            queued: GaugeShare::new(metrics::gauge!("polyraft_propose_queue_commands")),
            _guard: guard,
        }
    }

    fn now(&self) -> Moment {
        self.ports.clock.now()
    }

    fn push(&mut self, unit: Unit, mut waiter: Waiter) {
        let (now, expires) = (self.now(), waiter.expires);
        waiter.trace = waiter.trace.map(|trace| trace.queued(now));
        if let Err(Refused { waiter, reason }) = self.batcher.push(now, unit, Some(expires), waiter)
        {
            let error = self.refusal(&reason, waiter.deadline);
            waiter.reply.send(Err(error));
        }
    }

    fn refusal(&self, reason: &RefuseReason, deadline: Duration) -> ProposeError {
        let group = self.group;
        let max = polyraft_core::limits::BATCH_COMMANDS_MAX;
        match *reason {
            RefuseReason::Length { commands } => ProposeError::BatchLength { group, commands, max },
            RefuseReason::TooLarge { bytes, max } => ProposeError::TooLarge { group, bytes, max },
            RefuseReason::Expired => ProposeError::Expired { group, deadline },
            RefuseReason::Stopped => ProposeError::Stopped { group },
            _ => ProposeError::Overloaded { group, what: "the propose queue" },
        }
    }

    fn touched(&mut self, ctx: &mut Context<Self>) {
        self.turn.message();
        if !self.cut_notified {
            self.cut_notified = true;
            ctx.notify(Cut);
        }
    }

    fn cut(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        for waiter in self.batcher.expire(now) {
            let (group, deadline) = (self.group, waiter.deadline);
            waiter.reply.send(Err(ProposeError::Expired { group, deadline }));
        }
        self.expire_forwards(now);
        if self.leader.leads {
            self.submit_due(now, ctx);
        } else if let Some(leader) = self.leader.leader {
            self.forward_due(now, leader);
        }
        self.queued.set(self.batcher.stats().pending_commands as u64);
        self.schedule(now, ctx);
    }

    fn submit_due(&mut self, now: Moment, ctx: &mut Context<Self>) {
        if now < self.hold_until {
            return;
        }
        while let Some(cut) = self.batcher.poll(now, self.ports.clock.wall_ms()) {
            metrics::counter!("polyraft_batches_total", "reason" => cut.reason.as_str())
                .increment(1);
            metrics::histogram!("polyraft_batch_bytes").record(cut.batch.len() as f64);
            metrics::histogram!("polyraft_batch_commands").record(cut.commands as f64);
            metrics::histogram!("polyraft_batch_wait_seconds").record(cut.waited.as_secs_f64());
            let units = cut.waiters.into_iter().map(|(waiter, commands)| UnitWaiter {
                commands: u32::try_from(commands).expect("a unit's commands are capped"),
                reply: waiter.reply,
                patience: (waiter.deadline, waiter.expires),
                trace: waiter.trace,
            });
            let credit = BatchCredit::new(ctx.address().recipient());
            let waiters = BatchWaiters::new(units.collect(), Some(credit))
                .reached(cut.oldest)
                .told_to(self.ports.traces.as_ref());
            deliver_fact(&self.ports.submit, Submit { batch: cut.batch, waiters });
        }
    }

    fn forward_due(&mut self, now: Moment, leader: NodeId) {
        if now < self.hold_until {
            return;
        }
        let mut envelopes = Vec::new();
        while self.forwards.len() < FORWARDS_MAX {
            let Some(cut) = self.batcher.poll(now, self.ports.clock.wall_ms()) else { break };
            self.batcher.on_decided(now); // Forwards are bounded by their own table.
            let batch = batch::decode(cut.batch).expect("it was encoded here");
            for (unit, (waiter, _)) in batch.units.into_iter().zip(cut.waiters) {
                envelopes.extend(self.forward(now, leader, unit, waiter));
            }
        }
        let units = envelopes.len() as u64;
        metrics::counter!("polyraft_proposals_forwarded_total").increment(units);
        self.send(now, leader, envelopes);
    }

    fn forward(
        &mut self,
        now: Moment,
        peer: NodeId,
        unit: Unit,
        waiter: Waiter,
    ) -> Option<Envelope> {
        let status = self.ports.cell.status();
        let to = status.configuration.replica_on(peer)?;
        let request_id = self.next_request;
        self.next_request += 1;
        let timeout = waiter.expires.since(now);
        let units = vec![unit.clone()];
        let trace = waiter.trace.map(|trace| trace.context());
        self.forwards.insert(request_id, Outstanding { peer, unit, waiter });
        let body = Body::Forward(Forward { request_id, units, timeout, trace });
        Some(Envelope { group: self.group, from: status.replica, to, to_node: peer, body })
    }

    fn send(&mut self, now: Moment, peer: NodeId, envelopes: Vec<Envelope>) {
        if envelopes.is_empty() {
            return;
        }
        let first = self.next_request - envelopes.len() as u64;
        let link = self.ports.directory.link(peer);
        let sent = link.map(|link| offer(&link, ActorKind::PeerLink, SendEnvelopes { envelopes }));
        if sent != Some(Offer::Queued) {
            self.forwards_refused(now, first);
        }
    }

    /// The link did not take the requests from `first` on: they go back in line, for a while.
    fn forwards_refused(&mut self, now: Moment, first: u64) {
        self.hold_until = now.after(REFORWARD_PAUSE);
        for (_, outstanding) in self.forwards.split_off(&first) {
            self.push(outstanding.unit, outstanding.waiter);
        }
    }

    /// Answers what is outstanding at `peer`: it may have been proposed there.
    fn forwards_lost(&mut self, peer: NodeId) {
        let group = self.group;
        let lost = self.forwards.extract_if(.., |_, outstanding| outstanding.peer == peer);
        for (_, outstanding) in lost {
            outstanding.waiter.reply.send(Err(ProposeError::Unknown { group }));
        }
    }

    /// Gives up on what has been outstanding beyond its deadline: its frame, or the answer, was lost.
    fn expire_forwards(&mut self, now: Moment) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.after(FORWARD_SWEEP);
        let group = self.group;
        let expired = self.forwards.extract_if(.., |_, unit| unit.waiter.expires <= now);
        for (_, Outstanding { waiter: Waiter { reply, deadline, .. }, .. }) in expired {
            reply.send(Err(ProposeError::TimedOut { group, deadline }));
        }
    }

    /// Wakes up at the next moment at which anything may be due.
    fn schedule(&mut self, now: Moment, ctx: &mut Context<Self>) {
        let held = (self.hold_until > now).then_some(self.hold_until);
        let next = match self.batcher.next_wake(now) {
            Some(at) if self.leader.leader.is_some() => Some(at.max(held.unwrap_or(at))),
            // Without a leader only deadlines matter; they need no better resolution than this.
            Some(at) => Some(at.max(now.after(Duration::from_millis(10)))),
            None => None,
        };
        let sweep = (!self.forwards.is_empty()).then_some(self.sweep_at);
        let next = next.into_iter().chain(sweep).min();
        let next = next.map(|at| at.max(now.after(Duration::from_micros(100))));
        let pending = self.wake.as_ref().map(|(at, _)| *at).filter(|at| *at > now);
        if next == pending || matches!((next, pending), (Some(n), Some(p)) if p <= n) {
            return;
        }
        if let Some((_, handle)) = self.wake.take() {
            ctx.cancel_future(handle);
        }
        self.wake =
            next.map(|at| (at, ctx.run_later(at.since(now), |batcher, ctx| batcher.cut(ctx))));
    }

    fn not_leader(&self) -> ProposeError {
        let LeaderChanged { term, leader, .. } = self.leader;
        ProposeError::NotLeader { group: self.group, term, leader }
    }
}

impl Actor for Batcher {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        let group = self.group;
        for waiter in self.batcher.stop() {
            waiter.reply.send(Err(ProposeError::Stopped { group }));
        }
        for (_, outstanding) in std::mem::take(&mut self.forwards) {
            outstanding.waiter.reply.send(Err(ProposeError::Unknown { group }));
        }
    }
}

killable!(Batcher);

impl Handler<Cut> for Batcher {
    type Result = ();

    fn handle(&mut self, _: Cut, ctx: &mut Self::Context) {
        self.cut_notified = false;
        self.turn.end();
        self.cut(ctx);
    }
}

impl Handler<Propose> for Batcher {
    type Result = ();

    fn handle(&mut self, propose: Propose, ctx: &mut Self::Context) {
        let Propose { unit, deadline, trace, reply } = propose;
        let expires = self.now().after(deadline);
        self.push(unit, Waiter { reply, deadline, expires, trace });
        self.touched(ctx);
    }
}

impl Handler<Forwarded> for Batcher {
    type Result = ();

    fn handle(&mut self, forwarded: Forwarded, ctx: &mut Self::Context) {
        let Forwarded { peer, from, forward, trace } = forwarded;
        let Forward { request_id, units, timeout, .. } = forward;
        let expires = self.now().after(timeout);
        for unit in units {
            let reply = UnitReply::Remote(RemoteReply::new(
                self.ports.directory.clone(),
                self.group,
                self.ports.cell.status().replica,
                (peer, from),
                request_id,
            ));
            if self.leader.leads {
                self.push(unit, Waiter { reply, deadline: timeout, expires, trace });
            } else {
                reply.send(Err(self.not_leader()));
            }
        }
        self.touched(ctx);
    }
}

impl Handler<ForwardOutcome> for Batcher {
    type Result = ();

    fn handle(&mut self, message: ForwardOutcome, ctx: &mut Self::Context) {
        let Some(outstanding) = self.forwards.remove(&message.request_id) else { return };
        match message.outcome {
            // Not proposed there: it goes back in line, until its deadline.
            Err(ProposeError::NotLeader { .. }) => {
                self.hold_until = self.now().after(REFORWARD_PAUSE);
                self.push(outstanding.unit, outstanding.waiter);
            }
            outcome => outstanding.waiter.reply.send(outcome),
        }
        self.touched(ctx);
    }
}

impl Handler<ForwardsLost> for Batcher {
    type Result = ();

    fn handle(&mut self, ForwardsLost { peer }: ForwardsLost, _: &mut Self::Context) {
        self.forwards_lost(peer);
    }
}

impl Handler<LeaderChanged> for Batcher {
    type Result = ();

    fn handle(&mut self, changed: LeaderChanged, ctx: &mut Self::Context) {
        self.leader = changed;
        self.hold_until = Moment::START;
        self.touched(ctx);
    }
}

impl Handler<SubmitRefused> for Batcher {
    type Result = ();

    fn handle(&mut self, refused: SubmitRefused, ctx: &mut Self::Context) {
        let SubmitRefused { batch, waiters, why } = refused;
        let what = match why {
            Refusal::ApplyBacklogFull => "the apply backlog",
            Refusal::UncommittedFull | Refusal::ChangePending => "the uncommitted log",
            Refusal::NotLeader => {
                // A leader that hands over; who it is otherwise has been told already.
                if self.leader.leads {
                    self.hold_until = self.now().after(REFORWARD_PAUSE);
                }
                self.requeue(batch, waiters);
                return self.touched(ctx);
            }
        };
        for unit in waiters.into_units() {
            unit.reply.send(Err(ProposeError::Overloaded { group: self.group, what }));
        }
    }
}

impl Batcher {
    /// Leadership went elsewhere before the batch was proposed: its units go back in line, with the
    /// deadlines that they came with.
    fn requeue(&mut self, batch: Bytes, waiters: BatchWaiters) {
        let batch = batch::decode(batch).expect("it was encoded here");
        for (unit, waiter) in batch.units.into_iter().zip(waiters.into_units()) {
            let (deadline, expires) = waiter.patience;
            let UnitWaiter { reply, trace, .. } = waiter;
            self.push(unit, Waiter { reply, deadline, expires, trace });
        }
    }
}

impl Handler<BatchDecided> for Batcher {
    type Result = ();

    fn handle(&mut self, _: BatchDecided, ctx: &mut Self::Context) {
        let now = self.now();
        self.batcher.on_decided(now);
        self.touched(ctx);
    }
}

impl Handler<GetBatcherStats> for Batcher {
    type Result = ();

    fn handle(&mut self, GetBatcherStats { reply }: GetBatcherStats, _: &mut Self::Context) {
        // An Err means that nobody waits any more.
        let _ = reply.send(self.batcher.stats());
    }
}
