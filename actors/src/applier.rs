//! Applier: one group's committed entries, in order, into its state machine.
//!
//! ```text
//! Group ─Apply→ [backlog] ─slice→ worker: ApplyBench ─done→ Applier ─Applied→ Group
//!                                    └ waiters, queries        └─Flush→ StateFlusher
//! ```
//!
//! The machine never runs on this actor's thread: a slice, bounded in bytes and time, takes the
//! bench to a worker and brings it back, so a slow machine delays neither its siblings nor its own
//! group's heartbeats (AP-10, AP-12, TK-3). Queries ride along at the end of a slice.
//!
//! Promise: index order, exactly once per life, one slice in flight (AP-1). A fault stops applying
//! for good, without advancing; queries are then answered `Faulted` (AP-5). A panic of the machine is
//! a panic of this actor, and the supervisor rebuilds the group from what is durable.
//!
//! Bounds: the group keeps its unapplied bytes below a credit, which [`Applied`] gives back; the
//! write buffer is bounded by not applying while a flush is outstanding and the buffer is full.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use polyraft_core::error::{ProposeError, ReadError};
use polyraft_core::ids::{GroupId, Incarnation, LogIndex};
use polyraft_core::ports::{GroupState, StateFlush};
use polyraft_core::state_machine::StateMachine;
use tokio::sync::oneshot;

use crate::apply_bench::{ApplyBench, ApplyFault};
use crate::apply_slice::ApplySlice;
use crate::clock::Clock;
use crate::guard::{DownGuard, killable};
use crate::mailbox::{deliver_fact, messages};
use crate::proposal::CommittedEntry;
use crate::state_flusher::{Flush, Flushed};
use crate::workers::Workers;

messages!(Apply, Applied, ApplyFailed, Query, FlushTick, FlusherReplaced, SliceDone);

/// Command from the group: apply these next. A fact by its credits, the group's unapplied bytes.
#[derive(Debug)]
pub struct Apply {
    /// The life of the group; another life's entries are ignored.
    pub incarnation: Incarnation,
    /// Contiguous, and right after those sent before.
    pub entries: Vec<CommittedEntry>,
}

/// Fact from the applier to the group: once when the state is open, then at most one per slice and
/// one per flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The group.
    pub group: GroupId,
    /// The life that it belongs to.
    pub incarnation: Incarnation,
    /// The last applied index.
    pub index: LogIndex,
    /// The last applied index that is durable: compaction stays below it.
    pub durable: LogIndex,
    /// Entries that wait here.
    pub backlog_entries: usize,
    /// Charged bytes of the entries that wait here.
    pub backlog_bytes: usize,
}

/// Fact from the applier to the group or its supervisor, at most one per life: the group is faulted.
#[derive(Debug)]
pub struct ApplyFailed {
    /// The group.
    pub group: GroupId,
    /// The life that it belongs to.
    pub incarnation: Incarnation,
    /// The entry that could not be applied; the applied index is the one before.
    pub index: LogIndex,
    /// Why.
    pub reason: ApplyFault,
}

/// Command from a reader: answer a query. Refused when too many wait.
#[derive(Debug)]
pub struct Query {
    /// For the machine.
    pub query: Bytes,
    /// Answered once this index is applied, by event.
    pub at_least: LogIndex,
    /// Where the answer goes. Dropped if the applier dies first; a read may be repeated.
    pub reply: oneshot::Sender<Result<Bytes, ReadError>>,
}

/// Command from a timer, every flush interval: bring the durable state up to the applied one.
#[derive(Debug, Clone, Copy)]
pub struct FlushTick;

/// Fact from the supervisor: the flusher died and this is its successor. What was outstanding is
/// sent again; flushing twice is harmless.
#[derive(Debug)]
pub struct FlusherReplaced {
    /// The new flusher.
    pub to: Recipient<Flush>,
}

/// To itself, from a worker: the slice is over. One in flight.
struct SliceDone(Result<Box<ApplySlice>, Box<dyn Any + Send>>);

