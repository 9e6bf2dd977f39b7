//! Group: the actor that owns one replica and does what its outputs say.
//!
//! ```text
//! Tick, PeerLink, Batcher, LogWriter, Applier ─→ feed ─(dirty)→ Flush: take, dispatch
//! ```
//!
//! Every handler only feeds the replica; one `Flush` behind all that is in the mailbox takes the
//! output, so that a burst of messages makes one append and one send. The actor never waits.
//! Not here: anything about terms or quorums (`polyraft_core::replica`).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use polyraft_core::entry::LogEntry;
use polyraft_core::error::{ProposeError, ReadError};
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, Incarnation, LogIndex, NodeId};
use polyraft_core::log_tail::Fetch;
use polyraft_core::message::Envelope;
use polyraft_core::output::{self, Committed, Refused, StepError};
use polyraft_core::pending::Undecided;
use polyraft_core::ports::{LogReader, StorageError};
use polyraft_core::replica::Replica;
use polyraft_core::status::{GroupEvent, Role};
use polyraft_core::time::Moment;
use tokio::sync::oneshot;

use crate::applier::{Applied, Apply, Query};
use crate::batcher::{LeaderChanged, SubmitRefused};
use crate::clock::Clock;
use crate::directory::{Directory, GroupCell};
use crate::election_watch::ElectionWatch;
use crate::fault_desk::GroupFailed;
use crate::gauge_share::GaugeShare;
use crate::guard::{DownGuard, killable};
use crate::log_writer::{Append, AppendPersisted, StoreKind, note_damage};
use crate::log_writer_progress::LogWriterProgress;
use crate::mailbox::{ActorKind, Offer, Turn, deliver_fact, messages, offer};
use crate::metric_catalogue::Stage;
use crate::peer_link::SendEnvelopes;
use crate::proposal::{BatchWaiters, CommittedEntry};
use crate::stage_clock::StageClock;
use crate::tick::TickGroup;
use crate::workers::Workers;

messages!(
    PeerMessages,
    Submit,
    Read,
    PeerUnreachable,
    TransferLeader,
    Campaign,
    LogWriterReplaced,
    Fetched,
    Flush,
    AnnounceCommit
);

/// Facts from a link: messages for this group from one peer, in order. Offered; when the mailbox is
/// full they are dropped, as a network may, and Raft repeats them.
#[derive(Debug)]
pub struct PeerMessages {
    /// The authenticated sender.
    pub from: NodeId,
    /// Its messages.
    pub envelopes: Vec<Envelope>,
}

/// Command from the batcher: propose one batch. A fact by its credits: batches in flight are capped.
#[derive(Debug)]
pub struct Submit {
    /// The encoded batch.
    pub batch: Bytes,
    /// Who waits for it.
    pub waiters: BatchWaiters,
}

/// Reads that may wait for a leader's confirmation, one queue for all of a group's callers here.
/// Without a leader nothing else bounds them (RT-2).
const READS_WAITING_MAX: usize = 16_384;

/// Command from a handle: a linearizable read. Refused when the mailbox is full, or when
/// `READS_WAITING_MAX` wait.
#[derive(Debug)]
pub struct Read {
    /// The query for the state machine.
    pub query: Bytes,
    /// Where the answer goes.
    pub reply: ReadReplyTo,
}

/// Where the answer to a read goes.
pub type ReadReplyTo = oneshot::Sender<Result<Bytes, ReadError>>;

/// Fact from a link: messages to a peer were dropped, or its connection is gone. Offered.
#[derive(Debug, Clone, Copy)]
pub struct PeerUnreachable {
    /// The peer.
    pub node: NodeId,
}

/// Command from a handle or the supervisor: hand leadership to the replica on `to`. Offered.
#[derive(Debug, Clone, Copy)]
pub struct TransferLeader {
    /// The node to lead.
    pub to: NodeId,
}

