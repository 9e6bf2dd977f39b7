//! Errors of a node's own operations.

use std::path::PathBuf;

use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::ports::StorageError;
use polyraft_storage::OpenError;
use polyraft_transport::{IdentityError, IdentityPart};

use crate::config::TlsPaths;

/// Why certificate files are not in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// A certificate, key, authority or revocation file cannot be read.
    #[error("{} cannot be read", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be, or does not fit the others.
    #[error("{} cannot be used", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        #[source]
        source: IdentityError,
    },
}

impl ReloadError {
    /// Names the file that `source` is about.
    pub(crate) fn identity(paths: &TlsPaths, source: IdentityError) -> Self {
        let path = match source.part() {
            IdentityPart::Chain => Some(&paths.cert),
            IdentityPart::Key => Some(&paths.key),
            IdentityPart::Roots => Some(&paths.ca),
            IdentityPart::Crls => paths.crl.as_ref(),
        };
        Self::Identity { path: path.unwrap_or(&paths.cert).clone(), source }
    }
}

/// Why a node did not start. Nothing of it is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A certificate file cannot be read, or is not what it should be.
    #[error("the node's certificates cannot be used")]
    Certificates(#[from] ReloadError),
    /// The cluster's name cannot be part of a certificate.
    #[error("the cluster's name cannot be used")]
    ClusterName(#[from] polyraft_transport::NodeUriError),
    /// The data directory cannot be opened, or is another node's.
    #[error("the data directory cannot be opened")]
    Storage(#[from] OpenError),
    /// The QUIC endpoint cannot be opened.
    #[error("the transport cannot start")]
    Transport(#[from] polyraft_transport::StartError),
    /// A thread cannot be started.
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    /// A configured group cannot be created.
    #[error("a configured group cannot be created")]
    Group(#[from] CreateGroupError),
    /// The node's threads ended before it was ready.
    #[error("the node ended while it started")]
    Ended,
}

/// Why a group was not created. Nothing of it is left, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateGroupError {
    /// The name is empty or too long.
    #[error("group {group}: the name has {bytes} bytes; 1 to 255 are allowed")]
    Name {
        /// The group.
        group: GroupId,
        /// The name's length.
        bytes: usize,
    },
    /// The id is in use under another name.
    #[error("group {group} exists under the name {existing:?}, not {asked:?}")]
    IdTaken {
        /// The group.
        group: GroupId,
        /// Its name.
        existing: String,
        /// The name asked for.
        asked: String,
    },
    /// The name is in use under another id.
    #[error("the name {name:?} belongs to group {existing}, not {asked}")]
    NameTaken {
        /// The name.
        name: String,
        /// The group that has it.
        existing: GroupId,
        /// The id asked for.
        asked: GroupId,
    },
    /// This node is not among the group's nodes.
    #[error("group {group} has no replica on node {node}")]
    NotAMember {
        /// The group.
        group: GroupId,
        /// This node.
        node: NodeId,
    },
    /// The node hosts as many groups as it may.
    #[error("group {group}: this node hosts {groups} groups, its limit is {max}")]
    TooMany {
        /// The group.
        group: GroupId,
        /// Groups hosted.
        groups: usize,
        /// The limit.
        max: usize,
    },
    /// The group could not be made durable.
    #[error("group {group} cannot be stored")]
    Storage {
        /// The group.
        group: GroupId,
        /// What the storage said.
        #[source]
        source: StorageError,
    },
    /// The node is stopping, or its log writer died meanwhile: whether the group was created is
    /// unknown. Creating it again is safe.
    #[error("group {group}: the node is stopping or restarting its log writer")]
    Interrupted {
        /// The group.
        group: GroupId,
    },
}
