//! Limits that are part of the protocol, and the relations between them, checked when compiling.

/// Largest command a caller may propose (BP-16).
pub const COMMAND_BYTES_MAX: usize = 4 << 20;
/// Largest entry: a batch that holds one largest command, with its framing.
pub const ENTRY_BYTES_MAX: usize = COMMAND_BYTES_MAX + (64 << 10);
/// Most commands in one batch, whatever a profile asks.
pub const BATCH_COMMANDS_MAX: usize = 65_536;
/// Largest frame on a lane, without its length prefix.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// A link stops adding messages to a frame beyond this size (TR-9).
pub const FRAME_BYTES_TARGET: usize = 256 << 10;
/// Entries of one append message.
pub const APPEND_BYTES_MAX: usize = 1 << 20;
/// Append messages in flight to one follower (RF-6).
pub const APPEND_INFLIGHT_MAX: usize = 256;
/// Entries under way to one follower, in bytes; the append that crosses it still goes (RF-6). More
/// than 80 ms of a gigabit link, and half of what an outbox holds for all groups of a peer.
pub const APPEND_INFLIGHT_BYTES_MAX: usize = 32 << 20;
/// Entries that a leader may hold uncommitted, in bytes (RF-6).
pub const UNCOMMITTED_BYTES_MAX: usize = 64 << 20;
/// Committed entries handed to the applier by one ready, in bytes.
pub const COMMITTED_BYTES_PER_READY_MAX: usize = 4 << 20;
/// Longest key of a state machine's state: LMDB's 511 bytes less the group's prefix and a margin.
pub const STATE_KEY_BYTES_MAX: usize = 480;
/// First byte of the state keys that belong to the runtime; a machine may not write them, and does
/// not see them.
pub const STATE_KEY_RESERVED: u8 = 0;
/// Largest value of a state machine's state.
pub const STATE_VALUE_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(ENTRY_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_TARGET < FRAME_BYTES_MAX);
const _: () = assert!(APPEND_BYTES_MAX + ENTRY_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(APPEND_INFLIGHT_BYTES_MAX >= APPEND_BYTES_MAX + ENTRY_BYTES_MAX);
const _: () = assert!(UNCOMMITTED_BYTES_MAX >= APPEND_BYTES_MAX + ENTRY_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX <= STATE_VALUE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::*;
    use crate::batch::{self, Unit};
    use crate::entry::{EntryKind, LogEntry};
    use crate::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
    use crate::message::{Body, Envelope, RaftKind, RaftMessage};
    use crate::wire;

    fn largest_batch() -> Bytes {
        batch::encode(u64::MAX, [Unit::single(vec![0; COMMAND_BYTES_MAX].into())].iter())
    }

    fn largest_append() -> Envelope {
        let entry = |index, bytes: usize| LogEntry {
            index: LogIndex::new(index),
            term: Term::new(1),
            kind: EntryKind::Normal,
            data: vec![0; bytes].into(),
        };
        // What raft-rs may put into one message: less than the limit, and one entry that crosses it.
        let entries = vec![entry(1, APPEND_BYTES_MAX), entry(2, ENTRY_BYTES_MAX)];
        let message = RaftMessage { entries, ..RaftMessage::new(RaftKind::Append, Term::new(1)) };
        Envelope {
            group: GroupId::new(u64::MAX),
            from: ReplicaId::new(u64::MAX),
            to: ReplicaId::new(1),
            to_node: NodeId::new(1),
            body: Body::Raft(message),
        }
    }

    #[test]
    fn the_largest_command_fits_an_entry() {
        assert!(largest_batch().len() <= ENTRY_BYTES_MAX);
    }

    #[test]
    fn the_largest_append_fits_a_frame() {
        let mut frame = BytesMut::new();
        wire::append_envelope(&mut frame, largest_append());
        assert!(frame.len() <= FRAME_BYTES_MAX, "{} bytes", frame.len());
        assert_eq!(wire::decode_frame(frame.freeze(), NodeId::new(1)), Ok(vec![largest_append()]));
    }

    #[test]
    fn the_smallest_commands_of_a_full_batch_fit_an_entry() {
        let units = vec![Unit::single(Bytes::new()); BATCH_COMMANDS_MAX];
        let encoded = batch::encode(0, units.iter());
        assert!(encoded.len() <= ENTRY_BYTES_MAX);
        assert_eq!(batch::decode(encoded).map(|batch| batch.commands()), Ok(BATCH_COMMANDS_MAX));
    }

    /// Goal: nodes of different builds agree on what they may send each other and store. Method: the
    /// figures, in full; a change of one is a change of the protocol.
    #[test]
    fn the_limits_of_the_protocol_are_these() {
        let sent = [COMMAND_BYTES_MAX, ENTRY_BYTES_MAX, FRAME_BYTES_MAX, BATCH_COMMANDS_MAX];
        assert_eq!(sent, [4_194_304, 4_259_840, 8_388_608, 65_536]);
        let stored = [STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX, usize::from(STATE_KEY_RESERVED)];
        assert_eq!(stored, [480, 16_777_216, 0]);
    }
}
