//! Cluster: real nodes in this process, over loopback QUIC with mTLS and LMDB in a directory of its own.
//!
//! ```text
//! Shape ─start→ Cluster ─→ node(i) ─→ group handles, each over a Ledger with its own Bench
//!                  ├─ stop, kill, restart a node; slow down its disk
//!                  └─ cut a link, or lose some of what it carries (shapes with proxies)
//! ```
//!
//! Nodes are numbered from 1, and so are groups, which are called `g1`, `g2` and so on.
//! Everything waits on state, with a deadline that is generous enough for a busy machine.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use polyraft::certificates::{CertificateAuthority, Validity};
use polyraft::seams::Seams;
use polyraft::{
    Applied, BatchingConfig, ClusterConfig, GroupHandle, GroupId, GroupSpec, LimitsConfig, Node,
    NodeConfig, NodeId, Profile, Role, StartError, StateMachine, StorageConfig, TlsPaths,
};
use polyraft_actors::node_parts::NodeSettings;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::machines::{self, Bench, Ledger};
use crate::proxy::{Cut, LinkProxy};
use crate::store_faults::StoreFaults;

/// Longest wait for anything that should happen soon. Only a test that fails waits this long.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(5);
/// Ports handed out are below those that the system gives to clients.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// Waits until `predicate` holds.
///
/// # Panics
/// It does not, within `deadline`.
pub async fn wait_until(deadline: Duration, what: &str, mut predicate: impl FnMut() -> bool) {
    wait_for(deadline, what, || std::future::ready(predicate().then_some(()))).await;
}

