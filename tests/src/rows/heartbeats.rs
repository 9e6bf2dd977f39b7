//! TK-1 to TK-4, RF-4: ticks and heartbeats depend on nothing but time.
//!
//! ```text
//! open load ─→ leader: machine sleeps, or disk does     followers: intervals between heartbeats
//! ```
//!
//! Intervals are those that the receivers record; a leader that fell silent at the very end would
//! show in their number, which is judged as well.

use std::time::Duration;

use polyraft::BatchingConfig;

use super::Plan;
use super::load::{OpenLoad, Tally, Terms, saturate};
use super::meters::{HEARTBEAT_INTERVAL, Meters, TICK_LATENESS};
use super::report::{Micros, Report, ms, quantile};
use crate::cluster::{Cluster, Shape};
use crate::machines::weight;

/// Of the profile that all shapes have.
pub const HEARTBEAT: Duration = Duration::from_millis(150);
/// TK-3: what each apply batch takes.
const APPLY_TAKES: Duration = Duration::from_millis(500);
/// TK-4: what each commit takes longer than the disk does.
const SYNC_TAKES: Duration = Duration::from_secs(1);
/// TK-3, TK-4: records per second.
const RATE: u64 = 10_000;

/// Ten thousand records per second, in calls of a hundred.
const LOAD: OpenLoad = OpenLoad { rate: RATE, batch: 100, record_bytes: 64 };

/// TK-1: how late ticks are at full load.
pub async fn tk_1(plan: Plan) -> Report {
    const GROUPS: u64 = 16;
    const CALLERS: usize = 256;
    let mut cluster = Cluster::start(Shape::new(3, GROUPS)).await;
    let mut groups = Vec::new();
    for group in 1..=GROUPS {
        groups.push(cluster.leading(group).await);
    }
    Meters::get().forget();
    let tally = saturate(&groups, CALLERS, weight(128), plan.time).await;
    let lateness = Meters::get().take(TICK_LATENESS);
    let intervals = Meters::get().take(HEARTBEAT_INTERVAL);
    cluster.stop_all().await;
    let mut report = Report::new(format!(
        "3 nodes, {GROUPS} groups, {} callers in all, each with one call of 128 bytes at a time",
        GROUPS as usize * CALLERS
    ));
    tally.report(&mut report);
    report.histogram("tick lateness", &lateness);
    report.histogram("heartbeat interval", &intervals);
    report.below("tick lateness p99.9", quantile(&lateness, 0.999), Duration::from_millis(5));
    report
}

/// TK-2: how even heartbeats are.
pub async fn tk_2(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let group = cluster.leading(1).await;
    Meters::get().forget();
    let load = OpenLoad { rate: 100, batch: 1, record_bytes: 64 };
    let tally = load.offer(&[group], plan.time).await;
    let intervals = Meters::get().take(HEARTBEAT_INTERVAL);
    cluster.stop_all().await;
    let mut report = Report::new("3 nodes, 1 group, tick 50 ms, HB 150 ms, 100 records/s");
    tally.report(&mut report);
    report_count(&mut report, &intervals, plan.time, 2);
    let low = Duration::from_micros(intervals.min());
    let high = Duration::from_micros(intervals.max());
    let within = low >= HEARTBEAT * 9 / 10 && high <= HEARTBEAT * 11 / 10;
    let seen = format!("{} to {}", ms(low), ms(high));
    report.check("every interval", seen, "150 ± 15 ms", within);
    report
}

/// TK-3: heartbeats while each apply batch sleeps.
pub async fn tk_3(plan: Plan) -> Report {
    // Whatever arrives while one batch is applied is the next one: more than half a second's worth.
    let batching = BatchingConfig {
        commands_max: 20_000,
        bytes_max: 4 << 20,
        linger: Duration::from_secs(1),
        ..BatchingConfig::default()
    };
    let cluster = Cluster::start(Shape::new(3, 1).batching(batching)).await;
    for node in cluster.running() {
        cluster.bench(node, 1).pause_each_entry(APPLY_TAKES);
    }
    let condition = "3 nodes, 1 group, 10,000 records/s of 64 bytes in calls of 100; each apply batch \
                     sleeps 500 ms on every node; HB 150 ms, EL 3 s";
    let mut report = Report::new(condition);
    under_load(cluster, plan, &mut report, |cluster| {
        for node in cluster.running() {
            cluster.bench(node, 1).pause_each_entry(Duration::ZERO);
        }
    })
    .await;
    report
}

