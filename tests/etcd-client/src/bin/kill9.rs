//! Kills nodes of a real cluster under load, over and over, and checks that nothing acknowledged is
//! lost or applied twice (RL-1).
//!
//! ```text
//! kill9 --binary PATH/polyraft --cycles N [--seed S] [--clients K] [--verify-every M] [--dir DIR]
//! ```
//!
//! Each cycle kills one node, two, or all, by lot. One in three kills each of them once more while it
//! starts, after a time by lot that is about as long as a start. A cycle counts only if each kill ended
//! a process that ran, every victim served a linearizable read again, and the load had something
//! acknowledged since.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polyraft_etcd_client_tests::arguments::Arguments;
use polyraft_etcd_client_tests::dice::Dice;
use polyraft_etcd_client_tests::load::{self, Load};
use polyraft_etcd_client_tests::node_process::Cluster;
use polyraft_etcd_client_tests::outcome;
use polyraft_etcd_client_tests::verify::{Verdict, verify_alone};
use polyraft_etcd_client_tests::{ledger, load::start};

/// How many victims a cycle has, by lot: one half of the time, then two or all three.
const VICTIMS: [usize; 4] = [1, 1, 2, 3];
/// One cycle in this many kills its victims again while they start.
const STARTING_ONE_IN: u64 = 3;
/// A start takes about as long as this, in milliseconds.
const START_MS: u64 = 100;

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("kill9", run().await)
}

/// What the summary counts.
#[derive(Default)]
struct Counts {
    cycles: u64,
    two: u64,
    whole_cluster: u64,
    starting: u64,
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
        "kill9: seed {seed}, {} cycles ({} of two nodes, {} of the whole cluster, {} again during the \
         start), {} acknowledged, {} unknown, {} verifications, {} violations, {:.0} s",
        counts.cycles,
        counts.two,
        counts.whole_cluster,
        counts.starting,
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

/// Kills some nodes under load, perhaps again while they start, and waits for service and progress.
async fn cycle(
    cluster: &mut Cluster,
    load: &Arc<Load>,
    dice: &mut Dice,
    counts: &mut Counts,
) -> Result<(), Box<dyn Error>> {
    load.wait_for_progress().await?;
    let count = VICTIMS[dice.roll(VICTIMS.len() as u64) as usize];
    let first = dice.roll(3) as usize;
    let victims: Vec<_> = (first..first + count).map(|at| at % 3).collect();
    victims.iter().try_for_each(|at| cluster.kill(*at))?;
    victims.iter().try_for_each(|at| cluster.start(*at))?;
    if dice.roll(STARTING_ONE_IN) == 0 {
        // At whatever step it is by then.
        tokio::time::sleep(Duration::from_millis(dice.roll(START_MS))).await;
        victims.iter().try_for_each(|at| cluster.kill(*at))?;
        victims.iter().try_for_each(|at| cluster.start(*at))?;
        counts.starting += 1;
    }
    for at in &victims {
        cluster.wait_until_serving(*at).await?;
    }
    load.wait_for_progress().await?;
    counts.cycles += 1;
    counts.two += u64::from(count == 2);
    counts.whole_cluster += u64::from(count == 3);
    Ok(())
}
