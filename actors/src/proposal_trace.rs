//! Proposal trace: when a sampled proposal reached which stage, told once its batch has ended.
//!
//! ```text
//! call ─proposed→ queue ─submitted→ log, append ─persisted→ ─committed→ applier ─applied→ answer
//!                 TracedUnit        └────────────── TracedBatch ──────────────┘ └→ TraceSink
//! ```
//!
//! A stage begins and ends at the moments that `polyraft_proposal_stage_duration_seconds` measures,
//! except that the histogram's *submitted* counts from a batch's oldest unit and this from the traced
//! one. *Proposed*, which the histogram lacks, is the way from the call on this node, or from a
//! forward's arrival, into the queue.
//!
//! Promise: a batch without a sampled unit carries nothing of this. A unit that goes back in line
//! tells nothing and keeps its context. What ends before it is in a batch, or with an actor that dies,
//! is not told.
//! Not here: who samples, and where traces go; the embedder brings a sink.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use polyraft_core::error::ProposeError;
use polyraft_core::ids::{GroupId, LogIndex, NodeId};
use polyraft_core::time::Moment;
use polyraft_core::trace::TraceContext;

use crate::clock::Clock;
use crate::metric_catalogue::Stage;
use crate::stage_clock::Durable;

/// Takes the stages of sampled proposals, on the node that led.
pub trait TraceSink: Send + Sync + fmt::Debug + 'static {
    /// A proposal has ended, and its caller was answered. Called where answers are made: it must neither
    /// block nor panic.
    fn ended(&self, trace: &ProposalTrace);
}

/// The way of one sampled proposal through its leader's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProposalTrace {
    /// The span of the caller.
    pub context: TraceContext,
    /// The node that led.
    pub node: NodeId,
    /// The group.
    pub group: GroupId,
    /// The entry that was applied, or why none was, as far as this node knows.
    pub outcome: Result<LogIndex, ProposeError>,
    /// The stages that it is known to have reached, in order: all five if it was applied.
    pub stages: Vec<StageSpan>,
}

/// How a proposal reached one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageSpan {
    /// The stage.
    pub stage: Stage,
    /// How long ago the way to it began, counted from the call of the sink.
    pub ago: Duration,
    /// How long the way took. Never more than `ago`.
    pub took: Duration,
}

/// A sampled unit that waits: whose it is, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracedUnit {
    context: TraceContext,
    called: Moment,
    queued: Moment,
}

impl TracedUnit {
    /// The unit of a call that began, or arrived here, at `called`.
    pub fn new(context: TraceContext, called: Moment) -> Self {
        Self { context, called, queued: called }
    }

    /// The caller's span.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// The same, in line since `queued`.
    #[must_use]
    pub(crate) fn queued(self, queued: Moment) -> Self {
        Self { queued, ..self }
    }
}

/// Where a group's sampled proposals are told of.
#[derive(Clone)]
pub struct TraceOutlet {
    /// Who takes them.
    pub sink: Arc<dyn TraceSink>,
    /// Tells how long ago everything was.
    pub clock: Arc<dyn Clock>,
    /// This node.
    pub node: NodeId,
    /// The group.
    pub group: GroupId,
}

/// What is known of a batch with at least one sampled unit.
pub(crate) struct TracedBatch {
    outlet: TraceOutlet,
    submitted: Option<Moment>,
    durable: Option<Durable>,
    committed: Option<Moment>,
}

impl TracedBatch {
    pub(crate) fn new(outlet: TraceOutlet) -> Self {
        Self { outlet, submitted: None, durable: None, committed: None }
    }

    /// The group has taken it into its log.
    pub(crate) fn submitted(&mut self, now: Moment) {
        self.submitted = Some(now);
    }

    /// It went to the applier; `durable` if this leader saw it become so.
    pub(crate) fn committed(&mut self, durable: Option<Durable>, now: Moment) {
        self.durable = durable;
        self.committed = Some(now);
    }

    /// It was applied at the moment and index.
    pub(crate) fn applied(&self, units: &[TracedUnit], at: Moment, index: LogIndex) {
        self.tell(units, Some(at), &Ok(index));
    }

    /// It came to nothing, or nobody knows.
    pub(crate) fn failed(&self, units: &[TracedUnit], error: &ProposeError) {
        self.tell(units, None, &Err(error.clone()));
    }

    fn tell(
        &self,
        units: &[TracedUnit],
        applied: Option<Moment>,
        outcome: &Result<LogIndex, ProposeError>,
    ) {
        let TraceOutlet { sink, clock, node, group } = &self.outlet;
        let now = clock.now();
        for unit in units {
            let ways = self.ways(unit, applied).into_iter().flatten();
            sink.ended(&ProposalTrace {
                context: unit.context,
                node: *node,
                group: *group,
                outcome: outcome.clone(),
                stages: ways
                    .map(|(stage, from, to)| StageSpan {
                        stage,
                        ago: now.since(from),
                        took: to.since(from),
                    })
                    .collect(),
            });
        }
    }

    /// From when to when the unit was on its way to each stage.
    fn ways(
        &self,
        unit: &TracedUnit,
        applied: Option<Moment>,
    ) -> [Option<(Stage, Moment, Moment)>; 5] {
        let TracedUnit { called, queued, .. } = *unit;
        let durable = self.durable;
        [
            Some((Stage::Proposed, called, queued)),
            self.submitted.map(|at| (Stage::Submitted, queued, at)),
            durable.map(|durable| (Stage::Persisted, durable.left, durable.since)),
            durable.zip(self.committed).map(|(durable, at)| (Stage::Committed, durable.since, at)),
            self.committed.zip(applied).map(|(from, at)| (Stage::Applied, from, at)),
        ]
    }
}

impl fmt::Debug for TracedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TracedBatch({:?} to {:?})", self.submitted, self.committed)
    }
}

#[cfg(test)]
#[path = "proposal_trace_tests.rs"]
mod tests;
