//! The wire: domain messages to prost and back, every impossible value refused by name.
//!
//! ```text
//! Envelope ─append_envelope→ frame bytes ═lane═ decode_frame ─→ Vec<Envelope>
//! ```
//!
//! A frame is the prost encoding of `Frame` in `proto/peer.proto`. It is written envelope by
//! envelope into one buffer, so that nothing is encoded twice; payloads are copied once, into the
//! frame, and decoded as slices of it.
//!
//! Promise: what `decode_frame` returns has no zero id, no unknown kind, no gap in its entries, no
//! term or index beyond 2^63, and no payload beyond its limit. What the group's own state demands on
//! top is in [`crate::validate`]. Decoding does not panic on any input.
//!
//! Not here: TLS, streams and length prefixes (the transport).

use std::num::{NonZeroU64, NonZeroU128};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::batch::Unit;
use crate::entry::{EntryKind, LogEntry};
use crate::error::ProposeError;
use crate::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use crate::limits::{BATCH_COMMANDS_MAX, COMMAND_BYTES_MAX, ENTRY_BYTES_MAX, FRAME_BYTES_MAX};
use crate::message::{AppliedUnit, Body, Envelope, Forward, ForwardReply, RaftKind, RaftMessage};
use crate::state_machine::Response;
use crate::trace::TraceContext;

/// The generated types. Private: everything outside sees the domain types.
#[allow(missing_docs, clippy::all)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/polyraft.peer.rs"));
}

/// Field number of `Frame.envelopes`.
const FRAME_ENVELOPES_TAG: u32 = 1;
/// Terms and indexes above are refused, so that adding to one never overflows.
pub const ORDINAL_MAX: u64 = 1 << 63;
/// Longest context of a read or a vote.
pub const CONTEXT_BYTES_MAX: usize = 64;
/// What a leader appends to the context of a question for a read index: a number of its own.
pub const ASKED_BYTES: usize = size_of::<u64>();
/// Longest context of a question for a read index.
pub const QUESTION_BYTES_MAX: usize = CONTEXT_BYTES_MAX - ASKED_BYTES;
/// Longest time that a forwarded proposal may be given.
pub const FORWARD_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// A trace id and a span id.
const TRACE_BYTES: usize = size_of::<u128>() + size_of::<u64>();

/// Why bytes of a peer are not messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not the encoding of a frame.
    #[error("not a frame")]
    Decode(#[from] prost::DecodeError),
    /// The frame is larger than frames may be.
    #[error("a frame of {bytes} bytes; at most {max} are allowed", max = FRAME_BYTES_MAX)]
    FrameTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// An id that is never 0 is 0, or missing.
    #[error("{field} is 0 or missing")]
    ZeroId {
        /// The field.
        field: &'static str,
    },
    /// A part without which the message means nothing is missing.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A kind that this build does not know or that nodes do not exchange.
    #[error("{field} {value} is unknown or not for peers")]
    UnknownKind {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// A number out of its range.
    #[error("{field} is {value}; at most {max} is allowed")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// A field of one length has another.
    #[error("{field} of {bytes} bytes; it has {expected}")]
    WrongLength {
        /// The field.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The length that it must have.
        expected: usize,
    },
    /// Entries that do not follow each other, or the index before them.
    #[error("entry {found} where {expected} was due")]
    EntriesNotContiguous {
        /// The index that was due.
        expected: LogIndex,
        /// The index found.
        found: LogIndex,
    },
    /// A message carries entries although its kind never does.
    #[error("entries in a message that carries none")]
    UnexpectedEntries,
}

/// Appends an envelope to a frame that is being built. Frames concatenate: an empty buffer is an
/// empty frame.
pub fn append_envelope(frame: &mut BytesMut, envelope: Envelope) {
    let message = envelope_to_proto(envelope);
    prost::encoding::message::encode(FRAME_ENVELOPES_TAG, &message, frame);
}

/// Decodes a frame that arrived at node `to_node`. Payloads are slices of `frame`.
///
/// # Errors
/// The frame, or any envelope in it, is not what a correct peer sends; none of it may be used.
pub fn decode_frame(frame: Bytes, to_node: NodeId) -> Result<Vec<Envelope>, WireError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(WireError::FrameTooLarge { bytes: frame.len() });
    }
    let frame = proto::Frame::decode(frame)?;
    frame.envelopes.into_iter().map(|envelope| envelope_from_proto(envelope, to_node)).collect()
}

