//! Goal: whatever fails, the core keeps its promises, and the simulator would notice if it did not.
//!
//! Method: seeds; see `polyraft_tests::sim`. More of them:
//! `cargo run --release -p polyraft-tests --bin sim -- --seed 1 --count 10000`.

use polyraft_tests::host::Sabotage;
use polyraft_tests::sim::{self, Counts};

/// Seeds in one test run.
const SEEDS: u64 = 300;

#[test]
fn seeds_hold_every_invariant() {
    let mut totals = Counts::default();
    for seed in 1..=SEEDS {
        let report = sim::run(seed, None, false);
        totals.add(&report.counts);
        if let Some(failure) = report.failure {
            panic!(
                "seed {seed}: {failure}\n  \
                 cargo run -p polyraft-tests --bin sim -- --seed {seed} --trace"
            );
        }
    }
    println!("{SEEDS} seeds: {totals:?}");
    let Counts { elections, applied, reads, crashes, log_writers_replaced, .. } = totals;
    let Counts { changes, fetches, overwritten, .. } = totals;
    let happened =
        [elections, applied, reads, crashes, log_writers_replaced, changes, fetches, overwritten];
    let quietest = happened.into_iter().min();
    assert!(quietest > Some(50), "the storm is too quiet to prove anything: {totals:?}");
}

#[test]
fn a_seed_replays_to_the_last_message() {
    for seed in 1_000..1_050 {
        let first = sim::run(seed, None, false);
        assert_eq!(first, sim::run(seed, None, false));
    }
}

/// Negative controls: each deliberately broken shell is caught.
#[test]
fn every_sabotage_is_caught() {
    let controls = [
        Sabotage::AcknowledgeBeforeDurable,
        Sabotage::HardStateUnsaved,
        Sabotage::ApplyOutOfOrder,
        Sabotage::AnswerOnSubmit,
        Sabotage::TruncationSkipped,
        Sabotage::StaleRead,
        Sabotage::LostAppends,
    ];
    for sabotage in controls {
        let caught = (1..=500).find_map(|seed| {
            let failure = sim::run(seed, Some(sabotage), false).failure?;
            Some((seed, failure))
        });
        let (seeds, failure) = caught.unwrap_or_else(|| panic!("{sabotage:?} is not caught"));
        println!("{sabotage:?}: caught after {seeds} seed(s) by {failure}");
    }
}
