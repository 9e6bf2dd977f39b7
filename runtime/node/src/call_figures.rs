//! Call figures: how callers' proposals and reads end, and how long they took.
//!
//! ```text
//! propose, read ─begin→ Call ─end→ one outcome, one duration      dropped: nobody waits, no outcome
//! ```
//!
//! Of the caller's node, whichever node leads. Recorders are looked up once per node, not per call.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use metrics::{Counter, Gauge, Histogram};
use polyraft_core::error::{ProposeError, ReadError};
use polyraft_core::message::AppliedUnit;

/// Outcomes of proposals; that of an error is its name.
const PROPOSED: [&str; 11] = [
    "applied",
    "not_leader",
    "overloaded",
    "expired",
    "too_large",
    "batch_length",
    "superseded",
    "unknown",
    "timed_out",
    "faulted",
    "stopped",
];
/// Outcomes of reads.
const READ: [&str; 6] =
    ["answered", "timed_out", "overloaded", "query_failed", "faulted", "stopped"];

/// Where the figures of a node's calls go.
#[derive(Debug)]
pub(crate) struct CallFigures {
    pending: Gauge,
    proposals: [Counter; PROPOSED.len()],
    proposal_duration: Histogram,
    linearizable: ReadFigures,
    stale: ReadFigures,
}

#[derive(Debug)]
struct ReadFigures {
    outcomes: [Counter; READ.len()],
    duration: Histogram,
}

impl ReadFigures {
    fn of(consistency: &'static str) -> Self {
        Self {
            outcomes: READ.map(|outcome| {
                metrics::counter!(
                    "polyraft_reads_total",
                    "consistency" => consistency,
                    "outcome" => outcome
                )
            }),
            duration: metrics::histogram!(
                "polyraft_read_duration_seconds",
                "consistency" => consistency
            ),
        }
    }
}

impl CallFigures {
    /// To the process's recorder.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            pending: metrics::gauge!("polyraft_proposals_pending"),
            proposals: PROPOSED
                .map(|outcome| metrics::counter!("polyraft_proposals_total", "outcome" => outcome)),
            proposal_duration: metrics::histogram!("polyraft_proposal_duration_seconds"),
            linearizable: ReadFigures::of("linearizable"),
            stale: ReadFigures::of("stale"),
        })
    }

    /// A proposal begins.
    pub(crate) fn propose(&self) -> Proposing<'_> {
        self.pending.increment(1.0);
        Proposing { figures: self, started: Instant::now() }
    }

    /// A read that began at `started` has ended.
    pub(crate) fn read(
        &self,
        is_stale: bool,
        started: Instant,
        outcome: &Result<Bytes, ReadError>,
    ) {
        let figures = if is_stale { &self.stale } else { &self.linearizable };
        let outcome = outcome.as_ref().map_or_else(ReadError::as_str, |_| "answered");
        count(&READ, &figures.outcomes, outcome);
        figures.duration.record(started.elapsed());
    }
}

/// A proposal that waits for its outcome, or is given up by being dropped.
pub(crate) struct Proposing<'a> {
    figures: &'a CallFigures,
    started: Instant,
}

impl Proposing<'_> {
    /// The outcome is there.
    pub(crate) fn end(self, outcome: &Result<AppliedUnit, ProposeError>) {
        let outcome = outcome.as_ref().map_or_else(ProposeError::as_str, |_| "applied");
        count(&PROPOSED, &self.figures.proposals, outcome);
        self.figures.proposal_duration.record(self.started.elapsed());
    }
}

impl Drop for Proposing<'_> {
    fn drop(&mut self) {
        self.figures.pending.decrement(1.0);
    }
}

fn count(names: &[&str], counters: &[Counter], outcome: &str) {
    let counted = names.iter().zip(counters).find(|(name, _)| **name == outcome);
    debug_assert!(counted.is_some(), "{outcome} is no outcome of the catalogue");
    if let Some((_, counter)) = counted {
        counter.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use polyraft_actors::metric_catalogue::{METRICS, Values};

    use super::*;

    /// Goal: every outcome has a series from the start. Method: compare with the catalogue's labels.
    #[test]
    fn outcomes_are_those_of_the_catalogue() {
        let known = |metric: &str| {
            let metric = METRICS.iter().find(|m| m.name == metric).expect("it is there");
            let label = metric.labels.iter().find(|l| l.name == "outcome").expect("it has it");
            match label.values {
                Values::Known(values) => values,
                Values::Bounded(what) => panic!("{what}"),
            }
        };
        assert_eq!(known("polyraft_proposals_total"), PROPOSED);
        assert_eq!(known("polyraft_reads_total"), READ);
    }
}
