//! Memory node: a whole node of the production actors, on disks and a network in memory.
//!
//! ```text
//! MemoryCluster ─start→ MemoryNode: NodeParts over Storage::open_in_memory + LossyTransport
//!                        └ Threads::One: every actor on this thread, virtual time (`simulate`)
//!                        └ Threads::Own: production arbiters and workers, real time
//! ```
//!
//! Promise: with [`Threads::One`] inside [`simulate`], a run is a function of its seed. Disks outlive
//! their node: stop it, and start it again on what it left. Faults are switched on from outside: on
//! the disks ([`MemoryDisks`]), the network ([`MemoryNetwork`]) and the stores ([`StoreFaults`]).
//! Not here: judging a run; LMDB and QUIC (`polyraft::Node` itself).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polyraft_actors::applier::{ApplierConfig, Query};
use polyraft_actors::batcher::Propose;
use polyraft_actors::clock::{Clock, SystemClock, VirtualClock};
use polyraft_actors::directory::{Directory, GroupCell};
use polyraft_actors::entropy::{Entropy, SeededEntropy};
use polyraft_actors::group::Read;
use polyraft_actors::group_life::initial_status;
use polyraft_actors::guard::{Kill, KillMode};
use polyraft_actors::link_events::LinkEvents;
use polyraft_actors::log_writer::{CreateGroup, LogWriterConfig};
use polyraft_actors::node_parts::{MakeMachine, NodeParts, NodeSettings, OpenLog, Slots};
use polyraft_actors::proposal::UnitReply;
use polyraft_actors::spawner::{ArbiterSpawner, Spawner};
use polyraft_actors::state_flusher::StateFlusherConfig;
use polyraft_actors::supervisor::{CreateAndStart, start_supervisor};
use polyraft_actors::workers::{ThreadWorkers, Workers};
use polyraft_core::batch::Unit;
use polyraft_core::batch_config::BatchConfig;
use polyraft_core::compaction::Retention;
use polyraft_core::entry::{Configuration, Member};
use polyraft_core::error::{ProposeError, ReadError};
use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId};
use polyraft_core::message::AppliedUnit;
use polyraft_core::outbox::OutboxLimits;
use polyraft_core::peer_data::DataMark;
use polyraft_core::ports::{
    GroupAppend, GroupIdentity, LogStore, PeerAddress, StateStore, StorageError,
};
use polyraft_core::status::{GroupStatus, Role};
use polyraft_storage::identity::DataIdentity;
use polyraft_storage::journal::{Journal, JournalOptions};
use polyraft_storage::{MemoryDisks, Storage};
use polyraft_transport::{MemoryNetwork, MemoryTransport};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::gate::{Gate, GatedSpawner, GatedWorkers};
use crate::ledger::Ledger;
use crate::lossy_transport::{LossyTransport, NetworkWeather, ObserveFrame};
use crate::store_faults::StoreFaults;

/// First replica id of every group; node n holds this plus n.
const REPLICA_IDS_FROM: u64 = 100;
/// How often a waiting test looks.
const POLL: Duration = Duration::from_millis(5);
/// A proposal unanswered for so long after its deadline was forgotten.
const HUNG: Duration = Duration::from_secs(30);
/// Longest that the actors of a stopping node may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Which threads a node's actors run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// The current one, in virtual time. Needs [`simulate`].
    One,
    /// Threads of their own, as in production. Needs a current actix `System`.
    Own,
}

/// How the nodes of a cluster are made.
#[derive(Clone)]
pub struct MemoryOptions {
    /// Decides every election timeout, every lost frame.
    pub seed: u64,
    /// Where actors run.
    pub threads: Threads,
    /// Timing and limits.
    pub settings: NodeSettings,
    /// The network between every two nodes.
    pub weather: NetworkWeather,
    /// How much virtual time a slice of entries takes to apply. Only with [`Threads::One`].
    pub slice_takes: Duration,
    /// Makes the state machine of a group on a node.
    pub machine: Arc<dyn Fn(NodeId, GroupId) -> Box<dyn polyraft::StateMachine> + Send + Sync>,
    /// Sees every frame: sender, receiver, lane, bytes.
    pub observe: Arc<ObserveAll>,
    /// The limits of every journal.
    pub journal: JournalOptions,
    /// Put around every node's stores.
    pub stores: Arc<dyn WrapStores>,
    /// Whether peers refuse a node that shows other data than before, as production does.
    pub refuses_foreign_data: bool,
}

