//! The report of a run, as JSON has it, and the verdict that follows from it.
//!
//! ```text
//! violated: a promise is broken, or an expectation not met    exit 1
//! invalid:  nothing is broken, but a fault is not proven       exit 2
//! ok:       neither                                            exit 0
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::fault_record::FaultRecord;
use super::impact::{Impact, Pace, RecoverySummary, Writes};
use super::scenario::{Expectations, Scenario};
use super::violation::Violation;

/// Points of the timeline.
const POINTS: u32 = 120;
/// Violations that a terminal shows.
const SHOWN_MAX: usize = 10;

/// What a run amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every fault took effect, and every promise was kept.
    Ok,
    /// A promise was broken.
    Violated,
    /// A fault is not proven: the run shows nothing.
    Invalid,
}

impl Verdict {
    /// The exit code of the command.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Violated => 1,
            Self::Invalid => 2,
        }
    }
}

/// Where and with what the run was made.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// Of this program.
    pub version: &'static str,
    /// Processors that nodes and clients share.
    pub cores: usize,
    /// The system and its architecture.
    pub system: String,
    /// Milliseconds since 1970 at the beginning.
    pub started_unix_ms: u128,
    /// Repeats victims, keys and calls.
    pub seed: u64,
    /// Whether the cluster was there before.
    pub is_attached: bool,
}

/// Counts of the whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Acknowledged puts.
    pub acknowledged: u64,
    /// Answered reads.
    pub reads: u64,
    /// Refused requests, and reads without an answer.
    pub failed: u64,
    /// Puts of unknown outcome.
    pub unknown: u64,
    /// Writes that the cluster held in the end, each compared with the history.
    pub audited: u64,
    /// Statuses that nodes gave.
    pub statuses: u64,
    /// Pairs of a group and a term that were seen to have a leader.
    pub terms_led: usize,
}

/// One fault and what it did.
#[derive(Debug, Clone, Serialize)]
pub struct FaultReport {
    /// What became of it.
    #[serde(flatten)]
    pub record: FaultRecord,
    /// Whether it is proven.
    pub is_proven: bool,
    /// What it did to the load, if it was done.
    pub impact: Option<Impact>,
}

/// One span of the timeline.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    /// Its beginning, in seconds.
    pub at_s: f64,
    /// The pace of all keyspaces in it.
    #[serde(flatten)]
    pub pace: Pace,
}

/// Everything about a run.
#[derive(Debug, Clone, Serialize)]
pub struct ChaosReport {
    /// The verdict.
    pub verdict: Verdict,
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// Expectations that were not met.
    pub unmet: Vec<String>,
    /// Faults that are not proven, and why; and what there was nothing to judge of.
    pub unproven: Vec<String>,
    /// The scenario, with its defaults.
    pub scenario: Scenario,
    /// Where it ran.
    pub environment: Environment,
    /// The keyspaces' names.
    pub keyspaces: Vec<String>,
    /// Counts.
    pub totals: Totals,
    /// Seconds to the next acknowledged write, over faults and the keyspaces they hit.
    pub recovery: RecoverySummary,
    /// The same over the keyspaces that faults did not hit.
    pub others_recovery: RecoverySummary,
    /// By kind of fault.
    pub recovery_by_kind: BTreeMap<String, RecoverySummary>,
    /// The faults, in the order of time.
    pub faults: Vec<FaultReport>,
    /// Throughput and latency over time.
    pub timeline: Vec<Point>,
}

/// What a report is made from.
#[derive(Debug)]
pub struct Findings {
    /// The scenario.
    pub scenario: Scenario,
    /// Where it ran.
    pub environment: Environment,
    /// The keyspaces' names.
    pub keyspaces: Vec<String>,
    /// Counts.
    pub totals: Totals,
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// What became of each fault.
    pub records: Vec<FaultRecord>,
    /// The acknowledged writes.
    pub writes: Writes,
}

impl ChaosReport {
    /// Draws the conclusions.
    pub fn new(findings: Findings) -> Self {
        let Findings { scenario, environment, keyspaces, totals, violations, records, writes } =
            findings;
        let doubts = records.iter().filter_map(FaultRecord::doubt);
        let unproven: Vec<_> = unjudged(&scenario, &totals).chain(doubts).collect();
        let faults: Vec<_> = records
            .into_iter()
            .map(|record| {
                let (is_proven, impact) = (record.is_proven(), writes.impact(&record));
                FaultReport { record, is_proven, impact }
            })
            .collect();
        let recovery = summary(faults.iter(), |impact| &impact.recovery);
        let others_recovery = summary(faults.iter(), |impact| &impact.others_recovery);
        let unmet = unmet(&scenario.expect, &recovery, &others_recovery, &totals);
        Self {
            verdict: verdict(&violations, &unmet, &unproven),
            timeline: timeline(&writes, scenario.duration),
            recovery_by_kind: by_kind(&faults),
            violations,
            unmet,
            unproven,
            scenario,
            environment,
            keyspaces,
            totals,
            recovery,
            others_recovery,
            faults,
        }
    }

