//! Timing: the profiles, and their conversion from durations to the ticks that Raft counts.
//!
//! ```text
//! TimingConfig (durations, asked) ─effective()→ EffectiveTiming (ticks, and what they amount to)
//! ```
//!
//! | profile       | tick  | heartbeat | election | made for |
//! |---------------|-------|-----------|----------|----------|
//! | `dev`         | 50 ms | 150 ms    | 3 s      | laptops: suspends, debug builds, one slow shared disk for three nodes |
//! | `lan`         | 20 ms | 100 ms    | 1 s      | one datacentre: ten beats per timeout, fail-over within two seconds |
//! | `low_latency` | 10 ms | 50 ms     | 500 ms   | dedicated disks and a quiet network: the fastest fail-over that LMDB commits allow |
//! | `wan`         | 50 ms | 300 ms    | 3 s      | 80 ms round trips with 1 % loss: a beat lost and sent again three times still arrives |
//!
//! No election timeout is below 500 ms: one LMDB commit can take 30 to 70 ms, several queue up, and
//! a timeout near that elects leaders for the disk's sake.
//!
//! Promise: the effective heartbeat interval is the one asked, at any tick; a timeout that starts at
//! any moment between two ticks ends in `[election_timeout, 2 × election_timeout)`.
//! Not here: the timer (`TickActor`), the choice of a timeout (seeded, in the core).
//! Source: Raft thesis §3.9 (timing requirement), raft-rs `pass_election_timeout`.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use crate::config_error::{ConfigErrors, Findings};

/// Shortest election timeout that is accepted.
pub const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(500);
/// Longest election timeout that is accepted; beyond it fail-over is not automatic in any useful sense.
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// Shortest heartbeat interval that is accepted.
pub const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Shortest tick that is accepted: the resolution of the timers below.
pub const TICK_MIN: Duration = Duration::from_millis(1);
/// Heartbeats that must fit in one election timeout: two may be lost.
pub const HEARTBEATS_PER_ELECTION_MIN: u32 = 3;

/// Ticks that an election timeout spans at least. Candidates draw from as many values, so two of
/// them draw the same, and split the vote, about once in that many elections (TK-6).
const ELECTION_TICKS_MIN: u32 = 48;

/// A named set of timings (TK-9); the table is in the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// For laptops and debuggers.
    Dev,
    /// For one datacentre: the default.
    #[default]
    Lan,
    /// For dedicated disks on a quiet network.
    LowLatency,
    /// For datacentres far apart.
    Wan,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 4] = [Self::Dev, Self::Lan, Self::LowLatency, Self::Wan];

    /// Its name in configuration files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Lan => "lan",
            Self::LowLatency => "low_latency",
            Self::Wan => "wan",
        }
    }

    /// Its timings.
    pub const fn timing(self) -> TimingConfig {
        let (tick, heartbeat, election) = match self {
            Self::Dev => (50, 150, 3_000),
            Self::Lan => (20, 100, 1_000),
            Self::LowLatency => (10, 50, 500),
            Self::Wan => (50, 300, 3_000),
        };
        TimingConfig {
            tick: Duration::from_millis(tick),
            heartbeat_interval: Duration::from_millis(heartbeat),
            election_timeout: Duration::from_millis(election),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is no profile's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a profile: one of dev, lan, low_latency, wan is")]
pub struct UnknownProfile;

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        Self::ALL.into_iter().find(|p| p.as_str() == name).ok_or(UnknownProfile)
    }
}

/// Timings as asked for, always as durations (TK-2). Must be equal on every node of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimingConfig {
    /// Coarsest step of a node's clock of ticks. Finer costs processor time for every awake group;
    /// coarser delays elections by up to one step. It is refined, never coarsened, until the other
    /// two are whole numbers of it; see [`TimingConfig::effective`]. At least 1 ms. Default 20 ms.
    pub tick: Duration,
    /// How often a leader tells its followers that it is alive. Shorter notices a lost leader no
    /// sooner (that is `election_timeout`) but survives more loss; longer saves messages.
    /// 10 ms to a third of `election_timeout`. Default 100 ms.
    pub heartbeat_interval: Duration,
    /// How long a follower waits for a leader before it stands for election; each wait is drawn from
    /// one to two times this. Shorter fails over faster; longer rides out longer stalls of disk,
    /// network and scheduler. At least ten round trips. 500 ms to 120 s. Default 1 s.
    pub election_timeout: Duration,
}

