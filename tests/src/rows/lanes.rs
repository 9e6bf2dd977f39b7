//! TR-3, TR-9: a full lane does not delay heartbeats, and merging costs no latency.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft_core::ports::Lane;
use tokio::time::MissedTickBehavior;

use super::Plan;
use super::heartbeats::{HEARTBEAT, report_count, report_intervals};
use super::load::{Tally, Terms, saturate};
use super::meters::{HEARTBEAT_INTERVAL, Meters};
use super::report::{Report, mib, micros, ms, quantile};
use super::rogue::Rogue;
use crate::cluster::{Cluster, Machines, Shape};
use crate::machines::{Bench, Ledger, weight};
use crate::proxy::{Cut, LinkProxy};

/// TR-3: datagrams lost of each thousand.
const LOSS_PER_MILLE: u64 = 10;
/// TR-3: bytes of a bulk frame: what a link merges into one.
const BULK_BYTES: usize = 256 << 10;
/// TR-9: groups that could share frames.
const GROUPS: u64 = 16;
/// TR-9: callers of each.
const CALLERS: usize = 16;
/// TR-9: turns of each kind.
const TURNS: u32 = 10;
/// TR-9: what two equal runs differ by here, in percent.
const NOISE_PERCENT: u32 = 5;

/// TR-3: heartbeats beside a saturated lane, on a bare link and between nodes.
pub async fn tr_3(plan: Plan) -> Report {
    let mut report = Report::new(
        "1 % of datagrams lost in each direction. Link: frames of 256 KiB fill the append lane, then \
         the request lane, beside a control frame every 150 ms. Nodes: 8 callers with 256 KiB each",
    );
    for bulk in [Lane::Append, Lane::Request] {
        bare_link(plan, bulk, &mut report).await;
    }
    between_nodes(plan, &mut report).await;
    report
}

async fn bare_link(plan: Plan, bulk: Lane, report: &mut Report) {
    let machines: Machines = Arc::new(|_, _| Box::new(Ledger::new(Arc::new(Bench::default()))));
    // Certificates and addresses; its nodes are not started.
    let cluster = Cluster::prepare(Shape::new(2, 1), machines).await;
    let sender = Rogue::start(1, cluster.address(1), &cluster.tls(1));
    let receiver = Rogue::start(2, cluster.address(2), &cluster.tls(2));
    let loss = Arc::new(Cut::default());
    let to_receiver = LinkProxy::start(cluster.address(2), loss.clone()).await;
    let to_sender = LinkProxy::start(cluster.address(1), loss.clone()).await;
    let (to_receiver, to_sender) =
        (to_receiver.expect("a free port"), to_sender.expect("a free port"));
    tokio::join!(
        sender.connect(2, to_receiver.address()),
        receiver.connect(1, to_sender.address())
    );
    loss.lose(LOSS_PER_MILLE);
    let until = Instant::now() + plan.time;
    let frame = Bytes::from(vec![0x5a; BULK_BYTES]);
    let fill = async {
        while Instant::now() < until {
            if sender.try_send(2, bulk, frame.clone()).is_err() {
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }
    };
    tokio::join!(fill, beat(&sender, until));
    let arrived = receiver.arrivals.bytes(bulk);
    report.figure(format!("{bulk} lane: bytes arrived"), mib(arrived));
    report.figure("datagrams passed, lost", format!("{}, {}", loss.passed(), loss.swallowed()));
    let intervals = receiver.arrivals.intervals();
    report_count(report, &intervals, plan.time, 1);
    report_intervals(report, &intervals);
    let is_lossy = loss.swallowed() > 0;
    report.check("the fault is there: datagrams lost", loss.swallowed(), "some", is_lossy);
}

async fn beat(sender: &Rogue, until: Instant) {
    let mut beats = tokio::time::interval(HEARTBEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < until {
        beats.tick().await;
        // A beat that is not taken shows as an interval of twice the length.
        let _ = sender.try_send(2, Lane::Control, Bytes::from_static(b"beat"));
    }
}

async fn between_nodes(plan: Plan, report: &mut Report) {
    let mut cluster = Cluster::start(Shape::new(3, 1).with_proxies()).await;
    let group = cluster.leading(1).await;
    let terms = Terms::watch(&cluster, [1]);
    cluster.lose(LOSS_PER_MILLE);
    Meters::get().forget();
    let tally = saturate(&[group], 8, weight(BULK_BYTES), plan.time).await;
    let intervals = Meters::get().take(HEARTBEAT_INTERVAL);
    let (passed, lost) = cluster.datagrams();
    cluster.lose(0);
    tally.report(report);
    report.figure("nodes: datagrams passed, lost", format!("{passed}, {lost}"));
    report_count(report, &intervals, plan.time, 2);
    report_intervals(report, &intervals);
    report.check("the fault is there: datagrams lost", lost, "some", lost > 0);
    terms.report(report);
    cluster.stop_all().await;
}

/// TR-9: the same load with messages merged into frames, and with a frame each, in turns.
pub async fn tr_9(plan: Plan) -> Report {
    let merging = Shape::new(3, GROUPS);
    let apart = Shape::new(3, GROUPS).settings(|settings| settings.outbox.frame_bytes_target = 0);
    let mut clusters = [Cluster::start(merging).await, Cluster::start(apart).await];
    let (mut latencies, mut calls) = ([micros(), micros()], [0, 0]);
    let mut frames = [0, 0];
    for _ in 0..TURNS {
        for (at, cluster) in clusters.iter().enumerate() {
            let before = frames_out(cluster);
            let tally = turn(cluster, plan.time / (2 * TURNS)).await;
            frames[at] += frames_out(cluster) - before;
            calls[at] += tally.applied;
            latencies[at].add(&tally.latency).expect("all histograms have the same bounds");
        }
    }
    for cluster in &mut clusters {
        cluster.stop_all().await;
    }
    let mut report = Report::new(format!(
        "two clusters of 3 nodes in one process, {GROUPS} groups with {CALLERS} callers of 128 bytes \
         each, {TURNS} turns each"
    ));
    for (at, name) in ["merged", "a frame each"].into_iter().enumerate() {
        report.histogram(format!("{name}, call to applied"), &latencies[at]);
        let per_call = frames[at] as f64 / calls[at] as f64;
        report.figure(
            format!("{name}: calls, frames per call"),
            format!("{}, {per_call:.2}", calls[at]),
        );
    }
    let [merged, apart] = latencies.map(|latencies| quantile(&latencies, 0.99));
    let limit = apart * (100 + NOISE_PERCENT) / 100;
    let wanted = format!("<= {} and {NOISE_PERCENT} % of noise", ms(apart));
    report.check("p99 when merged", ms(merged), wanted, merged <= limit);
    report
}

async fn turn(cluster: &Cluster, time: Duration) -> Tally {
    let mut groups = Vec::new();
    for group in 1..=GROUPS {
        groups.push(cluster.leading(group).await);
    }
    saturate(&groups, CALLERS, weight(128), time).await
}

fn frames_out(cluster: &Cluster) -> u64 {
    let nodes = cluster.running().into_iter();
    nodes.flat_map(|n| cluster.node(n).status().peers).map(|link| link.traffic.frames_out).sum()
}
