//! AP-1, AP-6, RF-9: rows that ask for a number of something, and take the time that it takes.

use std::time::{Duration, Instant};

use polyraft::{BatchingConfig, GroupHandle, Health, LimitsConfig, StorageConfig};
use tokio::task::JoinSet;

use super::Plan;
use super::report::{Micros, Report, micros, record};
use crate::cluster::{Cluster, Shape, hand_over, log_entries, stale_number, write};
use crate::machines::{add, number, total};

/// AP-1: entries that are applied, each with a pause of its own on every node.
const BATCHES: u64 = 10_000;
/// AP-1: the longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// AP-1: groups, side by side, so that the pauses overlap.
const PAUSING_GROUPS: u64 = 40;
/// AP-6: elections, over all groups.
const ELECTIONS: u64 = 1_000;
/// AP-6: groups, side by side.
const ELECTING_GROUPS: u64 = 8;
/// RF-9: writes, an entry each.
const WRITES: u64 = 1_000_000;
/// RF-9: what a log may hold while writes come: compaction stays behind what is durably applied, which
/// follows once a second.
const LOG_ENTRIES_MAX: u64 = 100_000;
/// RF-9: what the journal may hold, a fraction of what is written.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// RF-9: what files may grow by in the second half of the writes: a step or two.
const GROWTH_MAX: u64 = 64 << 20;

const _: () = assert!(BATCHES.is_multiple_of(PAUSING_GROUPS));
const _: () = assert!(ELECTIONS.is_multiple_of(ELECTING_GROUPS));

/// AP-1: machines that take up to 500 ms per entry, each node another time, and 10,000 entries.
pub async fn ap_1(_: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, PAUSING_GROUPS)).await;
    cluster.wait_for_leaders().await;
    for (node, group) in everywhere(&cluster, PAUSING_GROUPS) {
        cluster.bench(node, group).pause_up_to(PAUSE_MAX);
    }
    let mut callers = JoinSet::new();
    for group in 1..=PAUSING_GROUPS {
        callers.spawn(one_by_one(cluster.leading(group).await));
    }
    let (mut latency, mut wrong) = (micros(), 0);
    while let Some(caller) = callers.join_next().await {
        let (own, out_of_order) = caller.expect("a caller never panics");
        latency.add(&own).expect("all histograms have the same bounds");
        wrong += out_of_order;
    }
    for (node, group) in everywhere(&cluster, PAUSING_GROUPS) {
        cluster.bench(node, group).pause_each(Duration::ZERO);
    }
    let mut report = Report::new(format!(
        "3 nodes, {PAUSING_GROUPS} groups, an entry at a time in each; each takes 0 to 500 ms to \
         apply, on each node another time"
    ));
    report.histogram("call to applied", &latency);
    report.check("entries applied", latency.len(), BATCHES, latency.len() == BATCHES);
    report.check("not one after the other, or not once", wrong, 0, wrong == 0);
    report_states(&mut report, &cluster, PAUSING_GROUPS, BATCHES / PAUSING_GROUPS).await;
    cluster.stop_all().await;
    report
}

/// A group's share of the entries; how long each took, and how many did not follow the one before or
/// were not the first of their kind.
async fn one_by_one(group: GroupHandle) -> (Micros, u64) {
    let (mut latency, mut wrong, mut last) = (micros(), 0, None);
    for n in 0..BATCHES / PAUSING_GROUPS {
        let began = Instant::now();
        let applied = group.propose(add(n.to_be_bytes())).await.expect("a healthy cluster");
        record(&mut latency, began.elapsed());
        let index = applied.index.get();
        let follows = last.is_none_or(|last| index == last + 1) && applied.sub_index == 0;
        wrong += u64::from(!follows || number(applied.response.body()) != 1);
        last = Some(index);
    }
    (latency, wrong)
}

