//! What a propose batcher may be told, checked once.

use std::time::Duration;

use crate::limits::{BATCH_COMMANDS_MAX, ENTRY_BYTES_MAX};

/// When batches are cut and how much may wait. The same on no two nodes, if so wanted: nothing here
/// needs to agree within a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchConfig {
    /// Whether units share entries at all; if not, each is an entry of its own. Default: true.
    pub enabled: bool,
    /// Commands at which a batch is cut, 1 to [`BATCH_COMMANDS_MAX`]. More trades latency for
    /// throughput. A unit with more gets an entry to itself. Default: 100.
    pub commands_max: usize,
    /// Encoded bytes at which a batch is cut, 1 to [`ENTRY_BYTES_MAX`]. A larger unit gets an entry
    /// to itself. Default: 1 MiB.
    pub bytes_max: usize,
    /// Longest that a unit waits for company while another batch is in flight; at most 1 s. With
    /// nothing in flight no unit waits. Default: 1 ms.
    pub linger: Duration,
    /// Batches proposed and not yet decided, at least 1. Default: 16, which covers a slow disk's sync
    /// without hiding a stuck quorum.
    pub in_flight_max: usize,
    /// Commands that may wait, at least `commands_max`. Default: 65,536.
    pub queue_commands_max: usize,
    /// Encoded bytes that may wait, at least `bytes_max`. Default: 64 MiB.
    pub queue_bytes_max: usize,
}

/// Longest linger that can be meant.
const LINGER_MAX: Duration = Duration::from_secs(1);

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            commands_max: 100,
            bytes_max: 1 << 20,
            linger: Duration::from_millis(1),
            in_flight_max: 16,
            queue_commands_max: 65_536,
            queue_bytes_max: 64 << 20,
        }
    }
}

impl BatchConfig {
    /// Small batches that never wait (BP-22).
    pub fn low_latency() -> Self {
        let linger = Duration::ZERO;
        Self { commands_max: 10, bytes_max: 100 << 10, linger, ..Self::default() }
    }

    /// Ten times the default's batches for the same linger (BP-22).
    pub fn balanced() -> Self {
        Self { commands_max: 1_000, ..Self::default() }
    }

    /// Batches as large as an entry may be, and time to fill them (BP-22). Ten MiB are asked for;
    /// an entry holds [`ENTRY_BYTES_MAX`].
    pub fn high_throughput() -> Self {
        Self {
            commands_max: 5_000,
            bytes_max: ENTRY_BYTES_MAX.min(10 << 20),
            linger: Duration::from_millis(50),
            ..Self::default()
        }
    }

