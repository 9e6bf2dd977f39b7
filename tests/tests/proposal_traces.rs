//! Goal: a sampled proposal is told of once, by the node that led, with the stages that it went through;
//! one that nobody samples is not.
//! Method: three real nodes with a sink each, proposals of both kinds at a follower and at the leader.

use std::num::{NonZeroU64, NonZeroU128};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polyraft::{GroupHandle, Node, NodeId, ProposalTrace, Stage, TraceContext, TraceSink};
use polyraft_tests::cluster::{Cluster, DEADLINE, Shape, wait_for};
use polyraft_tests::machines::{Bench, Ledger, add};

/// Keeps what one node tells.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<ProposalTrace>>);

impl TraceSink for Told {
    fn ended(&self, trace: &ProposalTrace) {
        self.0.lock().expect("no test panics here").push(trace.clone());
    }
}

impl Told {
    fn all(&self) -> Vec<ProposalTrace> {
        self.0.lock().expect("no test panics here").clone()
    }
}

fn context(n: u64) -> TraceContext {
    let span_id = NonZeroU64::new(n).expect("tests count from 1");
    TraceContext { trace_id: NonZeroU128::MAX, span_id }
}

/// Three nodes with a sink each; the certificates and data are the cluster's.
async fn start(cluster: &Cluster) -> Vec<(Node, Arc<Told>)> {
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let told = Arc::<Told>::default();
        let config = cluster.config(number).with_trace_sink(told.clone());
        let ledger = |_: &_| -> Box<dyn polyraft::StateMachine> {
            Box::new(Ledger::new(Arc::<Bench>::default()))
        };
        nodes.push((Node::start(config, ledger).await.expect("it starts"), told));
    }
    nodes
}

fn group(node: &Node) -> GroupHandle {
    node.group("g1").expect("it is on every node")
}

/// The leader, once all agree.
async fn leader(nodes: &[(Node, Arc<Told>)]) -> NodeId {
    let probe = || {
        let mut said = nodes.iter().map(|(node, _)| group(node).status().leader);
        let first = said.next().flatten();
        std::future::ready(first.filter(|_| said.all(|leader| leader == first)))
    };
    wait_for(DEADLINE, "a leader that all know", probe).await
}

/// All five stages in order, none before the end of the one before, and shared moments shared.
fn check(trace: &ProposalTrace) {
    let stages: Vec<Stage> = trace.stages.iter().map(|span| span.stage).collect();
    let all =
        [Stage::Proposed, Stage::Submitted, Stage::Persisted, Stage::Committed, Stage::Applied];
    assert_eq!(stages, all, "{trace:?}");
    let ended = |at: usize| trace.stages[at].ago - trace.stages[at].took;
    for at in 1..stages.len() {
        assert!(trace.stages[at].ago <= ended(at - 1), "stage {at} began too early: {trace:?}");
    }
    for at in [1, 3, 4] {
        assert_eq!(trace.stages[at].ago, ended(at - 1), "stage {at}: {trace:?}");
    }
    assert!(trace.stages[2].took > Duration::ZERO, "a disk takes time: {trace:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_tells_of_sampled_proposals() {
    let cluster = Cluster::prepare(Shape::new(3, 1), Arc::new(|_, _| unreachable!())).await;
    let nodes = start(&cluster).await;
    let leader = leader(&nodes).await;
    let mut indexes = Vec::new();
    for (node, _) in &nodes {
        let number = node.id().get();
        group(node).propose(add("unsampled")).await.expect("there is a leader");
        let sampled = group(node).with_trace(context(number));
        indexes.push((number, sampled.propose(add("sampled")).await.expect("a leader").index));
    }
    let told = nodes.iter().find(|(node, _)| node.id() == leader).expect("one of them").1.clone();
    // Callers are answered before the sink is told.
    let probe = || std::future::ready(Some(told.all()).filter(|all| all.len() >= indexes.len()));
    let all = wait_for(DEADLINE, "what the leader tells", probe).await;
    for (trace, (number, index)) in all.iter().zip(&indexes) {
        assert_eq!((trace.context, &trace.outcome), (context(*number), &Ok(*index)));
        assert_eq!((trace.node, trace.group.get()), (leader, 1));
        check(trace);
    }
    assert_eq!(all.len(), indexes.len());
    for (node, told) in &nodes {
        assert!(node.id() == leader || told.all().is_empty(), "{} does not lead", node.id());
        node.stop().await;
    }
}
