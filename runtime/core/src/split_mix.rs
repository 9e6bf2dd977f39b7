//! SplitMix64: numbers that are a function of a seed and how many were drawn. Not for keys.
//!
//! Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators".

/// What the state grows by at every draw: the golden ratio in 64 bits, made odd.
pub const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The number that belongs to `state`, after it has grown by [`STEP`].
pub const fn mix(state: u64) -> u64 {
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answer() {
        // The published first output for seed 0.
        assert_eq!(mix(STEP), 0xE220_A839_7B1D_CDAF);
    }

    #[test]
    fn no_two_states_have_the_same_number() {
        let mut numbers: Vec<_> = (0..10_000).map(mix).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 10_000);
    }

    #[test]
    fn the_step_reaches_every_state() {
        assert_eq!(STEP % 2, 1, "an even step would leave half of them out");
    }

    #[test]
    fn neighbours_differ_in_half_of_their_bits() {
        let flipped: u32 = (0..1_000).map(|n| (mix(n) ^ mix(n + 1)).count_ones()).sum();
        assert!((31_000..33_000).contains(&flipped), "{flipped} of 64,000");
    }
}