    /// Limits that a test reaches within ten commands.
    pub fn tiny() -> Self {
        Self {
            commands_max: 3,
            bytes_max: 64,
            in_flight_max: 2,
            queue_commands_max: 8,
            queue_bytes_max: 256,
            ..Self::default()
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of range, with its value and what is allowed.
    pub fn validate(&self) -> Result<(), BatchConfigError> {
        in_range("commands_max", self.commands_max, 1, BATCH_COMMANDS_MAX)?;
        in_range("bytes_max", self.bytes_max, 1, ENTRY_BYTES_MAX)?;
        in_range("in_flight_max", self.in_flight_max, 1, usize::MAX)?;
        in_range("queue_commands_max", self.queue_commands_max, self.commands_max, usize::MAX)?;
        in_range("queue_bytes_max", self.queue_bytes_max, self.bytes_max, usize::MAX)?;
        if self.linger > LINGER_MAX {
            return Err(BatchConfigError::Linger { linger: self.linger, max: LINGER_MAX });
        }
        Ok(())
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchConfigError {
    /// A number is out of its range.
    #[error("batch {field} is {value}; {min} to {max} is allowed")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What it was set to.
        value: usize,
        /// Least allowed.
        min: usize,
        /// Most allowed.
        max: usize,
    },
    /// The linger is longer than can be meant.
    #[error("batch linger is {linger:?}; at most {max:?} is allowed")]
    Linger {
        /// What it was set to.
        linger: Duration,
        /// Most allowed.
        max: Duration,
    },
}

fn in_range(
    field: &'static str,
    value: usize,
    min: usize,
    max: usize,
) -> Result<(), BatchConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(BatchConfigError::OutOfRange { field, value, min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the presets are what BP-22 says and are themselves valid. Method: compare the figures.
    #[test]
    fn presets_are_valid() {
        let presets = [
            (BatchConfig::low_latency(), 10, 100 << 10, 0),
            (BatchConfig::default(), 100, 1 << 20, 1),
            (BatchConfig::balanced(), 1_000, 1 << 20, 1),
            (BatchConfig::high_throughput(), 5_000, ENTRY_BYTES_MAX, 50),
        ];
        for (config, commands_max, bytes_max, linger_ms) in presets {
            assert_eq!(config.validate(), Ok(()));
            assert_eq!((config.commands_max, config.bytes_max), (commands_max, bytes_max));
            assert_eq!(config.linger, Duration::from_millis(linger_ms));
        }
        assert_eq!(BatchConfig::tiny().validate(), Ok(()));
    }

    /// Both ends of a field's range pass, and one beyond each is refused by name.
    fn ranged(field: &'static str, min: usize, max: usize, set: impl Fn(&mut BatchConfig, usize)) {
        let check = |value| {
            let mut config = BatchConfig {
                queue_commands_max: usize::MAX,
                queue_bytes_max: usize::MAX,
                ..BatchConfig::tiny()
            };
            set(&mut config, value);
            config.validate()
        };
        assert_eq!((check(min), check(max)), (Ok(()), Ok(())), "{field}");
        let refused = |value| Err(BatchConfigError::OutOfRange { field, value, min, max });
        assert_eq!(check(min - 1), refused(min - 1));
        if let Some(beyond) = max.checked_add(1) {
            assert_eq!(check(beyond), refused(beyond));
        }
    }

    #[test]
    fn a_batch_has_as_many_commands_as_an_entry_may() {
        ranged("commands_max", 1, BATCH_COMMANDS_MAX, |config, value| config.commands_max = value);
    }

    #[test]
    fn a_batch_has_as_many_bytes_as_an_entry_may() {
        ranged("bytes_max", 1, ENTRY_BYTES_MAX, |config, value| config.bytes_max = value);
    }

    #[test]
    fn a_batch_at_least_is_in_flight() {
        ranged("in_flight_max", 1, usize::MAX, |config, value| config.in_flight_max = value);
    }

    #[test]
    fn the_queue_holds_a_batch_of_commands() {
        ranged("queue_commands_max", 3, usize::MAX, |config, value| {
            config.queue_commands_max = value
        });
    }

    #[test]
    fn the_queue_holds_a_batch_of_bytes() {
        ranged("queue_bytes_max", 64, usize::MAX, |config, value| config.queue_bytes_max = value);
    }

    #[test]
    fn a_linger_is_a_second_at_most() {
        let lingers = |linger| BatchConfig { linger, ..BatchConfig::tiny() }.validate();
        assert_eq!(lingers(LINGER_MAX), Ok(()));
        let linger = LINGER_MAX + Duration::from_nanos(1);
        assert_eq!(lingers(linger), Err(BatchConfigError::Linger { linger, max: LINGER_MAX }));
    }

    #[test]
    fn refusals_say_what_is_allowed() {
        let range =
            BatchConfigError::OutOfRange { field: "in_flight_max", value: 0, min: 1, max: 9 };
        assert_eq!(range.to_string(), "batch in_flight_max is 0; 1 to 9 is allowed");
        let linger = BatchConfigError::Linger { linger: Duration::from_secs(2), max: LINGER_MAX };
        assert_eq!(linger.to_string(), "batch linger is 2s; at most 1s is allowed");
    }
}
