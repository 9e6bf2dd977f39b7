//! Clock: the only place where an actor learns the time.
//!
//! Promise: `now` never falls. Under tokio's paused time both readings are virtual, so a run of the
//! simulator is a function of its seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use polyraft_core::time::Moment;
use tokio::time::Instant;

/// Monotonic time and wall time of one node.
pub trait Clock: Send + Sync + 'static {
    /// The monotonic time; comparable only within one process.
    fn now(&self) -> Moment;

    /// Milliseconds since the Unix epoch. May jump; never used to measure.
    fn wall_ms(&self) -> u64;
}

/// The machine's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that reads zero now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment::new(self.start.elapsed())
    }

    fn wall_ms(&self) -> u64 {
        // Before 1970 the machine's clock is unset; zero is then as good as any.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}

/// A clock whose wall time also follows tokio's (paused) time, from a fixed origin. Clones are one
/// clock.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    start: Instant,
    wall_origin_ms: u64,
    stepped_ms: Arc<AtomicI64>,
}

impl VirtualClock {
    /// A clock that reads zero, and `wall_origin_ms` on the wall, now.
    pub fn start(wall_origin_ms: u64) -> Self {
        Self { start: Instant::now(), wall_origin_ms, stepped_ms: Arc::default() }
    }

    /// Sets the wall clock forward or back, by milliseconds; the monotonic time does not notice.
    pub fn step_wall(&self, by_ms: i64) {
        self.stepped_ms.fetch_add(by_ms, Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Moment {
        Moment::new(self.start.elapsed())
    }

    fn wall_ms(&self) -> u64 {
        let followed = self.wall_origin_ms + self.start.elapsed().as_millis() as u64;
        followed.saturating_add_signed(self.stepped_ms.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn virtual_time_moves_only_when_told() {
        let clock = VirtualClock::start(1_000);
        assert_eq!((clock.now(), clock.wall_ms()), (Moment::START, 1_000));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(
            (clock.now(), clock.wall_ms()),
            (Moment::new(Duration::from_secs(3_600)), 3_601_000)
        );
        clock.clone().step_wall(-1_000);
        assert_eq!(
            (clock.now(), clock.wall_ms()),
            (Moment::new(Duration::from_secs(3_600)), 3_600_000)
        );
    }
}
