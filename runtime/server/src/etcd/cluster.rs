//! `etcdserverpb.Cluster`: who serves a keyspace.

use std::collections::BTreeMap;

use polyraft::{Configuration, NodeId};
use tonic::{Request, Response, Status};

use super::keyspaces::{Keyspaces, mismatched};
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse, ResponseHeader};
use crate::proto::keyspace::Position;
use crate::proto::keyspace::answer::Kind as AnswerKind;
use crate::proto::keyspace::query::Kind as QueryKind;

/// The Cluster service. Membership is changed by the operator's tools, not through this API.
pub(super) struct ClusterService(pub Keyspaces);

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        let mut header = None;
        if request.into_inner().linearizable {
            let position = QueryKind::Position(Position::default());
            match keyspace.read(position, false).await? {
                AnswerKind::Position(Position { revision, .. }) => {
                    header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
                }
                _ => return Err(mismatched()),
            }
        }
        let members = members(&self.0, &keyspace.group().status().configuration);
        Ok(Response::new(MemberListResponse { header: keyspace.header(header), members }))
    }
}

/// The replicas of a keyspace as etcd's members: a member is a node.
fn members(keyspaces: &Keyspaces, configuration: &Configuration) -> Vec<Member> {
    let links = keyspaces.node().links().into_iter();
    let addresses: BTreeMap<NodeId, String> = links.map(|link| (link.peer, link.address)).collect();
    let member = |replica: &polyraft::Member| {
        let (node, address) = (replica.node, addresses.get(&replica.node));
        Member {
            id: node.get(),
            name: format!("node-{node}"),
            peer_ur_ls: address.map(|address| format!("quic://{address}")).into_iter().collect(),
            client_ur_ls: keyspaces.client_url(node).map(str::to_owned).into_iter().collect(),
            is_learner: configuration.learners.contains(&replica.replica),
        }
    };
    configuration.members.iter().map(member).collect()
}
