//! State flusher: many groups' write buffers, one durable transaction.
//!
//! ```text
//! Applier ─Flush→ [queue] ─batch→ StateStore::flush ─sync→ Flushed → Applier
//! ```
//!
//! The flush blocks this actor's thread; what arrives meanwhile makes up the next batch. Nobody
//! waits for it but compaction: the log has already made every entry durable.
//!
//! Promise: state and applied index become durable together (AP-8). An `OpenState` is served behind
//! every flush that was queued before it: a new life of a group never starts on a base that an
//! earlier life's flush would still change under it. After a failed flush nothing is flushed again;
//! a full disk is waited out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, LogIndex};
use polyraft_core::log_tally::LogTally;
use polyraft_core::ports::{GroupState, StateFlush, StateStore, StorageError};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::guard::{DownGuard, killable};
use crate::log_writer::{StorageFailed, StoreKind, count_damage, note_damage, record_failed};
use crate::mailbox::{ActorKind, Turn, deliver_fact, messages};

messages!(Flush, Flushed, OpenState, FlushQueued);

/// Command from an applier: make a frozen buffer durable. Each group has at most one outstanding.
#[derive(Debug)]
pub struct Flush {
    /// The buffer.
    pub flush: StateFlush,
    /// Who is told.
    pub done: Recipient<Flushed>,
}

/// Fact from the state flusher to an applier, one per [`Flush`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// The group.
    pub group: GroupId,
    /// The applied index that the durable state has reached.
    pub applied: LogIndex,
}

/// Command from the supervisor, once an earlier life's applier is down: open a group's state.
pub struct OpenState {
    /// The group.
    pub group: GroupId,
    /// Answered in turn; dropped if the flusher dies first.
    pub reply: oneshot::Sender<Result<Box<dyn GroupState>, StorageError>>,
}

/// To itself: flush what is queued.
struct FlushQueued;

/// How the flusher batches and retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateFlusherConfig {
    /// Bytes of keys and values that end a transaction, never before its first buffer. LMDB holds
    /// the pages that it dirties in memory.
    pub flush_bytes_max: usize,
    /// Pause before a flush is tried again on a full disk.
    pub full_retry: Duration,
}

impl Default for StateFlusherConfig {
    fn default() -> Self {
        Self { flush_bytes_max: 64 << 20, full_retry: Duration::from_millis(500) }
    }
}

enum Queued {
    Flush(Flush),
    Open(OpenState),
}

/// Whether flushes are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Flushing,
    Full,
    Poisoned,
}

/// The actor.
pub struct StateFlusher {
    store: Arc<dyn StateStore>,
    config: StateFlusherConfig,
    clock: Arc<dyn Clock>,
    failed: Recipient<StorageFailed>,
    queue: VecDeque<Queued>,
    mode: Mode,
    notified: bool,
    full: LogTally,
    turn: Turn,
    _guard: DownGuard,
}

impl StateFlusher {
    /// A flusher into `store` that reports failure to `failed`.
    pub fn new(
        store: Arc<dyn StateStore>,
        config: StateFlusherConfig,
        clock: Arc<dyn Clock>,
        failed: Recipient<StorageFailed>,
        guard: DownGuard,
    ) -> Self {
        Self {
            store,
            config,
            clock,
            failed,
            queue: VecDeque::new(),
            mode: Mode::Flushing,
            notified: false,
            full: LogTally::default(),
            turn: Turn::of(ActorKind::StateFlusher),
            _guard: guard,
        }
    }

    fn enqueue(&mut self, queued: Queued, ctx: &mut Context<Self>) {
        self.turn.message();
        if self.mode == Mode::Poisoned {
            refuse(queued);
        } else {
            self.queue.push_back(queued);
            self.notify(ctx);
        }
    }

    fn notify(&mut self, ctx: &mut Context<Self>) {
        if self.mode == Mode::Flushing && !self.notified && !self.queue.is_empty() {
            self.notified = true;
            ctx.notify(FlushQueued);
        }
    }

