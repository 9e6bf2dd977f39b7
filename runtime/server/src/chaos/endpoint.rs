//! A node's etcd API, as any client reaches it.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::nodes::NodeAddresses;
use crate::etcd::KEYSPACE_METADATA;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::{
    HashKvRequest, PutRequest, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

/// A connection is made within this time, or tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// As many bytes as a page of a keyspace may have.
const RESPONSE_BYTES_MAX: usize = 16 << 20;

/// One node, over one connection that many may share, on behalf of one keyspace.
#[derive(Debug, Clone)]
pub struct KeyspaceEndpoint {
    /// The node.
    pub node: u64,
    kv: KvClient<Channel>,
    maintenance: MaintenanceClient<Channel>,
    keyspace: AsciiMetadataValue,
}

/// A connection to a node, made when it is first used.
pub fn connection(node: &NodeAddresses) -> Channel {
    Endpoint::from_shared(format!("http://{}", node.client))
        .expect("a socket address makes a URL")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .connect_lazy()
}

impl KeyspaceEndpoint {
    /// The keyspace called `keyspace` at `node`, over `connection`.
    ///
    /// # Panics
    /// The name is not ASCII, which no keyspace's is.
    pub fn new(node: u64, connection: &Channel, keyspace: &str) -> Self {
        let kv = KvClient::new(connection.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX);
        let maintenance = MaintenanceClient::new(connection.clone());
        let keyspace = keyspace.parse().expect("keyspaces have ASCII names");
        Self { node, kv, maintenance, keyspace }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(KEYSPACE_METADATA, self.keyspace.clone());
        request
    }

    /// Puts, and returns the revision.
    ///
    /// # Errors
    /// The node's, or `DeadlineExceeded` after `within`.
    pub async fn put(&mut self, put: PutRequest, within: Duration) -> Result<i64, Status> {
        let request = self.request(put);
        let response = answer(self.kv.put(request), within).await?;
        response.header.map(|header| header.revision).ok_or_else(headless)
    }

    /// Reads a range; returns the revision that was read, too.
    ///
    /// # Errors
    /// As for [`Self::put`].
    pub async fn range(
        &mut self,
        range: RangeRequest,
        within: Duration,
    ) -> Result<(i64, RangeResponse), Status> {
        let request = self.request(range);
        let response = answer(self.kv.range(request), within).await?;
        let revision = response.header.as_ref().map(|header| header.revision);
        Ok((revision.ok_or_else(headless)?, response))
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    /// As for [`Self::put`].
    pub async fn txn(&mut self, txn: TxnRequest, within: Duration) -> Result<TxnResponse, Status> {
        let request = self.request(txn);
        answer(self.kv.txn(request), within).await
    }

    /// This replica's hash of everything up to `revision`.
    ///
    /// # Errors
    /// As for [`Self::put`]; the replica may not have got there yet.
    pub async fn hash(&mut self, revision: i64, within: Duration) -> Result<u32, Status> {
        let request = self.request(HashKvRequest { revision });
        Ok(answer(self.maintenance.hash_kv(request), within).await?.hash)
    }
}

async fn answer<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
    within: Duration,
) -> Result<T, Status> {
    match timeout(within, call).await {
        Ok(answered) => answered.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn headless() -> Status {
    Status::internal("an answer without a header")
}
