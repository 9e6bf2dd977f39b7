//! Goal: RT-12, an error at any step never stops a group silently: it ends healthy or `Faulted` with an
//! event, and nobody who waits for it waits for ever.
//! Method: three whole nodes in virtual time. One step of one node's stores fails or panics once, at the
//! moment that a table says; then the group there, its neighbour there, and the group elsewhere are
//! looked at. Creation of a group is one more table; what a full disk and a dead supervisor do to it, a
//! test of its own.

use std::time::Duration;

use polyraft::{GroupEvent, GroupId, Health, NodeId};
use polyraft_actors::guard::KillMode;
use polyraft_actors::mailbox::ActorKind;
use polyraft_tests::actor_kill::kill;
use polyraft_tests::ledger::command;
use polyraft_tests::memory_node::{
    MemoryCluster, MemoryNode, MemoryOptions, Threads, simulate, wait_until,
};
use polyraft_tests::store_faults::{Step, StoreFault};

const GROUP: GroupId = GroupId::new(1);
const OTHER: GroupId = GroupId::new(2);
const NEW: GroupId = GroupId::new(3);
const DEADLINE: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

/// What becomes of a node's groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Both serve.
    Healthy,
    /// The group is faulted, its neighbour serves.
    Group,
    /// The node acknowledges nothing any more.
    Node,
}

/// Each step, what happens to it, and how it ends.
const TABLE: [(Step, StoreFault, End); 24] = {
    use StoreFault::{Corrupt, Full, Io, Panic};
    [
        (Step::Commit, Io, End::Node),
        (Step::Commit, Corrupt, End::Group),
        (Step::Commit, Full, End::Healthy),
        (Step::Commit, Panic, End::Healthy),
        (Step::Restore, Io, End::Group),
        (Step::Restore, Corrupt, End::Group),
        (Step::Restore, Panic, End::Healthy),
        (Step::Collect, Io, End::Node),
        (Step::Collect, Corrupt, End::Node),
        (Step::Collect, Full, End::Healthy),
        (Step::Collect, Panic, End::Healthy),
        (Step::OpenLog, Io, End::Node),
        (Step::OpenLog, Corrupt, End::Node),
        (Step::OpenLog, Panic, End::Healthy),
        (Step::Read, Io, End::Group),
        (Step::Read, Corrupt, End::Group),
        (Step::Read, Panic, End::Healthy),
        (Step::OpenState, Io, End::Group),
        (Step::OpenState, Corrupt, End::Group),
        (Step::OpenState, Panic, End::Healthy),
        (Step::Flush, Io, End::Node),
        (Step::Flush, Corrupt, End::Node),
        (Step::Flush, Full, End::Healthy),
        (Step::Flush, Panic, End::Healthy),
    ]
};

/// Three nodes with both groups. Applied entries leave the memory at once, so that a slow follower's
/// are read from the disk.
async fn cluster(seed: u64) -> MemoryCluster {
    let mut options = MemoryOptions::new(Threads::One, seed);
    options.settings.tail_bytes_max = 0;
    let cluster = MemoryCluster::start(3, options);
    for group in [GROUP, OTHER] {
        cluster.create_group(group).await;
        cluster.leader(group, DEADLINE).await;
    }
    cluster
}

/// Has the step called, and waits until it was.
async fn provoke(cluster: &MemoryCluster, leader: u64, step: Step) {
    let node = cluster.node(leader);
    let die = |kind| drop(kill(&node.parts, kind, KillMode::Panic).expect("it was alive"));
    match step {
        // One that dies within a commit takes the open journal along.
        Step::OpenLog => node.remains.store_faults.arm(Step::Commit, StoreFault::Panic),
        Step::Restore | Step::OpenState => die(ActorKind::Group),
        Step::Read => fall_behind(cluster, leader).await,
        Step::Commit | Step::Collect | Step::Flush => {}
    }
    let faults = node.remains.store_faults.clone();
    let mut number = 1_000;
    while faults.is_armed(step) {
        assert!(number < 2_000, "{step:?} was never called");
        number += 1;
        let _ = node.propose(GROUP, command(number), SECOND).await;
        tokio::time::sleep(SECOND / 20).await;
    }
}

/// A follower misses more than its leader has in memory.
async fn fall_behind(cluster: &MemoryCluster, leader: u64) {
    let follower = leader % 3 + 1;
    cluster.isolate(follower, true);
    let node = cluster.node(leader);
    for number in 100..150 {
        let _ = node.propose(GROUP, command(number), SECOND).await;
    }
    cluster.isolate(follower, false);
}

