//! What a row says: a table for people, and JSON with every recorded value for later questions.

use std::fmt::Display;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Durations in microseconds, to three digits; longer ones than ten minutes count as that.
pub type Micros = Histogram<u64>;

/// An empty histogram of durations.
pub fn micros() -> Micros {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants that work")
}

/// Adds a duration.
pub fn record(histogram: &mut Micros, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
}

/// The duration that a share of all recorded ones do not exceed.
pub fn quantile(histogram: &Micros, share: f64) -> Duration {
    Duration::from_micros(histogram.value_at_quantile(share))
}

/// The longest recorded duration.
pub fn longest(histogram: &Micros) -> Duration {
    Duration::from_micros(histogram.max())
}

/// One condition of a row, as it was found.
#[derive(Debug, Clone)]
struct Check {
    what: String,
    seen: String,
    wanted: String,
    holds: bool,
}

/// One measured row.
#[derive(Debug, Clone)]
pub struct Report {
    condition: String,
    figures: Vec<(String, String)>,
    histograms: Vec<(String, Micros)>,
    checks: Vec<Check>,
}

impl Report {
    /// A report of a run under `condition`: load, faults, sizes, in words.
    pub fn new(condition: impl Into<String>) -> Self {
        let condition = condition.into();
        Self { condition, figures: Vec::new(), histograms: Vec::new(), checks: Vec::new() }
    }

    /// Adds a figure that is not judged.
    pub fn figure(&mut self, name: impl Into<String>, value: impl Display) {
        self.figures.push((name.into(), value.to_string()));
    }

    /// Adds a whole histogram.
    pub fn histogram(&mut self, name: impl Into<String>, histogram: &Micros) {
        self.histograms.push((name.into(), histogram.clone()));
    }

    /// Adds a condition of the row.
    pub fn check(
        &mut self,
        what: impl Into<String>,
        seen: impl Display,
        wanted: impl Display,
        holds: bool,
    ) {
        let (seen, wanted) = (seen.to_string(), wanted.to_string());
        self.checks.push(Check { what: what.into(), seen, wanted, holds });
    }

    /// Adds the condition that a duration is below a limit.
    pub fn below(&mut self, what: impl Into<String>, seen: Duration, limit: Duration) {
        self.check(what, ms(seen), format!("< {}", ms(limit)), seen < limit);
    }

    /// Whether every condition holds. A report without any does not pass.
    pub fn passes(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.holds)
    }

    /// Prints the table.
    pub fn print(&self) {
        println!("  {}", self.condition);
        if !self.histograms.is_empty() {
            println!(
                "  {:<34} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10}",
                "ms", "count", "p50", "p90", "p99", "p99.9", "max"
            );
        }
        for (name, histogram) in &self.histograms {
            let at = |share| histogram.value_at_quantile(share) as f64 / 1e3;
            println!(
                "  {name:<34} {:>9} {:>10.3} {:>10.3} {:>10.3} {:>10.3} {:>10.3}",
                histogram.len(),
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                histogram.max() as f64 / 1e3
            );
        }
        for (name, value) in &self.figures {
            println!("  {name:<34} {value}");
        }
        for Check { what, seen, wanted, holds } in &self.checks {
            let verdict = if *holds { "PASS" } else { "FAIL" };
            println!("  {verdict} {what}: {seen} ({wanted})");
        }
    }

    /// Everything, the histograms cell by cell.
    pub fn json(&self) -> Value {
        let histograms = self.histograms.iter().map(|(name, h)| histogram_json(name, h));
        let checks = self.checks.iter().map(
            |c| json!({ "what": c.what, "seen": c.seen, "wanted": c.wanted, "holds": c.holds }),
        );
        json!({
            "condition": self.condition,
            "passes": self.passes(),
            "checks": checks.collect::<Vec<_>>(),
            "figures": self.figures,
            "histograms": histograms.collect::<Vec<_>>(),
        })
    }
}

fn histogram_json(name: &str, histogram: &Micros) -> Value {
    let at = |share| histogram.value_at_quantile(share);
    let cells = histogram.iter_recorded();
    let cells = cells.map(|cell| (cell.value_iterated_to(), cell.count_at_value()));
    json!({
        "name": name,
        "count": histogram.len(),
        "p50_us": at(0.5),
        "p90_us": at(0.9),
        "p99_us": at(0.99),
        "p999_us": at(0.999),
        "max_us": histogram.max(),
        "cells_us": cells.collect::<Vec<_>>(),
    })
}

/// A duration in milliseconds, for people.
pub fn ms(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

/// Bytes in MiB, for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_condition_fails_a_row_and_none_proves_nothing() {
        let mut report = Report::new("idle");
        assert!(!report.passes());
        report.below("stall", Duration::from_millis(9), Duration::from_millis(10));
        assert!(report.passes());
        report.below("stall", Duration::from_millis(10), Duration::from_millis(10));
        assert!(!report.passes());
        assert_eq!(report.json()["checks"][1]["seen"], "10.000 ms");
    }

    #[test]
    fn every_cell_of_a_histogram_is_kept() {
        let mut report = Report::new("idle");
        let mut all = micros();
        for n in [100, 100, 300] {
            record(&mut all, Duration::from_micros(n));
        }
        report.histogram("interval", &all);
        let found = &report.json()["histograms"][0];
        assert_eq!(found["cells_us"].to_string(), "[[100,2],[300,1]]");
        assert_eq!((found["p50_us"].as_u64(), found["max_us"].as_u64()), (Some(100), Some(300)));
    }
}
