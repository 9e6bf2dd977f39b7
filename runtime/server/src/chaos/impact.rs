//! What the faults did to the load, from the history alone.
//!
//! ```text
//!            before      during            after
//! ────────|──────────|─────────────|────────────────|──→ writes per second, p50, p99
//!       begin − 5 s  begin         end          end + 5 s
//!                    └─recovery─→ first acknowledged write that began after it, by keyspace
//! ```
//!
//! Where a fault leaves no majority, nothing can be acknowledged until it ends: recovery counts from
//! there.

use std::time::Duration;

use serde::Serialize;

use super::fault_record::{FaultRecord, maybe_seconds, seconds};
use super::history::Operation;

/// Of what is compared before and after.
const WINDOW: Duration = Duration::from_secs(5);

/// An acknowledged write.
#[derive(Debug, Clone, Copy)]
struct Write {
    keyspace: usize,
    began: Duration,
    ended: Duration,
}

/// The acknowledged writes of a history.
#[derive(Debug)]
pub struct Writes {
    keyspaces: usize,
    /// By the time of the acknowledgement.
    by_end: Vec<Write>,
    /// Of each keyspace, by the time of the request: began, ended.
    by_begin: Vec<Vec<(Duration, Duration)>>,
}

/// Latencies and throughput of acknowledged writes in a span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pace {
    /// Acknowledged writes per second.
    pub per_second: f64,
    /// Median latency in milliseconds; 0 without a write.
    pub p50_ms: f64,
    /// 99th percentile in milliseconds.
    pub p99_ms: f64,
}

/// The pace of some keyspaces around a fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Around {
    /// Five seconds before.
    pub before: Pace,
    /// While it lasted, at least a second.
    pub during: Pace,
    /// Five seconds after.
    pub after: Pace,
}

/// What one fault did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Impact {
    /// Of each keyspace that it hit, the seconds to the next acknowledged write; none until the end.
    pub recovery: Vec<Recovery>,
    /// The same of the others.
    pub others_recovery: Vec<Recovery>,
    /// The pace of those that it hit.
    pub hit: Around,
    /// The pace of the others.
    pub others: Around,
}

/// How long one keyspace took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Recovery {
    /// The keyspace, by its place in the scenario.
    pub keyspace: usize,
    /// Seconds to the next acknowledged write that began after the fault; `None`: never.
    #[serde(serialize_with = "maybe_seconds")]
    pub seconds: Option<Duration>,
}

/// Percentiles over many recoveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RecoverySummary {
    /// How many were measured.
    pub count: usize,
    /// How many keyspaces never acknowledged a write again.
    pub never: usize,
    /// The median.
    #[serde(serialize_with = "seconds")]
    pub p50: Duration,
    /// The 99th percentile.
    #[serde(serialize_with = "seconds")]
    pub p99: Duration,
    /// The longest.
    #[serde(serialize_with = "seconds")]
    pub max: Duration,
}

impl Writes {
    /// Those of `history`, in a cluster of so many keyspaces.
    pub fn new(history: &[Operation], keyspaces: usize) -> Self {
        let acknowledged = history.iter().filter(|operation| operation.acknowledged().is_some());
        let write =
            |op: &Operation| Write { keyspace: op.keyspace, began: op.began, ended: op.ended };
        let mut by_end: Vec<_> = acknowledged.map(write).collect();
        by_end.sort_by_key(|write| write.ended);
        let mut by_begin = vec![Vec::new(); keyspaces];
        for write in &by_end {
            by_begin[write.keyspace].push((write.began, write.ended));
        }
        for writes in &mut by_begin {
            writes.sort_unstable();
            // The first to be acknowledged of those that began at a time or later.
            let mut earliest = Duration::MAX;
            for (_, ended) in writes.iter_mut().rev() {
                earliest = earliest.min(*ended);
                *ended = earliest;
            }
        }
        Self { keyspaces, by_end, by_begin }
    }

    /// What a fault did; `None` if it was not done.
    pub fn impact(&self, record: &FaultRecord) -> Option<Impact> {
        let (from, began, ended) = (record.recovers_from()?, record.began?, record.ended?);
        let recovery = |keyspace| Recovery { keyspace, seconds: self.recovery(keyspace, from) };
        let (hit, others): (Vec<_>, Vec<_>) =
            (0..self.keyspaces).partition(|keyspace| record.hit.contains(keyspace));
        Some(Impact {
            recovery: hit.iter().map(|keyspace| recovery(*keyspace)).collect(),
            others_recovery: others.iter().map(|keyspace| recovery(*keyspace)).collect(),
            hit: self.around(&hit, began, ended),
            others: self.around(&others, began, ended),
        })
    }