/// Command from the supervisor: stand for election now. Offered.
#[derive(Debug, Clone, Copy)]
pub struct Campaign;

/// Fact from the supervisor: the log writer died and this is its successor. What was under way is
/// submitted again.
pub struct LogWriterReplaced {
    /// The new log writer.
    pub log: Recipient<Append>,
    /// Reads what it writes.
    pub reader: Arc<dyn LogReader>,
}

/// Fact from a worker: durable entries that the replica asked for. One per fetch in flight.
#[derive(Debug)]
struct Fetched {
    fetch: Fetch,
    entries: std::thread::Result<Result<Vec<LogEntry>, StorageError>>,
}

/// To itself, behind everything that is already in the mailbox.
struct Flush;

/// To itself: the followers should know by now that everything up to here is committed.
struct AnnounceCommit(LogIndex);

/// How long a commit index waits for an append to travel with. More saves a message per follower in
/// slower sequences of proposals; less lets followers apply sooner behind the last of a burst.
const COMMIT_LINGER: Duration = Duration::from_millis(2);

/// Who a group's outputs go to, in one life.
pub struct GroupPorts {
    /// The journal.
    pub log: Recipient<Append>,
    /// Durable entries older than the tail.
    pub reader: Arc<dyn LogReader>,
    /// Runs reads of the journal.
    pub workers: Arc<dyn Workers>,
    /// Measures.
    pub clock: Arc<dyn Clock>,
    /// How the log writer is doing.
    pub log_progress: Arc<LogWriterProgress>,
    /// The state machine.
    pub apply: Recipient<Apply>,
    /// Answers queries.
    pub query: Recipient<Query>,
    /// Links to peers.
    pub directory: Arc<Directory>,
    /// Where the group is published.
    pub cell: Arc<GroupCell>,
    /// Hears who leads.
    pub leader_changed: Recipient<LeaderChanged>,
    /// Takes back batches that could not be proposed.
    pub refused: Recipient<SubmitRefused>,
    /// Hears that the group cannot go on.
    pub failed: Recipient<GroupFailed>,
}

/// A read that waits for its index.
pub struct ReadWaiter {
    query: Bytes,
    reply: ReadReplyTo,
    asked: Moment,
}

/// The actor.
pub struct Group {
    id: GroupId,
    node: NodeId,
    incarnation: Incarnation,
    replica: Replica<BatchWaiters, ReadWaiter>,
    ports: GroupPorts,
    read_deadline: Duration,
    /// Of the log writer, when the last tick came.
    commits_seen: u64,
    dirty: bool,
    announcing: bool,
    turn: Turn,
    elections: ElectionWatch,
    stages: StageClock,
    reads_waiting: GaugeShare,
    _guard: DownGuard,
}

impl Group {
    /// The group `id` on `node`, over a restored replica.
    pub fn new(
        (node, id): (NodeId, GroupId),
        replica: Replica<BatchWaiters, ReadWaiter>,
        ports: GroupPorts,
        read_deadline: Duration,
        guard: DownGuard,
    ) -> Self {
        let incarnation = guard.incarnation();
        let elections = ElectionWatch::new(ports.clock.now(), replica.status().term);
        Self {
            id,
            node,
            incarnation,
            replica,
            ports,
            read_deadline,
            commits_seen: 0,
            dirty: false,
            announcing: false,
            turn: Turn::of(ActorKind::Group),
            elections,
            stages: StageClock::default(),
            reads_waiting: GaugeShare::new(metrics::gauge!("polyraft_reads_waiting")),
            _guard: guard,
        }
    }

    /// Asks for one flush behind all that waits in the mailbox.
    fn touched(&mut self, ctx: &mut Context<Self>) {
        self.turn.message();
        if !self.dirty {
            self.dirty = true;
            ctx.notify(Flush);
        }
    }

