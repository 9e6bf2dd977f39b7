//! What a peer's message must satisfy before raft-rs may step it (RF-11).
//!
//! raft-rs 0.7 trusts its peers: a message that no correct replica sends makes it panic, or worse,
//! corrupts its log. This table is every such place that `RawNode::step` reaches with message data,
//! from reading its source, and the rule here that keeps messages away from it.
//!
//! | raft-rs | what happens | rule |
//! |---|---|---|
//! | `Raft::step`, `step_candidate` | term 0 passes as a local message; a candidate would fall back to term 0 | [`InvalidMessage::Term`] |
//! | `RaftCore::send` | `fatal!` answering a vote of term 0; `fatal!` passing on a read index that has a term | `Term` |
//! | `RaftCore::send` | `fatal!` in a follower that passes on a transfer | not a [`RaftKind`] |
//! | `become_candidate`, `maybe_update`, `maybe_decr_to` | `+ 1` overflows | [`crate::wire::ORDINAL_MAX`] |
//! | `step_leader` | `fatal!` on a proposal without entries; `merge_from_bytes` on peers' bytes | not a `RaftKind` |
//! | `step_leader`, `ReadOnly::add_request`, `handle_ready_read_index` | `entries[0]` of a read index | not expressible; an empty context is [`InvalidMessage::Context`] |
//! | `step_follower` (read index response) | `maybe_commit` in term 0 beyond the log: `fatal!` in `commit_to` | `Term` |
//! | `handle_heartbeat` | `fatal!` in `commit_to` if commit is beyond the log | [`InvalidMessage::CommitBeyondLast`] |
//! | `RaftLog::term`, `maybe_append` | index beyond the log with term 0 counts as a match: a gap, then `fatal!` in `commit_to` or `Unstable::must_check_outofbounds` | [`InvalidMessage::Anchor`] |
//! | `RaftLog::find_conflict` | an entry of term 0 beyond the log counts as present: `fatal!` in `commit_to` | [`InvalidMessage::EntryTerm`] |
//! | `maybe_append`, `RaftLog::append`, `truncate_and_append` | slices and `fatal!`s unless entries follow the anchor | [`InvalidMessage::EntriesNotContiguous`] |
//! | `handle_append_response` | an acknowledgement beyond the log moves `next_idx` there: later appends break followers | [`InvalidMessage::AckBeyondLast`] |
//! | `handle_append_response`, `prepare_send_snapshot` | a requested snapshot that storage cannot make: `fatal!` | [`InvalidMessage::SnapshotRequest`] |
//! | `poll` → `become_leader` | `assert_eq!(last_index, persisted)`; `unwrap` of a removed replica's progress | [`InvalidMessage::NotPersisted`], [`InvalidMessage::NotVoter`] |
//! | `step_follower` → `hup` → `campaign` (timeout now) | the same, when it wins alone | the same |
//! | `handle_snapshot`, `restore` | several | not a `RaftKind` |
//!
//! Conf-change entries are parsed here as well, so that a bad one cannot get into the log and fault
//! every replica at apply.
//!
//! Left to storage, because no message is at fault: `RaftLog::slice` in `hup` and
//! `maybe_commit_by_vote` is fatal unless unapplied entries are readable at once (not
//! `LogTemporarilyUnavailable`), `find_conflict_by_term` unless every term from the compaction point
//! on is readable, and `prepare_send_snapshot` unless a missing snapshot is
//! `SnapshotTemporarilyUnavailable`. Assumed: `ReadOnlyOption::Safe`.
//!
//! A replica may lag behind the configuration, so an append, a heartbeat or a request for a vote is
//! taken from a replica that it does not know yet, as Raft requires; that its node is a cluster
//! member, the transport has authenticated. A replica that it knows must speak from its own node.
//!
//! Not here: shape and sizes ([`crate::wire`]).

use crate::conf_change::ConfChange;
use crate::entry::{Configuration, EntryKind};
use crate::ids::{LogIndex, NodeId, ReplicaId, Term};
use crate::message::{RaftKind, RaftMessage};
use crate::wire::{CONTEXT_BYTES_MAX, QUESTION_BYTES_MAX};

/// What validation needs to know of the replica that would step the message.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaView<'a> {
    /// The replica.
    pub replica: ReplicaId,
    /// Its term.
    pub term: Term,
    /// The last index that it knows to be committed.
    pub commit: LogIndex,
    /// The last index of its log, durable or not: raft-rs's `last_index`.
    pub last: LogIndex,
    /// The term of the last index.
    pub last_term: Term,
    /// The last durable index: raft-rs's `persisted`.
    pub persisted: LogIndex,
    /// Whether it leads: then nothing can make it leader.
    pub leads: bool,
    /// The configuration that is applied to its `RawNode`.
    pub configuration: &'a Configuration,
}

