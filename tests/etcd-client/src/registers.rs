//! One key per keyspace that is put over and over, and read through every node all the while.
//!
//! ```text
//! writer ─put→ whoever runs       acknowledged at revision r → floor = r
//! reader ─get→ each node          floor when it began ≤ revision that was read, or it is stale
//! ```
//!
//! Promise: a read that began after a put was acknowledged, anywhere, must show that put or a later
//! one. Revisions and not values are compared, so that a put of unknown outcome that comes late
//! confuses nobody. Reads are sent at a fixed rate and wait for no answer: those sent to a process that
//! stands still wait in its sockets, and are the first that it sees when it wakes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::{Client, Error, GetOptions, GetResponse};
use tonic::transport::Endpoint;

use crate::keyspaces;

/// The key.
const KEY: &str = "register";
/// Between two puts of one keyspace.
const PUT_PAUSE: Duration = Duration::from_millis(20);
/// Between two reads through one node.
const READ_PAUSE: Duration = Duration::from_millis(20);
/// After this a put's outcome is unknown. Short: its leader may stand still.
const PUT_TIMEOUT: Duration = Duration::from_millis(500);
/// After this a read has no answer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Reads of each keyspace that are sent to a node when it wakes.
const BURST: usize = 4;
/// Answers within this time of a node's waking are counted apart.
const EARLY: Duration = Duration::from_millis(100);
/// No node.
const NOBODY: usize = usize::MAX;

/// One keyspace's key.
#[derive(Default)]
struct Register {
    floor: AtomicI64,
    /// What was put, by the revision that was answered.
    acknowledged: Mutex<BTreeMap<i64, u64>>,
    unknown: AtomicI64,
}

impl Register {
    fn acknowledged(&self) -> MutexGuard<'_, BTreeMap<i64, u64>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of all reads.
#[derive(Debug, Clone, Default)]
pub struct ReadCounts {
    /// Answered and compared.
    pub checked: u64,
    /// Of these, answered by a node within 100 ms of its waking.
    pub early: u64,
    /// Of the early ones, begun before it woke.
    pub early_waiting: u64,
    /// Of the checked ones, older than what was acknowledged when they began.
    pub stale: u64,
    /// Refused, or not answered in time.
    pub unanswered: u64,
    /// The first stale ones, for a person.
    pub examples: Vec<String>,
}

/// How reads are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode {
    /// As promised.
    Linearizable,
    /// From whatever the node has applied: the negative control, which must be found stale.
    Serializable,
}

/// What the keyspaces' whole histories say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FinalCounts {
    /// Puts acknowledged.
    pub acknowledged: usize,
    /// Puts of unknown outcome.
    pub unknown: i64,
    /// Acknowledged puts that are not what their revision holds.
    pub lost: usize,
    /// Puts that are there for the second time.
    pub twice: usize,
}

/// All keyspaces' keys, and clients of every keyspace at every node.
pub struct Registers {
    registers: Vec<Register>,
    /// By node, then by keyspace.
    clients: Vec<Vec<Client>>,
    mode: ReadMode,
    asleep: AtomicUsize,
    woken: Mutex<Option<(usize, Instant)>>,
    reads: Mutex<ReadCounts>,
    reading: AtomicU64,
    stopped: AtomicBool,
}

impl Registers {
    /// Clients of `count` keyspaces at each of `endpoints`; connects when they are used.
    ///
    /// # Errors
    /// An endpoint is no URL.
    pub async fn new(
        endpoints: &[String],
        count: usize,
        mode: ReadMode,
    ) -> Result<Arc<Self>, Error> {
        let mut clients = Vec::new();
        for address in endpoints {
            let connection = Endpoint::from_shared(address.clone())?.connect_lazy();
            let mut of_node = Vec::new();
            for number in 0..count {
                let name = keyspaces::name(number);
                of_node.push(keyspaces::client(connection.clone(), &name).await?);
            }
            clients.push(of_node);
        }
        Ok(Arc::new(Self {
            registers: (0..count).map(|_| Register::default()).collect(),
            clients,
            mode,
            asleep: AtomicUsize::new(NOBODY),
            woken: Mutex::default(),
            reads: Mutex::default(),
            reading: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }))
    }

