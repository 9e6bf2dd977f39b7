//! Errors of the calls an embedder makes, one enum per operation.
//!
//! Every variant answers: what happened, was it proposed, may I retry?

use std::time::Duration;

use crate::ids::{GroupId, NodeId, Term};

/// Why a proposal has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Not proposed. Retry at `leader`, if known; it was already forwarded once.
    #[error("group {group}: not leader in term {term}")]
    NotLeader {
        /// The group.
        group: GroupId,
        /// The term as known here.
        term: Term,
        /// The leader's node as known here.
        leader: Option<NodeId>,
    },
    /// Not proposed: a queue is full. Retry after a pause.
    #[error("group {group}: overloaded, {what} is full")]
    Overloaded {
        /// The group.
        group: GroupId,
        /// The queue that is full.
        what: &'static str,
    },
    /// Not proposed: the deadline passed while it was queued.
    #[error("group {group}: deadline of {deadline:?} passed before it was proposed")]
    Expired {
        /// The group.
        group: GroupId,
        /// The deadline that was given.
        deadline: Duration,
    },
    /// Not proposed: the command, or the batch, is larger than allowed. Retrying cannot help.
    #[error("group {group}: {bytes} bytes proposed, at most {max} are allowed")]
    TooLarge {
        /// The group.
        group: GroupId,
        /// What was proposed.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Not proposed: the batch holds no command or too many. Retrying cannot help.
    #[error("group {group}: a batch of {commands} commands; 1 to {max} are allowed")]
    BatchLength {
        /// The group.
        group: GroupId,
        /// Commands in the batch.
        commands: usize,
        /// The limit.
        max: usize,
    },
    /// Proposed, and known never to commit: another entry took its place. Safe to retry.
    #[error("group {group}: the entry was superseded by another leader's")]
    Superseded {
        /// The group.
        group: GroupId,
    },
    /// Unknown: leadership or the group's actor was lost while waiting; it may still commit.
    #[error("group {group}: leadership lost while waiting; the outcome is unknown")]
    Unknown {
        /// The group.
        group: GroupId,
    },
    /// Unknown: the deadline passed after it was proposed; it may still commit.
    #[error("group {group}: no outcome within {deadline:?}; it may still commit")]
    TimedOut {
        /// The group.
        group: GroupId,
        /// The deadline that was given.
        deadline: Duration,
    },
    /// Not proposed: the group is faulted on this node. Retry at another node.
    #[error("group {group}: faulted on this node")]
    Faulted {
        /// The group.
        group: GroupId,
    },
    /// Not proposed: the group is stopping, or is not on this node.
    #[error("group {group}: stopped")]
    Stopped {
        /// The group.
        group: GroupId,
    },
}

impl ProposeError {
    /// Whether the proposal may still commit, now or later. `false` makes a plain retry safe.
    pub fn may_have_committed(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::TimedOut { .. })
    }

    /// Whether the same proposal can succeed when tried again.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::TooLarge { .. } | Self::BatchLength { .. })
    }
}

/// Why a read has no result. A read changes nothing: every variant but `Query` may be retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader confirmed the read in time.
    #[error("group {group}: no leader confirmed the read within {deadline:?}")]
    TimedOut {
        /// The group.
        group: GroupId,
        /// The deadline that was given.
        deadline: Duration,
    },
    /// Too many reads are waiting.
    #[error("group {group}: overloaded, {what} is full")]
    Overloaded {
        /// The group.
        group: GroupId,
        /// The queue that is full.
        what: &'static str,
    },
    /// The state machine refused the query.
    #[error("group {group}: the query failed: {what}")]
    Query {
        /// The group.
        group: GroupId,
        /// What the state machine said.
        what: String,
    },
    /// The group is faulted on this node.
    #[error("group {group}: faulted on this node")]
    Faulted {
        /// The group.
        group: GroupId,
    },
    /// The group is stopping, or is not on this node.
    #[error("group {group}: stopped")]
    Stopped {
        /// The group.
        group: GroupId,
    },
}