fn envelope_to_proto(envelope: Envelope) -> proto::Envelope {
    use proto::envelope::Body as Proto;
    let body = match envelope.body {
        Body::Raft(message) => Proto::Raft(raft_to_proto(message)),
        Body::Forward(forward) => Proto::Forward(forward_to_proto(forward)),
        Body::ForwardReply(reply) => Proto::ForwardReply(reply_to_proto(reply)),
        Body::UnknownGroup => Proto::UnknownGroup(proto::UnknownGroup {}),
    };
    proto::Envelope {
        group: envelope.group.get(),
        from: envelope.from.get(),
        to: envelope.to.get(),
        body: Some(body),
    }
}

fn envelope_from_proto(raw: proto::Envelope, to_node: NodeId) -> Result<Envelope, WireError> {
    use proto::envelope::Body as Proto;
    let group = GroupId::new(nonzero("group", raw.group)?);
    let body = match raw.body.ok_or(WireError::Missing { field: "body" })? {
        Proto::Raft(message) => Body::Raft(raft_from_proto(message)?),
        Proto::Forward(forward) => Body::Forward(forward_from_proto(forward)?),
        Proto::ForwardReply(reply) => Body::ForwardReply(reply_from_proto(reply, group)?),
        Proto::UnknownGroup(_) => Body::UnknownGroup,
    };
    Ok(Envelope {
        group,
        from: ReplicaId::new(nonzero("from", raw.from)?),
        to: ReplicaId::new(nonzero("to", raw.to)?),
        to_node,
        body,
    })
}

fn raft_to_proto(message: RaftMessage) -> proto::RaftMessage {
    proto::RaftMessage {
        kind: kind_to_proto(message.kind).into(),
        term: message.term.get(),
        log_term: message.log_term.get(),
        index: message.index.get(),
        entries: message.entries.into_iter().map(entry_to_proto).collect(),
        commit: message.commit.get(),
        commit_term: message.commit_term.get(),
        reject: message.reject,
        reject_hint: message.reject_hint.get(),
        request_snapshot: message.request_snapshot.get(),
        priority: message.priority,
        context: message.context,
        compact_floor: message.compact_floor.get(),
    }
}

fn raft_from_proto(raw: proto::RaftMessage) -> Result<RaftMessage, WireError> {
    let kind = kind_from_proto(raw.kind)?;
    at_most("context length", raw.context.len() as u64, CONTEXT_BYTES_MAX as u64)?;
    let index = index("index", raw.index)?;
    if kind != RaftKind::Append && !raw.entries.is_empty() {
        return Err(WireError::UnexpectedEntries);
    }
    let mut last = index;
    let mut entries = Vec::with_capacity(raw.entries.len());
    for entry in raw.entries {
        let entry = entry_from_proto(entry)?;
        last = last.next();
        if entry.index != last {
            return Err(WireError::EntriesNotContiguous { expected: last, found: entry.index });
        }
        entries.push(entry);
    }
    Ok(RaftMessage {
        kind,
        term: term("term", raw.term)?,
        log_term: term("log_term", raw.log_term)?,
        index,
        entries,
        commit: self::index("commit", raw.commit)?,
        commit_term: term("commit_term", raw.commit_term)?,
        reject: raw.reject,
        reject_hint: self::index("reject_hint", raw.reject_hint)?,
        request_snapshot: self::index("request_snapshot", raw.request_snapshot)?,
        priority: raw.priority,
        context: raw.context,
        compact_floor: self::index("compact_floor", raw.compact_floor)?,
    })
}

