//! Kills nodes of a real cluster under load, over and over, and checks that nothing acknowledged is
//! lost or applied twice (RL-1).
//!
//! ```text
//! kill9 --binary PATH/polyraft --cycles N [--seed S] [--clients K] [--verify-every M] [--dir DIR]
//! ```
//!
//! A cycle counts only if the process died of SIGKILL, served a linearizable read again, and the
//! load had something acknowledged since the kill.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::load::{self, Load};
use polyraft_etcd_client_tests::node_process::Cluster;
use polyraft_etcd_client_tests::verify::{Verdict, verify};
use polyraft_etcd_client_tests::{ledger, load::start};

/// How long the load may take to have something acknowledged after a kill.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);
/// One kill in this many takes every node at once.
const WHOLE_CLUSTER_ONE_IN: u64 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kill9: {error}");
            ExitCode::from(2)
        }
    }
}

/// What the summary counts.
#[derive(Default)]
struct Counts {
    cycles: u64,
    whole_cluster: u64,
    acknowledged: u64,
    unknown: u64,
    verifications: u64,
}

/// Whether nothing was lost or duplicated.
async fn run() -> Result<bool, Box<dyn Error>> {
    let known = ["binary", "cycles", "seed", "clients", "verify-every", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let binary: PathBuf = arguments.require("binary")?;
    let (cycles, seed) = (arguments.require::<u64>("cycles")?, arguments.get_or("seed", 1)?);
    let clients = arguments.get_or("clients", 16)?;
    let verify_every = arguments.get_or("verify-every", 50_u64)?.max(1);
    let scratch = tempfile::tempdir()?;
    let dir = arguments.get_or("dir", scratch.path().to_path_buf())?;
    std::fs::create_dir_all(&dir)?;
    let mut cluster = Cluster::prepare(&std::path::absolute(binary)?, &std::path::absolute(&dir)?)?;
    start_all(&mut cluster).await?;
    let (mut counts, mut dice, began) = (Counts::default(), Dice(seed), Instant::now());
    let mut verdict = Verdict::default();
    while counts.cycles < cycles && verdict.violations.is_empty() {
        let round = verify_every.min(cycles - counts.cycles);
        verdict =
            kill_and_verify(&mut cluster, &dir, round, clients, &mut dice, &mut counts).await?;
        println!("cycle {}: {verdict}", counts.cycles);
    }
    println!(
        "kill9: seed {seed}, {} cycles ({} of the whole cluster), {} acknowledged, {} unknown, \
         {} verifications, {} violations, {:.0} s",
        counts.cycles,
        counts.whole_cluster,
        counts.acknowledged,
        counts.unknown,
        counts.verifications,
        verdict.violations.len(),
        began.elapsed().as_secs_f64()
    );
    Ok(verdict.violations.is_empty())
}

/// Runs a load over some cycles, then compares the cluster with everything acknowledged so far.
async fn kill_and_verify(
    cluster: &mut Cluster,
    dir: &Path,
    cycles: u64,
    clients: usize,
    dice: &mut Dice,
    counts: &mut Counts,
) -> Result<Verdict, Box<dyn Error>> {
    let path = dir.join("ledger");
    let load = Load::open(&path)?;
    let running = start(&load, clients, cluster.endpoints());
    for _ in 0..cycles {
        cycle(cluster, &load, dice, counts).await?;
    }
    load::finish(&load, running).await?;
    counts.acknowledged += load.acknowledged();
    counts.unknown += load.unknown();
    counts.verifications += 1;
    Ok(verify(&ledger::read(&path)?, cluster.endpoints()).await?)
}

/// Kills one node, or all, under load, and waits for service and progress.
async fn cycle(
    cluster: &mut Cluster,
    load: &Arc<Load>,
    dice: &mut Dice,
    counts: &mut Counts,
) -> Result<(), Box<dyn Error>> {
    wait_for_progress(load).await?;
    let is_whole = dice.roll(WHOLE_CLUSTER_ONE_IN) == 0;
    let one = dice.roll(3) as usize;
    let victims: Vec<_> = (0..3).filter(|at| is_whole || *at == one).collect();
    for at in &victims {
        cluster.kill(*at)?;
    }
    for at in &victims {
        cluster.start(*at)?;
    }
    for at in &victims {
        cluster.wait_until_serving(*at).await?;
    }
    wait_for_progress(load).await?;
    counts.cycles += 1;
    counts.whole_cluster += u64::from(is_whole);
    Ok(())
}

/// Starts every node and waits until each serves.
async fn start_all(cluster: &mut Cluster) -> Result<(), Box<dyn Error>> {
    for at in 0..3 {
        cluster.start(at)?;
    }
    for at in 0..3 {
        cluster.wait_until_serving(at).await?;
    }
    Ok(())
}

/// Waits until the load had something acknowledged after this moment.
async fn wait_for_progress(load: &Load) -> Result<(), Box<dyn Error>> {
    let before = load.acknowledged();
    let deadline = Instant::now() + PROGRESS_TIMEOUT;
    while load.acknowledged() == before {
        if Instant::now() > deadline {
            return Err("the load had nothing acknowledged for a minute".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Seeded choices (splitmix64): a seed repeats the same kills.
struct Dice(u64);

impl Dice {
    /// A number from 0 to `sides` - 1.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}
