//! Stops the process that leads most keyspaces with SIGSTOP, until others have taken over from it, over
//! and over, while every node is read all the time (RD-4, TK-8).
//!
//! ```text
//! pauses --binary PATH/polyraft [--cycles N] [--keyspaces K] [--seed S] [--within-s T]
//!        [--control serializable] [--dir DIR]
//! SIGSTOP the leader … the others elect, acknowledge puts … SIGCONT, a burst of reads → settle → next
//! ```
//!
//! The shortest election timeout there is, 500 ms. The run fails if a read was stale; if a pause cost
//! a group that it stopped more than one election, or another group one; if more than one election in
//! twenty, of 200 at least, was split; if something acknowledged is lost; or if no read was answered by a node that had just
//! woken. With the control, reads are not linearizable, and the run succeeds only if stale ones are
//! found.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polyraft_etcd_client_tests::admin::{self, Keyspace};
use polyraft_etcd_client_tests::arguments::{ArgumentError, Arguments};
use polyraft_etcd_client_tests::dice::Dice;
use polyraft_etcd_client_tests::keyspaces;
use polyraft_etcd_client_tests::node_process::{Cluster, Settings, Stopped};
use polyraft_etcd_client_tests::outcome::{self, wait};
use polyraft_etcd_client_tests::registers::{ReadMode, Registers};

/// The profile's election timeout: a pause is longer.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// How long anything may take that should take a few election timeouts.
const PATIENCE: Duration = Duration::from_secs(60);
/// One election in so many may be split (TK-6).
const SPLIT_ONE_IN: u64 = 20;
/// Fewer elections say nothing of a share of one in twenty.
const ELECTIONS_MIN: u64 = 200;
/// Pauses with an election that is not their doing: on a busy machine one in so many, and a few more.
const DISTURBED_ONE_IN: u64 = 20;
const DISTURBED_FEW: u64 = 1;

#[tokio::main]
async fn main() -> ExitCode {
    outcome::exit_code("pauses", run().await)
}

/// The command line.
struct Options {
    cycles: u64,
    keyspaces: usize,
    seed: u64,
    within: Duration,
    mode: ReadMode,
}

impl Options {
    fn parse(arguments: &Arguments) -> Result<Self, ArgumentError> {
        let control: String = arguments.get_or("control", String::new())?;
        let mode = match control.as_str() {
            "" => ReadMode::Linearizable,
            "serializable" => ReadMode::Serializable,
            _ => return Err(ArgumentError::Malformed { name: "control", value: control }),
        };
        Ok(Self {
            cycles: arguments.get_or("cycles", 500)?,
            keyspaces: arguments.get_or("keyspaces", 6)?,
            seed: arguments.get_or("seed", 1)?,
            within: Duration::from_secs(arguments.get_or("within-s", 1_200)?),
            mode,
        })
    }
}

/// What all pauses cost.
#[derive(Default)]
struct Costs {
    pauses: u64,
    groups: u64,
    terms: u64,
    /// Pauses after which a group had been elected for more than once, or without having been stopped.
    disturbed: u64,
    won: u64,
    outages: Vec<Duration>,
}

/// Whether every promise held; of the control, whether it did not.
async fn run() -> Result<bool, Box<dyn Error>> {
    let known = ["binary", "cycles", "keyspaces", "seed", "within-s", "control", "dir"];
    let arguments = Arguments::parse(std::env::args().skip(1), &known)?;
    let binary = std::path::absolute(arguments.require::<PathBuf>("binary")?)?;
    let options = Options::parse(&arguments)?;
    let scratch = tempfile::tempdir()?;
    let dir = std::path::absolute(arguments.get_or("dir", scratch.path().to_path_buf())?)?;
    std::fs::create_dir_all(&dir)?;
    let groups: Vec<_> = (1..=options.keyspaces as u64).collect();
    let settings = Settings { groups: &groups, profile: "low_latency", tables: "" };
    let mut cluster = Cluster::prepare_with(&binary, &dir, settings)?;
    cluster.start_all().await?;
    keyspaces::visit(cluster.endpoints(), options.keyspaces, PATIENCE).await?;
    let registers = Registers::new(cluster.endpoints(), options.keyspaces, options.mode).await?;
    let (tasks, began) = (registers.start(), Instant::now());
    let (mut costs, mut dice) = (Costs::default(), Dice::new(options.seed));
    while costs.pauses < options.cycles && began.elapsed() < options.within {
        pause(&cluster, &registers, &mut dice, &mut costs).await?;
        if costs.pauses % 50 == 0 {
            println!("{} pauses, {:.0} s", costs.pauses, began.elapsed().as_secs_f64());
        }
    }
    registers.finish(tasks).await;
    verdict(&options, &costs, &registers, began).await
}