fn kind_to_proto(kind: RaftKind) -> proto::MessageKind {
    use proto::MessageKind as Proto;
    match kind {
        RaftKind::Append => Proto::Append,
        RaftKind::AppendResponse => Proto::AppendResponse,
        RaftKind::RequestVote => Proto::RequestVote,
        RaftKind::RequestVoteResponse => Proto::RequestVoteResponse,
        RaftKind::Heartbeat => Proto::Heartbeat,
        RaftKind::HeartbeatResponse => Proto::HeartbeatResponse,
        RaftKind::TimeoutNow => Proto::TimeoutNow,
        RaftKind::ReadIndex => Proto::ReadIndex,
        RaftKind::ReadIndexResponse => Proto::ReadIndexResponse,
        RaftKind::RequestPreVote => Proto::RequestPreVote,
        RaftKind::RequestPreVoteResponse => Proto::RequestPreVoteResponse,
    }
}

fn kind_from_proto(value: i32) -> Result<RaftKind, WireError> {
    use proto::MessageKind as Proto;
    let unknown = WireError::UnknownKind { field: "message kind", value };
    match Proto::try_from(value) {
        Ok(Proto::Append) => Ok(RaftKind::Append),
        Ok(Proto::AppendResponse) => Ok(RaftKind::AppendResponse),
        Ok(Proto::RequestVote) => Ok(RaftKind::RequestVote),
        Ok(Proto::RequestVoteResponse) => Ok(RaftKind::RequestVoteResponse),
        Ok(Proto::Heartbeat) => Ok(RaftKind::Heartbeat),
        Ok(Proto::HeartbeatResponse) => Ok(RaftKind::HeartbeatResponse),
        Ok(Proto::TimeoutNow) => Ok(RaftKind::TimeoutNow),
        Ok(Proto::ReadIndex) => Ok(RaftKind::ReadIndex),
        Ok(Proto::ReadIndexResponse) => Ok(RaftKind::ReadIndexResponse),
        Ok(Proto::RequestPreVote) => Ok(RaftKind::RequestPreVote),
        Ok(Proto::RequestPreVoteResponse) => Ok(RaftKind::RequestPreVoteResponse),
        Ok(Proto::Unspecified) | Err(_) => Err(unknown),
    }
}

fn entry_to_proto(entry: LogEntry) -> proto::Entry {
    let kind = match entry.kind {
        EntryKind::Normal => proto::EntryKind::Normal,
        EntryKind::ConfChange => proto::EntryKind::ConfChange,
    };
    proto::Entry {
        kind: kind.into(),
        term: entry.term.get(),
        index: entry.index.get(),
        data: entry.data,
    }
}

fn entry_from_proto(raw: proto::Entry) -> Result<LogEntry, WireError> {
    let kind = match proto::EntryKind::try_from(raw.kind) {
        Ok(proto::EntryKind::Normal) => EntryKind::Normal,
        Ok(proto::EntryKind::ConfChange) => EntryKind::ConfChange,
        Ok(proto::EntryKind::Unspecified) | Err(_) => {
            return Err(WireError::UnknownKind { field: "entry kind", value: raw.kind });
        }
    };
    at_most("entry length", raw.data.len() as u64, ENTRY_BYTES_MAX as u64)?;
    Ok(LogEntry {
        index: index("entry index", raw.index)?,
        term: Term::new(nonzero("entry term", term("entry term", raw.term)?.get())?),
        kind,
        data: raw.data,
    })
}

fn forward_to_proto(forward: Forward) -> proto::Forward {
    let unit = |unit: Unit| proto::Unit { atomic: unit.atomic, commands: unit.commands };
    proto::Forward {
        request_id: forward.request_id,
        units: forward.units.into_iter().map(unit).collect(),
        timeout_ms: millis(forward.timeout),
        trace: forward.trace.map(trace_to_proto),
    }
}

