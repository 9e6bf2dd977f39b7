//! A partitioned log: every partition is a group of its own, with its leader on a node of its own.
//!
//! ```text
//! producer ─key→ partition ─append→ offset        consumer ─from OFFSET→ records
//!
//! cargo run -p polyraft --example partitioned_log
//! ```

mod three_nodes;

use std::error::Error;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use polyraft::{ApplyContext, ApplyError, NodeId, Response, State, StateMachine};
use three_nodes::ThreeNodes;

const PARTITIONS: [&str; 3] = ["events-0", "events-1", "events-2"];
const RECORDS: usize = 60;

/// A command is a record and answers its offset. A query is an offset, in decimal: it answers the
/// records from there on, a line each. The next offset is kept in memory and found again in `open`.
#[derive(Default)]
struct Partition {
    next: u64,
}

impl StateMachine for Partition {
    fn open(&mut self, state: &dyn State) -> Result<(), ApplyError> {
        self.next = 0;
        state.scan(Bound::Included(b"r"), Bound::Unbounded, true, &mut |key, _| {
            self.next = key.last_chunk().map_or(0, |offset| u64::from_be_bytes(*offset) + 1);
            false
        })?;
        Ok(())
    }

    fn apply(
        &mut self,
        state: &mut dyn State,
        _: &ApplyContext,
        record: &[u8],
    ) -> Result<Response, ApplyError> {
        if record.contains(&b'\n') {
            return Ok(Response::Rejected("a record is one line".into()));
        }
        state.put(&row(self.next), Bytes::copy_from_slice(record))?;
        self.next += 1;
        Ok(Response::Accepted((self.next - 1).to_string().into()))
    }

    fn query(&self, state: &dyn State, from: &[u8]) -> Result<Bytes, ApplyError> {
        let from = std::str::from_utf8(from).ok().and_then(|from| from.parse().ok());
        let from = from.ok_or_else(|| ApplyError::Decode { what: "no offset".to_owned() })?;
        let mut records = Vec::new();
        state.scan(Bound::Included(&row(from)), Bound::Unbounded, false, &mut |_, record| {
            records.extend_from_slice(record);
            records.push(b'\n');
            true
        })?;
        Ok(records.into())
    }
}

fn row(offset: u64) -> Vec<u8> {
    [b"r", &offset.to_be_bytes()[..]].concat()
}

fn lines(records: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(records).lines().map(str::to_owned).collect()
}

/// Gives each partition its own leader, so that all nodes share the work.
async fn spread(cluster: &ThreeNodes) {
    for (node, partition) in (1..).map(NodeId::new).zip(PARTITIONS) {
        let wanted = cluster.group(node, partition);
        while wanted.status().leader != Some(node) {
            if let Some(leader) = wanted.status().leader {
                cluster.group(leader, partition).transfer_leader(node);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{partition} is led by node {node}");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut cluster = ThreeNodes::start(&PARTITIONS, || Box::<Partition>::default()).await?;
    let [one, two, three] = [1, 2, 3].map(NodeId::new);
    spread(&cluster).await;

    // A producer anywhere: the key picks the partition, the answer is the record's offset there.
    for n in 0..RECORDS {
        let partition = PARTITIONS[n % PARTITIONS.len()];
        let applied = cluster.group(one, partition).propose(format!("record {n}")).await?;
        assert_eq!(applied.response.body(), &(n / PARTITIONS.len()).to_string());
    }
    // Many at once are one entry of the log, with offsets in a row.
    let many = (0..10).map(|n| Bytes::from(format!("bulk {n}"))).collect();
    let applied = cluster.group(two, PARTITIONS[0]).propose_batch(many).await?;
    let offsets: Vec<_> = applied.responses.iter().map(|r| r.body().clone()).collect();
    println!("ten at once got offsets {offsets:?}");
    assert_eq!((&offsets[0][..], &offsets[9][..]), (&b"20"[..], &b"29"[..]));

    // A node goes; its partition gets another leader, and a consumer goes on from its offset.
    cluster.stop_node(one).await;
    let after = cluster.group(two, PARTITIONS[0]).propose("after").await?;
    assert_eq!(after.response.body(), "30");
    let rest = lines(&cluster.group(three, PARTITIONS[0]).read("25").await?);
    println!("events-0 from offset 25: {rest:?}");
    assert_eq!(rest, ["bulk 5", "bulk 6", "bulk 7", "bulk 8", "bulk 9", "after"]);

    // Back again, it may be behind: what it says without asking the others is a part of the log from
    // its beginning on, and a linearizable read waits until it has all of it.
    cluster.start_node(one).await?;
    let back = cluster.group(one, PARTITIONS[0]);
    let stale = lines(&back.read_stale("0").await?);
    let all = lines(&back.read("0").await?);
    println!("node 1 had {} records and has {}", stale.len(), all.len());
    assert!(all.starts_with(&stale));
    assert_eq!(all.len(), RECORDS / PARTITIONS.len() + 11);
    cluster.stop().await;
    Ok(())
}