/// Puts something around a node's stores.
pub trait WrapStores: Send + Sync {
    /// Around the journal, in each life of the log writer.
    fn log(&self, node: NodeId, inner: Box<dyn LogStore>) -> Box<dyn LogStore> {
        let _ = node;
        inner
    }

    /// Around the state store.
    fn state(&self, node: NodeId, inner: Arc<dyn StateStore>) -> Arc<dyn StateStore> {
        let _ = node;
        inner
    }
}

/// Nothing.
struct Bare;

impl WrapStores for Bare {}

/// Sees a frame: sender, receiver, lane, bytes.
pub type ObserveAll = dyn Fn(NodeId, NodeId, polyraft_core::ports::Lane, &Bytes) + Send + Sync;

impl MemoryOptions {
    /// A ledger per group, ticks of 20 ms, heartbeats of 100 ms, election timeouts from 1 s.
    pub fn new(threads: Threads, seed: u64) -> Self {
        Self {
            seed,
            threads,
            settings: settings(Duration::from_millis(20), 5, 50),
            weather: NetworkWeather::default(),
            slice_takes: Duration::ZERO,
            machine: Arc::new(|_, _| Box::new(Ledger::default())),
            observe: Arc::new(|_, _, _, _| {}),
            journal: JournalOptions::default(),
            stores: Arc::new(Bare),
            refuses_foreign_data: true,
        }
    }
}

/// A node's settings with these ticks, and otherwise what production has.
pub fn settings(tick: Duration, heartbeat_ticks: u64, election_ticks: u64) -> NodeSettings {
    NodeSettings {
        tick,
        heartbeat_ticks,
        election_ticks,
        batch: BatchConfig::balanced(),
        read_deadline: Duration::from_secs(5),
        retention: Retention { keep_entries: 1_000, keep_bytes: 64 << 20, step_entries: 250 },
        tail_bytes_max: 4 << 20,
        apply_in_flight_bytes_max: 8 << 20,
        apply_backlog_bytes_max: 32 << 20,
        append_in_flight_bytes_max: 32 << 20,
        outbox: OutboxLimits::default(),
        applier: ApplierConfig::default(),
        log_writer: LogWriterConfig::default(),
        state_flusher: StateFlusherConfig::default(),
        flush_interval: Duration::from_millis(500),
    }
}

/// Runs `test` on one thread with virtual time, inside an actix `System` of its own.
pub fn simulate<T>(test: impl Future<Output = T>) -> T {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime needs no more than this process has")
    };
    actix::System::with_tokio_rt(runtime).block_on(test)
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within `deadline`.
pub async fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < until, "not within {deadline:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// What a node leaves behind when it stops, and starts from.
#[derive(Debug, Clone, Default)]
pub struct NodeRemains {
    /// Its disks.
    pub disks: MemoryDisks,
    /// The faults of its journal and state store.
    pub store_faults: Arc<StoreFaults>,
    /// Which data the disks are: 0 until the first start.
    data: u64,
    starts: u64,
    /// What each peer showed last.
    known: BTreeMap<NodeId, DataMark>,
}

impl NodeRemains {
    /// Whether `peer` shows the data that it showed before.
    fn admit(&mut self, peer: &MemoryNode) -> bool {
        let known = self.known.entry(peer.id).or_insert(peer.mark);
        let admitted = peer.mark.follows(*known).is_ok();
        if admitted {
            *known = peer.mark;
        }
        admitted
    }

    /// A backup: what is on the disks now, on disks of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        let disks = self.disks.copy();
        Self { disks, store_faults: Arc::default(), known: self.known.clone(), ..*self }
    }

    /// Whether a node was started on them.
    pub fn is_used(&self) -> bool {
        self.starts > 0
    }

    /// Whether they were opened less often.
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.starts < other.starts
    }

    /// The data of a node's first start is told by its id; what is put there later is another's.
    #[must_use]
    pub fn wiped() -> Self {
        Self { data: u64::MAX, ..Self::default() }
    }
}

