//! What a seed decides before a run begins: how things go, and how often they go wrong.

use polyraft_core::compaction::Retention;
use polyraft_core::replica::ReplicaConfig;

use super::Dice;
use super::network::Weather;
use crate::host::GROUP;

/// A network without faults.
pub(super) const FAIR: Weather = Weather { lost: 0, repeated: 0, delay_max: 1 };

/// How often things happen in one tick, in a thousand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    pub take: u64,
    pub persist: u64,
    pub apply: u64,
    pub flush: u64,
    pub announce: u64,
    pub propose: u64,
    pub read: u64,
    pub transfer: u64,
    pub change: u64,
    pub crash: u64,
    pub restart: u64,
    pub replace_writer: u64,
    pub cut: u64,
    pub heal: u64,
    pub stall: u64,
    pub full: u64,
    pub fail: u64,
    pub flip: u64,
    pub wipe: u64,
    pub pause: u64,
    pub clock_jump: u64,
}

impl Habits {
    /// What this run is like. `lasts` tells whether logs are kept whole, so that a new replica can
    /// take the place of a lost one.
    pub fn roll(dice: &mut Dice, keeps_logs: bool) -> Self {
        let has_changes = dice.per_mille(400);
        let has_losses = !has_changes && dice.per_mille(600);
        Self {
            take: dice.pick(&[300, 1_000]),
            persist: dice.pick(&[150, 500, 1_000]),
            apply: dice.pick(&[100, 400, 1_000]),
            flush: dice.pick(&[30, 100, 250]),
            announce: dice.pick(&[0, 100, 1_000]),
            propose: dice.pick(&[100, 400]),
            read: dice.pick(&[20, 200]),
            transfer: dice.pick(&[0, 10]),
            change: if has_changes { 40 } else { 0 },
            crash: dice.pick(&[0, 10, 30]),
            restart: 100,
            replace_writer: dice.pick(&[0, 10, 50]),
            cut: dice.pick(&[0, 10, 40]),
            heal: dice.pick(&[20, 60]),
            stall: dice.pick(&[0, 0, 5, 15]),
            full: dice.pick(&[0, 0, 5, 15]),
            fail: dice.pick(&[0, 0, 5, 15]),
            flip: if has_losses { dice.pick(&[5, 20]) } else { 0 },
            wipe: if has_losses && keeps_logs { 15 } else { 0 },
            pause: dice.pick(&[0, 0, 5, 10]),
            clock_jump: dice.pick(&[0, 10]),
        }
    }

    /// Everything gets its turn in every tick, and nothing fails.
    pub fn calm(self) -> Self {
        Self {
            take: 1_000,
            persist: 1_000,
            apply: 1_000,
            flush: 250,
            announce: 1_000,
            change: 0,
            ..self
        }
    }
}

impl Weather {
    /// What the network is like in this run.
    pub fn roll(dice: &mut Dice) -> Self {
        Self {
            lost: dice.pick(&[0, 10, 50, 200]),
            repeated: dice.pick(&[0, 20, 200]),
            delay_max: dice.pick(&[0, 2, 8]),
        }
    }
}

/// How every replica of this run is set up, but for its seed.
pub(super) fn replica_config(dice: &mut Dice) -> ReplicaConfig {
    ReplicaConfig {
        group: GROUP,
        election_ticks: 10,
        heartbeat_ticks: dice.pick(&[1, 2, 3]),
        seed: 0,
        tail_bytes_max: dice.pick(&[0, 300, 1 << 20]),
        apply_in_flight_bytes_max: dice.pick(&[1, 200, 1 << 20]),
        apply_backlog_bytes_max: dice.pick(&[300, 1 << 20]),
        append_in_flight_bytes_max: dice.pick(&[1, 200, 1 << 20]),
        retention: Retention {
            keep_entries: dice.pick(&[0, 3, 100_000]),
            keep_bytes: dice.pick(&[200, 1 << 30, 1 << 30]),
            step_entries: dice.pick(&[1, 4]),
        },
        stands_first: dice.per_mille(300),
    }
}

/// Whether no entry is ever compacted.
pub(super) fn keeps_logs(config: &ReplicaConfig) -> bool {
    config.retention.keep_entries >= 100_000 && config.retention.keep_bytes >= 1 << 30
}
