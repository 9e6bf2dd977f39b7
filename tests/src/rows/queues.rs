//! RT-2, RT-3, BP-10: floods fill queues, and queues have ends; heartbeats pass them by.
//!
//! ```text
//! callers ─propose, read, read_stale, transfer, stats→ ┐
//! rogue peer ─Raft, forwards, answers, strangers─────→ ┴ mailboxes → memory: before, peak
//! ```
//!
//! The other mailboxes can be reached through these only, by credits that are smaller than they are.

use std::time::{Duration, Instant};

use polyraft::{BatchingConfig, GroupHandle, GroupId, ProposeError, Term};
use polyraft_core::batch::Unit;
use polyraft_core::entry::{EntryKind, LogEntry};
use polyraft_core::ids::LogIndex;
use polyraft_core::message::{Body, Forward, ForwardReply, RaftKind, RaftMessage};
use tokio::task::JoinSet;

use super::Plan;
use super::heartbeats::{report_count, report_intervals};
use super::load::{OpenLoad, Terms};
use super::meters::{HEARTBEAT_INTERVAL, Meters};
use super::probe::{MemoryWatch, anonymous_bytes};
use super::report::{Report, mib, ms};
use super::rogue::Rogue;
use crate::cluster::{Cluster, DEADLINE, Machines, Shape, insist, wait_for};
use crate::machines::{Bench, Ledger, add, total, weight};

/// RT-2: most memory that any flood may leave taken, of three nodes and the flooders together. The
/// largest queue is a batcher's: 64 MiB of commands or 65,536 of them, with who waits for each.
const FLOOD_BYTES_MAX: u64 = 384 << 20;
/// RT-2: callers of one flood.
const FLOODERS: u64 = 2_000;
/// RT-2: how long a flooding caller waits before it drops its call and makes the next.
const PATIENCE: Duration = Duration::from_millis(10);
/// RT-3: proposals that wait.
const QUEUED: u64 = 1_000_000;
/// BP-10: what an entry takes to apply.
const ENTRY_TAKES: Duration = Duration::from_millis(20);
/// BP-10: records per second that are applied, in entries of a hundred.
const APPLIED_RATE: u64 = 5_000;
/// BP-10: most memory that an overloaded group may take, of three nodes and the callers together.
const OVERLOAD_BYTES_MAX: u64 = 512 << 20;

type Call = fn(GroupHandle) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>>;

/// What a caller can flood; each says whether its call was refused.
const CALLS: [(&str, Call); 5] = [
    ("propose: batcher", |g| Box::pin(async move { refused(&g.propose(weight(1_024)).await) })),
    ("read: group, applier", |g| Box::pin(async move { g.read(total()).await.is_err() })),
    ("read_stale: applier", |g| Box::pin(async move { g.read_stale(total()).await.is_err() })),
    ("transfer_leader: group", |g| {
        Box::pin(async move { g.status().leader.is_some_and(|leader| !g.transfer_leader(leader)) })
    }),
    ("batcher_stats: batcher", |g| Box::pin(async move { g.batcher_stats().await.is_none() })),
];

fn refused<T>(outcome: &Result<T, ProposeError>) -> bool {
    matches!(outcome, Err(ProposeError::Overloaded { .. }))
}

/// RT-2: each mailbox that a caller or a peer can reach, flooded in turn while the machine stands.
pub async fn rt_2(plan: Plan) -> Report {
    let bench = std::sync::Arc::new(Bench::default());
    let of_machines = bench.clone();
    let machines: Machines =
        std::sync::Arc::new(move |_, _| Box::new(Ledger::new(of_machines.clone())));
    let mut cluster = Cluster::prepare(Shape::new(3, 1), machines).await;
    cluster.start_node(1).await;
    cluster.start_node(2).await;
    let leader = cluster.leader_among(1, &[1, 2]).await;
    let group = cluster.group(leader, 1);
    insist(&group, add("before")).await;
    let rogue = Rogue::start(3, cluster.address(3), &cluster.tls(3));
    rogue.connect(leader, cluster.address(leader)).await;
    bench.close_gate();
    let mut report = Report::new(format!(
        "2 of 3 nodes, 1 group whose machine stands; {FLOODERS} callers that give up after 10 ms and \
         call again; the third node is a rogue that fills its lanes; {:?} each",
        plan.time
    ));
    let before = anonymous_bytes();
    report.figure("anonymous memory before", mib(before));
    for (name, call) in CALLS {
        let watch = MemoryWatch::start();
        let (calls, refusals) = flood(&group, call, plan.time).await;
        let name = format!("{name}: {calls} calls, {refusals} refused");
        judge(&mut report, name, watch.stop().peak(), before);
        serve(&mut report, &group, &bench).await;
    }
    for (name, of, body) in of_peers(&group) {
        let watch = MemoryWatch::start();
        let sent = rogue.flood(leader, of, body, plan.time).await;
        let name = format!("peer's {name}: {sent} messages");
        judge(&mut report, name, watch.stop().peak(), before);
        serve(&mut report, &group, &bench).await;
    }
    drop(rogue);
    bench.open_gate(); // A node that stops waits for a machine that is at work.
    cluster.stop_all().await;
    report
}

