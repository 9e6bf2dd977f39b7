//! Latency: quantiles of the last few seconds, out of the histograms that the process exports anyway.
//!
//! ```text
//! /metrics' text ─read→ buckets of a few series ─minus those of 10 s ago→ p50, p99, count
//! ```
//!
//! Promise: nothing is measured for this; a look costs what a scrape costs, once a second at most,
//! and nothing when nobody looks. A quantile is exact to the width of its bucket.
//! Not here: the histograms, which the runtime records.
//! Source: Prometheus, `histogram_quantile`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How far back the figures reach.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two readings of the histograms.
const READING_INTERVAL: Duration = Duration::from_millis(900);

/// One histogram, or one label's share of it.
struct Series {
    name: &'static str,
    family: &'static str,
    label: &'static str,
}

const fn stage(name: &'static str, label: &'static str) -> Series {
    Series { name, family: "polyraft_proposal_stage_duration_seconds", label }
}

const fn whole(name: &'static str, family: &'static str) -> Series {
    Series { name, family, label: "" }
}

const SERIES_LEN: usize = 7;
/// What is shown, in the order of the pipeline.
const SERIES: [Series; SERIES_LEN] = [
    stage("submitted", "stage=\"submitted\""),
    stage("persisted", "stage=\"persisted\""),
    stage("committed", "stage=\"committed\""),
    stage("applied", "stage=\"applied\""),
    whole("proposal", "polyraft_proposal_duration_seconds"),
    whole("log_commit", "polyraft_log_commit_duration_seconds"),
    whole(BATCH, "polyraft_batch_commands"),
];
/// The one that is no duration.
const BATCH: &str = "batch_commands";

/// Cumulative counts by upper bound, ascending.
type Buckets = Vec<(f64, u64)>;
type Reading = [Buckets; SERIES_LEN];

/// Half and almost all of what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half were no larger.
    pub p50: f64,
    /// Of a hundred, one was larger.
    pub p99: f64,
    /// How many were measured.
    pub count: u64,
}

/// One stage of the pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageLatency {
    /// `submitted`, `persisted`, `committed`, `applied`: from the stage before, for batches that were
    /// proposed here. `proposal`: the whole, as callers see it. `log_commit`: of the journal.
    pub stage: String,
    /// In seconds; absent if nothing was measured.
    pub seconds: Option<Quantiles>,
}

/// The pipeline, lately. Of the whole process, if several nodes share it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineLatency {
    /// How many milliseconds it covers; absent if everything since the start.
    pub window_ms: Option<u64>,
    /// In the order of the pipeline.
    pub stages: Vec<StageLatency>,
    /// Commands in a batch.
    pub batch_commands: Option<Quantiles>,
}

/// Readings of the last seconds. A cheap clone.
#[derive(Clone, Default)]
pub struct LatencyWindow {
    readings: Arc<Mutex<VecDeque<(Duration, Reading)>>>,
}

impl LatencyWindow {
    /// The pipeline as of `now`, since any moment; `render` gives the process's metrics as text.
    pub fn look(&self, now: Duration, render: impl FnOnce() -> String) -> PipelineLatency {
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        if readings.back().is_none_or(|(at, _)| *at + READING_INTERVAL <= now) {
            readings.push_back((now, read(&render())));
        }
        while readings.len() > 1 && readings[0].0 + WINDOW + READING_INTERVAL < now {
            readings.pop_front();
        }
        let (before, (at, after)) = match (readings.front(), readings.back()) {
            (Some(first), Some(last)) if readings.len() > 1 => (Some(first), last),
            (_, Some(last)) => (None, last),
            _ => unreachable!("a reading was just taken"),
        };
        let nothing = Reading::default();
        let window = before.map(|(since, _)| *at - *since);
        compare(window, before.map_or(&nothing, |(_, reading)| reading), after)
    }
}

fn compare(window: Option<Duration>, before: &Reading, after: &Reading) -> PipelineLatency {
    let mut figures = SERIES
        .iter()
        .zip(before.iter().zip(after))
        .map(|(series, (before, after))| (series.name, quantiles(before, after)));
    let batch_commands = figures.next_back().and_then(|(_, quantiles)| quantiles);
    let stages =
        figures.map(|(stage, seconds)| StageLatency { stage: stage.to_owned(), seconds }).collect();
    let window_ms = window.and_then(|window| u64::try_from(window.as_millis()).ok());
    PipelineLatency { window_ms, stages, batch_commands }
}

/// The buckets of every series, summed over labels that tell none apart.
fn read(text: &str) -> Reading {
    let mut reading = Reading::default();
    for line in text.lines() {
        let Some((family, rest)) = line.split_once("_bucket{") else { continue };
        let Some((labels, count)) = rest.rsplit_once("} ") else { continue };
        let bound = labels.rsplit_once("le=\"").and_then(|(_, le)| le.split('"').next());
        let (Some(Ok(bound)), Ok(count)) = (bound.map(str::parse::<f64>), count.parse()) else {
            continue;
        };
        let shown = |series: &Series| series.family == family && labels.contains(series.label);
        for (_, buckets) in SERIES.iter().zip(&mut reading).filter(|(series, _)| shown(series)) {
            add(buckets, bound, count);
        }
    }
    reading
}

