//! Clock faults: the wall clock that this node sees is wrong; its monotonic clock is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use polyraft_actors::clock::Clock;
use polyraft_core::time::Moment;

use super::in_force::InForce;

/// One step in force.
#[derive(Debug)]
pub(super) struct ActiveClock {
    pub(super) step_ms: i64,
    /// Readings that it shifted: the proof that someone saw it.
    pub(super) readings: AtomicU64,
}

impl ActiveClock {
    pub(super) fn new(step_ms: i64) -> Self {
        Self { step_ms, readings: AtomicU64::new(0) }
    }
}

/// A node's clock under faults; steps add up.
pub(super) struct FaultyClock {
    pub(super) inner: Arc<dyn Clock>,
    pub(super) faults: Arc<InForce<ActiveClock>>,
}

impl Clock for FaultyClock {
    fn now(&self) -> Moment {
        self.inner.now()
    }

    fn wall_ms(&self) -> u64 {
        self.faults.those(|_| true).iter().fold(self.inner.wall_ms(), |ms, fault| {
            fault.readings.fetch_add(1, Relaxed);
            ms.saturating_add_signed(fault.step_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use polyraft_actors::clock::VirtualClock;

    use super::*;

    #[test]
    fn steps_add_up_until_they_are_ended_and_never_pass_zero() {
        let faults = Arc::<InForce<ActiveClock>>::default();
        let inner = Arc::new(VirtualClock::start(10_000));
        let clock = FaultyClock { inner: inner.clone(), faults: faults.clone() };
        let since = |ms: i64| clock.wall_ms() as i64 - inner.wall_ms() as i64 - ms;
        let near = |ms: i64| (-100..=100).contains(&since(ms));
        assert!(near(0));
        let [ahead, back] = [3_600_000, -9_000].map(|ms| Arc::new(ActiveClock::new(ms)));
        faults.add(ahead.clone());
        faults.add(back.clone());
        assert!(near(3_591_000));
        faults.remove(&ahead);
        assert!(near(-9_000));
        assert!(ahead.readings.load(Relaxed) < back.readings.load(Relaxed));
        faults.add(Arc::new(ActiveClock::new(i64::MIN)));
        assert_eq!(clock.wall_ms(), 0);
    }
}
