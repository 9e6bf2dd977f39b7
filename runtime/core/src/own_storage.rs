//! Own storage: a state machine that keeps its data in an engine of its own, beside the runtime's.
//!
//! ```text
//! start:   open → durable() ── entries up to there are not applied again
//! running: begin, apply … rollback?
//! flush:   persist(applied) → then the runtime's applied index → then compaction
//! ```
//!
//! Promise: the index that the machine has durable decides. What it covers is not applied again; what
//! it does not cover stays in the log, because the runtime's own applied index, below which the log
//! is compacted, becomes durable only after [`OwnStorage::persist`] has returned.
//! Not here: the engine. Most machines need none: see [`crate::state_machine::State`].

use crate::ids::LogIndex;
use crate::state_machine::ApplyError;

/// What a machine with storage of its own does for the runtime.
///
/// Such a machine reads and writes its own storage in `apply` and `query`, and writes nothing to the
/// `State` that it is handed. Nothing that it applied need be durable before `persist`: after a crash
/// the log repeats the rest. Until an earlier life of the group has dropped its machine, no later one
/// is made on the node, so the storage has one user.
pub trait OwnStorage {
    /// The last entry whose effects are durable, with those of all before it and of none behind it;
    /// zero for empty storage. Asked once, after `StateMachine::open`.
    fn durable(&self) -> LogIndex;

    /// Starts a unit of work, which ends the one before: [`OwnStorage::rollback`] returns to here.
    fn begin(&mut self);

    /// Undoes what was applied since `begin`: a command was rejected, and with it the others of its
    /// atomic proposal.
    fn rollback(&mut self);

    /// Makes all that was applied durable, together with `applied`, atomically: after a crash
    /// [`OwnStorage::durable`] says `applied` and all of it is there, or an earlier index and the
    /// state as it was then. Called between two entries, on a worker, at most once per flush
    /// interval; it may block for the disk, and delays its own group only.
    ///
    /// # Errors
    /// Faults the group on this node; nothing behind the last success is assumed to be durable.
    fn persist(&mut self, applied: LogIndex) -> Result<(), ApplyError>;
}
