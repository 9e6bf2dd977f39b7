//! Tick: the node's one timer.
//!
//! ```text
//! timer → Tick ─TickGroup→ every awake group
//!           └──HeartbeatInterval→ every link, at its own boundary
//! ```
//!
//! Only registered groups are ticked: a group that hibernates unregisters, so ten thousand idle
//! groups cost nothing.
//!
//! Promise: after a pause each group gets one tick, not one for every interval that was missed, and
//! is told how long the gap was (TK-8). Ticks are offered: a group that is too busy to take one is
//! counted and gets the next.
//!
//! Not here: what a tick means (core).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::time::Moment;

use crate::clock::Clock;
use crate::guard::{DownGuard, killable};
use crate::mailbox::{ActorKind, Offer, messages, offer};

messages!(TickGroup, HeartbeatInterval, RegisterGroup, UnregisterGroup, RegisterLink, Fire);

/// Command from the tick actor to an awake group, every interval. Dropped and counted when the
/// group's mailbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickGroup {
    /// The time.
    pub now: Moment,
    /// Since the tick before; well above the interval after a pause of the process.
    pub gap: Duration,
}

/// Command from the tick actor to a link: send the heartbeats that were collected. Dropped and
/// counted when the link's mailbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatInterval {
    /// The time.
    pub now: Moment,
}

/// Command from a group that starts or wakes: tick me. Replaces an earlier registration.
#[derive(Debug)]
pub struct RegisterGroup {
    /// The group.
    pub group: GroupId,
    /// Its actor.
    pub to: Recipient<TickGroup>,
}

/// Command from a group that hibernates or stops. Without effect if another life has registered.
#[derive(Debug)]
pub struct UnregisterGroup {
    /// The group.
    pub group: GroupId,
    /// The actor that had registered.
    pub to: Recipient<TickGroup>,
}

/// Command from a link that starts. Replaces an earlier registration; a link that is gone
/// unregisters itself by being gone.
#[derive(Debug)]
pub struct RegisterLink {
    /// The peer.
    pub peer: NodeId,
    /// The link's actor.
    pub to: Recipient<HeartbeatInterval>,
}

/// To itself: the timer fired.
struct Fire;

/// The actor.
pub struct Tick {
    interval: Duration,
    heartbeat_interval: Duration,
    clock: Arc<dyn Clock>,
    groups: BTreeMap<GroupId, Recipient<TickGroup>>,
    links: BTreeMap<NodeId, Recipient<HeartbeatInterval>>,
    due: Moment,
    heartbeat_due: Moment,
    last: Moment,
    _guard: DownGuard,
}

impl Tick {
    /// A timer of period `interval` that tells links every `heartbeat_interval`.
    ///
    /// # Panics
    /// If `interval` is zero or longer than `heartbeat_interval`.
    pub fn new(
        interval: Duration,
        heartbeat_interval: Duration,
        clock: Arc<dyn Clock>,
        guard: DownGuard,
    ) -> Self {
        assert!(!interval.is_zero(), "a tick needs a period");
        assert!(interval <= heartbeat_interval, "{interval:?} > {heartbeat_interval:?}");
        let now = clock.now();
        Self {
            interval,
            heartbeat_interval,
            clock,
            groups: BTreeMap::new(),
            links: BTreeMap::new(),
            due: now.after(interval),
            heartbeat_due: now.after(heartbeat_interval),
            last: now,
            _guard: guard,
        }
    }

    fn arm(&self, ctx: &mut Context<Self>) {
        ctx.notify_later(Fire, self.due.since(self.clock.now()));
    }

    fn tick_groups(&mut self, now: Moment) {
        let tick = TickGroup { now, gap: now.since(self.last) };
        self.groups.retain(|_, to| offer(to, ActorKind::Group, tick) != Offer::Closed);
    }

    fn tell_links(&mut self, now: Moment) {
        let boundary = HeartbeatInterval { now };
        self.links.retain(|_, to| offer(to, ActorKind::PeerLink, boundary) != Offer::Closed);
    }
}

/// The first moment after `now` that is a whole number of `period`s after `due`: intervals that
/// were missed are skipped, and lateness does not add up.
fn next_due(due: Moment, period: Duration, now: Moment) -> Moment {
    let late = now.since(due);
    let into_period = Duration::from_nanos((late.as_nanos() % period.as_nanos()) as u64);
    due.after(late - into_period + period)
}

impl Actor for Tick {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.arm(ctx);
    }
}

killable!(Tick);

impl Handler<Fire> for Tick {
    type Result = ();

    fn handle(&mut self, _: Fire, ctx: &mut Self::Context) {
        let now = self.clock.now();
        if now >= self.due {
            metrics::histogram!("polyraft_tick_lateness_seconds").record(now.since(self.due));
            metrics::gauge!("polyraft_awake_groups").set(self.groups.len() as f64);
            self.tick_groups(now);
            self.last = now;
            self.due = next_due(self.due, self.interval, now);
            // After the groups, so that the heartbeats which they have just made go out with it.
            if now >= self.heartbeat_due {
                self.tell_links(now);
                self.heartbeat_due = next_due(self.heartbeat_due, self.heartbeat_interval, now);
            }
        }
        self.arm(ctx);
    }
}

