//! BP-5, BP-12: batching costs a lone client nothing; a step-down leaves nobody waiting.

use std::time::{Duration, Instant};

use polyraft::{BatchingConfig, GroupEvent, GroupHandle, NodeId, ProposeError};
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinSet;

use super::Plan;
use super::report::{Micros, Report, longest, micros, ms, quantile, record};
use crate::cluster::{Cluster, DEADLINE, Shape, insist, wait_for};
use crate::machines::add;

/// BP-5: most that batching may add, in percent.
const EXTRA_PERCENT_MAX: u32 = 5;
/// BP-12: longest from the step-down to a failure.
const FAILED_WITHIN: Duration = Duration::from_millis(50);
/// BP-12: proposals without an outcome at each transfer.
const PENDING: u32 = 500;
/// BP-12: what keeps them without one: the syncs of every node but the heir's.
const SYNC_TAKES: Duration = Duration::from_millis(400);

/// BP-5: one sequential client, call by call in turn with batching and without.
pub async fn bp_5(plan: Plan) -> Report {
    let off = BatchingConfig { enabled: false, ..BatchingConfig::default() };
    let mut clusters = [
        Cluster::start(Shape::new(3, 1)).await,
        Cluster::start(Shape::new(3, 1).batching(off)).await,
    ];
    let groups = [clusters[0].leading(1).await, clusters[1].leading(1).await];
    let mut latencies = [micros(), micros()];
    let until = Instant::now() + plan.time;
    while Instant::now() < until {
        for (group, latencies) in groups.iter().zip(&mut latencies) {
            let began = Instant::now();
            group.propose(add("one key")).await.expect("a healthy cluster");
            record(latencies, began.elapsed());
        }
    }
    for cluster in &mut clusters {
        cluster.stop_all().await;
    }
    let [on, off] = latencies;
    let mut report = Report::new(
        "two clusters of 3 nodes and 1 group in one process, one client that calls each in turn",
    );
    report.histogram("batching on", &on);
    report.histogram("batching off", &off);
    let (p50, limit) = (quantile(&on, 0.5), quantile(&off, 0.5) * (100 + EXTRA_PERCENT_MAX) / 100);
    report.check("p50 with batching", ms(p50), format!("<= {}", ms(limit)), p50 <= limit);
    report
}

/// What became of the proposals that were pending at step-downs.
struct Fates {
    failed_after: Micros,
    applied: u64,
    never: u64,
    may_commit: u64,
    other: Vec<ProposeError>,
}

/// BP-12: leaderships are handed over while proposals have no outcome.
pub async fn bp_12(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let mut fates =
        Fates { failed_after: micros(), applied: 0, never: 0, may_commit: 0, other: Vec::new() };
    let (mut transfers, until) = (0_u32, Instant::now() + plan.time);
    while Instant::now() < until {
        transfer(&cluster, &mut fates).await;
        transfers += 1;
    }
    cluster.equal_hash(1).await;
    cluster.stop_all().await;
    let mut report = Report::new(format!(
        "3 nodes, 1 group, {PENDING} callers with one proposal each that cannot commit yet, as all \
         disks but the heir's take {SYNC_TAKES:?}; then a transfer, again and again"
    ));
    report.histogram("step-down to failure", &fates.failed_after);
    report.figure("transfers", transfers);
    report
        .figure("failed: may commit, never will", format!("{}, {}", fates.may_commit, fates.never));
    report.figure("applied all the same", fates.applied);
    let failed = fates.failed_after.len();
    report.check("proposals that failed", failed, "some", failed > 0);
    let latest = longest(&fates.failed_after);
    report.check(
        "latest failure",
        ms(latest),
        format!("<= {}", ms(FAILED_WITHIN)),
        latest <= FAILED_WITHIN,
    );
    let other = fates.other.len();
    let words = fates.other.first().map_or(String::new(), |error| format!(", such as {error}"));
    report.check("left to a deadline, or untyped", format!("{other}{words}"), 0, other == 0);
    report
}

async fn transfer(cluster: &Cluster, fates: &mut Fates) {
    let leader = cluster.leader(1).await;
    let group = cluster.group(leader, 1);
    let heir = leader % 3 + 1;
    insist(&group, add("settled")).await;
    for node in cluster.running().into_iter().filter(|node| *node != heir) {
        cluster.disk(node).set_commit_takes(SYNC_TAKES);
    }
    let before = group.batcher_stats().await.expect("a healthy group").cut_units;
    let mut events = group.subscribe();
    let mut callers = JoinSet::new();
    for n in 0..PENDING {
        let group = group.clone();
        callers.spawn(async move { (group.propose(add(n.to_be_bytes())).await, Instant::now()) });
    }
    wait_for(DEADLINE, "all of them are cut", || async {
        let cut = group.batcher_stats().await?.cut_units;
        (cut >= before + u64::from(PENDING)).then_some(())
    })
    .await;
    assert!(group.transfer_leader(NodeId::new(heir)), "the group takes the order");
    let stepped_down = step_down(&group, &mut events).await;
    while let Some(answered) = callers.join_next().await {
        let (outcome, at) = answered.expect("a caller never panics");
        fates.add(outcome.map(drop), at.saturating_duration_since(stepped_down));
    }
    cluster.slow_disks(Duration::ZERO);
}

async fn step_down(group: &GroupHandle, events: &mut Receiver<GroupEvent>) -> Instant {
    loop {
        let event = tokio::time::timeout(DEADLINE, events.recv()).await;
        let event = event.unwrap_or_else(|_| panic!("group {} never steps down", group.id()));
        if matches!(event, Ok(GroupEvent::BecameFollower { .. })) {
            return Instant::now();
        }
    }
}

impl Fates {
    fn add(&mut self, outcome: Result<(), ProposeError>, after: Duration) {
        match outcome {
            Ok(()) => return self.applied += 1,
            Err(ProposeError::Unknown { .. }) => self.may_commit += 1,
            Err(error) if !error.may_have_committed() && error.is_retryable() => self.never += 1,
            Err(error) => self.other.push(error),
        }
        record(&mut self.failed_after, after);
    }
}
