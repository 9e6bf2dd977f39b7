//! Goal: whatever fails, the core keeps its promises, and the simulator would notice if it did not.
//!
//! Method: seeds; see `polyraft_tests::sim`. More of them:
//! `cargo run --release -p polyraft-tests --bin sim -- --seed 1 --count 10000`.

use polyraft_tests::host::Sabotage;
use polyraft_tests::sim::{self, Counts, controls};

/// Seeds in one test run.
const SEEDS: u64 = 300;
/// Every count of a test run must exceed this: a fault that never happens proves nothing.
const QUIET: u64 = 20;

#[test]
fn seeds_hold_every_invariant() {
    let mut totals = Counts::default();
    for seed in 1..=SEEDS {
        let report = sim::run(seed, None, false);
        totals.add(&report.counts);
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {failure}\n  {}", sim::rerun(seed));
        }
    }
    println!("{SEEDS} seeds: {totals:?}");
    let quiet: Vec<_> = totals.all().into_iter().filter(|(_, count)| *count <= QUIET).collect();
    assert!(quiet.is_empty(), "the storm is too quiet to prove anything: {quiet:?}");
}

#[test]
fn a_seed_replays_to_the_last_message() {
    for seed in 1_000..1_050 {
        let first = sim::run(seed, None, false);
        assert_eq!(first, sim::run(seed, None, false));
    }
}

/// Negative controls: each deliberately broken shell is noticed.
#[test]
fn every_sabotage_is_noticed() {
    let detections = Sabotage::ALL.map(controls::detect);
    println!("{}", controls::table(&detections));
    for detection in detections {
        assert!(detection.seeds.is_some(), "{:?} is not noticed", detection.sabotage);
    }
}
