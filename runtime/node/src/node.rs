//! Node: one process's part of a cluster, on threads of its own.
//!
//! ```text
//! Node::start ─→ storage, transport, actix System (own thread) → Supervisor → every actor
//! Node::group ─→ GroupHandle
//! Node::stop ──→ hand leadership over, end every actor, join every thread
//! ```
//!
//! Only this file picks adapters: LMDB for the ports of storage, QUIC for the transport's.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use polyraft_actors::directory::GroupCell;
use polyraft_actors::group_life::initial_status;
use polyraft_actors::log_writer::CreateGroup;
use polyraft_actors::node_parts::NodeParts;
use polyraft_actors::supervisor::CreateAndStart;
use polyraft_core::entry::{Configuration, Member};
use polyraft_core::ids::{GroupId, NodeId, ReplicaId};
use polyraft_core::ports::{GroupAppend, GroupIdentity, LinkStatus, PeerAddress, Transport};
use polyraft_core::state_machine::StateMachine;
use polyraft_core::status::Role;
use polyraft_storage::lmdb::LmdbTable;
use polyraft_transport::QuicTransport;
use tokio::sync::oneshot;

use crate::call_figures::CallFigures;
use crate::certificate_files::{self, CertificateFiles};
use crate::chaos::Chaos;
use crate::config::NodeConfig;
use crate::config_cluster::GroupSpec;
use crate::group_handle::GroupHandle;
use crate::node_error::{CreateGroupError, ReloadError, StartError};
use crate::node_start::{self, Started};
use crate::node_status::{LogWriterStatus, NodeStatus};
use crate::observer::Observer;
use crate::seams::Seams;

/// Replica ids of a group's first members count from here, in the order of their nodes: far from
/// most node ids, so that the two are not taken for each other.
const FIRST_REPLICA_ID: u64 = 101;
/// Longest name of a group, in bytes.
const GROUP_NAME_BYTES_MAX: usize = 255;
/// Longest that a stopping node waits for other nodes to take its leaderships over.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// How long a stopping node gives them between two looks.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(50);

/// A running node. A cheap clone. [`Node::stop`] ends it in good order; dropping the last clone ends
/// it abruptly, as a crash would: nothing acknowledged is lost, and callers get `Unknown`.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    config: NodeConfig,
    parts: Arc<NodeParts>,
    transport: Arc<QuicTransport>,
    tables: [LmdbTable; 2],
    certificates: Arc<CertificateFiles>,
    chaos: Option<Chaos>,
    figures: Arc<CallFigures>,
    creating: Mutex<()>,
    running: Mutex<Option<Running>>,
}

/// What ends with the node.
pub(crate) struct Running {
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) thread: JoinHandle<()>,
    pub(crate) observer: Observer,
}

impl Node {
    /// Starts a node: opens its data directory, listens, starts the groups that are stored there,
    /// and creates the configured ones that are not. Does not wait for leaders or peers (TR-10).
    ///
    /// `machine` makes the state machine of a group; it is called again whenever one is rebuilt, on
    /// a thread of the node's that it should not block. The spec it is given names the group, not
    /// its nodes.
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Cancellation
    /// Not safe: a node whose start is dropped may go on running until the process ends.
    pub async fn start(
        config: NodeConfig,
        machine: impl Fn(&GroupSpec) -> Box<dyn StateMachine> + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        Self::start_with_seams(config, machine, Seams::default()).await
    }

    /// As [`Node::start`], with something between the node and its adapters, for measurements and
    /// fault injection.
    ///
    /// # Errors
    /// See [`StartError`].
    #[doc(hidden)]
    pub async fn start_with_seams(
        config: NodeConfig,
        machine: impl Fn(&GroupSpec) -> Box<dyn StateMachine> + Send + Sync + 'static,
        seams: Seams,
    ) -> Result<Self, StartError> {
        let (certificates, identity) = CertificateFiles::open(config.tls())?;
        let certificates = Arc::new(certificates);
        let started = node_start::start(&config, identity, Box::new(machine), seams).await?;
        let Started { parts, transport, tables, chaos, running } = started;
        transport.set_peers(&peers(&config));
        let (files, link) = (Arc::downgrade(&certificates), Arc::downgrade(&transport));
        transport.spawn(certificate_files::watch(files, link, config.tls_reload_interval()));
        let node = Self {
            inner: Arc::new(Inner {
                config,
                parts,
                transport,
                tables,
                certificates,
                chaos,
                figures: CallFigures::new(),
                creating: Mutex::new(()),
                running: Mutex::new(Some(running)),
            }),
        };
        for spec in node.inner.config.cluster().groups().to_vec() {
            if spec.nodes().contains(&node.id()) {
                node.create_group(spec).await?;
            }
        }
        Ok(node)
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.inner.parts.node
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        self.inner.config.cluster().name()
    }

    /// The configuration that the node was started with.
    pub fn config(&self) -> &NodeConfig {
        &self.inner.config
    }

    /// The group with this name, if it has a replica here.
    pub fn group(&self, name: &str) -> Option<GroupHandle> {
        let named = self.inner.parts.directory.group_named(name);
        named.map(|(id, cell)| self.handle(id, cell))
    }

