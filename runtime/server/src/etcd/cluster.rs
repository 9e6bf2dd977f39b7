//! `etcdserverpb.Cluster`: who serves a keyspace.

use std::collections::BTreeMap;

use polyraft::NodeId;
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
        let keyspace = self.0.pick(request.metadata())?;
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
        let status = keyspace.group().status();
        let peers: BTreeMap<NodeId, String> = self
            .0
            .node()
            .status()
            .peers
            .into_iter()
            .map(|link| (link.peer, link.address))
            .collect();
        let configuration = &status.configuration;
        let members = configuration
            .members
            .iter()
            .map(|member| Member {
                id: member.node.get(),
                name: format!("node-{}", member.node),
                peer_ur_ls: peers
                    .get(&member.node)
                    .map(|a| format!("quic://{a}"))
                    .into_iter()
                    .collect(),
                client_ur_ls: self
                    .0
                    .client_url(member.node)
                    .map(str::to_owned)
                    .into_iter()
                    .collect(),
                is_learner: configuration.learners.contains(&member.replica),
            })
            .collect();
        Ok(Response::new(MemberListResponse { header: keyspace.header(header), members }))
    }
}
