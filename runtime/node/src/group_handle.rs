//! Group handle: what an embedder holds of one group.
//!
//! ```text
//! propose ─→ Batcher ─→ … committed, applied ─→ Applied
//! read ────→ Group ─index confirmed→ Applier ─→ the machine's answer
//! ```
//!
//! A handle is a cheap clone and stays valid across restarts of the group's actors. It works on
//! every node: a follower forwards proposals to its leader and asks it for read indexes. Calls need
//! a tokio runtime with time enabled, any one; the node itself runs on threads of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polyraft_actors::applier::Query;
use polyraft_actors::batcher::{GetBatcherStats, Propose};
use polyraft_actors::clock::Clock;
use polyraft_actors::directory::{GroupAddrs, GroupCell};
use polyraft_actors::group::{Read, TransferLeader};
use polyraft_actors::mailbox::{ActorKind, Offer, offer};
use polyraft_actors::proposal::UnitReply;
use polyraft_actors::proposal_trace::TracedUnit;
use polyraft_core::batch::Unit;
use polyraft_core::error::{ProposeError, ReadError};
use polyraft_core::ids::{GroupId, LogIndex, NodeId, Term};
use polyraft_core::message::AppliedUnit;
use polyraft_core::propose_batcher::BatcherStats;
use polyraft_core::state_machine::Response;
use polyraft_core::status::{GroupEvent, GroupStatus, Health};
use polyraft_core::trace::TraceContext;
use tokio::sync::{broadcast, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::call_figures::CallFigures;

/// Time that the outcome of a proposal may take beyond its deadline to reach the caller, so that the
/// batcher's own, more precise answer comes first.
const ANSWER_GRACE: Duration = Duration::from_millis(50);

/// A command that was committed and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The entry that carried it.
    pub index: LogIndex,
    /// The entry's term.
    pub term: Term,
    /// The command's position within the entry, from 0.
    pub sub_index: u32,
    /// What the state machine answered.
    pub response: Response,
}

/// Commands that were committed and applied as one contiguous run of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedBatch {
    /// The entry that carried them.
    pub index: LogIndex,
    /// The entry's term.
    pub term: Term,
    /// The first command's position within the entry, from 0; the others follow it.
    pub first_sub_index: u32,
    /// One answer per command, in order.
    pub responses: Vec<Response>,
}

/// One group on one node.
#[derive(Clone)]
pub struct GroupHandle {
    id: GroupId,
    cell: Arc<GroupCell>,
    deadline: Duration,
    figures: Arc<CallFigures>,
    clock: Arc<dyn Clock>,
    trace: Option<TraceContext>,
}

impl GroupHandle {
    pub(crate) fn new(
        id: GroupId,
        cell: Arc<GroupCell>,
        deadline: Duration,
        figures: Arc<CallFigures>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { id, cell, deadline, figures, clock, trace: None }
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The group's name.
    pub fn name(&self) -> Arc<str> {
        self.cell.status().name
    }

    /// The replica as it last published itself. Never waits for the group (RT-7).
    pub fn status(&self) -> GroupStatus {
        self.cell.status()
    }

    /// The group's events from now on, those of this node's replica. 256 wait for a slow receiver; one
    /// that falls further behind hears `Lagged` with how many it missed, and goes on with the oldest
    /// that is kept. It slows down neither the group nor other receivers.
    pub fn subscribe(&self) -> broadcast::Receiver<GroupEvent> {
        self.cell.subscribe()
    }

    /// The same handle with another deadline for its calls; the default is the configured one. It
    /// counts from the call, and waiting for a group that is being rebuilt is part of it.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same handle for calls that are part of a sampled trace: of each proposal, the node that leads
    /// tells its own sink ([`crate::NodeConfig::with_trace_sink`]) which stages it reached when. Reads
    /// tell nothing.
    #[must_use]
    pub fn with_trace(&self, trace: TraceContext) -> Self {
        Self { trace: Some(trace), ..self.clone() }
    }

    /// Proposes one command, up to [`crate::limits::COMMAND_BYTES_MAX`] bytes, and waits until it is
    /// committed **and** applied by the leader, which may be on another node.
    ///
    /// # Errors
    /// See [`ProposeError`]; [`ProposeError::may_have_committed`] tells whether a plain retry is safe.
    ///
    /// # Cancellation
    /// Dropping the future is safe. The command may still be proposed, commit and apply.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Applied, ProposeError> {
        let unit = Unit { atomic: false, commands: vec![command.into()] };
        let AppliedUnit { index, term, first_sub_index, mut responses } = self.run(unit).await?;
        let response = responses.pop().expect("one command has one response");
        Ok(Applied { index, term, sub_index: first_sub_index, response })
    }

