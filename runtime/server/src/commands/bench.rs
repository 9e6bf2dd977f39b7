//! `polyraft bench`: how fast do three nodes take proposals through the embedding API?
//!
//! ```text
//! per scenario: sync probe → fresh cluster → callers: warm-up, measured seconds → sync probe → row
//! ```
//!
//! Three nodes in this process, mTLS between them, every commit synced, a state machine that does
//! nothing. Callers run on a runtime of their own; their processor time is part of `CPU/op`. What a
//! sync costs differs between machines, and on some from one minute to the next: read each row
//! beside its own probes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use polyraft::certificates::CertificateError;
use polyraft::{ConfigErrors, ProposeError, StartError};

use super::bench_cluster::BenchCluster;
use super::bench_load::Load;
use super::bench_probe::{processor_time, sync_median};
use super::bench_report::{BenchRow, Measured};
use super::bench_scenario::Scenario;
use crate::instance::{InstanceError, install_metrics};

/// Load before the measured part, so that connections, batches and pages are warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// Arguments of `polyraft bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Run only this scenario; may be repeated. Default: all of them.
    #[arg(long = "scenario", value_name = "NAME", conflicts_with_all = ["groups", "in_flight"])]
    scenarios: Vec<String>,
    /// Run a load of your own instead of the scenarios: this many groups.
    #[arg(long, requires = "in_flight", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    groups: Option<u64>,
    /// Calls in flight over all groups together, with --groups; each group gets an equal share.
    #[arg(long, requires = "groups", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    in_flight: Option<u64>,
    /// Seconds that are measured, after one of warm-up.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Bytes of one command.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=4 << 20))]
    command_bytes: u64,
    /// Threads of the callers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    client_threads: u64,
    /// Where the nodes keep their data while a scenario runs: the disk that is measured. Default: a
    /// temporary directory.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where to write each scenario's figures and histogram.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Why a benchmark has no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// No scenario has this name.
    #[error("no scenario is called {name:?}; there are {known}")]
    Scenario {
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A directory, a file or the callers' threads could not be had.
    #[error("cannot use {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No port is free.
    #[error("cannot find a free port")]
    Port(#[source] std::io::Error),
    /// The callers' runtime did not start.
    #[error("cannot start the callers' threads")]
    Threads(#[source] std::io::Error),
    /// The process's time cannot be read.
    #[error("cannot read the process's processor time")]
    ProcessorTime(#[source] std::io::Error),
    /// Certificates could not be made.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The metrics recorder could not be installed.
    #[error(transparent)]
    Metrics(#[from] InstanceError),
    /// The nodes' configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A node did not start.
    #[error("a node did not start")]
    Start(#[from] StartError),
    /// Some groups have no leader.
    #[error("{led} of {groups} groups have leaders after 30 s")]
    NoLeaders {
        /// Groups that have one.
        led: u64,
        /// All groups.
        groups: u64,
    },
    /// Not one call succeeded.
    #[error("{scenario}: no call succeeded")]
    Nothing {
        /// The scenario.
        scenario: String,
        /// What a call said, if one said anything.
        #[source]
        source: Option<ProposeError>,
    },
}

pub(super) async fn run(args: BenchArgs) -> Result<(), BenchError> {
    let scenarios = chosen(&args)?;
    // Every server has a recorder; without one the figures would leave its cost out.
    install_metrics()?;
    let callers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.client_threads as usize)
        .thread_name("bench-callers")
        .enable_all()
        .build()
        .map_err(BenchError::Threads)?;
    println!(
        "polyraft bench: 3 nodes in one process, mTLS, every commit synced, {} B commands, {} s each",
        args.command_bytes, args.seconds
    );
    println!("in flight: over all groups; latency: of a call; CPU/op: callers included\n");
    println!("{}", BenchRow::header());
    let mut outcome = Ok(());
    for scenario in &scenarios {
        outcome = run_one(&args, scenario, callers.handle()).await;
        if outcome.is_err() {
            break;
        }
    }
    // A runtime must not be waited for within another.
    callers.shutdown_background();
    outcome
}

fn chosen(args: &BenchArgs) -> Result<Vec<Scenario>, BenchError> {
    if let (Some(groups), Some(in_flight)) = (args.groups, args.in_flight) {
        return Ok(vec![Scenario::custom(groups, in_flight)]);
    }
    let all = Scenario::all();
    if args.scenarios.is_empty() {
        return Ok(all);
    }
    let named = |name: &String| {
        all.iter().find(|scenario| scenario.name == *name).cloned().ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|scenario| scenario.name.as_str()).collect();
            BenchError::Scenario { name: name.clone(), known: known.join(", ") }
        })
    };
    args.scenarios.iter().map(named).collect()
}

/// Runs one scenario on a cluster of its own, and prints and keeps its figures.
async fn run_one(
    args: &BenchArgs,
    scenario: &Scenario,
    callers: &tokio::runtime::Handle,
) -> Result<(), BenchError> {
    let parent = args.data_dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&parent).map_err(io(&parent))?;
    let dir = tempfile::Builder::new()
        .prefix("polyraft-bench-")
        .tempdir_in(&parent)
        .map_err(io(&parent))?;
    let sync_before = sync_median(dir.path()).map_err(io(dir.path()))?;
    let cluster = BenchCluster::start(dir.path(), scenario).await?;
    let bytes = usize::try_from(args.command_bytes).expect("the argument's range fits");
    let load = Load::new(scenario, bytes);
    let running = load.start(callers, &cluster.leaders(), scenario.in_flight);
    let measured = measure(&cluster, &load, Duration::from_secs(args.seconds)).await;
    let error = load.finish(running).await;
    cluster.stop().await;
    let mut measured = measured?;
    let latencies = load.latencies();
    if latencies.is_empty() {
        return Err(BenchError::Nothing { scenario: scenario.name.clone(), source: error });
    }
    measured.sync = [sync_before, sync_median(dir.path()).map_err(io(dir.path()))?];
    let row = BenchRow::new(scenario, bytes, &latencies, &measured);
    println!("{}   {}", row.line(), row.question);
    if let Some(error) = error {
        println!("{:<17} a call failed: {error}", "");
    }
    match &args.out {
        Some(out) => row.save(out, &latencies).map_err(io(out)),
        None => Ok(()),
    }
}

