//! A benchmark's callers: tasks that propose, wait, and propose again, on a runtime of their own.
//!
//! ```text
//! caller: propose → answer → [record if measuring] → propose …      until stopped
//! ```
//!
//! A closed loop: a slow answer delays the caller's next call, so the figures are of a service at
//! saturation with a known number of calls in flight, not of one at a fixed rate.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use polyraft::{GroupHandle, ProposeError};
use tokio::task::JoinSet;

use super::bench_scenario::Scenario;

/// Longest latency that is told apart, in microseconds; no deadline is as long.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Callers share this many histograms, so that they do not wait for one another to record.
const SHARDS: usize = 16;
/// A caller's pause after a refused call, lest it spins.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// What the callers of one run share.
pub(super) struct Load {
    shards: Vec<Mutex<Histogram<u64>>>,
    measuring: AtomicBool,
    stopped: AtomicBool,
    failed: AtomicU64,
    command: Bytes,
    commands_per_call: usize,
}

/// Calls in progress.
pub(super) struct Callers(JoinSet<Option<ProposeError>>);

impl Load {
    /// A load of commands of `command_bytes` bytes.
    pub fn new(scenario: &Scenario, command_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::new(histogram())).collect(),
            measuring: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            failed: AtomicU64::new(0),
            command: vec![0x5a; command_bytes].into(),
            commands_per_call: scenario.commands_per_call,
        })
    }

    /// Starts `in_flight` callers on `runtime`, spread evenly over `groups`.
    pub fn start(
        self: &Arc<Self>,
        runtime: &tokio::runtime::Handle,
        groups: &[GroupHandle],
        in_flight: u64,
    ) -> Callers {
        let mut callers = JoinSet::new();
        for (number, group) in (0..in_flight).zip(groups.iter().cycle()) {
            let shard = number as usize % SHARDS;
            callers.spawn_on(self.clone().caller(group.clone(), shard), runtime);
        }
        Callers(callers)
    }

    /// Begins or ends recording.
    pub fn measure(&self, is_on: bool) {
        self.measuring.store(is_on, Ordering::Relaxed);
    }

    /// Waits until every caller has had its last answer; returns one of their errors, if any.
    pub async fn finish(&self, mut callers: Callers) -> Option<ProposeError> {
        self.stopped.store(true, Ordering::Relaxed);
        let mut error = None;
        while let Some(ended) = callers.0.join_next().await {
            error = ended.expect("a caller never panics").or(error);
        }
        error
    }

    /// Calls that failed while measuring.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Latencies of the measured calls, in microseconds.
    pub fn latencies(&self) -> Histogram<u64> {
        let mut all = histogram();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&*shard).expect("all histograms have the same bounds");
        }
        all
    }

    /// Calls until stopped; returns its last error.
    async fn caller(self: Arc<Self>, group: GroupHandle, shard: usize) -> Option<ProposeError> {
        let mut last_error = None;
        while !self.stopped.load(Ordering::Relaxed) {
            let began = Instant::now();
            let outcome = self.call(&group).await;
            let is_measured = self.measuring.load(Ordering::Relaxed);
            match outcome {
                Ok(()) if is_measured => self.record(shard, began.elapsed()),
                Ok(()) => {}
                Err(error) => {
                    self.failed.fetch_add(u64::from(is_measured), Ordering::Relaxed);
                    last_error = Some(error);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
        }
        last_error
    }

    async fn call(&self, group: &GroupHandle) -> Result<(), ProposeError> {
        if self.commands_per_call == 1 {
            return group.propose(self.command.clone()).await.map(drop);
        }
        let commands = vec![self.command.clone(); self.commands_per_call];
        group.propose_batch(commands).await.map(drop)
    }

    fn record(&self, shard: usize, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        shard.saturating_record(micros);
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants that work")
}
