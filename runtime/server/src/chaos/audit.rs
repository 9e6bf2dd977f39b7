//! After the faults: does everything come back, and what does each keyspace hold?
//!
//! ```text
//! every key at the end ─its revision − 1→ what it was before ─…→ its creation
//! ```
//!
//! A keyspace keeps all revisions, so its whole history is read backwards, all keys at once: as many
//! small transactions as its busiest key has versions. Promise: reads, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::endpoint::{KeyspaceEndpoint, connection};
use super::history::ValueId;
use super::judge::{Ledger, Row};
use super::nodes::NodeAddresses;
use super::violation::Violation;
use super::workload::KeyNames;
use crate::admin_client;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest};
use crate::proto::mvccpb::KeyValue;

/// How long nodes and keyspaces may take to come back.
const PATIENCE: Duration = Duration::from_secs(60);
/// For one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Who is asked, and about what.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The nodes.
    pub nodes: Vec<NodeAddresses>,
    /// The keyspaces' names.
    pub keyspaces: Vec<String>,
    /// The load's keys.
    pub keys: KeyNames,
}

impl Audit {
    /// Waits until every node is ready; returns those that do not get so, with the reason.
    pub async fn wait_until_ready(&self) -> Vec<Violation> {
        let (deadline, mut late) = (Instant::now() + PATIENCE, Vec::new());
        for node in &self.nodes {
            let admin = node.admin.to_string();
            while let Err(error) = admin_client::get(&admin, "/readyz").await {
                if Instant::now() > deadline {
                    late.push(not_recovered(format!("node {}", node.node), error.to_string()));
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        late
    }

    /// Each keyspace's revision now, read through a majority.
    ///
    /// # Errors
    /// One serves no reads.
    pub async fn revisions(&self) -> Result<Vec<i64>, Violation> {
        let mut revisions = Vec::new();
        for keyspace in &self.keyspaces {
            revisions.push(self.read_all(keyspace).await?.1);
        }
        Ok(revisions)
    }

    /// Everything that each keyspace applied since it was at the revision in `before`, and its hashes
    /// on `hashed` nodes.
    ///
    /// # Errors
    /// A keyspace serves no reads, or a node does not catch up.
    pub async fn ledgers(&self, before: &[i64], hashed: &[u64]) -> Result<Vec<Ledger>, Violation> {
        let mut ledgers = Vec::new();
        for (name, before) in self.keyspaces.iter().zip(before) {
            let mut ledger = self.ledger(name).await?;
            ledger.before = *before;
            for node in self.nodes.iter().filter(|node| hashed.contains(&node.node)) {
                let hash = self.hash(node, name, ledger.revision).await?;
                ledger.hashes.insert(node.node, hash);
            }
            ledgers.push(ledger);
        }
        Ok(ledgers)
    }

    async fn ledger(&self, name: &str) -> Result<Ledger, Violation> {
        let (mut endpoint, revision, newest) = self.read_all(name).await?;
        let deadline = Instant::now() + PATIENCE;
        let mut rows = BTreeMap::new();
        let mut frontier = newest;
        while !frontier.is_empty() {
            for kv in &frontier {
                rows.insert((kv.mod_revision, kv.key.clone()), self.row(kv));
            }
            frontier = match endpoint.txn(one_step_back(&frontier), ANSWER_TIMEOUT).await {
                Ok(response) => pairs(response.responses.into_iter().filter_map(|op| op.response)),
                Err(_) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(status) => {
                    return Err(not_recovered(format!("keyspace {name}"), text(&status)));
                }
            };
        }
        let rows = rows.into_values().collect();
        Ok(Ledger { name: name.to_owned(), revision, rows, ..Ledger::default() })
    }

    fn row(&self, kv: &KeyValue) -> Row {
        let number = self.keys.number(&kv.key);
        let value = ValueId::of(&kv.value).filter(|_| number.is_some());
        Row { revision: kv.mod_revision, key: number.unwrap_or(u32::MAX), value }
    }

    /// Reads all keys through a majority, by whichever node answers; returns it, too.
    async fn read_all(
        &self,
        keyspace: &str,
    ) -> Result<(KeyspaceEndpoint, i64, Vec<KeyValue>), Violation> {
        let deadline = Instant::now() + PATIENCE;
        let (first, end) = self.keys.range();
        let range =
            RangeRequest { key: first.into(), range_end: end.into(), ..RangeRequest::default() };
        let mut last = String::new();
        for node in self.nodes.iter().cycle() {
            let mut endpoint = KeyspaceEndpoint::new(node.node, &connection(node), keyspace);
            match endpoint.range(range.clone(), ANSWER_TIMEOUT).await {
                Ok((revision, response)) => return Ok((endpoint, revision, response.kvs)),
                Err(status) => last = text(&status),
            }
            if Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(not_recovered(format!("keyspace {keyspace}"), last))
    }

    /// One replica's hash, once it has got to `revision`.
    async fn hash(
        &self,
        node: &NodeAddresses,
        name: &str,
        revision: i64,
    ) -> Result<u32, Violation> {
        let deadline = Instant::now() + PATIENCE;
        let mut endpoint = KeyspaceEndpoint::new(node.node, &connection(node), name);
        loop {
            match endpoint.hash(revision, ANSWER_TIMEOUT).await {
                Ok(hash) => return Ok(hash),
                Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                Err(status) => {
                    let what = format!("keyspace {name} on node {}", node.node);
                    return Err(not_recovered(what, text(&status)));
                }
            }
        }
    }
}

/// Reads what each of `pairs` replaced. The replica that is asked has shown that it has got so far.
fn one_step_back(pairs: &[KeyValue]) -> TxnRequest {
    let replaced = pairs.iter().filter(|kv| kv.version > 1);
    let reads = replaced.map(|kv| RangeRequest {
        key: kv.key.clone(),
        revision: kv.mod_revision - 1,
        serializable: true,
        ..RangeRequest::default()
    });
    let op = |range| RequestOp { request: Some(Request::RequestRange(range)) };
    TxnRequest { success: reads.map(op).collect(), ..TxnRequest::default() }
}

fn pairs(responses: impl Iterator<Item = Response>) -> Vec<KeyValue> {
    let ranges = responses.filter_map(|response| match response {
        Response::ResponseRange(range) => Some(range.kvs),
        _ => None,
    });
    ranges.flatten().collect()
}

fn text(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

fn not_recovered(what: String, last: String) -> Violation {
    Violation::NotRecovered { what, within_s: PATIENCE.as_secs(), last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_created_has_nothing_before_it() {
        let pair = |version, mod_revision| KeyValue {
            key: "k".into(),
            version,
            mod_revision,
            ..KeyValue::default()
        };
        let txn = one_step_back(&[pair(1, 5), pair(3, 9)]);
        let revisions: Vec<_> = txn
            .success
            .iter()
            .map(|op| match &op.request {
                Some(Request::RequestRange(range)) => range.revision,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(revisions, [8]);
    }
}
