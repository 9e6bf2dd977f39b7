//! Goal: what a state machine and those who wait for it are promised (AP), on real nodes.
//! Method: the ledger refuses any order but the right one and counts every command, so that gaps,
//! duplicates and differences between replicas show in its state; gates and pauses make it slow.

use std::collections::BTreeMap;
use std::time::Duration;

use polyraft::{Applied, GroupHandle, GroupId, Health, NodeId, ProposeError, ReadError};
use polyraft_actors::group::Submit;
use polyraft_actors::proposal::{BatchWaiters, UnitReply, UnitWaiter};
use polyraft_core::batch::{self, Unit};
use polyraft_core::time::Moment;
use polyraft_tests::cluster::{
    Cluster, DEADLINE, Shape, hand_over, insist, stale_number, wait_until,
};
use polyraft_tests::machines::{add, count_of, create, number, poison, total, weight};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Proposes `each` commands from every one of `callers` tasks, each with a key of its own.
async fn load(group: &GroupHandle, name: &str, callers: u64, each: u64) -> Vec<Applied> {
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (group, name) = (group.clone(), name.to_owned());
        tasks.spawn(async move {
            let mut applied = Vec::new();
            for n in 0..each {
                let command = add(format!("{name}-{caller}-{n}"));
                applied.push(group.propose(command).await.expect("a healthy cluster"));
            }
            applied
        });
    }
    let mut all = Vec::new();
    while let Some(applied) = tasks.join_next().await {
        all.extend(applied.expect("a caller never panics"));
    }
    all
}

/// Every counter was counted once, and positions are contiguous within their entries.
fn assert_exactly_once(applied: &[Applied]) {
    let mut entries: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for one in applied {
        assert_eq!(number(one.response.body()), 1, "applied twice: {one:?}");
        entries.entry(one.index).or_default().push(one.sub_index);
    }
    for (index, mut subs) in entries {
        subs.sort_unstable();
        let expected: Vec<u32> = (0..).take(subs.len()).collect();
        assert_eq!(subs, expected, "entry {index} has a gap");
    }
}

/// AP-1: with machines that take a random time, entries still apply in order, once, on all replicas.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_pauses_keep_the_order() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    for node in cluster.running() {
        cluster.bench(node, 1).pause_up_to(Duration::from_millis(4));
    }
    let group = cluster.leading(1).await;
    let applied = load(&group, "k", 16, 25).await;
    assert_exactly_once(&applied);
    let mut indexes: Vec<u64> = applied.iter().map(|a| a.index.get()).collect();
    indexes.sort_unstable();
    indexes.dedup();
    assert!(indexes.windows(2).all(|w| w[1] == w[0] + 1), "entries are missing: {indexes:?}");
    cluster.equal_hash(1).await;
    for group in cluster.everywhere(1) {
        assert_eq!(stale_number(&group, total()).await, 16 * 25);
        assert_eq!(group.status().health, Health::Healthy);
    }
    cluster.stop_all().await;
}

/// AP-2, TK-3: a machine far slower than its callers pushes back on proposals, never on heartbeats:
/// what waits is bounded, and there is no election.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_machine_pushes_back_and_nobody_is_elected() {
    const COMMAND_BYTES: usize = 1 << 20;
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let leader = cluster.leader(1).await;
    let group = cluster.group(leader, 1).with_deadline(Duration::from_secs(3));
    let term = group.status().term;
    for node in cluster.running() {
        cluster.bench(node, 1).close_gate();
    }
    let mut callers = JoinSet::new();
    for _ in 0..160 {
        let group = group.clone();
        callers.spawn(async move { group.propose(weight(COMMAND_BYTES)).await });
    }
    let mut overloaded = 0;
    while let Some(outcome) = callers.join_next().await {
        match outcome.expect("a caller never panics") {
            Err(ProposeError::Overloaded { .. }) => overloaded += 1,
            Err(ProposeError::TimedOut { .. } | ProposeError::Expired { .. }) => {}
            other => panic!("the gate is closed: {other:?}"),
        }
    }
    assert!(overloaded > 0, "nothing pushed back");
    let status = group.status();
    let waiting = status.last.get() - status.applied.get();
    assert!(waiting < 100, "{waiting} MiB wait to be applied");
    for node in cluster.running() {
        cluster.bench(node, 1).open_gate();
    }
    wait_until(DEADLINE, "the backlog applied", || group.status().applied == group.status().last)
        .await;
    group.propose(add("after")).await.expect("room again");
    cluster.equal_hash(1).await;
    assert_eq!((group.status().term, cluster.leader(1).await), (term, leader), "an election");
    cluster.stop_all().await;
}

