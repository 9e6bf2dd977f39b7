//! Ports: what the core needs of a disk and a network, and nothing of how they do it.
//!
//! ```text
//! Replica ─GroupAppend→ LogStore      (one durable commit for many groups)
//! Replica ←entries──── LogReader      (entries older than the in-memory tail)
//! Applier ─StateFlush→ StateStore     (one transaction for many groups)
//! PeerLink ─frame────→ Transport ─frame→ TransportEvents
//! ```
//!
//! The production adapters are in `polyraft-storage` and `polyraft-transport`; tests and the
//! simulator bring their own. Only `polyraft` (runtime/node) picks adapters.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::entry::{CompactionPoint, Configuration, HardState, LogEntry};
use crate::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use crate::state_machine::State;

/// What one group wants made durable, as part of one commit. Applied in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupAppend {
    /// The group.
    pub group: GroupId,
    /// Set once, when the group is created on this node.
    pub create: Option<GroupIdentity>,
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// The new configuration, if it changed.
    pub configuration: Option<Configuration>,
    /// Contiguous entries. Whatever the log held from the first one's index on is replaced, durably.
    pub entries: Vec<LogEntry>,
    /// Entries up to and including this point are no longer needed.
    pub compact: Option<CompactionPoint>,
}

impl GroupAppend {
    /// An append that changes nothing yet.
    pub fn empty(group: GroupId) -> Self {
        Self {
            group,
            create: None,
            hard_state: None,
            configuration: None,
            entries: Vec::new(),
            compact: None,
        }
    }

    /// Bytes charged against the byte cap of one commit.
    pub fn charged_bytes(&self) -> usize {
        self.entries.iter().map(LogEntry::charged_bytes).sum::<usize>() + 64
    }
}

/// Who a group is on this node; written at its creation and never changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupIdentity {
    /// The group's name, unique in the cluster: 1 to 255 bytes of UTF-8.
    pub name: String,
    /// This node's replica of the group.
    pub replica: ReplicaId,
}

/// Everything a replica needs to start from disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredLog {
    /// Who it is.
    pub identity: GroupIdentity,
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The latest durable configuration.
    pub configuration: Configuration,
    /// Entries up to and including this point are gone.
    pub compacted: CompactionPoint,
    /// Index of the last durable entry; `compacted.index` for an empty log.
    pub last: LogIndex,
    /// For every live entry its term, run-length encoded: the first index of each run, ascending.
    pub term_runs: Vec<(LogIndex, Term)>,
    /// The entries after the index that `restore` was asked for, up to `last`.
    pub entries: Vec<LogEntry>,
}

/// Figures of one durable commit, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitStats {
    /// Bytes written to the journal.
    pub bytes: u64,
    /// Entries written.
    pub entries: u64,
    /// Time from the first write to the disk until all of it was durable.
    pub sync: Duration,
}

/// What a log store holds and has thrown away since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Bytes of the records that it holds.
    pub bytes: u64,
    /// Beyond this many, garbage is collected.
    pub bytes_max: u64,
    /// Bytes of records that garbage collection removed. Only grows.
    pub collected_bytes: u64,
}

/// The durable log of every group on a node. One writer owns it; it lives on a thread of its own.
///
/// After a write that failed the store is poisoned: every later call fails too, and nothing is
/// acknowledged again by this process (ST-12). `Full`, and an error about one group, wrote nothing.
pub trait LogStore: Send {
    /// Makes all `appends` durable in one atomic commit. Blocks for the sync.
    ///
    /// # Errors
    /// The commit did not become durable, or may not have: the caller must stop acknowledging.
    fn commit(&mut self, appends: &[GroupAppend]) -> Result<CommitStats, StorageError>;

    /// Makes those of the compactions durable that the group's durable log reaches already, even where
    /// there is no room for a commit; the others are left alone. A commit may bring them again.
    ///
    /// # Errors
    /// As for [`LogStore::commit`].
    fn compact(&mut self, points: &[(GroupId, CompactionPoint)]) -> Result<(), StorageError>;

