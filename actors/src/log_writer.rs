//! Log writer: many groups' appends, one durable commit.
//!
//! ```text
//! Group ─Append→ [queue] ─batch→ LogStore::commit ─sync→ AppendPersisted → Group
//! ```
//!
//! The commit blocks this actor's thread; whatever arrives meanwhile waits in the mailbox and makes
//! up the next batch, up to a byte cap. No timer, no linger: a lone append is committed at once,
//! and a crowd shares one sync (ST-2).
//!
//! Promise: `AppendPersisted { upto: n }` follows the sync that covers `n`, in order. A `Restore`
//! sees every append that was queued before it. After a failed commit nothing is acknowledged again
//! (ST-12). A full disk is no failure: the queue is kept, nothing is acknowledged, the commit is
//! retried, and the node serves reads meanwhile. Before each attempt, compactions that wait in the queue
//! are committed ahead of it, and a piece of garbage is collected, for which the map keeps room.
//!
//! Not here: what is in the journal (`LogStore`), and the recent entries in memory (core).
//! Source: Raft thesis §10.2.1.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, Incarnation, LogIndex, ReadyNumber};
use polyraft_core::log_tally::LogTally;
use polyraft_core::ports::{
    CommitStats, GroupAppend, LogStats, LogStore, RestoredLog, StorageError,
};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::guard::{DownGuard, killable};
use crate::log_writer_progress::LogWriterProgress;
use crate::mailbox::{ActorKind, Turn, deliver_fact, messages};

messages!(
    Append,
    AppendPersisted,
    CreateGroup,
    Restore,
    StorageFailed,
    GroupRefused,
    Flush,
    CollectGarbage
);

/// Command from a group: make one ready durable. A fact by its credits: a group has a bounded
/// number of unpersisted readies, so the mailbox cannot fill.
#[derive(Debug)]
pub struct Append {
    /// What to write; its entries are never copied on the way.
    pub append: GroupAppend,
    /// The group actor's life, given back.
    pub incarnation: Incarnation,
    /// The ready that this append belongs to; ascending within one incarnation.
    pub number: ReadyNumber,
    /// Who is told.
    pub done: Recipient<AppendPersisted>,
}

/// Fact from the log writer to a group, at most one per group and commit: durable up to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendPersisted {
    /// The group.
    pub group: GroupId,
    /// The life that sent the append.
    pub incarnation: Incarnation,
    /// Every ready up to and including this one is durable.
    pub upto: ReadyNumber,
}

/// Command from the supervisor: create a group durably. One per creation in progress.
#[derive(Debug)]
pub struct CreateGroup {
    /// With `create` set; usually also the first hard state and configuration.
    pub append: GroupAppend,
    /// Answered after the sync; dropped if the writer dies first or the store refuses the group.
    pub reply: oneshot::Sender<Result<(), StorageError>>,
}

/// Command from the supervisor: read a group's durable log. Served behind every append that was
/// queued before it, so that a rebuilt group sees all that its earlier life wrote.
#[derive(Debug)]
pub struct Restore {
    /// The group.
    pub group: GroupId,
    /// Entries up to and including this one are not wanted.
    pub applied: LogIndex,
    /// Answered in turn; dropped if the writer dies first.
    pub reply: oneshot::Sender<Result<RestoredLog, StorageError>>,
}

/// Which of a node's two stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// The journal of every group's log.
    Log,
    /// The state machines' state.
    State,
}

impl StoreKind {
    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::State => "state",
        }
    }
}

/// Fact from the log writer or the state flusher to the node, at most one per life: the store failed
/// and the process must stop.
#[derive(Debug)]
pub struct StorageFailed {
    /// The store.
    pub store: StoreKind,
    /// What it said.
    pub error: StorageError,
}

/// Fact from the log writer to the supervisor: the store refuses this group, which must be
/// quarantined; the others are unaffected. At most one per commit, and one group's appends are
/// bounded by its credits.
#[derive(Debug)]
pub struct GroupRefused {
    /// The group.
    pub group: GroupId,
    /// Why: its log is corrupt, or is not here.
    pub error: StorageError,
}

/// To itself: commit what is queued.
struct Flush;

