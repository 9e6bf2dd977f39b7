//! Pauses between dials: 100 ms, doubled up to 5 s, with 20 % jitter (TR-5).

use std::time::Duration;

pub(super) const DELAY_MIN: Duration = Duration::from_millis(100);
pub(super) const DELAY_MAX: Duration = Duration::from_secs(5);
const JITTER: f64 = 0.2;

#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: DELAY_MIN }
    }

    /// The pause before the next dial. `unit` is a random number in 0..1.
    pub(super) fn next_delay(&mut self, unit: f64) -> Duration {
        let delay = self.next.mul_f64(1.0 - JITTER + 2.0 * JITTER * unit);
        self.next = (self.next * 2).min(DELAY_MAX);
        delay
    }

    /// The peer is alive: the next pause is the shortest.
    pub(super) fn reset(&mut self) {
        self.next = DELAY_MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_starts_over() {
        let mut backoff = Backoff::new();
        let delays: Vec<u128> = (0..8).map(|_| backoff.next_delay(0.5).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(0.5).as_millis(), 100);
    }

    #[test]
    fn jitter_is_a_fifth_either_way() {
        assert_eq!(Backoff::new().next_delay(0.0).as_millis(), 80);
        assert_eq!(Backoff::new().next_delay(1.0).as_millis(), 120);
    }
}