/// One node.
pub struct MemoryNode {
    /// Its id.
    pub id: NodeId,
    /// What it is made of.
    pub parts: Arc<NodeParts>,
    /// Its disks and their faults.
    pub remains: NodeRemains,
    /// Its transport, for changes of the weather.
    pub transport: Arc<LossyTransport<MemoryTransport>>,
    /// Between it and its thread. Without effect with [`Threads::Own`].
    pub gate: Arc<Gate>,
    /// Its clock, with [`Threads::One`].
    pub clock: VirtualClock,
    mark: DataMark,
}

/// Nodes 1 to n on one network.
pub struct MemoryCluster {
    /// Cuts and heals links.
    pub network: MemoryNetwork,
    /// The nodes that run, by id.
    pub nodes: Vec<MemoryNode>,
    options: MemoryOptions,
    ids: Vec<NodeId>,
    /// Lives of nodes so far.
    lives: u64,
}

impl MemoryCluster {
    /// Starts nodes 1 to `nodes`. Needs a tokio runtime, and what `options.threads` asks.
    pub fn start(nodes: u64, options: MemoryOptions) -> Self {
        let network = MemoryNetwork::new();
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId::new).collect();
        let mut cluster = Self { network, nodes: Vec::new(), options, ids, lives: 0 };
        for id in cluster.ids.clone() {
            cluster.start_node(id, NodeRemains::default());
        }
        (1..=nodes).for_each(|id| cluster.meet(NodeId::new(id)));
        cluster
    }

    /// Creates the replica of `group` on a node that has none.
    ///
    /// # Panics
    /// If the node does not run, or its disk takes no group.
    pub async fn create_missing(&self, id: u64, group: GroupId) {
        let node = self.node(id);
        if node.parts.directory.group(group).is_none() {
            node.create_group(group, &self.ids).await.expect("a healthy disk takes a group");
        }
    }

    /// Lets the link between two nodes come up again, if each accepts the other's data.
    pub fn reconnect(&mut self, a: NodeId, b: NodeId) {
        let is = |id| move |node: &MemoryNode| node.id == id;
        match (self.nodes.iter().any(is(a)), self.nodes.iter().any(is(b))) {
            (true, true) => self.meet(a),
            // The later of the two meets the other when it starts.
            _ => self.network.reconnect(a, b),
        }
    }

    /// Connects `id` with every running node that accepts its data and whose data it accepts.
    fn meet(&mut self, id: NodeId) {
        if !self.options.refuses_foreign_data {
            return;
        }
        let at = self.nodes.iter().position(|node| node.id == id).expect("the node runs");
        let mut node = self.nodes.remove(at);
        for other in &mut self.nodes {
            let admitted = node.remains.admit(other) & other.remains.admit(&node);
            match admitted {
                true => self.network.reconnect(id, other.id),
                false => self.network.disconnect(id, other.id),
            }
        }
        self.nodes.insert(at, node);
    }

    /// The node `id`.
    ///
    /// # Panics
    /// If it does not run.
    pub fn node(&self, id: u64) -> &MemoryNode {
        let mut nodes = self.nodes.iter();
        nodes.find(|node| node.id.get() == id).expect("the test stopped that node")
    }

    /// Creates `group` with a replica on every node, and waits until it is durable everywhere.
    pub async fn create_group(&self, group: GroupId) {
        for node in &self.nodes {
            node.create_group(group, &self.ids).await.expect("a healthy disk takes a group");
        }
    }

    /// Waits for a leader of `group` that most running nodes follow; returns its node's id.
    pub async fn leader(&self, group: GroupId, deadline: Duration) -> u64 {
        let mut leader = None;
        wait_until("a leader that most follow", deadline, || {
            leader = self.agreed_leader(group);
            leader.is_some()
        })
        .await;
        leader.expect("it was just seen")
    }

    /// The leader that most of the cluster's nodes, itself included, agree on now.
    pub fn agreed_leader(&self, group: GroupId) -> Option<u64> {
        let statuses: Vec<_> = self.nodes.iter().filter_map(|n| n.status(group)).collect();
        let leads = |s: &&GroupStatus| s.role == Role::Leader;
        let newest = statuses.iter().filter(leads).max_by_key(|s| s.term)?;
        let agrees = |s: &&GroupStatus| s.term == newest.term && s.leader == newest.leader;
        let agreed = statuses.iter().filter(agrees).count();
        (agreed * 2 > self.ids.len()).then(|| newest.leader.map(NodeId::get)).flatten()
    }

    /// Takes every link of `node` down, or lets them come up again.
    pub fn isolate(&self, node: u64, isolated: bool) {
        let node = NodeId::new(node);
        for other in self.ids.iter().filter(|id| **id != node) {
            match isolated {
                true => self.network.disconnect(node, *other),
                false => self.network.reconnect(node, *other),
            }
        }
    }

    /// Whether every other node runs and has met `node` in its present life. Who has not cannot tell an
    /// older copy of its data from them.
    pub fn has_met_all(&self, node: &MemoryNode) -> bool {
        let others = || self.nodes.iter().filter(|other| other.id != node.id);
        let met = |other: &MemoryNode| other.remains.known.get(&node.id) == Some(&node.mark);
        self.nodes.len() == self.ids.len() && others().all(met)
    }

    /// Stops one node; returns what [`MemoryCluster::restart`] needs.
    pub async fn stop_node(&mut self, id: u64) -> NodeRemains {
        let at = self.nodes.iter().position(|n| n.id.get() == id).expect("the node runs");
        self.nodes.remove(at).stop().await
    }

    /// Ends one node between two instructions; returns what [`MemoryCluster::restart`] needs. Only with
    /// [`Threads::One`].
    pub async fn crash_node(&mut self, id: u64) -> NodeRemains {
        let at = self.nodes.iter().position(|n| n.id.get() == id).expect("the node runs");
        self.nodes.remove(at).crash().await
    }

    /// Starts a node on what it left, or on what was put there instead.
    pub fn restart(&mut self, id: u64, remains: NodeRemains) {
        let id = NodeId::new(id);
        self.start_node(id, remains);
        self.meet(id);
    }

    fn start_node(&mut self, id: NodeId, remains: NodeRemains) {
        self.lives += 1;
        // Every life of every node draws numbers of its own.
        let entropy = SeededEntropy::new(self.options.seed ^ (self.lives << 32));
        let node = MemoryNode::start(id, &self.ids, &self.network, &self.options, remains, entropy);
        self.nodes.push(node);
        self.nodes.sort_by_key(|node| node.id);
    }

    /// Stops every node.
    pub async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}

