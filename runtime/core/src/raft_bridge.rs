//! raft-rs's types and ours, field by field: the only place where both are seen side by side.
//!
//! ```text
//! RawNode ─eraftpb::Message→ messages_from_raft ─RaftMessage…→ Envelope
//! Envelope ─RaftMessage→ validate → message_to_raft ─eraftpb::Message→ RawNode::step
//! ```
//!
//! Promise: bytes of a peer never reach rust-protobuf (RUSTSEC-2024-0437); structs are filled field
//! by field, and the data of conf-change entries is parsed by [`crate::conf_change`].
//!
//! Two habits of raft-rs are corrected on the way out:
//! - With `batch_append`, everything that is sent to a follower between two readies is merged into
//!   one append, whatever its size (`RaftCore::try_batching`). It is split again at
//!   [`APPEND_BYTES_MAX`], each part anchored at the last entry of the one before.
//! - The same merge may put entries behind an **empty** append that is anchored elsewhere
//!   (`util::is_continuous_ents` takes an empty one for continuous). Such a message is refused here:
//!   its entries would be appended at wrong places. The leader probes again at the next heartbeat.
//!
//! A read's context is in an entry for raft-rs and in `context` for us, so that a read without an
//! entry, on which raft-rs panics, cannot be expressed. A `MsgReadIndex` that raft-rs passes on for
//! another replica leaves as this replica's own; its answer is then ignored, and the reader retries.

use bytes::Bytes;
use raft::eraftpb;
use raft::eraftpb::MessageType;
use raft::{Config, ReadOnlyOption};

use crate::conf_change::{ConfChange, ConfChangeKind, ConfLists, ConfTransition};
use crate::entry::{Configuration, EntryKind, HardState, LogEntry};
use crate::ids::{LogIndex, ReplicaId, Term};
use crate::limits::{self, APPEND_BYTES_MAX};
use crate::message::{RaftKind, RaftMessage};
use crate::replica::ReplicaConfig;

/// What raft-rs produced and nodes do not exchange or store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// A message that is not sent between nodes: a snapshot, a passed-on proposal or transfer.
    #[error("raft message type {kind} is not sent to peers")]
    NotForPeers {
        /// raft-rs's number of the type.
        kind: i32,
    },
    /// An entry in the old conf-change encoding, which polyraft never writes.
    #[error("entry {index} is a conf change of version 1")]
    OldConfChange {
        /// The entry.
        index: LogIndex,
    },
    /// An entry with a context beside its data; it would be lost.
    #[error("entry {index} has a context")]
    EntryContext {
        /// The entry.
        index: LogIndex,
    },
    /// An append whose entries do not start where it is anchored.
    #[error("append anchored at {anchor} starts with entry {first}")]
    AppendGap {
        /// The index before the entries, as the message says.
        anchor: LogIndex,
        /// Its first entry.
        first: LogIndex,
    },
}

/// Translates a message that raft-rs wants sent, into one or, for a large append, several: to be sent
/// in this order. `compact_floor` goes out with each.
///
/// # Errors
/// The message is not for peers or is malformed; drop it and tell raft-rs: `report_snapshot` with
/// failure for a snapshot, `report_unreachable` for anything else.
pub fn messages_from_raft(
    mut message: eraftpb::Message,
    compact_floor: LogIndex,
) -> Result<Vec<RaftMessage>, BridgeError> {
    let kind = kind_from_raft(message.msg_type)?;
    let mut entries = message.take_entries().into_vec();
    let is_read = matches!(kind, RaftKind::ReadIndex | RaftKind::ReadIndexResponse);
    let context = match entries.pop_if(|_| is_read) {
        Some(read) => read.data,
        None => message.context,
    };
    let head = RaftMessage {
        kind,
        term: Term::new(message.term),
        log_term: Term::new(message.log_term),
        index: LogIndex::new(message.index),
        entries: Vec::new(),
        commit: LogIndex::new(message.commit),
        commit_term: Term::new(message.commit_term),
        reject: message.reject,
        reject_hint: LogIndex::new(message.reject_hint),
        request_snapshot: LogIndex::new(message.request_snapshot),
        priority: message.priority,
        context,
        compact_floor,
    };
    if let Some(first) = entries.first().filter(|first| first.index != message.index + 1) {
        return Err(BridgeError::AppendGap {
            anchor: head.index,
            first: LogIndex::new(first.index),
        });
    }
    split_append(head, entries)
}