/// To itself: one piece of garbage collection, if there is nothing better to do.
struct CollectGarbage;

/// How the log writer batches and retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogWriterConfig {
    /// Charged bytes that end a batch, never before its first append. More amortises the sync over
    /// more groups; less bounds the latency of those that wait for the next one.
    pub commit_bytes_max: usize,
    /// Pause before a commit is tried again on a full disk.
    pub full_retry: Duration,
    /// Under constant load, bytes written between two pieces of garbage collection, each commit
    /// counting as a 64th at least; when idle there are as many pieces as it takes. More costs
    /// throughput; less than a piece collects lets the journal outgrow its cap.
    pub collection_bytes: u64,
}

impl Default for LogWriterConfig {
    fn default() -> Self {
        Self {
            commit_bytes_max: 4 << 20,
            full_retry: Duration::from_millis(200),
            collection_bytes: 1 << 20,
        }
    }
}

/// From a commit to the garbage collection that is not overdue: a timer per commit would wake the
/// thread once more for each.
const COLLECTION_DELAY: Duration = Duration::from_millis(100);
/// Between two pieces of garbage collection while there is nothing else to do.
const COLLECTION_PAUSE: Duration = Duration::from_millis(1);

/// What waits, in order of arrival.
#[expect(clippy::large_enum_variant, reason = "nearly all are appends; a box each would cost more")]
enum Queued {
    Append(GroupAppend, Acknowledge),
    Restore(Restore),
}

/// Whom a durable append is reported to.
enum Acknowledge {
    Group { incarnation: Incarnation, number: ReadyNumber, done: Recipient<AppendPersisted> },
    Creator(oneshot::Sender<Result<(), StorageError>>),
}

/// Whether commits are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Writing,
    Full,
    Poisoned,
}

/// Whom the log writer works with.
pub struct LogWriterPorts {
    /// Measures commits.
    pub clock: Arc<dyn Clock>,
    /// Where its progress is published.
    pub progress: Arc<LogWriterProgress>,
    /// Who stops the process.
    pub failed: Recipient<StorageFailed>,
    /// Who quarantines a group.
    pub refused: Recipient<GroupRefused>,
}

/// The actor.
pub struct LogWriter {
    store: Box<dyn LogStore>,
    config: LogWriterConfig,
    ports: LogWriterPorts,
    queue: VecDeque<Queued>,
    mode: Mode,
    flush_notified: bool,
    garbage_notified: bool,
    /// Bytes written that no garbage collection has followed yet.
    uncollected_bytes: u64,
    no_room: LogTally,
    turn: Turn,
    _guard: DownGuard,
}

impl LogWriter {
    /// A writer that owns `store`.
    pub fn new(
        store: Box<dyn LogStore>,
        config: LogWriterConfig,
        ports: LogWriterPorts,
        guard: DownGuard,
    ) -> Self {
        Self {
            store,
            config,
            ports,
            queue: VecDeque::new(),
            mode: Mode::Writing,
            flush_notified: false,
            garbage_notified: false,
            uncollected_bytes: 0,
            no_room: LogTally::default(),
            turn: Turn::of(ActorKind::LogWriter),
            _guard: guard,
        }
    }

    fn enqueue(&mut self, queued: Queued, ctx: &mut Context<Self>) {
        self.turn.message();
        match (self.mode, queued) {
            (Mode::Poisoned, queued) => refuse(queued),
            (Mode::Writing | Mode::Full, queued) => {
                self.queue.push_back(queued);
                self.notify_flush(ctx);
            }
        }
    }

    /// One dirty flag: the notification is handled after the mailbox is drained, so a batch is
    /// everything that arrived during the commit before.
    fn notify_flush(&mut self, ctx: &mut Context<Self>) {
        if self.mode == Mode::Writing && !self.flush_notified {
            self.flush_notified = true;
            ctx.notify(Flush);
        }
    }

