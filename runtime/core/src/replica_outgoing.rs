//! Outgoing: which messages may leave, and which wait until something is durable.
//!
//! ```text
//! raft-rs ─┬ of a leader whose vote is durable ─────────────────────────→ send
//!          ├ says nothing of the log, term and vote durable ────────────→ send
//!          └ everything else ─→ Held { needs: append } ─on_persisted(needs)→ send
//! ```
//!
//! Promise: nothing that depends on durability leaves before `on_persisted` covers it, and what waits is
//! bounded however long the disk stands still: messages that come with nothing else need no ready.

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::Replica;
use crate::ids::{LogIndex, ReadyNumber, ReplicaId};
use crate::message::{Body, Envelope, RaftKind, RaftMessage};
use crate::raft_bridge;
use crate::wire::ASKED_BYTES;

/// Messages that wait until everything appended up to `needs` is durable.
pub(super) struct Held {
    needs: ReadyNumber,
    /// raft-rs's number of the ready that they came with; 0 if they came without.
    ready: u64,
    messages: Vec<Message>,
}

impl<W, R> Replica<W, R> {
    /// A leader counts the questions for a read index that it is asked, and has the count echoed with the
    /// context. raft-rs names a round by its context alone: of a question that arrives twice, answers to the
    /// first would confirm the second, and with it every read that was asked in between.
    pub(super) fn name_once(&mut self, message: &mut RaftMessage) {
        if message.kind == RaftKind::ReadIndex && self.raft.raft.state == StateRole::Leader {
            self.asked += 1;
            message.context = [&message.context[..], &self.asked.to_be_bytes()].concat().into();
        }
    }

    /// Messages and read indexes that come with nothing else need no ready of raft-rs, which would remember
    /// it until everything before is durable: while a disk stands still, or is full, that may be for long.
    pub(super) fn pass_on(&mut self) -> bool {
        let raft = &mut self.raft.raft;
        let messages = std::mem::take(&mut raft.msgs);
        let reads = std::mem::take(&mut raft.read_states);
        if self.raft.has_ready() {
            (self.raft.raft.msgs, self.raft.raft.read_states) = (messages, reads);
            return false;
        }
        let is_something = !messages.is_empty() || !reads.is_empty();
        self.windows.sent(&messages);
        let behind_log = self.send_what_may_go(messages);
        if !behind_log.is_empty() {
            self.hold(0, behind_log);
            self.release_held();
        }
        self.confirm_reads(reads);
        if is_something {
            self.observe_role(); // A change of membership may have made the leader a stranger.
        }
        is_something
    }

    /// Sends what need not wait for the log, and returns the rest. A leader sends before its own sync, but
    /// not before its vote for itself is durable: a sole voter leads at once, and after a crash it would
    /// lead the same term with another log. Of a follower whose term is durable questions for a read index
    /// go, and answers to heartbeats while its disk stands still: they say nothing of the log.
    pub(super) fn send_what_may_go(&mut self, messages: Vec<Message>) -> Vec<Message> {
        if self.promised > self.persisted {
            return messages;
        }
        let leads = self.raft.raft.state == StateRole::Leader;
        let is_stalled = 2 * self.stall.ticks() >= self.config.election_ticks;
        let may_go = |message: &Message| match message.get_msg_type() {
            MessageType::MsgReadIndex => true,
            MessageType::MsgHeartbeatResponse => leads || is_stalled,
            _ => leads,
        };
        let (free, behind_log): (Vec<_>, Vec<_>) = messages.into_iter().partition(may_go);
        free.into_iter().for_each(|message| self.send(message));
        behind_log
    }

    /// Keeps messages until everything appended so far is durable; one after another of the same is one.
    pub(super) fn hold(&mut self, ready: u64, messages: Vec<Message>) {
        let is_new = ready != 0 || self.held.back().is_none_or(|held| held.needs != self.appended);
        if is_new {
            self.held.push_back(Held { needs: self.appended, ready, messages: Vec::new() });
        }
        let held = &mut self.held.back_mut().expect("it was just seen or pushed").messages;
        held.extend(messages);
        held.dedup();
    }

    pub(super) fn release_held(&mut self) {
        while self.held.front().is_some_and(|held| held.needs <= self.persisted) {
            let held = self.held.pop_front().expect("front was just seen");
            for message in held.messages {
                self.send(message);
            }
            self.raft.on_persist_ready(held.ready);
        }
    }

    fn send(&mut self, message: Message) {
        let to = ReplicaId::new(message.to);
        let Some(to_node) = self.node_of(to) else { return };
        let leads = self.raft.raft.state == StateRole::Leader;
        let floor = if leads { self.replicated_floor() } else { LogIndex::ZERO };
        let Ok(messages) = raft_bridge::messages_from_raft(message, floor) else {
            return self.raft.report_unreachable(to.get());
        };
        let (group, from) = (self.config.group, self.id);
        let envelopes = messages.into_iter().map(|mut message| {
            if message.kind == RaftKind::ReadIndexResponse {
                message.context.truncate(message.context.len().saturating_sub(ASKED_BYTES));
            }
            let body = Body::Raft(message);
            Envelope { group, from, to, to_node, body }
        });
        self.output.send.extend(envelopes);
    }
}