impl MemoryNode {
    fn start(
        id: NodeId,
        ids: &[NodeId],
        network: &MemoryNetwork,
        options: &MemoryOptions,
        mut remains: NodeRemains,
        entropy: SeededEntropy,
    ) -> Self {
        remains.starts += 1;
        remains.data = if remains.data == 0 { id.get() } else { remains.data };
        let (data, incarnation) = (remains.data, remains.starts);
        let identity = DataIdentity { cluster: "memory".into(), node: id, incarnation, data };
        let storage = Storage::open_in_memory(&remains.disks, &options.journal, identity)
            .expect("a disk in memory can be read");
        let directory = Arc::new(Directory::default());
        for (group, identity) in storage.journal.groups() {
            let status = initial_status(group, &identity, Configuration::default());
            directory.insert_group(group, status);
        }
        let clock = VirtualClock::start(1_700_000_000_000);
        let shared_clock: Arc<dyn Clock> = match options.threads {
            Threads::One => Arc::new(clock.clone()),
            Threads::Own => Arc::new(SystemClock::start()),
        };
        let events = Arc::new(LinkEvents::new(id, directory.clone(), shared_clock.clone()));
        let transport = transport(id, network, options, events, entropy.next_u64());
        let gate = Arc::<Gate>::default();
        let (spawner, workers) = threads(options, &gate);
        let mark = DataMark { data, incarnation, boot: entropy.next_u64() };
        let parts = Arc::new(NodeParts {
            node: id,
            peers: ids.iter().copied().filter(|peer| *peer != id).collect(),
            settings: options.settings.clone(),
            spawner,
            workers,
            clock: shared_clock,
            entropy: Arc::new(entropy),
            directory,
            transport: transport.clone(),
            state: remains
                .store_faults
                .around_state(options.stores.state(id, storage.state.clone())),
            open_log: open_log(id, &remains, options),
            machine: machine(id, options),
            on_storage_failed: Box::new(|_| {}),
            log_progress: Arc::default(),
            traces: None,
            slots: Slots::default(),
        });
        start_supervisor(&parts);
        let address = |node: &NodeId| PeerAddress { node: *node, address: String::new() };
        let peers: Vec<PeerAddress> = ids.iter().map(address).collect();
        polyraft_core::ports::Transport::set_peers(&*transport, &peers);
        Self { id, parts, remains, transport, gate, clock, mark }
    }