impl Handler<RegisterGroup> for Tick {
    type Result = ();

    fn handle(&mut self, message: RegisterGroup, _: &mut Self::Context) {
        self.groups.insert(message.group, message.to);
    }
}

impl Handler<UnregisterGroup> for Tick {
    type Result = ();

    fn handle(&mut self, message: UnregisterGroup, _: &mut Self::Context) {
        if self.groups.get(&message.group) == Some(&message.to) {
            self.groups.remove(&message.group);
        }
    }
}

impl Handler<RegisterLink> for Tick {
    type Result = ();

    fn handle(&mut self, message: RegisterLink, _: &mut Self::Context) {
        self.links.insert(message.peer, message.to);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::guard::{Kill, KillMode};
    use crate::testing::{Probe, guard, paused};

    const INTERVAL: Duration = Duration::from_millis(100);

    /// A clock that the test moves, apart from the timers.
    #[derive(Default)]
    struct ManualClock(AtomicU64);

    impl Clock for ManualClock {
        fn now(&self) -> Moment {
            Moment::new(Duration::from_millis(self.0.load(SeqCst)))
        }

        fn wall_ms(&self) -> u64 {
            self.0.load(SeqCst)
        }
    }

    impl ManualClock {
        async fn pass(&self, step: Duration) {
            self.0.fetch_add(step.as_millis() as u64, SeqCst);
            tokio::time::sleep(step).await;
        }
    }

    fn start() -> (Arc<ManualClock>, Addr<Tick>) {
        let clock = Arc::new(ManualClock::default());
        let tick = Tick::new(INTERVAL, 2 * INTERVAL, clock.clone(), guard(ActorKind::Tick));
        (clock, tick.start())
    }

    async fn register(tick: &Addr<Tick>, n: u64) -> UnboundedReceiver<TickGroup> {
        let (to, ticks) = Probe::start();
        tick.send(RegisterGroup { group: GroupId::new(n), to }).await.expect("tick runs");
        ticks
    }

    #[test]
    fn a_pause_makes_one_tick_with_its_gap() {
        paused(async {
            let (clock, tick) = start();
            let mut ticks = register(&tick, 1).await;
            clock.pass(INTERVAL).await;
            assert_eq!(ticks.recv().await.expect("ticked").gap, INTERVAL);
            // The process is stopped: the clock moves and no timer fires.
            clock.0.fetch_add(9_950, SeqCst);
            clock.pass(INTERVAL).await;
            let after = ticks.recv().await.expect("ticked");
            assert_eq!(after.gap, Duration::from_millis(10_050));
            clock.pass(Duration::from_millis(50)).await;
            assert_eq!(ticks.recv().await.expect("ticked").gap, Duration::from_millis(50));
            assert!(ticks.try_recv().is_err(), "missed intervals are not made up for");
        });
    }

    #[test]
    fn links_are_told_at_their_own_boundary() {
        paused(async {
            let (clock, tick) = start();
            let (to, mut boundaries) = Probe::start();
            tick.send(RegisterLink { peer: NodeId::new(2), to }).await.expect("tick runs");
            let mut ticks = register(&tick, 1).await;
            for _ in 0..10 {
                clock.pass(INTERVAL).await;
                ticks.recv().await.expect("ticked");
            }
            tick.send(Kill { mode: KillMode::Stop }).await.expect("tick runs");
            let mut told = Vec::new();
            while let Some(boundary) = boundaries.recv().await {
                told.push(boundary.now.since_start().as_millis());
            }
            assert_eq!(told, [200, 400, 600, 800, 1_000]);
        });
    }

    #[test]
    fn only_registered_groups_are_ticked() {
        paused(async {
            let (clock, tick) = start();
            let (to, mut ticks) = Probe::start();
            let group = GroupId::new(1);
            tick.send(RegisterGroup { group, to: to.clone() }).await.expect("tick runs");
            let (stranger, _ticks) = Probe::start();
            tick.send(UnregisterGroup { group, to: stranger }).await.expect("tick runs");
            clock.pass(INTERVAL).await;
            assert_eq!(ticks.recv().await.expect("still registered").gap, INTERVAL);
            tick.send(UnregisterGroup { group, to }).await.expect("tick runs");
            let mut other = register(&tick, 2).await;
            clock.pass(INTERVAL).await;
            other.recv().await.expect("ticked");
            assert!(ticks.try_recv().is_err());
        });
    }

    #[test]
    fn due_times_do_not_drift() {
        let at = |ms| Moment::new(Duration::from_millis(ms));
        assert_eq!(next_due(at(100), INTERVAL, at(100)), at(200));
        assert_eq!(next_due(at(100), INTERVAL, at(199)), at(200));
        assert_eq!(next_due(at(100), INTERVAL, at(10_150)), at(10_200));
    }
}
