//! What a replica asks its shell to do.

use bytes::Bytes;

use crate::entry::LogEntry;
use crate::ids::{GroupId, LogIndex, ReadyNumber};
use crate::log_tail::Fetch;
use crate::message::Envelope;
use crate::pending::Undecided;
use crate::ports::GroupAppend;
use crate::status::GroupEvent;

/// Everything that followed from the inputs since the last call; fields are in the order in which
/// the shell must act on them. `W` waits for a proposal, `R` for a read.
///
/// There is no field for messages that must wait for the disk: the replica holds those back until
/// `on_persisted` covers them, so that a shell cannot send one too early.
#[derive(Debug)]
pub struct Output<W, R> {
    /// To be made durable, in order; answered by `on_persisted(number)`.
    pub appends: Vec<Append>,
    /// To be sent now.
    pub send: Vec<Envelope>,
    /// Durable entries that raft-rs asked for; answered by `on_fetched`.
    pub fetches: Vec<Fetch>,
    /// To be applied, in order; answered by `on_applied`.
    pub apply: Vec<Committed<W>>,
    /// Proposals that ended without being applied.
    pub undecided: Vec<(W, Undecided)>,
    /// Reads that may be answered once the applier has reached the index.
    pub reads: Vec<(R, LogIndex)>,
    /// Reads that nobody confirmed in time.
    pub reads_failed: Vec<R>,
    /// Rounds that were started to confirm reads.
    pub read_rounds: u64,
    /// What happened, for subscribers and the batcher.
    pub events: Vec<GroupEvent>,
}

impl<W, R> Default for Output<W, R> {
    fn default() -> Self {
        Self {
            appends: Vec::new(),
            send: Vec::new(),
            fetches: Vec::new(),
            apply: Vec::new(),
            undecided: Vec::new(),
            reads: Vec::new(),
            reads_failed: Vec::new(),
            read_rounds: 0,
            events: Vec::new(),
        }
    }
}

/// One group's share of the next durable commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Acknowledges this append and every earlier one.
    pub number: ReadyNumber,
    /// What to persist.
    pub append: GroupAppend,
}

/// A committed entry, with whoever proposed it here.
#[derive(Debug)]
pub struct Committed<W> {
    /// The entry.
    pub entry: LogEntry,
    /// The waiter, if this replica proposed the entry in the entry's own term.
    pub waiter: Option<W>,
}

/// A proposal that was not appended; the waiter comes back.
#[derive(Debug)]
pub struct Refused<W> {
    /// The waiter.
    pub waiter: W,
    /// The batch, to be forwarded or tried again.
    pub batch: Bytes,
    /// Why.
    pub why: Refusal,
}

/// Why a proposal was not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This replica does not lead, or is handing leadership over.
    NotLeader,
    /// Too many bytes are uncommitted.
    UncommittedFull,
    /// Too many bytes are committed and not yet applied.
    ApplyBacklogFull,
    /// Another change of membership is under way.
    ChangePending,
}

/// Why a peer's message was not taken. It changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The message breaks a rule (RF-11); the peer is faulty or out of date.
    #[error("refused: {0}")]
    Invalid(#[from] crate::validate::InvalidMessage),
    /// It is not a step of Raft.
    #[error("not a step of Raft")]
    NotRaft,
    /// It carries entries, and too many are waiting to be applied here.
    #[error("group {0}: apply backlog is full")]
    ApplyBacklogFull(GroupId),
    /// It carries entries, and too many are waiting for the disk here.
    #[error("group {0}: too many entries wait for the disk")]
    DiskBacklogFull(GroupId),
    /// raft-rs refused it.
    #[error("raft refused it")]
    Raft(#[source] raft::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::InvalidMessage;

    #[test]
    fn a_refused_step_says_why() {
        let texts = [
            StepError::Invalid(InvalidMessage::FromSelf),
            StepError::NotRaft,
            StepError::ApplyBacklogFull(GroupId::new(7)),
            StepError::DiskBacklogFull(GroupId::new(7)),
            StepError::Raft(raft::Error::StepLocalMsg),
        ]
        .map(|error| error.to_string());
        let expected = [
            "refused: sent in this replica's own name",
            "not a step of Raft",
            "group 7: apply backlog is full",
            "group 7: too many entries wait for the disk",
            "raft refused it",
        ];
        assert_eq!(texts, expected);
    }
}
