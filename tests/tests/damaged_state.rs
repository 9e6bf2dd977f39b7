//! Goal: ST-7, of the state: a damaged row is never served. Whoever meets it, a reader or an entry, is
//! told or stopped; it is counted, its group is faulted on its node, and everything else goes on.
//! Method: three real nodes on LMDB. One is stopped when its rows are durable, a byte of a row of two of
//! its groups is changed in LMDB's own file, and it is started again: a reader meets the one, an entry
//! the other. The test has a process of its own, as the counter is the process's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use polyraft::{GroupHandle, GroupId, Health, ReadError};
use polyraft_server::recorder::install_metrics;
use polyraft_tests::cluster::{Cluster, DEADLINE, Shape, wait_until};
use polyraft_tests::ledger::{Ledger, command};

/// Read by a caller of group 1, and counted again in group 2.
const MARK: u64 = 0x5EED_F00D_CAFE_D00D;
const PAGE_BYTES: usize = 4096;
/// The counter of damage in the state, as it is exported.
const SERIES: &str = "polyraft_checksum_failures_total{store=\"state\"} ";

fn state_file(dir: &Path) -> PathBuf {
    dir.join("state").join("data.mdb")
}

/// The key under which a group's row of [`MARK`] is in the file; its checksum and value follow.
fn row_key(group: u64) -> Vec<u8> {
    [&GroupId::new(group).get().to_be_bytes()[..], b"n", &command(MARK)].concat()
}

/// Where the row's checksum is in the file, also in pages that are free by now.
fn places(file: &[u8], group: u64) -> Vec<usize> {
    let key = row_key(group);
    let mut places = Vec::new();
    for (number, page) in file.chunks(PAGE_BYTES).enumerate() {
        // A page that was never written has no number.
        if page[..8] != [0; 8] {
            let found = page.windows(key.len()).enumerate().filter(|(_, window)| *window == key);
            places.extend(found.map(|(at, _)| number * PAGE_BYTES + at + key.len()));
        }
    }
    places
}

fn is_durable(dir: &Path, group: u64) -> bool {
    !places(&std::fs::read(state_file(dir)).expect("it runs"), group).is_empty()
}

/// Changes the last byte of the row's value: behind 4 bytes of checksum, the count has 8.
fn damage(dir: &Path, group: u64) {
    let mut file = std::fs::read(state_file(dir)).expect("it has stopped");
    for at in places(&file, group) {
        assert_eq!(file[at + 4..at + 12], *command(1), "the row is not where it is expected");
        file[at + 11] ^= 2;
    }
    std::fs::write(state_file(dir), file).expect("room");
}

fn failures(metrics: &PrometheusHandle) -> u64 {
    let text = metrics.render();
    let value = text.lines().find_map(|line| line.strip_prefix(SERIES));
    value.map_or(0, |value| value.parse().expect("a count"))
}

/// Waits until the group is faulted, and checks that it says for what.
async fn is_faulted(group: &GroupHandle) {
    let health = || group.status().health;
    wait_until(DEADLINE, "a faulted group", || matches!(health(), Health::Faulted(_))).await;
    let Health::Faulted(reason) = health() else { unreachable!("a fault lasts") };
    assert!(reason.contains("corrupt state value checksum"), "{reason}");
    let refused = group.read_stale(command(MARK)).await;
    assert!(matches!(refused, Err(ReadError::Faulted { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_row_is_counted_and_faults_its_group_and_is_not_served() {
    let metrics = install_metrics().expect("one recorder per process");
    let machines = Arc::new(|_, _: &_| Box::new(Ledger::default()) as Box<_>);
    let mut cluster = Cluster::prepare(Shape::new(3, 3), machines).await;
    cluster.start_all().await;
    for group in 1..=3 {
        cluster.group(1, group).propose(command(MARK)).await.expect("a healthy group");
    }
    let dir = cluster.data_dir(3);
    let all_durable = || (1..=3).all(|group| is_durable(&dir, group));
    wait_until(DEADLINE, "node 3 to have flushed it", all_durable).await;
    cluster.stop(3).await;
    [1, 2].into_iter().for_each(|group| damage(&dir, group));
    cluster.start_node(3).await;
    cluster.wait_for_leaders().await;
    assert_eq!(failures(&metrics), 0, "nobody has met it");

    let (read, applied) = (cluster.group(3, 1), cluster.group(3, 2));
    let met = read.read_stale(command(MARK)).await;
    let Err(ReadError::Damaged { what, .. }) = &met else { panic!("served: {met:?}") };
    assert!(what.contains("corrupt state value checksum"), "{what}");
    is_faulted(&read).await;
    assert_eq!(failures(&metrics), 1);

    assert_eq!(applied.status().health, Health::Healthy, "nobody has met it");
    let again = cluster.group(1, 2).propose(command(MARK)).await.expect("two are a quorum");
    assert_eq!(again.response.body(), &command(2));
    is_faulted(&applied).await;
    assert_eq!(failures(&metrics), 2, "once for each that met it");

    for (node, group, count) in [(1, 1, 1), (2, 2, 2), (3, 3, 1)] {
        let read = cluster.group(node, group).read(command(MARK)).await;
        assert_eq!(read, Ok(command(count)), "group {group} on node {node}");
    }
    cluster.stop_all().await;
}
