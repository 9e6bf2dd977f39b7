//! The applier with a small ledger, on one thread under paused time or with real workers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;

use polyraft_core::entry::LogEntry;
use polyraft_core::ids::Term;
use polyraft_core::message::AppliedUnit;
use polyraft_core::ports::StateStore;
use polyraft_core::split_mix;
use polyraft_core::state_machine::{ApplyContext, ApplyError, Response, State};
use polyraft_core::time::Moment;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::clock::{SystemClock, VirtualClock};
use crate::guard::Down;
use crate::mailbox::ActorKind;
use crate::proposal::{BatchWaiters, UnitReply, UnitWaiter};
use crate::testing::{
    Engine, EngineMachine, FakeStateStore, Ledger, Probe, batch_entry, paused, unit,
};
use crate::workers::{Job, LocalWorkers, ThreadWorkers};

const GROUP: GroupId = GroupId::new(1);
const LIFE: Incarnation = Incarnation::new(3);

/// An applier, and the far ends of everything it talks to.
struct Rig {
    applier: Addr<Applier>,
    store: Arc<FakeStateStore>,
    applied: UnboundedReceiver<Applied>,
    failed: UnboundedReceiver<ApplyFailed>,
    flushes: UnboundedReceiver<Flush>,
    downs: UnboundedReceiver<Down>,
}

impl Rig {
    fn start() -> Self {
        let workers = Arc::new(LocalWorkers::current());
        let clock = Arc::new(VirtualClock::start(0));
        Self::with(Box::new(Ledger::default()), ApplierConfig::default(), workers, clock)
    }

    fn with(
        machine: Box<dyn StateMachine>,
        config: ApplierConfig,
        workers: Arc<dyn Workers>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let store = Arc::new(FakeStateStore::default());
        let state = store.open(GROUP).expect("a fake opens");
        let (applied_to, applied) = Probe::start();
        let (failed_to, failed) = Probe::start();
        let (flusher, flushes) = Probe::start();
        let (down_to, downs) = Probe::start();
        let guard = DownGuard::new(ActorKind::Applier, Some(GROUP), LIFE, down_to);
        let ports =
            ApplierPorts { workers, clock, flusher, applied: applied_to, failed: failed_to };
        let applier = Applier::new(GROUP, machine, state, config, ports, guard).start();
        Self { applier, store, applied, failed, flushes, downs }
    }

    async fn apply(&self, entries: Vec<CommittedEntry>) {
        self.applier.send(Apply { incarnation: LIFE, entries }).await.expect("the applier runs");
    }

    async fn reached(&mut self, index: u64) -> Applied {
        loop {
            let applied = self.applied.recv().await.expect("the probe runs");
            if applied.index >= LogIndex::new(index) {
                return applied;
            }
        }
    }

    fn query(
        &self,
        query: &'static str,
        at_least: u64,
    ) -> oneshot::Receiver<Result<Bytes, ReadError>> {
        let (reply, answer) = oneshot::channel();
        let at_least = LogIndex::new(at_least);
        let message = Query { query: Bytes::from_static(query.as_bytes()), at_least, reply };
        assert!(self.applier.try_send(message).is_ok(), "the mailbox has room");
        answer
    }

    /// Carries a flush out, as the flusher would.
    fn carry_out(&self, flush: Flush) {
        self.store.flush(std::slice::from_ref(&flush.flush)).expect("a fake flushes");
        let StateFlush { group, applied, .. } = flush.flush;
        deliver_fact(&flush.done, Flushed { group, applied });
    }
}

type Outcome = oneshot::Receiver<Result<AppliedUnit, ProposeError>>;

fn bare(entry: LogEntry) -> CommittedEntry {
    CommittedEntry { entry, waiters: None }
}