    /// Takes buffers from the queue's front, up to the byte cap or the first `OpenState`.
    fn take_batch(&mut self) -> Vec<Flush> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(Queued::Flush(next)) = self.queue.front() {
            bytes += write_bytes(&next.flush);
            if bytes > self.config.flush_bytes_max && !batch.is_empty() {
                break;
            }
            if let Some(Queued::Flush(next)) = self.queue.pop_front() {
                batch.push(next);
            }
        }
        batch
    }

    fn flush_one_batch(&mut self, ctx: &mut Context<Self>) {
        let batch = self.take_batch();
        if batch.is_empty() {
            return;
        }
        let started = self.clock.now();
        let flushes: Vec<StateFlush> = batch.iter().map(|f| f.flush.clone()).collect();
        match self.store.flush(&flushes) {
            Ok(damaged) => {
                note_mended(damaged);
                let took = self.clock.now().since(started);
                metrics::histogram!("polyraft_state_flush_duration_seconds").record(took);
                let bytes = flushes.iter().map(write_bytes).sum::<usize>();
                metrics::counter!("polyraft_state_flush_bytes_total").increment(bytes as u64);
                record_full(false);
                metrics::histogram!("polyraft_state_flush_groups").record(flushes.len() as f64);
                failpoint::pass(Step::FlushTold);
                for Flush { flush, done } in batch {
                    let StateFlush { group, applied, .. } = flush;
                    deliver_fact(&done, Flushed { group, applied });
                }
            }
            Err(StorageError::Full { what }) => {
                if let Some(since_last_line) = self.full.add(self.clock.now()) {
                    tracing::error!(
                        what,
                        since_last_line,
                        "the state store is full: applied state stays in memory"
                    );
                }
                batch.into_iter().rev().for_each(|f| self.queue.push_front(Queued::Flush(f)));
                self.retry_when_not_full(ctx);
            }
            Err(error) => self.poison(error),
        }
    }

    fn retry_when_not_full(&mut self, ctx: &mut Context<Self>) {
        self.mode = Mode::Full;
        record_full(true);
        ctx.run_later(self.config.full_retry, |flusher, ctx| {
            if flusher.mode == Mode::Full {
                flusher.mode = Mode::Flushing;
                flusher.notify(ctx);
            }
        });
    }

    fn poison(&mut self, error: StorageError) {
        tracing::error!(%error, "the state store failed");
        self.mode = Mode::Poisoned;
        record_failed(StoreKind::State, true);
        self.queue.drain(..).for_each(refuse);
        deliver_fact(&self.failed, StorageFailed { store: StoreKind::State, error });
    }

    fn serve_opens(&mut self) {
        while let Some(Queued::Open(_)) = self.queue.front() {
            if let Some(Queued::Open(open)) = self.queue.pop_front() {
                let opened = self.store.open(open.group);
                let _ = opened.as_ref().inspect_err(|error| note_damage(StoreKind::State, error));
                // An Err means that the supervisor has stopped waiting.
                let _ = open.reply.send(opened);
            }
        }
    }
}

fn write_bytes(flush: &StateFlush) -> usize {
    flush.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, |v| v.len())).sum()
}

/// Appliers hear nothing: their state stays in memory, and the process is about to stop.
fn refuse(queued: Queued) {
    if let Queued::Open(open) = queued {
        let _ = open.reply.send(Err(StorageError::Poisoned));
    }
}

/// The state lost nothing, but its disk lies.
fn note_mended(damaged: usize) {
    if damaged > 0 {
        tracing::error!(damaged, "applied indexes were damaged on the disk, and are written anew");
        count_damage(StoreKind::State, damaged);
    }
}

fn record_full(is_full: bool) {
    metrics::gauge!("polyraft_state_full").set(f64::from(u8::from(is_full)));
}

impl Actor for StateFlusher {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        // Exported from the start: an alert on a series that is absent never fires.
        record_full(false);
        record_failed(StoreKind::State, false);
    }
}

killable!(StateFlusher);

impl Handler<Flush> for StateFlusher {
    type Result = ();

    fn handle(&mut self, flush: Flush, ctx: &mut Self::Context) {
        self.enqueue(Queued::Flush(flush), ctx);
    }
}

