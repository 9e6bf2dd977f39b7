//! A host's clocks: its monotonic clock and its ticks run fast or slow, its wall clock jumps, and the
//! whole process stands still now and then.

use std::time::Duration;

use polyraft_core::time::Moment;

/// What one tick of the simulation stands for.
pub const TICK: Duration = Duration::from_millis(30);
/// The wall clock when a run begins, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// The clocks of one host.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    /// Thousandths of a tick that pass on this host in one tick of the world.
    pub rate: u64,
    /// Milliseconds by which the wall clock is ahead of the time it should show.
    pub ahead_ms: i64,
    /// The process stands still before this tick of the world.
    pub paused_until: u64,
    elapsed: u64,
    ticked: u64,
}

impl Clock {
    /// A clock that runs at `rate` thousandths of the true speed.
    pub fn new(rate: u64) -> Self {
        Self { rate, ahead_ms: 0, paused_until: 0, elapsed: 0, ticked: 0 }
    }

    /// One tick of the world passes.
    pub fn advance(&mut self) {
        self.elapsed += self.rate;
    }

    /// Whether the replica's next tick is due. After a pause, what was missed is left out.
    pub fn tick(&mut self) -> bool {
        let is_due = self.elapsed >= self.ticked + 1_000;
        if is_due {
            self.ticked = (self.ticked + 1_000).max(self.elapsed.saturating_sub(1_000));
        }
        is_due
    }

    /// Time on the monotonic clock.
    pub fn now(&self) -> Moment {
        Moment::new(TICK * u32::try_from(self.elapsed).expect("a short run") / 1_000)
    }

    /// Time on the wall clock, in milliseconds since the Unix epoch.
    pub fn wall_ms(&self) -> u64 {
        let elapsed = self.now().since_start().as_millis() as u64;
        (EPOCH_MS + elapsed).saturating_add_signed(self.ahead_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_clock_ticks_less_and_a_pause_is_not_made_up_for() {
        let mut slow = Clock::new(500);
        let mut ticks = 0;
        for _ in 0..100 {
            slow.advance();
            ticks += u64::from(slow.tick());
        }
        assert_eq!((ticks, slow.now()), (50, Moment::new(50 * TICK)));
        (0..100).for_each(|_| slow.advance());
        let burst = (0..10).filter(|_| slow.tick()).count();
        assert!(burst <= 2, "{burst} ticks at once");
    }

    #[test]
    fn a_wall_clock_that_is_behind_shows_less() {
        let mut clock = Clock::new(1_000);
        clock.ahead_ms = -3_600_000;
        assert_eq!(clock.wall_ms(), EPOCH_MS - 3_600_000);
    }
}
