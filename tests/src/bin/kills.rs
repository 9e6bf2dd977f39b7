//! What does the death of an actor cost the groups that it does not belong to? (RT-5)
//!
//! ```text
//! kills [--kinds NAME,NAME] [--pairs N] [--window-ms N] [--interval-ms N] [--rate N] [--out FILE]
//! each kind of actor: quiet window, window with kills, quiet, kills, …      load on nine groups
//! ```
//!
//! Three real nodes in this process, QUIC with mTLS, LMDB with syncs. Actors of groups die in group 1;
//! what is measured is the latency of proposals to the other eight. Proposals are due at a fixed rate,
//! whatever became of those before, and their latency counts from then: a stall is seen by all that
//! fall into it. Windows alternate, so that what the machine does meanwhile meets both alike; a
//! proposal that touched a window with kills counts there. A kill is over when every actor of the node
//! runs and every group has had something acknowledged that was proposed after that. Every
//! acknowledged write is looked for at the end.
//! Run it on a release build: `cargo run --release -p polyraft-tests --bin kills`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft::{GroupHandle, ProposeError};
use polyraft_actors::guard::KillMode;
use polyraft_actors::mailbox::ActorKind;
use polyraft_tests::actor_kill::{KINDS, is_whole, kill};
use polyraft_tests::cluster::{Cluster, DEADLINE, Machines, Shape, wait_until};
use polyraft_tests::ledger::{Ledger, Outcomes, command, counts};
use polyraft_tests::rows::report::{Micros, longest, micros, quantile, record};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

const NODES: u64 = 3;
const GROUPS: u64 = 9;
/// Where actors of groups die.
const VICTIM: u64 = 1;
/// Callers of the group that dies ask again soon.
const VICTIM_DEADLINE: Duration = Duration::from_secs(1);
/// Callers of the others outlast an election, so that its whole length is measured.
const OTHERS_DEADLINE: Duration = Duration::from_secs(10);

/// A window without kills, and one with.
const QUIET: usize = 0;
const KILLS: usize = 1;

/// What the proposers share.
struct Load {
    began: Instant,
    phase: AtomicUsize,
    stop: AtomicBool,
    next: AtomicU64,
    /// When the latest acknowledged proposal of each group was due, in µs.
    acknowledged: [AtomicU64; GROUPS as usize],
    done: mpsc::UnboundedSender<Done>,
}

/// What became of one proposal.
struct Done {
    group: u64,
    number: u64,
    outcome: Result<(), ProposeError>,
    phase: usize,
    took: Duration,
}