impl Handler<OpenState> for StateFlusher {
    type Result = ();

    fn handle(&mut self, open: OpenState, ctx: &mut Self::Context) {
        self.enqueue(Queued::Open(open), ctx);
    }
}

impl Handler<FlushQueued> for StateFlusher {
    type Result = ();

    fn handle(&mut self, _: FlushQueued, ctx: &mut Self::Context) {
        self.notified = false;
        self.turn.end();
        if self.mode != Mode::Flushing {
            return;
        }
        self.flush_one_batch(ctx);
        if self.mode == Mode::Flushing {
            self.serve_opens();
        }
        self.notify(ctx);
    }
}

#[cfg(test)]
mod tests {
    use polyraft_core::ids::Term;

    use super::*;
    use crate::clock::SystemClock;
    use crate::mailbox::ActorKind;
    use crate::testing::{FakeStateStore, Probe, guard, paused};

    type Failures = tokio::sync::mpsc::UnboundedReceiver<StorageFailed>;

    fn start(store: &Arc<FakeStateStore>) -> (Addr<StateFlusher>, Failures) {
        let (to, failed) = Probe::start();
        let clock = Arc::new(SystemClock::start());
        let (config, guard) = (StateFlusherConfig::default(), guard(ActorKind::StateFlusher));
        (StateFlusher::new(store.clone(), config, clock, to, guard).start(), failed)
    }

    fn flush(group: u64, applied: u64, done: &Recipient<Flushed>) -> Flush {
        let flush = StateFlush {
            group: GroupId::new(group),
            applied: LogIndex::new(applied),
            applied_term: Term::new(1),
            writes: Arc::default(),
        };
        Flush { flush, done: done.clone() }
    }

    async fn open(flusher: &Addr<StateFlusher>, group: u64) -> Result<LogIndex, StorageError> {
        let (reply, opened) = oneshot::channel();
        flusher.send_now(OpenState { group: GroupId::new(group), reply });
        opened.await.expect("answered").map(|state| state.applied().0)
    }

    /// Keeps the tests readable: a send that has room.
    trait SendNow<M> {
        fn send_now(&self, message: M);
    }

    impl<M> SendNow<M> for Addr<StateFlusher>
    where
        M: Message<Result = ()> + Send + 'static,
        StateFlusher: Handler<M>,
    {
        fn send_now(&self, message: M) {
            assert!(self.try_send(message).is_ok(), "the mailbox has room");
        }
    }

    #[test]
    fn groups_share_a_flush_and_an_open_waits_for_it() {
        paused(async {
            let store = Arc::new(FakeStateStore::default());
            let (flusher, _failed) = start(&store);
            let (done, mut flushed) = Probe::start();
            for group in 1..=10 {
                flusher.send_now(flush(group, 5, &done));
            }
            assert_eq!(open(&flusher, 10).await.expect("opened"), LogIndex::new(5));
            for group in (1..=10).map(GroupId::new) {
                let fact = flushed.recv().await.expect("told");
                assert_eq!(fact, Flushed { group, applied: LogIndex::new(5) });
            }
            assert_eq!(store.flushes(), 1);
        });
    }

    #[test]
    fn a_full_disk_is_waited_out_and_a_failed_one_is_not() {
        paused(async {
            let store = Arc::new(FakeStateStore::default());
            let (flusher, mut failed) = start(&store);
            let (done, mut flushed) = Probe::start();
            store.fail_next(StorageError::Full { what: "test".into() });
            flusher.send_now(flush(1, 1, &done));
            assert_eq!(flushed.recv().await.expect("told").applied, LogIndex::new(1));
            store.fail_next(StorageError::Poisoned);
            flusher.send_now(flush(1, 2, &done));
            assert_eq!(failed.recv().await.expect("reported").store, StoreKind::State);
            flusher.send_now(flush(1, 3, &done));
            assert!(matches!(open(&flusher, 1).await, Err(StorageError::Poisoned)));
            assert!(flushed.try_recv().is_err());
        });
    }
}
