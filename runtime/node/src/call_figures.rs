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
use polyraft_actors::metric_catalogue::{PROPOSAL_OUTCOMES, READ_OUTCOMES};
use polyraft_core::error::{ProposeError, ReadError};
use polyraft_core::message::AppliedUnit;

/// Where the figures of a node's calls go.
#[derive(Debug)]
pub(crate) struct CallFigures {
    pending: Gauge,
    proposals: [Counter; PROPOSAL_OUTCOMES.len()],
    proposal_duration: Histogram,
    linearizable: ReadFigures,
    stale: ReadFigures,
}

#[derive(Debug)]
struct ReadFigures {
    outcomes: [Counter; READ_OUTCOMES.len()],
    duration: Histogram,
}

impl ReadFigures {
    fn of(consistency: &'static str) -> Self {
        Self {
            outcomes: READ_OUTCOMES.map(|outcome| {
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
            proposals: PROPOSAL_OUTCOMES
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
        count(&READ_OUTCOMES, &figures.outcomes, outcome);
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
        count(&PROPOSAL_OUTCOMES, &self.figures.proposals, outcome);
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
    use std::time::Duration;

    use polyraft_core::ids::{GroupId, Term};

    use super::*;

    /// Goal: every error has a series, and no series waits for an outcome that does not exist. Method:
    /// one error of each kind, compared with the catalogue's labels.
    #[test]
    fn every_error_is_an_outcome_of_the_catalogue() {
        let (group, deadline, what) = (GroupId::new(1), Duration::ZERO, "a queue");
        let proposals = [
            ProposeError::NotLeader { group, term: Term::default(), leader: None },
            ProposeError::Overloaded { group, what },
            ProposeError::Expired { group, deadline },
            ProposeError::TooLarge { group, bytes: 2, max: 1 },
            ProposeError::BatchLength { group, commands: 2, max: 1 },
            ProposeError::Superseded { group },
            ProposeError::Unknown { group },
            ProposeError::TimedOut { group, deadline },
            ProposeError::Faulted { group },
            ProposeError::Stopped { group },
        ];
        assert_eq!(proposals.map(|error| error.as_str()), PROPOSAL_OUTCOMES[1..]);
        let reads = [
            ReadError::TimedOut { group, deadline },
            ReadError::Overloaded { group, what },
            ReadError::Query { group, what: String::new() },
            ReadError::Faulted { group },
            ReadError::Stopped { group },
        ];
        assert_eq!(reads.map(|error| error.as_str()), READ_OUTCOMES[1..]);
    }
}
