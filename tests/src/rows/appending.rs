//! ST-2, ST-4: one writer commits for all groups, at a price that does not depend on the log.

use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft::{GroupHandle, GroupId, LogIndex, NodeId, ReplicaId, Term};
use polyraft_core::entry::{Configuration, EntryKind, LogEntry, Member};
use polyraft_core::ports::{GroupAppend, GroupIdentity, LogStore};
use polyraft_storage::LogTable;
use polyraft_storage::journal::Journal;
use polyraft_storage::{Storage, StorageOptions};
use tokio::task::JoinSet;

use super::Plan;
use super::report::{Micros, Report, longest, micros, ms, quantile, record};
use crate::cluster::{Cluster, DEADLINE, Shape, wait_until};
use crate::machines::add;

/// ST-2: groups with a proposal each.
const GROUPS: u64 = 100;
/// ST-2: commits that they may take.
const COMMITS_MAX: u64 = 10;
/// ST-2: between two bursts, so that nothing of one is left for the next.
const BURST_PAUSE: Duration = Duration::from_millis(50);
/// ST-4: entries in the logs that are compared; each is judged against the first.
const LENGTHS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// ST-4: how much they may differ, in percent.
const SPREAD_PERCENT_MAX: f64 = 20.0;
/// ST-4: bytes of an entry.
const ENTRY_BYTES: usize = 100;

/// ST-2: commits for a hundred groups with one proposal each.
pub async fn st_2(plan: Plan) -> Report {
    let mut report = Report::new(format!(
        "{GROUPS} groups, bursts of one proposal to each, on one node alone and on three nodes"
    ));
    for nodes in [1, 3] {
        let mut cluster = Cluster::start(Shape::new(nodes, GROUPS)).await;
        let mut groups = Vec::new();
        for group in 1..=GROUPS {
            groups.push(cluster.leading(group).await);
        }
        let (mut all, mut bursts) = (Vec::new(), 0);
        let until = Instant::now() + plan.time / 2;
        while Instant::now() < until {
            all.extend(burst(&cluster, &groups).await);
            bursts += 1;
            tokio::time::sleep(BURST_PAUSE).await;
        }
        all.sort_unstable();
        let at = |share: usize| all[(all.len() - 1) * share / 100];
        let words = format!("{}, {}, {}, {}", at(0), at(50), at(90), at(100));
        report.figure(format!("{nodes} node(s): bursts"), bursts);
        report.figure("commits per node: min, p50, p90, max", words);
        let what = format!("{nodes} node(s): median commits per node and burst");
        report.check(what, at(50), format!("<= {COMMITS_MAX}"), at(50) <= COMMITS_MAX);
        cluster.stop_all().await;
    }
    report
}

/// Commits that each node needed for one proposal to each group, which all replicas have applied.
async fn burst(cluster: &Cluster, groups: &[GroupHandle]) -> Vec<u64> {
    let commits = |node: &u64| cluster.node(*node).status().log_writer.commits;
    let nodes = cluster.running();
    let before: Vec<u64> = nodes.iter().map(commits).collect();
    let mut callers = JoinSet::new();
    for group in groups {
        let group = group.clone();
        callers.spawn(async move { group.propose(add("burst")).await });
    }
    while let Some(outcome) = callers.join_next().await {
        outcome.expect("a caller never panics").expect("a healthy cluster");
    }
    let durable = || {
        groups.iter().zip(1..).all(|(leading, group)| {
            let last = leading.status().last;
            cluster.everywhere(group).iter().all(|replica| replica.status().persisted >= last)
        })
    };
    wait_until(DEADLINE, "every replica has it", durable).await;
    nodes.iter().map(commits).zip(before).map(|(after, before)| after - before).collect()
}

/// A log of its own environment, and what its appends took.
struct Log {
    journal: Journal<LogTable>,
    next: LogIndex,
    took: Micros,
    _dir: tempfile::TempDir,
}

impl Log {
    const GROUP: GroupId = GroupId::new(1);

    fn new(entries: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let node = NodeId::new(1);
        let options = StorageOptions::default();
        let storage = Storage::open(dir.path(), &options, "rows", node).expect("a new directory");
        let mut create = GroupAppend::empty(Self::GROUP);
        let replica = ReplicaId::new(101);
        create.create = Some(GroupIdentity { name: "g".to_owned(), replica });
        create.configuration = Some(Configuration::initial(vec![Member { replica, node }]));
        let mut journal = storage.journal;
        journal.commit(&[create]).expect("a healthy disk");
        let mut log = Self { journal, next: LogIndex::new(1), took: micros(), _dir: dir };
        for _ in 0..entries / 1_000 {
            log.append(1_000);
        }
        log
    }

    /// Appends so many entries in one commit.
    fn append(&mut self, entries: u64) -> Duration {
        let mut append = GroupAppend::empty(Self::GROUP);
        for _ in 0..entries {
            append.entries.push(entry(self.next));
            self.next = self.next.next();
        }
        let began = Instant::now();
        self.journal.commit(&[append]).expect("a healthy disk");
        began.elapsed()
    }
}

fn entry(index: LogIndex) -> LogEntry {
    let data = Bytes::from_static(&[0x5a; ENTRY_BYTES]);
    LogEntry { index, term: Term::new(1), kind: EntryKind::Normal, data }
}

/// ST-4: appends of one entry to logs of different lengths, in turn.
pub async fn st_4(plan: Plan) -> Report {
    tokio::task::block_in_place(|| compare_lengths(plan.time))
}

fn compare_lengths(time: Duration) -> Report {
    let mut logs = LENGTHS.map(Log::new);
    let until = Instant::now() + time;
    while Instant::now() < until {
        for log in &mut logs {
            let took = log.append(1);
            record(&mut log.took, took);
        }
    }
    let mut report = Report::new(format!(
        "four journals on LMDB, commits of one entry of {ENTRY_BYTES} bytes to each in turn"
    ));
    let base = quantile(&logs[0].took, 0.5);
    for (entries, log) in LENGTHS.iter().zip(&logs) {
        report.histogram(format!("commit, {entries} entries"), &log.took);
        let p50 = quantile(&log.took, 0.5);
        let percent = (p50.as_secs_f64() / base.as_secs_f64() - 1.0) * 100.0;
        let what = format!("p50 at {entries} entries, against the shortest log");
        let seen = format!("{} ({percent:+.1} %)", ms(p50));
        report.check(what, seen, "± 20 %", percent.abs() <= SPREAD_PERCENT_MAX);
    }
    report.figure(
        "longest commit",
        ms(logs.iter().map(|l| longest(&l.took)).max().unwrap_or_default()),
    );
    report
}
