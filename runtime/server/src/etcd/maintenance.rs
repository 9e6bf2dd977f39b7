//! `etcdserverpb.Maintenance`: the state of one keyspace on this node.

use polyraft::{GroupStatus, Health};
use tonic::{Request, Response, Status};

use super::keyspaces::{KeyspaceHandle, Keyspaces, mismatched};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    ResponseHeader, StatusRequest, StatusResponse,
};
use crate::proto::keyspace::Position;
use crate::proto::keyspace::answer::Kind as AnswerKind;
use crate::proto::keyspace::query::Kind as QueryKind;

/// The etcd release whose API is spoken, for clients that look at it.
const ETCD_API_VERSION: &str = "3.5.0";

/// The Maintenance service. Every answer is this replica's own: that is what it is asked for.
pub(super) struct MaintenanceService(pub Keyspaces);

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    /// There are no alarms, hence none to raise or clear either.
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        if request.into_inner().action() == AlarmAction::Activate {
            return Err(Status::unimplemented("polyraft: alarms cannot be activated"));
        }
        let header = keyspace.header(Some(position(&keyspace).await?));
        Ok(Response::new(AlarmResponse { header, alarms: Vec::new() }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        let header = keyspace.header(Some(position(&keyspace).await?));
        let storage_bytes = self.0.node().storage_bytes();
        let response = status_response(&keyspace.group().status(), storage_bytes);
        Ok(Response::new(StatusResponse { header, ..response }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        let hash = hash_kv(&keyspace, HashKvRequest::default()).await?;
        Ok(Response::new(HashResponse { header: hash.header, hash: hash.hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        Ok(Response::new(hash_kv(&keyspace, request.into_inner()).await?))
    }
}

async fn position(keyspace: &KeyspaceHandle) -> Result<ResponseHeader, Status> {
    match keyspace.read(QueryKind::Position(Position::default()), true).await? {
        AnswerKind::Position(Position { revision, .. }) => {
            Ok(ResponseHeader { revision, ..ResponseHeader::default() })
        }
        _ => Err(mismatched()),
    }
}

async fn hash_kv(
    keyspace: &KeyspaceHandle,
    request: HashKvRequest,
) -> Result<HashKvResponse, Status> {
    match keyspace.read(QueryKind::Hash(request), true).await? {
        AnswerKind::Hash(mut response) => {
            response.header = keyspace.header(response.header);
            Ok(response)
        }
        _ => Err(mismatched()),
    }
}

fn status_response(group: &GroupStatus, storage_bytes: u64) -> StatusResponse {
    let mut errors = Vec::new();
    match &group.health {
        Health::Healthy => {}
        Health::Restarting => errors.push("polyraft: restarting".to_owned()),
        Health::Faulted(reason) => errors.push(format!("polyraft: faulted: {reason}")),
        Health::Stopped => errors.push("polyraft: stopped".to_owned()),
    }
    if group.leader.is_none() {
        errors.push("etcdserver: no leader".to_owned());
    }
    let bytes = i64::try_from(storage_bytes).unwrap_or(i64::MAX);
    StatusResponse {
        header: None,
        version: ETCD_API_VERSION.to_owned(),
        db_size: bytes,
        leader: group.leader.map_or(0, |leader| leader.get()),
        raft_index: group.commit.get(),
        raft_term: group.term.get(),
        raft_applied_index: group.applied.get(),
        errors,
        db_size_in_use: bytes,
        is_learner: group.configuration.learners.contains(&group.replica),
    }
}
