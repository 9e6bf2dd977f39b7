//! What a benchmark says: a table for people, and every recorded value for later questions.
//!
//! ```text
//! --out DIR/<scenario>.json   the row of the table
//!           <scenario>.hdr    [[microseconds, calls], …]: the histogram's cells, exact to 0.1 %
//! ```

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::bench_cluster::Progress;
use super::bench_scenario::Scenario;

/// One scenario's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct BenchRow {
    pub scenario: String,
    pub question: &'static str,
    pub groups: u64,
    /// Callers over all groups.
    pub in_flight: u64,
    pub commands_per_call: usize,
    pub batching: bool,
    pub command_bytes: usize,
    pub seconds: f64,
    /// Commands acknowledged while measuring.
    pub ops: u64,
    pub ops_per_second: f64,
    /// Latencies of calls, in microseconds.
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    /// Processor time of the whole process, the callers' included, per command.
    pub cpu_us_per_op: f64,
    pub entries_per_op: f64,
    /// Commits of the three nodes' log writers.
    pub commits: u64,
    pub failed_calls: u64,
    /// Median of a page write and its sync in the same directory, before and after.
    pub sync_us: [u64; 2],
}

/// What was measured between two moments.
pub(super) struct Measured {
    pub took: Duration,
    pub processor: Duration,
    pub progress: [Progress; 2],
    pub failed_calls: u64,
    pub sync: [Duration; 2],
}

impl BenchRow {
    /// The figures of one run.
    pub fn new(
        scenario: &Scenario,
        command_bytes: usize,
        latencies: &Histogram<u64>,
        measured: &Measured,
    ) -> Self {
        let ops = latencies.len() * scenario.commands_per_call as u64;
        let per_op = |total: f64| if ops == 0 { 0.0 } else { total / ops as f64 };
        let [before, after] = measured.progress;
        Self {
            scenario: scenario.name.clone(),
            question: scenario.question,
            groups: scenario.groups,
            in_flight: scenario.in_flight,
            commands_per_call: scenario.commands_per_call,
            batching: scenario.is_batching,
            command_bytes,
            seconds: measured.took.as_secs_f64(),
            ops,
            ops_per_second: ops as f64 / measured.took.as_secs_f64(),
            p50_us: latencies.value_at_quantile(0.5),
            p99_us: latencies.value_at_quantile(0.99),
            p999_us: latencies.value_at_quantile(0.999),
            max_us: latencies.max(),
            cpu_us_per_op: per_op(measured.processor.as_secs_f64() * 1e6),
            entries_per_op: per_op(after.entries.saturating_sub(before.entries) as f64),
            commits: after.commits.saturating_sub(before.commits),
            failed_calls: measured.failed_calls,
            sync_us: measured.sync.map(|sync| sync.as_micros() as u64),
        }
    }

    /// Writes the row, and the histogram that it was made from.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path, latencies: &Histogram<u64>) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let row = serde_json::to_vec_pretty(self).expect("numbers and names are always JSON");
        fs::write(dir.join(format!("{}.json", self.scenario)), row)?;
        let cells: Vec<(u64, u64)> = latencies
            .iter_recorded()
            .map(|cell| (cell.value_iterated_to(), cell.count_at_value()))
            .collect();
        let cells = serde_json::to_vec(&cells).expect("numbers are always JSON");
        fs::write(dir.join(format!("{}.hdr", self.scenario)), cells)
    }

    /// The table's head.
    pub fn header() -> String {
        format!(
            "{:<17} {:>6} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7} {:>10} {:>8} {:>6} {:>11}",
            "scenario",
            "groups",
            "in flight",
            "ops/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
            "CPU/op",
            "entries/op",
            "commits",
            "failed",
            "sync ms"
        )
    }

    /// The table's line for this scenario.
    pub fn line(&self) -> String {
        let ms = |us: u64| us as f64 / 1e3;
        let [before, after] = self.sync_us.map(ms);
        let mut line = format!(
            "{:<17} {:>6} {:>9} {:>9.0}",
            self.scenario, self.groups, self.in_flight, self.ops_per_second
        );
        for latency in [self.p50_us, self.p99_us, self.p999_us, self.max_us].map(ms) {
            write!(line, " {latency:>8.2}").expect("a string takes everything");
        }
        let sync = format!("{before:.2}/{after:.2}");
        let rest = format!(
            " {:>5.1}µs {:>10.3} {:>8} {:>6} {sync:>11}",
            self.cpu_us_per_op, self.entries_per_op, self.commits, self.failed_calls
        );
        line + &rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(dir: &Path) -> BenchRow {
        let mut latencies = Histogram::new_with_bounds(1, 1_000_000, 3).unwrap();
        for micros in [100, 200, 300, 400] {
            latencies.record(micros).unwrap();
        }
        let scenario =
            Scenario { commands_per_call: 100, ..Scenario::all().into_iter().next().unwrap() };
        let measured = Measured {
            took: Duration::from_secs(2),
            processor: Duration::from_millis(4),
            progress: [Progress { entries: 10, commits: 5 }, Progress { entries: 14, commits: 25 }],
            failed_calls: 0,
            sync: [Duration::from_micros(120), Duration::from_micros(4_000)],
        };
        let row = BenchRow::new(&scenario, 128, &latencies, &measured);
        row.save(dir, &latencies).unwrap();
        row
    }

    #[test]
    fn figures_count_commands_and_latencies_count_calls() {
        let dir = tempfile::tempdir().unwrap();
        let row = row(dir.path());
        assert_eq!((row.ops, row.ops_per_second, row.commits), (400, 200.0, 20));
        assert_eq!((row.p50_us, row.max_us), (200, 400));
        assert!((row.cpu_us_per_op - 10.0).abs() < 1e-9);
        assert!((row.entries_per_op - 0.01).abs() < 1e-9);
    }

    #[test]
    fn the_histogram_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        row(dir.path());
        let text = fs::read(dir.path().join("throughput.hdr")).unwrap();
        let cells: Vec<(u64, u64)> = serde_json::from_slice(&text).unwrap();
        assert_eq!(cells, [(100, 1), (200, 1), (300, 1), (400, 1)]);
        let text = fs::read_to_string(dir.path().join("throughput.json")).unwrap();
        assert!(text.contains("\"sync_us\": [\n    120,\n    4000"), "{text}");
    }

    #[test]
    fn lines_fit_under_the_head() {
        let dir = tempfile::tempdir().unwrap();
        let (header, line) = (BenchRow::header(), row(dir.path()).line());
        assert_eq!(header.chars().count(), line.chars().count(), "\n{header}\n{line}");
    }
}
