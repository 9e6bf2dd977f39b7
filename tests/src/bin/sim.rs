//! Runs seeds of the simulator: `sim --seed N --count M [--trace]`; of its second depth, whole nodes,
//! with `--depth nodes`.

use std::process::ExitCode;

use polyraft_tests::{node_sim, sim};

fn option(arguments: &[String], name: &str, default: u64) -> u64 {
    let at = arguments.iter().position(|argument| argument == name);
    let value = at.and_then(|at| arguments.get(at + 1)).map(|value| value.parse());
    value.map_or(default, |value| value.expect("a number follows the option"))
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    let first = option(&arguments, "--seed", 1);
    let count = option(&arguments, "--count", 1);
    let trace = arguments.iter().any(|argument| argument == "--trace");
    if arguments.windows(2).any(|pair| pair == ["--depth", "nodes"]) {
        return whole_nodes(first, count, trace);
    }
    let mut failures = 0;
    let mut totals = sim::Counts::default();
    for seed in first..first + count {
        let report = sim::run(seed, None, trace);
        totals.add(&report.counts);
        if let Some(failure) = report.failure {
            failures += 1;
            println!("seed {seed} fails: {failure}");
            println!("  cargo run -p polyraft-tests --bin sim -- --seed {seed} --trace");
        }
    }
    println!("{count} seeds from {first}, {failures} failed: {totals:?}");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The second depth: whole nodes.
fn whole_nodes(first: u64, count: u64, trace: bool) -> ExitCode {
    let mut failures = 0;
    let mut totals = node_sim::Counts::default();
    for seed in first..first + count {
        let report = node_sim::run(seed, trace);
        totals.add_all(&report.counts);
        if let Some(failure) = report.failure {
            failures += 1;
            println!("seed {seed} fails: {failure}");
            println!(
                "  cargo run -p polyraft-tests --bin sim -- --depth nodes --seed {seed} --trace"
            );
        }
    }
    println!("{count} seeds from {first}, {failures} failed: {:#?}", totals.0);
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
