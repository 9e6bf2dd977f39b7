//! Goal: a disk that is full, damaged, another's or broken costs what it must and no more (ST-5, ST-7,
//! ST-9, ST-12).
//! Method: whole nodes on memory disks in virtual time, with faults switched on under load; real nodes
//! on LMDB whose files are damaged, or exchanged, between stop and start.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use polyraft::{GroupEvent, GroupId, Health, NodeId, ProposeError, StartError};
use polyraft_storage::identity::IdentityError;
use polyraft_storage::journal::JOURNAL;
use polyraft_storage::memory::FailedCommit;
use polyraft_storage::table::{TableRead, TableStore, WriteSize};
use polyraft_storage::{OpenError, Storage, StorageOptions};
use polyraft_tests::cluster::{Cluster, DEADLINE, Machines, Shape};
use polyraft_tests::ledger::{Ledger, Outcomes, command, counts};
use polyraft_tests::memory_node::{MemoryCluster, MemoryOptions, Threads, simulate, wait_until};

const GROUP: GroupId = GroupId::new(1);
const SECOND: Duration = Duration::from_secs(1);

/// One node: what it cannot persist, nobody can.
async fn single(seed: u64, groups: u64) -> MemoryCluster {
    let cluster = MemoryCluster::start(1, MemoryOptions::new(Threads::One, seed));
    for group in 1..=groups {
        cluster.create_group(GroupId::new(group)).await;
        cluster.leader(GroupId::new(group), DEADLINE).await;
    }
    cluster
}

/// Goal: ST-5. Method: fill the journal's disk, read, free it; what was proposed meanwhile commits.
#[test]
fn a_full_disk_degrades_to_read_only_and_recovers() {
    simulate(async {
        let cluster = single(1, 1).await;
        let node = cluster.node(1);
        node.propose(GROUP, command(1), SECOND).await.expect("room");
        node.remains.disks.log.set_full(true);
        let cell = node.cell(GROUP);
        let waiting = tokio::spawn(async move {
            polyraft_tests::memory_node::propose(&cell, GROUP, command(2), SECOND).await
        });
        wait_until("a full log", DEADLINE, || node.parts.log_progress.is_full()).await;
        for _ in 0..100 {
            let read = node.read_stale(GROUP, command(1), SECOND).await.expect("reads are served");
            assert_eq!(read, command(1));
            let read = node.read(GROUP, command(2), SECOND).await.expect("reads are served");
            assert_eq!(read, command(0), "nothing is applied before it is durable");
            tokio::time::sleep(SECOND / 10).await;
        }
        assert!(!waiting.is_finished(), "nothing is acknowledged on a full disk");
        assert_eq!(node.status(GROUP).expect("it is here").health, Health::Healthy);
        node.remains.disks.log.set_full(false);
        waiting.await.expect("no panic").expect("it commits once there is room");
        wait_until("a log with room", DEADLINE, || !node.parts.log_progress.is_full()).await;
        node.propose(GROUP, command(3), SECOND).await.expect("room again");
        cluster.stop().await;
    });
}

/// Goal: ST-12. Method: a commit fails under load, having written everything or nothing. From then on
/// the process acknowledges nothing; after a restart, everything acknowledged is there, once.
async fn after_a_failed_sync(outcome: FailedCommit, state: bool) {
    let mut cluster = single(2, 3).await;
    let mut outcomes = Outcomes::default();
    let node = cluster.node(1);
    for number in 0..50 {
        let result = node.propose(GROUP, command(number), SECOND).await;
        outcomes.note(number, &result);
    }
    assert_eq!(outcomes.acknowledged.len(), 50);
    let mut events = node.cell(GROUP).subscribe();
    let disk = if state { &node.remains.disks.state } else { &node.remains.disks.log };
    disk.fail_next_commit(outcome);
    let mut number = 50;
    let failed = || node.parts.storage_failure().is_some();
    while !failed() {
        let result = node.propose(GROUP, command(number), SECOND).await;
        outcomes.note(number, &result);
        number += 1;
        assert!(number < 10_000, "the disk never failed");
        tokio::time::sleep(SECOND / 100).await;
    }
    for number in number..number + 50 {
        let result = node.propose(GROUP, command(number), SECOND).await;
        outcomes.note(number, &result);
        assert!(result.is_err(), "acknowledged after a failed sync: {result:?}");
    }
    for group in 1..=3 {
        let health = node.status(GroupId::new(group)).expect("it is here").health;
        assert!(matches!(health, Health::Faulted(_)), "group {group}: {health:?}");
    }
    let mut faults = 0;
    while let Ok(event) = events.try_recv() {
        faults += usize::from(matches!(event, GroupEvent::GroupFaulted { .. }));
    }
    assert_eq!(faults, 1, "one event per cause");

    let remains = cluster.stop_node(1).await;
    cluster.restart(1, remains);
    cluster.leader(GROUP, DEADLINE).await;
    let rows = cluster.node(1).read(GROUP, Bytes::new(), DEADLINE).await.expect("it serves again");
    outcomes.check(&counts(&rows));
    cluster.stop().await;
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    for outcome in [FailedCommit::Lost, FailedCommit::Written] {
        for state in [false, true] {
            simulate(after_a_failed_sync(outcome, state));
        }
    }
}

fn ledgers() -> Machines {
    std::sync::Arc::new(|_, _| Box::new(Ledger::default()))
}