/// An entry with one command and someone who waits for it.
fn awaited(index: u64, command: &str) -> (CommittedEntry, Outcome) {
    let (reply, outcome) = oneshot::channel();
    let (reply, patience) = (UnitReply::Local(reply), (Duration::ZERO, Moment::START));
    let waiter = UnitWaiter { commands: 1, reply, patience, trace: None };
    let waiters = Some(BatchWaiters::new(vec![waiter], None));
    (
        CommittedEntry { entry: batch_entry(index, index, &[unit(false, &[command])]), waiters },
        outcome,
    )
}

fn adds(range: std::ops::RangeInclusive<u64>) -> Vec<CommittedEntry> {
    range.map(|n| bare(batch_entry(n, n, &[unit(false, &[&format!("add {n:03}")])]))).collect()
}

#[test]
fn waiters_are_answered_with_their_position() {
    paused(async {
        let mut rig = Rig::start();
        let (first, one) = awaited(1, "add a");
        let (second, two) = awaited(2, "add a");
        rig.apply(vec![first, second]).await;
        let one = one.await.expect("answered").expect("applied");
        assert_eq!((one.index, one.term), (LogIndex::new(1), Term::new(1)));
        assert_eq!(one.responses, [Response::Accepted(Bytes::new())]);
        let two = two.await.expect("answered").expect("applied");
        assert_eq!(two.responses, [Response::Rejected(Bytes::from_static(b"exists"))]);
        let applied = rig.reached(2).await;
        let expected = Applied {
            group: GROUP,
            incarnation: LIFE,
            index: LogIndex::new(2),
            durable: LogIndex::ZERO,
            backlog_entries: 0,
            backlog_bytes: 0,
        };
        assert_eq!(applied, expected);
    });
}

/// Sleeps now and then, and notes the order in which it was called.
struct Erratic {
    seen: Arc<Mutex<Vec<u64>>>,
}

impl StateMachine for Erratic {
    fn apply(
        &mut self,
        _: &mut dyn State,
        context: &ApplyContext,
        _: &[u8],
    ) -> Result<Response, ApplyError> {
        let index = context.index.get();
        // A few of the calls, scattered, are slow.
        if index.wrapping_mul(2_654_435_761).is_multiple_of(97) {
            #[expect(clippy::disallowed_methods, reason = "this machine is slow on purpose")]
            std::thread::sleep(Duration::from_millis(3));
        }
        self.seen.lock().expect("not poisoned").push(index);
        Ok(Response::Accepted(Bytes::new()))
    }

    fn query(&self, _: &dyn State, _: &[u8]) -> Result<Bytes, ApplyError> {
        Ok(Bytes::new())
    }
}

/// Goal: AP-1. Method: real worker threads, tiny slices, a machine of uneven speed.
#[test]
fn entries_apply_in_order_however_slow_the_machine() {
    System::new().block_on(async {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let config = ApplierConfig {
            slice_bytes_max: 300,
            slice_duration_max: Duration::from_millis(1),
            ..ApplierConfig::default()
        };
        let mut rig = Rig::with(
            Box::new(Erratic { seen: seen.clone() }),
            config,
            Arc::new(ThreadWorkers::new(4)),
            Arc::new(SystemClock::start()),
        );
        for start in (1..=600).step_by(7) {
            rig.apply(adds(start..=(start + 6).min(600))).await;
        }
        let last = rig.reached(600).await;
        assert_eq!((last.backlog_entries, last.backlog_bytes), (0, 0));
        assert_eq!(*seen.lock().expect("not poisoned"), (1..=600).collect::<Vec<_>>());
    });
}

/// Runs each job on this thread, 0 to 500 ms late in virtual time; how late follows from a seed.
struct LateWorkers {
    arbiter: actix::ArbiterHandle,
    state: AtomicU64,
}

impl Workers for LateWorkers {
    fn run(&self, job: Job) {
        let state = self.state.fetch_add(split_mix::STEP, Ordering::Relaxed);
        let late = Duration::from_millis(split_mix::mix(state) % 501);
        self.arbiter.spawn(async move {
            tokio::time::sleep(late).await;
            job();
        });
    }