/// Spreads `entries` over as many copies of `head` as the byte limit asks for; at least one.
fn split_append(
    head: RaftMessage,
    entries: Vec<eraftpb::Entry>,
) -> Result<Vec<RaftMessage>, BridgeError> {
    let mut messages = vec![head];
    let mut bytes = 0;
    for entry in entries {
        let entry = entry_from_raft(entry)?;
        bytes += entry.charged_bytes();
        let part = messages.last_mut().expect("there is always one");
        match part.entries.last() {
            Some(last) if bytes > APPEND_BYTES_MAX => {
                let (index, log_term) = (last.index, last.term);
                bytes = entry.charged_bytes();
                let next = RaftMessage {
                    index,
                    log_term,
                    entries: vec![entry],
                    context: part.context.clone(),
                    ..*part
                };
                messages.push(next);
            }
            _ => part.entries.push(entry),
        }
    }
    Ok(messages)
}

/// Translates a validated message for `RawNode::step`.
pub fn message_to_raft(message: RaftMessage, from: ReplicaId, to: ReplicaId) -> eraftpb::Message {
    let mut raft = eraftpb::Message {
        msg_type: kind_to_raft(message.kind),
        to: to.get(),
        from: from.get(),
        term: message.term.get(),
        log_term: message.log_term.get(),
        index: message.index.get(),
        commit: message.commit.get(),
        commit_term: message.commit_term.get(),
        reject: message.reject,
        reject_hint: message.reject_hint.get(),
        request_snapshot: message.request_snapshot.get(),
        priority: message.priority,
        ..Default::default()
    };
    match message.kind {
        RaftKind::ReadIndex | RaftKind::ReadIndexResponse => {
            let read = eraftpb::Entry { data: message.context, ..Default::default() };
            raft.set_entries(vec![read].into());
        }
        _ => {
            raft.context = message.context;
            let entries: Vec<_> = message.entries.into_iter().map(entry_to_raft).collect();
            raft.set_entries(entries.into());
        }
    }
    raft
}

/// Translates an entry for raft-rs; the data is shared.
pub fn entry_to_raft(entry: LogEntry) -> eraftpb::Entry {
    let entry_type = match entry.kind {
        EntryKind::Normal => eraftpb::EntryType::EntryNormal,
        EntryKind::ConfChange => eraftpb::EntryType::EntryConfChangeV2,
    };
    eraftpb::Entry {
        entry_type,
        term: entry.term.get(),
        index: entry.index.get(),
        data: entry.data,
        ..Default::default()
    }
}

/// Translates an entry of raft-rs; the data is shared.
///
/// # Errors
/// The entry is none that polyraft proposes.
pub fn entry_from_raft(entry: eraftpb::Entry) -> Result<LogEntry, BridgeError> {
    let index = LogIndex::new(entry.index);
    if !entry.context.is_empty() {
        return Err(BridgeError::EntryContext { index });
    }
    let kind = match entry.entry_type {
        eraftpb::EntryType::EntryNormal => EntryKind::Normal,
        eraftpb::EntryType::EntryConfChangeV2 => EntryKind::ConfChange,
        eraftpb::EntryType::EntryConfChange => return Err(BridgeError::OldConfChange { index }),
    };
    Ok(LogEntry { index, term: Term::new(entry.term), kind, data: entry.data })
}

/// Translates a hard state for raft-rs.
pub fn hard_state_to_raft(state: HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term.get(),
        vote: state.vote.map_or(0, ReplicaId::get),
        commit: state.commit.get(),
        ..Default::default()
    }
}

/// Translates a hard state of raft-rs.
pub fn hard_state_from_raft(state: &eraftpb::HardState) -> HardState {
    HardState {
        term: Term::new(state.term),
        vote: (state.vote != 0).then(|| ReplicaId::new(state.vote)),
        commit: LogIndex::new(state.commit),
    }
}

/// The replicas of a configuration, for raft-rs.
pub fn conf_state_to_raft(configuration: &Configuration) -> eraftpb::ConfState {
    let raw = |ids: &[ReplicaId]| ids.iter().map(|id| id.get()).collect::<Vec<_>>();
    eraftpb::ConfState {
        voters: raw(&configuration.voters),
        learners: raw(&configuration.learners),
        voters_outgoing: raw(&configuration.voters_outgoing),
        learners_next: raw(&configuration.learners_next),
        auto_leave: configuration.auto_leave,
        ..Default::default()
    }
}

/// The configuration after `change`, of the entry at `index`: the replicas as raft-rs's
/// `apply_conf_change` returned them, their nodes from `before` and the change.
pub fn configuration_after(
    before: &Configuration,
    change: &ConfChange,
    index: LogIndex,
    state: &eraftpb::ConfState,
) -> Configuration {
    let sorted = |ids: &[u64]| {
        let mut ids: Vec<_> = ids.iter().copied().map(ReplicaId::new).collect();
        ids.sort_unstable();
        ids
    };
    let lists = ConfLists {
        voters: sorted(&state.voters),
        learners: sorted(&state.learners),
        voters_outgoing: sorted(&state.voters_outgoing),
        learners_next: sorted(&state.learners_next),
        auto_leave: state.auto_leave,
    };
    lists.configuration(index, change.members_after(before))
}