    fn flush(&mut self, ctx: &mut Context<Self>) {
        let now = self.ports.clock.now();
        let output = self.replica.take_output();
        let leads = self.replica.role() == Role::Leader;
        // First, so that the followers' disks and this one's work at the same time.
        self.send(output.send);
        for append in output.appends {
            if let Some(last) = append.append.entries.last().filter(|_| leads) {
                self.stages.left(append.number, last.index, now);
            }
            self.append(append, ctx);
        }
        for fetch in output.fetches {
            self.fetch(fetch, ctx);
        }
        self.apply(output.apply, now);
        for (waiters, why) in output.undecided {
            waiters.fail_all(&match why {
                Undecided::Superseded => ProposeError::Superseded { group: self.id },
                Undecided::Unknown => ProposeError::Unknown { group: self.id },
            });
        }
        record_reads(output.read_rounds, output.reads.first().map(|(reader, _)| reader), now);
        for (ReadWaiter { query, reply, .. }, at_least) in output.reads {
            deliver_fact(&self.ports.query, Query { query, at_least, reply });
        }
        for waiter in output.reads_failed {
            waiter.fail(self.read_timed_out());
        }
        let status = self.replica.status();
        self.elections.observe(now, &status, &output.events).record();
        self.reads_waiting.set(self.replica.reads_waiting() as u64);
        self.raise(output.events);
        self.ports.cell.publish(status);
        self.announce_later(ctx);
    }

    fn append(&self, append: output::Append, ctx: &mut Context<Self>) {
        failpoint::pass(Step::AppendSubmit);
        if append.append.compact.is_some() {
            failpoint::pass(Step::CompactionSubmit);
            metrics::counter!("polyraft_compactions_total").increment(1);
        }
        let message = Append {
            append: append.append,
            incarnation: self.incarnation,
            number: append.number,
            done: ctx.address().recipient(),
        };
        deliver_fact(&self.ports.log, message);
    }

    /// One timer at a time: proposals that keep coming take the commit index along, and cancel
    /// nothing.
    fn announce_later(&mut self, ctx: &mut Context<Self>) {
        if !self.announcing
            && let Some(commit) = self.replica.unannounced()
        {
            self.announcing = true;
            ctx.notify_later(AnnounceCommit(commit), COMMIT_LINGER);
        }
    }

    /// A link that cannot take the messages has dropped them: Raft must know (TR-4).
    fn send(&mut self, envelopes: Vec<Envelope>) {
        let mut by_node: BTreeMap<NodeId, Vec<Envelope>> = BTreeMap::new();
        for envelope in envelopes {
            by_node.entry(envelope.to_node).or_default().push(envelope);
        }
        for (node, envelopes) in by_node {
            failpoint::pass(Step::MessageSend);
            let sent = self
                .ports
                .directory
                .link(node)
                .map(|link| offer(&link, ActorKind::PeerLink, SendEnvelopes { envelopes }));
            if sent != Some(Offer::Queued) {
                self.replica.on_unreachable(node);
            }
        }
    }

    fn fetch(&self, fetch: Fetch, ctx: &mut Context<Self>) {
        let (group, reader) = (self.id, self.ports.reader.clone());
        let done = ctx.address().recipient::<Fetched>();
        self.ports.workers.run(Box::new(move || {
            // A panic is raised again in the actor.
            let read = || reader.entries(group, fetch.from..fetch.to, fetch.bytes_max);
            let entries = catch_unwind(AssertUnwindSafe(read));
            deliver_fact(&done, Fetched { fetch, entries });
        }));
    }

    fn apply(&mut self, committed: Vec<Committed<BatchWaiters>>, now: Moment) {
        if committed.is_empty() {
            return;
        }
        let mut entries = Vec::with_capacity(committed.len());
        for Committed { entry, waiter } in committed {
            let durable = self.stages.committed(entry.index).filter(|_| waiter.is_some());
            if let Some(durable) = durable {
                record_stage(Stage::Committed, now.since(durable.since));
            }
            let waiters = waiter.map(|waiters| waiters.committed(durable, now));
            entries.push(CommittedEntry { entry, waiters });
        }
        deliver_fact(&self.ports.apply, Apply { incarnation: self.incarnation, entries });
    }