    /// Starts a writer per keyspace and a reader per node.
    pub fn start(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        let writers = (0..self.registers.len()).map(|at| tokio::spawn(self.clone().write(at)));
        let readers = (0..self.clients.len()).map(|node| tokio::spawn(self.clone().read(node)));
        writers.chain(readers).collect()
    }

    /// Ends writers and readers, and waits for every answer that is due.
    ///
    /// # Panics
    /// One of them panicked.
    pub async fn finish(&self, tasks: Vec<tokio::task::JoinHandle<()>>) {
        self.stopped.store(true, Ordering::SeqCst);
        for task in tasks {
            task.await.expect("writers and readers never panic");
        }
        while self.reading.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(READ_PAUSE).await;
        }
    }

    /// The revisions acknowledged so far, by keyspace.
    pub fn floors(&self) -> Vec<i64> {
        self.registers.iter().map(|register| register.floor.load(Ordering::SeqCst)).collect()
    }

    /// From now on writers turn to other nodes than `node`, which stands still.
    pub fn avoid(&self, node: usize) {
        self.asleep.store(node, Ordering::SeqCst);
    }

    /// Says that `node` runs again, and sends it a burst of reads.
    pub fn woken(self: &Arc<Self>, node: usize) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = Some((node, Instant::now()));
        self.asleep.store(NOBODY, Ordering::SeqCst);
        for at in (0..self.registers.len()).flat_map(|at| [at; BURST]) {
            tokio::spawn(self.clone().read_once(node, at));
        }
    }

    /// What became of all reads so far.
    pub fn reads(&self) -> ReadCounts {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `node` answers a read of every keyspace.
    pub async fn is_serving(&self, node: usize) -> bool {
        for client in &self.clients[node] {
            let mut client = client.clone();
            let answer = tokio::time::timeout(PUT_TIMEOUT, client.get(KEY, None)).await;
            if !matches!(answer, Ok(Ok(_))) {
                return false;
            }
        }
        true
    }

    /// Compares every revision of every keyspace with what was acknowledged at it.
    ///
    /// # Errors
    /// A keyspace does not answer.
    ///
    /// # Panics
    /// A reader panicked.
    pub async fn judge(self: &Arc<Self>) -> Result<FinalCounts, Error> {
        let judges: Vec<_> =
            (0..self.registers.len()).map(|at| tokio::spawn(self.clone().judge_one(at))).collect();
        let mut counts = FinalCounts::default();
        for judge in judges {
            let one = judge.await.expect("judges never panic")?;
            counts.acknowledged += one.acknowledged;
            counts.unknown += one.unknown;
            counts.lost += one.lost;
            counts.twice += one.twice;
        }
        Ok(counts)
    }

    async fn judge_one(self: Arc<Self>, at: usize) -> Result<FinalCounts, Error> {
        let mut client = self.clients[at % self.clients.len()][at].clone();
        let last = client.get(KEY, None).await?.header().map_or(0, |header| header.revision());
        let mut history = BTreeMap::new();
        // A keyspace's first revision is its empty state.
        for revision in 2..=last {
            let options = GetOptions::new().with_revision(revision).with_serializable();
            let held = client.get(KEY, Some(options)).await?;
            if let Some(pair) = held.kvs().first().filter(|pair| pair.mod_revision() == revision) {
                history.insert(revision, pair.value().to_vec());
            }
        }
        let register = &self.registers[at];
        let acknowledged = register.acknowledged();
        let (lost, twice) = compare(&acknowledged, &history);
        let unknown = register.unknown.load(Ordering::SeqCst);
        Ok(FinalCounts { acknowledged: acknowledged.len(), unknown, lost, twice })
    }

    async fn write(self: Arc<Self>, at: usize) {
        let (register, mut node) = (&self.registers[at], at % self.clients.len());
        let mut number = 0_u64;
        while !self.stopped.load(Ordering::SeqCst) {
            while node == self.asleep.load(Ordering::SeqCst) {
                node = (node + 1) % self.clients.len();
            }
            number += 1;
            let mut client = self.clients[node][at].clone();
            let put = client.put(KEY, number.to_string(), None);
            let answer = tokio::time::timeout(PUT_TIMEOUT, put).await.ok().and_then(Result::ok);
            match answer.and_then(|answer| Some(answer.header()?.revision())) {
                Some(revision) => {
                    register.acknowledged().insert(revision, number);
                    register.floor.fetch_max(revision, Ordering::SeqCst);
                }
                None => {
                    register.unknown.fetch_add(1, Ordering::SeqCst);
                    node = (node + 1) % self.clients.len();
                }
            }
            tokio::time::sleep(PUT_PAUSE).await;
        }
    }

    async fn read(self: Arc<Self>, node: usize) {
        let mut ticks = tokio::time::interval(READ_PAUSE);
        for at in (0..self.registers.len()).cycle() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            ticks.tick().await;
            tokio::spawn(self.clone().read_once(node, at));
        }
    }

    async fn read_once(self: Arc<Self>, node: usize, at: usize) {
        self.reading.fetch_add(1, Ordering::SeqCst);
        // Before the request leaves: whatever was acknowledged by now must be seen.
        let floor = self.registers[at].floor.load(Ordering::SeqCst);
        let (began, mut client) = (Instant::now(), self.clients[node][at].clone());
        let options =
            (self.mode == ReadMode::Serializable).then(|| GetOptions::new().with_serializable());
        let answer = tokio::time::timeout(READ_TIMEOUT, client.get(KEY, options)).await;
        self.count(node, at, (began, floor), answer.ok().and_then(Result::ok));
        self.reading.fetch_sub(1, Ordering::SeqCst);
    }

    fn count(
        &self,
        node: usize,
        at: usize,
        (began, floor): (Instant, i64),
        answer: Option<GetResponse>,
    ) {
        let woken = *self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = answer else {
            reads.unanswered += 1;
            return;
        };
        let woken = woken.filter(|(woken, since)| *woken == node && since.elapsed() < EARLY);
        reads.checked += 1;
        reads.early += u64::from(woken.is_some());
        reads.early_waiting += u64::from(woken.is_some_and(|(_, since)| began < since));
        let found = answer.kvs().first().map_or(0, |pair| pair.mod_revision());
        if is_stale(found, floor) {
            reads.stale += 1;
            if reads.examples.len() < 5 {
                let (node, name) = (node + 1, keyspaces::name(at));
                let what = format!(
                    "STALE: node {node} showed {name} at revision {found}, {floor} was acknowledged \
                     before; the read took {:?}",
                    began.elapsed()
                );
                reads.examples.push(what);
            }
        }
    }
}

