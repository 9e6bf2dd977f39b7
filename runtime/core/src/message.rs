//! Messages between nodes, as the core sees them: newtypes, nothing that is impossible.
//!
//! ```text
//! Replica ─Envelope→ Outbox ─Frame (wire)→ Transport ⇄ peer ─Frame→ wire::decode ─Envelope→ Replica
//! ```
//!
//! Not here: the bytes ([`crate::wire`]), raft-rs's own message ([`crate::raft_bridge`]), what a
//! receiver demands beyond the shape ([`crate::validate`]).

use std::time::Duration;

use bytes::Bytes;

use crate::batch::Unit;
use crate::entry::LogEntry;
use crate::error::ProposeError;
use crate::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use crate::ports::Lane;
use crate::state_machine::Response;
use crate::trace::TraceContext;

/// One message of one group, from a replica to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The group.
    pub group: GroupId,
    /// The sender. In a [`Body::UnknownGroup`] the replica that was addressed in vain.
    pub from: ReplicaId,
    /// The addressee.
    pub to: ReplicaId,
    /// Where the addressee lives. Not on the wire: the receiver fills in its own node.
    pub to_node: NodeId,
    /// What is said.
    pub body: Body,
}

/// What an envelope carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A step of Raft.
    Raft(RaftMessage),
    /// Proposals that a follower passes to its leader; one hop, never passed on (BP-15).
    Forward(Forward),
    /// The outcome of a `Forward`.
    ForwardReply(ForwardReply),
    /// The sender's node has no such group (TR-14).
    UnknownGroup,
}

impl Body {
    /// Whether it is a leader's heartbeat, be it one that confirms a read.
    pub fn is_heartbeat(&self) -> bool {
        matches!(self, Self::Raft(RaftMessage { kind: RaftKind::Heartbeat, .. }))
    }
}

/// The Raft messages that nodes exchange. raft-rs's local messages, proposals, snapshots and
/// transfer requests are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RaftKind {
    /// Leader to follower: entries after `index`, or none.
    Append,
    /// Follower to leader: how far the log reaches, or that it does not match.
    AppendResponse,
    /// Candidate to voter.
    RequestVote,
    /// Voter to candidate.
    RequestVoteResponse,
    /// Leader to follower: still here; commit up to `commit`.
    Heartbeat,
    /// Follower to leader.
    HeartbeatResponse,
    /// Leader to its chosen successor: campaign now.
    TimeoutNow,
    /// Follower to leader: confirm the read that `context` names.
    ReadIndex,
    /// Leader to follower: the read may be answered from `index` on.
    ReadIndexResponse,
    /// Would-be candidate to voter.
    RequestPreVote,
    /// Voter to would-be candidate.
    RequestPreVoteResponse,
}

/// A step of Raft. Field by field what raft-rs's `Message` says, but for a read's context, which
/// is in `context` and not in an entry. Fields that a kind has no use for are zero or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftMessage {
    /// What it asks or answers.
    pub kind: RaftKind,
    /// The sender's term; the one it stands for in a pre-vote; 0 in a `ReadIndex` only.
    pub term: Term,
    /// The term of the entry at `index`, or at `reject_hint` in a rejection.
    pub log_term: Term,
    /// The entry before `entries`, the acknowledged one, a candidate's last one, a read's index.
    pub index: LogIndex,
    /// Contiguous entries after `index`: of an `Append` only.
    pub entries: Vec<LogEntry>,
    /// The highest committed index that the addressee may act on.
    pub commit: LogIndex,
    /// The term of the entry at `commit`, in votes.
    pub commit_term: Term,
    /// Whether it says no.
    pub reject: bool,
    /// Where the leader should try next.
    pub reject_hint: LogIndex,
    /// The least index of a snapshot that the follower asks for; 0 for none.
    pub request_snapshot: LogIndex,
    /// A candidate's priority.
    pub priority: i64,
    /// Names a read, or marks a vote as part of a transfer.
    pub context: Bytes,
    /// Entries up to here may be compacted: every member has them. Ours, not raft-rs's.
    pub compact_floor: LogIndex,
}

impl RaftMessage {
    /// A message of `kind` in `term` with nothing else set.
    pub fn new(kind: RaftKind, term: Term) -> Self {
        Self {
            kind,
            term,
            log_term: Term::default(),
            index: LogIndex::ZERO,
            entries: Vec::new(),
            commit: LogIndex::ZERO,
            commit_term: Term::default(),
            reject: false,
            reject_hint: LogIndex::ZERO,
            request_snapshot: LogIndex::ZERO,
            priority: 0,
            context: Bytes::new(),
            compact_floor: LogIndex::ZERO,
        }
    }

    /// Whether it is a heartbeat that confirms no read: the latest one replaces those before.
    pub fn is_plain_heartbeat(&self) -> bool {
        self.kind == RaftKind::Heartbeat && self.context.is_empty()
    }
}

/// Proposals on their way to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Chosen by the sender, to recognise the reply; unique among its requests.
    pub request_id: u64,
    /// The proposals; at least one. They may end up in different entries.
    pub units: Vec<Unit>,
    /// How long the sender still waits, in whole milliseconds.
    pub timeout: Duration,
    /// The caller's span, if it is sampled.
    pub trace: Option<TraceContext>,
}

/// How forwarded proposals ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardReply {
    /// The request's.
    pub request_id: u64,
    /// One per unit, in order.
    pub results: Vec<Result<AppliedUnit, ProposeError>>,
}

/// A unit that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedUnit {
    /// The entry that carried it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The first command's position within the entry.
    pub first_sub_index: u32,
    /// One per command, in order.
    pub responses: Vec<Response>,
}

/// Charged per message beside its variable parts: at least what the fixed fields take on the wire.
const MESSAGE_OVERHEAD_BYTES: usize = 160;
/// Charged per item of a list beside its bytes: tag, length and small fields.
const ITEM_OVERHEAD_BYTES: usize = 48;

impl Envelope {
    /// The lane that the envelope belongs on. Messages of a lane stay in order, so everything that
    /// must not overtake an append is in [`Lane::Append`].
    pub fn lane(&self) -> Lane {
        match &self.body {
            Body::Raft(message) => match message.kind {
                RaftKind::Append | RaftKind::AppendResponse => Lane::Append,
                _ => Lane::Control,
            },
            Body::Forward(_) | Body::ForwardReply(_) | Body::UnknownGroup => Lane::Request,
        }
    }

    /// Bytes charged against every byte limit; never less than what it takes on the wire.
    pub fn charged_bytes(&self) -> usize {
        let body = match &self.body {
            Body::Raft(message) => {
                let entries: usize =
                    message.entries.iter().map(|e| e.data.len() + ITEM_OVERHEAD_BYTES).sum();
                entries + message.context.len()
            }
            Body::Forward(forward) => forward.units.iter().map(charged_unit).sum(),
            Body::ForwardReply(reply) => reply.results.iter().map(charged_result).sum(),
            Body::UnknownGroup => 0,
        };
        MESSAGE_OVERHEAD_BYTES + body
    }
}

fn charged_unit(unit: &Unit) -> usize {
    let commands: usize = unit.commands.iter().map(|c| c.len() + ITEM_OVERHEAD_BYTES).sum();
    commands + ITEM_OVERHEAD_BYTES
}

fn charged_result(result: &Result<AppliedUnit, ProposeError>) -> usize {
    let responses = result.as_ref().map_or(&[][..], |applied| &applied.responses);
    let bodies: usize = responses.iter().map(|r| r.body().len() + ITEM_OVERHEAD_BYTES).sum();
    bodies + ITEM_OVERHEAD_BYTES
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
