//! RT-6, RT-7, RL-6: a disk that stands still stops nobody but its own thread, and leads nobody.
//!
//! ```text
//! every commit takes 2 s ─→ watchdog: pings to every arbiter      status: answered by whoever asks
//! a leader's commit takes 12 s ─→ who leads next, and since when are calls answered?
//! ```

use std::time::{Duration, Instant};

use polyraft::GroupHandle;
use tokio::task::JoinSet;

use super::Plan;
use super::load::{OpenLoad, Tally, Terms};
use super::meters::{ARBITER_STALL, Meters};
use super::report::{Micros, Report, longest, micros, ms, record};
use crate::cluster::{Cluster, DEADLINE, Shape, hand_over, insist, wait_until};
use crate::machines::add;

/// RT-6: what a sync takes longer than the disk does.
const SYNC_TAKES: Duration = Duration::from_secs(2);
/// RT-6: longest stall that is allowed.
const STALL_MAX: Duration = Duration::from_millis(10);
/// RT-6: times that the disks turn slow and fast again.
const TURNS: u32 = 3;
/// RT-7: longest that a status may take.
const STATUS_MAX: Duration = Duration::from_millis(10);
/// RL-6: groups, spread over the nodes.
const GROUPS: u64 = 6;
/// RL-6: how long the disk of one node stands still.
const STALL: Duration = Duration::from_secs(12);
/// RL-6: longest that its node may lead from then on.
const LEADS_MAX: Duration = Duration::from_secs(10);
/// RL-6: longest that a call to a group which another node leads may take. Far above any disk's sync,
/// far below an election.
const OTHERS_MAX: Duration = Duration::from_secs(1);
/// RT-7: between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// RT-6: the longest stall of any arbiter while each sync takes two seconds, and while none does.
pub async fn rt_6(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let group = cluster.leading(1).await;
    let terms = Terms::watch(&cluster, [1]);
    let load = OpenLoad { rate: 20, batch: 1, record_bytes: 64 };
    let (mut fast, mut slow) = (micros(), micros());
    let mut tally = Tally::default();
    for _ in 0..TURNS {
        for (sync_takes, stalls) in [(Duration::ZERO, &mut fast), (SYNC_TAKES, &mut slow)] {
            cluster.slow_disks(sync_takes);
            Meters::get().forget();
            tally = load.offer(std::slice::from_ref(&group), plan.time / (2 * TURNS)).await;
            let seen = Meters::get().take(ARBITER_STALL);
            stalls.add(seen).expect("all histograms have the same bounds");
        }
    }
    cluster.slow_disks(Duration::ZERO);
    let mut report = Report::new(
        "3 nodes, 1 group, 20 records/s; every commit takes 2 s longer, in turns with none that does; \
         pings every 50 ms to every arbiter but those of the two stores",
    );
    report.histogram("arbiter stall, control", &fast);
    report.histogram("arbiter stall, syncs of 2 s", &slow);
    report.histogram("call to applied, syncs of 2 s", &tally.latency);
    let limit = STALL_MAX.max(longest(&fast));
    report.figure("limit: 10 ms, or the control's longest", ms(limit));
    report.check("longest stall", ms(longest(&slow)), ms(limit), longest(&slow) <= limit);
    let is_slow = Duration::from_micros(tally.latency.min()) >= SYNC_TAKES / 2;
    report.check("the fault is there: calls wait for a sync", is_slow, true, is_slow);
    terms.report(&mut report);
    cluster.stop_all().await;
    report
}

/// RT-7: how long a status takes while no commit ends.
pub async fn rt_7(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let group = cluster.leading(1).await.with_deadline(plan.time);
    cluster.slow_disks(plan.time);
    let stalled = tokio::spawn(async move { group.propose(add("stalled")).await });
    let is_stuck = || cluster.running().iter().any(|node| in_commit_for(&cluster, *node).is_some());
    wait_until(DEADLINE, "a commit is under way", is_stuck).await;
    let (of_nodes, of_groups, stuck_for) = ask(&cluster, plan.time).await;
    let outcome = stalled.await.expect("a caller never panics");
    cluster.slow_disks(Duration::ZERO);
    let mut report = Report::new(format!(
        "3 nodes, 1 group; one commit per node takes {:?}; status asked every 5 ms meanwhile",
        plan.time
    ));
    report.histogram("Node::status", &of_nodes);
    report.histogram("GroupHandle::status", &of_groups);
    report.below("longest Node::status", longest(&of_nodes), STATUS_MAX);
    report.below("longest GroupHandle::status", longest(&of_groups), STATUS_MAX);
    let is_stuck = stuck_for >= plan.time * 9 / 10;
    report.check("the fault is there: in commit for", ms(stuck_for), "90 % of the time", is_stuck);
    report.check("the stalled proposal", format!("{outcome:?}"), "no Ok", outcome.is_err());
    cluster.stop_all().await;
    report
}

fn in_commit_for(cluster: &Cluster, node: u64) -> Option<Duration> {
    cluster.node(node).status().log_writer.in_commit_for
}