impl Load {
    fn start() -> (Arc<Self>, mpsc::UnboundedReceiver<Done>) {
        let (done, outcomes) = mpsc::unbounded_channel();
        let load = Self {
            began: Instant::now(),
            phase: AtomicUsize::new(QUIET),
            stop: AtomicBool::new(false),
            next: AtomicU64::new(1),
            acknowledged: Default::default(),
            done,
        };
        (Arc::new(load), outcomes)
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Proposes at a fixed rate until told to stop, and waits for the last answer.
    async fn run(self: Arc<Self>, group: GroupHandle, every: Duration) {
        let mut due = tokio::time::interval(every);
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut proposals = tokio::task::JoinSet::new();
        while !self.stop.load(SeqCst) {
            let at = due.tick().await.into_std();
            proposals.spawn(self.clone().propose(group.clone(), at));
            while proposals.try_join_next().is_some() {}
        }
        proposals.join_all().await;
    }

    async fn propose(self: Arc<Self>, handle: GroupHandle, due: Instant) {
        let (group, number) = (handle.id().get(), self.next.fetch_add(1, SeqCst));
        let phase_before = self.phase.load(SeqCst);
        let outcome = handle.propose(command(number)).await.map(|_| ());
        if outcome.is_ok() {
            let due_us = due.saturating_duration_since(self.began).as_micros() as u64;
            self.acknowledged[group as usize - 1].fetch_max(due_us, SeqCst);
        }
        let phase = phase_before.max(self.phase.load(SeqCst));
        // An Err means that this run is being given up.
        let _ = self.done.send(Done { group, number, outcome, phase, took: due.elapsed() });
    }

    /// Whether every group has acknowledged what was due after `since`.
    fn all_served(&self, since_us: u64) -> bool {
        self.acknowledged.iter().all(|at| at.load(SeqCst) > since_us)
    }
}

/// The command line.
struct Options {
    kinds: Vec<ActorKind>,
    pairs: u32,
    window: Duration,
    interval: Duration,
    every: Duration,
    out: Option<String>,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            kinds: KINDS.into(),
            pairs: 10,
            window: Duration::from_millis(1_000),
            interval: Duration::from_millis(100),
            every: Duration::from_millis(5),
            out: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(format!("{name}: expected a value"))?;
            let number = || value.parse::<u32>().map_err(|_| format!("{name} {value}: no number"));
            match name.as_str() {
                "--kinds" => options.kinds = kinds(&value)?,
                "--pairs" => options.pairs = number()?.max(1),
                "--window-ms" => options.window = Duration::from_millis(number()?.into()),
                "--interval-ms" => options.interval = Duration::from_millis(number()?.into()),
                "--rate" => options.every = Duration::from_secs(1) / number()?.max(1),
                "--out" => options.out = Some(value),
                _ => return Err(format!("{name}: no such option")),
            }
        }
        Ok(options)
    }
}