    /// Reads a group's durable log, with the entries after `applied`. Healthy groups are unaffected
    /// by the corruption of another.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] quarantines this group; [`StorageError::UnknownGroup`] if it was
    /// never created here.
    fn restore(&self, group: GroupId, applied: LogIndex) -> Result<RestoredLog, StorageError>;

    /// The groups that exist on this node, ascending.
    fn groups(&self) -> Vec<(GroupId, GroupIdentity)>;

    /// Does one bounded piece of garbage collection. Returns whether more is waiting.
    ///
    /// # Errors
    /// As for [`LogStore::commit`].
    fn collect_garbage(&mut self) -> Result<bool, StorageError>;

    /// A reader for other threads.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// Figures for metrics; none, unless overridden.
    fn stats(&self) -> LogStats {
        LogStats::default()
    }
}

/// Reads durable entries from any thread.
pub trait LogReader: Send + Sync {
    /// Durable entries of `range`, from its start, stopping before `bytes_max` charged bytes are
    /// exceeded but never before the first entry.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if the start is gone, [`StorageError::Corrupt`] on a bad checksum.
    fn entries(
        &self,
        group: GroupId,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StorageError>;
}

/// The durable state of every group's state machine on a node.
pub trait StateStore: Send + Sync {
    /// Opens a group's state: durable base plus an empty write buffer. A group that has no state yet
    /// starts empty with applied index 0.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] or [`StorageError::Io`].
    fn open(&self, group: GroupId) -> Result<Box<dyn GroupState>, StorageError>;

    /// Makes the write buffers of many groups and their applied indexes durable, in one atomic
    /// transaction (AP-8). Blocks for the sync. Flushing the same buffer twice is harmless. Returns how
    /// many applied indexes were found damaged, and written anew.
    ///
    /// # Errors
    /// Nothing may be assumed durable; the store is poisoned.
    fn flush(&self, flushes: &[StateFlush]) -> Result<usize, StorageError>;
}

/// One group's state as its applier sees it: the durable base under a frozen and an active buffer.
pub trait GroupState: State + Send {
    /// The last applied index and its term, buffered or durable.
    fn applied(&self) -> (LogIndex, Term);

    /// The applied index that the durable base has reached.
    fn durable_applied(&self) -> LogIndex;

    /// Records that everything up to `index` is applied, in the active buffer.
    fn set_applied(&mut self, index: LogIndex, term: Term);

    /// Starts a unit of work: `rollback` returns to here. Ends the unit before.
    fn begin(&mut self);

    /// Undoes every write since the last `begin`: a command was rejected or failed.
    fn rollback(&mut self);

    /// Bytes in the active buffer.
    fn buffered_bytes(&self) -> usize;

    /// Freezes the active buffer for a flush; `None` while an earlier one is still being flushed or
    /// when nothing was applied since.
    fn freeze(&mut self) -> Option<StateFlush>;

    /// Tells that the frozen buffer is durable: reads go to the base again.
    fn flushed(&mut self);
}

/// A frozen write buffer: what one group adds to one flush. A cheap clone.
#[derive(Debug, Clone)]
pub struct StateFlush {
    /// The group.
    pub group: GroupId,
    /// The applied index that the writes bring the state to.
    pub applied: LogIndex,
    /// The term of the entry at `applied`.
    pub applied_term: Term,
    /// Key to value, or `None` for a deletion; ascending by key.
    pub writes: Arc<std::collections::BTreeMap<Bytes, Option<Bytes>>>,
}

/// What a disk did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The group was never created on this node.
    #[error("group {group} does not exist here")]
    UnknownGroup {
        /// The group asked for.
        group: GroupId,
    },
    /// The entries asked for were compacted away.
    #[error("group {group}: entry {index} was compacted away; the log starts after {compacted}")]
    Compacted {
        /// The group asked for.
        group: GroupId,
        /// The first entry asked for.
        index: LogIndex,
        /// Entries up to and including this one are gone.
        compacted: LogIndex,
    },
    /// Bytes on disk are not what was written. The group is quarantined, never truncated.
    #[error("group {group}: corrupt {what}")]
    Corrupt {
        /// The group whose data is damaged.
        group: GroupId,
        /// The record and the rule that it breaks.
        what: String,
    },
    /// The map or the disk is full. Nothing was written; it may be retried after space is freed.
    #[error("storage is full: {what}")]
    Full {
        /// Which limit was hit.
        what: String,
    },
    /// The environment failed: this process must not acknowledge anything again.
    #[error("storage failed while {doing}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// What the disk said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An earlier failure poisoned the store.
    #[error("storage is poisoned by an earlier failure")]
    Poisoned,
}

