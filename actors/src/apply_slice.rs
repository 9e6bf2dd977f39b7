//! Apply slice: what an applier sends to a worker, and gets back.
//!
//! ```text
//! bench + entries + queries → [worker] → bench + what there was no time for
//! ```
//!
//! Waiters are answered here, entry by entry, before the slice is over (AP-11).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use polyraft_core::error::{ProposeError, ReadError};
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, LogIndex};

use crate::applier::Query;
use crate::apply_bench::{ApplyBench, ApplyFault, QueryError};
use crate::clock::Clock;
use crate::group::record_stage;
use crate::metric_catalogue::Stage;
use crate::proposal::CommittedEntry;

/// One turn of one group on a worker.
pub(crate) struct ApplySlice {
    group: GroupId,
    /// The machine and its state.
    pub(crate) bench: Box<ApplyBench>,
    /// To apply; afterwards, what there was no time for.
    pub(crate) entries: VecDeque<CommittedEntry>,
    /// To answer; afterwards, those whose index was not reached.
    pub(crate) queries: Vec<Query>,
    /// The entry that could not be applied, and why. The bench is then of no use.
    pub(crate) fault: Option<(LogIndex, ApplyFault)>,
    open_first: bool,
    persist: bool,
}

impl ApplySlice {
    /// A slice that first opens the machine if `open_first`, and in the end makes its own storage
    /// durable if `persist`.
    pub(crate) fn new(
        group: GroupId,
        bench: Box<ApplyBench>,
        entries: VecDeque<CommittedEntry>,
        queries: Vec<Query>,
        open_first: bool,
        persist: bool,
    ) -> Self {
        Self { group, bench, entries, queries, fault: None, open_first, persist }
    }

    /// Applies entries for about `duration_max`, at least one, then answers queries. Blocks.
    pub(crate) fn run(&mut self, clock: &dyn Clock, duration_max: Duration) {
        let started = clock.now();
        if let Err(fault) = self.open() {
            self.fault = Some((self.bench.applied().next(), fault));
        }
        let mut applied = 0;
        while self.fault.is_none() && (applied == 0 || clock.now().since(started) < duration_max) {
            let Some(committed) = self.entries.pop_front() else {
                break;
            };
            self.apply(committed, clock);
            applied += 1;
        }
        metrics::histogram!("polyraft_apply_slice_duration_seconds")
            .record(clock.now().since(started));
        metrics::counter!("polyraft_applied_entries_total").increment(applied);
        self.answer_queries();
        self.persist();
        if self.fault.is_some() {
            self.give_up();
        }
    }

    fn open(&mut self) -> Result<(), ApplyFault> {
        if std::mem::take(&mut self.open_first) { self.bench.open() } else { Ok(()) }
    }

    /// Comes last: readers need not wait for the disk.
    fn persist(&mut self) {
        if self.persist
            && self.fault.is_none()
            && let Err(fault) = self.bench.persist()
        {
            self.fault = Some((self.bench.applied().next(), fault));
        }
    }

    fn apply(&mut self, committed: CommittedEntry, clock: &dyn Clock) {
        let CommittedEntry { entry, waiters } = committed;
        match self.bench.apply(&entry) {
            Ok(responses) => {
                failpoint::pass(Step::ApplyDone);
                let rejected = responses.iter().filter(|r| !r.is_accepted()).count();
                metrics::counter!("polyraft_applied_commands_total")
                    .increment(responses.len() as u64);
                metrics::counter!("polyraft_rejected_commands_total").increment(rejected as u64);
                if let Some(waiters) = waiters {
                    let now = clock.now();
                    let took = waiters.since(now);
                    waiters.reached(now).resolve(entry.index, entry.term, responses);
                    failpoint::pass(Step::ReplySent);
                    if let Some(took) = took {
                        record_stage(Stage::Applied, took);
                    }
                }
            }
            Err(fault) => {
                self.fault = Some((entry.index, fault));
                self.entries.push_front(CommittedEntry { entry, waiters });
            }
        }
    }

    /// Those whose index was reached, until one meets damage.
    fn answer_queries(&mut self) {
        let reached = self.bench.applied();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.queries).into_iter().partition(|q| q.at_least <= reached);
        self.queries = later;
        for query in due {
            let answer = self.answer(&query.query);
            // The reader may have gone.
            let _ = query.reply.send(answer);
        }
    }

    fn answer(&mut self, query: &[u8]) -> Result<Bytes, ReadError> {
        let group = self.group;
        if self.fault.is_some() {
            return Err(ReadError::Faulted { group });
        }
        self.bench.query(query).map_err(|error| match error {
            QueryError::Machine(error) => ReadError::Query { group, what: error.to_string() },
            QueryError::Damaged(damage) => {
                let what = damage.to_string();
                self.fault = Some((self.bench.applied().next(), ApplyFault::Damaged(damage)));
                ReadError::Damaged { group, what }
            }
        })
    }

    fn give_up(&mut self) {
        let group = self.group;
        for waiters in self.entries.drain(..).filter_map(|committed| committed.waiters) {
            waiters.fail_all(&ProposeError::Unknown { group });
        }
        for query in self.queries.drain(..) {
            // The reader may have gone.
            let _ = query.reply.send(Err(ReadError::Faulted { group }));
        }
    }
}