fn kinds(names: &str) -> Result<Vec<ActorKind>, String> {
    let kind = |name| KINDS.into_iter().find(|kind| kind.as_str() == name);
    names.split(',').map(|name| kind(name).ok_or(format!("{name}: no such actor"))).collect()
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse()?;
    silence_kills();
    let machines: Machines = Arc::new(|_, _| Box::new(Ledger::default()));
    let mut cluster = Cluster::prepare(Shape::new(NODES, GROUPS), machines).await;
    cluster.start_all().await;
    let (load, mut done) = Load::start();
    let mut proposers = Vec::new();
    for group in 1..=GROUPS {
        let deadline = if group == VICTIM { VICTIM_DEADLINE } else { OTHERS_DEADLINE };
        let handle = cluster.leading(group).await.with_deadline(deadline);
        proposers.push(tokio::spawn(load.clone().run(handle, options.every)));
    }
    let mut outcomes = BTreeMap::new();
    println!(
        "actor          kills recovery p50/max ms   others: p50        p99         max    ms  p99"
    );
    for &kind in &options.kinds {
        tally(&mut done, &mut outcomes); // What the kind before left behind.
        let recoveries = measure(&cluster, &load, kind, &options).await;
        let latencies = tally(&mut done, &mut outcomes);
        report(kind, &recoveries, &latencies, options.out.as_deref())?;
    }
    load.stop.store(true, SeqCst);
    for proposer in proposers {
        proposer.await?;
    }
    tally(&mut done, &mut outcomes);
    check(&cluster, &outcomes).await;
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

/// Quiet windows and windows with kills of one kind, in turn; how long each kill took to be over.
async fn measure(cluster: &Cluster, load: &Load, kind: ActorKind, options: &Options) -> Micros {
    let mut recoveries = micros();
    for _ in 0..options.pairs {
        load.phase.store(QUIET, SeqCst);
        tokio::time::sleep(options.window).await;
        load.phase.store(KILLS, SeqCst);
        let began = Instant::now();
        while began.elapsed() < options.window {
            let next = Instant::now() + options.interval;
            let took = kill_once(cluster, load, kind, recoveries.len()).await;
            record(&mut recoveries, took);
            tokio::time::sleep_until(next.into()).await;
        }
    }
    load.phase.store(QUIET, SeqCst);
    recoveries
}

/// Kills one actor, by panic and by stop in turn, and returns how long it took until its node was
/// whole and every group served again: deaths without progress would be a crash loop.
async fn kill_once(cluster: &Cluster, load: &Load, kind: ActorKind, at: u64) -> Duration {
    let parts = cluster.node(1 + at % NODES).parts();
    let mode = if at.is_multiple_of(2) { KillMode::Panic } else { KillMode::Stop };
    let mut gone = None;
    wait_until(DEADLINE, "an actor to kill", || {
        gone = kill(parts, kind, mode);
        gone.is_some()
    })
    .await;
    let (gone, began) = (gone.expect("it was just killed"), Instant::now());
    wait_until(DEADLINE, "the actor's end", gone).await;
    wait_until(DEADLINE, "its next life", || is_whole(parts)).await;
    let whole = load.now_us();
    wait_until(DEADLINE, "progress", || load.all_served(whole)).await;
    began.elapsed()
}

/// Takes what has been answered since: the others' latencies, quiet and with kills. What was not
/// answered well counts with the time that it took to say so.
fn tally(
    done: &mut mpsc::UnboundedReceiver<Done>,
    outcomes: &mut BTreeMap<u64, Outcomes>,
) -> [Micros; 2] {
    let mut latencies = [micros(), micros()];
    while let Ok(Done { group, number, outcome, phase, took }) = done.try_recv() {
        outcomes.entry(group).or_default().note(number, &outcome);
        if group != VICTIM {
            record(&mut latencies[phase], took);
        }
    }
    latencies
}

fn report(
    kind: ActorKind,
    recoveries: &Micros,
    latencies: &[Micros; 2],
    out: Option<&str>,
) -> std::io::Result<()> {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let [quiet, kills] = latencies;
    assert!(!quiet.is_empty() && !kills.is_empty(), "nothing was proposed");
    let at = |share| (ms(quantile(quiet, share)), ms(quantile(kills, share)));
    let ((q50, k50), (q99, k99)) = (at(0.5), at(0.99));
    let change = 100.0 * (k99 / q99 - 1.0);
    let (name, killed) = (kind.as_str(), recoveries.len());
    let (r50, r_max) = (ms(quantile(recoveries, 0.5)), ms(longest(recoveries)));
    let (q_max, k_max) = (ms(longest(quiet)), ms(longest(kills)));
    println!(
        "{name:<14} {killed:>5} {r50:>9.1} {r_max:>9.1}    {q50:>6.2} {k50:>6.2} {q99:>7.2} {k99:>7.2} \
         {q_max:>7.1} {k_max:>7.1} {change:>+7.1} %"
    );
    let Some(path) = out else { return Ok(()) };
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    let row = serde_json::json!({
        "actor": name, "kills": killed, "recovery_p50_ms": r50, "recovery_max_ms": r_max,
        "quiet": {"proposals": quiet.len(), "p50_ms": q50, "p99_ms": q99, "max_ms": q_max},
        "with_kills": {"proposals": kills.len(), "p50_ms": k50, "p99_ms": k99, "max_ms": k_max},
        "p99_change_percent": change,
    });
    writeln!(file, "{row}")
}

/// Nothing acknowledged is missing on any node, and nothing is there twice.
async fn check(cluster: &Cluster, outcomes: &BTreeMap<u64, Outcomes>) {
    for (group, outcomes) in outcomes {
        for handle in &cluster.everywhere(*group) {
            let rows = handle.read(Bytes::new()).await.expect("a healthy group");
            outcomes.check(&counts(&rows));
        }
    }
    let total = |of: fn(&Outcomes) -> usize| outcomes.values().map(of).sum::<usize>();
    println!(
        "{} acknowledged, {} unknown, {} refused; 0 lost, 0 twice",
        total(|o| o.acknowledged.len()),
        total(|o| o.unknown.len()),
        total(|o| o.refused.len())
    );
}
