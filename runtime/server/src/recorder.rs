//! Recorder: the process's metrics, kept for Prometheus.
//!
//! ```text
//! counter!, gauge!, histogram! ─→ registry ─render→ text        upkeep: samples into buckets, each second
//! ```
//!
//! Promise: recording is an atomic operation, and rendering takes nobody's lock for longer than one
//! family's figures; neither waits for a group, a disk or a peer (OB-2). Histograms, not summaries: they
//! add up over nodes. Buckets follow the unit at the end of a name.
//! Not here: what there is to record (`metric_catalogue`).

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::instance::InstanceError;

/// From a slice of apply (some 20 µs), over syncs (0.1 to 5 ms), round trips and stages of a proposal,
/// heartbeats and their lateness (100 to 500 ms), to elections and stalls.
const SECONDS_BUCKETS: [f64; 24] = [
    0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02,
    0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];
/// From a lone heartbeat to the largest frame, by powers of two.
const BYTES_BUCKETS: [f64; 20] = {
    let mut buckets = [0.0; 20];
    let mut at = 0;
    while at < buckets.len() {
        buckets[at] = (1_u64 << (at + 5)) as f64;
        at += 1;
    }
    buckets
};
/// Commands of a batch, groups of a commit.
const COUNT_BUCKETS: [f64; 20] = [
    1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 50.0, 80.0, 120.0, 200.0, 300.0, 500.0, 800.0,
    1_200.0, 2_000.0, 3_000.0, 5_000.0, 8_000.0,
];
/// Between two folds of recorded samples into their histograms: what a scrape has left to do.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Installs the process's metrics recorder, and keeps its buffers small though nobody may scrape.
/// Once per process, within a tokio runtime, before the first node starts.
///
/// # Errors
/// There is one already.
pub fn install_metrics() -> Result<PrometheusHandle, InstanceError> {
    let handle = builder()?.install_recorder()?;
    let kept = handle.clone();
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            interval.tick().await;
            kept.run_upkeep();
        }
    });
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BUCKETS)?
        .set_buckets(&COUNT_BUCKETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_ascend_and_are_twenty_to_thirty() {
        for buckets in [&SECONDS_BUCKETS[..], &BYTES_BUCKETS, &COUNT_BUCKETS] {
            assert!(buckets.is_sorted_by(|a, b| a < b), "{buckets:?}");
            assert!((20..=30).contains(&buckets.len()), "{buckets:?}");
        }
        assert_eq!((BYTES_BUCKETS[0], BYTES_BUCKETS[19]), (32.0, 16_777_216.0));
    }

    /// Goal: a histogram is one from the start. Method: register it, record nothing, render.
    #[test]
    fn what_is_registered_is_rendered_at_zero() {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let (histogram, counter) = ("a_seconds", "b_total");
            let _ = metrics::histogram!(histogram);
            let _ = metrics::counter!(counter);
        });
        let text = recorder.handle().render();
        assert!(text.contains("a_seconds_bucket{le=\"0.15\"} 0"), "{text}");
        assert!(text.contains("a_seconds_count 0") && text.contains("b_total 0"), "{text}");
    }
}