/// Asks every node in turn; also returns the longest commit that a node said to be in.
async fn ask(cluster: &Cluster, time: Duration) -> (Micros, Micros, Duration) {
    let until = Instant::now() + time;
    let (mut of_nodes, mut of_groups, mut stuck_for) = (micros(), micros(), Duration::ZERO);
    while Instant::now() < until {
        for node in cluster.running() {
            let began = Instant::now();
            let status = cluster.node(node).status();
            record(&mut of_nodes, began.elapsed());
            stuck_for = stuck_for.max(status.log_writer.in_commit_for.unwrap_or_default());
            let group = cluster.group(node, 1);
            let began = Instant::now();
            let of_group = group.status();
            record(&mut of_groups, began.elapsed());
            assert_eq!(of_group.group, group.id());
        }
        tokio::time::sleep(LOOK).await;
    }
    (of_nodes, of_groups, stuck_for)
}

/// RL-6: how long a node goes on leading while its disk stands still, and what that costs others.
pub async fn rl_6(plan: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, GROUPS)).await;
    let load = OpenLoad { rate: 200, batch: 1, record_bytes: 64 };
    let (mut quiet, mut during) = (micros(), micros());
    let (mut led, mut answered) = (micros(), micros());
    let turns = (plan.time.as_secs() / STALL.as_secs()).max(2);
    for _ in 0..turns {
        let stalled = cluster.leader(1).await;
        let others = led_elsewhere(&cluster, stalled).await;
        let tally = load.offer(&others, STALL / 3).await;
        quiet.add(&tally.latency).expect("all histograms have the same bounds");
        cluster.disk(stalled).set_commit_takes(STALL);
        let mut successions = JoinSet::new();
        for group in led_by(&cluster, stalled).await {
            let replicas = cluster.everywhere(group);
            successions.spawn(succession(replicas, cluster.group(stalled, group)));
        }
        let tally = load.offer(&others, STALL).await;
        during.add(&tally.latency).expect("all histograms have the same bounds");
        while let Some(times) = successions.join_next().await {
            let (leads_for, answers_after) = times.expect("nobody panics");
            record(&mut led, leads_for);
            record(&mut answered, answers_after);
        }
        cluster.disk(stalled).set_commit_takes(Duration::ZERO);
        wait_until(DEADLINE, "the disk works", || in_commit_for(&cluster, stalled).is_none()).await;
        cluster.wait_for_leaders().await;
    }
    cluster.stop_all().await;
    let mut report = Report::new(format!(
        "3 nodes, {GROUPS} groups, HB 150 ms, EL 3 s; {turns} times, the disk of a node that leads some \
         of them stands still for {STALL:?}; 200 records/s to the groups led elsewhere"
    ));
    report.histogram("stall to another leader", &led);
    report.histogram("stall to the first answer", &answered);
    report.histogram("others, call to applied, quiet", &quiet);
    report.histogram("others, call to applied, during the stall", &during);
    report.below("longest that a stalled node leads", longest(&led), LEADS_MAX);
    report.below("longest call to another group", longest(&during), OTHERS_MAX);
    report
}

/// The groups that `node` leads.
async fn led_by(cluster: &Cluster, node: u64) -> Vec<u64> {
    let mut led = Vec::new();
    for group in 1..=GROUPS {
        if cluster.leader(group).await == node {
            led.push(group);
        }
    }
    led
}

/// The groups that another node leads, as handles there; the last one is made so if there is none.
async fn led_elsewhere(cluster: &Cluster, node: u64) -> Vec<GroupHandle> {
    while cluster.leader(GROUPS).await == node {
        hand_over(&cluster.everywhere(GROUPS)).await;
    }
    let mut elsewhere = Vec::new();
    for group in 1..=GROUPS {
        let leader = cluster.leader(group).await;
        if leader != node {
            elsewhere.push(cluster.group(leader, group));
        }
    }
    elsewhere
}

/// Calls one group, whose leader's disk has just stopped, until another one answers. Returns how long
/// the old leader led, and how long nothing was answered.
async fn succession(replicas: Vec<GroupHandle>, stalled: GroupHandle) -> (Duration, Duration) {
    let began = Instant::now();
    let (old, term) = (stalled.status().leader, stalled.status().term);
    // What its disk has to write, and cannot.
    let call = tokio::spawn({
        let stalled = stalled.clone();
        async move { stalled.propose(add("stalled")).await }
    });
    let newer = || {
        let leads = |replica: &&GroupHandle| {
            let status = replica.status();
            status.term > term && status.role == polyraft::Role::Leader
        };
        replicas.iter().find(leads)
    };
    wait_until(DEADLINE, "another leader", || newer().is_some()).await;
    let leads_for = began.elapsed();
    let successor = newer().expect("it was just seen").clone();
    assert_ne!(successor.status().leader, old, "a disk that stands still leads nobody");
    insist(&successor, add("after the stall")).await;
    let answers_after = began.elapsed();
    call.abort();
    (leads_for, answers_after)
}
