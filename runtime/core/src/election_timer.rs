//! Election timeouts from a seeded source, so that a run replays exactly.
//!
//! raft-rs draws its timeout from `thread_rng` whenever it resets; the replica overwrites that draw
//! before and after every tick (DESIGN §3, rule 9). A new timeout is drawn for every campaign.
//! Source: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").

use crate::split_mix;

/// Draws election timeouts in `(base, 2 × base)` ticks: a wait of k ticks may last only k − 1 of them.
#[derive(Debug)]
pub struct ElectionTimer {
    base_ticks: u64,
    state: u64,
    epoch: (u64, u8),
    current: usize,
}

/// A campaign that does not wait for an election timeout, because there is no leader to wait for.
/// Repeated after waits that double up to an election timeout, until there is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EarlyStand {
    /// The tick to stand at.
    pub due: u64,
    /// From then to the next time, in ticks.
    pub wait: u64,
}

impl ElectionTimer {
    /// A timer for one replica; `seed` must differ between replicas and between their lives.
    pub fn new(base_ticks: u64, seed: u64) -> Self {
        assert!(base_ticks >= 2, "an election timeout of {base_ticks} ticks cannot be random");
        let mut timer = Self { base_ticks, state: seed, epoch: (0, 0), current: 0 };
        timer.draw();
        timer
    }

    /// The timeout in force in this (term, role): a new one whenever either changed.
    pub fn timeout(&mut self, term: u64, role: u8) -> usize {
        if self.epoch != (term, role) {
            self.epoch = (term, role);
            self.draw();
        }
        self.current
    }

    /// Draws a new timeout: a campaign in the same term and role has failed.
    pub fn draw(&mut self) {
        self.state = self.state.wrapping_add(split_mix::STEP);
        let drawn = split_mix::mix(self.state);
        let ticks = self.base_ticks + 1 + drawn % (self.base_ticks - 1);
        self.current = usize::try_from(ticks).expect("a timeout in ticks fits in memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_cover_the_whole_range_and_replay() {
        let run = |seed| {
            let mut timer = ElectionTimer::new(10, seed);
            (0..1_000).map(|term| timer.timeout(term, 0)).collect::<Vec<_>>()
        };
        let drawn = run(7);
        assert_eq!(drawn, run(7));
        assert_ne!(drawn, run(8));
        assert!((11..20).all(|ticks| drawn.contains(&ticks)));
        assert!(drawn.iter().all(|ticks| (11..20).contains(ticks)));
    }

    #[test]
    fn the_same_epoch_keeps_its_timeout() {
        let mut timer = ElectionTimer::new(1_000_000, 1);
        let first = timer.timeout(3, 1);
        assert_eq!(timer.timeout(3, 1), first);
        assert_ne!(timer.timeout(3, 2), first);
    }

    #[test]
    fn a_new_term_has_a_new_timeout() {
        let mut timer = ElectionTimer::new(1_000_000, 1);
        let first = timer.timeout(3, 1);
        assert_ne!(timer.timeout(4, 1), first);
    }

    #[test]
    fn a_failed_campaign_draws_again_within_its_epoch() {
        let mut timer = ElectionTimer::new(1_000_000, 1);
        let first = timer.timeout(3, 1);
        timer.draw();
        let second = timer.timeout(3, 1);
        assert_ne!(second, first);
        assert_eq!(timer.timeout(3, 1), second);
    }

    #[test]
    fn the_shortest_timeout_that_can_be_random_is_drawn() {
        let mut timer = ElectionTimer::new(2, 9);
        assert!((0..100).all(|term| timer.timeout(term, 0) == 3), "between 2 and 4 is only 3");
    }

    #[test]
    #[should_panic(expected = "cannot be random")]
    fn a_timeout_of_one_tick_is_a_bug() {
        ElectionTimer::new(1, 9);
    }

    /// Goal: neighbours rarely stand together (TK-6). Method: first timeouts of consecutive seeds.
    #[test]
    fn close_seeds_have_distant_timeouts() {
        let first = |seed| ElectionTimer::new(1_000, seed).timeout(0, 0);
        let equal = (0..1_000).filter(|seed| first(*seed) == first(seed + 1)).count();
        assert!(equal < 10, "{equal} of 1,000 neighbours share a timeout");
    }
}