/// Proposes through the leader's group actor, stamped with a time of the test's own.
async fn propose_at(node: &polyraft::Node, group: u64, time_ms: u64, key: &str) {
    let cell = node.parts().directory.group(GroupId::new(group)).expect("the group is here");
    let units = [Unit { atomic: false, commands: vec![add(key)] }];
    let (reply, outcome) = oneshot::channel();
    let (reply, patience) = (UnitReply::Local(reply), (DEADLINE, Moment::START));
    let waiter = UnitWaiter { commands: 1, reply, patience, trace: None };
    let batch = batch::encode(time_ms, units.iter());
    let submit = Submit { batch, waiters: BatchWaiters::new(vec![waiter], None) };
    cell.addrs().expect("the group runs").group.try_send(submit).expect("room in the mailbox");
    outcome.await.expect("every waiter is answered").expect("a healthy cluster");
}

/// AP-3: leaders whose clocks are an hour apart take turns, and every replica's state is the same,
/// also after all of it is replayed. The ledger hashes the time, and fails if it ever falls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skewed_clocks_and_replay_give_one_state() {
    const NOON_MS: u64 = 1_700_000_000_000;
    const HOUR_MS: u64 = 3_600_000;
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    for round in 0..4_u64 {
        let leader = cluster.leader(1).await;
        // Node 1 is right, node 2 an hour ahead, node 3 an hour behind.
        let clock_ms = [NOON_MS, NOON_MS + HOUR_MS, NOON_MS - HOUR_MS][leader as usize - 1];
        for n in 0..25 {
            let key = format!("{round}-{n}");
            propose_at(cluster.node(leader), 1, clock_ms + round * 1_000 + n, &key).await;
        }
        let heir = NodeId::new(leader % 3 + 1);
        assert!(cluster.group(leader, 1).transfer_leader(heir));
        let moved = || cluster.everywhere(1).iter().all(|g| g.status().leader == Some(heir));
        wait_until(DEADLINE, "the heir leads", moved).await;
    }
    let before = cluster.equal_hash(1).await;
    for node in cluster.running() {
        cluster.kill(node);
    }
    cluster.start_all().await;
    assert_eq!(cluster.equal_hash(1).await, before);
    for group in cluster.everywhere(1) {
        assert_eq!(group.status().health, Health::Healthy);
        assert_eq!(stale_number(&group, total()).await, 100);
    }
    cluster.stop_all().await;
}

/// AP-4: a rejection is a result: a thousand of them stall nobody, and the index advances.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_rejections_stall_nobody() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let group = cluster.leading(1).await;
    group.propose(create("it")).await.expect("a healthy cluster");
    let before = group.status().applied;
    for _ in 0..10 {
        let again = group.propose_batch(vec![create("it"); 100]).await.expect("a result");
        assert_eq!(again.responses.len(), 100);
        for response in again.responses {
            assert!(!response.is_accepted());
            assert_eq!(response.body().as_ref(), b"AlreadyExists");
        }
    }
    let advanced = || group.status().applied.get() >= before.get() + 10;
    wait_until(DEADLINE, "the index advances", advanced).await;
    cluster.equal_hash(1).await;
    for group in cluster.everywhere(1) {
        assert_eq!(group.status().health, Health::Healthy);
        assert_eq!(stale_number(&group, total()).await, 1);
    }
    cluster.stop_all().await;
}