/// Waits until `probe` answers.
///
/// # Panics
/// It does not, within `deadline`.
pub async fn wait_for<T, F>(deadline: Duration, what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let until = Instant::now() + deadline;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < until, "not within {deadline:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// What a cluster is to look like.
#[derive(Debug, Clone)]
pub struct Shape {
    nodes: u64,
    groups: u64,
    profile: Profile,
    batching: BatchingConfig,
    limits: LimitsConfig,
    storage: StorageConfig,
    has_proxies: bool,
    has_chaos: bool,
    settings: fn(&mut NodeSettings),
}

impl Shape {
    /// The election timeout of every shape: long, so that a busy machine elects only for a reason.
    pub const ELECTION_TIMEOUT: Duration = Profile::Dev.timing().election_timeout;

    /// Nodes, and groups with a replica on each. Deadlines outlast a fail-over.
    pub fn new(nodes: u64, groups: u64) -> Self {
        let limits =
            LimitsConfig { proposal_deadline: Duration::from_secs(20), ..LimitsConfig::default() };
        Self {
            nodes,
            groups,
            profile: Profile::Dev,
            batching: BatchingConfig::default(),
            limits,
            storage: StorageConfig::default(),
            has_proxies: false,
            has_chaos: false,
            settings: |_| {},
        }
    }

    /// Replaces the batching.
    #[must_use]
    pub fn batching(self, batching: BatchingConfig) -> Self {
        Self { batching, ..self }
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(self, limits: LimitsConfig) -> Self {
        Self { limits, ..self }
    }

    /// Replaces the sizes on disk.
    #[must_use]
    pub fn storage(self, storage: StorageConfig) -> Self {
        Self { storage, ..self }
    }

    /// Changes what has no knob.
    #[must_use]
    pub fn settings(self, settings: fn(&mut NodeSettings)) -> Self {
        Self { settings, ..self }
    }

    /// Puts a proxy on every link, so that links can be cut.
    #[must_use]
    pub fn with_proxies(self) -> Self {
        Self { has_proxies: true, ..self }
    }

    /// Lets faults be injected into every node.
    #[must_use]
    pub fn with_chaos(self) -> Self {
        Self { has_chaos: true, ..self }
    }
}

/// Makes the state machine of a group on a node.
pub type Machines = Arc<dyn Fn(NodeId, &GroupSpec) -> Box<dyn StateMachine> + Send + Sync>;

/// A running cluster. Dropping it ends its nodes as a crash would.
pub struct Cluster {
    shape: Shape,
    dir: TempDir,
    addresses: BTreeMap<u64, SocketAddr>,
    proxies: BTreeMap<(u64, u64), LinkProxy>,
    cuts: BTreeMap<(u64, u64), Arc<Cut>>,
    benches: BTreeMap<(u64, u64), Arc<Bench>>,
    disks: BTreeMap<u64, Arc<StoreFaults>>,
    machines: Machines,
    nodes: BTreeMap<u64, Node>,
}

impl Cluster {
    /// Starts every node of `shape`, with a [`Ledger`] in every group, and waits for leaders that
    /// everyone knows.
    pub async fn start(shape: Shape) -> Self {
        let pairs = (1..=shape.nodes).flat_map(|n| (1..=shape.groups).map(move |g| (n, g)));
        let benches: BTreeMap<_, _> = pairs.map(|at| (at, Arc::new(Bench::default()))).collect();
        let of_groups = benches.clone();
        let machines: Machines = Arc::new(move |node: NodeId, spec: &GroupSpec| {
            let bench = of_groups.get(&(node.get(), spec.id().get())).cloned().unwrap_or_default();
            Box::new(Ledger::new(bench))
        });
        let mut cluster = Self::prepare(shape, machines).await;
        cluster.benches = benches;
        cluster.start_all().await;
        cluster
    }

    /// A cluster with certificates, addresses and proxies, none of whose nodes has started.
    pub async fn prepare(shape: Shape, machines: Machines) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let authority =
            CertificateAuthority::create("test", Validity::default()).expect("a good name");
        let certificates = dir.path().join("certs");
        authority.save(&certificates).expect("an empty directory");
        for node in 1..=shape.nodes {
            let issued = authority.issue(NodeId::new(node)).expect("a good id");
            issued.save(&certificates).expect("certificates are written once");
        }
        let addresses = (1..=shape.nodes).map(|node| (node, free_address())).collect();
        let disks = (1..=shape.nodes).map(|node| (node, Arc::default())).collect();
        let mut cluster = Self {
            shape,
            dir,
            addresses,
            proxies: BTreeMap::new(),
            cuts: BTreeMap::new(),
            benches: BTreeMap::new(),
            disks,
            machines,
            nodes: BTreeMap::new(),
        };
        cluster.start_proxies().await;
        cluster
    }

    /// Starts every node that does not run, and waits for leaders.
    pub async fn start_all(&mut self) {
        for node in 1..=self.shape.nodes {
            if !self.nodes.contains_key(&node) {
                self.start_node(node).await;
            }
        }
        self.wait_for_leaders().await;
    }

    /// Starts a node, once what it was before has let go of its data.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start_node(&mut self, node: u64) {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.try_start_node(node).await {
                Ok(started) => break drop(self.nodes.insert(node, started)),
                // A node that was killed takes a moment to let go of its directory and its port.
                Err(StartError::Storage(_) | StartError::Transport(_))
                    if Instant::now() < until => {}
                Err(error) => panic!("node {node} does not start: {error:?}"),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts a node, without keeping it.
    ///
    /// # Errors
    /// As for [`Node::start`].
    pub async fn try_start_node(&self, node: u64) -> Result<Node, StartError> {
        let machines = self.machines.clone();
        let id = NodeId::new(node);
        let (disk, settings) = (self.disk(node), self.shape.settings);
        let log = move |journal| disk.around_log(journal).expect("no test of real disks arms this");
        let seams = Seams { log: Arc::new(log), settings: Arc::new(settings) };
        let machine = move |spec: &GroupSpec| machines(id, spec);
        Node::start_with_seams(self.config(node), machine, seams).await
    }

    /// What a node is started with.
    pub fn config(&self, node: u64) -> NodeConfig {
        let mut cluster = ClusterConfig::builder("test").profile(self.shape.profile);
        for (&peer, address) in &self.addresses {
            let via = self.proxies.get(&(node, peer)).map_or(*address, LinkProxy::address);
            cluster = cluster.node(NodeId::new(peer), via.to_string());
        }
        for group in 1..=self.shape.groups {
            cluster = cluster.group(GroupSpec::new(GroupId::new(group), format!("g{group}")));
        }
        let config = NodeConfig::builder()
            .cluster(cluster)
            .node_id(NodeId::new(node))
            .data_dir(self.data_dir(node))
            .listen(self.addresses[&node])
            .tls(self.tls(node))
            .batching(self.shape.batching)
            .limits(self.shape.limits)
            .storage(self.shape.storage)
            .build()
            .expect("shapes are valid");
        if self.shape.has_chaos { config.with_chaos() } else { config }
    }

    /// What makes a node's log slow or broken.
    pub fn disk(&self, node: u64) -> Arc<StoreFaults> {
        self.disks[&node].clone()
    }

    /// Makes every commit of every node take this much longer.
    pub fn slow_disks(&self, commit_takes: Duration) {
        self.disks.values().for_each(|disk| disk.set_commit_takes(commit_takes));
    }

    /// Where a node's certificates are.
    pub fn tls(&self, node: u64) -> TlsPaths {
        TlsPaths::in_dir(&self.dir.path().join("certs"), NodeId::new(node))
    }

    /// Where a node listens.
    pub fn address(&self, node: u64) -> SocketAddr {
        self.addresses[&node]
    }

    /// Where a node keeps its data.
    pub fn data_dir(&self, node: u64) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    /// A node that runs.
    pub fn node(&self, node: u64) -> &Node {
        &self.nodes[&node]
    }

    /// The numbers of the nodes that run.
    pub fn running(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// A group on a node that runs.
    pub fn group(&self, node: u64, group: u64) -> GroupHandle {
        let handle = self.node(node).group(&format!("g{group}"));
        handle.unwrap_or_else(|| panic!("group {group} is not on node {node}"))
    }

    /// A group on every node that runs.
    pub fn everywhere(&self, group: u64) -> Vec<GroupHandle> {
        self.nodes.keys().map(|&node| self.group(node, group)).collect()
    }

    /// What disturbs a group's machine on a node.
    pub fn bench(&self, node: u64, group: u64) -> Arc<Bench> {
        self.benches[&(node, group)].clone()
    }

    /// Waits until a group has one leader on a running node, and every running node knows it.
    pub async fn leader(&self, group: u64) -> u64 {
        self.leader_among(group, &self.running()).await
    }

    /// Waits until one of `nodes` leads a group and all of them know it, whatever others believe.
    pub async fn leader_among(&self, group: u64, nodes: &[u64]) -> u64 {
        let what = format!("a leader of group {group} among {nodes:?}");
        let probe = || std::future::ready(self.leader_now(group, nodes));
        wait_for(DEADLINE, &what, probe).await
    }

    /// A group on its leader's node.
    pub async fn leading(&self, group: u64) -> GroupHandle {
        self.group(self.leader(group).await, group)
    }

    /// A node that runs and does not lead a group.
    pub async fn follower(&self, group: u64) -> u64 {
        let leader = self.leader(group).await;
        *self.nodes.keys().find(|node| **node != leader).expect("more than one node runs")
    }

    /// Waits for every group's leader.
    pub async fn wait_for_leaders(&self) {
        for group in 1..=self.shape.groups {
            self.leader(group).await;
        }
    }

    fn leader_now(&self, group: u64, nodes: &[u64]) -> Option<u64> {
        let statuses: Vec<_> = nodes.iter().map(|n| self.group(*n, group).status()).collect();
        let leader = statuses.first()?.leader?;
        let agreed = statuses.iter().all(|status| status.leader == Some(leader));
        let at = nodes.iter().position(|node| *node == leader.get())?;
        (agreed && statuses[at].role == Role::Leader).then_some(leader.get())
    }

    /// Stops a node in order.
    pub async fn stop(&mut self, node: u64) {
        self.nodes.remove(&node).expect("it runs").stop().await;
    }

    /// Ends a node without a stop: nothing is handed over, nothing that is buffered is written. Its threads
    /// end a moment later.
    pub fn kill(&mut self, node: u64) {
        drop(self.nodes.remove(&node).expect("it runs"));
    }

    /// Stops every node in order.
    pub async fn stop_all(&mut self) {
        for (_, node) in std::mem::take(&mut self.nodes) {
            node.stop().await;
        }
    }

    /// Swallows everything between two nodes, or lets it through again.
    ///
    /// # Panics
    /// The shape has no proxies.
    pub fn cut(&self, a: u64, b: u64, is_cut: bool) {
        self.cut_of(a, b).set(is_cut);
    }

    /// Swallows everything between a node and all others, or lets it through again.
    pub fn isolate(&self, node: u64, is_isolated: bool) {
        for other in (1..=self.shape.nodes).filter(|other| *other != node) {
            self.cut(node, other, is_isolated);
        }
    }

    /// Datagrams swallowed between two nodes: the proof of a cut (CH-4).
    pub fn swallowed(&self, a: u64, b: u64) -> u64 {
        self.cut_of(a, b).swallowed()
    }

    /// Loses so many datagrams of each thousand, on every link and in both directions.
    pub fn lose(&self, per_mille: u64) {
        self.cuts.values().for_each(|cut| cut.lose(per_mille));
    }

    /// Datagrams let through and swallowed, on every link together.
    pub fn datagrams(&self) -> (u64, u64) {
        let cuts = self.cuts.values();
        cuts.fold((0, 0), |(passed, lost), cut| (passed + cut.passed(), lost + cut.swallowed()))
    }

    fn cut_of(&self, a: u64, b: u64) -> &Cut {
        self.cuts.get(&(a.min(b), a.max(b))).expect("a shape with proxies, and two of its nodes")
    }

    async fn start_proxies(&mut self) {
        if !self.shape.has_proxies {
            return;
        }
        let pairs =
            (1..=self.shape.nodes).flat_map(|a| (1..=self.shape.nodes).map(move |b| (a, b)));
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            let cut = self.cuts.entry((from.min(to), from.max(to))).or_default().clone();
            let proxy = LinkProxy::start(self.addresses[&to], cut).await.expect("a free port");
            self.proxies.insert((from, to), proxy);
        }
    }

    /// The bytes on disk of the largest node, once every log of a group is as short as it is to be:
    /// compaction goes in steps of a quarter of what is kept, and behind the durable state.
    pub async fn settled_bytes(&self, group: u64, kept: u64) -> u64 {
        let replicas = self.everywhere(group);
        let is_short = || replicas.iter().all(|replica| log_entries(replica) <= 2 * kept);
        wait_until(DEADLINE, "every log is compacted", is_short).await;
        let bytes = |node: u64| self.node(node).status().storage_bytes;
        self.running().into_iter().map(bytes).max().expect("nodes run")
    }

    /// The hash of a group's state once every running replica has applied all that was acknowledged.
    ///
    /// # Panics
    /// The replicas' states differ, or a replica does not catch up.
    pub async fn equal_hash(&self, group: u64) -> u64 {
        let mut hashes = Vec::new();
        for handle in self.everywhere(group) {
            let answer = handle.read(machines::hash()).await.expect("a healthy group");
            hashes.push(machines::number(&answer));
        }
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "states differ: {hashes:?}");
        hashes[0]
    }
}