async fn serves(node: &MemoryNode, group: GroupId) {
    let until = tokio::time::Instant::now() + DEADLINE;
    while node.propose(group, command(7_777), 5 * SECOND).await.is_err() {
        let status = node.status(group);
        assert!(tokio::time::Instant::now() < until, "{group} does not serve: {status:?}");
        tokio::time::sleep(SECOND / 10).await;
    }
}

async fn is_faulted(node: &MemoryNode, group: GroupId) {
    wait_until("a faulted group", DEADLINE, || {
        let status = node.status(group).expect("it was created");
        matches!(status.health, Health::Faulted(_))
    })
    .await;
    assert!(node.propose(group, command(1), SECOND).await.is_err(), "a faulted group serves");
}

async fn one_error(seed: u64, (step, fault, end): (Step, StoreFault, End)) {
    let cluster = cluster(seed).await;
    let leader = cluster.leader(GROUP, DEADLINE).await;
    let node = cluster.node(leader);
    for number in 0..20 {
        node.propose(GROUP, command(number), SECOND).await.expect("a healthy group");
    }
    let mut events = node.cell(GROUP).subscribe();
    node.remains.store_faults.arm(step, fault);
    provoke(&cluster, leader, step).await;
    match end {
        End::Healthy => serves(node, GROUP).await,
        End::Group | End::Node => is_faulted(node, GROUP).await,
    }
    match end {
        End::Healthy | End::Group => serves(node, OTHER).await,
        End::Node => is_faulted(node, OTHER).await,
    }
    let mut told = 0;
    while let Ok(event) = events.try_recv() {
        told += usize::from(matches!(event, GroupEvent::GroupFaulted { .. }));
    }
    assert_eq!(told, usize::from(end != End::Healthy), "one event per cause");
    for elsewhere in cluster.nodes.iter().filter(|other| other.id != node.id) {
        serves(elsewhere, GROUP).await;
    }
    cluster.stop().await;
}

/// Creation fails with the step, or succeeds; either way it can be asked for again, and then serves.
async fn creation_meets(seed: u64, fault: StoreFault) {
    let cluster = cluster(seed).await;
    let ids: Vec<_> = (1..=3).map(NodeId::new).collect();
    let node = cluster.node(1);
    node.remains.store_faults.arm(Step::Commit, fault);
    let created = node.create_group(NEW, &ids).await;
    assert!(!node.remains.store_faults.is_armed(Step::Commit), "the fault never happened");
    match (fault, created) {
        (StoreFault::Io, Err(_)) => is_faulted(node, GROUP).await,
        (StoreFault::Full, Ok(())) => {}
        (StoreFault::Panic | StoreFault::Corrupt, Err(_)) => {
            assert!(node.status(NEW).is_none(), "neither here nor not here");
            node.create_group(NEW, &ids).await.expect("a healthy disk");
        }
        (fault, created) => panic!("{fault:?}: {created:?}"),
    }
    if fault != StoreFault::Io {
        for other in [2, 3] {
            cluster.node(other).create_group(NEW, &ids).await.expect("a healthy disk");
        }
        serves(node, NEW).await;
    }
    cluster.stop().await;
}

/// A supervisor dies while a group that it was told to create waits for room on the disk.
async fn creation_outlives_its_supervisor(seed: u64) {
    let cluster = cluster(seed).await;
    let ids: Vec<_> = (1..=3).map(NodeId::new).collect();
    let node = cluster.node(1);
    node.remains.disks.log.set_full(true);
    let (created, ()) = tokio::join!(node.create_group(NEW, &ids), async {
        wait_until("a full log", DEADLINE, || node.parts.log_progress.is_full()).await;
        let gone = kill(&node.parts, ActorKind::Supervisor, KillMode::Panic).expect("it was alive");
        wait_until("a dead supervisor", DEADLINE, gone).await;
        node.remains.disks.log.set_full(false);
    });
    created.expect("the disk has room again");
    for other in [2, 3] {
        cluster.node(other).create_group(NEW, &ids).await.expect("a healthy disk");
    }
    serves(node, NEW).await;
    cluster.stop().await;
}

#[test]
fn every_error_ends_healthy_or_faulted() {
    for (seed, row) in TABLE.into_iter().enumerate() {
        println!("{row:?}");
        simulate(one_error(seed as u64, row));
    }
    use StoreFault::{Corrupt, Full, Io, Panic};
    for (seed, fault) in [Io, Full, Panic, Corrupt].into_iter().enumerate() {
        println!("creation: {fault:?}");
        simulate(creation_meets(seed as u64, fault));
    }
    simulate(creation_outlives_its_supervisor(1));
}
