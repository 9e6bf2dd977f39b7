//! Three nodes in this process: what several examples share, so that each shows its own thing only.
//!
//! ```text
//! ThreeNodes ─→ node 1, node 2, node 3: every group on each, certificates and data in one directory
//! ```
//!
//! Dropping it removes the directory.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use polyraft::certificates::{CertificateAuthority, Validity};
use polyraft::{
    ClusterConfig, GroupHandle, GroupId, GroupSpec, Node, NodeConfig, NodeId, Profile,
    StateMachine, TlsPaths,
};
use tempfile::TempDir;

/// Long enough for an election on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// Makes a machine for each group.
type Machine = fn() -> Box<dyn StateMachine>;

/// A cluster on loopback.
pub struct ThreeNodes {
    nodes: Vec<(NodeConfig, Option<Node>)>,
    machine: Machine,
    _dir: TempDir,
}

impl ThreeNodes {
    /// Starts nodes 1 to 3 with a replica of each group on each.
    pub async fn start(groups: &[&str], machine: Machine) -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let authority = CertificateAuthority::create("demo", Validity::default())?;
        authority.save(dir.path())?;
        let addresses = free_addresses()?;
        let mut cluster = ClusterConfig::builder("demo").profile(Profile::Lan);
        for (id, address) in &addresses {
            cluster = cluster.node(*id, address.to_string());
        }
        for (id, name) in (1..).zip(groups) {
            cluster = cluster.group(GroupSpec::new(GroupId::new(id), *name));
        }
        let mut three = Self { nodes: Vec::new(), machine, _dir: dir };
        for (id, listen) in addresses {
            let dir = three._dir.path();
            authority.issue(id)?.save(dir)?;
            let config = NodeConfig::builder()
                .cluster(cluster.clone())
                .node_id(id)
                .data_dir(dir.join(format!("data-{id}")))
                .listen(listen)
                .tls(TlsPaths::in_dir(dir, id))
                .build()?;
            three.nodes.push((config, None));
            three.start_node(id).await?;
        }
        Ok(three)
    }

    /// A group's handle on a node that runs.
    pub fn group(&self, node: NodeId, name: &str) -> GroupHandle {
        let (_, node) = &self.nodes[place(node)];
        let group = node.as_ref().expect("the node runs").group(name);
        group.expect("every group is on every node").with_deadline(DEADLINE)
    }

    /// Starts a node that does not run, over the data that it left.
    pub async fn start_node(&mut self, node: NodeId) -> Result<(), Box<dyn Error>> {
        let (machine, (config, place)) = (self.machine, &mut self.nodes[place(node)]);
        *place = Some(Node::start(config.clone(), move |_| machine()).await?);
        Ok(())
    }

    /// Stops a node and leaves its data.
    pub async fn stop_node(&mut self, node: NodeId) {
        if let Some(node) = self.nodes[place(node)].1.take() {
            node.stop().await;
        }
    }

    /// Stops every node.
    pub async fn stop(mut self) {
        for id in 1..=3 {
            self.stop_node(NodeId::new(id)).await;
        }
    }
}

fn place(node: NodeId) -> usize {
    usize::try_from(node.get() - 1).expect("nodes are 1, 2 and 3")
}

/// Three ports that are free now, each for one node.
fn free_addresses() -> std::io::Result<[(NodeId, SocketAddr); 3]> {
    let bind = || UdpSocket::bind("127.0.0.1:0");
    let sockets = [(1, bind()?), (2, bind()?), (3, bind()?)];
    let [one, two, three] = sockets.map(|(id, socket)| (NodeId::new(id), socket.local_addr()));
    Ok([(one.0, one.1?), (two.0, two.1?), (three.0, three.1?)])
}
