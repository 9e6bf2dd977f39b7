//! The QUIC adapter: one mutually authenticated connection per pair of nodes.
//!
//! ```text
//! QuicTransport ─ Peers ─ Link ─ PeerTask ─┬─ dial ──┐
//!                                          │         ├→ establish → candidate → tie break
//!                    Endpoint ─ accept ────┴─────────┘
//!                               live connection: 3 lanes × (writer, reader)
//! ```
//!
//! Promise: listening precedes dialling; an absent peer fails nothing; whichever side dials, one
//! connection remains; nothing is delivered from a peer that has not proved its node id.
//! Source: DESIGN §5; QUIC is RFC 9000, its TLS RFC 9001.

mod accept;
mod backoff;
mod beats;
mod certificate_facts;
mod close;
mod config;
mod dial;
mod establish;
mod identity;
mod lanes;
mod liveness;
mod peer_task;
mod peers;
mod refusal;
mod tie_break;
mod tls;
mod wire_version;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use polyraft_core::ids::NodeId;
use polyraft_core::limits::FRAME_BYTES_MAX;
use polyraft_core::peer_data::{DataMark, PeerRegister};
use polyraft_core::ports::{Lane, LinkStatus, PeerAddress, SendError, Transport, TransportEvents};
use quinn::{Endpoint, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

#[cfg(feature = "fuzzing")]
pub(crate) use establish::{PREAMBLE_BYTES, preamble_again};

pub use config::{ConfigError, Mtu, QuicConfig};
pub use identity::{Identity, IdentityError, IdentityPart};
pub use refusal::Refusal;
pub use wire_version::{SUPPORTED_WIRE_VERSIONS, WireVersion};

use accept::{HANDSHAKES_MAX, accept_all};
use close::CloseCode;
use peer_task::{PeerTask, spawn_after};
use peers::{Link, Peers};
use refusal::Refusals;
use tls::Tls;

/// Asked of the kernel, which may grant less. With less, bursts on loopback were seen to be lost.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// A node's QUIC endpoint. Dropping it shuts it down.
pub struct QuicTransport {
    shared: Arc<Shared>,
    events: Arc<dyn TransportEvents>,
    handle: Handle,
    tasks: Mutex<BTreeMap<NodeId, JoinHandle<()>>>,
}

/// What the tasks of one endpoint share.
struct Shared {
    node: NodeId,
    /// What peers are told: the boot tells this process from its earlier lives.
    mark: DataMark,
    register: Option<Arc<dyn PeerRegister>>,
    endpoint: Endpoint,
    local_address: SocketAddr,
    peers: Arc<Peers>,
    refusals: Arc<Refusals>,
    transport: Arc<TransportConfig>,
    material: RwLock<Material>,
    stopping: AtomicBool,
    idle_timeout: Duration,
    beat_interval: Duration,
    handshake_timeout: Duration,
    frame_timeout: Duration,
}

/// The certificates in force, for both directions; replaced as one.
struct Material {
    tls: Tls,
    server: Arc<ServerConfig>,
}

impl Shared {
    fn material(&self) -> RwLockReadGuard<'_, Material> {
        self.material.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tls(&self) -> Tls {
        self.material().tls.clone()
    }

    /// What to accept with, and its round of certificates.
    fn server(&self) -> (Arc<ServerConfig>, u64) {
        let material = self.material();
        (material.server.clone(), material.tls.round())
    }

    /// The round of this node's own certificate.
    fn round(&self) -> u64 {
        self.material().tls.round()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }
}

impl QuicTransport {
    /// Listens, then accepts on `handle`'s runtime. Peers are dialled once `set_peers` names them.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub fn start(
        mut config: QuicConfig,
        events: Arc<dyn TransportEvents>,
        handle: Handle,
    ) -> Result<Self, StartError> {
        config.check()?;
        config.identity.check(&config.cluster, config.node)?;
        let (transport, endpoint_config) = (config.transport(), config.endpoint());
        let beat_interval = config.beat_interval();
        let (data, incarnation, register) = match config.data.take() {
            Some(own) => (own.data, own.incarnation, Some(own.register)),
            None => (0, 0, None),
        };
        let (peers, refusals) = (Arc::new(Peers::default()), Arc::new(Refusals::default()));
        let versions = &config.wire_versions;
        let tls = Tls::new(config.identity, config.cluster, versions, refusals.clone());
        if let Err(refusal) = tls.judge_own() {
            tracing::warn!(%refusal, "this node's own certificate is one that it would refuse");
        }
        let server = server_config(&tls, &peers, transport.clone())?;
        let bind = |source| StartError::Bind { address: config.listen, source };
        let socket = bind_socket(config.listen).map_err(bind)?;
        let _runtime = handle.enter();
        let runtime = Arc::new(TokioRuntime);
        let endpoint =
            Endpoint::new(endpoint_config, Some(server.clone()), socket, runtime).map_err(bind)?;
        let shared = Arc::new(Shared {
            node: config.node,
            mark: DataMark { data, incarnation, boot: rand::random() },
            register,
            local_address: endpoint.local_addr().map_err(bind)?,
            endpoint,
            peers,
            refusals,
            transport,
            material: RwLock::new(Material { tls, server: Arc::new(server) }),
            stopping: AtomicBool::new(false),
            idle_timeout: config.idle_timeout,
            beat_interval,
            handshake_timeout: config.handshake_timeout,
            frame_timeout: config.frame_timeout,
        });
        handle.spawn(accept_all(shared.clone()));
        Ok(Self { shared, events, handle, tasks: Mutex::default() })
    }

    /// Where it listens, with the port that the system picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_address
    }

    /// How many connections were refused or given up since the start, by reason.
    pub fn handshake_failures(&self) -> Vec<(Refusal, u64)> {
        self.shared.refusals.counts()
    }

    /// When `peer` was last heard on the connection in use. Beats come six per idle timeout.
    pub fn last_heard(&self, peer: NodeId) -> Option<std::time::Instant> {
        let live = self.shared.peers.get(peer)?.live.borrow().clone()?;
        Some(live.beats.heard_at().into_std())
    }

    /// The wire version spoken with `peer` on the connection in use.
    pub fn wire_version(&self, peer: NodeId) -> Option<WireVersion> {
        self.shared.peers.get(peer)?.live.borrow().as_ref().map(|live| live.version)
    }

    /// Replaces certificate, key, roots and revocation lists. New connections use them at once, and
    /// every peer that is connected is judged by them again: whoever they no longer allow is
    /// disconnected. If this node's own certificate is another one, each connection is made anew in
    /// the background, and the old one is given up only when the new one has taken its place: no link
    /// goes down for it.
    ///
    /// # Errors
    /// [`IdentityError`]: the old material stays in use. Other than at the start, a certificate that
    /// this node itself would refuse is refused here: there is a better one in force.
    pub fn reload(&self, identity: Identity) -> Result<(), IdentityError> {
        let mut material = self.shared.material.write().unwrap_or_else(PoisonError::into_inner);
        identity.check(material.tls.cluster(), self.shared.node)?;
        let tls = material.tls.with_identity(identity);
        tls.judge_own().map_err(|refusal| IdentityError::Unacceptable { refusal })?;
        let server = server_config(&tls, &self.shared.peers, self.shared.transport.clone())?;
        *material = Material { tls, server: Arc::new(server) };
        drop(material);
        // Also a link that is down: its connection may be coming up with the old ones at this moment.
        for link in self.shared.peers.all() {
            link.orders.send_modify(|orders| orders.reload += 1);
        }
        Ok(())
    }

    /// Runs `task` where this transport's own tasks run.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// The certificates in force.
    pub fn identity(&self) -> Arc<Identity> {
        self.shared.material().tls.identity().clone()
    }

    /// Waits, after `shutdown`, until every connection has told its peer.
    pub async fn closed(&self) {
        self.shared.endpoint.wait_idle().await;
    }

    fn spawn_peer(&self, peer: &PeerAddress) -> Arc<Link> {
        let (link, candidates) = Link::new(peer.node, peer.address.clone());
        let task =
            PeerTask::new(self.shared.clone(), self.events.clone(), link.clone(), candidates);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let predecessor = tasks.remove(&peer.node);
        tasks.insert(peer.node, spawn_after(predecessor, peer.node, task, &self.handle));
        link
    }
}

