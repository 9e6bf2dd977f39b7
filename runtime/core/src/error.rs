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
    /// Not proposed: a queue is full, or holds more than is expected to be applied in half of the
    /// deadline. Retry after a pause.
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

    /// Its name in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "not_leader",
            Self::Overloaded { .. } => "overloaded",
            Self::Expired { .. } => "expired",
            Self::TooLarge { .. } => "too_large",
            Self::BatchLength { .. } => "batch_length",
            Self::Superseded { .. } => "superseded",
            Self::Unknown { .. } => "unknown",
            Self::TimedOut { .. } => "timed_out",
            Self::Faulted { .. } => "faulted",
            Self::Stopped { .. } => "stopped",
        }
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
    /// The read met damage on this node's disk, for which the group is now faulted here. Retry at
    /// another node.
    #[error("group {group}: the state on this node is damaged: {what}")]
    Damaged {
        /// The group.
        group: GroupId,
        /// What is damaged, and the rule that it breaks.
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

impl ReadError {
    /// Its name in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::TimedOut { .. } => "timed_out",
            Self::Overloaded { .. } => "overloaded",
            Self::Query { .. } => "query_failed",
            Self::Damaged { .. } | Self::Faulted { .. } => "faulted",
            Self::Stopped { .. } => "stopped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId::new(4);
    const DEADLINE: Duration = Duration::from_millis(1_500);

    /// What an error says, whether its proposal may have committed, and whether trying again helps.
    fn told(error: &ProposeError) -> (String, bool, bool) {
        (error.to_string(), error.may_have_committed(), error.is_retryable())
    }

    #[test]
    fn a_proposal_at_the_wrong_node_is_not_proposed() {
        let error = ProposeError::NotLeader {
            group: GROUP,
            term: Term::new(3),
            leader: Some(NodeId::new(2)),
        };
        let text = "group 4: not leader in term 3";
        assert_eq!(told(&error), (text.to_owned(), false, true));
    }

    #[test]
    fn an_overloaded_group_has_not_proposed() {
        let error = ProposeError::Overloaded { group: GROUP, what: "the queue" };
        let text = "group 4: overloaded, the queue is full";
        assert_eq!(told(&error), (text.to_owned(), false, true));
    }

    #[test]
    fn what_expired_in_the_queue_was_not_proposed() {
        let error = ProposeError::Expired { group: GROUP, deadline: DEADLINE };
        let text = "group 4: deadline of 1.5s passed before it was proposed";
        assert_eq!(told(&error), (text.to_owned(), false, true));
    }

    #[test]
    fn what_is_too_large_never_fits() {
        let error = ProposeError::TooLarge { group: GROUP, bytes: 9, max: 8 };
        let text = "group 4: 9 bytes proposed, at most 8 are allowed";
        assert_eq!(told(&error), (text.to_owned(), false, false));
    }

    #[test]
    fn a_batch_of_the_wrong_length_never_fits() {
        let error = ProposeError::BatchLength { group: GROUP, commands: 0, max: 8 };
        let text = "group 4: a batch of 0 commands; 1 to 8 are allowed";
        assert_eq!(told(&error), (text.to_owned(), false, false));
    }

    #[test]
    fn what_was_superseded_never_commits() {
        let error = ProposeError::Superseded { group: GROUP };
        let text = "group 4: the entry was superseded by another leader's";
        assert_eq!(told(&error), (text.to_owned(), false, true));
    }

    #[test]
    fn lost_leadership_leaves_the_outcome_open() {
        let error = ProposeError::Unknown { group: GROUP };
        let text = "group 4: leadership lost while waiting; the outcome is unknown";
        assert_eq!(told(&error), (text.to_owned(), true, true));
    }

    #[test]
    fn a_deadline_after_proposing_leaves_the_outcome_open() {
        let error = ProposeError::TimedOut { group: GROUP, deadline: DEADLINE };
        let text = "group 4: no outcome within 1.5s; it may still commit";
        assert_eq!(told(&error), (text.to_owned(), true, true));
    }

    #[test]
    fn a_faulted_group_has_not_proposed() {
        let error = ProposeError::Faulted { group: GROUP };
        let text = "group 4: faulted on this node";
        assert_eq!(told(&error), (text.to_owned(), false, true));
    }

    #[test]
    fn a_stopped_group_has_not_proposed() {
        let error = ProposeError::Stopped { group: GROUP };
        let text = "group 4: stopped";
        assert_eq!(told(&error), (text.to_owned(), false, true));
    }

    #[test]
    fn a_read_that_nobody_confirmed_says_for_how_long() {
        let error = ReadError::TimedOut { group: GROUP, deadline: DEADLINE };
        assert_eq!(error.to_string(), "group 4: no leader confirmed the read within 1.5s");
    }

    #[test]
    fn a_read_too_many_names_the_queue() {
        let error = ReadError::Overloaded { group: GROUP, what: "reads" };
        assert_eq!(error.to_string(), "group 4: overloaded, reads is full");
    }

    #[test]
    fn a_failed_query_says_what_the_machine_said() {
        let error = ReadError::Query { group: GROUP, what: "no such key".into() };
        assert_eq!(error.to_string(), "group 4: the query failed: no such key");
    }

    #[test]
    fn a_read_of_damaged_state_names_the_damage_and_counts_as_a_fault() {
        let error = ReadError::Damaged { group: GROUP, what: "a row's checksum".into() };
        let text = "group 4: the state on this node is damaged: a row's checksum";
        assert_eq!((error.to_string().as_str(), error.as_str()), (text, "faulted"));
    }

    #[test]
    fn reads_of_a_faulted_group_say_so() {
        let error = ReadError::Faulted { group: GROUP };
        assert_eq!(error.to_string(), "group 4: faulted on this node");
    }

    #[test]
    fn reads_of_a_stopped_group_say_so() {
        let error = ReadError::Stopped { group: GROUP };
        assert_eq!(error.to_string(), "group 4: stopped");
    }
}