/// Proposes until it is acknowledged, whatever elections and lost links a busy machine brings. For
/// commands that may apply twice: counted ones are made with [`machines::create`].
pub async fn insist(group: &GroupHandle, command: bytes::Bytes) -> Applied {
    wait_for(DEADLINE, "an acknowledgement", || async {
        match group.propose(command.clone()).await {
            Ok(applied) => Some(applied),
            Err(error) if error.is_retryable() => None,
            Err(error) => panic!("it can never succeed: {error}"),
        }
    })
    .await
}

/// Proposes commands of `bytes` each that only add to the total, with so many callers at a time.
///
/// # Panics
/// One is not acknowledged.
pub async fn write(group: &GroupHandle, callers: u64, commands: u64, bytes: usize) {
    let mut writers = JoinSet::new();
    for _ in 0..callers {
        let group = group.clone();
        writers.spawn(async move {
            for _ in 0..commands / callers {
                group.propose(machines::weight(bytes)).await.expect("a healthy cluster");
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a writer never panics");
    }
}

/// Hands leadership from the leader to the next of three nodes, waits until all replicas know, and
/// returns the new leader. `replicas` are in the order of their nodes.
pub async fn hand_over(replicas: &[GroupHandle]) -> NodeId {
    let leader = replicas[0].status().leader.expect("every node knows the leader").get();
    let heir = NodeId::new(leader % 3 + 1);
    let sent = replicas[leader as usize - 1].transfer_leader(heir);
    assert!(sent, "an idle mailbox has room");
    let moved = || replicas.iter().all(|replica| replica.status().leader == Some(heir));
    wait_until(DEADLINE, "the heir leads", moved).await;
    heir
}

/// Entries in a replica's log.
pub fn log_entries(replica: &GroupHandle) -> u64 {
    let status = replica.status();
    status.last.get() - status.compacted.get()
}

/// Asks a group's state on this node, however old.
///
/// # Panics
/// The group is not healthy here.
pub async fn stale_number(group: &GroupHandle, query: bytes::Bytes) -> u64 {
    machines::number(&group.read_stale(query).await.expect("a healthy group"))
}

/// An address that no other cluster of this process was given, and that nobody has right now.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let ports = u32::from(PORTS.end - PORTS.start);
    // Processes that run at the same time begin at different places.
    let first = std::process::id().wrapping_mul(127) % ports;
    loop {
        let offset = (first + u32::from(NEXT.fetch_add(1, Ordering::SeqCst))) % ports;
        let port = PORTS.start + u16::try_from(offset).expect("less than the number of ports");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}
