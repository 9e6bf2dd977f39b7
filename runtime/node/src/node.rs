//! Node: one process's part of a cluster, on threads of its own.
//!
//! ```text
//! Node::start ─→ storage, transport, actix System (own thread) → Supervisor → every actor
//! Node::group ─→ GroupHandle
//! Node::stop ──→ hand leadership over, end every actor, join every thread
//! ```
//!
//! Only this file picks adapters: LMDB for the ports of storage, QUIC for the transport's.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use polyraft_actors::clock::SystemClock;
use polyraft_actors::directory::Directory;
use polyraft_actors::entropy::SeededEntropy;
use polyraft_actors::group::TransferLeader;
use polyraft_actors::group_life::initial_status;
use polyraft_actors::log_writer::CreateGroup;
use polyraft_actors::node_parts::{NodeParts, NodeSettings, Slots};
use polyraft_actors::peer_link::LinkEvents;
use polyraft_actors::spawner::{ArbiterCounts, ArbiterSpawner, Spawner};
use polyraft_actors::supervisor::{CreateAndStart, start_supervisor};
use polyraft_actors::workers::{ThreadWorkers, Workers};
use polyraft_core::compaction::Retention;
use polyraft_core::entry::{Configuration, Member};
use polyraft_core::ids::{GroupId, NodeId, ReplicaId};
use polyraft_core::ports::{GroupAppend, GroupIdentity, LogStore, PeerAddress, StorageError, Transport};
use polyraft_core::state_machine::StateMachine;
use polyraft_core::status::{Health, Role};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::NodeConfig;
use crate::config_cluster::GroupSpec;
use crate::group_handle::GroupHandle;
use crate::node_error::{CreateGroupError, StartError};
use crate::node_status::NodeStatus;

/// Replica ids of a group's first members count from here, in the order of their nodes: far from
/// any node id, so that the two are never taken for each other.
const FIRST_REPLICA_ID: u64 = 101;

/// A running node. A cheap clone; the last one dropped does not stop it, [`Node::stop`] does.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    config: NodeConfig,
    parts: Arc<NodeParts>,
    adapters: Adapters,
    creating: tokio::sync::Mutex<()>,
    running: Mutex<Option<Running>>,
}

/// What ends with the node.
struct Running {
    stop: oneshot::Sender<()>,
    system: JoinHandle<()>,
}