/// The bounds of an applier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplierConfig {
    /// Charged bytes of one slice, never less than one entry.
    pub slice_bytes_max: usize,
    /// After this long a slice ends with its current entry, so that queries get their turn.
    pub slice_duration_max: Duration,
    /// Bytes in the write buffer that start a flush. At twice as many, with a flush outstanding,
    /// applying waits.
    pub flush_bytes: usize,
    /// Queries that may wait for their index.
    pub queries_max: usize,
}

impl Default for ApplierConfig {
    fn default() -> Self {
        Self {
            slice_bytes_max: 1 << 20,
            slice_duration_max: Duration::from_millis(5),
            flush_bytes: 4 << 20,
            queries_max: 65_536,
        }
    }
}

/// Whom an applier works with.
pub struct ApplierPorts {
    /// Where machines run.
    pub workers: Arc<dyn Workers>,
    /// Bounds a slice's time.
    pub clock: Arc<dyn Clock>,
    /// Makes state durable.
    pub flusher: Recipient<Flush>,
    /// The group.
    pub applied: Recipient<Applied>,
    /// Who takes a faulted group out of service.
    pub failed: Recipient<ApplyFailed>,
}

/// Where the bench is.
enum Bench {
    Here(Box<ApplyBench>),
    /// With a slice, on a worker.
    Away,
    /// Dropped after a fault.
    Faulted,
}

/// Entries that wait, in order.
#[derive(Default)]
struct Backlog {
    entries: VecDeque<CommittedEntry>,
    bytes: usize,
}

/// The flush under way, if any.
#[derive(Default)]
struct FlushProgress {
    outstanding: Option<StateFlush>,
    /// It became durable while the bench was away.
    completed: bool,
    /// An interval has passed, or the buffer is full.
    due: bool,
}

/// The actor.
pub struct Applier {
    group: GroupId,
    incarnation: Incarnation,
    config: ApplierConfig,
    ports: ApplierPorts,
    bench: Bench,
    opened: bool,
    backlog: Backlog,
    queries: BTreeMap<LogIndex, Vec<Query>>,
    queries_len: usize,
    applied: LogIndex,
    durable: LogIndex,
    /// The last entry that was queued.
    last: LogIndex,
    buffered_bytes: usize,
    flush: FlushProgress,
    reported: Option<Applied>,
    _guard: DownGuard,
}

impl Applier {
    /// An applier for one life of a group, from the state as it was opened.
    pub fn new(
        group: GroupId,
        machine: Box<dyn StateMachine>,
        state: Box<dyn GroupState>,
        config: ApplierConfig,
        ports: ApplierPorts,
        guard: DownGuard,
    ) -> Self {
        let (applied, durable) = (state.applied().0, state.durable_applied());
        Self {
            group,
            incarnation: guard.incarnation(),
            config,
            ports,
            bench: Bench::Here(Box::new(ApplyBench::new(group, machine, state))),
            opened: false,
            backlog: Backlog::default(),
            queries: BTreeMap::new(),
            queries_len: 0,
            applied,
            durable,
            last: applied,
            buffered_bytes: 0,
            flush: FlushProgress::default(),
            reported: None,
            _guard: guard,
        }
    }