/// Flips a bit in the middle of the last record of a stopped node's journal that holds `needle`.
fn damage_journal(dir: &Path, needle: &[u8]) {
    let storage = Storage::open(dir, &StorageOptions::default(), "test", NodeId::new(3))
        .expect("the node has let go of it");
    let table = storage.journal.table();
    let mut found = None;
    let read = table.read().expect("a reader is free");
    let all = std::ops::Bound::Unbounded;
    read.scan(JOURNAL, all, all, true, &mut |key, value| {
        let at = value.windows(needle.len()).position(|window| window == needle);
        found = at.map(|at| (key.to_vec(), value.to_vec(), at));
        found.is_none()
    })
    .expect("the journal can be read");
    drop(read);
    let (key, mut value, at) = found.expect("a record holds what was proposed");
    value[at] ^= 1;
    let mut size = WriteSize::default();
    size.add(&key, &value);
    table.write(size, &mut |write| write.put(JOURNAL, &key, &value)).expect("room");
}

/// Flips a bit of the last row of a stopped node's redo log that holds `needle`.
fn damage_redo_log(dir: &Path, needle: &[u8]) {
    let path = dir.join("log").join("redo");
    let mut bytes = std::fs::read(&path).expect("a node has a redo log");
    let at = bytes.windows(needle.len()).rposition(|window| window == needle);
    bytes[at.expect("a row holds what was proposed")] ^= 1;
    std::fs::write(&path, bytes).expect("room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_journal_faults_one_group_on_one_node() {
    a_flipped_bit_faults_one_group_on_one_node(damage_journal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_redo_log_faults_one_group_on_one_node() {
    a_flipped_bit_faults_one_group_on_one_node(damage_redo_log).await;
}

/// Goal: ST-7. Method: stop a node, flip one bit in its log where one group's last command is, start
/// it. That group is faulted there, with the reason; the others, and the other nodes, serve.
async fn a_flipped_bit_faults_one_group_on_one_node(damage: fn(&Path, &[u8])) {
    let mut cluster = Cluster::prepare(Shape::new(3, 3), ledgers()).await;
    cluster.start_all().await;
    const MARK: u64 = 0x5EED_F00D_CAFE_D00D;
    for group in 1..=3 {
        for number in 0..10 {
            cluster.group(1, group).propose(command(number)).await.expect("a healthy group");
        }
    }
    cluster.group(1, 2).propose(command(MARK)).await.expect("a healthy group");
    let commit = cluster.leading(2).await.status().commit;
    let on_node = cluster.group(3, 2);
    wait_until("node 3 to have it", DEADLINE, || on_node.status().applied >= commit).await;
    drop(on_node);
    // The last frame of a redo log may have been cut short; this one is behind it.
    cluster.group(1, 3).propose(command(10)).await.expect("a healthy group");
    let (commit, on_node) = (cluster.leading(3).await.status().commit, cluster.group(3, 3));
    wait_until("node 3 to have it", DEADLINE, || on_node.status().applied >= commit).await;
    drop(on_node);
    cluster.stop(3).await;
    damage(&cluster.data_dir(3), &command(MARK));
    cluster.start_node(3).await;

    let damaged = cluster.group(3, 2);
    wait_until("the damaged group to be faulted", DEADLINE, || {
        matches!(damaged.status().health, Health::Faulted(_))
    })
    .await;
    let Health::Faulted(reason) = damaged.status().health else { unreachable!("just seen") };
    println!("group 2 on node 3: {reason}");
    assert!(reason.contains("corrupt"), "{reason}");
    let refused = damaged.propose(command(1)).await;
    assert_eq!(refused, Err(ProposeError::Faulted { group: GroupId::new(2) }));
    for group in [1, 3] {
        cluster.group(3, group).propose(command(20)).await.expect("others serve on that node");
    }
    cluster.group(1, 2).propose(command(20)).await.expect("two of three replicas are a quorum");
    let rows = cluster.group(1, 2).read(Bytes::new()).await.expect("a healthy group");
    let expected: Vec<_> = (0..10).chain([20, MARK]).map(|number| (number, 1)).collect();
    assert_eq!(counts(&rows), expected);
    cluster.stop_all().await;
}

/// Goal: ST-9. Method: give a node another's data directory, and then its own back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_nodes_data_is_refused() {
    let mut cluster = Cluster::prepare(Shape::new(3, 1), ledgers()).await;
    cluster.start_all().await;
    cluster.group(1, 1).propose(command(1)).await.expect("a healthy group");
    let running = cluster.try_start_node(1).await.err();
    assert!(
        matches!(
            running,
            Some(StartError::Storage(OpenError::Identity(IdentityError::Locked { .. })))
        ),
        "{running:?}"
    );
    cluster.stop(2).await;
    cluster.stop(3).await;
    let (two, three) = (cluster.data_dir(2), cluster.data_dir(3));
    let aside = three.with_extension("aside");
    std::fs::rename(&three, &aside).expect("the node has stopped");
    std::fs::rename(&two, &three).expect("the node has stopped");
    let refused = cluster.try_start_node(3).await.err();
    assert!(
        matches!(
            refused,
            Some(StartError::Storage(OpenError::Identity(IdentityError::NodeMismatch { .. })))
        ),
        "{refused:?}"
    );
    std::fs::rename(&three, &two).expect("nothing of it runs");
    std::fs::rename(&aside, &three).expect("nothing of it runs");
    cluster.start_all().await;
    cluster.group(3, 1).propose(command(2)).await.expect("its own data serves");
    let rows = cluster.group(2, 1).read(Bytes::new()).await.expect("a healthy group");
    assert_eq!(counts(&rows), [(1, 1), (2, 1)]);
    cluster.stop_all().await;
}