    /// Proposes independent commands as one contiguous run of one entry: all are committed, or none
    /// (BP-17). Each is accepted or rejected by the state machine on its own. One command to
    /// [`crate::limits::BATCH_COMMANDS_MAX`], together no larger than one entry.
    ///
    /// # Errors
    /// As for [`GroupHandle::propose`].
    ///
    /// # Cancellation
    /// As for [`GroupHandle::propose`].
    pub async fn propose_batch(&self, commands: Vec<Bytes>) -> Result<AppliedBatch, ProposeError> {
        self.run(Unit { atomic: false, commands }).await.map(AppliedBatch::from)
    }

    /// Proposes commands that take effect together: if the state machine rejects one, none does
    /// (BP-4), and every response is a rejection; the one that caused it keeps its body. As many
    /// commands and bytes as in [`GroupHandle::propose_batch`].
    ///
    /// # Errors
    /// As for [`GroupHandle::propose`].
    ///
    /// # Cancellation
    /// As for [`GroupHandle::propose`].
    pub async fn propose_atomic(&self, commands: Vec<Bytes>) -> Result<AppliedBatch, ProposeError> {
        self.run(Unit { atomic: true, commands }).await.map(AppliedBatch::from)
    }

    /// Answers a query from a state that reflects every proposal acknowledged before the call, on
    /// any node. Costs a round trip to the leader and a heartbeat round, shared by many reads.
    /// Source: Raft thesis §6.4 (ReadIndex).
    ///
    /// # Errors
    /// See [`ReadError`]. A read may always be repeated.
    ///
    /// # Cancellation
    /// Dropping the future is safe.
    pub async fn read(&self, query: impl Into<Bytes>) -> Result<Bytes, ReadError> {
        let started = std::time::Instant::now();
        let outcome = self.read_confirmed(query.into()).await;
        self.figures.read(false, started, &outcome);
        outcome
    }

    /// Answers a query from what this node has applied, which may be old.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancellation
    /// Dropping the future is safe.
    pub async fn read_stale(&self, query: impl Into<Bytes>) -> Result<Bytes, ReadError> {
        let started = std::time::Instant::now();
        let outcome = self.read_applied(query.into()).await;
        self.figures.read(true, started, &outcome);
        outcome
    }

    /// Asks this node's replica, if it leads, to hand leadership to the replica on `to`. Returns
    /// whether the request was taken, which says nothing of its outcome: that is a
    /// [`GroupEvent::LeaderChanged`]. Source: Raft thesis §3.10.
    pub fn transfer_leader(&self, to: NodeId) -> bool {
        self.cell.addrs().is_some_and(|a| a.group.try_send(TransferLeader { to }).is_ok())
    }

    /// What the batcher has done and what waits in it; `None` while the group is down.
    pub async fn batcher_stats(&self) -> Option<BatcherStats> {
        let (reply, stats) = oneshot::channel();
        self.cell.addrs()?.batcher.try_send(GetBatcherStats { reply }).ok()?;
        stats.await.ok()
    }

    async fn read_confirmed(&self, query: Bytes) -> Result<Bytes, ReadError> {
        let until = Instant::now() + self.deadline;
        let addrs = self.addrs(until).await.map_err(|down| self.read_error(down))?;
        let (reply, answer) = oneshot::channel();
        let read = Read { query, reply };
        self.answer(offer(&addrs.group, ActorKind::Group, read), answer, until).await
    }

