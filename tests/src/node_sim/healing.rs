//! Healing: with every fault taken back, does the cluster go on?
//!
//! Every actor runs; every group has a leader, and takes a write and a read on every node; every replica
//! reaches the same applied index and the same state; every question has its answer. All of it within a
//! bound of virtual time. Faults that may linger, such as an actor that waits out its backoff, are well
//! below that bound.

use std::time::Duration;

use polyraft_core::ids::GroupId;
use polyraft_core::status::Health;
use tokio::time::{Instant, timeout};

use super::adversary::Adversary;
use super::clients::{Ask, Asker, history};
use super::judge::SharedJudge;
use crate::actor_kill::is_whole;
use crate::memory_node::{MemoryCluster, MemoryNode};

/// Longest that anything may take once all faults are taken back.
const HEALED_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Heals the cluster and looks that it goes on; what does not is told to the judge.
pub async fn heal(adversary: &mut Adversary, asker: &Asker, groups: u64) {
    let judge = asker.judge.clone();
    adversary.heal().await;
    judge.lock().chronicle.note("healed", || "** healed".to_owned());
    let until = Instant::now() + HEALED_WITHIN;
    let cluster = &adversary.cluster;
    let whole = || cluster.nodes.iter().all(|node| is_whole(&node.parts));
    until_so(&judge, until, "every actor runs", || missing(cluster), whole).await;
    for group in (1..=groups).map(GroupId::new) {
        let leads = || cluster.agreed_leader(group).is_some();
        until_so(&judge, until, "a leader", || told(cluster, group), leads).await;
        for node in &cluster.nodes {
            for ask in [Ask::Write, Ask::Read] {
                serve(&judge, until, asker, (node, group), ask).await;
            }
        }
    }
    for group in (1..=groups).map(GroupId::new) {
        let alike = || are_alike(cluster, group);
        until_so(&judge, until, "replicas apply alike", || told(cluster, group), alike).await;
        for node in &cluster.nodes {
            compare(&judge, until, asker, (node, group)).await;
        }
    }
    let answered = || judge.lock().unanswered() == 0;
    let open = || format!("{} questions are open", judge.lock().unanswered());
    until_so(&judge, until, "every question is answered", open, answered).await;
}

async fn until_so(
    judge: &SharedJudge,
    until: Instant,
    what: &str,
    told: impl Fn() -> String,
    is_so: impl Fn() -> bool,
) {
    while !is_so() {
        if Instant::now() > until || judge.lock().failure().is_some() {
            let seen = told();
            let text = format!("not within {HEALED_WITHIN:?} without a fault: {what}; {seen}");
            judge.lock().blame("liveness", text);
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Asks until it is done: what the faults left under way may refuse a first attempt.
async fn serve(
    judge: &SharedJudge,
    until: Instant,
    asker: &Asker,
    (node, group): (&MemoryNode, GroupId),
    ask: Ask,
) {
    while !asker.ask(&node.parts, group, ask).await {
        if Instant::now() > until || judge.lock().failure().is_some() {
            let what = format!("n{} g{group} serves no {ask:?}: {:?}", node.id, node.status(group));
            judge.lock().blame("liveness", what);
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Every replica answers from the state that all writes together make.
async fn compare(
    judge: &SharedJudge,
    until: Instant,
    asker: &Asker,
    (node, group): (&MemoryNode, GroupId),
) {
    loop {
        let history = timeout(asker.deadline, history(node, group)).await;
        let newest = judge.lock().newest(group);
        if history == Ok(Some(newest)) || judge.lock().failure().is_some() {
            return;
        }
        if Instant::now() > until {
            let what = format!("n{} g{group}: {history:?}, and all together {newest:?}", node.id);
            return judge.lock().blame("state machine safety", what);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn are_alike(cluster: &MemoryCluster, group: GroupId) -> bool {
    let mut statuses = cluster.nodes.iter().filter_map(|node| node.status(group));
    let Some(first) = statuses.next() else { return false };
    let is_done = first.applied == first.commit && first.commit == first.last;
    is_done
        && statuses
            .all(|s| (s.applied, s.commit, s.last) == (first.applied, first.commit, first.last))
}

fn told(cluster: &MemoryCluster, group: GroupId) -> String {
    let statuses = cluster.nodes.iter().map(|node| {
        let Some(s) = node.status(group) else { return format!("n{} has none", node.id) };
        let (role, health) = (s.role.as_str(), &s.health);
        let faulted =
            if *health == Health::Healthy { String::new() } else { format!("{health:?}") };
        format!(
            "n{} {role} t{} last {} persisted {} commit {} applied {} {faulted}",
            node.id, s.term, s.last, s.persisted, s.commit, s.applied
        )
    });
    statuses.collect::<Vec<_>>().join(", ")
}

fn missing(cluster: &MemoryCluster) -> String {
    let broken = cluster.nodes.iter().filter(|node| !is_whole(&node.parts));
    let told = broken.map(|node| {
        let groups = node.parts.directory.groups();
        let health: Vec<_> = groups
            .iter()
            .map(|(group, cell)| format!("g{group} {:?}", cell.status().health))
            .collect();
        format!("n{}: {} {:?}", node.id, health.join(" "), node.parts.storage_failure())
    });
    told.collect::<Vec<_>>().join("; ")
}