    fn raise(&mut self, events: Vec<GroupEvent>) {
        for event in events {
            match &event {
                GroupEvent::BecameFollower { .. } => self.stages.forget(),
                GroupEvent::BecameLeader { term } => {
                    tracing::debug!(group = %self.id, %term, "became leader");
                }
                GroupEvent::LeaderChanged { term, leader } => {
                    metrics::counter!("polyraft_leader_changes_total").increment(1);
                    let leads = *leader == Some(self.node);
                    let message = LeaderChanged { term: *term, leader: *leader, leads };
                    deliver_fact(&self.ports.leader_changed, message);
                }
                _ => {}
            }
            self.ports.cell.raise(event);
        }
    }

    fn read_timed_out(&self) -> ReadError {
        ReadError::TimedOut { group: self.id, deadline: self.read_deadline }
    }

    /// The log or the state machine cannot go on: the supervisor takes the group out of service.
    fn fail(&self, reason: String) {
        deliver_fact(&self.ports.failed, GroupFailed { group: self.id, reason });
    }
}

/// One batch that was proposed here has reached `stage`, so long after the one before.
pub(crate) fn record_stage(stage: Stage, took: Duration) {
    metrics::histogram!("polyraft_proposal_stage_duration_seconds", "stage" => stage.as_str())
        .record(took);
}

fn record_reads(rounds: u64, confirmed: Option<&ReadWaiter>, now: Moment) {
    if rounds > 0 {
        metrics::counter!("polyraft_read_index_rounds_total").increment(rounds);
    }
    if let Some(first) = confirmed {
        metrics::histogram!("polyraft_read_index_duration_seconds").record(now.since(first.asked));
    }
}

impl ReadWaiter {
    fn fail(self, error: ReadError) {
        // An Err means that the caller has stopped waiting.
        let _ = self.reply.send(Err(error));
    }
}

impl Actor for Group {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.touched(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let (waiters, readers) = self.replica.drain();
        for waiters in waiters {
            waiters.fail_all(&ProposeError::Unknown { group: self.id });
        }
        for reader in readers {
            reader.fail(ReadError::Stopped { group: self.id });
        }
    }
}

killable!(Group);

impl Handler<Flush> for Group {
    type Result = ();

    fn handle(&mut self, _: Flush, ctx: &mut Self::Context) {
        self.dirty = false;
        self.turn.end();
        self.flush(ctx);
    }
}

impl Handler<AnnounceCommit> for Group {
    type Result = ();

    fn handle(&mut self, AnnounceCommit(upto): AnnounceCommit, ctx: &mut Self::Context) {
        self.announcing = false;
        if self.replica.announce_commit(upto) {
            self.touched(ctx);
        } else {
            self.announce_later(ctx);
        }
    }
}

impl Handler<TickGroup> for Group {
    type Result = ();

    fn handle(&mut self, _: TickGroup, ctx: &mut Self::Context) {
        let commits = self.ports.log_progress.durable_commits();
        if commits != self.commits_seen {
            self.commits_seen = commits;
            self.replica.on_disk_progress();
        }
        self.replica.on_tick();
        self.touched(ctx);
    }
}

impl Handler<PeerMessages> for Group {
    type Result = ();

    fn handle(&mut self, PeerMessages { from, envelopes }: PeerMessages, ctx: &mut Self::Context) {
        failpoint::pass(Step::MessageReceived);
        for envelope in envelopes {
            if let Err(error) = self.replica.on_message(from, envelope) {
                let reason = match error {
                    StepError::Invalid(_) => "invalid",
                    StepError::ApplyBacklogFull(_) => "apply_backlog_full",
                    StepError::DiskBacklogFull(_) => "disk_backlog_full",
                    _ => "raft",
                };
                metrics::counter!("polyraft_peer_messages_refused_total", "reason" => reason)
                    .increment(1);
                tracing::debug!(group = %self.id, peer = %from, %error, "peer message refused");
            }
        }
        self.touched(ctx);
    }
}

