//! What does the death of an actor cost the groups that it does not belong to? (RT-5)
//!
//! ```text
//! kills [--pairs N] [--window-ms N] [--interval-ms N] [--out FILE]
//! each kind of actor: quiet window, window with kills, quiet, kills, …      load on nine groups
//! ```
//!
//! Three real nodes in this process, QUIC with mTLS, LMDB with syncs. Actors of groups die in group 1;
//! what is measured is the latency of proposals to the other eight. Windows alternate, so that what the
//! machine does meanwhile meets both alike. Every acknowledged write is looked for at the end.
//! Run it on a release build: `cargo run --release -p polyraft-tests --bin kills`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft::GroupHandle;
use polyraft_actors::guard::KillMode;
use polyraft_actors::mailbox::ActorKind;
use polyraft_tests::actor_kill::{KINDS, is_whole, kill};
use polyraft_tests::cluster::{Cluster, DEADLINE, Machines, Shape, wait_until};
use polyraft_tests::ledger::{Ledger, Outcomes, command, counts};

const NODES: u64 = 3;
const GROUPS: u64 = 9;
/// Where actors of groups die.
const VICTIM: u64 = 1;
/// Pause of a proposer that was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);

/// A window of one kind of actor, with kills or without.
type Phase = usize;

/// What the proposers share.
struct Load {
    phase: AtomicUsize,
    stop: AtomicBool,
    next: AtomicU64,
    acknowledged: [AtomicU64; GROUPS as usize],
}

/// What one proposer brings home: its group, what became of its numbers, and latencies in µs.
struct Proposed {
    group: u64,
    outcomes: Outcomes,
    latencies_us: Vec<(Phase, u64)>,
}

impl Load {
    async fn run(self: Arc<Self>, group: GroupHandle) -> Proposed {
        let id = group.id().get();
        let (mut outcomes, mut latencies_us) = (Outcomes::default(), Vec::new());
        while !self.stop.load(SeqCst) {
            let (number, began) = (self.next.fetch_add(1, SeqCst), Instant::now());
            let outcome = group.propose(command(number)).await;
            outcomes.note(number, &outcome);
            let took = began.elapsed().as_micros() as u64;
            latencies_us.push((self.phase.load(SeqCst), took));
            match outcome {
                Ok(_) => drop(self.acknowledged[id as usize - 1].fetch_add(1, SeqCst)),
                Err(_) => tokio::time::sleep(REFUSED_PAUSE).await,
            }
        }
        Proposed { group: id, outcomes, latencies_us }
    }
}

/// The command line.
struct Options {
    pairs: u32,
    window: Duration,
    interval: Duration,
    out: Option<String>,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            pairs: 5,
            window: Duration::from_millis(1_000),
            interval: Duration::from_millis(50),
            out: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(format!("{name}: expected a value"))?;
            let number = || value.parse::<u32>().map_err(|_| format!("{name} {value}: no number"));
            match name.as_str() {
                "--pairs" => options.pairs = number()?,
                "--window-ms" => options.window = Duration::from_millis(number()?.into()),
                "--interval-ms" => options.interval = Duration::from_millis(number()?.into()),
                "--out" => options.out = Some(value),
                _ => return Err(format!("{name}: no such option")),
            }
        }
        Ok(options)
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse()?;
    silence_kills();
    let machines: Machines = Arc::new(|_, _| Box::new(Ledger::default()));
    let mut cluster = Cluster::prepare(Shape::new(NODES, GROUPS), machines).await;
    cluster.start_all().await;
    let load = Arc::new(Load {
        phase: AtomicUsize::new(usize::MAX),
        stop: AtomicBool::new(false),
        next: AtomicU64::new(1),
        acknowledged: Default::default(),
    });
    let mut proposers = Vec::new();
    for group in 1..=GROUPS {
        let handle = cluster.leading(group).await;
        proposers.push(tokio::spawn(load.clone().run(handle)));
    }
    let mut kills = BTreeMap::new();
    for (at, kind) in KINDS.into_iter().enumerate() {
        eprintln!("{} …", kind.as_str());
        for _ in 0..options.pairs {
            load.phase.store(2 * at, SeqCst);
            tokio::time::sleep(options.window).await;
            load.phase.store(2 * at + 1, SeqCst);
            *kills.entry(at).or_default() += kill_for(&cluster, &load, kind, &options).await;
        }
    }
    load.stop.store(true, SeqCst);
    let mut proposed = Vec::new();
    for proposer in proposers {
        proposed.push(proposer.await?);
    }
    check(&cluster, &proposed).await;
    report(&proposed, &kills, options.out.as_deref())?;
    cluster.stop_all().await;
    Ok(())
}

