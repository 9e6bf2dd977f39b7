//! Append windows: how many bytes are under way to each follower (RF-6).
//!
//! ```text
//! raft-rs ─append→ sent ─→ [bytes under way, by last index] ─acknowledged→ gone
//!     ↑                                  │ full, or a backlog is about to go
//!     └── fill: one message at a time ←──┴─→ paced: raft-rs's window of messages is narrowed
//! ```
//!
//! raft-rs bounds what it sends to a follower in messages only; of the largest, 256 are more than a
//! slow link or its outbox can hold. A follower is *paced* while its window is full or it has a
//! backlog: raft-rs may then send only what the window has room for, even if every message were as
//! large as an entry may be.
//!
//! Promise: at most `bytes_max` are under way to a follower, and the message that crosses it.
//! A window is not a promise about memory of other kinds: what waits is in the log anyway.
//! A heartbeat's answer frees the oldest message, as raft-rs does: it may be lost.
//! Source: raft-rs `Inflights`, `send_append_aggressively`.

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{Message, MessageType};
use raft::{Progress, ProgressState, Raft, StateRole};

use crate::entry::ENTRY_OVERHEAD_BYTES;
use crate::limits::{APPEND_INFLIGHT_MAX, ENTRY_BYTES_MAX};
use crate::log_tail::LogTail;

/// The windows of a leader's followers, by raft-rs's id.
#[derive(Debug)]
pub(crate) struct AppendWindows {
    bytes_max: usize,
    /// Proposed, and not in a message that was taken from raft-rs.
    untaken_bytes: usize,
    windows: BTreeMap<u64, Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// Per message its last index and its bytes, ascending.
    flights: VecDeque<(u64, usize)>,
    bytes: usize,
    is_paced: bool,
}

impl Window {
    fn free_to(&mut self, index: u64) {
        while let Some(&(_, bytes)) = self.flights.front().filter(|(last, _)| *last <= index) {
            self.flights.pop_front();
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.flights.clear();
        self.bytes = 0;
    }

    /// Messages that fit, however large; one if anything does.
    fn room(&self, bytes_max: usize) -> usize {
        match bytes_max.saturating_sub(self.bytes) {
            0 => 0,
            room => (room / ENTRY_BYTES_MAX).max(1),
        }
    }

    /// Lets raft-rs have `messages` in flight.
    fn pace(&mut self, progress: &mut Progress, messages: usize) {
        self.is_paced = true;
        progress.ins.set_cap(messages.clamp(1, APPEND_INFLIGHT_MAX));
    }
}

impl AppendWindows {
    /// Windows of `bytes_max` charged bytes each.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, untaken_bytes: 0, windows: BTreeMap::new() }
    }

    /// Bytes under way to a follower.
    #[cfg(test)]
    pub(crate) fn bytes(&self, follower: u64) -> usize {
        self.windows.get(&follower).map_or(0, |window| window.bytes)
    }

    /// An entry of `bytes` data is about to be proposed, and sent to whoever has room.
    pub(crate) fn proposing(&mut self, raft: &mut Raft<LogTail>, bytes: usize) {
        let own = raft.id;
        for (&id, progress) in raft.mut_prs().iter_mut().filter(|(id, _)| **id != own) {
            let window = self.windows.entry(id).or_default();
            let is_full = window.bytes + self.untaken_bytes >= self.bytes_max;
            if is_full && !window.is_paced && progress.state == ProgressState::Replicate {
                window.pace(progress, progress.ins.count());
            }
        }
        self.untaken_bytes += bytes + ENTRY_OVERHEAD_BYTES;
    }

    /// What raft-rs wants sent: the appends among `messages` are under way.
    pub(crate) fn sent(&mut self, messages: &[Message]) {
        self.untaken_bytes = 0;
        for message in messages {
            let Some(last) = message.entries.last().map(|entry| entry.index) else { continue };
            if message.get_msg_type() == MessageType::MsgAppend {
                let charged = |data: usize| data + ENTRY_OVERHEAD_BYTES;
                let bytes = message.entries.iter().map(|entry| charged(entry.data.len())).sum();
                let window = self.windows.entry(message.to).or_default();
                window.flights.push_back((last, bytes));
                window.bytes += bytes;
            }
        }
    }

    /// A follower's acknowledgement up to `index` is about to be stepped: raft-rs frees its messages
    /// and sends what it can in one go.
    pub(crate) fn acknowledging(&mut self, raft: &mut Raft<LogTail>, follower: u64, index: u64) {
        let last = raft.raft_log.last_index();
        let Some(progress) = raft.mut_prs().get_mut(follower) else { return };
        let window = self.windows.entry(follower).or_default();
        window.free_to(index);
        let is_probed = progress.state != ProgressState::Replicate;
        if is_probed {
            window.clear();
        }
        let has_backlog = if is_probed { index < last } else { progress.next_idx <= last };
        if has_backlog {
            let room = window.room(self.bytes_max);
            window.pace(progress, room);
        }
    }

    /// A follower's answer to a heartbeat is about to be stepped: of a full window raft-rs frees the
    /// oldest message.
    pub(crate) fn heartbeat_answered(&mut self, raft: &Raft<LogTail>, follower: u64) {
        let is_full = raft.prs().get(follower).is_some_and(|progress| progress.ins.full());
        if let Some(window) = self.windows.get_mut(&follower).filter(|_| is_full)
            && let Some((_, bytes)) = window.flights.pop_front()
        {
            window.bytes -= bytes;
        }
    }

    /// Fetched entries are about to be handed to raft-rs, for a follower that is behind.
    pub(crate) fn fetched(&mut self, raft: &mut Raft<LogTail>) {
        let last = raft.raft_log.last_index();
        for (id, progress) in raft.mut_prs().iter_mut() {
            let is_behind = progress.next_idx <= last && progress.state == ProgressState::Replicate;
            if is_behind {
                let window = self.windows.entry(*id).or_default();
                let room = window.room(self.bytes_max);
                window.pace(progress, progress.ins.count() + room);
            }
        }
    }

    /// Lets one more message go to every paced follower that has room, and ends the pacing of those
    /// that have no backlog. While messages wait to be taken nobody's room is known.
    pub(crate) fn fill(&mut self, raft: &mut Raft<LogTail>) {
        if !raft.msgs.is_empty() {
            return;
        }
        let last = raft.raft_log.last_index();
        let leads = raft.state == StateRole::Leader;
        let bytes_max = self.bytes_max;
        for (&id, window) in self.windows.iter_mut().filter(|(_, window)| window.is_paced) {
            let Some(progress) = raft.mut_prs().get_mut(id) else { continue };
            if !leads || progress.next_idx > last {
                window.is_paced = false;
                progress.ins.set_cap(APPEND_INFLIGHT_MAX);
            } else if progress.state == ProgressState::Replicate {
                let room = window.room(bytes_max).min(1);
                window.pace(progress, progress.ins.count() + room);
                if room > 0 {
                    raft.send_append(id);
                }
            }
        }
        if !leads {
            self.windows.clear();
        }
    }
}

#[cfg(test)]
#[path = "append_window_tests.rs"]
mod tests;