    fn recovery(&self, keyspace: usize, from: Duration) -> Option<Duration> {
        let writes = &self.by_begin[keyspace];
        let (_, ended) = writes.get(writes.partition_point(|(began, _)| *began < from))?;
        Some(*ended - from)
    }

    fn around(&self, keyspaces: &[usize], began: Duration, ended: Duration) -> Around {
        let ended = ended.max(began + Duration::from_secs(1));
        let is_in = |keyspace: usize| keyspaces.contains(&keyspace);
        Around {
            before: self.pace(&is_in, began.saturating_sub(WINDOW), began),
            during: self.pace(&is_in, began, ended),
            after: self.pace(&is_in, ended, ended + WINDOW),
        }
    }

    /// The pace of all keyspaces from `from` up to `to`.
    pub fn pace_of_all(&self, from: Duration, to: Duration) -> Pace {
        self.pace(&|_| true, from, to)
    }

    fn pace(&self, is_in: &dyn Fn(usize) -> bool, from: Duration, to: Duration) -> Pace {
        let at = |time: Duration| self.by_end.partition_point(|write| write.ended < time);
        let writes = self.by_end[at(from)..at(to)].iter().filter(|write| is_in(write.keyspace));
        let mut latencies: Vec<_> = writes.map(|write| write.ended - write.began).collect();
        latencies.sort_unstable();
        let ms = |quantile| percentile(&latencies, quantile).as_secs_f64() * 1e3;
        let per_second = latencies.len() as f64 / to.saturating_sub(from).as_secs_f64().max(1e-9);
        Pace { per_second, p50_ms: ms(0.5), p99_ms: ms(0.99) }
    }
}

impl RecoverySummary {
    /// Sums up.
    pub fn of(recoveries: impl Iterator<Item = Recovery>) -> Self {
        let all: Vec<_> = recoveries.map(|recovery| recovery.seconds).collect();
        let mut times: Vec<_> = all.iter().flatten().copied().collect();
        times.sort_unstable();
        Self {
            count: all.len(),
            never: all.len() - times.len(),
            p50: percentile(&times, 0.5),
            p99: percentile(&times, 0.99),
            max: times.last().copied().unwrap_or_default(),
        }
    }
}

/// The least of `sorted` that so large a share of them does not exceed; zero of none.
fn percentile(sorted: &[Duration], quantile: f64) -> Duration {
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::history::{Call, PutOutcome, ValueId};
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn write(keyspace: usize, began: u64, ended: u64, outcome: PutOutcome) -> Operation {
        let call = Call::Put { value: ValueId(began), outcome };
        Operation { keyspace, key: 0, node: 1, began: ms(began), ended: ms(ended), call }
    }

    fn fault(hit: usize, began: u64, ended: u64) -> FaultRecord {
        let mut record = FaultRecord::planned("kill9".into(), ms(began));
        (record.began, record.ended, record.hit) = (Some(ms(began)), Some(ms(ended)), vec![hit]);
        record
    }

    #[test]
    fn recovery_is_the_first_acknowledgement_of_what_began_afterwards() {
        let done = PutOutcome::Acknowledged(2);
        let history = [
            write(0, 900, 1_050, done),
            write(0, 1_010, 1_500, PutOutcome::Unknown),
            write(0, 1_100, 3_400, done),
            write(0, 2_900, 3_000, done),
            write(1, 1_001, 1_004, done),
        ];
        let writes = Writes::new(&history, 3);
        let impact = writes.impact(&fault(0, 1_000, 2_000)).unwrap();
        assert_eq!(impact.recovery, [Recovery { keyspace: 0, seconds: Some(ms(2_000)) }]);
        let others = [
            Recovery { keyspace: 1, seconds: Some(ms(4)) },
            Recovery { keyspace: 2, seconds: None },
        ];
        assert_eq!(impact.others_recovery, others);
        let summary = RecoverySummary::of(others.into_iter());
        assert_eq!((summary.count, summary.never, summary.max), (2, 1, ms(4)));
        let mut total = fault(0, 1_000, 2_800);
        total.takes_majority = true;
        let impact = writes.impact(&total).unwrap();
        assert_eq!(impact.recovery[0].seconds, Some(ms(200)), "counted from its end");
        assert_eq!(writes.impact(&FaultRecord::planned("never done".into(), ms(1))), None);
    }

    #[test]
    fn paces_are_of_their_span() {
        let done = PutOutcome::Acknowledged(2);
        let history: Vec<_> = (0..100).map(|n| write(0, n * 100, n * 100 + n, done)).collect();
        let pace = Writes::new(&history, 1).pace_of_all(ms(0), ms(10_000));
        assert_eq!((pace.per_second, pace.p50_ms, pace.p99_ms), (10.0, 49.0, 98.0));
        assert_eq!(Writes::new(&[], 1).pace_of_all(ms(0), ms(1_000)), Pace::default());
    }
}