/// Translates a conf change for `RawNode::propose_conf_change` and `apply_conf_change`. What the
/// former writes into the entry is what [`ConfChange::decode`] reads.
pub fn conf_change_to_raft(change: &ConfChange) -> eraftpb::ConfChangeV2 {
    let transition = match change.transition {
        ConfTransition::Auto => eraftpb::ConfChangeTransition::Auto,
        ConfTransition::Implicit => eraftpb::ConfChangeTransition::Implicit,
        ConfTransition::Explicit => eraftpb::ConfChangeTransition::Explicit,
    };
    let steps = change.steps.iter().map(|step| {
        let change_type = match step.kind {
            ConfChangeKind::AddVoter => eraftpb::ConfChangeType::AddNode,
            ConfChangeKind::AddLearner => eraftpb::ConfChangeType::AddLearnerNode,
            ConfChangeKind::Remove => eraftpb::ConfChangeType::RemoveNode,
        };
        let node_id = step.replica.get();
        eraftpb::ConfChangeSingle { change_type, node_id, ..Default::default() }
    });
    let context = if change.members.is_empty() { Bytes::new() } else { change.encode_context() };
    eraftpb::ConfChangeV2 {
        transition,
        changes: steps.collect::<Vec<_>>().into(),
        context,
        ..Default::default()
    }
}

fn kind_to_raft(kind: RaftKind) -> MessageType {
    match kind {
        RaftKind::Append => MessageType::MsgAppend,
        RaftKind::AppendResponse => MessageType::MsgAppendResponse,
        RaftKind::RequestVote => MessageType::MsgRequestVote,
        RaftKind::RequestVoteResponse => MessageType::MsgRequestVoteResponse,
        RaftKind::Heartbeat => MessageType::MsgHeartbeat,
        RaftKind::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
        RaftKind::TimeoutNow => MessageType::MsgTimeoutNow,
        RaftKind::ReadIndex => MessageType::MsgReadIndex,
        RaftKind::ReadIndexResponse => MessageType::MsgReadIndexResp,
        RaftKind::RequestPreVote => MessageType::MsgRequestPreVote,
        RaftKind::RequestPreVoteResponse => MessageType::MsgRequestPreVoteResponse,
    }
}

fn kind_from_raft(kind: MessageType) -> Result<RaftKind, BridgeError> {
    match kind {
        MessageType::MsgAppend => Ok(RaftKind::Append),
        MessageType::MsgAppendResponse => Ok(RaftKind::AppendResponse),
        MessageType::MsgRequestVote => Ok(RaftKind::RequestVote),
        MessageType::MsgRequestVoteResponse => Ok(RaftKind::RequestVoteResponse),
        MessageType::MsgHeartbeat => Ok(RaftKind::Heartbeat),
        MessageType::MsgHeartbeatResponse => Ok(RaftKind::HeartbeatResponse),
        MessageType::MsgTimeoutNow => Ok(RaftKind::TimeoutNow),
        MessageType::MsgReadIndex => Ok(RaftKind::ReadIndex),
        MessageType::MsgReadIndexResp => Ok(RaftKind::ReadIndexResponse),
        MessageType::MsgRequestPreVote => Ok(RaftKind::RequestPreVote),
        MessageType::MsgRequestPreVoteResponse => Ok(RaftKind::RequestPreVoteResponse),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgSnapshot
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => Err(BridgeError::NotForPeers { kind: kind as i32 }),
    }
}

fn ticks(ticks: u64) -> usize {
    usize::try_from(ticks).expect("a timeout in ticks fits in memory")
}

/// What raft-rs is told of a replica.
pub(crate) fn raft_config(config: &ReplicaConfig, id: ReplicaId, applied: LogIndex) -> Config {
    Config {
        id: id.get(),
        election_tick: ticks(config.election_ticks),
        heartbeat_tick: ticks(config.heartbeat_ticks),
        applied: applied.get(),
        max_size_per_msg: limits::APPEND_BYTES_MAX as u64,
        max_inflight_msgs: limits::APPEND_INFLIGHT_MAX,
        check_quorum: true,
        pre_vote: true,
        read_only_option: ReadOnlyOption::Safe,
        batch_append: true,
        skip_bcast_commit: true, // See `Replica::unannounced`.
        max_uncommitted_size: limits::UNCOMMITTED_BYTES_MAX as u64,
        max_committed_size_per_ready: limits::COMMITTED_BYTES_PER_READY_MAX as u64,
        ..Config::default()
    }
}

#[cfg(test)]
#[path = "raft_bridge_tests.rs"]
mod tests;
