//! Entropy: the only source of randomness for the actors of one node.
//!
//! A node draws its seed from the operating system; the simulator gives it one. Not for keys.
//!
//! Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (SplitMix64).

use std::sync::atomic::{AtomicU64, Ordering};

use polyraft_core::split_mix::{self, STEP};

/// Uniform random numbers, per node.
pub trait Entropy: Send + Sync + 'static {
    /// The next number, uniform over all of `u64`.
    fn next_u64(&self) -> u64;
}

/// A lock-free generator that is a function of its seed and the number of draws.
#[derive(Debug)]
pub struct SeededEntropy {
    state: AtomicU64,
}

impl SeededEntropy {
    /// A generator from `seed`; any value is fine.
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }
}

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        split_mix::mix(self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equal_numbers() {
        let (a, b, c) = (SeededEntropy::new(7), SeededEntropy::new(7), SeededEntropy::new(8));
        let draw = |e: &SeededEntropy| (0..100).map(|_| e.next_u64()).collect::<Vec<_>>();
        let (a, b, c) = (draw(&a), draw(&b), draw(&c));
        assert_eq!(a, b);
        assert!(a.iter().all(|n| !c.contains(n)));
    }

    #[test]
    fn known_answer() {
        // The published first output of SplitMix64 for seed 0.
        assert_eq!(SeededEntropy::new(0).next_u64(), 0xE220_A839_7B1D_CDAF);
    }
}
