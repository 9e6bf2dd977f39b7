//! Gauge share: one part of a gauge that several parts add up to.
//!
//! ```text
//! group 1 ─share 3─┐
//! group 2 ─share 0─┼→ gauge 5        a share that is dropped is taken out of the sum
//! group 3 ─share 2─┘
//! ```
//!
//! Promise: the gauge is the sum of the shares that live, whoever dies in between. Not here: figures of
//! which the largest counts; those are set by whoever sees all of them.

use metrics::Gauge;

/// One part of a sum. A change costs one atomic addition; the same value again costs nothing.
#[derive(Debug)]
pub struct GaugeShare {
    gauge: Gauge,
    value: u64,
}

impl GaugeShare {
    /// A share of `gauge`, of nothing yet.
    pub fn new(gauge: Gauge) -> Self {
        Self { gauge, value: 0 }
    }

    /// Replaces this share.
    pub fn set(&mut self, value: u64) {
        let before = std::mem::replace(&mut self.value, value);
        if value > before {
            self.gauge.increment((value - before) as f64);
        } else if value < before {
            self.gauge.decrement((before - value) as f64);
        }
    }
}

impl Drop for GaugeShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use metrics::GaugeFn;

    use super::*;

    #[derive(Default)]
    struct Sum(Mutex<f64>);

    impl GaugeFn for Sum {
        fn increment(&self, value: f64) {
            *self.0.lock().unwrap() += value;
        }

        fn decrement(&self, value: f64) {
            *self.0.lock().unwrap() -= value;
        }

        fn set(&self, value: f64) {
            *self.0.lock().unwrap() = value;
        }
    }

    #[test]
    fn the_gauge_is_the_sum_of_the_shares_that_live() {
        let sum = Arc::new(Sum::default());
        let share = || GaugeShare::new(Gauge::from_arc(sum.clone()));
        let (mut one, mut other) = (share(), share());
        one.set(3);
        other.set(2);
        assert_eq!(*sum.0.lock().unwrap(), 5.0);
        one.set(1);
        assert_eq!(*sum.0.lock().unwrap(), 3.0);
        drop(other);
        assert_eq!(*sum.0.lock().unwrap(), 1.0);
    }
}