fn add(buckets: &mut Buckets, bound: f64, count: u64) {
    match buckets.binary_search_by(|(other, _)| other.total_cmp(&bound)) {
        Ok(at) => buckets[at].1 += count,
        Err(at) => buckets.insert(at, (bound, count)),
    }
}

/// What was measured between two readings of the same series.
fn quantiles(before: &Buckets, after: &Buckets) -> Option<Quantiles> {
    let earlier = |at: usize| before.get(at).map_or(0, |(_, count)| *count);
    let grown: Buckets = after
        .iter()
        .enumerate()
        .map(|(at, (bound, count))| (*bound, count.saturating_sub(earlier(at))))
        .collect();
    let count = grown.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
    Some(Quantiles { p50: quantile(&grown, count, 0.5), p99: quantile(&grown, count, 0.99), count })
}

/// By interpolation within the bucket; of the last one, which has no end, its beginning.
fn quantile(buckets: &Buckets, count: u64, share: f64) -> f64 {
    let rank = count as f64 * share;
    let (mut below, mut start) = (0.0, 0.0);
    for (bound, upto) in buckets {
        let upto = *upto as f64;
        if upto >= rank {
            let part = if upto > below { (rank - below) / (upto - below) } else { 1.0 };
            return if bound.is_finite() { start + (bound - start) * part } else { start };
        }
        (below, start) = (upto, *bound);
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
# TYPE polyraft_proposal_stage_duration_seconds histogram
polyraft_proposal_stage_duration_seconds_bucket{stage=\"persisted\",le=\"0.001\"} 10
polyraft_proposal_stage_duration_seconds_bucket{stage=\"persisted\",le=\"0.01\"} 10
polyraft_proposal_stage_duration_seconds_bucket{stage=\"persisted\",le=\"+Inf\"} 10
polyraft_proposal_stage_duration_seconds_sum{stage=\"persisted\"} 0.01
polyraft_batch_commands_bucket{le=\"1\"} 0
polyraft_batch_commands_bucket{le=\"+Inf\"} 3
other_bucket{le=\"1\"} 5
";
    const AFTER: &str = "\
polyraft_proposal_stage_duration_seconds_bucket{stage=\"persisted\",le=\"0.001\"} 10
polyraft_proposal_stage_duration_seconds_bucket{stage=\"persisted\",le=\"0.01\"} 110
polyraft_proposal_stage_duration_seconds_bucket{stage=\"persisted\",le=\"+Inf\"} 110
polyraft_batch_commands_bucket{le=\"1\"} 0
polyraft_batch_commands_bucket{le=\"+Inf\"} 3
";

    fn persisted(latency: &PipelineLatency) -> Option<Quantiles> {
        latency.stages[1].seconds
    }

    /// Goal: figures are of the last seconds alone. Method: the same series read twice.
    #[test]
    fn the_window_is_what_was_measured_between_two_readings() {
        let window = LatencyWindow::default();
        let at = |ms| Duration::from_millis(ms);
        let first = window.look(at(0), || BEFORE.to_owned());
        assert_eq!((first.window_ms, persisted(&first).unwrap().count), (None, 10));
        let names: Vec<_> = first.stages.iter().map(|stage| stage.stage.as_str()).collect();
        let order = ["submitted", "persisted", "committed", "applied", "proposal", "log_commit"];
        assert_eq!(names, order);
        assert!(first.batch_commands.unwrap().p99 >= 1.0);

        let second = window.look(at(1_000), || AFTER.to_owned());
        let quantiles = persisted(&second).unwrap();
        assert_eq!((second.window_ms, quantiles.count), (Some(1_000), 100));
        assert!((quantiles.p50 - 0.0055).abs() < 1e-9, "{quantiles:?}");
        assert!((quantiles.p99 - 0.00991).abs() < 1e-9, "{quantiles:?}");
        assert_eq!(second.batch_commands, None, "none was cut meanwhile");

        let soon = window.look(at(1_500), || unreachable!("it was read half a second ago"));
        assert_eq!(soon, second);
    }

    #[test]
    fn after_a_pause_in_looking_figures_are_since_the_start() {
        let window = LatencyWindow::default();
        window.look(Duration::ZERO, || BEFORE.to_owned());
        let later = window.look(Duration::from_secs(60), || AFTER.to_owned());
        assert_eq!((later.window_ms, persisted(&later).unwrap().count), (None, 110));
    }

    #[test]
    fn what_is_beyond_the_last_bound_is_told_as_that() {
        let beyond = vec![(1.0, 0), (f64::INFINITY, 4)];
        let quantiles = quantiles(&Vec::new(), &beyond).unwrap();
        assert_eq!((quantiles.p50, quantiles.p99, quantiles.count), (1.0, 1.0, 4));
    }
}