    fn stop(&self) {}
}

/// Goal: AP-1. Method: 10,000 batches that arrive in handfuls, each a slice of its own on a worker that
/// is 0 to 500 ms late; what was seen, and what was reported while it went on.
#[test]
fn ten_thousand_batches_apply_in_order_however_late_each_is() {
    const BATCHES: u64 = 10_000;
    paused(async {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let config = ApplierConfig { slice_bytes_max: 1, ..ApplierConfig::default() };
        let arbiter = actix::Arbiter::current();
        let workers = Arc::new(LateWorkers { arbiter, state: AtomicU64::new(7) });
        let clock = Arc::new(VirtualClock::start(0));
        let mut rig = Rig::with(Box::new(Erratic { seen: seen.clone() }), config, workers, clock);
        let started = tokio::time::Instant::now();
        for start in (1..=BATCHES).step_by(7) {
            rig.apply(adds(start..=(start + 6).min(BATCHES))).await;
        }
        let mut last = LogIndex::ZERO;
        while last < LogIndex::new(BATCHES) {
            let applied = rig.applied.recv().await.expect("the probe runs");
            assert!(applied.index >= last, "applied fell from {last} to {}", applied.index);
            last = applied.index;
        }
        assert_eq!(*seen.lock().expect("not poisoned"), (1..=BATCHES).collect::<Vec<_>>());
        let mean = started.elapsed().as_millis() / u128::from(BATCHES);
        assert!((200..300).contains(&mean), "a batch took {mean} ms on average");
    });
}

/// Blocks in `apply` until the test lets it go.
struct Stuck {
    release: Mutex<std_mpsc::Receiver<()>>,
}

impl StateMachine for Stuck {
    fn apply(
        &mut self,
        _: &mut dyn State,
        _: &ApplyContext,
        _: &[u8],
    ) -> Result<Response, ApplyError> {
        // A closed channel means that the test is over.
        let _ = self.release.lock().expect("not poisoned").recv();
        Ok(Response::Accepted(Bytes::new()))
    }

    fn query(&self, _: &dyn State, _: &[u8]) -> Result<Bytes, ApplyError> {
        Ok(Bytes::new())
    }
}

/// Goal: AP-10. Method: one group's machine blocks for as long as another group on the same arbiter
/// and pool needs to finish.
#[test]
fn a_stuck_group_delays_no_other() {
    System::new().block_on(async {
        let workers: Arc<dyn Workers> = Arc::new(ThreadWorkers::new(2));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let config = ApplierConfig::default();
        let (release, wait) = std_mpsc::channel();
        let machine = Box::new(Stuck { release: Mutex::new(wait) });
        let mut stuck = Rig::with(machine, config, workers.clone(), clock.clone());
        let mut other = Rig::with(Box::new(Ledger::default()), config, workers, clock);
        stuck.apply(adds(1..=1)).await;
        other.apply(adds(1..=200)).await;
        other.reached(200).await;
        let opened = stuck.applied.try_recv().map(|a| a.index);
        assert!(opened.is_err() || opened == Ok(LogIndex::ZERO), "{opened:?}");
        release.send(()).expect("the machine waits");
        stuck.reached(1).await;
    });
}

#[test]
fn queries_wait_for_their_index() {
    paused(async {
        let mut rig = Rig::start();
        let mut later = rig.query("list", 3);
        let now = rig.query("list", 0);
        assert_eq!(now.await.expect("answered"), Ok(Bytes::new()));
        rig.apply(adds(1..=2)).await;
        rig.reached(2).await;
        assert!(later.try_recv().is_err(), "answered too early");
        rig.apply(adds(3..=3)).await;
        assert_eq!(later.await.expect("answered"), Ok(Bytes::from_static(b"001 002 003")));
        let refused = rig.query("dance", 0).await.expect("answered");
        assert!(matches!(refused, Err(ReadError::Query { .. })), "{refused:?}");
    });
}