    async fn read_applied(&self, query: Bytes) -> Result<Bytes, ReadError> {
        let until = Instant::now() + self.deadline;
        let addrs = self.addrs(until).await.map_err(|down| self.read_error(down))?;
        let (reply, answer) = oneshot::channel();
        let query = Query { query, at_least: LogIndex::ZERO, reply };
        self.answer(offer(&addrs.applier, ActorKind::Applier, query), answer, until).await
    }

    async fn run(&self, unit: Unit) -> Result<AppliedUnit, ProposeError> {
        let proposing = self.figures.propose();
        let outcome = self.propose_unit(unit).await;
        proposing.end(&outcome);
        outcome
    }

    async fn propose_unit(&self, unit: Unit) -> Result<AppliedUnit, ProposeError> {
        let (group, deadline) = (self.id, self.deadline);
        let trace = self.trace.map(|trace| TracedUnit::new(trace, self.clock.now()));
        let until = Instant::now() + deadline;
        let addrs = self.addrs(until).await.map_err(|down| self.propose_error(down))?;
        let (reply, outcome) = oneshot::channel();
        let left = until.duration_since(Instant::now());
        let propose = Propose { unit, deadline: left, trace, reply: UnitReply::Local(reply) };
        match offer(&addrs.batcher, ActorKind::Batcher, propose) {
            Offer::Queued => {}
            Offer::Dropped => {
                return Err(ProposeError::Overloaded { group, what: "the batcher's mailbox" });
            }
            Offer::Closed => return Err(ProposeError::Stopped { group }),
        }
        match timeout_at(until + ANSWER_GRACE, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // The actor that held the waiter died: nobody knows.
            Ok(Err(_)) => Err(ProposeError::Unknown { group }),
            Err(_) => Err(ProposeError::TimedOut { group, deadline }),
        }
    }

    /// The group's actors; while they are being rebuilt, waits for them until `until`.
    async fn addrs(&self, until: Instant) -> Result<Arc<GroupAddrs>, Health> {
        if let Some(addrs) = self.cell.addrs() {
            return Ok(addrs);
        }
        let mut status = self.cell.watch();
        loop {
            if let Some(addrs) = self.cell.addrs() {
                return Ok(addrs);
            }
            let health = status.borrow_and_update().health.clone();
            let gone = matches!(health, Health::Faulted(_) | Health::Stopped);
            if gone || timeout_at(until, status.changed()).await.is_err() {
                return Err(health);
            }
        }
    }

    async fn answer(
        &self,
        sent: Offer,
        answer: oneshot::Receiver<Result<Bytes, ReadError>>,
        until: Instant,
    ) -> Result<Bytes, ReadError> {
        let (group, deadline) = (self.id, self.deadline);
        match sent {
            Offer::Queued => {}
            Offer::Dropped => return Err(ReadError::Overloaded { group, what: "a mailbox" }),
            Offer::Closed => return Err(ReadError::Stopped { group }),
        }
        match timeout_at(until, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ReadError::Stopped { group }),
            Err(_) => Err(ReadError::TimedOut { group, deadline }),
        }
    }

    fn propose_error(&self, health: Health) -> ProposeError {
        let (group, deadline) = (self.id, self.deadline);
        match health {
            Health::Faulted(_) => ProposeError::Faulted { group },
            Health::Stopped => ProposeError::Stopped { group },
            _ => ProposeError::Expired { group, deadline },
        }
    }

    fn read_error(&self, health: Health) -> ReadError {
        let (group, deadline) = (self.id, self.deadline);
        match health {
            Health::Faulted(_) => ReadError::Faulted { group },
            Health::Stopped => ReadError::Stopped { group },
            _ => ReadError::TimedOut { group, deadline },
        }
    }
}

impl From<AppliedUnit> for AppliedBatch {
    fn from(unit: AppliedUnit) -> Self {
        let AppliedUnit { index, term, first_sub_index, responses } = unit;
        Self { index, term, first_sub_index, responses }
    }
}
