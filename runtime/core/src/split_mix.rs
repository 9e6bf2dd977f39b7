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
}
