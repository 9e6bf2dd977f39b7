//! The load: clients that put and get, as fast as they may, and keep a record of each answer.
//!
//! ```text
//! client: [due] → put or get → answer, refusal or deadline → record → the next node if it failed
//! ```
//!
//! Clients of one keyspace share its keys; every put has a value of its own. Deadlines are short and a
//! client that got no answer asks another node at once, so that what it sees next tells when the
//! keyspace was back. Promise: every request that was sent is in the history.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::endpoint::{KeyspaceEndpoint, connection};
use super::history::{Call, Operation, PutOutcome, Sight, ValueId};
use super::nodes::NodeAddresses;
use super::scenario::WorkloadShape;
use crate::etcd::was_not_done;
use crate::proto::etcdserverpb::{PutRequest, RangeRequest};

/// How long a client waits for an answer.
const REQUEST_DEADLINE: Duration = Duration::from_millis(500);
/// Before the next node is asked: a refused connection takes no time at all.
const FAIL_OVER_PAUSE: Duration = Duration::from_millis(10);
/// Bits of an identity that count a client's puts.
const SEQUENCE_BITS: u32 = 40;

/// Keys of one run: no other run's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyNames {
    prefix: String,
}

impl KeyNames {
    /// Names under `run`, which no other run has.
    pub fn new(run: u64) -> Self {
        Self { prefix: format!("chaos/{run:016x}/") }
    }

    /// The name of key `number`.
    pub fn name(&self, number: u32) -> String {
        format!("{}{number:03}", self.prefix)
    }

    /// The first key, and the end, of the range of all of them.
    pub fn range(&self) -> (String, String) {
        (self.prefix.clone(), self.prefix.replace('/', "0"))
    }

    /// The number of a key by its name.
    pub fn number(&self, name: &[u8]) -> Option<u32> {
        std::str::from_utf8(name).ok()?.strip_prefix(&self.prefix)?.parse().ok()
    }
}

/// Everything a load is made from.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The nodes.
    pub nodes: Vec<NodeAddresses>,
    /// The keyspaces' names.
    pub keyspaces: Vec<String>,
    /// How much of it.
    pub shape: WorkloadShape,
    /// The keys.
    pub keys: KeyNames,
    /// Repeats the same choices of keys and calls.
    pub seed: u64,
}

/// Counts of answers so far.
#[derive(Debug, Default)]
pub struct Counts {
    stopped: AtomicBool,
    /// Acknowledged puts.
    pub acknowledged: AtomicU64,
    /// Answered reads.
    pub reads: AtomicU64,
    /// Requests refused for certain, and reads without an answer.
    pub failed: AtomicU64,
    /// Puts of unknown outcome.
    pub unknown: AtomicU64,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    /// What they have got so far.
    pub counts: Arc<Counts>,
    /// When they began; times of the history count from here.
    pub began: Instant,
    clients: JoinSet<Vec<Operation>>,
}

impl Load {
    /// Starts every client.
    pub fn start(plan: &LoadPlan) -> Self {
        let (counts, began, mut clients) = (Arc::default(), Instant::now(), JoinSet::new());
        let connections: Vec<_> = plan.nodes.iter().map(|n| (n.node, connection(n))).collect();
        for number in 0..plan.shape.clients {
            let keyspace = number % plan.keyspaces.len();
            let name = &plan.keyspaces[keyspace];
            let endpoints: Vec<_> = connections
                .iter()
                .map(|(node, connection)| KeyspaceEndpoint::new(*node, connection, name))
                .collect();
            // Clients of one keyspace begin at different nodes.
            let at = (keyspace + number / plan.keyspaces.len()) % endpoints.len();
            let client = LoadClient {
                number: number as u64,
                keyspace,
                endpoints,
                at,
                rng: StdRng::seed_from_u64(plan.seed ^ number as u64),
                plan: plan.clone(),
                counts: Arc::clone(&counts),
                began,
                history: Vec::new(),
            };
            clients.spawn(client.run());
        }
        Self { counts, began, clients }
    }

