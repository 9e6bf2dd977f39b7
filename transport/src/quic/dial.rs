//! One attempt to reach a peer: resolve, connect, establish.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use polyraft_core::ids::NodeId;
use quinn::{ClientConfig, ConnectError, ConnectionError};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::Shared;
use super::close::CloseCode;
use super::establish::{Candidate, EstablishError, admit, establish};
use super::identity::IdentityError;
use super::refusal::Refusal;
use super::tls::SERVER_NAME;

/// Time for the resolver.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried in one attempt.
const ADDRESSES_MAX: usize = 4;

/// Why an attempt failed. Kept for `LinkStatus::last_error`; the dialler only tries again.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot resolve {address}: {source}")]
    Resolve { address: String, source: std::io::Error },
    #[error("{address} has no address of the socket's family")]
    NoAddress { address: String },
    #[error("the peer did not answer in time")]
    TimedOut,
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    #[error("cannot connect: {0}")]
    Lost(#[from] ConnectionError),
    #[error("own certificate: {0}")]
    Identity(#[from] IdentityError),
}

/// Tries the addresses that `address` resolves to now, in turn.
///
/// # Errors
/// That of the last address tried.
pub(super) async fn dial(
    shared: Arc<Shared>,
    peer: NodeId,
    address: String,
) -> Result<Candidate, DialError> {
    let mut last = DialError::NoAddress { address: address.clone() };
    for remote in resolve(&shared, &address).await? {
        match dial_one(&shared, peer, remote).await {
            Ok(candidate) => return Ok(candidate),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn resolve(shared: &Shared, address: &str) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |source| DialError::Resolve { address: address.to_owned(), source };
    let found = timeout(RESOLVE_TIMEOUT, lookup_host(address))
        .await
        .map_err(|elapsed| failed(elapsed.into()))?
        .map_err(failed)?;
    let usable = |remote: &SocketAddr| remote.is_ipv4() || shared.local_address.is_ipv6();
    Ok(found.filter(usable).take(ADDRESSES_MAX).collect())
}

async fn dial_one(
    shared: &Shared,
    peer: NodeId,
    remote: SocketAddr,
) -> Result<Candidate, DialError> {
    let tls = shared.tls();
    let mut config = ClientConfig::new(Arc::new(tls.client(peer)?));
    config.transport_config(shared.transport.clone());
    let connecting = shared.endpoint.connect_with(config, remote, SERVER_NAME)?;
    let limit = shared.handshake_timeout;
    let connection = timeout(limit, connecting).await.map_err(|_| DialError::TimedOut)?;
    let connection = connection.map_err(|error| lost(shared, remote, error))?;
    let established = establish(connection.clone(), shared.node, shared.mark, tls.round());
    let established = timeout(limit, established).await;
    match established {
        Ok(Ok(candidate)) => match admit(shared.register.clone(), peer, candidate.mark).await {
            Ok(()) => Ok(candidate),
            Err(refusal) => Err(refuse(shared, &connection, refusal)),
        },
        Ok(Err(EstablishError::Lost(error))) => Err(lost(shared, remote, error)),
        Ok(Err(EstablishError::Refused(refusal))) => Err(refuse(shared, &connection, refusal)),
        Err(_) => Err(refuse(shared, &connection, Refusal::HandshakeTimeout)),
    }
}

fn lost(shared: &Shared, remote: SocketAddr, error: ConnectionError) -> DialError {
    if let Some(refusal) = Refusal::of(&error) {
        shared.refusals.record(refusal, Some(remote));
    }
    DialError::Lost(error)
}

fn refuse(shared: &Shared, connection: &quinn::Connection, refusal: Refusal) -> DialError {
    shared.refusals.record(refusal, Some(connection.remote_address()));
    CloseCode::Violation.close(connection, refusal.label());
    DialError::Refused(refusal)
}