/// How many acknowledged puts a history does not hold at their revision, and how many it holds again.
fn compare(acknowledged: &BTreeMap<i64, u64>, history: &BTreeMap<i64, Vec<u8>>) -> (usize, usize) {
    let is_lost = |(revision, number): &(&i64, &u64)| {
        history.get(revision).is_none_or(|value| *value != number.to_string().into_bytes())
    };
    let lost = acknowledged.iter().filter(is_lost).count();
    let once: BTreeSet<_> = history.values().collect();
    (lost, history.len() - once.len())
}

/// Whether a read that began when `floor` was acknowledged may not show the revision `found`.
fn is_stale(found: i64, floor: i64) -> bool {
    found < floor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_where_it_was_acknowledged_and_nowhere_else() {
        let acknowledged = BTreeMap::from([(2, 1), (4, 3)]);
        let history = |puts: &[(i64, &str)]| {
            puts.iter().map(|(revision, number)| (*revision, number.as_bytes().to_vec())).collect()
        };
        let judged = |puts| compare(&acknowledged, &history(puts));
        assert_eq!(judged(&[(2, "1"), (3, "2"), (4, "3")]), (0, 0), "an unknown one is there");
        assert_eq!(
            judged(&[(2, "1"), (3, "2"), (4, "4")]),
            (1, 0),
            "one of unknown outcome instead"
        );
        assert_eq!(judged(&[(2, "1"), (3, "3"), (4, "3")]), (0, 1));
        assert_eq!(judged(&[(4, "3")]), (1, 0));
    }

    #[test]
    fn only_what_is_older_than_the_floor_is_stale() {
        assert!(is_stale(6, 7) && is_stale(0, 2));
        assert!(!is_stale(7, 7) && !is_stale(8, 7) && !is_stale(0, 0));
    }
}
