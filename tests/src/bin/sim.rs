//! Runs seeds of the simulator, and the negative controls.
//!
//! ```text
//! sim --seed N [--count M] [--jobs J] [--trace] [--depth core|nodes]
//! sim --controls [--jobs J]
//! ```

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use polyraft_tests::host::Sabotage;
use polyraft_tests::node_sim;
use polyraft_tests::sim::{self, Counts, TICK, controls};

/// What the command line asks for.
struct Arguments {
    seed: u64,
    count: u64,
    jobs: u64,
    is_traced: bool,
    has_controls: bool,
    depth: Depth,
}

/// How much of a node is simulated.
#[derive(Debug, Clone, Copy)]
enum Depth {
    /// The core, its storage and its batcher, driven directly.
    Core,
    /// Whole nodes, with their actors.
    Nodes,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        seed: 1,
        count: 1,
        jobs: 1,
        is_traced: false,
        has_controls: false,
        depth: Depth::Core,
    };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().and_then(|value| value.parse().ok());
            value.filter(|value| *value > 0).ok_or(format!("{word} takes a number above 0"))
        };
        match word.as_str() {
            "--seed" => parsed.seed = number()?,
            "--count" => parsed.count = number()?,
            "--jobs" => parsed.jobs = number()?,
            "--trace" => parsed.is_traced = true,
            "--controls" => parsed.has_controls = true,
            "--depth" => match words.next().as_deref() {
                Some("core") => parsed.depth = Depth::Core,
                Some("nodes") => parsed.depth = Depth::Nodes,
                other => return Err(format!("no depth {other:?}; there are core and nodes")),
            },
            _ => return Err(format!("{word} is not an option")),
        }
    }
    Ok(parsed)
}

/// Calls `work` for every number below `end`, on `jobs` threads.
fn spread(jobs: u64, end: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(at) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < end)
                {
                    work(at);
                }
            });
        }
    });
}

fn run_seeds(arguments: &Arguments) -> ExitCode {
    let results = Mutex::new((Counts::default(), 0));
    let start = Instant::now();
    spread(arguments.jobs, arguments.count, |at| {
        let report = sim::run(arguments.seed + at, None, arguments.is_traced);
        let mut results = results.lock().expect("no thread panics while it counts");
        results.0.add(&report.counts);
        if let Some(failure) = report.failure {
            results.1 += 1;
            println!("seed {} fails: {failure}", report.seed);
            println!("  {}", sim::rerun(report.seed));
        }
    });
    let (totals, failures) = results.into_inner().expect("no thread panics while it counts");
    summarize(arguments, &totals, failures, start.elapsed());
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn summarize(arguments: &Arguments, totals: &Counts, failures: u64, took: Duration) {
    let Arguments { seed, count, jobs, .. } = arguments;
    let counts: Vec<_> = totals.all().iter().map(|(name, n)| format!("{name} {n}")).collect();
    println!("{count} seeds from {seed}, {failures} failed, in {:.1} s", took.as_secs_f64());
    println!("{}", counts.join(", "));
    let hours = TICK.as_secs_f64() * totals.ticks as f64 / 3_600.0;
    let core_minutes = took.as_secs_f64() / 60.0 * *jobs as f64;
    println!(
        "{hours:.1} simulated hours at {} ms per tick: {:.1} per minute and core",
        TICK.as_millis(),
        hours / core_minutes
    );
}

fn run_nodes(arguments: &Arguments) -> ExitCode {
    let results = Mutex::new((node_sim::Counts::default(), 0));
    let start = Instant::now();
    spread(arguments.jobs, arguments.count, |at| {
        let seed = arguments.seed + at;
        let report = node_sim::run(seed, arguments.is_traced);
        let mut results = results.lock().expect("no thread panics while it counts");
        results.0.add_all(&report.counts);
        if let Some(failure) = report.failure {
            results.1 += 1;
            println!("seed {seed} fails: {failure}");
            println!("  {} --depth nodes", sim::rerun(seed));
        }
    });
    let (totals, failures) = results.into_inner().expect("no thread panics while it counts");
    let Arguments { seed, count, .. } = arguments;
    println!(
        "{count} seeds from {seed}, {failures} failed, in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    println!("{:#?}", totals.0);
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_controls(jobs: u64) -> ExitCode {
    let detections = Mutex::new(Vec::new());
    spread(jobs, Sabotage::ALL.len() as u64, |at| {
        let detection = controls::detect(Sabotage::ALL[at as usize]);
        detections.lock().expect("no thread panics while it notes").push((at, detection));
    });
    let mut detections = detections.into_inner().expect("no thread panics while it notes");
    detections.sort_by_key(|(at, _)| *at);
    let detections: Vec<_> = detections.into_iter().map(|(_, detection)| detection).collect();
    print!("{}", controls::table(&detections));
    let caught = detections.iter().filter(|detection| detection.seeds.is_some()).count();
    println!("\n{caught} of {} noticed within {} seeds", detections.len(), controls::SEEDS_MAX);
    if caught == detections.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::FAILURE;
        }
    };
    if !arguments.is_traced {
        // A panic is a finding, and is told with its seed.
        std::panic::set_hook(Box::new(|_| {}));
    }
    if arguments.has_controls {
        return run_controls(arguments.jobs);
    }
    match arguments.depth {
        Depth::Core => run_seeds(&arguments),
        Depth::Nodes => run_nodes(&arguments),
    }
}