#[test]
fn waiting_queries_are_bounded() {
    paused(async {
        let config = ApplierConfig { queries_max: 2, ..ApplierConfig::default() };
        let (workers, clock) = (LocalWorkers::current(), VirtualClock::start(0));
        let machine = Box::new(Ledger::default());
        let mut rig = Rig::with(machine, config, Arc::new(workers), Arc::new(clock));
        let waiting = [rig.query("count", 1), rig.query("count", 1)];
        let refused = rig.query("count", 1).await.expect("answered");
        assert_eq!(refused, Err(ReadError::Overloaded { group: GROUP, what: "queries" }));
        rig.apply(adds(1..=1)).await;
        rig.reached(1).await;
        for answer in waiting {
            assert_eq!(answer.await.expect("answered"), Ok(Bytes::from_static(b"1")));
        }
    });
}

/// Goal: AP-5. Method: a read of the state fails in the middle of a backlog.
#[test]
fn a_fault_stops_applying_and_is_reported_once() {
    paused(async {
        let mut rig = Rig::start();
        let (good, applied) = awaited(1, "add a");
        let (bad, faulted) = awaited(2, "eio");
        let (behind, unknown) = awaited(3, "add b");
        let waiting = rig.query("list", 3);
        rig.apply(vec![good, bad, behind]).await;
        assert!(applied.await.expect("answered").is_ok());
        let failed = rig.failed.recv().await.expect("reported");
        assert_eq!((failed.index, failed.incarnation), (LogIndex::new(2), LIFE));
        assert!(matches!(failed.reason, ApplyFault::Machine(ApplyError::State(_))));
        for outcome in [faulted, unknown] {
            let outcome = outcome.await.expect("answered");
            assert_eq!(outcome, Err(ProposeError::Unknown { group: GROUP }));
        }
        assert_eq!(waiting.await.expect("answered"), Err(ReadError::Faulted { group: GROUP }));
        let late = rig.query("list", 0).await.expect("answered");
        assert_eq!(late, Err(ReadError::Faulted { group: GROUP }));
        let (more, refused) = awaited(4, "add c");
        rig.apply(vec![more]).await;
        assert!(refused.await.expect("answered").is_err());
        assert!(rig.failed.try_recv().is_err(), "reported once");
        rig.applier.send(FlushTick).await.expect("the applier runs");
        assert!(rig.flushes.try_recv().is_err(), "half an entry must not become durable");
    });
}

#[test]
fn a_panic_of_the_machine_ends_this_life() {
    paused(async {
        let mut rig = Rig::start();
        let (entry, outcome) = awaited(1, "panic");
        rig.apply(vec![entry]).await;
        let down = rig.downs.recv().await.expect("reported");
        let expected = Down {
            actor: ActorKind::Applier,
            group: Some(GROUP),
            incarnation: LIFE,
            panicked: true,
        };
        assert_eq!(down, expected);
        assert!(outcome.await.is_err(), "a dropped waiter means unknown");
        assert!(!rig.applier.connected());
    });
}

#[test]
fn another_lifes_entries_are_ignored() {
    paused(async {
        let mut rig = Rig::start();
        let (entry, outcome) = awaited(1, "add a");
        let stale = Apply { incarnation: Incarnation::new(2), entries: vec![entry] };
        rig.applier.send(stale).await.expect("the applier runs");
        assert_eq!(outcome.await.expect("answered"), Err(ProposeError::Unknown { group: GROUP }));
        rig.apply(adds(1..=1)).await;
        assert_eq!(rig.reached(1).await.index, LogIndex::new(1));
    });
}