    /// A few lines for a terminal.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let totals = &self.totals;
        let _ = writeln!(
            text,
            "{}: {} acknowledged, {} reads, {} failed, {} unknown; {} writes audited, {} faults",
            self.scenario.name,
            totals.acknowledged,
            totals.reads,
            totals.failed,
            totals.unknown,
            totals.audited,
            self.faults.len()
        );
        let _ = writeln!(
            text,
            "{:<44} {:>5} {:>5} {:>8} {:>8} {:>8}",
            "recovery, seconds", "count", "never", "p50", "p99", "max"
        );
        let kinds = self.recovery_by_kind.iter().map(|(kind, summary)| (kind.as_str(), summary));
        let all = [("all that were hit", &self.recovery), ("others", &self.others_recovery)];
        for (what, summary) in kinds.chain(all).filter(|(_, summary)| summary.count > 0) {
            let [p50, p99, max] = [summary.p50, summary.p99, summary.max].map(|d| d.as_secs_f64());
            let _ = writeln!(
                text,
                "{what:<44} {:>5} {:>5} {p50:>8.3} {p99:>8.3} {max:>8.3}",
                summary.count, summary.never
            );
        }
        let violations = self.violations.iter().map(|v| format!("VIOLATION {v}"));
        let unmet = self.unmet.iter().map(|unmet| format!("UNMET {unmet}"));
        let unproven = self.unproven.iter().map(|fault| format!("NOT PROVEN {fault}"));
        for line in violations.chain(unmet).chain(unproven).take(SHOWN_MAX) {
            let _ = writeln!(text, "{line}");
        }
        let verdict = format!("{:?}", self.verdict).to_lowercase();
        let _ = writeln!(text, "verdict: {verdict}");
        text
    }
}

/// What the run has nothing of, so that nothing could be found wrong with it.
fn unjudged(scenario: &Scenario, totals: &Totals) -> impl Iterator<Item = String> {
    let reads_expected = scenario.workload.read_share > 0.0;
    let seen = [
        ("acknowledged writes", totals.acknowledged),
        ("reads", if reads_expected { totals.reads } else { 1 }),
        ("audited writes", totals.audited),
        ("statuses", totals.statuses),
        ("leaders", totals.terms_led as u64),
    ];
    let missing = seen.into_iter().filter(|(_, count)| *count == 0);
    missing.map(|(what, _)| format!("no {what}: there was nothing to judge"))
}

fn verdict(violations: &[Violation], unmet: &[String], unproven: &[String]) -> Verdict {
    if !violations.is_empty() {
        return Verdict::Violated;
    }
    // What was expected of a fault that was not there means nothing.
    match (unproven.is_empty(), unmet.is_empty()) {
        (false, _) => Verdict::Invalid,
        (true, false) => Verdict::Violated,
        (true, true) => Verdict::Ok,
    }
}

fn summary<'f>(
    faults: impl Iterator<Item = &'f FaultReport>,
    part: fn(&Impact) -> &Vec<super::impact::Recovery>,
) -> RecoverySummary {
    let impacts = faults.filter_map(|fault| fault.impact.as_ref());
    RecoverySummary::of(impacts.flat_map(|impact| part(impact).iter().copied()))
}

fn by_kind(faults: &[FaultReport]) -> BTreeMap<String, RecoverySummary> {
    let mut kinds = BTreeMap::<_, Vec<_>>::new();
    for fault in faults {
        kinds.entry(fault.record.what.clone()).or_default().push(fault);
    }
    let sum = |faults: Vec<&FaultReport>| summary(faults.into_iter(), |impact| &impact.recovery);
    kinds.into_iter().map(|(kind, faults)| (kind, sum(faults))).collect()
}

fn unmet(
    expect: &Expectations,
    recovery: &RecoverySummary,
    others: &RecoverySummary,
    totals: &Totals,
) -> Vec<String> {
    let bound = |name: &str, bound: Option<Duration>, found: &RecoverySummary| {
        let bound = bound?;
        let is_met = found.count > 0 && found.never == 0 && found.p99 <= bound;
        (!is_met).then(|| {
            let (p99, count, never) = (found.p99, found.count, found.never);
            format!("{name} = {bound:?}: {p99:?} over {count} recoveries, {never} never")
        })
    };
    let progress = expect.acknowledged_min.filter(|min| totals.acknowledged < *min);
    [
        bound("recovery_p99", expect.recovery_p99, recovery),
        bound("others_recovery_p99", expect.others_recovery_p99, others),
        progress.map(|min| format!("acknowledged_min = {min}: {}", totals.acknowledged)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn timeline(writes: &Writes, duration: Duration) -> Vec<Point> {
    let span = duration / POINTS;
    let point = |number| {
        let from = span * number;
        Point { at_s: from.as_secs_f64(), pace: writes.pace_of_all(from, from + span) }
    };
    (0..POINTS).map(point).collect()
}

#[cfg(test)]
#[path = "chaos_report_tests.rs"]
pub(super) mod tests;