/// Why a message must not be stepped. Count it, log it, drop it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// Addressed to another replica: an earlier one on this node, perhaps.
    #[error("addressed to replica {to}, this is {replica}")]
    WrongReplica {
        /// The addressee.
        to: ReplicaId,
        /// This replica.
        replica: ReplicaId,
    },
    /// A peer claims to be this replica.
    #[error("sent in this replica's own name")]
    FromSelf,
    /// The sender is a member, but on another node than the one that the message came from.
    #[error("replica {from} lives on node {home}, the message came from node {sender}")]
    WrongNode {
        /// The sender.
        from: ReplicaId,
        /// Where it lives.
        home: NodeId,
        /// The authenticated node.
        sender: NodeId,
    },
    /// The sender is no member, and the message is none that a newer member may send.
    #[error("{kind:?} from replica {from}, which is no member")]
    UnknownSender {
        /// The sender.
        from: ReplicaId,
        /// What it sent.
        kind: RaftKind,
    },
    /// A term where none belongs, or none where one belongs.
    #[error("{kind:?} in term {term}")]
    Term {
        /// The kind.
        kind: RaftKind,
        /// The term.
        term: Term,
    },
    /// The context is too long, or missing although it names a read.
    #[error("{kind:?} with a context of {bytes} bytes")]
    Context {
        /// The kind.
        kind: RaftKind,
        /// The context's length.
        bytes: usize,
    },
    /// An anchor with an index and no term, the reverse, or a term later than the message's.
    #[error("append anchored at index {index} in term {log_term}")]
    Anchor {
        /// The index before the entries.
        index: LogIndex,
        /// Its term.
        log_term: Term,
    },
    /// Entries that do not follow the anchor and each other.
    #[error("entry {found} where {expected} was due")]
    EntriesNotContiguous {
        /// The index that was due.
        expected: LogIndex,
        /// The index found.
        found: LogIndex,
    },
    /// An entry's term is 0, falls, or is later than the message's.
    #[error("entry {index} in term {term}")]
    EntryTerm {
        /// The entry.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
    /// An entry's conf change cannot be read.
    #[error("entry {index} holds no usable conf change")]
    ConfChange {
        /// The entry.
        index: LogIndex,
        /// What is wrong with it.
        #[source]
        source: crate::conf_change::ConfChangeError,
    },
    /// A heartbeat commits what this replica does not have. If the leader is right, this replica
    /// has lost acknowledged entries.
    #[error("heartbeat commits {commit}, the log ends at {last}")]
    CommitBeyondLast {
        /// What it commits.
        commit: LogIndex,
        /// The last index here.
        last: LogIndex,
    },
    /// A follower acknowledges what this leader does not have.
    #[error("acknowledges {index}, the log ends at {last}")]
    AckBeyondLast {
        /// What it acknowledges.
        index: LogIndex,
        /// The last index here.
        last: LogIndex,
    },
    /// A follower asks for a snapshot; none are sent.
    #[error("asks for a snapshot")]
    SnapshotRequest,
    /// It could make this replica leader while its log is not durable.
    #[error("{kind:?} while the log is durable up to {persisted} of {last}")]
    NotPersisted {
        /// The kind.
        kind: RaftKind,
        /// The last durable index.
        persisted: LogIndex,
        /// The last index.
        last: LogIndex,
    },
    /// A pre-vote that this replica would refuse in term 0, which no answer can name.
    #[error("a pre-vote to refuse in term 0: log {log_term}/{index}, priority {priority}")]
    PreVoteInTermZero {
        /// The term of the candidate's last entry.
        log_term: Term,
        /// Its index.
        index: LogIndex,
        /// The candidate's priority.
        priority: i64,
    },
    /// It could make this replica leader although it has no vote.
    #[error("{kind:?} to a replica without a vote")]
    NotVoter {
        /// The kind.
        kind: RaftKind,
    },
}

/// Checks a message from replica `from` to replica `to` that came from the authenticated node
/// `sender`. `Ok` means that stepping it does not panic and corrupts nothing that Raft protects
/// from replicas that merely lag, repeat or reorder.
///
/// # Errors
/// The message must be dropped.
pub fn validate(
    view: &ReplicaView<'_>,
    sender: NodeId,
    from: ReplicaId,
    to: ReplicaId,
    message: &RaftMessage,
) -> Result<(), InvalidMessage> {
    check_addresses(view, sender, from, to, message.kind)?;
    check_term_and_context(message)?;
    if message.request_snapshot != LogIndex::ZERO {
        return Err(InvalidMessage::SnapshotRequest);
    }
    match message.kind {
        RaftKind::Append => check_append(message),
        RaftKind::Heartbeat => check_heartbeat(view, message),
        RaftKind::AppendResponse => check_append_response(view, message),
        RaftKind::RequestVoteResponse | RaftKind::RequestPreVoteResponse | RaftKind::TimeoutNow => {
            check_may_lead(view, message.kind)
        }
        RaftKind::RequestPreVote => check_pre_vote(view, message),
        RaftKind::RequestVote
        | RaftKind::HeartbeatResponse
        | RaftKind::ReadIndex
        | RaftKind::ReadIndexResponse => Ok(()),
    }
}