    /// Every group with a replica here, ascending by id.
    pub fn groups(&self) -> Vec<GroupHandle> {
        let groups = self.inner.parts.directory.groups();
        groups.into_iter().map(|(id, cell)| self.handle(id, cell)).collect()
    }

    /// Creates this node's replica of a group, durably, and starts it; a group that exists is
    /// returned as it is. Every node of the group must create it with the same id, name and nodes;
    /// names are 1 to 255 bytes. Returns before the group has a leader.
    ///
    /// # Errors
    /// See [`CreateGroupError`].
    ///
    /// # Cancellation
    /// Dropping the future is safe; the group may be created all the same.
    pub async fn create_group(&self, spec: GroupSpec) -> Result<GroupHandle, CreateGroupError> {
        let group = spec.id();
        let (cell, create) = match self.admit(&spec)? {
            Admitted::Exists(handle) => return Ok(handle),
            Admitted::New(cell, create) => (cell, create),
        };
        let interrupted = || CreateGroupError::Interrupted { group };
        let supervisor = self.inner.parts.supervisor().ok_or_else(interrupted)?;
        let (reply, created) = oneshot::channel();
        let message =
            CreateAndStart { create: CreateGroup { append: *create, reply }, cell: cell.clone() };
        supervisor.try_send(message).map_err(|_| interrupted())?;
        match created.await {
            Ok(Ok(())) => Ok(self.handle(group, cell)),
            Ok(Err(source)) => Err(CreateGroupError::Storage { group, source }),
            Err(_) => Err(interrupted()),
        }
    }

    /// What the node says about itself. Never waits for an actor or a disk (RT-7).
    pub fn status(&self) -> NodeStatus {
        let Inner { parts, transport, certificates, .. } = &*self.inner;
        let progress = &parts.log_progress;
        NodeStatus {
            node: parts.node,
            cluster: self.cluster().to_owned(),
            peers: self.links(),
            groups: parts.directory.groups().iter().map(|(_, cell)| cell.status()).collect(),
            log_writer: LogWriterStatus {
                commits: progress.commits(),
                last_commit: progress.last_commit(),
                in_commit_for: progress.in_commit_for(parts.clock.now()),
                is_full: progress.is_full(),
            },
            storage_bytes: self.storage_bytes(),
            handshake_failures: self.handshake_failures(),
            certificates: certificates.status(transport),
            storage_failure: self.storage_failure(),
        }
    }

    /// The part of [`Node::status`] about links to other nodes, ascending; whatever the groups.
    pub fn links(&self) -> Vec<LinkStatus> {
        self.inner.parts.transport.link_status()
    }

    /// The part of [`Node::status`] about refused handshakes, by reason.
    pub fn handshake_failures(&self) -> Vec<(&'static str, u64)> {
        let failures = self.inner.transport.handshake_failures().into_iter();
        failures.map(|(reason, count)| (reason.label(), count)).collect()
    }

    /// The part of [`Node::status`] about the size of both environments on disk, in bytes.
    pub fn storage_bytes(&self) -> u64 {
        self.inner.tables.iter().filter_map(|table| table.file_bytes().ok()).sum()
    }

    /// The part of [`Node::status`] about a store that has failed.
    pub fn storage_failure(&self) -> Option<String> {
        self.inner.parts.storage_failure().map(str::to_owned)
    }

    /// How long the slowest of the node's threads that must never block has not answered: a few
    /// dozen milliseconds at rest. It grows without bound while a thread, the timer's included,
    /// hangs; a slow disk or a lost quorum does not move it. What a process supervisor wants to know.
    pub fn silent_for(&self) -> Duration {
        let parts = &self.inner.parts;
        parts.stalls().map_or(Duration::ZERO, |stalls| stalls.silent_for(parts.clock.now()))
    }

    /// Replaces the node's certificates by what the configured files hold now, at once; a node does so
    /// by itself when they change. Peers that are no longer allowed are disconnected; other links are
    /// made anew without going down. Reads a few small files.
    ///
    /// # Errors
    /// The files cannot be used; the old certificates stay in force.
    pub fn reload_certificates(&self) -> Result<(), ReloadError> {
        self.inner.certificates.reload(&self.inner.transport)
    }

    /// Injects faults into this node, if it was started for that ([`NodeConfig::with_chaos`]).
    pub fn chaos(&self) -> Option<&Chaos> {
        self.inner.chaos.as_ref()
    }

    /// The parts that the node is made of, for fault injection in tests.
    #[doc(hidden)]
    pub fn parts(&self) -> &Arc<NodeParts> {
        &self.inner.parts
    }

