//! Why a keyspace did not answer: its rules, or its state.

use polyraft::{ApplyError, StateError};

use crate::proto::keyspace::Refusal;

/// Ends the evaluation of a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The keyspace's rules refuse it: data, equal on every replica.
    #[error("refused: {0:?}")]
    ByRule(Refusal),
    /// The request or the state could not be read: the group faults.
    #[error(transparent)]
    Failed(#[from] ApplyError),
}

impl From<StateError> for Refused {
    fn from(error: StateError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::ByRule(refusal)
    }
}
