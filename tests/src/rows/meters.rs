//! Meters: the product's own histograms of this process, as its nodes record them.
//!
//! ```text
//! nodes ─histogram!→ [recorder] ─→ a histogram per name ─take→ rows
//! ```
//!
//! What a node exports is what is judged: heartbeat intervals are those that a *receiver* saw, of all
//! nodes together. Everything else that is recorded is dropped.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

use super::report::{Micros, micros, record};

/// Between two frames with heartbeats of one peer, as their receiver saw them.
pub const HEARTBEAT_INTERVAL: &str = "polyraft_heartbeat_interval_seconds";
/// How late a tick was.
pub const TICK_LATENESS: &str = "polyraft_tick_lateness_seconds";
/// How long an arbiter kept the watchdog's ping waiting.
pub const ARBITER_STALL: &str = "polyraft_arbiter_stall_seconds";

const NAMES: [&str; 3] = [HEARTBEAT_INTERVAL, TICK_LATENESS, ARBITER_STALL];

/// One histogram.
struct Meter(Mutex<Micros>);

impl HistogramFn for Meter {
    fn record(&self, seconds: f64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        record(&mut all, Duration::from_secs_f64(seconds.max(0.0)));
    }
}

/// The histograms of this process.
pub struct Meters(Vec<(&'static str, Arc<Meter>)>);

impl Meters {
    /// The one recorder of this process, installed by the first call.
    ///
    /// # Panics
    /// Something else records this process's metrics.
    pub fn get() -> &'static Self {
        static METERS: OnceLock<&'static Meters> = OnceLock::new();
        METERS.get_or_init(|| {
            let meter = |name| (name, Arc::new(Meter(Mutex::new(micros()))));
            let meters: &'static Self = Box::leak(Box::new(Self(NAMES.map(meter).to_vec())));
            metrics::set_global_recorder(meters).expect("nothing else records here");
            meters
        })
    }

    /// What was recorded under `name` since the last take, and starts over.
    ///
    /// # Panics
    /// The name is not one of this module's.
    pub fn take(&self, name: &str) -> Micros {
        let mut found = self.0.iter().filter(|(of, _)| *of == name);
        let (_, meter) = found.next().expect("a name of this module");
        let mut all = meter.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *all, micros())
    }

    /// Starts all of them over.
    pub fn forget(&self) {
        NAMES.iter().for_each(|name| drop(self.take(name)));
    }
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let found = self.0.iter().find(|(name, _)| *name == key.name());
        found.map_or_else(Histogram::noop, |(_, meter)| Histogram::from_arc(meter.clone()))
    }
}