/// AP-5, RT-12: a machine that fails on one node faults that replica alone: its index stays, it says
/// so, the other groups of the node and the other replicas of the group go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_machine_faults_one_replica() {
    let mut cluster = Cluster::start(Shape::new(3, 3)).await;
    let leader = cluster.leader(2).await;
    let faulty = cluster.follower(2).await;
    let group = cluster.group(faulty, 2);
    cluster.group(leader, 2).propose(add("before")).await.expect("a healthy cluster");
    cluster.equal_hash(2).await;
    let mut events = group.subscribe();
    cluster.bench(faulty, 2).fail();
    insist(&cluster.group(leader, 2), add("fatal")).await;
    let is_out = || matches!(group.status().health, Health::Faulted(_));
    wait_until(DEADLINE, "the replica is faulted", is_out).await;
    let stays = group.status().applied;
    let mut faults = 0;
    wait_until(DEADLINE, "an event of the fault", || {
        while let Ok(event) = events.try_recv() {
            faults += u32::from(matches!(event, polyraft::GroupEvent::GroupFaulted { .. }));
        }
        faults > 0
    })
    .await;
    let refused = group.propose(add("here")).await;
    assert!(matches!(refused, Err(ProposeError::Faulted { .. })), "{refused:?}");
    let unread = group.read_stale(total()).await;
    assert!(matches!(unread, Err(ReadError::Faulted { .. })), "{unread:?}");
    for other in [1, 3] {
        for handle in cluster.everywhere(other) {
            insist(&handle, add("others")).await;
        }
        cluster.equal_hash(other).await;
    }
    insist(&cluster.group(leader, 2), add("goes on")).await;
    assert!(is_out(), "a fault lasts until the node restarts: {:?}", group.status().health);
    assert_eq!((faults, group.status().applied), (1, stays), "one event, and no step further");
    let ahead = || cluster.group(leader, 2).status().applied > stays;
    wait_until(DEADLINE, "the other replicas go on", ahead).await;
    cluster.stop_all().await;
}

/// AP-5, EM-4: a command that no replica can decode leaves its caller with an unknown outcome, and
/// the group faulted, not hung.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_group_is_faulted_and_not_hung() {
    let mut cluster = Cluster::start(Shape::new(1, 2)).await;
    let group = cluster.leading(1).await;
    group.propose(add("before")).await.expect("a healthy cluster");
    wait_until(DEADLINE, "all applied", || group.status().applied == group.status().last).await;
    let applied = group.status().applied;
    let outcome = group.propose(poison()).await.expect_err("nobody can decode it");
    assert!(outcome.may_have_committed(), "it is committed: {outcome:?}");
    let is_out = || matches!(group.status().health, Health::Faulted(_));
    wait_until(DEADLINE, "the group is faulted", is_out).await;
    assert_eq!(group.status().applied, applied, "the index has advanced");
    cluster.group(1, 2).propose(add("other")).await.expect("other groups are unaffected");
    assert!(is_out(), "{:?}", group.status().health);
    cluster.stop_all().await;
}

/// AP-6: elections append entries that no machine sees: the ledger fails on an empty command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_never_reach_the_machine() {
    const ELECTIONS: u64 = 12;
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let first = cluster.leading(1).await.status();
    for _ in 0..ELECTIONS {
        hand_over(&cluster.everywhere(1)).await;
    }
    let group = cluster.leading(1).await;
    group.propose(add("after")).await.expect("a healthy cluster");
    assert!(group.status().term.get() >= first.term.get() + ELECTIONS);
    let with_no_ops = || group.status().applied.get() > first.applied.get() + ELECTIONS;
    wait_until(DEADLINE, "no-ops are entries", with_no_ops).await;
    cluster.equal_hash(1).await;
    for node in cluster.running() {
        let handle = cluster.group(node, 1);
        assert_eq!(handle.status().health, Health::Healthy);
        assert_eq!(stale_number(&handle, total()).await, 1);
        assert_eq!(cluster.bench(node, 1).applied(), 1, "the machine saw more than the command");
    }
    cluster.stop_all().await;
}

