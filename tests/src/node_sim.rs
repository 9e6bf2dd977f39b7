//! The simulator's second depth: whole nodes from one seed.
//!
//! ```text
//! seed → plan → cluster of production actors, one paused thread (memory_node)
//!          ├→ clients: writes, reads, stale reads, from every node     ┐
//!          ├→ adversary: network, disks, clocks, crashes, actor kills  ├→ chronicle → hash, trace
//!          └→ judge: frames, applies, statuses, outcomes               ┘
//! then: heal everything, and look that it goes on
//! ```
//!
//! Promise: the same seed gives the same run, to the last frame and microsecond; [`Report::hash`] covers
//! frames, applies and outcomes with their times. A panic that nobody asked for is a failure.
//! Not here: the core alone, which is a hundred times as fast (`sim`); LMDB and QUIC.

mod adversary;
mod chronicle;
mod clients;
mod healing;
mod judge;
mod plan;
mod run;
mod sabotage;
mod witness;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

pub use adversary::Fault;
pub use sabotage::Sabotage;

use crate::linearizability::{Log, Operation};
use crate::memory_node::simulate;
use run::Run;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A hash of everything that happened, in order, with its time.
    pub hash: u64,
    /// How much happened.
    pub counts: Counts,
    /// What clients heard and replicas applied, group by group.
    pub histories: Vec<(Log, Vec<Operation>)>,
    /// What went wrong first.
    pub failure: Option<String>,
}

/// How often each thing happened, by name; names of faults are those of [`Fault`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    /// Counts `what` so many times more.
    pub fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// Adds another run's.
    pub fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, times)| self.add(what, *times));
    }

    /// How often `what` happened.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

/// Runs one seed; `trace` prints what happens.
pub fn run(seed: u64, trace: bool) -> Report {
    run_sabotaged(seed, None, trace)
}

/// Runs one seed on nodes of which one port is deliberately broken.
pub fn run_sabotaged(seed: u64, sabotage: Option<Sabotage>, trace: bool) -> Report {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !PANICS.with_borrow_mut(|panics| note_panic(panics.as_mut(), info)) {
                usual(info);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
    let run = Run::new(seed, sabotage, trace);
    let result = catch_unwind(AssertUnwindSafe(|| simulate(run.play())));
    let panics = PANICS.take().unwrap_or_default();
    let stopped = result.err().map(|_| "the run itself panicked".to_owned());
    run.report(panics.into_iter().next().or(stopped))
}

thread_local! {
    /// Panics of the run on this thread, or `None` outside of runs.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// The first panic of the run under way that nobody asked for.
fn first_panic() -> Option<String> {
    PANICS.with_borrow(|panics| panics.as_ref()?.first().cloned())
}

/// Returns whether the panic belongs to a run.
fn note_panic(panics: Option<&mut Vec<String>>, info: &PanicHookInfo<'_>) -> bool {
    let Some(panics) = panics else { return false };
    let text = info.payload_as_str().unwrap_or("of an unknown kind");
    if text != ASKED_TO_PANIC {
        panics.push(format!("panic at {}: {text}", info.location().expect("always known")));
    }
    true
}

/// What an actor says that was told to panic.
const ASKED_TO_PANIC: &str = "killed on request";