/// Separate streams between two nodes: a slow one never delays the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, read-index.
    Control,
    /// Appends and their acknowledgements.
    Append,
    /// Forwarded proposals and other typed requests, with their replies.
    Request,
}

impl Lane {
    /// Every lane, in order of service.
    pub const ALL: [Self; 3] = [Self::Control, Self::Append, Self::Request];

    /// Its name in messages, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Append => "append",
            Self::Request => "request",
        }
    }
}

/// Where a node listens. `host` is re-resolved on every dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// The node.
    pub node: NodeId,
    /// `host:port` of its QUIC endpoint.
    pub address: String,
}

/// Sends frames to peers. May drop them and reorder across lanes; keeps order within a lane of one
/// connection. May repeat what is Raft's, but nothing on [`Lane::Request`]: a forwarded proposal that
/// arrives twice is proposed twice. Never blocks.
pub trait Transport: Send + Sync + 'static {
    /// Hands over one frame of at most [`crate::limits::FRAME_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// The frame was not taken; see [`SendError`].
    fn try_send(&self, peer: NodeId, lane: Lane, frame: Bytes) -> Result<(), SendError>;

    /// Replaces the set of peers, live: new ones are dialled, gone ones are dropped. This node's own
    /// entry is ignored.
    fn set_peers(&self, peers: &[PeerAddress]);

    /// What is known of the link to each peer, ascending by node.
    fn link_status(&self) -> Vec<LinkStatus>;

    /// Stops dialling, listening and sending. Idempotent.
    fn shutdown(&self);
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The lane's queue is full; `on_writable` follows when there is room.
    #[error("lane is full")]
    Full,
    /// There is no connection; `on_connected` follows when there is.
    #[error("peer is not connected")]
    Disconnected,
    /// The node is not a peer.
    #[error("node is not a peer")]
    UnknownPeer,
    /// The frame is larger than a frame may be.
    #[error("frame is larger than the limit")]
    TooLarge,
}

/// Receives what a transport has for this node. Called from the transport's own threads; must not
/// block.
pub trait TransportEvents: Send + Sync + 'static {
    /// A frame from an authenticated peer. `Err` gives it back because the receiver is busy: the
    /// adapter keeps it, stops reading that lane and offers it again after a short pause.
    ///
    /// # Errors
    /// The receiver is busy.
    fn on_frame(&self, from: NodeId, lane: Lane, frame: Bytes) -> Result<(), Bytes>;

    /// A lane that refused a frame as `Full` has room again.
    fn on_writable(&self, peer: NodeId, lane: Lane);

    /// A connection to `peer` is up, with every lane.
    fn on_connected(&self, peer: NodeId);

    /// The connection to `peer` is gone; frames handed over before may be lost.
    fn on_disconnected(&self, peer: NodeId);
}

