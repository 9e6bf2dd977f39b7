//! AP-2, AP-10, AP-11: a slow machine pushes back on its callers and delays nobody else; a caller
//! wakes as soon as its command is applied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft::{
    ApplyContext, ApplyError, GroupHandle, GroupSpec, LogIndex, NodeId, Response, State,
    StateMachine,
};
use tokio::task::JoinSet;

use super::Plan;
use super::heartbeats::{report_count, report_intervals};
use super::load::{OpenLoad, Terms};
use super::meters::{HEARTBEAT_INTERVAL, Meters};
use super::probe::MemoryWatch;
use super::report::{Micros, Report, micros, ms, quantile, record};
use crate::cluster::{Cluster, Machines, Shape};
use crate::machines::{Bench, Ledger, add};

/// AP-2: records per second that arrive.
const ARRIVAL_RATE: u64 = 10_000;
/// AP-2: what a record takes to apply: a hundredth of the arrival rate.
const APPLY_EACH: Duration = Duration::from_millis(10);
/// AP-2: most memory that the backlog of three nodes may take. A leader holds 32 MiB of committed and
/// 64 MiB of queued commands with their waiters; followers, and what is on its way, the rest.
const BACKLOG_BYTES_MAX: u64 = 512 << 20;
/// AP-10: what an apply batch of the slow group takes.
const BATCH_TAKES: Duration = Duration::from_millis(500);
/// AP-10: groups; the first is the slow one.
const GROUPS: u64 = 5;
/// AP-10: times that the first group turns slow and fast again.
const TURNS: u32 = 10;
/// AP-10: how much longer the others may take, in percent.
const EXTRA_PERCENT_MAX: u32 = 20;
/// AP-11: longest from apply to wake, for 99 of 100.
const WAKE_MAX: Duration = Duration::from_millis(1);

/// AP-2: records arrive a hundred times as fast as they are applied.
pub async fn ap_2(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    for node in cluster.running() {
        cluster.bench(node, 1).pause_each(APPLY_EACH);
    }
    let group = cluster.leading(1).await.with_deadline(Duration::from_secs(5));
    let terms = Terms::watch(&cluster, [1]);
    let memory = MemoryWatch::start();
    Meters::get().forget();
    let load = OpenLoad { rate: ARRIVAL_RATE, batch: 20, record_bytes: 1_024 };
    let tally = load.offer(&[group], plan.time).await;
    let (intervals, memory) = (Meters::get().take(HEARTBEAT_INTERVAL), memory.stop());
    for node in cluster.running() {
        cluster.bench(node, 1).pause_each(Duration::ZERO);
    }
    let mut report = Report::new(
        "3 nodes, 1 group, 10,000 records/s of 1 KiB, each taking 10 ms to apply on every node",
    );
    tally.report(&mut report);
    tally.report_goodput(&mut report, ARRIVAL_RATE / 100);
    report_count(&mut report, &intervals, plan.time, 2);
    report_intervals(&mut report, &intervals);
    memory.report_bound(&mut report, BACKLOG_BYTES_MAX);
    memory.report_flat(&mut report);
    let overloaded = tally.overloaded;
    report.check("records answered Overloaded", overloaded, "some", overloaded > 0);
    terms.report(&mut report);
    cluster.stop_all().await;
    report
}

