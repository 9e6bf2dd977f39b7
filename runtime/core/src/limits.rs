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