/// TK-4: heartbeats while each sync takes a second.
pub async fn tk_4(plan: Plan) -> Report {
    let batching = BatchingConfig {
        commands_max: 5_000,
        linger: Duration::from_millis(100),
        ..BatchingConfig::default()
    };
    let cluster = Cluster::start(Shape::new(3, 1).batching(batching)).await;
    cluster.slow_disks(SYNC_TAKES);
    let condition = "3 nodes, 1 group, 10,000 records/s of 64 bytes in calls of 100; each commit of \
                     the log takes 1 s longer on every node; HB 150 ms, EL 3 s";
    let mut report = Report::new(condition);
    under_load(cluster, plan, &mut report, |cluster| cluster.slow_disks(Duration::ZERO)).await;
    report
}

/// RF-4: heartbeats to one follower while the other swallows everything.
pub async fn rf_4(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, 1).with_proxies()).await;
    let leader = cluster.leader(1).await;
    let silent = cluster.follower(1).await;
    let group = cluster.group(leader, 1);
    cluster.isolate(silent, true);
    let swallowed = || cluster.swallowed(leader, silent);
    let terms = Terms::watch(&cluster, [1]);
    Meters::get().forget();
    let before = swallowed();
    let tally = LOAD.offer(std::slice::from_ref(&group), plan.time).await;
    let intervals = Meters::get().take(HEARTBEAT_INTERVAL);
    let swallowed = swallowed() - before;
    let mut report = Report::new(
        "3 nodes, 1 group, 10,000 records/s of 64 bytes in calls of 100; one follower swallows \
         everything",
    );
    tally.report(&mut report);
    report_count(&mut report, &intervals, plan.time, 1);
    report_intervals(&mut report, &intervals);
    report.check("the fault is there: datagrams swallowed", swallowed, "some", swallowed > 0);
    terms.report(&mut report);
    cluster.stop_all().await;
    report
}

async fn under_load(
    mut cluster: Cluster,
    plan: Plan,
    report: &mut Report,
    heal: impl FnOnce(&Cluster),
) {
    let group = cluster.leading(1).await;
    let before = group.status().applied;
    let terms = Terms::watch(&cluster, [1]);
    Meters::get().forget();
    let tally = LOAD.offer(std::slice::from_ref(&group), plan.time).await;
    let intervals = Meters::get().take(HEARTBEAT_INTERVAL);
    let entries = group.status().applied.get() - before.get();
    heal(&cluster);
    report_load(report, &tally, entries);
    report_count(report, &intervals, plan.time, 2);
    report_intervals(report, &intervals);
    terms.report(report);
    cluster.stop_all().await;
}

fn report_load(report: &mut Report, tally: &Tally, entries: u64) {
    tally.report(report);
    report.figure("apply batches (entries)", entries);
    let per_batch = tally.applied.checked_div(entries).unwrap_or(0);
    report.figure("records per apply batch", per_batch);
    let rate = tally.applied_rate();
    let enough = rate >= RATE as f64 * 0.99;
    report.check("records applied per second", format!("{rate:.0}"), ">= 9900", enough);
}

/// Adds the condition that `pairs` of nodes exchanged as many heartbeats as `time` has intervals.
pub fn report_count(report: &mut Report, intervals: &Micros, time: Duration, pairs: u64) {
    report.histogram("heartbeat interval at receivers", intervals);
    let expected = pairs * time.as_millis() as u64 / HEARTBEAT.as_millis() as u64;
    let (seen, enough) = (intervals.len(), intervals.len() * 10 >= expected * 9);
    report.check("heartbeats", seen, format!(">= 90 % of {expected}"), enough);
}

/// Adds the condition that heartbeats came in time.
pub fn report_intervals(report: &mut Report, intervals: &Micros) {
    report.below("heartbeat interval p99.9", quantile(intervals, 0.999), 2 * HEARTBEAT);
}
