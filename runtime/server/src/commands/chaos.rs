//! `polyraft chaos run`: load and faults as a scenario says, and a verdict.
//!
//! Exit code 0: ok. 1: a promise was broken. 2: the run shows nothing, because a fault is not proven or
//! the cluster or the scenario could not be had.

use std::fs;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::CommandError;
use super::signals::StopSignals;
use crate::chaos::chaos_report::ChaosReport;
use crate::chaos::page::page;
use crate::chaos::run::{Attachment, ChaosError, ChaosPlan, run as run_plan};
use crate::chaos::scenario::{Scenario, ScenarioError};
use crate::chaos::workload::Counts;

/// Between two updates of the progress line.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// What a run without a verdict ends with.
pub(super) const NO_VERDICT: u8 = 2;

/// Arguments of `polyraft chaos`.
#[derive(Debug, Args)]
pub struct ChaosArgs {
    #[command(subcommand)]
    action: ChaosAction,
}

#[derive(Debug, Subcommand)]
enum ChaosAction {
    /// Run a scenario on a cluster of its own, or on a running one.
    Run(RunArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The scenario's TOML file.
    scenario: PathBuf,
    /// Where to write report.json, report.html and the nodes' output; made if need be.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Repeats the choice of victims, keys and calls.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A node of a running cluster, by its admin interface and its etcd API; once per node.
    #[arg(long, value_name = "ADMIN=CLIENT", value_parser = addresses)]
    attach: Vec<(SocketAddr, SocketAddr)>,
    /// The file with the token that the running cluster's nodes want to see.
    #[arg(long, value_name = "FILE", requires = "attach")]
    token_file: Option<PathBuf>,
}

/// Why a scenario has no verdict; exit code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChaosCommandError {
    /// The scenario cannot be run.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The run came to no end.
    #[error(transparent)]
    Run(#[from] ChaosError),
    /// It was told to stop.
    #[error("stopped before the end")]
    Stopped,
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn addresses(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    let (admin, client) = text.split_once('=').ok_or("expected ADMIN=CLIENT")?;
    let address = |text: &str| text.parse().map_err(|error| format!("{text:?}: {error}"));
    Ok((address(admin)?, address(client)?))
}

pub(super) async fn run(args: ChaosArgs) -> Result<ExitCode, CommandError> {
    let mut signals = StopSignals::new()?;
    let ChaosAction::Run(args) = args.action;
    // Dropping the run ends every process that it started.
    tokio::select! {
        verdict = run_scenario(args) => Ok(verdict?),
        () = signals.next() => Err(ChaosCommandError::Stopped.into()),
    }
}

async fn run_scenario(args: RunArgs) -> Result<ExitCode, ChaosCommandError> {
    let scenario = Scenario::load(&args.scenario)?;
    if let Some(dir) = &args.out {
        usable(dir, fs::create_dir_all(dir))?;
    }
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    let attached =
        (!args.attach.is_empty()).then_some(Attachment { addresses: args.attach, token });
    let bar = progress_bar(&scenario);
    let plan = ChaosPlan { scenario, seed: args.seed, logs: args.out.clone(), attached };
    let mut watcher = None;
    let report =
        run_plan(plan, |counts| watcher = Some(tokio::spawn(show(bar.clone(), counts)))).await;
    if let Some(watcher) = watcher {
        watcher.abort();
    }
    bar.finish_and_clear();
    let report = report?;
    if let Some(dir) = &args.out {
        save(&report, dir)?;
    }
    print!("{}", report.table());
    Ok(ExitCode::from(report.verdict.exit_code()))
}

fn usable<T>(path: &Path, result: io::Result<T>) -> Result<T, ChaosCommandError> {
    result.map_err(|source| ChaosCommandError::Io { path: path.to_owned(), source })
}

fn read_token(path: &Path) -> Result<String, ChaosCommandError> {
    Ok(usable(path, fs::read_to_string(path))?.trim().to_owned())
}

fn save(report: &ChaosReport, dir: &Path) -> Result<(), ChaosCommandError> {
    let json = serde_json::to_vec_pretty(report).expect("a report has only text for keys");
    let (json_file, html_file) = (dir.join("report.json"), dir.join("report.html"));
    usable(&json_file, fs::write(&json_file, json))?;
    usable(&html_file, fs::write(&html_file, page(report)))
}

fn progress_bar(scenario: &Scenario) -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} s  {msg}")
        .expect("the template is a constant that parses");
    ProgressBar::with_draw_target(Some(scenario.duration.as_secs()), target)
        .with_style(style)
        .with_prefix(scenario.name.clone())
        .with_message("starting")
}

/// Shows how far the load is, until aborted.
async fn show(bar: ProgressBar, counts: Arc<Counts>) {
    let (began, mut interval) = (Instant::now(), tokio::time::interval(PROGRESS_INTERVAL));
    loop {
        interval.tick().await;
        let [acknowledged, failed, unknown] =
            [&counts.acknowledged, &counts.failed, &counts.unknown]
                .map(|c| c.load(Ordering::Relaxed));
        bar.set_position(began.elapsed().as_secs());
        bar.set_message(format!("{acknowledged} acknowledged, {failed} failed, {unknown} unknown"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_nodes_have_two_addresses() {
        let parsed = addresses("127.0.0.1:2381=127.0.0.1:2379").unwrap();
        assert_eq!((parsed.0.port(), parsed.1.port()), (2381, 2379));
        assert!(addresses("127.0.0.1:2381").unwrap_err().contains("ADMIN=CLIENT"));
        assert!(addresses("x=127.0.0.1:1").unwrap_err().contains("\"x\""));
    }
}
