//! Apply bench: one group's machine and state, and what it takes to apply an entry to them.
//!
//! ```text
//! entry → batch → units → StateMachine::apply → responses
//!                   └ rejected → rollback
//! ```
//!
//! This is the applier's work without its actor: it blocks, it is deterministic, and it moves to a
//! worker and back as one value.
//!
//! Promise: entries are applied in index order, each once per state. Conf entries and no-ops advance
//! the index and never reach the machine (AP-6). A fault leaves the applied index behind, and the
//! bench must then be dropped: its buffer may hold half an entry. A damaged row that a machine meets
//! is counted, and ends what met it, whatever the machine makes of the error (ST-7): nothing is
//! answered that may rest on it.
//!
//! The time that a machine sees never falls (AP-3): the last one is part of the state, under a key
//! that the machine cannot reach, so that replicas, replays and restarts agree on it.

use std::cell::RefCell;
use std::ops::Bound;

use bytes::Bytes;
use polyraft_core::batch::{self, BatchDecodeError, Unit};
use polyraft_core::entry::{EntryKind, LogEntry};
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, LogIndex};
use polyraft_core::limits::STATE_KEY_RESERVED;
use polyraft_core::ports::{GroupState, StorageError};
use polyraft_core::state_machine::{
    ApplyContext, ApplyError, Response, State, StateError, StateMachine,
};

use crate::log_writer::{StoreKind, note_damage};

/// Holds the last entry's time, in milliseconds, big-endian.
const TIME_KEY: &[u8] = &[STATE_KEY_RESERVED, b't'];

