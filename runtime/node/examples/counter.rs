//! One process, one group: a counter that survives restarts.
//!
//! ```text
//! cargo run -p polyraft --example counter
//! ```

use polyraft::certificates::{CertificateAuthority, Validity};
use polyraft::{
    ApplyContext, ApplyError, ClusterConfig, GroupId, GroupSpec, Node, NodeConfig, NodeId,
    Response, State, StateMachine, TlsPaths,
};

/// Every command adds one; every query, and every response, is the count in decimal.
struct Counter;

impl StateMachine for Counter {
    fn apply(
        &mut self,
        state: &mut dyn State,
        _: &ApplyContext,
        _: &[u8],
    ) -> Result<Response, ApplyError> {
        let count = count(state)? + 1;
        state.put(b"count", count.to_string().into())?;
        Ok(Response::Accepted(count.to_string().into()))
    }

    fn query(&self, state: &dyn State, _: &[u8]) -> Result<bytes::Bytes, ApplyError> {
        Ok(count(state)?.to_string().into())
    }
}

fn count(state: &dyn State) -> Result<u64, ApplyError> {
    let Some(bytes) = state.get(b"count")? else { return Ok(0) };
    let count = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
    count.ok_or_else(|| ApplyError::Decode { what: "the count is not a number".to_owned() })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (dir, id) = (tempfile::tempdir()?, NodeId::new(1));
    let authority = CertificateAuthority::create("demo", Validity::default())?;
    authority.save(dir.path())?;
    authority.issue(id)?.save(dir.path())?;
    let group = GroupSpec::new(GroupId::new(1), "counter");
    let config = NodeConfig::builder()
        .cluster(ClusterConfig::builder("demo").node(id, "127.0.0.1:7400").group(group))
        .node_id(id)
        .data_dir(dir.path().join("data"))
        .listen(([127, 0, 0, 1], 0).into())
        .tls(TlsPaths::in_dir(dir.path(), id))
        .build()?;
    for life in 1..=2 {
        let node = Node::start(config.clone(), |_| Box::new(Counter)).await?;
        let counter = node.group("counter").ok_or("the group is not here")?;
        let applied = counter.propose("add one").await?;
        println!("life {life}: index {}, answer {:?}", applied.index, applied.response.body());
        let read = counter.read("").await?;
        println!("life {life}: read {read:?}");
        assert_eq!(read, life.to_string());
        node.stop().await;
    }
    Ok(())
}
