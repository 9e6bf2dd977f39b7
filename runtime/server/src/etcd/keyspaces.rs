//! Finds a request's keyspace, and speaks to its group in commands and queries.

use std::collections::BTreeMap;

use polyraft::{GroupHandle, Node, NodeId, TraceContext};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use super::{statuses, validate};
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::keyspace::answer::Kind as AnswerKind;
use crate::proto::keyspace::command::Kind as CommandKind;
use crate::proto::keyspace::query::Kind as QueryKind;
use crate::proto::keyspace::{Answer, Command, Query, Refusal};

/// The keyspace of a client that names none.
pub const DEFAULT_KEYSPACE: &str = "default";
/// The gRPC metadata that names a keyspace.
pub const KEYSPACE_METADATA: &str = "polyraft-keyspace";

/// The keyspaces that a node serves.
#[derive(Clone)]
pub struct Keyspaces {
    node: Node,
    cluster_id: u64,
    client_urls: BTreeMap<NodeId, String>,
}

impl Keyspaces {
    /// Serves every group of `node`. `client_urls` says where the nodes serve clients, for member
    /// lists; nodes may be absent from it.
    pub fn new(node: Node, client_urls: BTreeMap<NodeId, String>) -> Self {
        let cluster_id = cluster_id(node.cluster());
        Self { node, cluster_id, client_urls }
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn client_url(&self, node: NodeId) -> Option<&str> {
        self.client_urls.get(&node).map(String::as_str)
    }

    /// The keyspace that a request means; what it proposes there is part of the request's trace.
    pub(super) fn pick<T>(&self, request: &Request<T>) -> Result<KeyspaceHandle, Status> {
        let name = named_in(request.metadata())?;
        let mut group = self.node.group(name).ok_or_else(|| {
            Status::not_found(format!("polyraft: keyspace {name:?} does not exist on this node"))
        })?;
        if let Some(trace) = request.extensions().get::<TraceContext>() {
            group = group.with_trace(*trace);
        }
        let member_id = self.node.id().get();
        Ok(KeyspaceHandle { group, cluster_id: self.cluster_id, member_id })
    }
}

/// One keyspace, on behalf of one request.
pub(super) struct KeyspaceHandle {
    group: GroupHandle,
    cluster_id: u64,
    member_id: u64,
}

impl KeyspaceHandle {
    pub fn group(&self) -> &GroupHandle {
        &self.group
    }

    /// Proposes a command and returns its answer once it is committed and applied, with the term of
    /// its entry.
    pub async fn propose(&self, command: CommandKind) -> Result<(AnswerKind, u64), Status> {
        let command = Command { kind: Some(command) };
        validate::check_size(command.encoded_len())?;
        let applied = self
            .group
            .propose(command.encode_to_vec())
            .await
            .map_err(|error| statuses::of_propose(&error))?;
        Ok((opened(applied.response.body())?, applied.term.get()))
    }

    /// Answers a query: with everything acknowledged before it, or, if `serializable`, with what
    /// this replica has.
    pub async fn read(&self, query: QueryKind, serializable: bool) -> Result<AnswerKind, Status> {
        let query = Query { kind: Some(query) }.encode_to_vec();
        let reply = if serializable {
            self.group.read_stale(query).await
        } else {
            self.group.read(query).await
        };
        opened(&reply.map_err(|error| statuses::of_read(&error))?)
    }

    /// Completes the header of an answer to a read.
    pub fn header(&self, answered: Option<ResponseHeader>) -> Option<ResponseHeader> {
        self.header_in(answered, self.group.status().term.get())
    }

    /// Completes the header of an answer that was given in `raft_term`.
    pub fn header_in(
        &self,
        answered: Option<ResponseHeader>,
        raft_term: u64,
    ) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: answered.map_or(0, |header| header.revision),
            raft_term,
        })
    }
}

/// An answer of a kind that the request cannot have.
pub(super) fn mismatched() -> Status {
    Status::internal("polyraft: the keyspace answered another question")
}

fn opened(body: &bytes::Bytes) -> Result<AnswerKind, Status> {
    let answer = Answer::decode(body.clone())
        .map_err(|error| Status::internal(format!("polyraft: cannot decode an answer: {error}")))?;
    match answer.kind {
        Some(AnswerKind::Refusal(refusal)) => {
            Err(statuses::of_refusal(Refusal::try_from(refusal).unwrap_or(Refusal::Unspecified)))
        }
        Some(kind) => Ok(kind),
        None => Err(mismatched()),
    }
}

fn named_in(metadata: &MetadataMap) -> Result<&str, Status> {
    let Some(value) = metadata.get(KEYSPACE_METADATA) else { return Ok(DEFAULT_KEYSPACE) };
    value.to_str().map_err(|_| {
        Status::invalid_argument(format!("polyraft: metadata {KEYSPACE_METADATA} is not text"))
    })
}

/// FNV-1a of the cluster's name: stable, equal on all nodes, never 0 in practice.
fn cluster_id(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn metadata_names_the_keyspace() {
        let mut metadata = MetadataMap::new();
        assert_eq!(named_in(&metadata).unwrap(), "default");
        metadata.insert(KEYSPACE_METADATA, "ks-01".parse().unwrap());
        assert_eq!(named_in(&metadata).unwrap(), "ks-01");
    }

    #[test]
    fn refusals_become_statuses() {
        let answer = Answer { kind: Some(AnswerKind::Refusal(Refusal::Compacted.into())) };
        let status = opened(&answer.encode_to_vec().into()).unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange);
        assert_eq!(opened(&bytes::Bytes::new()).unwrap_err().code(), Code::Internal);
    }

    #[test]
    fn cluster_ids_depend_on_the_name_alone() {
        assert_eq!(cluster_id("dev"), cluster_id("dev"));
        assert_ne!(cluster_id("dev"), cluster_id("prod"));
    }
}
