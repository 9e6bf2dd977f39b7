//! Goal: what a group keeps and what its reads say (RF, RD), on real nodes.
//! Method: nodes are stopped, killed and cut off, and the ledger's state is asked what is left.

use std::time::Duration;

use polyraft::{
    GroupEvent, GroupHandle, GroupId, GroupSpec, Health, LimitsConfig, NodeId, ReadError, Role,
    StorageConfig,
};
use polyraft_tests::cluster::{
    Cluster, DEADLINE, Shape, insist, stale_number, wait_for, wait_until, write,
};
use polyraft_tests::machines::{add, count_of, create, number, total, weight};

/// RF-2: whole clusters go down and come back ten times, in order and at once, with everything:
/// commands, terms, membership.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_ten_restarts() {
    let mut cluster = Cluster::start(Shape::new(3, 2)).await;
    let before = cluster.leading(1).await.status();
    for round in 0..10_u8 {
        let through = cluster.follower(1).await;
        insist(&cluster.group(through, 1), create([round])).await;
        let term = cluster.leading(1).await.status().term;
        if round % 2 == 0 {
            cluster.stop_all().await;
        } else {
            cluster.running().into_iter().for_each(|node| cluster.kill(node));
        }
        cluster.start_all().await;
        let group = cluster.leading(1).await;
        assert!(group.status().term >= term, "{} fell from {term}", group.status().term);
        let found = number(&group.read(total()).await.expect("a healthy cluster"));
        assert_eq!(found, u64::from(round) + 1, "after restart {round}");
    }
    cluster.equal_hash(1).await;
    for group in cluster.everywhere(1) {
        assert_eq!(group.status().configuration.voters, before.configuration.voters);
        for round in 0..10_u8 {
            assert_eq!(stale_number(&group, count_of([round])).await, 1);
        }
    }
    cluster.stop_all().await;
}

/// RF-4: a peer that swallows everything delays nobody else: the other follower commits with the
/// leader, in the same term, for longer than any election timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_delays_no_other() {
    let mut cluster = Cluster::start(Shape::new(3, 1).with_proxies()).await;
    let leader = cluster.leader(1).await;
    let silent = cluster.follower(1).await;
    let other = *cluster.running().iter().find(|n| ![leader, silent].contains(*n)).expect("three");
    let term = cluster.group(leader, 1).status().term;
    cluster.isolate(silent, true);
    let group = cluster.group(leader, 1);
    let until = tokio::time::Instant::now() + 2 * Shape::ELECTION_TIMEOUT;
    let mut sent = 0_u32;
    while tokio::time::Instant::now() < until {
        group.propose(add(sent.to_be_bytes())).await.expect("two of three are a quorum");
        sent += 1;
    }
    assert!(cluster.swallowed(leader, silent) > 0, "the cut had no effect");
    for node in [leader, other] {
        let status = cluster.group(node, 1).status();
        assert_eq!((status.term, status.leader), (term, Some(NodeId::new(leader))));
    }
    cluster.isolate(silent, false);
    let back = cluster.group(silent, 1);
    let caught_up = || back.status().applied >= group.status().commit;
    wait_until(DEADLINE, "the silent node has caught up", caught_up).await;
    assert_eq!(back.status().term, term, "it came back without an election");
    cluster.equal_hash(1).await;
    cluster.stop_all().await;
}

/// RF-8: one node alone is a cluster, also after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_a_cluster() {
    let mut cluster = Cluster::start(Shape::new(1, 1)).await;
    for n in 0..5_u8 {
        let group = cluster.leading(1).await;
        insist(&group, create([n])).await;
        let found = group.read(total()).await.expect("a healthy node");
        assert_eq!(number(&found), u64::from(n) + 1);
        cluster.kill(1);
        cluster.start_all().await;
    }
    cluster.stop_all().await;
}