impl Handler<Submit> for Group {
    type Result = ();

    fn handle(&mut self, submit: Submit, ctx: &mut Self::Context) {
        let Submit { batch, mut waiters } = submit;
        let now = self.ports.clock.now();
        let waited = waiters.since(now);
        waiters.submitted(now);
        match self.replica.propose(batch, waiters) {
            Ok(()) => {
                if let Some(waited) = waited {
                    record_stage(Stage::Submitted, waited);
                }
                self.touched(ctx);
            }
            Err(Refused { waiter, batch, why }) => {
                let refused = SubmitRefused { batch, waiters: waiter, why };
                deliver_fact(&self.ports.refused, refused);
            }
        }
    }
}

impl Handler<Read> for Group {
    type Result = ();

    fn handle(&mut self, Read { query, reply }: Read, ctx: &mut Self::Context) {
        let waiter = ReadWaiter { query, reply, asked: self.ports.clock.now() };
        if self.replica.reads_waiting() >= READS_WAITING_MAX {
            let (group, what) = (self.id, "waiting reads");
            return waiter.fail(ReadError::Overloaded { group, what });
        }
        self.replica.read(waiter);
        self.touched(ctx);
    }
}

impl Handler<AppendPersisted> for Group {
    type Result = ();

    fn handle(&mut self, persisted: AppendPersisted, ctx: &mut Self::Context) {
        if persisted.incarnation == self.incarnation {
            failpoint::pass(Step::AppendPersisted);
            for took in self.stages.persisted(persisted.upto, self.ports.clock.now()) {
                record_stage(Stage::Persisted, took);
            }
            self.replica.on_persisted(persisted.upto);
            self.touched(ctx);
        }
    }
}

impl Handler<LogWriterReplaced> for Group {
    type Result = ();

    fn handle(&mut self, replaced: LogWriterReplaced, ctx: &mut Self::Context) {
        self.ports.log = replaced.log;
        self.ports.reader = replaced.reader;
        self.replica.on_log_writer_replaced();
        self.touched(ctx);
    }
}

impl Handler<Applied> for Group {
    type Result = ();

    fn handle(&mut self, applied: Applied, ctx: &mut Self::Context) {
        if applied.incarnation == self.incarnation {
            self.replica.on_applied(applied.index, applied.durable);
            self.touched(ctx);
        }
    }
}

impl Handler<Fetched> for Group {
    type Result = ();

    fn handle(&mut self, Fetched { fetch, entries }: Fetched, ctx: &mut Self::Context) {
        match entries.unwrap_or_else(|panic| resume_unwind(panic)) {
            Ok(entries) => {
                self.replica.on_fetched(fetch, entries);
                self.touched(ctx);
            }
            // Compaction overtook the read: raft-rs asks again from where the log starts now.
            Err(StorageError::Compacted { .. }) => {}
            Err(error) => {
                note_damage(StoreKind::Log, &error);
                self.fail(format!("the log cannot be read: {error}"));
            }
        }
    }
}

impl Handler<PeerUnreachable> for Group {
    type Result = ();

    fn handle(&mut self, PeerUnreachable { node }: PeerUnreachable, ctx: &mut Self::Context) {
        self.replica.on_unreachable(node);
        self.touched(ctx);
    }
}

impl Handler<TransferLeader> for Group {
    type Result = ();

    fn handle(&mut self, TransferLeader { to }: TransferLeader, ctx: &mut Self::Context) {
        self.replica.transfer_leader(to);
        self.touched(ctx);
    }
}

impl Handler<Campaign> for Group {
    type Result = ();

    fn handle(&mut self, _: Campaign, ctx: &mut Self::Context) {
        self.replica.campaign();
        self.touched(ctx);
    }
}