    /// Takes appends from the queue's front, up to the byte cap or the first `Restore`.
    fn take_batch(&mut self) -> (Vec<GroupAppend>, Vec<Acknowledge>) {
        let (mut appends, mut acknowledgements, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(Queued::Append(append, _)) = self.queue.front() {
            bytes += append.charged_bytes();
            if bytes > self.config.commit_bytes_max && !appends.is_empty() {
                break;
            }
            let Some(Queued::Append(append, acknowledge)) = self.queue.pop_front() else {
                unreachable!("the front was an append a moment ago");
            };
            appends.push(append);
            acknowledgements.push(acknowledge);
        }
        (appends, acknowledgements)
    }

    fn commit_one_batch(&mut self, ctx: &mut Context<Self>) {
        let (appends, acknowledgements) = self.take_batch();
        if appends.is_empty() {
            return;
        }
        let undurable = self.queue.len() + appends.len();
        self.ports.progress.commit_started(self.ports.clock.now(), undurable);
        // Before the commit: while it stalls, this is what there is to see.
        record_queue(undurable);
        let result = self.store.commit(&appends);
        let took = self.ports.progress.commit_ended(self.ports.clock.now(), self.queue.len());
        match result {
            Ok(stats) => {
                self.ports.progress.commit_is_durable();
                self.uncollected_bytes += stats.bytes.max(self.config.collection_bytes / 64);
                record_commit(stats, took, appends.len());
                record_queue(self.queue.len());
                record_stats(self.store.stats());
                acknowledge_all(&appends, acknowledgements);
            }
            Err(StorageError::Full { what }) => {
                self.put_back(appends, acknowledgements);
                self.retry_when_not_full(&what, ctx);
            }
            Err(error) => match refused_group(&error) {
                Some(group) => {
                    self.put_back(appends, acknowledgements);
                    self.refuse_group(group, error);
                }
                None => {
                    refuse_all(acknowledgements);
                    self.poison(error);
                }
            },
        }
    }

    /// The store checks a batch before it writes any of it; the batch is tried again without the
    /// group that it stumbled over. Should it have been poisoned after all, that attempt says so.
    fn refuse_group(&mut self, group: GroupId, error: StorageError) {
        tracing::error!(%group, %error, "the log refuses this group");
        note_damage(StoreKind::Log, &error);
        self.queue.retain(|queued| !matches!(queued, Queued::Append(a, _) if a.group == group));
        deliver_fact(&self.ports.refused, GroupRefused { group, error });
    }

    fn put_back(&mut self, appends: Vec<GroupAppend>, acknowledgements: Vec<Acknowledge>) {
        for (append, acknowledge) in appends.into_iter().zip(acknowledgements).rev() {
            self.queue.push_front(Queued::Append(append, acknowledge));
        }
    }

    fn retry_when_not_full(&mut self, what: &str, ctx: &mut Context<Self>) {
        if !self.ports.progress.is_full() {
            tracing::error!(
                what,
                "the log is full: this node acknowledges nothing until it is not"
            );
        }
        self.mode = Mode::Full;
        self.ports.progress.set_full(true);
        metrics::gauge!("polyraft_log_full").set(1.0);
        ctx.run_later(self.config.full_retry, |writer, ctx| {
            if writer.mode == Mode::Full {
                writer.mode = Mode::Writing;
                // What is queued behind the appends for which there is no room may make it.
                writer.compact_ahead();
            }
            if writer.mode == Mode::Writing {
                writer.collect_one_piece(ctx);
                writer.notify_flush(ctx);
            }
        });
    }

    fn leave_full(&self) {
        if self.mode == Mode::Writing && self.ports.progress.is_full() {
            tracing::info!("the log has room again");
            self.ports.progress.set_full(false);
            metrics::gauge!("polyraft_log_full").set(0.0);
        }
    }

    /// Nothing is acknowledged from here on; the node stops the process.
    fn poison(&mut self, error: StorageError) {
        tracing::error!(%error, "the log failed: nothing is acknowledged any more");
        self.mode = Mode::Poisoned;
        record_failed(StoreKind::Log, true);
        self.ports.progress.set_poisoned();
        self.queue.drain(..).for_each(refuse);
        deliver_fact(&self.ports.failed, StorageFailed { store: StoreKind::Log, error });
    }

    fn serve_restores(&mut self) {
        while let Some(Queued::Restore(_)) = self.queue.front() {
            let Some(Queued::Restore(restore)) = self.queue.pop_front() else {
                unreachable!("the front was a restore a moment ago");
            };
            let restored = self.store.restore(restore.group, restore.applied);
            let _ = restored.as_ref().inspect_err(|error| note_damage(StoreKind::Log, error));
            // An Err means that the supervisor has stopped waiting.
            let _ = restore.reply.send(restored);
        }
    }

    fn is_collection_overdue(&self) -> bool {
        self.uncollected_bytes >= self.config.collection_bytes
    }

    /// After a while, so that appends come first and the thread is not held.
    fn collect_after(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        if self.mode == Mode::Writing && !self.garbage_notified {
            self.garbage_notified = true;
            ctx.notify_later(CollectGarbage, pause);
        }
    }

    /// Compactions do not wait for appends: they are committed here, and once more in their turn.
    fn compact_ahead(&mut self) {
        let points = self.queue.iter().filter_map(|queued| match queued {
            Queued::Append(append, _) => Some((append.group, append.compact?)),
            Queued::Restore(_) => None,
        });
        let points: Vec<_> = points.collect();
        self.ports.progress.write_started(self.ports.clock.now());
        let compacted = self.store.compact(&points);
        self.ports.progress.write_ended();
        match compacted {
            Ok(()) | Err(StorageError::Full { .. }) => {}
            Err(error) => self.poison(error),
        }
    }

    /// One bounded piece, however much garbage there is.
    fn collect_one_piece(&mut self, ctx: &mut Context<Self>) {
        self.uncollected_bytes =
            self.uncollected_bytes.saturating_sub(self.config.collection_bytes);
        let before = self.store.stats();
        self.ports.progress.write_started(self.ports.clock.now());
        let collected = self.store.collect_garbage();
        self.ports.progress.write_ended();
        let after = self.store.stats();
        metrics::counter!("polyraft_journal_collections_total").increment(1);
        metrics::counter!("polyraft_journal_collected_bytes_total")
            .increment(after.collected_bytes.saturating_sub(before.collected_bytes));
        record_stats(after);
        match collected {
            Ok(true) => self.collect_after(COLLECTION_PAUSE, ctx),
            Ok(false) => self.uncollected_bytes = 0,
            // Collecting needs a little room itself; the next commit finds out and waits.
            Err(StorageError::Full { what }) => {
                if let Some(since_last_line) = self.no_room.add(self.ports.clock.now()) {
                    tracing::warn!(what, since_last_line, "no room to collect garbage");
                }
            }
            Err(error) => self.poison(error),
        }
    }
}

fn record_stats(stats: LogStats) {
    metrics::gauge!("polyraft_journal_bytes").set(stats.bytes as f64);
}

/// Counts damaged data that was met.
pub(crate) fn note_damage(store: StoreKind, error: &StorageError) {
    if matches!(error, StorageError::Corrupt { .. }) {
        count_damage(store, 1);
    }
}

/// Counts so much damaged data.
pub(crate) fn count_damage(store: StoreKind, times: usize) {
    metrics::counter!("polyraft_checksum_failures_total", "store" => store.as_str())
        .increment(times as u64);
}

/// Whether a store has failed for good.
pub(crate) fn record_failed(store: StoreKind, failed: bool) {
    metrics::gauge!("polyraft_storage_failed", "store" => store.as_str())
        .set(f64::from(u8::from(failed)));
}

/// The one group that an error is about.
fn refused_group(error: &StorageError) -> Option<GroupId> {
    match error {
        StorageError::UnknownGroup { group }
        | StorageError::Compacted { group, .. }
        | StorageError::Corrupt { group, .. } => Some(*group),
        _ => None,
    }
}

/// Appends that are not durable yet.
fn record_queue(appends: usize) {
    metrics::gauge!("polyraft_log_queue_appends").set(appends as f64);
}

fn record_commit(stats: CommitStats, took: Duration, width: usize) {
    metrics::histogram!("polyraft_log_commit_duration_seconds").record(took);
    metrics::histogram!("polyraft_log_sync_duration_seconds").record(stats.sync);
    metrics::histogram!("polyraft_log_commit_appends").record(width as f64);
    metrics::counter!("polyraft_log_commit_bytes_total").increment(stats.bytes);
    metrics::counter!("polyraft_log_commit_entries_total").increment(stats.entries);
}

/// One fact per group and life, with the highest number; creators one by one.
fn acknowledge_all(appends: &[GroupAppend], acknowledgements: Vec<Acknowledge>) {
    failpoint::pass(Step::AppendTold);
    if appends.iter().any(|append| append.compact.is_some()) {
        failpoint::pass(Step::CompactionTold);
    }
    let mut facts = std::collections::BTreeMap::new();
    for (append, acknowledge) in appends.iter().zip(acknowledgements) {
        match acknowledge {
            Acknowledge::Group { incarnation, number, done } => {
                let earlier = facts.insert((append.group, incarnation), (number, done));
                debug_assert!(earlier.is_none_or(|(n, _)| n <= number), "readies out of order");
            }
            Acknowledge::Creator(reply) => {
                failpoint::pass(Step::CreateTold);
                // An Err means that the creator has stopped waiting.
                let _ = reply.send(Ok(()));
            }
        }
    }
    for ((group, incarnation), (upto, done)) in facts {
        deliver_fact(&done, AppendPersisted { group, incarnation, upto });
    }
}

/// Groups hear nothing, ever; those who hold a oneshot are told.
fn refuse(queued: Queued) {
    match queued {
        Queued::Append(_, acknowledge) => refuse_all([acknowledge]),
        Queued::Restore(restore) => {
            let _ = restore.reply.send(Err(StorageError::Poisoned));
        }
    }
}

fn refuse_all(acknowledgements: impl IntoIterator<Item = Acknowledge>) {
    for acknowledge in acknowledgements {
        if let Acknowledge::Creator(reply) = acknowledge {
            let _ = reply.send(Err(StorageError::Poisoned));
        }
    }
}

impl Actor for LogWriter {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        // Exported from the start: an alert on a series that is absent never fires.
        let is_full = self.ports.progress.is_full();
        metrics::gauge!("polyraft_log_full").set(f64::from(u8::from(is_full)));
        record_failed(StoreKind::Log, false);
        let stats = self.store.stats();
        metrics::gauge!("polyraft_journal_limit_bytes").set(stats.bytes_max as f64);
        record_stats(stats);
        record_queue(0);
    }
}