/// RF-9: a log is bounded by its retention, and the disk by the log, however much is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_bounded_over_many_writes() {
    const RETAINED: u64 = 20;
    const WRITES: u64 = 720;
    const COMMAND_BYTES: usize = 256 << 10;
    let limits = LimitsConfig {
        catch_up_entries: RETAINED,
        catch_up_bytes: 1 << 20,
        proposal_deadline: Duration::from_secs(20),
        ..LimitsConfig::default()
    };
    let storage = StorageConfig { journal_bytes_max: 4 << 20, ..StorageConfig::default() };
    let shape = Shape::new(3, 1).limits(limits).storage(storage);
    let mut cluster = Cluster::start(shape).await;
    let group = cluster.leading(1).await;
    write(&group, 8, WRITES / 3, COMMAND_BYTES).await;
    let third = cluster.settled_bytes(1, RETAINED).await;
    write(&group, 8, WRITES - WRITES / 3, COMMAND_BYTES).await;
    let all = cluster.settled_bytes(1, RETAINED).await;
    println!("{third} bytes on disk after {} writes, {all} after {WRITES}", WRITES / 3);
    // Files grow in steps of tens of MiB, so that their pages stay contiguous.
    assert!(all <= third + (64 << 20), "120 MiB more were written: {third} grew to {all} bytes");
    assert_eq!(stale_number(&group, total()).await, WRITES);
    cluster.running().into_iter().for_each(|node| cluster.kill(node));
    cluster.start_all().await;
    let found = cluster.leading(1).await.read(total()).await.expect("a healthy cluster");
    assert_eq!(number(&found), WRITES);
    cluster.stop_all().await;
}

/// Goal: a log that has filled its map makes room by itself, as soon as there is something to throw away.
/// Method: while a replica is away the others keep everything, in maps of 48 MiB, until they are full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_has_filled_its_map_goes_on_when_the_absent_replica_is_back() {
    let limits = LimitsConfig {
        catch_up_entries: 20,
        catch_up_bytes: 1 << 20,
        proposal_deadline: Duration::from_secs(5),
        ..LimitsConfig::default()
    };
    let storage = StorageConfig {
        log_map_bytes: 48 << 20,
        journal_bytes_max: 4 << 20,
        ..StorageConfig::default()
    };
    let mut cluster = Cluster::start(Shape::new(3, 1).limits(limits).storage(storage)).await;
    cluster.stop(3).await;
    let leader = cluster.leader_among(1, &[1, 2]).await;
    let group = cluster.group(leader, 1);
    // Either of the two may be full first: they do not commit the same batches.
    let is_full = |node| cluster.node(node).status().log_writer.is_full;
    let mut acknowledged = 0;
    while !is_full(1) && !is_full(2) {
        if let Ok(applied) = group.propose(weight(256 << 10)).await {
            acknowledged = number(applied.response.body());
        }
    }
    assert!((100..200).contains(&acknowledged), "{acknowledged} commands of 256 KiB");
    assert!(stale_number(&group, total()).await >= acknowledged, "it serves what it has");

    cluster.start_node(3).await;
    insist(&group, weight(256 << 10)).await;
    assert!(stale_number(&group, total()).await > acknowledged);
    cluster.settled_bytes(1, 20).await;
    let all_have_room = || (1..=3).all(|node| !cluster.node(node).status().log_writer.is_full);
    wait_until(DEADLINE, "room in every log", all_have_room).await;
    cluster.equal_hash(1).await;
    cluster.stop_all().await;
}

/// RF-10: no leader is `None`; node ids and replica ids differ, and no id is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_leader_is_none_and_ids_are_apart() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let leader = cluster.leader(1).await;
    for node in cluster.running().into_iter().filter(|n| *n != leader) {
        cluster.kill(node);
    }
    let group = cluster.group(leader, 1);
    let leaderless = || group.status().leader.is_none();
    wait_until(DEADLINE, "the leader without a quorum steps down", leaderless).await;
    assert_ne!(group.status().role, Role::Leader);
    for member in &group.status().configuration.members {
        assert_ne!(member.replica.get(), member.node.get());
        assert!(member.replica.get() > 0 && member.node.get() > 0);
    }
    cluster.stop_all().await;
}

/// RD-2: a leader that is cut off answers no read, even before it knows; the others do, and theirs
/// are newer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_returns_no_read() {
    let mut cluster = Cluster::start(Shape::new(3, 1).with_proxies()).await;
    let leader = cluster.leader(1).await;
    let isolated = cluster.group(leader, 1).with_deadline(Duration::from_secs(4));
    isolated.propose(add("before")).await.expect("a healthy cluster");
    cluster.isolate(leader, true);
    let reads: Vec<_> = (0..10)
        .map(|_| {
            let group = isolated.clone();
            tokio::spawn(async move { group.read(total()).await })
        })
        .collect();
    let survivors: Vec<u64> = cluster.running().into_iter().filter(|n| *n != leader).collect();
    let other = cluster.group(cluster.leader_among(1, &survivors).await, 1);
    insist(&other, create("after")).await;
    assert_eq!(number(&other.read(total()).await.expect("a quorum")), 2);
    for read in reads {
        let read = read.await.expect("a reader never panics");
        assert!(matches!(read, Err(ReadError::TimedOut { .. })), "{read:?}");
    }
    assert!(cluster.swallowed(leader, survivors[0]) > 0, "the cut had no effect");
    cluster.isolate(leader, false);
    let whole = || isolated.status().leader.is_some();
    wait_until(DEADLINE, "the old leader follows", whole).await;
    let read = cluster.group(leader, 1).read(total()).await.expect("a healthy cluster");
    assert_eq!(number(&read), 2);
    cluster.stop_all().await;
}