fn check_addresses(
    view: &ReplicaView<'_>,
    sender: NodeId,
    from: ReplicaId,
    to: ReplicaId,
    kind: RaftKind,
) -> Result<(), InvalidMessage> {
    if to != view.replica {
        return Err(InvalidMessage::WrongReplica { to, replica: view.replica });
    }
    if from == view.replica {
        return Err(InvalidMessage::FromSelf);
    }
    match view.configuration.node_of(from) {
        Some(home) if home == sender => Ok(()),
        Some(home) => Err(InvalidMessage::WrongNode { from, home, sender }),
        None if may_precede_membership(kind) => Ok(()),
        None => Err(InvalidMessage::UnknownSender { from, kind }),
    }
}

/// Whether a member that this replica has not heard of yet may send it, or a leader that a change
/// left without a vote and that hands over.
fn may_precede_membership(kind: RaftKind) -> bool {
    use RaftKind::{Append, Heartbeat, RequestPreVote, RequestVote, TimeoutNow};
    matches!(kind, Append | Heartbeat | RequestVote | RequestPreVote | TimeoutNow)
}

fn check_term_and_context(message: &RaftMessage) -> Result<(), InvalidMessage> {
    let RaftMessage { kind, term, .. } = *message;
    let has_term = term != Term::default();
    if has_term == (kind == RaftKind::ReadIndex) {
        return Err(InvalidMessage::Term { kind, term });
    }
    let bytes = message.context.len();
    let names_read = matches!(kind, RaftKind::ReadIndex | RaftKind::ReadIndexResponse);
    // A leader appends to the context of a question.
    let bytes_max = if has_term { CONTEXT_BYTES_MAX } else { QUESTION_BYTES_MAX };
    if bytes > bytes_max || (names_read && bytes == 0) {
        return Err(InvalidMessage::Context { kind, bytes });
    }
    Ok(())
}

fn check_append(message: &RaftMessage) -> Result<(), InvalidMessage> {
    let RaftMessage { index, log_term, term, .. } = *message;
    let before_log = index == LogIndex::ZERO;
    if before_log != (log_term == Term::default()) || log_term > term {
        return Err(InvalidMessage::Anchor { index, log_term });
    }
    let (mut last, mut last_term) = (index, log_term.max(Term::new(1)));
    for entry in &message.entries {
        last = last.next();
        if entry.index != last {
            return Err(InvalidMessage::EntriesNotContiguous {
                expected: last,
                found: entry.index,
            });
        }
        if entry.term < last_term || entry.term > term {
            return Err(InvalidMessage::EntryTerm { index: last, term: entry.term });
        }
        last_term = entry.term;
        if entry.kind == EntryKind::ConfChange {
            ConfChange::decode(&entry.data)
                .map_err(|source| InvalidMessage::ConfChange { index: last, source })?;
        }
    }
    Ok(())
}

/// A heartbeat of an earlier term is answered without looking at it, so it is let through.
fn check_heartbeat(view: &ReplicaView<'_>, message: &RaftMessage) -> Result<(), InvalidMessage> {
    if message.term >= view.term && message.commit > view.last {
        let (commit, last) = (message.commit, view.last);
        return Err(InvalidMessage::CommitBeyondLast { commit, last });
    }
    Ok(())
}

/// Of another term it is either ignored or makes this replica a follower.
fn check_append_response(
    view: &ReplicaView<'_>,
    message: &RaftMessage,
) -> Result<(), InvalidMessage> {
    if message.term == view.term && message.index > view.last {
        return Err(InvalidMessage::AckBeyondLast { index: message.index, last: view.last });
    }
    Ok(())
}

/// raft-rs refuses in its own term, and panics if that is 0.
fn check_pre_vote(view: &ReplicaView<'_>, message: &RaftMessage) -> Result<(), InvalidMessage> {
    let RaftMessage { log_term, index, priority, .. } = *message;
    let is_behind = (log_term, index) < (view.last_term, view.last);
    let is_low = priority < 0 && index <= view.last;
    if view.term == Term::default() && (is_behind || is_low) {
        return Err(InvalidMessage::PreVoteInTermZero { log_term, index, priority });
    }
    Ok(())
}

/// A correct peer sends what can make a leader only to a voter, in answer to or after hearing of a
/// durable log; the exceptions are late duplicates, which may be dropped.
fn check_may_lead(view: &ReplicaView<'_>, kind: RaftKind) -> Result<(), InvalidMessage> {
    if view.leads {
        return Ok(()); // A vote that came after the majority: raft-rs ignores it.
    }
    if !view.configuration.is_voter(view.replica) {
        return Err(InvalidMessage::NotVoter { kind });
    }
    if view.persisted != view.last {
        let (persisted, last) = (view.persisted, view.last);
        return Err(InvalidMessage::NotPersisted { kind, persisted, last });
    }
    Ok(())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