fn forward_from_proto(raw: proto::Forward) -> Result<Forward, WireError> {
    at_most("timeout_ms", raw.timeout_ms, millis(FORWARD_TIMEOUT_MAX))?;
    if raw.units.is_empty() {
        return Err(WireError::Missing { field: "units" });
    }
    let units = raw.units.into_iter().map(unit_from_proto).collect::<Result<_, _>>()?;
    Ok(Forward {
        request_id: raw.request_id,
        units,
        timeout: Duration::from_millis(raw.timeout_ms),
        trace: raw.trace.map(|raw| trace_from_proto(&raw)).transpose()?,
    })
}

fn trace_to_proto(trace: TraceContext) -> Bytes {
    let TraceContext { trace_id, span_id } = trace;
    let bytes = [&trace_id.get().to_be_bytes()[..], &span_id.get().to_be_bytes()].concat();
    bytes.into()
}

fn trace_from_proto(raw: &[u8]) -> Result<TraceContext, WireError> {
    let wrong_length =
        || WireError::WrongLength { field: "trace", bytes: raw.len(), expected: TRACE_BYTES };
    let (trace_id, span_id) = raw.split_first_chunk().ok_or_else(wrong_length)?;
    let span_id = span_id.try_into().map_err(|_| wrong_length())?;
    Ok(TraceContext {
        trace_id: NonZeroU128::new(u128::from_be_bytes(*trace_id))
            .ok_or(WireError::ZeroId { field: "trace id" })?,
        span_id: NonZeroU64::new(u64::from_be_bytes(span_id))
            .ok_or(WireError::ZeroId { field: "span id" })?,
    })
}

fn unit_from_proto(raw: proto::Unit) -> Result<Unit, WireError> {
    if raw.commands.is_empty() {
        return Err(WireError::Missing { field: "commands" });
    }
    at_most("commands in a unit", raw.commands.len() as u64, BATCH_COMMANDS_MAX as u64)?;
    for command in &raw.commands {
        at_most("command length", command.len() as u64, COMMAND_BYTES_MAX as u64)?;
    }
    Ok(Unit { atomic: raw.atomic, commands: raw.commands })
}

fn reply_to_proto(reply: ForwardReply) -> proto::ForwardReply {
    proto::ForwardReply {
        request_id: reply.request_id,
        results: reply.results.into_iter().map(result_to_proto).collect(),
    }
}

fn reply_from_proto(raw: proto::ForwardReply, group: GroupId) -> Result<ForwardReply, WireError> {
    if raw.results.is_empty() {
        return Err(WireError::Missing { field: "results" });
    }
    let result = |result| result_from_proto(result, group);
    let results = raw.results.into_iter().map(result).collect::<Result<_, _>>()?;
    Ok(ForwardReply { request_id: raw.request_id, results })
}

fn result_to_proto(result: Result<AppliedUnit, ProposeError>) -> proto::ForwardResult {
    use proto::forward_result::Result as Proto;
    let result = match result {
        Ok(applied) => Proto::Applied(applied_to_proto(applied)),
        Err(ProposeError::NotLeader { term, leader, .. }) => Proto::NotLeader(proto::NotLeader {
            term: term.get(),
            leader: leader.map_or(0, NodeId::get),
        }),
        Err(ProposeError::Overloaded { .. }) => Proto::Overloaded(proto::Overloaded {}),
        Err(ProposeError::Expired { deadline, .. }) => {
            Proto::Expired(proto::Expired { deadline_ms: millis(deadline) })
        }
        Err(ProposeError::TooLarge { bytes, max, .. }) => {
            Proto::TooLarge(proto::TooLarge { bytes: bytes as u64, max: max as u64 })
        }
        Err(ProposeError::BatchLength { commands, max, .. }) => {
            Proto::BatchLength(proto::BatchLength { commands: commands as u64, max: max as u64 })
        }
        Err(ProposeError::Superseded { .. }) => Proto::Superseded(proto::Superseded {}),
        Err(ProposeError::Unknown { .. }) => Proto::Unknown(proto::Unknown {}),
        Err(ProposeError::TimedOut { deadline, .. }) => {
            Proto::TimedOut(proto::TimedOut { deadline_ms: millis(deadline) })
        }
        Err(ProposeError::Faulted { .. }) => Proto::Faulted(proto::Faulted {}),
        Err(ProposeError::Stopped { .. }) => Proto::Stopped(proto::Stopped {}),
    };
    proto::ForwardResult { result: Some(result) }
}

