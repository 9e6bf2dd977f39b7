//! Goal: a cluster of whole nodes is a function of its seed (RT-10): the production actors, journal,
//! state store and links, in one order.
//! Method: three nodes on one paused thread take commands while an actor is killed, frames are lost
//! and links are cut. Every frame, every applied command and every outcome is written down with its
//! virtual time. Two runs with one seed must write the same; another seed must not.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use polyraft::{ApplyContext, ApplyError, GroupId, NodeId, Response, State, StateMachine};
use polyraft_actors::guard::{Kill, KillMode};
use polyraft_tests::ledger::{Ledger, command};
use polyraft_tests::lossy_transport::NetworkWeather;
use polyraft_tests::memory_node::{
    MemoryCluster, MemoryOptions, Threads, propose, simulate, wait_until,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

const GROUPS: u64 = 3;
const COMMANDS: u64 = 300;
const DEADLINE: Duration = Duration::from_secs(60);

/// What happened, in order, with virtual times.
#[derive(Clone)]
struct Chronicle {
    start: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Chronicle {
    fn note(&self, what: String) {
        let line = format!("{:>10} {what}", self.start.elapsed().as_micros());
        self.lines.lock().expect("no code panics while holding it").push(line);
    }
}

/// A ledger that writes down what it applies.
struct Witness {
    node: NodeId,
    ledger: Ledger,
    chronicle: Chronicle,
}

impl StateMachine for Witness {
    fn apply(
        &mut self,
        state: &mut dyn State,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        self.chronicle.note(format!("node {} applies {context:?} {command:02x?}", self.node));
        self.ledger.apply(state, context, command)
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        self.ledger.query(state, query)
    }
}

fn options(seed: u64, chronicle: &Chronicle) -> MemoryOptions {
    let (frames, applies) = (chronicle.clone(), chronicle.clone());
    MemoryOptions {
        weather: NetworkWeather {
            delay: Duration::from_micros(300),
            loss_per_mille: 10,
            ..NetworkWeather::default()
        },
        machine: Arc::new(move |node, _| {
            Box::new(Witness { node, ledger: Ledger::default(), chronicle: applies.clone() })
        }),
        observe: Arc::new(move |from, to, lane, frame| {
            let mut hasher = DefaultHasher::new();
            frame.hash(&mut hasher);
            let (len, hash) = (frame.len(), hasher.finish());
            frames.note(format!("frame {from}→{to} {lane} {len} bytes {hash:016x}"));
        }),
        ..MemoryOptions::new(Threads::One, seed)
    }
}

/// Proposes to every group through every node in turn, a few at a time.
async fn load(cluster: &MemoryCluster, chronicle: &Chronicle, numbers: std::ops::Range<u64>) {
    let mut proposals = JoinSet::new();
    for number in numbers {
        let node = &cluster.nodes[(number % cluster.nodes.len() as u64) as usize];
        let group = GroupId::new(1 + number / 3 % GROUPS);
        let (cell, chronicle) = (node.cell(group), chronicle.clone());
        proposals.spawn(async move {
            let outcome = propose(&cell, group, command(number), Duration::from_secs(5)).await;
            chronicle.note(format!("proposal {number} to {group}: {outcome:?}"));
        });
        if proposals.len() >= 8 {
            proposals.join_next().await;
        }
    }
    while proposals.join_next().await.is_some() {}
}

async fn scenario(seed: u64, chronicle: Chronicle) {
    let cluster = MemoryCluster::start(3, options(seed, &chronicle));
    let groups: Vec<GroupId> = (1..=GROUPS).map(GroupId::new).collect();
    for group in &groups {
        cluster.create_group(*group).await;
        cluster.leader(*group, DEADLINE).await;
    }
    load(&cluster, &chronicle, 0..COMMANDS / 3).await;

    let leader = cluster.leader(groups[0], DEADLINE).await;
    let addrs = cluster.node(leader).cell(groups[0]).addrs().expect("a leader runs");
    addrs.group.try_send(Kill { mode: KillMode::Panic }).expect("its mailbox has room");
    load(&cluster, &chronicle, COMMANDS / 3..COMMANDS * 2 / 3).await;

    let leader = cluster.leader(groups[1], DEADLINE).await;
    let follower = leader % 3 + 1;
    cluster.network.cut(NodeId::new(leader), NodeId::new(follower));
    cluster.isolate(follower % 3 + 1, true);
    load(&cluster, &chronicle, COMMANDS * 2 / 3..COMMANDS * 5 / 6).await;
    cluster.network.heal(NodeId::new(leader), NodeId::new(follower));
    cluster.isolate(follower % 3 + 1, false);
    load(&cluster, &chronicle, COMMANDS * 5 / 6..COMMANDS).await;

    for group in groups {
        wait_until("every replica to apply alike", DEADLINE, || {
            let applied = cluster.nodes.iter().filter_map(|node| node.status(group));
            let applied: Vec<_> = applied.map(|s| (s.applied, s.commit)).collect();
            applied.iter().all(|s| *s == applied[0] && s.0 == s.1)
        })
        .await;
    }
    cluster.stop().await;
}

fn run(seed: u64) -> Vec<String> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    simulate(async {
        let chronicle = Chronicle { start: Instant::now(), lines: lines.clone() };
        scenario(seed, chronicle).await;
    });
    std::mem::take(&mut *lines.lock().expect("the run is over"))
}

#[test]
fn one_seed_one_order() {
    let (first, second) = (run(7), run(7));
    for (at, (a, b)) in first.iter().zip(&second).enumerate() {
        assert_eq!(a, b, "the runs part at line {at} of {}", first.len());
    }
    assert_eq!(first.len(), second.len());
    let count = |what: &str| first.iter().filter(|line| line.contains(what)).count();
    let answered = first.iter().filter(|line| line.contains(": Ok(")).count();
    assert_eq!(count("proposal "), COMMANDS as usize);
    assert!(answered > COMMANDS as usize / 2, "only {answered} commands were acknowledged");
    assert!(count("frame ") > COMMANDS as usize && count("applies") >= 3 * answered);
    assert_ne!(first, run(8), "another seed makes another run");
}
