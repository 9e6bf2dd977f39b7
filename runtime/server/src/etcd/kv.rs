//! `etcdserverpb.KV`.

use tonic::{Request, Response, Status};

use super::keyspaces::{KeyspaceHandle, Keyspaces, mismatched};
use super::validate;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use crate::proto::keyspace::answer::Kind as AnswerKind;
use crate::proto::keyspace::command::Kind as CommandKind;
use crate::proto::keyspace::query::Kind as QueryKind;
use crate::proto::keyspace::{Sweep, Swept};

/// The KV service over all keyspaces of a node.
pub(super) struct KvService(pub Keyspaces);

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        let request = request.into_inner();
        validate::check_range(&request)?;
        let serializable = request.serializable;
        match keyspace.read(QueryKind::Range(request), serializable).await? {
            AnswerKind::Range(mut response) => {
                response.header = keyspace.header(response.header);
                Ok(Response::new(response))
            }
            _ => Err(mismatched()),
        }
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        let request = request.into_inner();
        validate::check_put(&request)?;
        match keyspace.propose(CommandKind::Put(request)).await? {
            (AnswerKind::Put(mut response), term) => {
                response.header = keyspace.header_in(response.header, term);
                Ok(Response::new(response))
            }
            _ => Err(mismatched()),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        let request = request.into_inner();
        validate::check_delete_range(&request)?;
        match keyspace.propose(CommandKind::DeleteRange(request)).await? {
            (AnswerKind::DeleteRange(mut response), term) => {
                response.header = keyspace.header_in(response.header, term);
                Ok(Response::new(response))
            }
            _ => Err(mismatched()),
        }
    }

    /// A transaction that cannot write is a read: it costs no log entry.
    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        let request = request.into_inner();
        validate::check_txn(&request)?;
        let (answer, term) = if validate::is_read_only(&request) {
            let serializable = validate::is_serializable(&request);
            let answer = keyspace.read(QueryKind::Txn(request), serializable).await?;
            (answer, keyspace.group().status().term.get())
        } else {
            keyspace.propose(CommandKind::Txn(request)).await?
        };
        match answer {
            AnswerKind::Txn(mut response) => {
                response.header = keyspace.header_in(response.header, term);
                Ok(Response::new(response))
            }
            _ => Err(mismatched()),
        }
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let keyspace = self.0.pick(&request)?;
        let request = request.into_inner();
        match keyspace.propose(CommandKind::Compact(request)).await? {
            (AnswerKind::Compact(mut response), term) => {
                if request.physical {
                    sweep_all(&keyspace).await?;
                }
                response.header = keyspace.header_in(response.header, term);
                Ok(Response::new(response))
            }
            _ => Err(mismatched()),
        }
    }
}

/// Waits until the compacted rows are freed, in steps that leave room for other commands.
async fn sweep_all(keyspace: &KeyspaceHandle) -> Result<(), Status> {
    loop {
        match keyspace.propose(CommandKind::Sweep(Sweep {})).await? {
            (AnswerKind::Swept(Swept { more: true }), _) => {}
            (AnswerKind::Swept(Swept { more: false }), _) => return Ok(()),
            _ => return Err(mismatched()),
        }
    }
}