fn applied_to_proto(applied: AppliedUnit) -> proto::Applied {
    let response = |response: Response| proto::Response {
        accepted: response.is_accepted(),
        body: response.body().clone(),
    };
    proto::Applied {
        index: applied.index.get(),
        term: applied.term.get(),
        first_sub_index: applied.first_sub_index,
        responses: applied.responses.into_iter().map(response).collect(),
    }
}

fn result_from_proto(
    raw: proto::ForwardResult,
    group: GroupId,
) -> Result<Result<AppliedUnit, ProposeError>, WireError> {
    use proto::forward_result::Result as Proto;
    let error = match raw.result.ok_or(WireError::Missing { field: "result" })? {
        Proto::Applied(applied) => return applied_from_proto(applied).map(Ok),
        Proto::NotLeader(raw) => ProposeError::NotLeader {
            group,
            term: term("term", raw.term)?,
            leader: (raw.leader != 0).then(|| NodeId::new(raw.leader)),
        },
        Proto::Overloaded(_) => ProposeError::Overloaded { group, what: LEADER_QUEUE },
        Proto::Expired(raw) => {
            ProposeError::Expired { group, deadline: Duration::from_millis(raw.deadline_ms) }
        }
        Proto::TooLarge(raw) => {
            ProposeError::TooLarge { group, bytes: size(raw.bytes), max: size(raw.max) }
        }
        Proto::BatchLength(raw) => {
            ProposeError::BatchLength { group, commands: size(raw.commands), max: size(raw.max) }
        }
        Proto::Superseded(_) => ProposeError::Superseded { group },
        Proto::Unknown(_) => ProposeError::Unknown { group },
        Proto::TimedOut(raw) => {
            ProposeError::TimedOut { group, deadline: Duration::from_millis(raw.deadline_ms) }
        }
        Proto::Faulted(_) => ProposeError::Faulted { group },
        Proto::Stopped(_) => ProposeError::Stopped { group },
    };
    Ok(Err(error))
}

/// What a follower's caller is told is full; which of the leader's queues it was is not sent.
const LEADER_QUEUE: &str = "a queue at the leader";

fn applied_from_proto(raw: proto::Applied) -> Result<AppliedUnit, WireError> {
    let response = |raw: proto::Response| match raw.accepted {
        true => Response::Accepted(raw.body),
        false => Response::Rejected(raw.body),
    };
    Ok(AppliedUnit {
        index: LogIndex::new(nonzero("index", index("index", raw.index)?.get())?),
        term: Term::new(nonzero("term", term("term", raw.term)?.get())?),
        first_sub_index: raw.first_sub_index,
        responses: raw.responses.into_iter().map(response).collect(),
    })
}

fn nonzero(field: &'static str, value: u64) -> Result<u64, WireError> {
    if value == 0 { Err(WireError::ZeroId { field }) } else { Ok(value) }
}

fn at_most(field: &'static str, value: u64, max: u64) -> Result<u64, WireError> {
    if value > max { Err(WireError::OutOfRange { field, value, max }) } else { Ok(value) }
}

fn index(field: &'static str, value: u64) -> Result<LogIndex, WireError> {
    at_most(field, value, ORDINAL_MAX).map(LogIndex::new)
}

fn term(field: &'static str, value: u64) -> Result<Term, WireError> {
    at_most(field, value, ORDINAL_MAX).map(Term::new)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