/// The machine moves again: what waited is served, and so is the next proposal. Then it stands.
async fn serve(report: &mut Report, group: &GroupHandle, bench: &Bench) {
    bench.open_gate();
    let (began, mut last) = (Instant::now(), None);
    while began.elapsed() < DEADLINE {
        match group.propose(add("after")).await {
            Ok(_) => {
                bench.close_gate();
                return report.figure("  then served again after", ms(began.elapsed()));
            }
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(PATIENCE).await;
    }
    let (status, stats) = (group.status(), group.batcher_stats().await);
    let seen = format!("{last:?}, {status:?}, {stats:?}");
    report.check("  served again", seen, format!("within {DEADLINE:?}"), false);
    bench.close_gate();
}

fn judge(report: &mut Report, name: String, peak: u64, before: u64) {
    let grown = peak.saturating_sub(before);
    let wanted = format!("at most {} more than before", mib(FLOOD_BYTES_MAX));
    report.check(name, mib(grown), wanted, grown <= FLOOD_BYTES_MAX);
}

async fn flood(group: &GroupHandle, call: Call, time: Duration) -> (u64, u64) {
    let until = Instant::now() + time;
    let mut callers = JoinSet::new();
    for _ in 0..FLOODERS {
        let group = group.clone();
        callers.spawn(async move {
            let (mut calls, mut refusals) = (0, 0);
            while Instant::now() < until {
                let outcome = tokio::time::timeout(PATIENCE, call(group.clone())).await;
                calls += 1;
                refusals += u64::from(outcome == Ok(true));
                tokio::task::yield_now().await;
            }
            (calls, refusals)
        });
    }
    let mut all = (0, 0);
    while let Some(own) = callers.join_next().await {
        let (calls, refusals) = own.expect("a caller never panics");
        all = (all.0 + calls, all.1 + refusals);
    }
    all
}

/// What a peer can flood, and of which group.
fn of_peers(group: &GroupHandle) -> Vec<(&'static str, GroupId, Body)> {
    let (here, term) = (group.id(), group.status().term);
    let command = weight(1_024);
    let raft = |kind| RaftMessage::new(kind, term);
    let mut append = RaftMessage { index: LogIndex::new(1 << 20), ..raft(RaftKind::Append) };
    append.log_term = Term::new(1);
    append.entries.push(LogEntry {
        index: LogIndex::new((1 << 20) + 1),
        term: Term::new(1),
        kind: EntryKind::Normal,
        data: command.clone(),
    });
    let units = vec![Unit { atomic: false, commands: vec![command] }];
    let timeout = Duration::from_secs(600);
    let results = vec![Err(ProposeError::Stopped { group: here })];
    vec![
        ("heartbeat answers: group", here, Body::Raft(raft(RaftKind::HeartbeatResponse))),
        ("appends: group", here, Body::Raft(append)),
        ("read requests: group", here, Body::Raft(raft(RaftKind::ReadIndex))),
        (
            "forwards: batcher",
            here,
            Body::Forward(Forward { request_id: 1, units, timeout, trace: None }),
        ),
        (
            "forward answers: batcher",
            here,
            Body::ForwardReply(ForwardReply { request_id: 1, results }),
        ),
        ("unknown groups: link", GroupId::new(77), Body::Raft(raft(RaftKind::HeartbeatResponse))),
    ]
}

/// RT-3: heartbeats with a million proposals in the queues, of one group and of sixteen.
pub async fn rt_3(plan: Plan) -> Report {
    let mut report = Report::new(
        "3 nodes; 1,000,000 proposals wait in the queues of 1 group, then of 16 groups, and 64 callers \
         attempt more; applying an entry takes 100 ms",
    );
    for groups in [1, 16] {
        queued_million(plan, groups, &mut report).await;
    }
    report
}

async fn queued_million(plan: Plan, groups: u64, report: &mut Report) {
    let room = QUEUED as usize / groups as usize + 4_096;
    let batching = BatchingConfig {
        queue_commands_max: room,
        queue_bytes_max: 1 << 30,
        ..BatchingConfig::default()
    };
    let cluster = Cluster::start(Shape::new(3, groups).batching(batching)).await;
    let mut handles = Vec::new();
    for group in 1..=groups {
        for node in cluster.running() {
            cluster.bench(node, group).pause_each_entry(Duration::from_millis(100));
        }
        handles.push(cluster.leading(group).await.with_deadline(Duration::from_secs(3_000)));
    }
    let terms = Terms::watch(&cluster, 1..=groups);
    Meters::get().forget();
    let began = Instant::now();
    let mut waiting = JoinSet::new();
    enqueue(&handles, &mut waiting).await;
    let filled = began.elapsed();
    let attempts = attempt(&handles, plan.time).await;
    let intervals = Meters::get().take(HEARTBEAT_INTERVAL);
    report.figure(format!("{groups} group(s): filled in"), format!("{filled:?}"));
    report.figure("proposals that wait at the end", pending(&handles).await);
    report.figure("attempts meanwhile", attempts);
    // With sixteen groups every node leads some, and beats to both others.
    report_count(report, &intervals, plan.time, if groups == 1 { 2 } else { 6 });
    report_intervals(report, &intervals);
    terms.report(report);
    waiting.abort_all();
}

/// Proposes a million times, and waits until so many wait in the queues.
async fn enqueue(groups: &[GroupHandle], waiting: &mut JoinSet<()>) {
    for (n, group) in (0..QUEUED).zip(groups.iter().cycle()) {
        let group = group.clone();
        waiting.spawn(async move {
            while refused(&group.propose(weight(32)).await) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        if n % 1_000 == 0 {
            tokio::task::yield_now().await;
        }
    }
    wait_for(DEADLINE, "a million proposals wait", || async {
        (pending(groups).await >= QUEUED as usize * 9 / 10).then_some(())
    })
    .await;
}

async fn pending(groups: &[GroupHandle]) -> usize {
    let mut pending = 0;
    for group in groups {
        let stats = wait_for(DEADLINE, "figures of a batcher", || group.batcher_stats()).await;
        pending += stats.pending_units;
    }
    pending
}

/// Calls by 64 callers, one after the other, for `time`.
async fn attempt(groups: &[GroupHandle], time: Duration) -> u64 {
    let until = Instant::now() + time;
    let mut callers = JoinSet::new();
    for group in groups.iter().cycle().take(64.max(groups.len())) {
        let group = group.clone();
        callers.spawn(async move {
            let mut attempts = 0;
            while Instant::now() < until {
                let _ = tokio::time::timeout(PATIENCE, group.propose(weight(32))).await;
                attempts += 1;
                tokio::task::yield_now().await;
            }
            attempts
        });
    }
    let mut all = 0;
    while let Some(own) = callers.join_next().await {
        all += own.expect("a caller never panics");
    }
    all
}

/// BP-10: a group that is offered far more than it can apply.
pub async fn bp_10(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    for node in cluster.running() {
        cluster.bench(node, 1).pause_each_entry(ENTRY_TAKES);
    }
    let group = cluster.leading(1).await.with_deadline(Duration::from_secs(5));
    let terms = Terms::watch(&cluster, [1]);
    let memory = MemoryWatch::start();
    let load = OpenLoad { rate: 50_000, batch: 50, record_bytes: 512 };
    let tally = load.offer(&[group], plan.time).await;
    let memory = memory.stop();
    for node in cluster.running() {
        cluster.bench(node, 1).pause_each_entry(Duration::ZERO);
    }
    let mut report = Report::new(
        "3 nodes, 1 group that applies 5,000 records/s, offered 50,000/s of 512 bytes, each with a \
         deadline of 5 s",
    );
    tally.report(&mut report);
    tally.report_goodput(&mut report, APPLIED_RATE);
    let overloaded = tally.overloaded;
    report.check("records answered Overloaded", overloaded, "some", overloaded > 0);
    memory.report_bound(&mut report, OVERLOAD_BYTES_MAX);
    memory.report_flat(&mut report);
    terms.report(&mut report);
    cluster.stop_all().await;
    report
}