/// AP-10: other groups while one group sleeps in apply, in turns with all of them awake.
pub async fn ap_10(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, GROUPS)).await;
    let slow = cluster.leading(1).await;
    let mut others = Vec::new();
    for group in 2..=GROUPS {
        others.push(cluster.leading(group).await);
    }
    let mut latencies = [micros(), micros()];
    let time = plan.time / (2 * TURNS);
    for _ in 0..TURNS {
        for (takes, latencies) in [Duration::ZERO, BATCH_TAKES].into_iter().zip(&mut latencies) {
            for node in cluster.running() {
                cluster.bench(node, 1).pause_each_entry(takes);
            }
            let of_slow = OpenLoad { rate: 500, batch: 1, record_bytes: 64 };
            let of_others = OpenLoad { rate: 1_000, batch: 1, record_bytes: 64 };
            let slow = slow.with_deadline(Duration::from_millis(500));
            let slow = std::slice::from_ref(&slow);
            let (_, tally) =
                tokio::join!(of_slow.offer(slow, time), of_others.offer(&others, time));
            latencies.add(&tally.latency).expect("all histograms have the same bounds");
        }
    }
    for node in cluster.running() {
        cluster.bench(node, 1).pause_each_entry(Duration::ZERO);
    }
    cluster.stop_all().await;
    let mut report = Report::new(format!(
        "3 nodes, {GROUPS} groups; 500 records/s to the first, which sleeps 500 ms per apply batch in \
         every other of {} turns; 1,000 records/s to the others together",
        2 * TURNS
    ));
    let [awake, asleep] = &latencies;
    report.histogram("others, call to applied, all awake", awake);
    report.histogram("others, call to applied, one asleep", asleep);
    let limit = quantile(awake, 0.99) * (100 + EXTRA_PERCENT_MAX) / 100;
    let p99 = quantile(asleep, 0.99);
    report.check("others' p99", ms(p99), format!("<= {}", ms(limit)), p99 <= limit);
    report
}

/// When each command was applied on one node.
#[derive(Debug, Default)]
struct Stamps(Mutex<HashMap<(LogIndex, u32), Instant>>);

impl Stamps {
    fn lock(&self) -> MutexGuard<'_, HashMap<(LogIndex, u32), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ledger that remembers when it had applied what.
struct Stamped {
    ledger: Ledger,
    stamps: Arc<Stamps>,
}

impl StateMachine for Stamped {
    fn apply(
        &mut self,
        state: &mut dyn State,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        let response = self.ledger.apply(state, context, command)?;
        self.stamps.lock().insert((context.index, context.sub_index), Instant::now());
        Ok(response)
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        self.ledger.query(state, query)
    }
}

/// AP-11: from the end of `apply` to the caller's next step.
pub async fn ap_11(plan: Plan) -> Report {
    const CALLERS: usize = 16;
    let stamps: Arc<[Arc<Stamps>; 3]> = Arc::default();
    let of_nodes = stamps.clone();
    let machines: Machines = Arc::new(move |node: NodeId, _: &GroupSpec| {
        let stamps = of_nodes[node.get() as usize - 1].clone();
        Box::new(Stamped { ledger: Ledger::new(Arc::new(Bench::default())), stamps })
    });
    let mut cluster = Cluster::prepare(Shape::new(3, 1), machines).await;
    cluster.start_all().await;
    let leader = cluster.leader(1).await;
    let group = cluster.group(leader, 1);
    let until = Instant::now() + plan.time;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let stamps = stamps[leader as usize - 1].clone();
        callers.spawn(wakes(group.clone(), stamps, until));
    }
    let mut all = micros();
    while let Some(own) = callers.join_next().await {
        all.add(own.expect("a caller never panics")).expect("the same bounds");
    }
    cluster.stop_all().await;
    let mut report = Report::new(format!(
        "3 nodes, 1 group, {CALLERS} callers on the leader's node, one call at a time each"
    ));
    report.histogram("applied to awake", &all);
    report.below("applied to awake p99", quantile(&all, 0.99), WAKE_MAX);
    report
}

async fn wakes(group: GroupHandle, stamps: Arc<Stamps>, until: Instant) -> Micros {
    let mut own = micros();
    while Instant::now() < until {
        let applied = group.propose(add("one key")).await.expect("a healthy cluster");
        let awake = Instant::now();
        let stamp = stamps.lock().remove(&(applied.index, applied.sub_index));
        record(&mut own, awake.duration_since(stamp.expect("applied here, and once")));
    }
    own
}
