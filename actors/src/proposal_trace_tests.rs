//! Tests of proposal traces: what is told of whom, when, and of whom nothing.

use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Mutex;

use actix::prelude::*;
use bytes::Bytes;
use polyraft_core::batch::Unit;
use polyraft_core::batch_config::BatchConfig;
use polyraft_core::entry::Configuration;
use polyraft_core::ids::{ReplicaId, Term};
use polyraft_core::output::Refusal;
use polyraft_core::ports::GroupIdentity;
use polyraft_core::state_machine::Response;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::*;
use crate::batcher::{Batcher, BatcherPorts, LeaderChanged, Propose, SubmitRefused};
use crate::clock::VirtualClock;
use crate::directory::Directory;
use crate::group::Submit;
use crate::group_life::initial_status;
use crate::mailbox::ActorKind;
use crate::proposal::{BatchWaiters, UnitReply, UnitWaiter};
use crate::testing::{Probe, guard, paused};

const NODE: NodeId = NodeId::new(3);
const GROUP: GroupId = GroupId::new(5);

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<ProposalTrace>>);

impl TraceSink for Told {
    fn ended(&self, trace: &ProposalTrace) {
        self.0.lock().expect("no test panics here").push(trace.clone());
    }
}

impl Told {
    fn take(&self) -> Vec<ProposalTrace> {
        std::mem::take(&mut self.0.lock().expect("no test panics here"))
    }
}

/// A clock that stands where it was put.
struct Stopped(Moment);

impl Clock for Stopped {
    fn now(&self) -> Moment {
        self.0
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

fn at(ms: u64) -> Moment {
    Moment::new(Duration::from_millis(ms))
}

/// A sink and an outlet that leads to it, at `now_ms`.
fn outlet(now_ms: u64) -> (Arc<Told>, TraceOutlet) {
    let sink = Arc::<Told>::default();
    let clock = Arc::new(Stopped(at(now_ms)));
    (sink.clone(), TraceOutlet { sink, clock, node: NODE, group: GROUP })
}

fn context(n: u64) -> TraceContext {
    let span_id = NonZeroU64::new(n).expect("tests count from 1");
    TraceContext { trace_id: NonZeroU128::MIN, span_id }
}

/// A unit of one command that was called and queued then.
fn waiter(trace: Option<TracedUnit>) -> UnitWaiter {
    let (reply, _) = oneshot::channel();
    let patience = (Duration::ZERO, Moment::START);
    UnitWaiter { commands: 1, reply: UnitReply::Local(reply), patience, trace }
}

fn traced(n: u64, called: u64, queued: u64) -> UnitWaiter {
    waiter(Some(TracedUnit::new(context(n), at(called)).queued(at(queued))))
}

fn span(stage: Stage, ago: u64, took: u64) -> StageSpan {
    StageSpan { stage, ago: Duration::from_millis(ago), took: Duration::from_millis(took) }
}

fn response() -> Response {
    Response::Accepted(Bytes::new())
}

/// Goal: each sampled unit is told of with the moments that the histograms measure, its own until it is
/// in the log. Method: three units, two of them sampled, through all stages by hand.
#[test]
fn an_applied_batch_is_told_of_each_sampled_unit() {
    let (sink, outlet) = outlet(100);
    let units = vec![traced(1, 10, 12), waiter(None), traced(2, 11, 15)];
    let mut batch = BatchWaiters::new(units, None).reached(at(12)).told_to(Some(&outlet));
    batch.submitted(at(20));
    let durable = Durable { left: at(21), since: at(40) };
    let batch = batch.committed(Some(durable), at(60)).reached(at(90));
    let responses = vec![response(), response(), response()];
    batch.resolve(LogIndex::new(7), Term::new(2), responses);
    let expected = |n, proposed, submitted| {
        let last = [
            span(Stage::Persisted, 79, 19),
            span(Stage::Committed, 60, 20),
            span(Stage::Applied, 40, 30),
        ];
        ProposalTrace {
            context: context(n),
            node: NODE,
            group: GROUP,
            outcome: Ok(LogIndex::new(7)),
            stages: [proposed, submitted].into_iter().chain(last).collect(),
        }
    };
    let first = expected(1, span(Stage::Proposed, 90, 2), span(Stage::Submitted, 88, 8));
    let second = expected(2, span(Stage::Proposed, 89, 4), span(Stage::Submitted, 85, 5));
    assert_eq!(sink.take(), [first, second]);
}

#[test]
fn a_failed_batch_is_told_with_its_error_and_what_it_had_reached() {
    let (sink, outlet) = outlet(50);
    let mut batch = BatchWaiters::new(vec![traced(1, 10, 12)], None).told_to(Some(&outlet));
    batch.submitted(at(20));
    batch.fail_all(&ProposeError::Superseded { group: GROUP });
    let told = sink.take();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].outcome, Err(ProposeError::Superseded { group: GROUP }));
    let reached = [span(Stage::Proposed, 40, 2), span(Stage::Submitted, 38, 8)];
    assert_eq!(told[0].stages, reached);
}

