//! Outbox of one peer: many groups' messages, few frames.
//!
//! ```text
//! groups ─push→ ┬ control ┬─next_frame→ one frame, at most 256 KiB → lane
//!               ├ append  ┤
//!               ├ request ┘
//!               └ plain heartbeats: the latest per replica, aside ─release_heartbeats→ control
//! ```
//!
//! Promise: a lane keeps its order and its byte limit; what does not fit is dropped, counted and
//! named, so that the caller can tell raft-rs that the replica is unreachable (DESIGN §3, rule 13).
//! Between two `release_heartbeats` the plain heartbeats of all groups take one frame (TK-5): 10,000
//! of them fit. A heartbeat that confirms a read goes at once, in order.
//!
//! Not here: sending, and keeping a frame that a full lane gave back (the link's actor).

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::ids::{GroupId, ReplicaId};
use crate::limits::{FRAME_BYTES_MAX, FRAME_BYTES_TARGET};
use crate::message::{Body, Envelope};
use crate::ports::Lane;
use crate::wire;

/// Most charged bytes that may wait on each lane. Each at least [`FRAME_BYTES_MAX`], so that an empty
/// lane takes any envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    /// On [`Lane::Control`]. Default: 8 MiB, some 50,000 messages.
    pub control_bytes_max: usize,
    /// On [`Lane::Append`]. Default: 64 MiB.
    pub append_bytes_max: usize,
    /// On [`Lane::Request`]. Default: 32 MiB.
    pub request_bytes_max: usize,
    /// A frame takes no further envelope beyond this many bytes; 0 gives each envelope a frame of its
    /// own, heartbeats excepted. Default: [`FRAME_BYTES_TARGET`].
    pub frame_bytes_target: usize,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self {
            control_bytes_max: FRAME_BYTES_MAX,
            append_bytes_max: 64 << 20,
            request_bytes_max: 32 << 20,
            frame_bytes_target: FRAME_BYTES_TARGET,
        }
    }
}

/// An addressee: a replica of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The group.
    pub group: GroupId,
    /// Its replica on the peer.
    pub replica: ReplicaId,
}

impl Destination {
    fn of(envelope: &Envelope) -> Self {
        Self { group: envelope.group, replica: envelope.to }
    }
}

/// An envelope that was dropped: tell its group that the destination is unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("group {}: message to replica {} dropped, {reason}", to.group, to.replica)]
pub struct Dropped {
    /// Whom it was for.
    pub to: Destination,
    /// Why it was dropped.
    pub reason: DropReason,
}

/// Why an envelope was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DropReason {
    /// Its lane holds as many bytes as it may.
    #[error("the {lane} lane is full")]
    Full {
        /// The lane.
        lane: Lane,
    },
    /// It would not fit a frame by itself.
    #[error("{bytes} bytes do not fit a frame")]
    TooLarge {
        /// What it is charged.
        bytes: usize,
    },
}

/// What an outbox has done and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboxStats {
    /// Per lane, in the order of [`Lane::ALL`].
    pub lanes: [LaneStats; Lane::ALL.len()],
    /// Heartbeats that are aside or released, and not in a frame yet.
    pub heartbeats_held: usize,
    /// Heartbeats that a later one replaced.
    pub heartbeats_merged: u64,
    /// Frames with heartbeats, those included that confirm reads.
    pub heartbeat_frames: u64,
}

/// Figures of one lane. Counters only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneStats {
    /// Envelopes waiting.
    pub queued: usize,
    /// Bytes charged for them.
    pub queued_bytes: usize,
    /// Envelopes dropped, by `push` or `clear`.
    pub dropped: u64,
    /// Frames made.
    pub frames: u64,
    /// Envelopes in those frames.
    pub framed: u64,
    /// Bytes of those frames.
    pub framed_bytes: u64,
}

/// Envelopes on their way to one node.
#[derive(Debug)]
pub struct Outbox {
    lanes: [LaneQueue; Lane::ALL.len()],
    /// The latest plain heartbeat for each replica, until the interval has passed.
    aside: BTreeMap<Destination, Envelope>,
    /// Heartbeats that go into the next control frame.
    released: BTreeMap<Destination, Envelope>,
    heartbeats_merged: u64,
    heartbeat_frames: u64,
    frame_bytes_target: usize,
    /// Frames are cut from here, so that small ones share an allocation.
    buffer: BytesMut,
}

#[derive(Debug)]
struct LaneQueue {
    queue: VecDeque<Queued>,
    bytes_max: usize,
    stats: LaneStats,
}

#[derive(Debug)]
struct Queued {
    envelope: Envelope,
    charged_bytes: usize,
}

impl LaneQueue {
    fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.max(FRAME_BYTES_MAX);
        Self { queue: VecDeque::new(), bytes_max, stats: LaneStats::default() }
    }

    fn has_room(&self, charged_bytes: usize) -> bool {
        self.stats.queued_bytes + charged_bytes <= self.bytes_max
    }

    fn push(&mut self, queued: Queued) {
        self.stats.queued += 1;
        self.stats.queued_bytes += queued.charged_bytes;
        self.queue.push_back(queued);
    }

    /// Takes the next envelope if it fits `room` bytes.
    fn pop_within(&mut self, room: usize) -> Option<Queued> {
        self.queue.front().filter(|next| next.charged_bytes <= room)?;
        let queued = self.queue.pop_front()?;
        self.stats.queued -= 1;
        self.stats.queued_bytes -= queued.charged_bytes;
        Some(queued)
    }
}