impl Transport for QuicTransport {
    fn try_send(&self, peer: NodeId, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(SendError::TooLarge);
        }
        let link = self.shared.peers.get(peer).ok_or(SendError::UnknownPeer)?;
        let live = link.live.borrow();
        let live = live.as_ref().ok_or(SendError::Disconnected)?;
        if live.queues[lane as usize].push(frame) { Ok(()) } else { Err(SendError::Full) }
    }

    fn set_peers(&self, peers: &[PeerAddress]) {
        self.shared.peers.change(|links| {
            if self.shared.is_stopping() {
                return;
            }
            links.retain(|node, link| {
                let stays = peers.iter().any(|peer| peer.node == *node);
                if !stays {
                    link.stop();
                }
                stays
            });
            for peer in peers.iter().filter(|peer| peer.node != self.shared.node) {
                match links.get(&peer.node) {
                    Some(link) => link.set_address(&peer.address),
                    None => drop(links.insert(peer.node, self.spawn_peer(peer))),
                }
            }
        });
    }

    fn link_status(&self) -> Vec<LinkStatus> {
        let round = self.shared.round();
        self.shared.peers.all().iter().map(|link| link.status(round)).collect()
    }

    fn shutdown(&self) {
        let links = self.shared.peers.change(|links| {
            self.shared.stopping.store(true, SeqCst);
            links.values().cloned().collect::<Vec<_>>()
        });
        for link in links {
            link.stop();
        }
        self.shared.endpoint.close(VarInt::from_u32(CloseCode::Shutdown as u32), b"");
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn server_config(
    tls: &Tls,
    peers: &Arc<Peers>,
    transport: Arc<TransportConfig>,
) -> Result<ServerConfig, IdentityError> {
    let mut server = ServerConfig::with_crypto(Arc::new(tls.server(peers)?));
    server.transport_config(transport).migration(false).max_incoming(HANDSHAKES_MAX);
    Ok(server)
}

fn bind_socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Best effort: the kernel's limit may be lower, and that costs speed only.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Why the adapter did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings break a rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificate material cannot be used, or is another node's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The socket could not be opened or bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
