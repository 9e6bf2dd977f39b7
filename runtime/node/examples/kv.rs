//! A replicated map on three nodes: put on one, read on another, stop the leader, go on, start it again.
//!
//! ```text
//! cargo run -p polyraft --example kv
//! ```

mod three_nodes;

use std::error::Error;

use bytes::Bytes;
use polyraft::{ApplyContext, ApplyError, NodeId, Response, State, StateMachine};
use three_nodes::ThreeNodes;

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
    let mut cluster = ThreeNodes::start(&["kv"], || Box::new(KeyValue)).await?;
    let [one, two, three] = [1, 2, 3].map(NodeId::new);

    let applied = cluster.group(one, "kv").propose("colour=blue").await?;
    println!("put on node 1: committed at index {}, term {}", applied.index, applied.term);
    let read = cluster.group(three, "kv").read("colour").await?;
    println!("read on node 3: {read:?}");
    assert_eq!(read, "blue");
    let refused = cluster.group(two, "kv").propose("colour").await?;
    println!("a command without a value: {:?}", refused.response);
    assert!(!refused.response.is_accepted());

    let leader = cluster.group(one, "kv").status().leader.ok_or("it has just committed")?;
    cluster.stop_node(leader).await;
    println!("stopped node {leader}, the leader");
    let left = [one, two, three].into_iter().filter(|node| *node != leader);
    for (node, (before, after)) in left.zip([("blue", "green"), ("green", "red")]) {
        let applied = cluster.group(node, "kv").propose(format!("colour={after}")).await?;
        println!("put on node {node}: it was {:?}", applied.response.body());
        assert_eq!(applied.response.body(), before);
    }

    cluster.start_node(leader).await?;
    let read = cluster.group(leader, "kv").read("colour").await?;
    println!("read on node {leader}, which missed both: {read:?}");
    assert_eq!(read, "red");
    cluster.stop().await;
    Ok(())
}