    /// Creates this node's replica of `group`, durably, and starts it.
    ///
    /// # Errors
    /// What the storage said; `Poisoned` also if the log writer died meanwhile.
    pub async fn create_group(&self, group: GroupId, on: &[NodeId]) -> Result<(), StorageError> {
        let members = on.iter().map(|node| Member {
            replica: ReplicaId::new(REPLICA_IDS_FROM + node.get()),
            node: *node,
        });
        let configuration = Configuration::initial(members.collect());
        let replica = ReplicaId::new(REPLICA_IDS_FROM + self.id.get());
        let identity = GroupIdentity { name: format!("group-{group}"), replica };
        let status = initial_status(group, &identity, configuration.clone());
        let (cell, _) = self.parts.directory.insert_group(group, status);
        let mut append = GroupAppend::empty(group);
        append.create = Some(identity);
        append.configuration = Some(configuration);
        let (reply, created) = oneshot::channel();
        let message = CreateAndStart { create: CreateGroup { append, reply }, cell };
        self.parts.supervisor().expect("it was started").send(message).await.ok();
        created.await.unwrap_or(Err(StorageError::Poisoned))
    }

    /// The cell of a group.
    ///
    /// # Panics
    /// If it is not here.
    pub fn cell(&self, group: GroupId) -> Arc<GroupCell> {
        self.parts.directory.group(group).expect("the test created the group")
    }

