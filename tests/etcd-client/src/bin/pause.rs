//! Stops one process of a cluster for ten seconds with SIGSTOP while it leads every keyspace, over and
//! over, and checks what that costs (TK-8).
//!
//! ```text
//! pause --binary PATH/polyraft [--cycles N] [--seconds S] [--keyspaces K] [--dir DIR]
//! all leaders on node 1 → SIGSTOP … the others elect, take puts … SIGCONT → settle → check
//! ```
//!
//! Each cycle fails unless: every keyspace was led by the stopped node before; it took puts again
//! while that node stood still; one election was won for it, over the stop and the settling after it;
//! its term stayed as it was once the node woke; the woken node fired no more ticks than intervals
//! passed while it ran; and nothing that was acknowledged is lost. The next cycle has fresh data.
//! A split vote, which one election in a hundred has, is a term without a leader: told, not judged here.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use polyraft_etcd_client_tests::admin::{self, Keyspace};
use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::load::{self, Load, start};
use polyraft_etcd_client_tests::node_process::{Cluster, Stopped};
use polyraft_etcd_client_tests::outcome;
use polyraft_etcd_client_tests::verify::verify;
use polyraft_etcd_client_tests::{keyspaces, ledger};

/// The profile's tick interval: see `node_process::configuration`.
const TICK: Duration = Duration::from_millis(20);
/// Ticks beyond those that fit into the two spans in which the node ran: each span may hold one tick
/// more than whole intervals, and may begin with one that came late. A burst would be hundreds.
const TICKS_SLACK: u64 = 4;
/// How long a woken node has to do whatever a burst of ticks would make it do: three elections.
const SETTLE: Duration = Duration::from_secs(3);
/// How long all keyspaces may take to be led and to take a put.
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: usize = 8;

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("pause", run().await)
}

/// Whether every cycle was as it should be.
async fn run() -> Result<bool, Box<dyn Error>> {
    let known = ["binary", "cycles", "seconds", "keyspaces", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let binary = std::path::absolute(arguments.require::<PathBuf>("binary")?)?;
    let stop_for = Duration::from_secs(arguments.get_or("seconds", 10)?);
    let count = arguments.get_or("keyspaces", 16_u64)?;
    let scratch = tempfile::tempdir()?;
    let dir = arguments.get_or("dir", scratch.path().to_path_buf())?;
    let mut is_good = true;
    for cycle in 1..=arguments.get_or("cycles", 1_u64)? {
        let dir = std::path::absolute(dir.join(format!("cycle-{cycle}")))?;
        std::fs::create_dir_all(&dir)?;
        let outcome = pause_once(&binary, &dir, stop_for, count).await?;
        println!("cycle {cycle}: {}", outcome.describe());
        is_good &= outcome.is_good();
    }
    Ok(is_good)
}

/// What one stop cost.
struct Outcome {
    keyspaces: usize,
    elections_won: u64,
    split_votes: u64,
    terms_after_waking: u64,
    served_after: Duration,
    ticks: u64,
    ticks_due: u64,
    violations: usize,
    acknowledged: u64,
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.elections_won == self.keyspaces as u64
            && self.terms_after_waking == 0
            && self.ticks <= self.ticks_due + TICKS_SLACK
            && self.violations == 0
            && self.acknowledged > 0
    }

    fn describe(&self) -> String {
        format!(
            "{}: {} keyspaces, {} elections won, {} split votes, {} terms begun after the node woke; \
             all took puts {:.1} s after the stop; {} ticks while it ran, {} were due; \
             {} acknowledged, {} violations",
            if self.is_good() { "ok" } else { "FAILED" },
            self.keyspaces,
            self.elections_won,
            self.split_votes,
            self.terms_after_waking,
            self.served_after.as_secs_f64(),
            self.ticks,
            self.ticks_due,
            self.acknowledged,
            self.violations
        )
    }
}

async fn pause_once(
    binary: &Path,
    dir: &Path,
    stop_for: Duration,
    count: u64,
) -> Result<Outcome, Box<dyn Error>> {
    // A group whose id is a multiple of three has its first leader on the first of three nodes.
    let ids: Vec<_> = (1..=count).map(|n| 3 * n).collect();
    let mut cluster = Cluster::prepare(binary, dir, &ids)?;
    cluster.start_all().await?;
    keyspaces::visit(cluster.endpoints(), ids.len(), PATIENCE).await?;
    let before = wait_until_led_by(&cluster, 1, ids.len()).await?;
    let path = dir.join("ledger");
    let load = Load::open(&path)?;
    let running = start(&load, CLIENTS, cluster.endpoints());
    load.wait_for_progress().await?;

    let won_before = admin::elections_won(&cluster).await?;
    let looked = Instant::now();
    let ticks_before = ticks_of(&cluster).await?;
    let stopped = Stopped::stop(cluster.process_id(0).ok_or("node 1 does not run")?)?;
    let (since, ran_before) = (Instant::now(), looked.elapsed());
    let served_after = keyspaces::visit(&cluster.endpoints()[1..], ids.len(), stop_for).await?;
    tokio::time::sleep(stop_for.saturating_sub(since.elapsed())).await;
    let meanwhile = admin::keyspaces(cluster.admin(1)).await?;
    let woken = Instant::now();
    drop(stopped);
    cluster.wait_until_serving(0).await?;
    let ticks = ticks_of(&cluster).await? - ticks_before;
    let ran = ran_before + woken.elapsed();
    let ticks_due = (ran.as_nanos() / TICK.as_nanos()) as u64;
    tokio::time::sleep(SETTLE).await;

    load::finish(&load, running).await?;
    let verdict = verify(&ledger::read(&path)?, cluster.endpoints()).await?;
    verdict.violations.iter().for_each(|violation| println!("{violation}"));
    let after = admin::keyspaces(cluster.admin(0)).await?;
    let elections_won = admin::elections_won(&cluster).await? - won_before;
    Ok(Outcome {
        keyspaces: after.len(),
        elections_won,
        split_votes: terms_between(&before, &meanwhile).saturating_sub(elections_won),
        terms_after_waking: terms_between(&meanwhile, &after),
        served_after,
        ticks,
        ticks_due,
        violations: verdict.violations.len(),
        acknowledged: load.acknowledged(),
    })
}

/// How many terms all keyspaces together went through.
fn terms_between(before: &[Keyspace], after: &[Keyspace]) -> u64 {
    before.iter().zip(after).map(|(before, after)| after.term - before.term).sum()
}

/// How often the first node's timer has fired.
async fn ticks_of(cluster: &Cluster) -> Result<u64, Box<dyn Error>> {
    let ticks = admin::counter(cluster.admin(0), admin::TICKS).await?;
    Ok(ticks.ok_or("node 1 does not count its ticks")?)
}

/// Waits until `node` leads every keyspace, and returns them.
async fn wait_until_led_by(
    cluster: &Cluster,
    node: u64,
    count: usize,
) -> Result<Vec<Keyspace>, Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = admin::keyspaces(cluster.admin(0)).await?;
        let led = all.iter().filter(|keyspace| keyspace.leader == Some(node)).count();
        if led == count {
            return Ok(all);
        }
        if Instant::now() > deadline {
            return Err(format!("node {node} leads {led} of {count} keyspaces").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