/// Why a group cannot apply any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyFault {
    /// The machine could not open its state.
    #[error("the state machine cannot open its state")]
    Open(#[source] ApplyError),
    /// The entry's bytes are not a batch.
    #[error("the entry is not a batch")]
    Batch(#[from] BatchDecodeError),
    /// The machine could not apply a command.
    #[error("the state machine cannot apply a command")]
    Machine(#[source] ApplyError),
    /// The runtime's own part of the state could not be read or written.
    #[error("the runtime's own state cannot be accessed")]
    State(#[from] StateError),
    /// The machine's own storage has less than the runtime was told: it was replaced or lost.
    #[error("the machine's own storage ends at {durable}, but entries up to {applied} were in it")]
    OwnStorageBehind {
        /// What the storage has.
        durable: LogIndex,
        /// What it had when the applied index became durable.
        applied: LogIndex,
    },
    /// The machine's own storage could not be made durable.
    #[error("the state machine cannot persist")]
    Persist(#[source] ApplyError),
    /// A row of the state is not what was written.
    #[error("the state is damaged: {0}")]
    Damaged(#[source] StorageError),
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The machine refused it.
    #[error("the state machine cannot answer")]
    Machine(#[source] ApplyError),
    /// It met a damaged row: the group must be faulted and the bench dropped.
    #[error("the state is damaged: {0}")]
    Damaged(#[source] StorageError),
}

/// One group's machine over its state.
pub struct ApplyBench {
    group: GroupId,
    machine: Box<dyn StateMachine>,
    state: MachineState,
    time_ms: u64,
    /// What the machine's own storage has durable; `None` if it has none.
    own_durable: Option<LogIndex>,
}

impl ApplyBench {
    /// Puts a machine on its state. [`ApplyBench::open`] comes next, where blocking is allowed.
    pub fn new(group: GroupId, machine: Box<dyn StateMachine>, state: Box<dyn GroupState>) -> Self {
        let state = MachineState { state, is_read_only: false, damage: RefCell::default() };
        Self { group, machine, state, time_ms: 0, own_durable: None }
    }

    /// Lets the machine build what it keeps in memory, or open its own storage.
    ///
    /// # Errors
    /// The group must be faulted.
    pub fn open(&mut self) -> Result<(), ApplyFault> {
        let opened = self.open_machine();
        self.unless_damaged(opened)
    }

    fn open_machine(&mut self) -> Result<(), ApplyFault> {
        let stored = self.state.noted(self.state.state.get(TIME_KEY))?;
        self.time_ms =
            stored.and_then(|v| Some(u64::from_be_bytes(v[..].try_into().ok()?))).unwrap_or(0);
        self.machine.open(&self.state).map_err(ApplyFault::Open)?;
        let applied = self.applied();
        self.own_durable = self.machine.own_storage().map(|own| own.durable());
        self.state.is_read_only = self.own_durable.is_some();
        match self.own_durable {
            Some(durable) if durable < applied => {
                Err(ApplyFault::OwnStorageBehind { durable, applied })
            }
            _ => Ok(()),
        }
    }

    /// Whether the state may not be flushed yet: [`ApplyBench::persist`] comes first, where blocking
    /// is allowed.
    pub fn must_persist(&self) -> bool {
        self.own_durable.is_some_and(|durable| durable < self.applied())
    }

    /// Makes the machine's own storage durable, if it has one, up to the applied index.
    ///
    /// # Errors
    /// The group must be faulted and this bench dropped.
    pub fn persist(&mut self) -> Result<(), ApplyFault> {
        let applied = self.applied();
        if self.must_persist()
            && let Some(own) = self.machine.own_storage()
        {
            own.persist(applied).map_err(ApplyFault::Persist)?;
            self.own_durable = Some(applied);
        }
        Ok(())
    }

    /// The last applied index.
    pub fn applied(&self) -> LogIndex {
        self.state.state.applied().0
    }

    /// The group's state, for flushing.
    pub fn state(&mut self) -> &mut dyn GroupState {
        &mut *self.state.state
    }

    /// Applies one entry and returns one response per command, in order.
    ///
    /// # Errors
    /// The group must be faulted and this bench dropped.
    ///
    /// # Panics
    /// If `entry` is not the next one: applying it would corrupt the state.
    pub fn apply(&mut self, entry: &LogEntry) -> Result<Vec<Response>, ApplyFault> {
        let (group, applied) = (self.group, self.applied());
        assert!(
            entry.index == applied.next(),
            "{group}: entry {} after applied {applied}",
            entry.index
        );
        failpoint::hit(Step::ApplyStart).map_err(StateError::from)?;
        // Ends the unit of work before, so that no rollback reaches behind this entry.
        self.begin();
        let is_batch = entry.kind == EntryKind::Normal && !entry.data.is_empty();
        let responses = if is_batch { self.apply_batch(entry) } else { Ok(Vec::new()) };
        let responses = self.unless_damaged(responses)?;
        self.state.state.set_applied(entry.index, entry.term);
        Ok(responses)
    }

    /// Answers a query from the applied state.
    ///
    /// # Errors
    /// The machine's own, or damage that it met.
    pub fn query(&self, query: &[u8]) -> Result<Bytes, QueryError> {
        let answer = self.machine.query(&self.state, query);
        match self.state.damage.take() {
            Some(damage) => Err(QueryError::Damaged(damage)),
            None => answer.map_err(QueryError::Machine),
        }
    }

    /// `result`, unless damage was met on the way to it.
    fn unless_damaged<T>(&self, result: Result<T, ApplyFault>) -> Result<T, ApplyFault> {
        self.state.damage.take().map_or(result, |damage| Err(ApplyFault::Damaged(damage)))
    }

    fn apply_batch(&mut self, entry: &LogEntry) -> Result<Vec<Response>, ApplyFault> {
        let batch = batch::decode(entry.data.clone())?;
        let mut responses = Vec::with_capacity(batch.commands());
        self.advance_time(batch.time_ms)?;
        if self.own_durable.is_some_and(|durable| entry.index <= durable) {
            // Answered in an earlier life.
            return Ok(responses);
        }
        let mut context = ApplyContext {
            group: self.group,
            index: entry.index,
            term: entry.term,
            sub_index: 0,
            time_ms: self.time_ms,
        };
        for unit in &batch.units {
            context.sub_index = responses.len() as u32;
            if unit.atomic {
                self.apply_together(&context, unit, &mut responses)?;
            } else {
                self.apply_each(&context, unit, &mut responses)?;
            }
        }
        Ok(responses)
    }

    fn begin(&mut self) {
        self.state.state.begin();
        if let Some(own) = self.machine.own_storage() {
            own.begin();
        }
    }

    fn rollback(&mut self) {
        self.state.state.rollback();
        if let Some(own) = self.machine.own_storage() {
            own.rollback();
        }
    }

    fn advance_time(&mut self, time_ms: u64) -> Result<(), ApplyFault> {
        if time_ms > self.time_ms {
            self.time_ms = time_ms;
            self.state.state.put(TIME_KEY, Bytes::copy_from_slice(&time_ms.to_be_bytes()))?;
        }
        Ok(())
    }

    fn apply_each(
        &mut self,
        first: &ApplyContext,
        unit: &Unit,
        responses: &mut Vec<Response>,
    ) -> Result<(), ApplyFault> {
        let mut context = *first;
        for command in &unit.commands {
            self.begin();
            let response = self
                .machine
                .apply(&mut self.state, &context, command)
                .map_err(ApplyFault::Machine)?;
            if !response.is_accepted() {
                self.rollback();
            }
            responses.push(response);
            context.sub_index += 1;
        }
        Ok(())
    }

    /// All or nothing: the first rejection ends the unit and undoes it. It keeps its reason; the
    /// unit's other commands are rejected with an empty body.
    fn apply_together(
        &mut self,
        first: &ApplyContext,
        unit: &Unit,
        responses: &mut Vec<Response>,
    ) -> Result<(), ApplyFault> {
        let (mut context, start) = (*first, responses.len());
        self.begin();
        for command in &unit.commands {
            let response = self
                .machine
                .apply(&mut self.state, &context, command)
                .map_err(ApplyFault::Machine)?;
            if !response.is_accepted() {
                return self.reject_together(unit, start, response, responses);
            }
            responses.push(response);
            context.sub_index += 1;
        }
        Ok(())
    }

    fn reject_together(
        &mut self,
        unit: &Unit,
        start: usize,
        reason: Response,
        responses: &mut Vec<Response>,
    ) -> Result<(), ApplyFault> {
        self.rollback();
        let accepted = responses.len() - start;
        responses.truncate(start);
        responses.resize(start + unit.commands.len(), Response::Rejected(Bytes::new()));
        responses[start + accepted] = reason;
        if accepted > 0 && self.own_durable.is_none() {
            // The machine's derived data saw commands that never happened.
            self.machine.open(&self.state).map_err(ApplyFault::Open)?;
        }
        Ok(())
    }
}

/// The state as a machine sees it: without the runtime's own keys.
struct MachineState {
    state: Box<dyn GroupState>,
    /// For machines with storage of their own.
    is_read_only: bool,
    /// What a read met, as the machine may not pass it on.
    damage: RefCell<Option<StorageError>>,
}

impl MachineState {
    /// Counts and remembers the damage that a read met, if any.
    fn noted<T>(&self, read: Result<T, StateError>) -> Result<T, StateError> {
        if let Err(StateError::Storage(error)) = &read
            && let StorageError::Corrupt { group, what } = error
        {
            note_damage(StoreKind::State, error);
            let damage = StorageError::Corrupt { group: *group, what: what.clone() };
            self.damage.replace(Some(damage));
        }
        read
    }

    fn check_write(&self, key: &[u8]) -> Result<(), StateError> {
        match is_reserved(key) {
            true => Err(StateError::ReservedKey),
            false if self.is_read_only => Err(StateError::OwnStorage),
            false => Ok(()),
        }
    }
}

fn is_reserved(key: &[u8]) -> bool {
    key.first() == Some(&STATE_KEY_RESERVED)
}

impl State for MachineState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        if is_reserved(key) { Ok(None) } else { self.noted(self.state.get(key)) }
    }

    fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), StateError> {
        self.check_write(key)?;
        self.state.put(key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.check_write(key)?;
        self.state.delete(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &Bytes) -> bool,
    ) -> Result<(), StateError> {
        let visit = &mut |key: &[u8], value: &Bytes| is_reserved(key) || visit(key, value);
        self.noted(self.state.scan(from, to, reverse, visit))
    }
}

#[cfg(test)]
#[path = "apply_bench_tests.rs"]
mod tests;