    /// Stops the node: hands its leaderships over while peers can take them, lets what is in flight
    /// finish, ends every actor and joins every thread. Idempotent.
    ///
    /// # Cancellation
    /// Not safe: the node may then be half stopped until `stop` is called again.
    pub async fn stop(&self) {
        self.hand_over().await;
        let parts = &self.inner.parts;
        parts.stop_supervision();
        for (_, cell) in parts.directory.groups() {
            cell.stop();
        }
        let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { stop, thread, observer }) = running {
            let _ = stop.send(());
            let join = move || {
                observer.join();
                thread.join()
            };
            let joined = tokio::task::spawn_blocking(join).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the node's thread panicked");
            }
        }
    }

    fn handle(&self, id: GroupId, cell: Arc<GroupCell>) -> GroupHandle {
        let deadline = self.inner.config.limits().proposal_deadline;
        let clock = self.inner.parts.clock.clone();
        GroupHandle::new(id, cell, deadline, self.inner.figures.clone(), clock)
    }

    /// Checks a new group against those that exist, and takes its place in the directory.
    fn admit(&self, spec: &GroupSpec) -> Result<Admitted, CreateGroupError> {
        let (group, name) = (spec.id(), spec.name().to_owned());
        if name.is_empty() || name.len() > GROUP_NAME_BYTES_MAX {
            return Err(CreateGroupError::Name { group, bytes: name.len() });
        }
        let _one_at_a_time = self.inner.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let existing = self.inner.parts.directory.groups();
        if let Some((_, cell)) = existing.iter().find(|(id, _)| *id == group) {
            let existing = cell.status().name.to_string();
            if existing != name {
                return Err(CreateGroupError::IdTaken { group, existing, asked: name });
            }
            return Ok(Admitted::Exists(self.handle(group, cell.clone())));
        }
        if let Some((other, _)) = existing.iter().find(|(_, cell)| *cell.status().name == *name) {
            return Err(CreateGroupError::NameTaken { name, existing: *other, asked: group });
        }
        let (groups, max) = (existing.len(), self.inner.config.limits().groups_max);
        if groups >= max {
            return Err(CreateGroupError::TooMany { group, groups, max });
        }
        if (groups + 1) * 10 == max * 8 {
            tracing::warn!(groups = groups + 1, max, "80 % of the groups that this node may host");
        }
        self.new_group(spec)
    }

    fn new_group(&self, spec: &GroupSpec) -> Result<Admitted, CreateGroupError> {
        let (group, node) = (spec.id(), self.id());
        let configuration =
            Configuration::initial(members(spec, self.inner.config.cluster().nodes()));
        let replica = configuration.replica_on(node);
        let replica = replica.ok_or(CreateGroupError::NotAMember { group, node })?;
        let identity = GroupIdentity { name: spec.name().to_owned(), replica };
        let status = initial_status(group, &identity, configuration.clone());
        let (cell, _) = self.inner.parts.directory.insert_group(group, status);
        let mut append = GroupAppend::empty(group);
        append.create = Some(identity);
        append.configuration = Some(configuration);
        Ok(Admitted::New(cell, Box::new(append)))
    }

    /// Asks connected members to take over what this node leads, each group once: nodes that stop
    /// together would otherwise pass leaderships to and fro. Waits until they have done so, as long as
    /// one of them is connected: whoever is gone too early is missed for an election timeout.
    async fn hand_over(&self) {
        let until = tokio::time::Instant::now() + HAND_OVER_MAX;
        let mut asked = BTreeSet::new();
        while tokio::time::Instant::now() < until {
            let mut led = self.groups();
            led.retain(|group| group.status().role == Role::Leader);
            let links = self.inner.parts.transport.link_status().into_iter();
            let heirs: Vec<NodeId> = links.filter(|l| l.connected).map(|l| l.peer).collect();
            let mut waits = false;
            for (at, group) in led.iter().enumerate() {
                waits |= if asked.contains(&group.id()) {
                    !heirs.is_empty()
                } else {
                    hand_over_group(group, &heirs, at) && asked.insert(group.id())
                };
            }
            if !waits {
                return;
            }
            tokio::time::sleep(HAND_OVER_PAUSE).await;
        }
    }
}

/// Asks one of the connected members, another one for each `at`; false if there is none.
fn hand_over_group(group: &GroupHandle, connected: &[NodeId], at: usize) -> bool {
    let members = group.status().configuration.members.clone();
    let is_member = |node: &&NodeId| members.iter().any(|member| member.node == **node);
    let heirs: Vec<&NodeId> = connected.iter().filter(is_member).collect();
    let heir = heirs.get(at % heirs.len().max(1));
    heir.is_some_and(|heir| group.transfer_leader(**heir))
}

/// What becomes of a request to create a group.
enum Admitted {
    Exists(GroupHandle),
    New(Arc<GroupCell>, Box<GroupAppend>),
}

/// A group's first members: one replica on each of its nodes.
fn members(spec: &GroupSpec, cluster: &[PeerAddress]) -> Vec<Member> {
    let mut nodes: Vec<NodeId> = match spec.nodes() {
        [] => cluster.iter().map(|peer| peer.node).collect(),
        nodes => nodes.to_vec(),
    };
    nodes.sort();
    nodes.dedup();
    let ids = (FIRST_REPLICA_ID..).map(ReplicaId::new);
    ids.zip(nodes).map(|(replica, node)| Member { replica, node }).collect()
}

fn peers(config: &NodeConfig) -> Vec<PeerAddress> {
    let nodes = config.cluster().nodes().iter();
    nodes.filter(|peer| peer.node != config.node_id()).cloned().collect()
}
