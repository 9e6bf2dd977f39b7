//! Plan: what a seed decides before its run begins.

use std::time::Duration;

use polyraft_core::batch_config::BatchConfig;
use polyraft_core::compaction::Retention;
use polyraft_storage::journal::JournalOptions;

use super::adversary::Fault;
use crate::lossy_transport::NetworkWeather;
use crate::memory_node::{MemoryOptions, Threads, settings};
use crate::sim::Dice;

/// A run's conditions.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes: 1, 3 or 5.
    pub nodes: u64,
    /// Groups, each with a replica on every node.
    pub groups: u64,
    /// Clients that work at the same time.
    pub clients: u64,
    /// Longest election timeout that may be drawn.
    pub election: Duration,
    /// How long faults are thrown.
    pub faulty: Duration,
    /// Longest pause between two faults.
    pub pause: Duration,
    /// The kinds of fault in this run.
    pub faults: Vec<Fault>,
    /// How long a client is ready to wait.
    pub deadline: Duration,
    /// The machines' slices take so long.
    slice_takes: Duration,
    tick: Duration,
    heartbeat_ticks: u64,
    election_ticks: u64,
    weather: NetworkWeather,
    is_tiny: bool,
}

impl Plan {
    /// The plan of a seed, and the dice after it.
    pub fn draw(dice: &mut Dice) -> Self {
        let millis = Duration::from_millis;
        let tick = millis(dice.pick(&[50, 100]));
        let (heartbeat_ticks, election_ticks) = (dice.pick(&[1, 2]), dice.pick(&[8, 12]));
        let groups_max = dice.pick(&[2, 3, 6]);
        let half = Fault::ALL.iter().filter(|_| dice.per_mille(500)).copied();
        let faults = half.collect();
        Self {
            nodes: dice.pick(&[1, 3, 3, 3, 3, 5]),
            groups: 1 + dice.below(groups_max),
            clients: 2 + dice.below(5),
            election: tick * (2 * election_ticks) as u32,
            faulty: millis(3_000 + dice.below(5_000)),
            pause: millis(dice.pick(&[200, 600])),
            faults,
            deadline: millis(dice.pick(&[500, 2_000])),
            slice_takes: Duration::from_micros(dice.pick(&[0, 0, 500, 20_000])),
            tick,
            heartbeat_ticks,
            election_ticks,
            weather: NetworkWeather {
                delay: Duration::from_micros(dice.pick(&[200, 2_000, 20_000])),
                jitter: Duration::from_micros(dice.pick(&[0, 500, 30_000])),
                ..NetworkWeather::default()
            },
            is_tiny: dice.per_mille(500),
        }
    }

    /// What the nodes are made with; machines and observers are left to the caller.
    pub fn options(&self, seed: u64) -> MemoryOptions {
        let mut options = MemoryOptions::new(Threads::One, seed);
        let mut settings = settings(self.tick, self.heartbeat_ticks, self.election_ticks);
        settings.read_deadline = 3 * self.election;
        settings.flush_interval = Duration::from_millis(200);
        if self.is_tiny {
            settings.batch = BatchConfig { queue_commands_max: 64, ..BatchConfig::tiny() };
            settings.batch.queue_bytes_max = 4 << 10;
            settings.retention =
                Retention { keep_entries: 4, keep_bytes: 1 << 10, step_entries: 2 };
            settings.tail_bytes_max = 256;
            settings.apply_in_flight_bytes_max = 1 << 10;
            settings.append_in_flight_bytes_max = 2 << 10;
            options.journal = JournalOptions::tiny();
        } else {
            settings.retention =
                Retention { keep_entries: 20, keep_bytes: 1 << 20, step_entries: 10 };
        }
        MemoryOptions { settings, slice_takes: self.slice_takes, weather: self.weather, ..options }
    }
}