impl Default for TimingConfig {
    fn default() -> Self {
        Profile::default().timing()
    }
}

impl TimingConfig {
    /// What Raft is given, and what that amounts to.
    ///
    /// # Errors
    /// Every rule that the timings break, with both values where two disagree.
    pub fn effective(&self) -> Result<EffectiveTiming, ConfigErrors> {
        let mut findings = Findings::default();
        self.check("timing", &mut findings);
        match findings.into_errors() {
            Some(errors) => Err(errors),
            None => Ok(self.convert()),
        }
    }

    /// Records every rule that is broken, under keys that begin with `path`.
    pub(crate) fn check(&self, path: &str, findings: &mut Findings) {
        let key = |name: &str| format!("{path}.{name}");
        let text = |duration: Duration| humantime::format_duration(duration).to_string();
        let (heartbeat, election) = (self.heartbeat_interval, self.election_timeout);
        findings.require(
            self.tick >= TICK_MIN,
            &key("tick"),
            text(self.tick),
            "must be at least 1ms",
        );
        findings.require(
            heartbeat >= HEARTBEAT_INTERVAL_MIN,
            &key("heartbeat_interval"),
            text(heartbeat),
            "must be at least 10ms",
        );
        findings.require(
            (ELECTION_TIMEOUT_MIN..=ELECTION_TIMEOUT_MAX).contains(&election),
            &key("election_timeout"),
            text(election),
            "must be 500ms to 2m: shorter ones elect leaders for a slow disk's sake",
        );
        findings.relate(
            election >= heartbeat.saturating_mul(HEARTBEATS_PER_ELECTION_MIN),
            (&key("election_timeout"), text(election)),
            "must be at least 3 times",
            (&key("heartbeat_interval"), text(heartbeat)),
        );
    }

    /// Converts checked timings.
    ///
    /// A timeout of `k` ticks that starts between two ticks lasts more than `k - 1` and at most `k`
    /// of them: one is added at the bottom so that none is short, and the top stays out.
    pub(crate) fn convert(&self) -> EffectiveTiming {
        let finest = self.election_timeout / ELECTION_TICKS_MIN;
        let coarsest = self.tick.min(finest).max(TICK_MIN);
        let heartbeat_ticks = ceil_ticks(self.heartbeat_interval, coarsest);
        let tick = self.heartbeat_interval / heartbeat_ticks;
        let election_ticks = ceil_ticks(self.election_timeout, tick);
        let twice = ceil_ticks(self.election_timeout * 2, tick);
        let randomized = election_ticks + 1..twice;
        assert!(heartbeat_ticks < election_ticks, "{heartbeat_ticks} < {election_ticks}");
        assert!(!randomized.is_empty(), "{randomized:?} is empty");
        EffectiveTiming {
            tick,
            heartbeat_ticks,
            election_ticks,
            randomized_election_ticks: randomized,
            heartbeat_interval: tick * heartbeat_ticks,
            election_timeout: tick * election_ticks,
        }
    }
}

/// How many `tick`s cover `duration`, rounded up.
fn ceil_ticks(duration: Duration, tick: Duration) -> u32 {
    let ticks = duration.as_nanos().div_ceil(tick.as_nanos());
    u32::try_from(ticks).expect("checked timings are at most 240 s of at least 0.5 ms")
}

/// Timings in force: whole ticks, and the durations that they amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveTiming {
    /// One step of the tick actor; at most the tick that was asked for.
    pub tick: Duration,
    /// Ticks between two heartbeats.
    pub heartbeat_ticks: u32,
    /// Raft's election tick: within it a leader must hear a quorum (check-quorum).
    pub election_ticks: u32,
    /// What a randomised election timeout is drawn from, in ticks; the end is excluded.
    pub randomized_election_ticks: Range<u32>,
    /// Time between two heartbeats.
    pub heartbeat_interval: Duration,
    /// The base election timeout.
    pub election_timeout: Duration,
}

