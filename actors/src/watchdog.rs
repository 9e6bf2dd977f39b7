//! Watchdog: proves that no arbiter blocks (RT-6).
//!
//! ```text
//! timer ─ping→ each arbiter ─answer→ ArbiterStalls → metrics
//! ```
//!
//! From the tick's own thread, every few milliseconds, a closure is queued on each watched arbiter;
//! how late it runs is how long that arbiter kept everyone waiting. A ping that is still unanswered
//! counts with its age, so a stall is seen while it lasts. One ping per arbiter is outstanding.
//! Arbiters that block by design (log writer, state flusher) are not watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use actix::prelude::*;
use polyraft_core::time::Moment;

use crate::clock::Clock;
use crate::guard::{DownGuard, killable};

/// Default period of the pings. A shorter one sees more of the short stalls and wakes every thread
/// of an idle node more often.
pub const PING_INTERVAL_DEFAULT: Duration = Duration::from_millis(50);

/// The worst stall of each watched arbiter since the start; read without a lock.
#[derive(Debug)]
pub struct ArbiterStalls {
    arbiters: Vec<Stall>,
}

#[derive(Debug)]
struct Stall {
    label: &'static str,
    max_us: AtomicU64,
    /// Microseconds of the node's clock plus one; 0 while no ping is outstanding.
    pinged: AtomicU64,
    /// Microseconds of the node's clock at the last answer; before the first, its start.
    answered: AtomicU64,
}

impl ArbiterStalls {
    /// No stall yet, of arbiters with these labels.
    pub fn of(labels: impl IntoIterator<Item = &'static str>) -> Self {
        let stall = |label| Stall {
            label,
            max_us: AtomicU64::new(0),
            pinged: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        };
        Self { arbiters: labels.into_iter().map(stall).collect() }
    }

    /// How long ago, at `now`, the arbiter answered whose last answer is the oldest. At rest this is
    /// the period of the pings; it grows while an arbiter blocks, and also while nobody pings.
    pub fn silent_for(&self, now: Moment) -> Duration {
        let answered = self.arbiters.iter().map(|a| a.answered.load(Relaxed)).min();
        answered.map_or(Duration::ZERO, |us| now.since(Moment::new(Duration::from_micros(us))))
    }

    /// The label of each arbiter's place, and its worst stall.
    pub fn max(&self) -> impl Iterator<Item = (&'static str, Duration)> + '_ {
        self.arbiters.iter().map(|a| (a.label, Duration::from_micros(a.max_us.load(Relaxed))))
    }
}

impl Stall {
    /// How long the outstanding ping has been waiting.
    fn age(&self, now: Moment) -> Option<Duration> {
        let pinged = self.pinged.load(Relaxed).checked_sub(1)?;
        Some(now.since(Moment::new(Duration::from_micros(pinged))))
    }

    fn record(&self, stall: Duration) {
        self.max_us.fetch_max(stall.as_micros() as u64, Relaxed);
    }

    fn answer(&self, now: Moment) {
        if let Some(stall) = self.age(now) {
            self.record(stall);
            metrics::histogram!("polyraft_arbiter_stall_seconds", "place" => self.label)
                .record(stall);
        }
        self.answered.store(now.since_start().as_micros() as u64, Relaxed);
        self.pinged.store(0, Relaxed);
    }
}

/// The actor. Runs on the tick's arbiter.
pub struct Watchdog {
    interval: Duration,
    clock: Arc<dyn Clock>,
    arbiters: Vec<ArbiterHandle>,
    stalls: Arc<ArbiterStalls>,
    _guard: DownGuard,
}

impl Watchdog {
    /// Watches `arbiters`, which `stalls` has the labels of, every `interval`.
    pub fn new(
        interval: Duration,
        clock: Arc<dyn Clock>,
        arbiters: Vec<ArbiterHandle>,
        stalls: Arc<ArbiterStalls>,
        guard: DownGuard,
    ) -> Self {
        assert_eq!(arbiters.len(), stalls.arbiters.len(), "one stall per arbiter");
        Self { interval, clock, arbiters, stalls, _guard: guard }
    }

    fn ping_all(&mut self, _: &mut Context<Self>) {
        let now = self.clock.now();
        for (at, arbiter) in self.arbiters.iter().enumerate() {
            let stall = &self.stalls.arbiters[at];
            if let Some(age) = stall.age(now) {
                stall.record(age);
                continue;
            }
            stall.pinged.store(now.since_start().as_micros() as u64 + 1, Relaxed);
            let (stalls, clock) = (Arc::clone(&self.stalls), Arc::clone(&self.clock));
            arbiter.spawn_fn(move || stalls.arbiters[at].answer(clock.now()));
        }
    }
}

impl Actor for Watchdog {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(self.interval, Self::ping_all);
    }
}

killable!(Watchdog);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::mailbox::ActorKind;
    use crate::testing::guard;

    #[test]
    fn a_blocked_arbiter_is_seen_while_it_blocks() {
        System::new().block_on(async {
            let (free, blocked) = (Arbiter::new(), Arbiter::new());
            let (release, wait) = std::sync::mpsc::channel::<()>();
            blocked.spawn_fn(move || wait.recv().expect("released by the test"));
            let clock = Arc::new(SystemClock::start());
            let stalls = Arc::new(ArbiterStalls::of(["free", "blocked"]));
            let (every, watched) =
                (Duration::from_millis(1), vec![free.handle(), blocked.handle()]);
            let guard = guard(ActorKind::Watchdog);
            let now = || clock.now();
            let _watchdog =
                Watchdog::new(every, clock.clone(), watched, stalls.clone(), guard).start();
            let worst = |n| stalls.max().nth(n).expect("two arbiters").1;
            while worst(1) < Duration::from_millis(100) || worst(0).is_zero() {
                tokio::task::yield_now().await;
            }
            assert!(worst(0) < worst(1), "{:?} {:?}", worst(0), worst(1));
            let silent = stalls.silent_for(now());
            assert!(silent >= Duration::from_millis(100), "{silent:?}");
            release.send(()).expect("it waits");
            while stalls.silent_for(now()) >= silent {
                tokio::task::yield_now().await;
            }
        });
    }
}