    /// What a group last published.
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        self.parts.directory.group(group).map(|cell| cell.status())
    }

    /// Proposes one command through this node.
    ///
    /// # Errors
    /// As `GroupHandle::propose`.
    pub async fn propose(
        &self,
        group: GroupId,
        command: Bytes,
        deadline: Duration,
    ) -> Result<AppliedUnit, ProposeError> {
        propose(&self.cell(group), group, command, deadline).await
    }

    /// A linearizable read through this node.
    ///
    /// # Errors
    /// As `GroupHandle::read`.
    pub async fn read(
        &self,
        group: GroupId,
        query: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ReadError> {
        let addrs = self.cell(group).addrs().ok_or(ReadError::Stopped { group })?;
        let (reply, answer) = oneshot::channel();
        addrs
            .group
            .try_send(Read { query, reply })
            .map_err(|_| ReadError::Overloaded { group, what: "a mailbox" })?;
        answered(group, answer, deadline).await
    }

    /// What this node has applied, which may be old.
    ///
    /// # Errors
    /// As `GroupHandle::read_stale`.
    pub async fn read_stale(
        &self,
        group: GroupId,
        query: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, ReadError> {
        let addrs = self.cell(group).addrs().ok_or(ReadError::Stopped { group })?;
        let (reply, answer) = oneshot::channel();
        addrs
            .applier
            .try_send(Query { query, at_least: LogIndex::ZERO, reply })
            .map_err(|_| ReadError::Overloaded { group, what: "a mailbox" })?;
        answered(group, answer, deadline).await
    }

    /// Ends every actor and waits until they are gone; the disks remain.
    pub async fn stop(self) -> NodeRemains {
        let parts = &self.parts;
        parts.stop_supervision();
        for (_, cell) in parts.directory.groups() {
            cell.stop();
        }
        polyraft_core::ports::Transport::shutdown(&*self.transport);
        let stop = Kill { mode: KillMode::Stop };
        if let Some(actors) = parts.actors() {
            let _ = actors.log_writer.try_send(stop);
            let _ = actors.flusher.try_send(stop);
            let _ = actors.tick.try_send(stop);
        }
        for (_, link) in parts.directory.links() {
            let _ = link.try_send(stop);
        }
        if let Some(supervisor) = parts.supervisor() {
            let _ = supervisor.try_send(stop);
        }
        wait_until("the actors to end", STOP_DEADLINE, || {
            let actors = parts.actors();
            let lives = actors.is_some_and(|a| a.log_writer.connected() || a.flusher.connected());
            !lives && !parts.supervisor().is_some_and(|supervisor| supervisor.connected())
        })
        .await;
        parts.spawner.stop();
        parts.workers.stop();
        self.gate.crash();
        self.remains
    }

    /// Ends everything at once; what was not durable is gone.
    async fn crash(self) -> NodeRemains {
        self.parts.stop_supervision();
        polyraft_core::ports::Transport::shutdown(&*self.transport);
        self.gate.crash();
        wait_until("the node's actors to be gone", STOP_DEADLINE, || self.gate.is_empty()).await;
        self.remains
    }
}

/// Proposes one command to the group in `cell`, on whichever node.
///
/// # Errors
/// As `GroupHandle::propose`, but a proposal that was submitted is waited for beyond its deadline.
///
/// # Panics
/// If it is never answered.
pub async fn propose(
    cell: &GroupCell,
    group: GroupId,
    command: Bytes,
    deadline: Duration,
) -> Result<AppliedUnit, ProposeError> {
    let addrs = cell.addrs().ok_or(ProposeError::Stopped { group })?;
    let unit = Unit { atomic: false, commands: vec![command] };
    let (reply, outcome) = oneshot::channel();
    addrs
        .batcher
        .try_send(Propose { unit, deadline, trace: None, reply: UnitReply::Local(reply) })
        .map_err(|_| ProposeError::Stopped { group })?;
    match timeout(deadline + HUNG, outcome).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(ProposeError::Unknown { group }),
        Err(_) => panic!("group {group}: hung for {HUNG:?} beyond its deadline of {deadline:?}"),
    }
}

async fn answered(
    group: GroupId,
    answer: oneshot::Receiver<Result<Bytes, ReadError>>,
    deadline: Duration,
) -> Result<Bytes, ReadError> {
    match timeout(deadline, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(ReadError::Stopped { group }),
        Err(_) => Err(ReadError::TimedOut { group, deadline }),
    }
}

fn transport(
    id: NodeId,
    network: &MemoryNetwork,
    options: &MemoryOptions,
    events: Arc<LinkEvents>,
    seed: u64,
) -> Arc<LossyTransport<MemoryTransport>> {
    let inner = network.join(id, events.clone(), Handle::current());
    let all = options.observe.clone();
    let observe: Arc<ObserveFrame> = Arc::new(move |to, lane, frame| all(id, to, lane, frame));
    Arc::new(LossyTransport::new(inner, events, options.weather, seed, observe))
}

fn threads(options: &MemoryOptions, gate: &Arc<Gate>) -> (Arc<dyn Spawner>, Arc<dyn Workers>) {
    match options.threads {
        Threads::One => {
            let workers = GatedWorkers::new(gate.clone(), options.slice_takes);
            (Arc::new(GatedSpawner::new(gate.clone())), Arc::new(workers))
        }
        Threads::Own => {
            (Arc::new(ArbiterSpawner::new(2).expect("a runtime")), Arc::new(ThreadWorkers::new(16)))
        }
    }
}

/// A journal over the disks, anew in each life of the log writer.
fn open_log(id: NodeId, remains: &NodeRemains, options: &MemoryOptions) -> Box<OpenLog> {
    let NodeRemains { disks, store_faults, .. } = remains.clone();
    let (journal, stores) = (options.journal.clone(), options.stores.clone());
    Box::new(move || {
        let inner = Box::new(Journal::open(disks.log.clone(), journal.clone())?);
        store_faults.around_log(stores.log(id, inner))
    })
}

fn machine(id: NodeId, options: &MemoryOptions) -> Box<MakeMachine> {
    let make = options.machine.clone();
    Box::new(move |group, _| make(id, group))
}
