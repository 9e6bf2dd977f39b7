//! A host's state: the production apply bench and state store over a machine, on a disk that fails.
//!
//! ```text
//! entry ─→ ApplyBench<Chronicle> ─→ buffer ─freeze→ frozen ─flush→ MemoryTable ─open→ ApplyBench
//! ```
//!
//! Promise: opening it again finds a state that was flushed, or one whose flush failed, with its own
//! applied index (AP-8); anything else panics, unless a bit was flipped.

use polyraft_actors::apply_bench::{ApplyBench, ApplyFault};
use polyraft_core::entry::LogEntry;
use polyraft_core::ids::LogIndex;
use polyraft_core::ports::{StateFlush, StateStore, StorageError};
use polyraft_core::state_machine::StateError;
use polyraft_storage::memory::MemoryTable;
use polyraft_storage::state_store::{APPLIED, STATE, TableStateStore};

use super::GROUP;
use super::chronicle::Chronicle;
use super::log_disk::flip_in;
use crate::invariants::mix;

/// The state of one node's replica.
pub(super) struct AppliedState {
    disk: MemoryTable,
    store: TableStateStore<MemoryTable>,
    bench: Option<ApplyBench>,
    frozen: Option<StateFlush>,
    durable: LogIndex,
    /// How far it is durable instead if the flush that failed was written.
    uncertain: Option<LogIndex>,
    is_failed: bool,
    is_damaged: bool,
}

impl AppliedState {
    /// The state on `disk`, which is empty. Not open.
    pub fn new(disk: MemoryTable) -> Self {
        let store = TableStateStore::new(disk.clone());
        Self {
            disk,
            store,
            bench: None,
            frozen: None,
            durable: LogIndex::ZERO,
            uncertain: None,
            is_failed: false,
            is_damaged: false,
        }
    }

    /// The index up to which it is known to be durable.
    pub fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Whether a flush failed since it was opened.
    pub fn is_failed(&self) -> bool {
        self.is_failed
    }

    /// Whether a bit was flipped.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Opens what is durable. Returns the index that it has reached.
    pub fn open(&mut self) -> Result<LogIndex, ApplyFault> {
        self.disk.heal();
        self.store = TableStateStore::new(self.disk.clone());
        (self.frozen, self.is_failed) = (None, false);
        let state = self.store.open(GROUP).map_err(StateError::from)?;
        let mut bench = ApplyBench::new(GROUP, Box::<Chronicle>::default(), state);
        bench.open()?;
        let applied = bench.applied();
        let is_known = applied == self.durable || Some(applied) == self.uncertain;
        assert!(is_known, "state {applied} found where {} was durable", self.durable);
        (self.durable, self.uncertain) = (applied, None);
        self.bench = Some(bench);
        Ok(applied)
    }

    /// Forgets what is not durable.
    pub fn close(&mut self) {
        (self.bench, self.frozen) = (None, None);
    }

    /// Applies the next entry.
    pub fn apply(&mut self, entry: &LogEntry) -> Result<(), ApplyFault> {
        self.bench.as_mut().expect("it is open").apply(entry).map(|_| ())
    }

    /// Freezes what was applied, unless an earlier part waits to be flushed.
    pub fn freeze(&mut self) {
        if let Some(bench) = &mut self.bench
            && self.frozen.is_none()
        {
            self.frozen = bench.state().freeze();
        }
    }

    /// Flushes what is frozen. `lose_index` leaves the applied index behind. Returns whether anything
    /// became durable.
    pub fn flush(&mut self, lose_index: bool) -> Result<bool, StorageError> {
        let Some(mut frozen) = self.frozen.clone() else { return Ok(false) };
        let reached = frozen.applied;
        if lose_index {
            frozen.applied = self.durable;
        }
        match self.store.flush(&[frozen]) {
            Ok(_) => {}
            Err(StorageError::Full { what }) => return Err(StorageError::Full { what }),
            Err(error) => {
                (self.uncertain, self.is_failed) = (Some(reached), true);
                return Err(error);
            }
        }
        self.frozen = None;
        self.bench.as_mut().expect("it is open").state().flushed();
        let durable = if lose_index { self.durable } else { reached };
        (self.durable, self.uncertain) = (durable, lose_index.then_some(reached));
        Ok(true)
    }

    /// A hash over every row, the runtime's own included.
    pub fn hash(&mut self) -> Result<u64, StateError> {
        use std::ops::Bound::Unbounded;
        let Some(bench) = &mut self.bench else { return Ok(0) };
        let mut hash = 0;
        bench.state().scan(Unbounded, Unbounded, false, &mut |key, value| {
            let bytes = key.iter().chain(value.iter());
            hash = bytes.fold(mix(hash, value.len() as u64), |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
            true
        })?;
        Ok(hash)
    }

    /// Flips a bit of a durable row. Returns whether there was one.
    pub fn flip_bit(&mut self, random: u64) -> bool {
        let table = if random.is_multiple_of(8) { APPLIED } else { STATE };
        let flipped = flip_in(&self.disk, table, random / 8);
        self.is_damaged |= flipped;
        flipped
    }
}