impl fmt::Display for EffectiveTiming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tick {:?}, heartbeat {:?} ({} ticks), election {:?} ({} ticks, drawn from {:?})",
            self.tick,
            self.heartbeat_interval,
            self.heartbeat_ticks,
            self.election_timeout,
            self.election_ticks,
            self.randomized_election_ticks
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shortest and the longest time that a timeout of `ticks` ticks can last, by the phase of
    /// its start within a tick.
    fn lasts(timing: &EffectiveTiming, ticks: u32) -> (Duration, Duration) {
        (timing.tick * (ticks - 1), timing.tick * ticks)
    }

    /// Goal: TK-2. Method: the asked 150 ms and 3 s at ticks from 1 ms to 10 s.
    #[test]
    fn intervals_hold_at_any_tick_size() {
        for tick_ms in (1..400).chain([1_000, 3_000, 10_000]) {
            let asked =
                TimingConfig { tick: Duration::from_millis(tick_ms), ..Profile::Dev.timing() };
            let effective = asked.effective().unwrap();
            let beat = effective.heartbeat_interval.as_secs_f64();
            assert!((0.135..=0.165).contains(&beat), "tick {tick_ms} ms: heartbeat {beat}");
            assert!(effective.tick <= asked.tick, "tick {tick_ms} ms: {:?}", effective.tick);
            let drawn = effective.randomized_election_ticks.clone();
            assert!(drawn.len() >= 40, "tick {tick_ms} ms: {drawn:?} splits votes");
            let (shortest, _) = lasts(&effective, drawn.start);
            let (_, longest) = lasts(&effective, drawn.end - 1);
            assert!(shortest >= Duration::from_nanos(2_999_999_000), "{tick_ms}: {shortest:?}");
            assert!(longest < Duration::from_secs(6), "tick {tick_ms} ms: {longest:?}");
        }
    }

    #[test]
    fn every_profile_is_valid_and_as_in_its_table() {
        let table = include_str!("profile.rs");
        for profile in Profile::ALL {
            let timing = profile.timing();
            let effective = timing.effective().unwrap();
            assert_eq!(effective.heartbeat_interval, timing.heartbeat_interval, "{profile}");
            assert_eq!(effective.tick, timing.tick, "{profile}");
            let row = table.lines().find(|l| l.contains(&format!("| `{profile}`"))).unwrap();
            for duration in [timing.tick, timing.heartbeat_interval, timing.election_timeout] {
                let cell = match duration.as_millis() {
                    ms if ms % 1_000 == 0 => format!("| {} s ", ms / 1_000),
                    ms => format!("| {ms} ms "),
                };
                assert!(row.contains(&cell), "{profile}: {cell} not in {row}");
            }
            assert_eq!(profile.as_str().parse(), Ok(profile));
        }
    }

    #[test]
    fn wan_survives_repeated_loss_at_80_ms() {
        let wan = Profile::Wan.timing();
        let round_trip = Duration::from_millis(80);
        assert!(wan.election_timeout >= round_trip * 10);
        // QUIC sends a lost packet again after about three round trips, then after twice that.
        let sent_again_three_times = round_trip * 3 + round_trip * 6 + round_trip * 12;
        assert!(wan.election_timeout > wan.heartbeat_interval + sent_again_three_times);
    }

    #[test]
    fn every_broken_rule_is_reported_at_once() {
        let broken = TimingConfig {
            tick: Duration::ZERO,
            heartbeat_interval: Duration::from_millis(300),
            election_timeout: Duration::from_millis(400),
        };
        let text = broken.effective().unwrap_err().to_string();
        assert!(text.contains("timing.tick = 0s: must be at least 1ms"), "{text}");
        assert!(text.contains("timing.election_timeout = 400ms: must be 500ms"), "{text}");
        assert!(
            text.contains("must be at least 3 times timing.heartbeat_interval = 300ms"),
            "{text}"
        );
    }

    #[test]
    fn extreme_durations_are_refused_without_overflow() {
        let broken = TimingConfig {
            tick: Duration::MAX,
            heartbeat_interval: Duration::MAX,
            election_timeout: Duration::MAX,
        };
        assert!(broken.effective().is_err());
    }
}