    /// Sends the next slice to a worker, if there is work and the bench is here.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        let must_persist = match &self.bench {
            Bench::Here(bench) => bench.must_persist(),
            Bench::Away | Bench::Faulted => return,
        };
        let entries = if self.is_buffer_full() { VecDeque::new() } else { self.next_entries() };
        let reach = entries.back().map_or(self.applied, |e| e.entry.index);
        let queries = self.next_queries(reach);
        let persist = must_persist && self.flush.due && self.flush.outstanding.is_none();
        if self.opened && entries.is_empty() && queries.is_empty() && !persist {
            return;
        }
        let Bench::Here(bench) = std::mem::replace(&mut self.bench, Bench::Away) else {
            unreachable!("the bench was here a moment ago");
        };
        let open_first = !std::mem::replace(&mut self.opened, true);
        let slice = ApplySlice::new(self.group, bench, entries, queries, open_first, persist);
        self.send_to_worker(Box::new(slice), ctx);
    }

    fn send_to_worker(&self, mut slice: Box<ApplySlice>, ctx: &mut Context<Self>) {
        let (clock, duration_max) = (self.ports.clock.clone(), self.config.slice_duration_max);
        let done = ctx.address().recipient::<SliceDone>();
        self.ports.workers.run(Box::new(move || {
            // A panic drops the slice with its state, and is raised again in the actor.
            let result = catch_unwind(AssertUnwindSafe(|| slice.run(&*clock, duration_max)));
            deliver_fact(&done, SliceDone(result.map(|()| slice)));
        }));
    }

    fn is_buffer_full(&self) -> bool {
        self.flush.outstanding.is_some() && self.buffered_bytes >= 2 * self.config.flush_bytes
    }

    fn next_entries(&mut self) -> VecDeque<CommittedEntry> {
        let (mut bytes, mut len) = (0, 0);
        for waiting in &self.backlog.entries {
            let more = bytes + waiting.entry.charged_bytes();
            if more > self.config.slice_bytes_max && len > 0 {
                break;
            }
            (bytes, len) = (more, len + 1);
        }
        self.backlog.bytes -= bytes;
        let rest = self.backlog.entries.split_off(len);
        std::mem::replace(&mut self.backlog.entries, rest)
    }

    fn next_queries(&mut self, reach: LogIndex) -> Vec<Query> {
        let later = self.queries.split_off(&reach.next());
        let ready = std::mem::replace(&mut self.queries, later);
        let ready: Vec<Query> = ready.into_values().flatten().collect();
        self.queries_len -= ready.len();
        ready
    }

    fn add_query(&mut self, query: Query) {
        self.queries_len += 1;
        self.queries.entry(query.at_least).or_default().push(query);
    }

    /// Takes back what a slice leaves: the bench, and what it had no time for.
    fn take_back(&mut self, slice: ApplySlice) {
        let ApplySlice { bench, entries, queries, .. } = slice;
        self.applied = bench.applied();
        self.bench = Bench::Here(bench);
        for left in entries.into_iter().rev() {
            self.backlog.bytes += left.entry.charged_bytes();
            self.backlog.entries.push_front(left);
        }
        queries.into_iter().for_each(|query| self.add_query(query));
    }

    /// Ends a flush that became durable and starts the next if it is due, while the bench is here.
    fn turn_flush(&mut self, ctx: &mut Context<Self>) {
        let Bench::Here(bench) = &mut self.bench else {
            return;
        };
        let must_persist = bench.must_persist();
        let state = bench.state();
        if std::mem::take(&mut self.flush.completed) {
            state.flushed();
            self.flush.outstanding = None;
        }
        self.flush.due |= state.buffered_bytes() >= self.config.flush_bytes;
        // The machine's own storage comes first, on a worker.
        let wanted = self.flush.due && !must_persist;
        let frozen = if wanted && self.flush.outstanding.is_none() { state.freeze() } else { None };
        self.buffered_bytes = state.buffered_bytes();
        if wanted && self.flush.outstanding.is_none() {
            self.flush.due = false;
            self.flush.outstanding = frozen;
            self.submit_flush(ctx);
        }
    }

    fn submit_flush(&self, ctx: &mut Context<Self>) {
        if let Some(flush) = self.flush.outstanding.clone() {
            let done = ctx.address().recipient();
            deliver_fact(&self.ports.flusher, Flush { flush, done });
        }
    }

    /// Tells the group, unless nothing has changed: a slice may have answered queries only.
    fn report(&mut self) {
        let applied = Applied {
            group: self.group,
            incarnation: self.incarnation,
            index: self.applied,
            durable: self.durable,
            backlog_entries: self.backlog.entries.len(),
            backlog_bytes: self.backlog.bytes,
        };
        if self.reported.replace(applied) != Some(applied) {
            deliver_fact(&self.ports.applied, applied);
        }
    }

    /// The end of applying: what waits is answered, the half-applied state is dropped.
    fn fault(&mut self, index: LogIndex, reason: ApplyFault) {
        let (group, incarnation) = (self.group, self.incarnation);
        tracing::error!(%group, %index, %reason, "cannot apply: the group is faulted");
        metrics::counter!("polyraft_apply_faults_total").increment(1);
        self.bench = Bench::Faulted;
        std::mem::take(&mut self.backlog).entries.into_iter().for_each(|e| self.give_up(e));
        for query in std::mem::take(&mut self.queries).into_values().flatten() {
            // The reader may have gone.
            let _ = query.reply.send(Err(ReadError::Faulted { group }));
        }
        self.queries_len = 0;
        deliver_fact(&self.ports.failed, ApplyFailed { group, incarnation, index, reason });
    }

    /// The entry is committed, so its effect is real elsewhere; the result is unknown here.
    fn give_up(&self, committed: CommittedEntry) {
        if let Some(waiters) = committed.waiters {
            waiters.fail_all(&ProposeError::Unknown { group: self.group });
        }
    }

    fn enqueue(&mut self, committed: CommittedEntry) {
        let (group, last, index) = (self.group, self.last, committed.entry.index);
        assert!(index == last.next(), "{group}: entry {index} committed after {last}");
        self.last = index;
        self.backlog.bytes += committed.entry.charged_bytes();
        self.backlog.entries.push_back(committed);
    }
}

