//! Time as the core sees it: a number handed in with each input, never read from a clock.

use std::time::Duration;

/// An instant on the node's monotonic clock, in nanoseconds since the node started. Lasts 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// When the node started.
    pub const START: Self = Self(0);

    /// The moment `since_start` after the node started; later than 584 years is held there.
    pub fn new(since_start: Duration) -> Self {
        Self(saturating_nanos(since_start))
    }

    /// Time since the node started.
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Time that passed from `earlier` to this moment; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `wait` after this one.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(wait)))
    }
}

/// A duration in nanoseconds, held at the largest `u64`.
fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: moments never wrap. Method: the ends of the range.
    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let one = Moment::new(Duration::from_secs(1));
        assert_eq!(one.since(Moment::START), Duration::from_secs(1));
        assert_eq!(Moment::START.since(one), Duration::ZERO);
        assert_eq!(one.after(Duration::MAX), Moment::new(Duration::MAX));
        assert!(one.after(Duration::from_nanos(1)) > one);
        assert_eq!(one.since_start(), Duration::from_secs(1));
    }

    #[test]
    fn since_is_zero_for_what_is_later() {
        let (early, late) =
            (Moment::new(Duration::from_millis(3)), Moment::new(Duration::from_millis(5)));
        assert_eq!(late.since(early), Duration::from_millis(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn after_nothing_is_now() {
        let now = Moment::new(Duration::from_nanos(17));
        assert_eq!(now.after(Duration::ZERO), now);
    }

    #[test]
    fn the_largest_moment_is_584_years_away() {
        let years = Moment::new(Duration::MAX).since_start().as_secs() / (365 * 24 * 3_600);
        assert_eq!(years, 584);
    }

    #[test]
    fn moments_order_by_time() {
        let later = Moment::START.after(Duration::from_nanos(1));
        assert!(Moment::START < later && Moment::default() == Moment::START);
    }
}
