//! Three nodes in one process: put on one, read on another, stop the leader, go on.
//!
//! ```text
//! cargo run -p polyraft --example kv_three_nodes
//! ```

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use polyraft::certificates::{CertificateAuthority, Validity};
use polyraft::{
    ApplyContext, ApplyError, ClusterConfig, GroupHandle, GroupId, GroupSpec, Node, NodeConfig,
    NodeId, Profile, Response, State, StateMachine, TlsPaths,
};

/// A command is `key=value` and answers the value before it; a query is a key.
struct KeyValue;

impl StateMachine for KeyValue {
    fn apply(
        &mut self,
        state: &mut dyn State,
        _: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        let Some(at) = command.iter().position(|byte| *byte == b'=') else {
            return Ok(Response::Rejected("a command is key=value".into()));
        };
        let (key, value) = (&command[..at], Bytes::copy_from_slice(&command[at + 1..]));
        let before = state.get(key)?.unwrap_or_default();
        state.put(key, value)?;
        Ok(Response::Accepted(before))
    }

    fn query(&self, state: &dyn State, key: &[u8]) -> Result<Bytes, ApplyError> {
        Ok(state.get(key)?.unwrap_or_default())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let addresses = free_addresses()?;
    let authority = CertificateAuthority::create("demo", Validity::default())?;
    authority.save(dir.path())?;
    let mut nodes = Vec::new();
    for id in addresses.map(|(id, _)| id) {
        authority.issue(id)?.save(dir.path())?;
        let config = config(dir.path(), id, &addresses)?;
        nodes.push(Node::start(config, |_| Box::new(KeyValue)).await?);
    }

    let applied = handle(&nodes[0])?.propose("colour=blue").await?;
    println!("put on node 1: committed at index {}, term {}", applied.index, applied.term);
    println!("read on node 3: {:?}", handle(&nodes[2])?.read("colour").await?);

    let leader = handle(&nodes[0])?.status().leader.ok_or("it has just committed")?;
    let at = nodes.iter().position(|node| node.id() == leader).ok_or("it is one of ours")?;
    nodes.swap_remove(at).stop().await;
    println!("stopped node {leader}, the leader");

    for (node, value) in nodes.iter().zip(["green", "red"]) {
        let group = handle(node)?.with_deadline(Duration::from_secs(20));
        let applied = group.propose(format!("colour={value}")).await?;
        println!("put on node {}: it was {:?}", node.id(), applied.response.body());
    }
    for node in &nodes {
        println!("read on node {}: {:?}", node.id(), handle(node)?.read("colour").await?);
    }
    for node in nodes {
        node.stop().await;
    }
    Ok(())
}

fn handle(node: &Node) -> Result<GroupHandle, &'static str> {
    node.group("kv").ok_or("the group is not here")
}

/// Three ports that are free now, each for one node.
fn free_addresses() -> std::io::Result<[(NodeId, SocketAddr); 3]> {
    let bind = || UdpSocket::bind("127.0.0.1:0");
    let sockets = [(1, bind()?), (2, bind()?), (3, bind()?)];
    let [one, two, three] = sockets.map(|(id, socket)| (NodeId::new(id), socket.local_addr()));
    Ok([(one.0, one.1?), (two.0, two.1?), (three.0, three.1?)])
}

fn config(
    dir: &Path,
    id: NodeId,
    addresses: &[(NodeId, SocketAddr); 3],
) -> Result<NodeConfig, Box<dyn Error>> {
    let mut cluster = ClusterConfig::builder("demo")
        .profile(Profile::Lan)
        .group(GroupSpec::new(GroupId::new(1), "kv"));
    for (node, address) in addresses {
        cluster = cluster.node(*node, address.to_string());
    }
    let (_, listen) = addresses.iter().find(|(node, _)| *node == id).ok_or("it is in the list")?;
    let config = NodeConfig::builder()
        .cluster(cluster)
        .node_id(id)
        .data_dir(dir.join(format!("data-{id}")))
        .listen(*listen)
        .tls(TlsPaths::in_dir(dir, id))
        .build()?;
    Ok(config)
}