/// AP-6: 1,000 elections with a command between them, and no machine sees another entry.
pub async fn ap_6(_: Plan) -> Report {
    let mut cluster = Cluster::start(Shape::new(3, ELECTING_GROUPS)).await;
    cluster.wait_for_leaders().await;
    let before = terms(&cluster);
    let mut electing = JoinSet::new();
    for group in 1..=ELECTING_GROUPS {
        electing.spawn(elect(cluster.everywhere(group), ELECTIONS / ELECTING_GROUPS));
    }
    while let Some(done) = electing.join_next().await {
        done.expect("every heir leads");
    }
    let elected: u64 = terms(&cluster).iter().zip(before).map(|(now, was)| now - was).sum();
    let mut report = Report::new(format!(
        "3 nodes, {ELECTING_GROUPS} groups, leadership handed from node to node, a command to each leader"
    ));
    report.check("elections", elected, format!("at least {ELECTIONS}"), elected >= ELECTIONS);
    let commands = ELECTIONS / ELECTING_GROUPS;
    report_states(&mut report, &cluster, ELECTING_GROUPS, commands).await;
    let seen: Vec<_> = everywhere(&cluster, ELECTING_GROUPS)
        .map(|(node, group)| cluster.bench(node, group).applied())
        .collect();
    let only_commands = seen.iter().all(|seen| *seen == commands);
    report.check("commands that each machine saw", format!("{seen:?}"), commands, only_commands);
    cluster.stop_all().await;
    report
}

/// Hands leadership on `times` times, each time to the next node, and proposes a command there.
async fn elect(replicas: Vec<GroupHandle>, times: u64) {
    for n in 0..times {
        let heir = hand_over(&replicas).await;
        let leader = &replicas[heir.get() as usize - 1];
        leader.propose(add(n.to_be_bytes())).await.expect("a healthy cluster");
    }
}

fn terms(cluster: &Cluster) -> Vec<u64> {
    let term = |group| cluster.group(1, group).status().term.get();
    (1..=ELECTING_GROUPS).map(term).collect()
}

/// RF-9: a million writes, an entry each, with the retention that nodes have by default.
pub async fn rf_9(_: Plan) -> Report {
    let batching = BatchingConfig { enabled: false, ..BatchingConfig::default() };
    let limits =
        LimitsConfig { proposal_deadline: Duration::from_secs(20), ..LimitsConfig::default() };
    let kept = limits.catch_up_entries;
    let storage = StorageConfig { journal_bytes_max: JOURNAL_BYTES_MAX, ..Default::default() };
    let shape = Shape::new(3, 1).batching(batching).limits(limits).storage(storage);
    let mut cluster = Cluster::start(shape).await;
    let group = cluster.leading(1).await;
    let (mut longest, mut after_half) = (0, 0);
    let began = Instant::now();
    for tenth in 0..10 {
        write(&group, 100, WRITES / 10, 128).await;
        longest = cluster.everywhere(1).iter().map(log_entries).fold(longest, u64::max);
        if tenth == 4 {
            after_half = cluster.settled_bytes(1, kept).await;
        }
    }
    let took = began.elapsed();
    let at_the_end = cluster.settled_bytes(1, kept).await;
    let mut report = Report::new(format!(
        "3 nodes, 1 group, 100 callers, an entry of 128 bytes per write; {kept} entries and 64 MiB of \
         journal are kept"
    ));
    report.figure("writes", WRITES);
    report.figure("taken", format!("{:.0} s", took.as_secs_f64()));
    report.figure("bytes on disk after half, and all", format!("{after_half}, {at_the_end}"));
    let wanted = format!("at most {LOG_ENTRIES_MAX}");
    report.check("longest log, in entries", longest, wanted, longest <= LOG_ENTRIES_MAX);
    let grown = at_the_end.saturating_sub(after_half);
    report.check("growth, in bytes", grown, format!("at most {GROWTH_MAX}"), grown <= GROWTH_MAX);
    report_states(&mut report, &cluster, 1, WRITES).await;
    cluster.stop_all().await;
    report
}

fn everywhere(cluster: &Cluster, groups: u64) -> impl Iterator<Item = (u64, u64)> {
    let nodes = cluster.running();
    (1..=groups).flat_map(move |group| nodes.clone().into_iter().map(move |node| (node, group)))
}

/// Adds what must hold of every replica: healthy, as many commands as were proposed, equal states.
async fn report_states(report: &mut Report, cluster: &Cluster, groups: u64, commands: u64) {
    let mut unequal = 0;
    for group in 1..=groups {
        cluster.equal_hash(group).await;
        for replica in cluster.everywhere(group) {
            let is_healthy = replica.status().health == Health::Healthy;
            let applied = stale_number(&replica, total()).await;
            unequal += u64::from(!is_healthy || applied != commands);
        }
    }
    report.check("replicas that are not healthy, or not equal", unequal, 0, unequal == 0);
}
