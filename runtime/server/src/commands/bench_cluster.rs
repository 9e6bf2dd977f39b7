//! The cluster under a benchmark: three nodes of this process, over mTLS and a syncing disk, with a
//! state machine that does nothing, so that the figures are the runtime's.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use polyraft::certificates::{CertificateAuthority, Validity};
use polyraft::{
    ApplyContext, ApplyError, ClusterConfig, GroupHandle, GroupId, GroupSpec, Node, NodeConfig,
    NodeId, Response, Role, State, StateMachine, TlsPaths,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bench::BenchError;
use super::bench_scenario::Scenario;

const NODES: u64 = 3;
const CLUSTER: &str = "bench";
/// How long the groups may take to have leaders.
const FORMATION_MAX: Duration = Duration::from_secs(30);
/// Between two looks at them.
const FORMATION_POLL: Duration = Duration::from_millis(20);

/// Takes every command and keeps nothing.
struct Sink;

impl StateMachine for Sink {
    fn apply(
        &mut self,
        _: &mut dyn State,
        _: &ApplyContext,
        _: &[u8],
    ) -> Result<Response, ApplyError> {
        Ok(Response::Accepted(Bytes::new()))
    }

    fn query(&self, _: &dyn State, _: &[u8]) -> Result<Bytes, ApplyError> {
        Ok(Bytes::new())
    }
}

/// Three running nodes.
pub(super) struct BenchCluster {
    nodes: Vec<Node>,
}

/// Counters of a cluster; their differences are a run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Entries in the logs of all groups.
    pub entries: u64,
    /// Commits of all nodes' log writers.
    pub commits: u64,
}

impl BenchCluster {
    /// Starts the nodes in `dir` and waits for a leader of every group.
    ///
    /// # Errors
    /// A node does not start, or a group has no leader in time.
    pub async fn start(dir: &Path, scenario: &Scenario) -> Result<Self, BenchError> {
        let authority = CertificateAuthority::create(CLUSTER, Validity::default())?;
        let certs = dir.join("certs");
        authority.save(&certs)?;
        let addresses = free_addresses().map_err(BenchError::Port)?;
        let mut cluster = Self { nodes: Vec::new() };
        for node in 1..=NODES {
            authority.issue(NodeId::new(node))?.save(&certs)?;
            let config = node_config(dir, scenario, NodeId::new(node), &addresses)?;
            cluster.nodes.push(Node::start(config, |_| Box::new(Sink)).await?);
        }
        cluster.wait_for_leaders(scenario.groups).await?;
        Ok(cluster)
    }

    /// The handle of each group on its leader's node, ascending by group.
    pub fn leaders(&self) -> Vec<GroupHandle> {
        let handles = self.nodes.iter().flat_map(Node::groups);
        let mut leaders: Vec<_> =
            handles.filter(|handle| handle.status().role == Role::Leader).collect();
        leaders.sort_by_key(GroupHandle::id);
        leaders
    }

    /// How far the cluster is.
    pub fn progress(&self) -> Progress {
        let entries = self.leaders().iter().map(|leader| leader.status().last.get()).sum();
        let commits = self.nodes.iter().map(|node| node.status().log_writer.commits).sum();
        Progress { entries, commits }
    }

    /// Stops every node.
    pub async fn stop(self) {
        let mut stopping = JoinSet::new();
        for node in self.nodes {
            stopping.spawn(async move { node.stop().await });
        }
        while stopping.join_next().await.is_some() {}
    }

    async fn wait_for_leaders(&self, groups: u64) -> Result<(), BenchError> {
        let until = Instant::now() + FORMATION_MAX;
        loop {
            let led = self.leaders().len() as u64;
            if led == groups {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(BenchError::NoLeaders { led, groups });
            }
            tokio::time::sleep(FORMATION_POLL).await;
        }
    }
}

/// Loopback addresses that nobody uses at the moment, one per node.
fn free_addresses() -> std::io::Result<Vec<SocketAddr>> {
    // All are held until the last is found, so that no two are the same.
    let bind = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let sockets: Vec<UdpSocket> = (0..NODES).map(bind).collect::<Result<_, _>>()?;
    sockets.iter().map(UdpSocket::local_addr).collect()
}

fn node_config(
    dir: &Path,
    scenario: &Scenario,
    node: NodeId,
    addresses: &[SocketAddr],
) -> Result<NodeConfig, BenchError> {
    let mut cluster = ClusterConfig::builder(CLUSTER);
    for (id, address) in (1..).zip(addresses) {
        cluster = cluster.node(NodeId::new(id), address.to_string());
    }
    for id in 1..=scenario.groups {
        cluster = cluster.group(GroupSpec::new(GroupId::new(id), format!("group-{id}")));
    }
    let own = usize::try_from(node.get() - 1).expect("there are three nodes");
    Ok(NodeConfig::builder()
        .cluster(cluster)
        .node_id(node)
        .data_dir(dir.join(format!("node-{node}")))
        .listen(addresses[own])
        .tls(TlsPaths::in_dir(&dir.join("certs"), node))
        .batching(scenario.batching())
        .build()?)
}