#[test]
fn whose_disk_was_not_watched_is_told_without_its_stages() {
    let (sink, outlet) = outlet(50);
    let mut batch = BatchWaiters::new(vec![traced(1, 10, 12)], None).told_to(Some(&outlet));
    batch.submitted(at(20));
    let batch = batch.committed(None, at(30)).reached(at(40));
    batch.resolve(LogIndex::new(7), Term::new(2), vec![response()]);
    let stages: Vec<Stage> = sink.take()[0].stages.iter().map(|span| span.stage).collect();
    assert_eq!(stages, [Stage::Proposed, Stage::Submitted, Stage::Applied]);
}

#[test]
fn units_that_leave_their_batch_tell_nothing_and_keep_their_context() {
    let (sink, outlet) = outlet(50);
    let batch = BatchWaiters::new(vec![traced(9, 10, 12)], None).told_to(Some(&outlet));
    let units = batch.into_units();
    assert_eq!(units[0].trace.map(|trace| trace.context()), Some(context(9)));
    assert_eq!(sink.take(), []);
}

/// A batcher that leads, and where its batches come out.
struct Rig {
    batcher: Addr<Batcher>,
    submits: UnboundedReceiver<Submit>,
    sink: Arc<Told>,
}

impl Rig {
    fn start() -> Self {
        let directory = Arc::new(Directory::default());
        let identity = GroupIdentity { name: "g".into(), replica: ReplicaId::new(1) };
        let status = initial_status(GROUP, &identity, Configuration::default());
        let (cell, _) = directory.insert_group(GROUP, status);
        let (submit, submits) = Probe::start();
        let (sink, outlet) = outlet(0);
        let clock = Arc::new(VirtualClock::start(0));
        let traces = Some(TraceOutlet { clock: clock.clone(), ..outlet });
        let ports = BatcherPorts { submit, directory, cell, clock, traces };
        let guard = guard(ActorKind::Batcher);
        let batcher = Batcher::new(GROUP, BatchConfig::default(), ports, 1, guard).start();
        Self { batcher, submits, sink }
    }

    async fn lead(&self) {
        let leads = LeaderChanged { term: Term::new(1), leader: Some(NODE), leads: true };
        self.batcher.send(leads).await.expect("the batcher runs");
    }

    async fn propose(&self) {
        let (reply, _) = oneshot::channel();
        let propose = Propose {
            unit: Unit::single(Bytes::from_static(b"a")),
            deadline: Duration::from_secs(60),
            trace: Some(TracedUnit::new(context(4), Moment::START)),
            reply: UnitReply::Local(reply),
        };
        self.batcher.send(propose).await.expect("the batcher runs");
    }

    /// Says of the next batch that it was not proposed.
    async fn refuse_next(&mut self, why: Refusal) {
        let Submit { batch, waiters } = self.submits.recv().await.expect("a batch");
        let refused = SubmitRefused { batch, waiters, why };
        self.batcher.send(refused).await.expect("the batcher runs");
    }
}

/// Goal: a unit whose batch was refused by a leader that hands over is traced as if it had only then
/// been queued. Method: a batcher whose first batch is refused.
#[test]
fn a_unit_that_goes_back_in_line_keeps_its_context() {
    paused(async {
        let mut rig = Rig::start();
        rig.lead().await;
        rig.propose().await;
        tokio::time::advance(Duration::from_millis(3)).await;
        rig.refuse_next(Refusal::NotLeader).await;
        let Submit { waiters, .. } = rig.submits.recv().await.expect("it was in line again");
        assert_eq!(rig.sink.take(), [], "nothing was told of the refused batch");
        waiters.fail_all(&ProposeError::Unknown { group: GROUP });
        let told = rig.sink.take();
        assert_eq!(told.iter().map(|trace| trace.context).collect::<Vec<_>>(), [context(4)]);
        let [StageSpan { stage: Stage::Proposed, took, .. }] = told[0].stages[..] else {
            panic!("never submitted: {told:?}");
        };
        assert!(took >= Duration::from_millis(3), "it was in line twice: {told:?}");
    });
}

#[test]
fn a_batch_that_was_never_submitted_tells_nothing() {
    paused(async {
        let mut rig = Rig::start();
        rig.lead().await;
        rig.propose().await;
        rig.refuse_next(Refusal::UncommittedFull).await;
        assert_eq!(rig.sink.take(), []);
    });
}