/// Warms up, then measures for `duration`.
async fn measure(
    cluster: &BenchCluster,
    load: &Load,
    duration: Duration,
) -> Result<Measured, BenchError> {
    tokio::time::sleep(WARM_UP).await;
    let (before, began) = (cluster.progress(), Instant::now());
    let processor_before = processor_time().map_err(BenchError::ProcessorTime)?;
    load.measure(true);
    tokio::time::sleep(duration).await;
    load.measure(false);
    let took = began.elapsed();
    let processor = processor_time().map_err(BenchError::ProcessorTime)?;
    Ok(Measured {
        took,
        processor: processor.saturating_sub(processor_before),
        progress: [before, cluster.progress()],
        failed_calls: load.failed(),
        sync: [Duration::ZERO; 2],
    })
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> BenchError {
    move |source| BenchError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::{Cli, Command};

    fn scenarios(line: &str) -> Result<Vec<String>, String> {
        let words = std::iter::once("polyraft").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Bench(args) = cli.command else { panic!("{line} is not a benchmark") };
        let chosen = chosen(&args).map_err(|error| error.to_string())?;
        Ok(chosen.into_iter().map(|scenario| scenario.name).collect())
    }

    #[test]
    fn scenarios_are_chosen_by_name_or_made_from_numbers() {
        assert_eq!(scenarios("bench").unwrap().len(), Scenario::all().len());
        assert_eq!(scenarios("bench --scenario groups-100").unwrap(), ["groups-100"]);
        assert_eq!(scenarios("bench --groups 4 --in-flight 64").unwrap(), ["custom-4x64"]);
        assert!(scenarios("bench --groups 4").is_err());
        let error = scenarios("bench --scenario fast").unwrap_err();
        assert!(error.contains("throughput") && error.contains("fast"), "{error}");
    }

    /// Goal: the whole path works. Method: one small scenario in a directory of its own, whose
    /// figures must be in the files and whose data must be gone.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_scenario_runs_and_cleans_up() {
        let (data, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let args = BenchArgs {
            scenarios: Vec::new(),
            groups: Some(2),
            in_flight: Some(8),
            seconds: 1,
            command_bytes: 128,
            client_threads: 1,
            data_dir: Some(data.path().to_owned()),
            out: Some(out.path().to_owned()),
        };
        let scenario = Scenario::custom(2, 8);
        run_one(&args, &scenario, &tokio::runtime::Handle::current()).await.unwrap();
        let text = std::fs::read(out.path().join("custom-2x8.json")).unwrap();
        let row: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert!(row["ops"].as_u64().unwrap() > 0, "{row}");
        assert_eq!(row["failed_calls"], 0, "{row}");
        assert!(out.path().join("custom-2x8.hdr").exists());
        assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    }
}
