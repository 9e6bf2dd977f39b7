//! Accepts connections: address validated, peer authenticated, lanes open, then up to the peer task.

use std::sync::Arc;

use polyraft_core::ids::NodeId;
use quinn::{Connection, Incoming};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::close::CloseCode;
use super::establish::{EstablishError, admit, establish};
use super::identity::node_uri;
use super::peers::Link;
use super::refusal::Refusal;
use super::tls::peer_chain;

/// Handshakes in progress at once; more are refused before any work is done for them.
pub(super) const HANDSHAKES_MAX: usize = 64;

/// Accepts until the endpoint is closed.
pub(super) async fn accept_all(shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut handshakes = JoinSet::new();
    while let Some(incoming) = shared.endpoint.accept().await {
        while handshakes.try_join_next().is_some() {}
        if !incoming.remote_address_validated() && incoming.may_retry() {
            // A spoofed address costs us one small datagram and no state.
            if let Err(error) = incoming.retry() {
                tracing::debug!(%error, "retry not sent");
            }
            continue;
        }
        let remote = incoming.remote_address();
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            shared.refusals.record(Refusal::Busy, Some(remote));
            incoming.refuse();
            continue;
        };
        let shared = shared.clone();
        handshakes.spawn(async move {
            if let Err(refusal) = accept_one(&shared, incoming).await {
                shared.refusals.record(refusal, Some(remote));
            }
            drop(permit);
        });
    }
}

/// Takes one connection to its peer task. `Err` is a refusal still to be counted.
async fn accept_one(shared: &Shared, incoming: Incoming) -> Result<(), Refusal> {
    let (server, round) = shared.server();
    // The first datagram may already tell that the two have no wire version in common.
    let connecting = match incoming.accept_with(server) {
        Ok(connecting) => connecting,
        Err(error) => return Refusal::of(&error).map_or(Ok(()), Err),
    };
    let limit = shared.handshake_timeout;
    let connection = match timeout(limit, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Refusal::of(&error).map_or(Ok(()), Err),
        Err(_) => return Err(Refusal::HandshakeTimeout),
    };
    let refuse = |refusal: Refusal| {
        CloseCode::Violation.close(&connection, refusal.label());
        Err(refusal)
    };
    // The verifier knew the peer; it may have been removed since.
    let Some(link) = peer_of(shared, &connection) else { return refuse(Refusal::UnknownPeer) };
    let established = establish(connection.clone(), link.peer, shared.mark, round);
    match timeout(limit, established).await {
        Ok(Ok(candidate)) => {
            if let Err(refusal) = admit(shared.register.clone(), link.peer, candidate.mark).await {
                return refuse(refusal);
            }
            // Its streams live until it is closed: their end alone would look like a violation.
            if let Err(_unsent) = link.candidates.try_send(candidate) {
                CloseCode::Duplicate.close(&connection, "many connections at once");
            }
            Ok(())
        }
        Ok(Err(EstablishError::Lost(error))) => Refusal::of(&error).map_or(Ok(()), Err),
        Ok(Err(EstablishError::Refused(refusal))) => refuse(refusal),
        Err(_) => refuse(Refusal::HandshakeTimeout),
    }
}

fn peer_of(shared: &Shared, connection: &Connection) -> Option<Arc<Link>> {
    shared.peers.get(authenticated_node(connection)?)
}

/// The node that the peer's certificate names; the verifier has checked it.
fn authenticated_node(connection: &Connection) -> Option<NodeId> {
    node_uri(peer_chain(connection)?.first()?).ok().map(|uri| uri.node)
}
