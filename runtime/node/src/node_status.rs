//! What a node says about itself, from published copies: nothing here waits for an actor (RT-7).

use std::time::Duration;

use polyraft_core::ids::NodeId;
use polyraft_core::ports::{CertificateFacts, LinkStatus};
use polyraft_core::status::GroupStatus;

/// A node as of now.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// The cluster's name.
    pub cluster: String,
    /// Links to the other nodes, ascending.
    pub peers: Vec<LinkStatus>,
    /// Groups with a replica here, ascending.
    pub groups: Vec<GroupStatus>,
    /// The log writer.
    pub log_writer: LogWriterStatus,
    /// Bytes of both environments on disk.
    pub storage_bytes: u64,
    /// Refused handshakes since the start, by reason.
    pub handshake_failures: Vec<(&'static str, u64)>,
    /// The certificates in force.
    pub certificates: CertificateStatus,
    /// Why this node acknowledges nothing any more, if a store has failed.
    pub storage_failure: Option<String>,
}

/// The certificates in force, and what became of attempts to replace them.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    /// This node's own.
    pub leaf: CertificateFacts,
    /// The trusted authorities', in their file's order; never empty.
    pub authorities: Vec<CertificateFacts>,
    /// How often other files came into force since the start.
    pub reloads: u64,
    /// How often files were refused since the start.
    pub reloads_failed: u64,
    /// Why the files that are there now are not in force, in words for a person.
    pub last_error: Option<String>,
}

impl CertificateStatus {
    /// When this node's own certificate ends, in seconds since 1970.
    pub fn leaf_expires(&self) -> u64 {
        self.leaf.not_after
    }

    /// When the first of the authorities' certificates ends, in seconds since 1970.
    pub fn authority_expires(&self) -> u64 {
        self.authorities.iter().map(|authority| authority.not_after).min().unwrap_or(0)
    }
}

/// How the log writer is doing.
#[derive(Debug, Clone, Copy)]
pub struct LogWriterStatus {
    /// Commits since its first life.
    pub commits: u64,
    /// How long the last commit took.
    pub last_commit: Duration,
    /// How long the commit, or the piece of garbage collection, under way has been running, if one is.
    pub in_commit_for: Option<Duration>,
    /// Whether the disk or the map is full: nothing is acknowledged until there is room.
    pub is_full: bool,
}
