//! Traffic on many keyspaces: puts, reads of both kinds, deletes and requests that are refused.
//!
//! ```text
//! clients, each over its share of the keyspaces ─put, get, delete, compact→ nodes
//! ```
//!
//! Promise: it goes on whatever fails, until it is dropped. Not here: what was acknowledged; see
//! [`crate::load`] for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use etcd_client::{Client, Error, GetOptions, Txn, TxnOp};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::keyspaces;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than the nodes' own deadlines: their answer, not the client's patience, ends a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Keys of one client, so that values are overwritten.
const KEYS: u64 = 64;

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Keyspaces, from the first.
    pub keyspaces: usize,
    /// Clients, each with one request at a time.
    pub clients: usize,
    /// What a client waits between two requests.
    pub pause: Duration,
    /// Bytes of a value.
    pub value_bytes: usize,
}

/// Running clients; they end when this is dropped.
pub struct Traffic {
    _clients: JoinSet<()>,
    answered: Arc<AtomicU64>,
}

impl Traffic {
    /// Starts clients of `endpoints`, spread over them.
    ///
    /// # Errors
    /// An endpoint is malformed.
    pub fn start(endpoints: &[String], amount: Amount) -> Result<Self, tonic::transport::Error> {
        let connect = |address: &String| {
            let endpoint = Endpoint::from_shared(address.clone())?;
            let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(REQUEST_TIMEOUT);
            Ok(endpoint.connect_lazy())
        };
        let connections: Vec<_> = endpoints.iter().map(connect).collect::<Result<_, _>>()?;
        let (mut clients, answered) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
        for number in 0..amount.clients {
            let connection = connections[number % connections.len()].clone();
            clients.spawn(client(connection, amount, number, Arc::clone(&answered)));
        }
        Ok(Self { _clients: clients, answered })
    }

    /// Requests that succeeded so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }
}

async fn client(connection: Channel, amount: Amount, number: usize, answered: Arc<AtomicU64>) {
    let value = "v".repeat(amount.value_bytes);
    let mut keyspace = number % amount.keyspaces;
    // Each begins elsewhere in the turn of kinds, so that they do not all wait for the same.
    for request in number as u64.. {
        let name = keyspaces::name(keyspace);
        if let Ok(mut client) = keyspaces::client(connection.clone(), &name).await
            && ask(&mut client, number, request, &value).await.is_ok()
        {
            answered.fetch_add(1, Relaxed);
        }
        keyspace = (keyspace + amount.clients) % amount.keyspaces;
        tokio::time::sleep(amount.pause).await;
    }
}

/// One request: mostly puts and reads, and one in so many of every other kind.
async fn ask(client: &mut Client, number: usize, request: u64, value: &str) -> Result<(), Error> {
    let key = format!("traffic/{number}/{}", request / 2 % KEYS);
    match request % 32 {
        31 => client.delete(key, None).await.map(drop),
        // No such revision: the state machine rejects it.
        30 => client.compact(i64::MAX, None).await.map(drop),
        29 => client.status().await.map(drop),
        28 => client.txn(Txn::new().and_then([TxnOp::put(key, value, None)])).await.map(drop),
        kind if kind % 2 == 0 => client.put(key, value, None).await.map(drop),
        kind if kind % 4 == 1 => client.get(key, None).await.map(drop),
        _ => client.get(key, Some(GetOptions::new().with_serializable())).await.map(drop),
    }
}