killable!(LogWriter);

impl Handler<Append> for LogWriter {
    type Result = ();

    fn handle(&mut self, message: Append, ctx: &mut Self::Context) {
        let Append { append, incarnation, number, done } = message;
        let acknowledge = Acknowledge::Group { incarnation, number, done };
        self.enqueue(Queued::Append(append, acknowledge), ctx);
    }
}

impl Handler<CreateGroup> for LogWriter {
    type Result = ();

    fn handle(&mut self, message: CreateGroup, ctx: &mut Self::Context) {
        let acknowledge = Acknowledge::Creator(message.reply);
        self.enqueue(Queued::Append(message.append, acknowledge), ctx);
    }
}

impl Handler<Restore> for LogWriter {
    type Result = ();

    fn handle(&mut self, restore: Restore, ctx: &mut Self::Context) {
        self.enqueue(Queued::Restore(restore), ctx);
    }
}

impl Handler<Flush> for LogWriter {
    type Result = ();

    fn handle(&mut self, _: Flush, ctx: &mut Self::Context) {
        self.flush_notified = false;
        self.turn.end();
        if self.mode != Mode::Writing {
            return;
        }
        self.commit_one_batch(ctx);
        self.leave_full();
        if self.mode == Mode::Writing {
            self.serve_restores();
        }
        if self.mode == Mode::Writing && self.is_collection_overdue() {
            self.collect_one_piece(ctx);
        }
        if !self.queue.is_empty() {
            self.notify_flush(ctx);
        }
        self.collect_after(COLLECTION_DELAY, ctx);
    }
}

impl Handler<CollectGarbage> for LogWriter {
    type Result = ();

    fn handle(&mut self, _: CollectGarbage, ctx: &mut Self::Context) {
        self.garbage_notified = false;
        if self.mode == Mode::Writing && self.queue.is_empty() {
            self.collect_one_piece(ctx);
        }
    }
}

#[cfg(test)]
#[path = "log_writer_tests.rs"]
mod tests;