/// RD-3: a leader that has not committed in its term answers no read: what an earlier leader
/// acknowledged may be missing from what it has applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_before_a_commit_of_the_own_term() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    for n in 0..10_u8 {
        let through = cluster.group(cluster.follower(1).await, 1);
        insist(&through, create([n])).await;
        cluster.kill(cluster.leader(1).await);
        // At once, at whoever is left, and so mostly while nobody leads or a leader is new.
        for node in cluster.running() {
            let read = cluster.group(node, 1).read(total()).await.expect("two of three remain");
            assert_eq!(number(&read), u64::from(n) + 1, "an acknowledged write is missing");
        }
        cluster.start_all().await;
    }
    cluster.stop_all().await;
}

/// EV-1: every replica says once that it leads, and once per change who leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_comes_once_per_cause() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let leader = cluster.leader(1).await;
    let mut events: Vec<_> = cluster.everywhere(1).iter().map(GroupHandle::subscribe).collect();
    let heir = leader % 3 + 1;
    assert!(cluster.group(leader, 1).transfer_leader(NodeId::new(heir)));
    let moved =
        || cluster.everywhere(1).iter().all(|g| g.status().leader == Some(NodeId::new(heir)));
    wait_until(DEADLINE, "the heir leads", moved).await;
    cluster.leading(1).await.propose(add("settled")).await.expect("a healthy cluster");
    let term = cluster.group(heir, 1).status().term;
    for (node, events) in (1..).zip(&mut events) {
        let seen: Vec<GroupEvent> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let became: Vec<_> = seen
            .iter()
            .filter(|e| matches!(e, GroupEvent::BecameLeader { term: t } if *t == term))
            .collect();
        assert_eq!(became.len(), usize::from(node == heir), "node {node}: {seen:?}");
        let stepped = seen.iter().filter(|e| matches!(e, GroupEvent::BecameFollower { .. }));
        assert_eq!(stepped.count(), usize::from(node == leader), "node {node}: {seen:?}");
        let announced = GroupEvent::LeaderChanged { term, leader: Some(NodeId::new(heir)) };
        let heard = seen.iter().filter(|e| **e == announced).count();
        assert_eq!(heard, 1, "node {node}: {seen:?}");
        for pair in seen.windows(2) {
            assert_ne!(pair[0], pair[1], "node {node} repeats itself");
        }
    }
    cluster.stop_all().await;
}

/// EM-1, RT-4: a group is created at run time, and again to no effect; it serves at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_created_at_run_time() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let spec = || GroupSpec::new(GroupId::new(9), "late");
    for _ in 0..2 {
        for node in cluster.running() {
            let created = cluster.node(node).create_group(spec()).await.expect("a new group");
            assert_eq!((created.id(), &*created.name()), (GroupId::new(9), "late"));
        }
    }
    let group = cluster.node(1).group("late").expect("it was created");
    group.propose(add("a")).await.expect("a healthy group");
    assert_eq!(group.status().health, Health::Healthy);
    assert_eq!(cluster.node(1).groups().len(), 2);
    let stored: Vec<u64> = cluster.running();
    for node in &stored {
        cluster.kill(*node);
    }
    cluster.start_all().await;
    let again = wait_for(DEADLINE, "the group is there after a restart", || {
        std::future::ready(cluster.node(1).group("late"))
    })
    .await;
    assert_eq!(number(&again.read(total()).await.expect("a healthy group")), 1);
    cluster.stop_all().await;
}

/// RT-11: a data directory has one driver: a second node on it is refused, and the first goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_driver_is_refused() {
    let mut cluster = Cluster::start(Shape::new(1, 1)).await;
    let second = cluster.try_start_node(1).await;
    assert!(matches!(second, Err(polyraft::StartError::Storage(_))), "{:?}", second.err());
    let clash = GroupSpec::new(GroupId::new(1), "other-name");
    let clash = cluster.node(1).create_group(clash).await;
    let refused = matches!(clash, Err(polyraft::CreateGroupError::IdTaken { .. }));
    assert!(refused, "a second group under one id: {:?}", clash.err());
    cluster.group(1, 1).propose(add("a")).await.expect("the first driver goes on");
    cluster.stop_all().await;
}
