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
use std::time::Instant;

use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::dice::Dice;
use polyraft_etcd_client_tests::load::{self, Load};
use polyraft_etcd_client_tests::node_process::Cluster;
use polyraft_etcd_client_tests::verify::{Verdict, verify_alone};
use polyraft_etcd_client_tests::{ledger, load::start};

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
    let mut cluster =
        Cluster::prepare(&std::path::absolute(binary)?, &std::path::absolute(&dir)?, &[1])?;
    cluster.start_all().await?;
    let (mut counts, mut dice, began) = (Counts::default(), Dice::new(seed), Instant::now());
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
    Ok(verify_alone(&ledger::read(&path)?, cluster.endpoints()).await?)
}

/// Kills one node, or all, under load, and waits for service and progress.
async fn cycle(
    cluster: &mut Cluster,
    load: &Arc<Load>,
    dice: &mut Dice,
    counts: &mut Counts,
) -> Result<(), Box<dyn Error>> {
    load.wait_for_progress().await?;
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
    load.wait_for_progress().await?;
    counts.cycles += 1;
    counts.whole_cluster += u64::from(is_whole);
    Ok(())
}
