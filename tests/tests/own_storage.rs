//! Goal: a machine with storage of its own has one user at a time and misses and repeats nothing,
//! whatever dies around it (AP-1, AP-8). Method: a real node over a directory in memory that notices a
//! second user; numbered commands, each proposed once; actors that panic while a slow slice is under way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use polyraft::{
    ApplyContext, ApplyError, GroupHandle, LogIndex, OwnStorage, Response, State, StateMachine,
};
use polyraft_actors::guard::KillMode;
use polyraft_actors::mailbox::ActorKind;
use polyraft_tests::actor_kill::{is_whole, kill};
use polyraft_tests::cluster::{Cluster, DEADLINE, Machines, Shape, wait_until};
use polyraft_tests::ledger::block_for;
use tokio::task::JoinSet;

/// How often each number was applied.
type Counts = BTreeMap<u64, u64>;

/// What is durable, and who uses it.
#[derive(Default)]
struct Directory {
    durable: Mutex<(LogIndex, Counts)>,
    users: AtomicU64,
    users_seen: AtomicU64,
    lives: AtomicU64,
    slow: AtomicBool,
}

impl Directory {
    fn durable(&self) -> MutexGuard<'_, (LogIndex, Counts)> {
        self.durable.lock().expect("nobody panics with it")
    }
}

/// Applies numbers; answers a query with all of them and their counts.
struct Numbers {
    directory: Arc<Directory>,
    counts: Counts,
    is_open: bool,
}

impl Drop for Numbers {
    fn drop(&mut self) {
        if self.is_open {
            self.directory.users.fetch_sub(1, SeqCst);
        }
    }
}

impl StateMachine for Numbers {
    fn open(&mut self, _: &dyn State) -> Result<(), ApplyError> {
        let users = self.directory.users.fetch_add(1, SeqCst) + 1;
        self.directory.users_seen.fetch_max(users, SeqCst);
        self.directory.lives.fetch_add(1, SeqCst);
        self.is_open = true;
        self.counts = self.directory.durable().1.clone();
        Ok(())
    }

    fn apply(
        &mut self,
        _: &mut dyn State,
        _: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        if self.directory.slow.load(SeqCst) {
            block_for(Duration::from_millis(3));
        }
        let number = command.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        *self.counts.entry(number).or_default() += 1;
        Ok(Response::Accepted(Bytes::new()))
    }

    fn query(&self, _: &dyn State, _: &[u8]) -> Result<Bytes, ApplyError> {
        let rows = self.counts.iter().flat_map(|(number, count)| [*number, *count]);
        Ok(rows.flat_map(u64::to_be_bytes).collect())
    }

    fn own_storage(&mut self) -> Option<&mut dyn OwnStorage> {
        Some(self)
    }
}

impl OwnStorage for Numbers {
    fn durable(&self) -> LogIndex {
        self.directory.durable().0
    }

    fn begin(&mut self) {}

    fn rollback(&mut self) {
        unreachable!("no number is rejected");
    }

    fn persist(&mut self, applied: LogIndex) -> Result<(), ApplyError> {
        *self.directory.durable() = (applied, self.counts.clone());
        Ok(())
    }
}

/// Proposes numbers, each once, until `stop`; returns those that were acknowledged.
async fn propose(group: GroupHandle, next: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    while !stop.load(SeqCst) {
        let number = next.fetch_add(1, SeqCst);
        match group.propose(number.to_be_bytes().to_vec()).await {
            Ok(_) => acknowledged.push(number),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
    acknowledged
}

async fn counts(group: &GroupHandle) -> Counts {
    let rows = group.read("").await.expect("a healthy node");
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    rows.chunks(16).map(|row| (number(&row[..8]), number(&row[8..]))).collect()
}

fn assert_once(counts: &Counts, acknowledged: &[u64]) {
    let lost: Vec<_> = acknowledged.iter().filter(|n| !counts.contains_key(n)).collect();
    assert_eq!(lost, [&0; 0], "acknowledged and not there");
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
    assert_eq!(twice, [(&0, &0); 0], "applied again although the storage had it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_storage_has_one_user_and_misses_and_repeats_nothing() {
    const DEATHS: usize = 12;
    let directory = Arc::new(Directory::default());
    let of_machines = directory.clone();
    let machines: Machines = Arc::new(move |_, _| {
        let directory = of_machines.clone();
        Box::new(Numbers { directory, counts: Counts::new(), is_open: false })
    });
    let mut cluster = Cluster::prepare(Shape::new(1, 1), machines).await;
    cluster.start_all().await;
    let group = cluster.leading(1).await;
    directory.slow.store(true, SeqCst);
    let (next, stop) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        callers.spawn(propose(group.clone(), next.clone(), stop.clone()));
    }
    for death in 0..DEATHS {
        let (before, lives) = (next.load(SeqCst), directory.lives.load(SeqCst));
        wait_until(DEADLINE, "work is under way", || next.load(SeqCst) > before + 20).await;
        let kind = [ActorKind::Applier, ActorKind::Group, ActorKind::Batcher][death % 3];
        let parts = cluster.node(1).parts();
        assert!(kill(parts, kind, KillMode::Panic).is_some(), "it runs");
        let is_back = || directory.lives.load(SeqCst) > lives && is_whole(parts);
        wait_until(DEADLINE, "a next life", is_back).await;
    }
    stop.store(true, SeqCst);
    let acknowledged: Vec<u64> = callers.join_all().await.into_iter().flatten().collect();
    directory.slow.store(false, SeqCst);
    assert_once(&counts(&group).await, &acknowledged);
    assert!(directory.durable().0 > LogIndex::ZERO, "it was persisted meanwhile");
    // And over a restart of the node, which replays what was not persisted.
    cluster.stop(1).await;
    assert_eq!(directory.users.load(SeqCst), 0, "a node that stopped uses nothing");
    cluster.start_all().await;
    assert_once(&counts(&cluster.leading(1).await).await, &acknowledged);
    let (seen, lives) = (directory.users_seen.load(SeqCst), directory.lives.load(SeqCst));
    println!("{} acknowledged over {lives} lives", acknowledged.len());
    assert_eq!(seen, 1, "two machines over one directory");
    cluster.stop_all().await;
}