/// A kill by panic is one of the faults; its message is no news. Any other panic's is.
fn silence_kills() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some("killed on request") {
            tell(panic);
        }
    }));
}

/// Kills one after the other for a window, each once its node is whole again and the victim's group
/// has had something acknowledged: deaths without progress would be a crash loop.
async fn kill_for(cluster: &Cluster, load: &Load, kind: ActorKind, options: &Options) -> u64 {
    let (began, mut kills) = (Instant::now(), 0);
    while began.elapsed() < options.window {
        let next = Instant::now() + options.interval;
        let parts = cluster.node(1 + kills % NODES).parts();
        let mode = if kills % 2 == 0 { KillMode::Panic } else { KillMode::Stop };
        let served = &load.acknowledged[VICTIM as usize - 1];
        let mut gone = None;
        wait_until(DEADLINE, "an actor to kill", || {
            gone = kill(parts, kind, mode);
            gone.is_some()
        })
        .await;
        let (gone, before) = (gone.expect("it was just killed"), served.load(SeqCst));
        wait_until(DEADLINE, "the actor's end", gone).await;
        wait_until(DEADLINE, "its next life", || is_whole(parts)).await;
        wait_until(DEADLINE, "progress", || served.load(SeqCst) > before).await;
        kills += 1;
        tokio::time::sleep_until(next.into()).await;
    }
    kills
}

/// Nothing acknowledged is missing on any node, and nothing is there twice.
async fn check(cluster: &Cluster, proposed: &[Proposed]) {
    for Proposed { group, outcomes, .. } in proposed {
        let handles = cluster.everywhere(*group);
        for handle in &handles {
            let rows = handle.read(Bytes::new()).await.expect("a healthy group");
            outcomes.check(&counts(&rows));
        }
    }
}

/// The `percent`th percentile in µs of what was measured in a phase, and how much that was.
fn percentile(proposed: &[Proposed], phase: Phase, percent: usize) -> (u64, usize) {
    let others = proposed.iter().filter(|proposed| proposed.group != VICTIM);
    let of_phase = others.flat_map(|p| &p.latencies_us).filter(|(at, _)| *at == phase);
    let mut sorted: Vec<_> = of_phase.map(|(_, took)| *took).collect();
    sorted.sort_unstable();
    assert!(!sorted.is_empty(), "nothing was proposed in phase {phase}");
    (sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)], sorted.len())
}

fn report(
    proposed: &[Proposed],
    kills: &BTreeMap<usize, u64>,
    out: Option<&str>,
) -> std::io::Result<()> {
    let total =
        |of: fn(&Outcomes) -> usize| proposed.iter().map(|p| of(&p.outcomes)).sum::<usize>();
    println!("actor          kills   quiet p50  kills p50   quiet p99  kills p99   change");
    let mut rows = Vec::new();
    for (at, kind) in KINDS.into_iter().enumerate() {
        let of = |phase, percent| percentile(proposed, phase, percent);
        let (quiet, killing) = (2 * at, 2 * at + 1);
        let ((q50, _), (k50, _)) = (of(quiet, 50), of(killing, 50));
        let ((q99, q_n), (k99, k_n)) = (of(quiet, 99), of(killing, 99));
        let change = 100.0 * (k99 as f64 / q99 as f64 - 1.0);
        let (name, kills) = (kind.as_str(), kills[&at]);
        println!(
            "{name:<14} {kills:>5} {q50:>8} us {k50:>7} us {q99:>8} us {k99:>7} us  {change:>+6.1} %"
        );
        let mut row = String::new();
        let _ = write!(
            row,
            "{{\"actor\":\"{name}\",\"kills\":{kills},\"quiet_p50_us\":{q50},\"kills_p50_us\":{k50},\
             \"quiet_p99_us\":{q99},\"kills_p99_us\":{k99},\"p99_change_percent\":{change:.1},\
             \"quiet_proposals\":{q_n},\"kills_proposals\":{k_n}}}"
        );
        rows.push(row);
    }
    println!(
        "{} acknowledged, {} unknown, {} refused; 0 lost, 0 twice",
        total(|o| o.acknowledged.len()),
        total(|o| o.unknown.len()),
        total(|o| o.refused.len())
    );
    match out {
        Some(path) => std::fs::write(path, format!("[\n{}\n]\n", rows.join(",\n"))),
        None => Ok(()),
    }
}