impl Outbox {
    /// An empty outbox. Limits below [`FRAME_BYTES_MAX`] are raised to it.
    pub fn new(limits: OutboxLimits) -> Self {
        let lanes = Lane::ALL.map(|lane| {
            LaneQueue::new(match lane {
                Lane::Control => limits.control_bytes_max,
                Lane::Append => limits.append_bytes_max,
                Lane::Request => limits.request_bytes_max,
            })
        });
        Self {
            lanes,
            aside: BTreeMap::new(),
            released: BTreeMap::new(),
            heartbeats_merged: 0,
            heartbeat_frames: 0,
            frame_bytes_target: limits.frame_bytes_target,
            buffer: BytesMut::new(),
        }
    }

    /// Queues an envelope on its lane. A plain heartbeat is put aside until `release_heartbeats`,
    /// in place of an earlier one to the same replica; there is at most one per group, so they are
    /// not charged.
    ///
    /// # Errors
    /// The envelope was dropped; tell its group that the destination is unreachable.
    pub fn push(&mut self, envelope: Envelope) -> Result<(), Dropped> {
        let to = Destination::of(&envelope);
        if matches!(&envelope.body, Body::Raft(message) if message.is_plain_heartbeat()) {
            let replaced = self.aside.insert(to, envelope);
            self.heartbeats_merged += u64::from(replaced.is_some());
            return Ok(());
        }
        let (lane, charged_bytes) = (envelope.lane(), envelope.charged_bytes());
        let queue = &mut self.lanes[lane as usize];
        let reason = if charged_bytes > FRAME_BYTES_MAX {
            DropReason::TooLarge { bytes: charged_bytes }
        } else if !queue.has_room(charged_bytes) {
            DropReason::Full { lane }
        } else {
            queue.push(Queued { envelope, charged_bytes });
            return Ok(());
        };
        queue.stats.dropped += 1;
        Err(Dropped { to, reason })
    }

    /// Lets the heartbeats that were put aside go with the next control frame. Call once per
    /// heartbeat interval.
    pub fn release_heartbeats(&mut self) {
        if self.released.is_empty() {
            std::mem::swap(&mut self.released, &mut self.aside);
            return;
        }
        let released = self.released.len() + self.aside.len();
        self.released.append(&mut self.aside);
        self.heartbeats_merged += (released - self.released.len()) as u64;
    }

    /// Whether `next_frame` would return a frame.
    pub fn has_frame(&self, lane: Lane) -> bool {
        let heartbeats = lane == Lane::Control && !self.released.is_empty();
        heartbeats || !self.lanes[lane as usize].queue.is_empty()
    }

    /// Encodes what waits on `lane` into one frame: released heartbeats first and all together,
    /// else up to the target's bytes of envelopes, at least one. `None` if nothing waits.
    pub fn next_frame(&mut self, lane: Lane) -> Option<Bytes> {
        if lane == Lane::Control && !self.released.is_empty() {
            return Some(self.heartbeat_frame());
        }
        let queue = &mut self.lanes[lane as usize];
        let mut taken = 0;
        let mut beats = false;
        let mut room = self.frame_bytes_target;
        // The first envelope may be larger than the target; it is never larger than a frame.
        let mut next = queue.pop_within(FRAME_BYTES_MAX);
        while let Some(queued) = next {
            self.buffer.reserve(queued.charged_bytes);
            beats |= queued.envelope.body.is_heartbeat();
            wire::append_envelope(&mut self.buffer, queued.envelope);
            taken += 1;
            room = room.saturating_sub(queued.charged_bytes);
            next = queue.pop_within(room);
        }
        self.heartbeat_frames += u64::from(beats);
        (taken > 0).then(|| self.cut_frame(lane, taken))
    }

    /// Drops everything that waits, heartbeats included, and returns whom it was for, each once.
    pub fn clear(&mut self) -> Vec<Destination> {
        let mut destinations: Vec<_> =
            self.aside.keys().chain(self.released.keys()).copied().collect();
        self.lanes[Lane::Control as usize].stats.dropped += destinations.len() as u64;
        self.aside.clear();
        self.released.clear();
        for lane in &mut self.lanes {
            lane.stats.dropped += lane.queue.len() as u64;
            (lane.stats.queued, lane.stats.queued_bytes) = (0, 0);
            destinations
                .extend(lane.queue.drain(..).map(|queued| Destination::of(&queued.envelope)));
        }
        destinations.sort_unstable();
        destinations.dedup();
        destinations
    }

    /// A copy of the figures.
    pub fn stats(&self) -> OutboxStats {
        OutboxStats {
            lanes: Lane::ALL.map(|lane| self.lanes[lane as usize].stats),
            heartbeats_held: self.aside.len() + self.released.len(),
            heartbeats_merged: self.heartbeats_merged,
            heartbeat_frames: self.heartbeat_frames,
        }
    }

    /// Encodes released heartbeats until none is left or the frame is as large as a frame may be.
    fn heartbeat_frame(&mut self) -> Bytes {
        let mut taken = 0;
        while let Some(next) = self.released.first_entry() {
            if self.buffer.len() + next.get().charged_bytes() > FRAME_BYTES_MAX {
                break;
            }
            wire::append_envelope(&mut self.buffer, next.remove());
            taken += 1;
        }
        self.heartbeat_frames += 1;
        self.cut_frame(Lane::Control, taken)
    }

    fn cut_frame(&mut self, lane: Lane, taken: u64) -> Bytes {
        let frame = self.buffer.split().freeze();
        assert!(frame.len() <= FRAME_BYTES_MAX, "a frame of {} bytes", frame.len());
        let stats = &mut self.lanes[lane as usize].stats;
        stats.frames += 1;
        stats.framed += taken;
        stats.framed_bytes += frame.len() as u64;
        frame
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
