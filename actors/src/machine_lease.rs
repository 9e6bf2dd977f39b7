//! Machine lease: whether a machine with storage of its own is still somewhere.
//!
//! ```text
//! applier dies ─→ its slice, with the machine, may still be on a worker
//!                      └ until it is dropped, no later life makes a machine
//! ```
//!
//! The runtime's own state needs no such thing: its fences are queues. A machine's file engine has
//! none, and two machines over one directory would destroy it.
//!
//! Promise: once [`MachineLease::is_out`] says no, the machine that was leased is dropped.
//! Not here: machines without storage of their own, which nobody waits for.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use polyraft_core::own_storage::OwnStorage;
use polyraft_core::state_machine::{ApplyContext, ApplyError, Response, State, StateMachine};

/// Knows whether one life's machine is still used.
#[derive(Debug, Clone, Default)]
pub(crate) struct MachineLease {
    held: Arc<OnceLock<Weak<()>>>,
}

impl MachineLease {
    /// The same machine; if it has storage of its own, the lease is out until it is dropped.
    pub(crate) fn lend(&self, mut machine: Box<dyn StateMachine>) -> Box<dyn StateMachine> {
        if machine.own_storage().is_none() {
            return machine;
        }
        let held = Arc::new(());
        // One life makes one machine.
        let _ = self.held.set(Arc::downgrade(&held));
        Box::new(Leased { machine, _held: held })
    }

    /// Whether the machine is not dropped yet.
    pub(crate) fn is_out(&self) -> bool {
        self.held.get().is_some_and(|held| held.strong_count() > 0)
    }
}

/// A machine, and what goes when it goes. The fields are dropped in this order.
struct Leased {
    machine: Box<dyn StateMachine>,
    _held: Arc<()>,
}

impl StateMachine for Leased {
    fn open(&mut self, state: &dyn State) -> Result<(), ApplyError> {
        self.machine.open(state)
    }

    fn apply(
        &mut self,
        state: &mut dyn State,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        self.machine.apply(state, context, command)
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        self.machine.query(state, query)
    }

    fn own_storage(&mut self) -> Option<&mut dyn OwnStorage> {
        self.machine.own_storage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Engine, EngineMachine, Ledger};

    #[test]
    fn a_lease_is_out_until_the_machine_is_dropped() {
        let lease = MachineLease::default();
        let seen_elsewhere = lease.clone();
        assert!(!seen_elsewhere.is_out(), "nothing is lent yet");
        let machine = lease.lend(Box::new(EngineMachine::over(&Engine::default())));
        assert!(seen_elsewhere.is_out());
        drop(machine);
        assert!(!seen_elsewhere.is_out());
    }

    #[test]
    fn nobody_waits_for_a_machine_without_storage_of_its_own() {
        let lease = MachineLease::default();
        let _machine = lease.lend(Box::new(Ledger::default()));
        assert!(!lease.is_out());
    }
}