/// AP-8: nodes that die at any moment, with state that was never flushed, come back without a gap
/// and without a duplicate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_leave_no_gap_and_no_duplicate() {
    const ROUNDS: u64 = 6;
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    for round in 0..ROUNDS {
        let through = cluster.follower(1).await;
        let applied = load(&cluster.group(through, 1), &format!("r{round}"), 8, 5).await;
        assert_exactly_once(&applied);
        // In turn: a follower, the leader, everyone.
        let dead = match round % 3 {
            0 => vec![cluster.follower(1).await],
            1 => vec![cluster.leader(1).await],
            _ => cluster.running(),
        };
        dead.iter().for_each(|node| cluster.kill(*node));
        if dead.len() == 1 {
            insist(&cluster.leading(1).await, create(format!("{round}"))).await;
        }
        cluster.start_all().await;
    }
    let group = cluster.leading(1).await;
    assert_eq!(number(&group.read(total()).await.expect("a healthy cluster")), 40 * ROUNDS + 4);
    cluster.equal_hash(1).await;
    for group in cluster.everywhere(1) {
        assert_eq!(group.status().health, Health::Healthy);
        for round in 0..ROUNDS {
            for (caller, n) in (0..8).flat_map(|c| (0..5).map(move |n| (c, n))) {
                let key = count_of(format!("r{round}-{caller}-{n}"));
                assert_eq!(stale_number(&group, key).await, 1);
            }
        }
    }
    cluster.stop_all().await;
}

/// AP-10: while one group's machines stand still, the other groups of the same nodes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standing_group_delays_no_other() {
    let mut cluster = Cluster::start(Shape::new(3, 4)).await;
    for node in cluster.running() {
        cluster.bench(node, 1).close_gate();
    }
    let slow = cluster.leading(1).await;
    let stuck = tokio::spawn(async move { slow.propose(add("stuck")).await });
    let held = cluster.bench(cluster.leader(1).await, 1);
    wait_until(DEADLINE, "the slow machine stands", || held.applied() == 1).await;
    for group in 2..=4 {
        load(&cluster.leading(group).await, "other", 4, 10).await;
        cluster.equal_hash(group).await;
    }
    assert!(!stuck.is_finished());
    for node in cluster.running() {
        cluster.bench(node, 1).open_gate();
    }
    stuck.await.expect("a caller never panics").expect("the gate is open");
    cluster.stop_all().await;
}

/// AP-11: a waiter wakes as soon as its own entry is applied, while the next one stands in the
/// machine: nothing polls for the slice's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_wake_entry_by_entry() {
    let off = polyraft::BatchingConfig { enabled: false, ..polyraft::BatchingConfig::default() };
    let mut cluster = Cluster::start(Shape::new(1, 1).batching(off)).await;
    let group = cluster.leading(1).await;
    let bench = cluster.bench(1, 1);
    bench.close_gate_at(3);
    let mut callers = JoinSet::new();
    for n in 0..5_u8 {
        let group = group.clone();
        callers.spawn(async move { group.propose(add([n])).await });
    }
    for _ in 0..3 {
        let first = callers.join_next().await.expect("five callers").expect("no panic");
        first.expect("it was applied before the gate");
    }
    wait_until(DEADLINE, "the fourth stands in the machine", || bench.applied() == 4).await;
    assert_eq!(callers.len(), 2);
    bench.open_gate();
    while let Some(outcome) = callers.join_next().await {
        outcome.expect("no panic").expect("the gate is open");
    }
    cluster.stop_all().await;
}
