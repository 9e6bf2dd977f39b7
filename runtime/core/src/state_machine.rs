//! The state machine: an embedder's deterministic code, fed by the applier.
//!
//! ```text
//! committed entry → commands → StateMachine::apply(State) → response → caller
//! ```
//!
//! Promise: every replica calls `apply` with the same commands, positions and times in the same
//! order, exactly once per state. The runtime makes `State` durable together with the applied index.
//! Not here: a handle that could propose, wait or reach the network (AP-9).

use std::ops::Bound;

use bytes::Bytes;

use crate::ids::{GroupId, LogIndex, Term};
use crate::own_storage::OwnStorage;

/// Where in the log a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyContext {
    /// The group.
    pub group: GroupId,
    /// Index of the entry that carries the command.
    pub index: LogIndex,
    /// Term of that entry.
    pub term: Term,
    /// Position of the command within the entry, from 0.
    pub sub_index: u32,
    /// Milliseconds since the Unix epoch as the proposer saw them, clamped so that it never falls
    /// from one entry to the next. The only clock that `apply` may use (AP-3).
    pub time_ms: u64,
}

/// What a command answers its caller. Replicated like the state: equal on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// The command took effect.
    Accepted(Bytes),
    /// The command was refused by the machine's own rules; whatever it wrote is rolled back.
    Rejected(Bytes),
}

impl Response {
    /// The body, whichever way it was decided.
    pub fn body(&self) -> &Bytes {
        match self {
            Self::Accepted(body) | Self::Rejected(body) => body,
        }
    }

    /// Whether the command took effect.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted(_))
    }
}

/// An embedder's deterministic code over one group's state.
///
/// A rejection is not an error: return [`Response::Rejected`]. An error faults this group on this
/// node without advancing, and leaves every other group alone.
pub trait StateMachine: Send + 'static {
    /// Called before anything else, with the state as it was last made durable, and again after
    /// accepted commands were rolled back with the rejected one of their atomic proposal: a machine
    /// that keeps derived data in memory builds it here, from scratch. A machine with storage of its
    /// own opens it here, and is called once.
    ///
    /// # Errors
    /// Faults the group.
    fn open(&mut self, state: &dyn State) -> Result<(), ApplyError> {
        let _ = state;
        Ok(())
    }

    /// Applies one command and returns the response for its caller.
    ///
    /// A machine that will reject must do so before it changes derived data of its own.
    ///
    /// Must depend on nothing but `state`, `context` and `command`: no clock, no randomness, no map
    /// order, no I/O.
    ///
    /// # Errors
    /// The command cannot be decoded or the state cannot be read: the group is faulted and its
    /// applied index does not advance. A mere rejection is an `Ok(Response::Rejected)` instead.
    fn apply(
        &mut self,
        state: &mut dyn State,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError>;

    /// Answers a query from the applied state, between two entries.
    ///
    /// # Errors
    /// Returned to the caller as is; faults nothing. But a damaged row of the state that was met faults the
    /// group, whatever is returned.
    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError>;

    /// The storage of its own, if the machine has one; always, or never. Without one all of its state
    /// is in [`State`], which is what most machines want.
    fn own_storage(&mut self) -> Option<&mut dyn OwnStorage> {
        None
    }
}

/// A group's ordered key-value state. Keys are up to 480 bytes (LMDB's limit with the group's
/// prefix) and do not start with byte 0, which is the runtime's; values are up to 16 MiB.
pub trait State {
    /// The value of `key`.
    ///
    /// # Errors
    /// The durable base cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError>;

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// The key or the value is too large, or the key is the runtime's.
    fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), StateError>;

    /// Removes `key`; absent keys are fine.
    ///
    /// # Errors
    /// The key is too large, or the runtime's.
    fn delete(&mut self, key: &[u8]) -> Result<(), StateError>;

    /// Visits the pairs within the bounds in key order (descending if `reverse`), until `visit`
    /// returns `false`.
    ///
    /// # Errors
    /// The durable base cannot be read.
    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &Bytes) -> bool,
    ) -> Result<(), StateError>;
}

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A key is longer than [`crate::limits::STATE_KEY_BYTES_MAX`] or empty.
    #[error("a state key has {bytes} bytes; 1 to {max} are allowed", max = crate::limits::STATE_KEY_BYTES_MAX)]
    KeySize {
        /// The key's length.
        bytes: usize,
    },
    /// A value is longer than [`crate::limits::STATE_VALUE_BYTES_MAX`].
    #[error("a state value has {bytes} bytes; at most {max} are allowed", max = crate::limits::STATE_VALUE_BYTES_MAX)]
    ValueSize {
        /// The value's length.
        bytes: usize,
    },
    /// A key starts with [`crate::limits::STATE_KEY_RESERVED`].
    #[error(
        "state keys that start with byte {} belong to the runtime",
        crate::limits::STATE_KEY_RESERVED
    )]
    ReservedKey,
    /// A machine with storage of its own wrote to the runtime's, which would not be replayed.
    #[error("a machine with storage of its own writes nothing to the runtime's")]
    OwnStorage,
    /// The durable base cannot be read.
    #[error("the durable state cannot be read")]
    Storage(#[from] crate::ports::StorageError),
}