    /// Lets every client finish its request; returns all records.
    pub async fn finish(self) -> Vec<Operation> {
        self.counts.stopped.store(true, Ordering::Relaxed);
        self.clients.join_all().await.concat()
    }
}

struct LoadClient {
    number: u64,
    keyspace: usize,
    endpoints: Vec<KeyspaceEndpoint>,
    at: usize,
    rng: StdRng,
    plan: LoadPlan,
    counts: Arc<Counts>,
    began: Instant,
    history: Vec<Operation>,
}

impl LoadClient {
    async fn run(mut self) -> Vec<Operation> {
        let rate = f64::from(self.plan.shape.rate_per_client);
        let mut due = interval(Duration::from_secs_f64(1.0 / rate));
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sequence = 0;
        while !self.counts.stopped.load(Ordering::Relaxed) {
            due.tick().await;
            let is_read = self.rng.random_bool(self.plan.shape.read_share);
            let key = self.rng.random_range(0..self.plan.shape.keys);
            let value = ValueId((self.number << SEQUENCE_BITS) | sequence);
            sequence += u64::from(!is_read);
            let began = self.began.elapsed();
            let call = if is_read { self.get(key).await } else { self.put(key, value).await };
            let (keyspace, ended) = (self.keyspace, self.began.elapsed());
            let node = self.endpoints[self.at].node;
            self.history.push(Operation { keyspace, key, node, began, ended, call });
            if !self.count(&call) {
                self.at = (self.at + 1) % self.endpoints.len();
                tokio::time::sleep(FAIL_OVER_PAUSE).await;
                due.reset_immediately();
            }
        }
        self.history
    }

    async fn put(&mut self, key: u32, value: ValueId) -> Call {
        let put = PutRequest {
            key: self.plan.keys.name(key).into(),
            value: value.to_bytes(self.plan.shape.value_bytes).into(),
            ..PutRequest::default()
        };
        let outcome = match self.endpoints[self.at].put(put, REQUEST_DEADLINE).await {
            Ok(revision) => PutOutcome::Acknowledged(revision),
            Err(status) if was_not_done(&status) => PutOutcome::Failed,
            Err(_) => PutOutcome::Unknown,
        };
        Call::Put { value, outcome }
    }

    async fn get(&mut self, key: u32) -> Call {
        let name = self.plan.keys.name(key);
        let range = RangeRequest { key: name.into(), ..RangeRequest::default() };
        let answer = self.endpoints[self.at].range(range, REQUEST_DEADLINE).await;
        Call::Get(answer.ok().map(|(revision, response)| {
            // A value that no client made has no identity; it is judged as one that was never put.
            let seen = response.kvs.first();
            let seen = seen
                .map(|kv| (ValueId::of(&kv.value).unwrap_or(ValueId(u64::MAX)), kv.mod_revision));
            Sight { revision, seen }
        }))
    }

    /// Counts an answer; says whether it was one.
    fn count(&self, call: &Call) -> bool {
        let (counter, is_answer) = match call {
            Call::Put { outcome: PutOutcome::Acknowledged(_), .. } => {
                (&self.counts.acknowledged, true)
            }
            Call::Put { outcome: PutOutcome::Unknown, .. } => (&self.counts.unknown, false),
            Call::Get(Some(_)) => (&self.counts.reads, true),
            _ => (&self.counts.failed, false),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        is_answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_run_are_one_range() {
        let keys = KeyNames::new(0xab);
        let (first, end) = keys.range();
        for number in [0, 7, 99] {
            let name = keys.name(number);
            assert!(first <= name && name < end, "{name}");
            assert_eq!(keys.number(name.as_bytes()), Some(number));
        }
        assert_eq!(KeyNames::new(0xac).number(keys.name(1).as_bytes()), None);
    }
}
