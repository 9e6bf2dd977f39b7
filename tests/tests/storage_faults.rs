//! Goal: a disk that is full, damaged, another's or broken costs what it must and no more (ST-5, ST-7,
//! ST-8, ST-9, ST-12).
//! Method: whole nodes on memory disks in virtual time, with faults switched on under load; real nodes
//! on LMDB whose files are damaged, or exchanged, between stop and start.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use polyraft::{
    GroupEvent, GroupId, Health, LimitsConfig, NodeId, ProposeError, StartError, StorageConfig,
};
use polyraft_core::message::{Body, Envelope};
use polyraft_core::wire::decode_frame;
use polyraft_storage::identity::IdentityError;
use polyraft_storage::journal::JOURNAL;
use polyraft_storage::memory::{FailedCommit, MemoryTable};
use polyraft_storage::state_store::{APPLIED, STATE};
use polyraft_storage::table::{TableId, TableRead, TableStore, WriteSize};
use polyraft_storage::{MemoryDisks, OpenError, Storage, StorageOptions};
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

/// Flips a bit of the last value of `table` in which `place` names a byte.
fn flip(disk: &MemoryTable, table: TableId, place: impl Fn(&[u8], &[u8]) -> Option<usize>) {
    let read = disk.read().expect("a disk in memory");
    let rows = disk.rows(table);
    let found = rows.iter().rev().find_map(|(key, _)| {
        let value = read.get(table, key).expect("a disk in memory").expect("it was just listed");
        place(key, value).map(|at| (key, at))
    });
    let (key, at) = found.expect("what was proposed is there");
    assert!(disk.flip_bit(table, key, at * 8));
}

/// Where a bit is flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Journal,
    Applied,
    State,
}

impl Damage {
    /// Damages the first group, of which `needle` is a command.
    fn does(self, disks: &MemoryDisks, needle: &[u8]) {
        let is_groups = |key: &[u8]| key.starts_with(&GROUP.get().to_be_bytes());
        let last = |key: &[u8], value: &[u8]| is_groups(key).then_some(value.len() - 1);
        let is_needle = |window: &[u8]| window == needle;
        match self {
            Self::Journal => flip(&disks.log, JOURNAL, |_, value| {
                value.windows(needle.len()).position(is_needle)
            }),
            Self::Applied => flip(&disks.state, APPLIED, last),
            Self::State => flip(&disks.state, STATE, last),
        }
    }
}

/// Goal: ST-7, whatever table it is in, a damaged bit faults its group on its node, which then says
/// nothing in that group's name: it votes for nobody with what is left of its log. Method: stop a node,
/// flip a bit, start it, and read every frame that it sends.
async fn a_flipped_bit_silences_its_group(seed: u64, damage: Damage) {
    const MARK: u64 = 0x5EED_F00D_CAFE_D00D;
    let said = Arc::new(AtomicU64::new(0));
    let mut options = MemoryOptions::new(Threads::One, seed);
    let count = said.clone();
    options.observe = Arc::new(move |from, to, _, frame| {
        let envelopes = decode_frame(frame.clone(), to).expect("the node itself sent it");
        let is_raft = |e: &&Envelope| e.group == GROUP && matches!(e.body, Body::Raft(_));
        if from == NodeId::new(3) {
            count.fetch_add(envelopes.iter().filter(is_raft).count() as u64, Relaxed);
        }
    });
    let mut cluster = MemoryCluster::start(3, options);
    let other = GroupId::new(2);
    for group in [GROUP, other] {
        cluster.create_group(group).await;
        cluster.leader(group, DEADLINE).await;
        let node = cluster.node(1);
        node.propose(group, command(MARK + group.get()), DEADLINE).await.expect("a healthy group");
    }
    // For each group the time, and the row that the command wrote.
    let has_it = || cluster.node(3).remains.disks.state.rows(STATE).len() == 4;
    wait_until("node 3 to have flushed it", DEADLINE, has_it).await;
    let remains = cluster.stop_node(3).await;
    damage.does(&remains.disks, &command(MARK + 1));
    let before = said.load(Relaxed);
    cluster.restart(3, remains);
    // A damaged row of the state is met when the machine reads it.
    cluster.leader(GROUP, DEADLINE).await;
    cluster.node(1).propose(GROUP, command(MARK + 1), DEADLINE).await.expect("two are a quorum");
    let node = cluster.node(3);
    let health = || node.status(GROUP).expect("it is on the disk").health;
    wait_until("a faulted group", DEADLINE, || matches!(health(), Health::Faulted(_))).await;
    if damage != Damage::State {
        assert_eq!(said.load(Relaxed), before, "a damaged replica took part");
    }
    tokio::time::sleep(SECOND).await; // What was said before the fault is on its way.
    let before = said.load(Relaxed);
    cluster.isolate(1, true); // Node 2 would need its vote.
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(said.load(Relaxed), before, "a faulted replica took part");
    node.propose(other, command(1), DEADLINE).await.expect("the other group serves there");
    cluster.isolate(1, false);
    cluster.leader(GROUP, DEADLINE).await;
    cluster.node(2).propose(GROUP, command(2), DEADLINE).await.expect("two are a quorum");
    cluster.stop().await;
}

#[test]
fn a_flipped_bit_in_any_table_faults_its_group_which_votes_no_more() {
    let damages = [Damage::Journal, Damage::Applied, Damage::State];
    for (seed, damage) in damages.into_iter().enumerate() {
        println!("{damage:?}");
        simulate(a_flipped_bit_silences_its_group(seed as u64, damage));
    }
}

/// Goal: ST-8, what nobody names is kept. Method: a node starts on its disks and is told of no group at
/// all for a minute; nothing is deleted, and all that it had is served.
#[test]
fn a_start_that_is_told_of_no_group_deletes_nothing() {
    simulate(async {
        let mut cluster = single(3, 3).await;
        for group in 1..=3 {
            for number in 0..20 {
                let proposed =
                    cluster.node(1).propose(GroupId::new(group), command(number), SECOND);
                proposed.await.expect("room");
            }
        }
        let remains = cluster.stop_node(1).await;
        let disks = remains.disks.clone();
        let deletes = || (disks.log.stats().deletes, disks.state.stats().deletes);
        let before = deletes();
        cluster.restart(1, remains);
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(deletes(), before, "something was deleted");
        for group in 1..=3 {
            let read = cluster.node(1).read(GroupId::new(group), Bytes::new(), DEADLINE).await;
            let expected: Vec<_> = (0..20).map(|number| (number, 1)).collect();
            assert_eq!(counts(&read.expect("it serves")), expected, "group {group}");
        }
        cluster.stop().await;
    });
}

/// Goal: what the configuration lets pass, starts. Method: a real node on the smallest maps, whose first
/// start makes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_on_the_smallest_maps() {
    let shape = Shape::new(1, 1).storage(StorageConfig::tiny()).limits(LimitsConfig::tiny());
    let mut cluster = Cluster::prepare(shape, ledgers()).await;
    cluster.try_start_node(1).await.expect("its first start").stop().await;
    cluster.start_all().await;
    for number in 0..100 {
        cluster.group(1, 1).propose(command(number)).await.expect("a healthy group");
    }
    let rows = cluster.group(1, 1).read(Bytes::new()).await.expect("a healthy group");
    assert_eq!(counts(&rows), Vec::from_iter((0..100).map(|number| (number, 1))));
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
