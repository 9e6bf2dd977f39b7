//! The core's simulator: one seed, one run, on one thread.
//!
//! ```text
//! seed → dice → cluster size, limits, workload, faults
//!                 └→ [host: replica, journal, redo log, state, batcher, clocks, disks]
//!                       ⇄ [network: loss, duplicates, delay, order, partitions]
//!                 └→ every invariant, every step; then heal, and check that it goes on
//! ```
//!
//! Promise: the same seed gives the same run, to the last message; `Report::hash` covers it all.
//! Not here: threads, actors and real time. Whole nodes run elsewhere.

mod calm;
mod clients;
mod clock;
pub mod controls;
mod counts;
mod desk;
mod dice;
mod habits;
mod history;
mod misfortune;
mod network;
mod operator;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use clock::TICK;
pub use counts::Counts;
pub use dice::Dice;

use crate::host::Sabotage;
use crate::invariants::Violation;
use world::World;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A hash of everything that happened, in order.
    pub hash: u64,
    /// How much happened.
    pub counts: Counts,
    /// What went wrong.
    pub failure: Option<Failure>,
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// An invariant does not hold.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// Healed and left alone, the cluster does not go on.
    #[error("liveness: {what} after {ticks} ticks without a fault")]
    Stuck {
        /// What was waited for.
        what: String,
        /// For how long.
        ticks: u64,
    },
    /// The core or the journal panicked.
    #[error("panic: {0}")]
    Panic(String),
}

/// Runs one seed; `trace` prints what happens.
pub fn run(seed: u64, sabotage: Option<Sabotage>, trace: bool) -> Report {
    let mut world = World::new(seed, sabotage, trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let failure = match result {
        Ok(result) => result.err(),
        Err(panic) => Some(Failure::Panic(panic_text(&*panic))),
    };
    Report { seed, hash: world.hash(), counts: world.counts(), failure }
}

/// The command that runs one seed again and tells it in full.
pub fn rerun(seed: u64) -> String {
    format!("cargo run -p polyraft-tests --bin sim -- --seed {seed} --trace")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown").to_owned()
}