/// Goal: the write buffer is bounded, and a lost flusher loses nothing. Method: a flusher that never
/// answers, then its successor.
#[test]
fn a_full_buffer_waits_for_the_flusher() {
    paused(async {
        // An `add` buffers 4 bytes, and the entry's time 10 in all.
        let config =
            ApplierConfig { flush_bytes: 20, slice_bytes_max: 1, ..ApplierConfig::default() };
        let (workers, clock) = (LocalWorkers::current(), VirtualClock::start(0));
        let machine = Box::new(Ledger::default());
        let mut rig = Rig::with(machine, config, Arc::new(workers), Arc::new(clock));
        rig.apply(adds(1..=100)).await;
        let lost = rig.flushes.recv().await.expect("the buffer is full");
        assert_eq!(lost.flush.applied, LogIndex::new(3));
        let count = rig.query("count", 0);
        let stalled = loop {
            let applied = rig.applied.recv().await.expect("the probe runs");
            if applied.index == LogIndex::new(11) {
                break applied;
            }
        };
        assert_eq!(stalled.backlog_entries, 89);
        assert!(count.await.expect("queries are still answered").is_ok());
        assert!(rig.applied.try_recv().is_err(), "applying waits");

        let (to, mut successor) = Probe::start();
        rig.applier.send(FlusherReplaced { to }).await.expect("the applier runs");
        let again = successor.recv().await.expect("sent again");
        assert_eq!(again.flush.applied, lost.flush.applied);
        rig.carry_out(again);
        // Reported twice: without effect.
        rig.carry_out(lost);
        let durable = |rig: &Rig| rig.store.open(GROUP).expect("opens").applied().0;
        while durable(&rig) < LogIndex::new(100) {
            rig.applier.send(FlushTick).await.expect("the applier runs");
            while let Ok(flush) = successor.try_recv() {
                rig.carry_out(flush);
            }
            tokio::task::yield_now().await;
        }
        let all = rig.query("count", 100).await.expect("answered");
        assert_eq!(all, Ok(Bytes::from_static(b"100")));
    });
}

#[test]
fn an_idle_group_is_flushed_by_the_tick() {
    paused(async {
        let mut rig = Rig::start();
        rig.apply(adds(1..=5)).await;
        assert_eq!(rig.reached(5).await.durable, LogIndex::ZERO);
        rig.applier.send(FlushTick).await.expect("the applier runs");
        let flush = rig.flushes.recv().await.expect("flushed");
        rig.carry_out(flush);
        assert_eq!(rig.reached(5).await.durable, LogIndex::new(5));
        rig.applier.send(FlushTick).await.expect("the applier runs");
        assert!(rig.flushes.try_recv().is_err(), "nothing new to flush");
    });
}

/// Goal: the log keeps what a machine's own storage does not have. Method: at a flush the machine has
/// persisted first, on a worker; where that fails, nothing is flushed and the group is faulted.
#[test]
fn own_storage_is_durable_before_the_applied_index() {
    paused(async {
        let engine = Engine::default();
        let (workers, clock) = (LocalWorkers::current(), VirtualClock::start(0));
        let machine = Box::new(EngineMachine::over(&engine));
        let config = ApplierConfig::default();
        let mut rig = Rig::with(machine, config, Arc::new(workers), Arc::new(clock));
        rig.apply(adds(1..=5)).await;
        assert_eq!(rig.reached(5).await.durable, LogIndex::ZERO);
        assert_eq!(engine.persists(), []);
        rig.applier.send(FlushTick).await.expect("the applier runs");
        let flush = rig.flushes.recv().await.expect("flushed");
        assert_eq!((flush.flush.applied, engine.durable()), (LogIndex::new(5), LogIndex::new(5)));
        rig.carry_out(flush);
        assert_eq!(rig.reached(5).await.durable, LogIndex::new(5));

        engine.fail();
        rig.apply(adds(6..=6)).await;
        rig.reached(6).await;
        rig.applier.send(FlushTick).await.expect("the applier runs");
        let failed = rig.failed.recv().await.expect("reported");
        assert!(matches!(failed.reason, ApplyFault::Persist(_)), "{:?}", failed.reason);
        assert!(rig.flushes.try_recv().is_err(), "what is not persisted is not flushed");
    });
}