/// Why a command or a query could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The bytes are not a command or query of this machine.
    #[error("cannot decode: {what}")]
    Decode {
        /// What is wrong with them.
        what: String,
    },
    /// The state could not be read or written.
    #[error("state access failed")]
    State(#[from] StateError),
    /// The machine's own storage failed.
    #[error("the machine's own storage failed to {doing}")]
    OwnStorage {
        /// What it was to do, as in "open" or "persist".
        doing: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_has_a_body_whichever_way_it_was_decided() {
        let body = Bytes::from_static(b"body");
        assert_eq!(Response::Accepted(body.clone()).body(), &body);
        assert_eq!(Response::Rejected(body.clone()).body(), &body);
    }

    #[test]
    fn only_the_accepted_is_accepted() {
        assert!(Response::Accepted(Bytes::new()).is_accepted());
        assert!(!Response::Rejected(Bytes::new()).is_accepted());
    }

    #[test]
    fn state_errors_say_what_is_allowed() {
        let texts = [
            StateError::KeySize { bytes: 481 },
            StateError::ValueSize { bytes: 16_777_217 },
            StateError::ReservedKey,
            StateError::OwnStorage,
        ]
        .map(|error| error.to_string());
        let expected = [
            "a state key has 481 bytes; 1 to 480 are allowed",
            "a state value has 16777217 bytes; at most 16777216 are allowed",
            "state keys that start with byte 0 belong to the runtime",
            "a machine with storage of its own writes nothing to the runtime's",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_machine_passes_on_why_the_state_failed() {
        let error = ApplyError::from(StateError::ReservedKey);
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(error.to_string(), "state access failed");
        assert_eq!(cause, Some(StateError::ReservedKey.to_string()));
    }

    #[test]
    fn a_machine_passes_on_why_its_own_storage_failed() {
        let disk = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let said = disk.to_string();
        let error = ApplyError::OwnStorage { doing: "persist", source: disk.into() };
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(error.to_string(), "the machine's own storage failed to persist");
        assert_eq!(cause, Some(said));
    }

    #[test]
    fn a_machine_opens_over_any_state_unless_it_says_otherwise() {
        struct Plain;
        impl StateMachine for Plain {
            fn apply(
                &mut self,
                _: &mut dyn State,
                _: &ApplyContext,
                _: &[u8],
            ) -> Result<Response, ApplyError> {
                Err(ApplyError::Decode { what: "never called".into() })
            }

            fn query(&self, _: &dyn State, _: &[u8]) -> Result<Bytes, ApplyError> {
                Err(ApplyError::Decode { what: "never called".into() })
            }
        }
        struct Nothing;
        impl State for Nothing {
            fn get(&self, _: &[u8]) -> Result<Option<Bytes>, StateError> {
                Err(StateError::ReservedKey)
            }

            fn put(&mut self, _: &[u8], _: Bytes) -> Result<(), StateError> {
                Err(StateError::ReservedKey)
            }

            fn delete(&mut self, _: &[u8]) -> Result<(), StateError> {
                Err(StateError::ReservedKey)
            }

            fn scan(
                &self,
                _: Bound<&[u8]>,
                _: Bound<&[u8]>,
                _: bool,
                _: &mut dyn FnMut(&[u8], &Bytes) -> bool,
            ) -> Result<(), StateError> {
                Err(StateError::ReservedKey)
            }
        }
        assert!(Plain.open(&Nothing).is_ok(), "the default reads nothing");
    }
}