impl Actor for Applier {
    type Context = Context<Self>;

    /// The machine opens its state at once, before the first entry.
    fn started(&mut self, ctx: &mut Self::Context) {
        self.turn(ctx);
    }
}

killable!(Applier);

impl Handler<Apply> for Applier {
    type Result = ();

    fn handle(&mut self, apply: Apply, ctx: &mut Self::Context) {
        let is_ours = apply.incarnation == self.incarnation;
        if !is_ours || matches!(self.bench, Bench::Faulted) {
            apply.entries.into_iter().for_each(|e| self.give_up(e));
            return;
        }
        apply.entries.into_iter().for_each(|e| self.enqueue(e));
        self.turn(ctx);
    }
}

impl Handler<Query> for Applier {
    type Result = ();

    fn handle(&mut self, query: Query, ctx: &mut Self::Context) {
        let group = self.group;
        let refusal = if matches!(self.bench, Bench::Faulted) {
            ReadError::Faulted { group }
        } else if self.queries_len >= self.config.queries_max {
            ReadError::Overloaded { group, what: "queries" }
        } else {
            self.add_query(query);
            self.turn(ctx);
            return;
        };
        // The reader may have gone.
        let _ = query.reply.send(Err(refusal));
    }
}

impl Handler<SliceDone> for Applier {
    type Result = ();

    fn handle(&mut self, SliceDone(result): SliceDone, ctx: &mut Self::Context) {
        let mut slice = match result {
            Ok(slice) => *slice,
            Err(panic) => resume_unwind(panic),
        };
        if let Some((index, reason)) = slice.fault.take() {
            self.applied = index.prev();
            self.fault(index, reason);
            return;
        }
        self.take_back(slice);
        self.turn_flush(ctx);
        self.report();
        self.turn(ctx);
    }
}

impl Handler<FlushTick> for Applier {
    type Result = ();

    fn handle(&mut self, _: FlushTick, ctx: &mut Self::Context) {
        self.flush.due = self.durable < self.applied;
        self.turn_flush(ctx);
        // Where the machine has storage of its own, a slice is due.
        self.turn(ctx);
    }
}

impl Handler<Flushed> for Applier {
    type Result = ();

    fn handle(&mut self, flushed: Flushed, ctx: &mut Self::Context) {
        // A flush that was sent to two flushers may be reported by both.
        if self.flush.outstanding.as_ref().is_none_or(|f| f.applied != flushed.applied) {
            return;
        }
        self.durable = flushed.applied;
        self.flush.completed = true;
        self.turn_flush(ctx);
        self.report();
        self.turn(ctx);
    }
}

impl Handler<FlusherReplaced> for Applier {
    type Result = ();

    fn handle(&mut self, replaced: FlusherReplaced, ctx: &mut Self::Context) {
        self.ports.flusher = replaced.to;
        if !self.flush.completed {
            self.submit_flush(ctx);
        }
    }
}

#[cfg(test)]
#[path = "applier_tests.rs"]
mod tests;
