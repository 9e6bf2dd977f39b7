//! How proposals are gathered into entries, and the presets.
//!
//! | preset            | commands | bytes   | linger | made for |
//! |-------------------|----------|---------|--------|----------|
//! | `default`         | 100      | 1 MiB   | 1 ms   | mixed load |
//! | `low_latency`     | 10       | 100 KiB | none   | few callers, each waiting |
//! | `balanced`        | 1,000    | 1 MiB   | 1 ms   | many callers |
//! | `high_throughput` | 5,000    | 4 MiB   | 50 ms  | bulk loads that nobody waits for |
//!
//! A batch is one Raft entry, so `high_throughput`, which would take 10 MiB (BP-22), takes the
//! largest entry that the protocol has ([`ENTRY_BYTES_MAX`]: 4 MiB and its framing).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use polyraft_core::limits::{BATCH_COMMANDS_MAX, ENTRY_BYTES_MAX};

use crate::config_error::Findings;

const _: () = assert!(ENTRY_BYTES_MAX == (4 << 20) + (64 << 10), "the rule's text says so");

/// Longest linger that is accepted: beyond it a deadline, not a batch, is what callers see.
pub const LINGER_MAX: Duration = Duration::from_secs(1);

/// A named set of batching parameters (BP-22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BatchingPreset {
    /// For mixed load.
    #[default]
    Default,
    /// For few callers who each wait.
    LowLatency,
    /// For many callers.
    Balanced,
    /// For bulk loads.
    HighThroughput,
}

impl BatchingPreset {
    /// Every preset.
    pub const ALL: [Self; 4] =
        [Self::Default, Self::LowLatency, Self::Balanced, Self::HighThroughput];

    /// Its name in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::LowLatency => "low_latency",
            Self::Balanced => "balanced",
            Self::HighThroughput => "high_throughput",
        }
    }

    /// Its parameters.
    pub const fn batching(self) -> BatchingConfig {
        let (commands_max, bytes_max, linger_ms) = match self {
            Self::Default => (100, 1 << 20, 1),
            Self::LowLatency => (10, 100 << 10, 0),
            Self::Balanced => (1_000, 1 << 20, 1),
            Self::HighThroughput => (5_000, ENTRY_BYTES_MAX, 50),
        };
        BatchingConfig {
            enabled: true,
            commands_max,
            bytes_max,
            linger: Duration::from_millis(linger_ms),
            in_flight_max: 16,
            queue_commands_max: 65_536,
            queue_bytes_max: 64 << 20,
        }
    }
}

/// The name is no preset's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a preset: one of default, low_latency, balanced, high_throughput is")]
pub struct UnknownPreset;

impl FromStr for BatchingPreset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, UnknownPreset> {
        Self::ALL.into_iter().find(|p| p.as_str() == name).ok_or(UnknownPreset)
    }
}

impl fmt::Display for BatchingPreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When a group's batcher cuts a batch, and how much may wait. Per node; may differ between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchingConfig {
    /// Whether commands share entries at all; off means one command per entry. Default on.
    pub enabled: bool,
    /// Most commands in one batch: larger saves syncs and messages, smaller answers sooner.
    /// 1 to 65,536. Default 100.
    pub commands_max: usize,
    /// Most bytes in one batch, unless a single command is larger. 1 to [`ENTRY_BYTES_MAX`].
    /// Default 1 MiB.
    pub bytes_max: usize,
    /// How long a batch may wait for company while another is in flight; an idle group never waits
    /// (BP-5). 0 to 1 s. Default 1 ms.
    pub linger: Duration,
    /// Batches proposed and not yet decided: more hides latency, fewer form larger batches. 1 to
    /// 256. Default 16.
    pub in_flight_max: usize,
    /// Commands that may wait in a group's queue; beyond it callers get `Overloaded`. At least
    /// `commands_max`. Default 65,536.
    pub queue_commands_max: usize,
    /// Bytes that may wait in a group's queue. At least `bytes_max`; commands beyond it are refused
    /// even where they are legal, so a production node leaves room for one largest command (4 MiB).
    /// Default 64 MiB.
    pub queue_bytes_max: usize,
}

impl Default for BatchingConfig {
    fn default() -> Self {
        BatchingPreset::Default.batching()
    }
}

impl BatchingConfig {
    /// Limits that are hit within ten entries, for tests of what happens at them.
    pub const fn tiny() -> Self {
        Self {
            enabled: true,
            commands_max: 4,
            bytes_max: 256,
            linger: Duration::from_millis(1),
            in_flight_max: 2,
            queue_commands_max: 8,
            queue_bytes_max: 1 << 10,
        }
    }

    /// Records every rule that is broken.
    pub(crate) fn check(&self, findings: &mut Findings) {
        findings.require(
            (1..=BATCH_COMMANDS_MAX).contains(&self.commands_max),
            "batching.commands_max",
            self.commands_max,
            "must be 1 to 65536",
        );
        findings.require(
            (1..=ENTRY_BYTES_MAX).contains(&self.bytes_max),
            "batching.bytes_max",
            self.bytes_max,
            "must be 1 byte to 4 MiB and 64 KiB, the largest entry",
        );
        findings.require(
            self.linger <= LINGER_MAX,
            "batching.linger",
            humantime::format_duration(self.linger),
            "must be at most 1s",
        );
        findings.require(
            (1..=256).contains(&self.in_flight_max),
            "batching.in_flight_max",
            self.in_flight_max,
            "must be 1 to 256",
        );
        findings.relate(
            self.queue_commands_max >= self.commands_max,
            ("batching.queue_commands_max", self.queue_commands_max),
            "must be at least",
            ("batching.commands_max", self.commands_max),
        );
        findings.relate(
            self.queue_bytes_max >= self.bytes_max,
            ("batching.queue_bytes_max", self.queue_bytes_max),
            "must be at least",
            ("batching.bytes_max", self.bytes_max),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_found_by_name() {
        for preset in BatchingPreset::ALL {
            let mut findings = Findings::default();
            preset.batching().check(&mut findings);
            assert!(findings.into_errors().is_none(), "{preset}");
            assert_eq!(preset.as_str().parse(), Ok(preset));
        }
        assert_eq!("fast".parse::<BatchingPreset>(), Err(UnknownPreset));
    }

    #[test]
    fn every_limit_has_a_rule() {
        let broken = BatchingConfig {
            enabled: true,
            commands_max: 0,
            bytes_max: 0,
            linger: Duration::from_secs(2),
            in_flight_max: 0,
            queue_commands_max: 0,
            queue_bytes_max: 0,
        };
        let mut findings = Findings::default();
        broken.check(&mut findings);
        BatchingConfig { queue_commands_max: 1, queue_bytes_max: 1, ..BatchingConfig::tiny() }
            .check(&mut findings);
        let errors = findings.into_errors().unwrap();
        assert_eq!(errors.as_slice().len(), 6, "{errors}");
    }
}