/// One pause of the node that leads most, from one settled state to the next.
async fn pause(
    cluster: &Cluster,
    registers: &Arc<Registers>,
    dice: &mut Dice,
    costs: &mut Costs,
) -> Result<(), Box<dyn Error>> {
    let before = settled(cluster).await?;
    let won_before = admin::elections_won(cluster).await?;
    let victim = busiest(&before, dice);
    let id = cluster.process_id(victim).ok_or("the node does not run")?;
    let is_led = |keyspace: &&Keyspace| keyspace.leader == Some(victim as u64 + 1);
    let led = before.iter().filter(is_led).count() as u64;
    let stopped = Stopped::stop(id)?;
    let since = Instant::now();
    registers.avoid(victim);
    let outage = taken_over(cluster, registers, victim, since).await?;
    tokio::time::sleep(ELECTION_TIMEOUT.saturating_sub(since.elapsed())).await;
    drop(stopped);
    registers.woken(victim);
    wait("a woken node serves", PATIENCE, async || registers.is_serving(victim).await).await?;
    let after = settled(cluster).await?;
    let won = admin::elections_won(cluster).await? - won_before;
    let grown = before.iter().zip(&after).map(|(before, after)| after.term - before.term);
    let terms: u64 = grown.clone().sum();
    let elsewhere = before.iter().zip(grown).any(|(before, grown)| !is_led(&before) && grown > 0);
    if won != led || elsewhere {
        costs.disturbed += 1;
        println!(
            "pause {}: node {} led {led}, {won} elections won, {terms} terms\n  {before:?}\n  {after:?}",
            costs.pauses + 1,
            victim + 1
        );
    }
    costs.pauses += 1;
    costs.groups += led;
    costs.won += won;
    costs.terms += terms;
    costs.outages.push(outage);
    Ok(())
}

/// Prints what was found.
async fn verdict(
    options: &Options,
    costs: &Costs,
    registers: &Arc<Registers>,
    began: Instant,
) -> Result<bool, Box<dyn Error>> {
    let (reads, puts) = (registers.reads(), registers.judge().await?);
    reads.examples.iter().for_each(|example| println!("{example}"));
    let mut outages = costs.outages.clone();
    outages.sort_unstable();
    let quantile = |share: usize| {
        outages.get((outages.len() * share / 100).min(outages.len().saturating_sub(1))).copied()
    };
    let split = costs.terms.saturating_sub(costs.won);
    println!(
        "pauses: seed {}, {} pauses of a leader, {} groups led by it; {} elections won, {split} \
         split votes, {} pauses with another election; all led groups take puts again after \
         {:?} (p50), {:?} (longest)",
        options.seed,
        costs.pauses,
        costs.groups,
        costs.won,
        costs.disturbed,
        quantile(50).unwrap_or_default(),
        quantile(100).unwrap_or_default()
    );
    println!(
        "pauses: {} reads checked, {} of them answered within 100 ms of waking ({} had waited for \
         it), {} stale, {} unanswered; {} puts acknowledged, {} unknown, {} lost, {} twice; {:.0} s",
        reads.checked,
        reads.early,
        reads.early_waiting,
        reads.stale,
        reads.unanswered,
        puts.acknowledged,
        puts.unknown,
        puts.lost,
        puts.twice,
        began.elapsed().as_secs_f64()
    );
    if costs.pauses < options.cycles {
        println!("pauses: no more than {} within {:?}", costs.pauses, options.within);
        return Ok(false);
    }
    Ok(match options.mode {
        ReadMode::Serializable => reads.stale > 0,
        ReadMode::Linearizable => {
            reads.stale == 0
                && reads.early > 0
                && costs.disturbed <= DISTURBED_FEW + costs.pauses / DISTURBED_ONE_IN
                && (costs.won < ELECTIONS_MIN || split <= costs.won / SPLIT_ONE_IN)
                && (puts.lost, puts.twice) == (0, 0)
                && puts.acknowledged > 0
        }
    })
}

/// The node that leads most keyspaces, counted from 0; one of several by lot.
fn busiest(keyspaces: &[Keyspace], dice: &mut Dice) -> usize {
    let mut led = BTreeMap::<u64, usize>::new();
    for leader in keyspaces.iter().filter_map(|keyspace| keyspace.leader) {
        *led.entry(leader).or_default() += 1;
    }
    let most = led.values().max().copied().unwrap_or_default();
    let busiest: Vec<_> = led.iter().filter(|(_, count)| **count == most).collect();
    (busiest[dice.roll(busiest.len() as u64) as usize].0 - 1) as usize
}

/// Waits until every keyspace is led by another node than `victim` and takes puts; how long that took.
async fn taken_over(
    cluster: &Cluster,
    registers: &Arc<Registers>,
    victim: usize,
    since: Instant,
) -> Result<Duration, Box<dyn Error>> {
    let other = (victim + 1) % 3;
    wait("others take over", PATIENCE, async || {
        let Ok(keyspaces) = admin::keyspaces(cluster.admin(other)).await else { return false };
        let is_taken =
            |keyspace: &Keyspace| keyspace.leader.is_some_and(|l| l != victim as u64 + 1);
        keyspaces.iter().all(is_taken)
    })
    .await?;
    let floors = registers.floors();
    wait("all keyspaces take puts", PATIENCE, async || {
        floors.iter().zip(registers.floors()).all(|(before, now)| now > *before)
    })
    .await?;
    Ok(since.elapsed())
}

/// What all three nodes say of the keyspaces, once they agree and each has a leader.
async fn settled(cluster: &Cluster) -> Result<Vec<Keyspace>, Box<dyn Error>> {
    let mut found = Vec::new();
    wait("all nodes agree on all leaders", PATIENCE, async || {
        let mut views = Vec::new();
        for at in 0..3 {
            let Ok(view) = admin::keyspaces(cluster.admin(at)).await else { return false };
            views.push(view);
        }
        found = views.swap_remove(0);
        found.iter().all(|keyspace| keyspace.leader.is_some())
            && views.iter().all(|view| *view == found)
    })
    .await?;
    Ok(found)
}
