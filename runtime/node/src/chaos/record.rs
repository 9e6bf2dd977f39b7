//! Records: every fault that was injected, until when it acted, and what it did.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use polyraft_actors::actor_target::IsGone;
use polyraft_actors::stall::{StallHandle, StallMeter};
use serde::{Deserialize, Serialize};

use super::clock::ActiveClock;
use super::disk::ActiveDisk;
use super::fault::Fault;
use super::link::ActiveLink;

/// One injection on one node; ids count from 1 and end with the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FaultId(u64);

impl FaultId {
    /// Wraps a raw id.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw id.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fault, its time and its effects, as of now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// Its id.
    pub id: FaultId,
    /// What was injected.
    pub fault: Fault,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Until when; `None` while it is in force. A kill is over at once.
    pub ended_ms: Option<u64>,
    /// What it did. Counters, but for `clock_offset_ms`, which is what it adds to the clock now:
    ///
    /// | kind | effects |
    /// |---|---|
    /// | `kill_actor` | `actor_deaths` |
    /// | `stall_actor` | `ms_stalled` |
    /// | `link` | `frames_dropped`, `frames_delayed`, `frames_duplicated`, `frames_reordered`, `frames_throttled`, `disconnects` |
    /// | `disk` | `commits_delayed`, `commits_stalled`, `commits_failed`, `commits_refused`, `ms_stalled` |
    /// | `clock` | `clock_offset_ms`, `clock_readings` |
    pub effects: BTreeMap<String, i64>,
}

/// What makes a fault act, and counts.
pub(super) enum Active {
    Kill { is_gone: IsGone },
    Stall { handle: Option<StallHandle>, meter: StallMeter },
    Link(Arc<ActiveLink>),
    Disk(Arc<ActiveDisk>),
    Clock(Arc<ActiveClock>),
}

/// One fault that was injected.
pub(super) struct Record {
    id: FaultId,
    fault: Fault,
    pub(super) active: Active,
    since_ms: u64,
    pub(super) ended_ms: Option<u64>,
}

impl Record {
    pub(super) fn new(id: FaultId, fault: Fault, active: Active, since_ms: u64) -> Self {
        Self { id, fault, active, since_ms, ended_ms: None }
    }

    pub(super) fn report(&self) -> FaultRecord {
        FaultRecord {
            id: self.id,
            fault: self.fault.clone(),
            since_ms: self.since_ms,
            ended_ms: self.ended_ms,
            effects: self.effects().into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        }
    }

    fn effects(&self) -> Vec<(&'static str, i64)> {
        let count = |counter: &AtomicU64| counter.load(Relaxed) as i64;
        match &self.active {
            Active::Kill { is_gone } => vec![("actor_deaths", is_gone().into())],
            Active::Stall { meter, .. } => vec![("ms_stalled", millis(meter.stalled_for()))],
            Active::Link(link) => vec![
                ("frames_dropped", count(&link.dropped)),
                ("frames_delayed", count(&link.delayed)),
                ("frames_duplicated", count(&link.duplicated)),
                ("frames_reordered", count(&link.reordered)),
                ("frames_throttled", count(&link.throttled)),
                ("disconnects", count(&link.disconnects)),
            ],
            Active::Disk(disk) => vec![
                ("commits_delayed", count(&disk.delayed)),
                ("commits_stalled", count(&disk.stalled)),
                ("commits_failed", count(&disk.failed)),
                ("commits_refused", count(&disk.refused)),
                ("ms_stalled", count(&disk.stalled_us) / 1_000),
            ],
            Active::Clock(clock) => {
                let offset = if self.ended_ms.is_none() { clock.step_ms } else { 0 };
                vec![("clock_offset_ms", offset), ("clock_readings", count(&clock.readings))]
            }
        }
    }
}

/// What goes into a log line.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("its keys are strings and nothing in it can fail")
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