/// A link as seen from this side. Counters only grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// The peer.
    pub peer: NodeId,
    /// Its configured address.
    pub address: String,
    /// Whether a connection is up.
    pub connected: bool,
    /// The address in use, if connected.
    pub remote: Option<SocketAddr>,
    /// Smoothed round trip in microseconds, if connected.
    pub round_trip_us: Option<u64>,
    /// Frames and bytes sent and received.
    pub traffic: LinkTraffic,
    /// What the two showed each other, if connected and authenticated.
    pub certificates: Option<LinkCertificates>,
    /// How often the link came up since the start.
    pub connects: u64,
    /// How often a connection took the place of one that worked, as when a certificate is renewed. The
    /// link stays up.
    pub takeovers: u64,
    /// Why the last attempt or connection ended, in words for a person.
    pub last_error: Option<String>,
}

/// The certificates that a connection was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkCertificates {
    /// Whether this node showed the certificate that it has now.
    pub own_is_current: bool,
    /// The peer's.
    pub peer: CertificateFacts,
}

/// What is said of a certificate. Times are in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// Whose it is: the common name, or the whole name without one.
    pub subject: String,
    /// Who signed it, in the same way.
    pub issuer: String,
    /// When it begins to be valid.
    pub not_before: u64,
    /// When it ends.
    pub not_after: u64,
}

/// Counters of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkTraffic {
    /// Frames sent.
    pub frames_out: u64,
    /// Bytes sent, with framing.
    pub bytes_out: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Bytes received, with framing.
    pub bytes_in: u64,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;
    use crate::ids::Term;

    #[test]
    fn an_empty_append_changes_nothing() {
        let empty = GroupAppend {
            group: GroupId::new(3),
            create: None,
            hard_state: None,
            configuration: None,
            entries: Vec::new(),
            compact: None,
        };
        assert_eq!(GroupAppend::empty(GroupId::new(3)), empty);
    }

    #[test]
    fn an_append_is_charged_for_its_entries_and_itself() {
        let entry = |index| LogEntry {
            index: LogIndex::new(index),
            term: Term::new(1),
            kind: EntryKind::Normal,
            data: Bytes::from_static(b"12345678"),
        };
        let mut append = GroupAppend::empty(GroupId::new(1));
        assert_eq!(append.charged_bytes(), 64);
        append.entries = vec![entry(1), entry(2)];
        assert_eq!(append.charged_bytes(), 64 + 2 * entry(1).charged_bytes());
    }

    #[test]
    fn lanes_are_numbered_in_order_of_service() {
        assert_eq!(Lane::ALL.map(|lane| lane as usize), [0, 1, 2]);
    }

    #[test]
    fn lanes_print_as_they_are_called_in_metrics() {
        assert_eq!(Lane::ALL.map(|lane| lane.to_string()), ["control", "append", "request"]);
        assert_eq!(Lane::ALL.map(Lane::as_str), ["control", "append", "request"]);
    }

    #[test]
    fn storage_errors_name_the_group_and_the_place() {
        let group = GroupId::new(5);
        let (index, compacted) = (LogIndex::new(7), LogIndex::new(9));
        let texts = [
            StorageError::UnknownGroup { group },
            StorageError::Compacted { group, index, compacted },
            StorageError::Corrupt { group, what: "entry".into() },
            StorageError::Full { what: "map".into() },
            StorageError::Poisoned,
        ]
        .map(|error| error.to_string());
        let expected = [
            "group 5 does not exist here",
            "group 5: entry 7 was compacted away; the log starts after 9",
            "group 5: corrupt entry",
            "storage is full: map",
            "storage is poisoned by an earlier failure",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn an_io_error_keeps_its_cause() {
        let source = Box::new(std::io::Error::other("unplugged"));
        let error = StorageError::Io { doing: "syncing", source };
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(error.to_string(), "storage failed while syncing");
        assert_eq!(cause.as_deref(), Some("unplugged"));
    }

    #[test]
    fn send_errors_say_what_to_wait_for() {
        use SendError::{Disconnected, Full, TooLarge, UnknownPeer};
        let texts = [Full, Disconnected, UnknownPeer, TooLarge].map(|error| error.to_string());
        let expected = [
            "lane is full",
            "peer is not connected",
            "node is not a peer",
            "frame is larger than the limit",
        ];
        assert_eq!(texts, expected);
    }
}
