//! Settings of the QUIC adapter, checked once when it starts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use polyraft_core::ids::NodeId;
use polyraft_core::peer_data::PeerRegister;
use polyraft_core::ports::Lane;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::establish::STREAMS;
use super::identity::Identity;
use super::wire_version::{SUPPORTED_WIRE_VERSIONS, WireVersion};
use crate::lane_queue::QUEUE_BYTES_MAX;
use crate::node_uri::ClusterName;

/// What a lane may have in flight: flow control stops a sender here while the receiver is busy.
const LANE_WINDOW_BYTES: u32 = 4 << 20;
/// What a connection may have in flight. Several lanes' worth, or one blocked lane stalls the rest.
const CONNECTION_WINDOW_BYTES: u32 = 4 * LANE_WINDOW_BYTES;
/// Largest datagram looked for in jumbo mode; 12,000 and more were seen to hang.
const JUMBO_MTU_BYTES: u16 = 6_000;
const JUMBO_UDP_PAYLOAD_BYTES: u16 = 6_400;
/// Beats per idle timeout: that many may be lost before a healthy link is given up.
const BEATS_PER_IDLE_TIMEOUT: u32 = 6;

const IDLE_TIMEOUT_MIN: Duration = Duration::from_millis(300);
const IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(600);

const _: () = assert!(CONNECTION_WINDOW_BYTES > Lane::ALL.len() as u32 * LANE_WINDOW_BYTES);
const _: () = assert!(QUEUE_BYTES_MAX < LANE_WINDOW_BYTES as usize);

/// How large datagrams may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mtu {
    /// What an Ethernet path carries, up to 1,452 bytes.
    #[default]
    Standard,
    /// Up to 6,000 bytes where the path allows it: halves the CPU cost on loopback and on jumbo
    /// networks. Found by probing, so a path that does not allow it still works.
    Jumbo,
}

/// Settings of a [`super::QuicTransport`].
#[derive(Debug)]
pub struct QuicConfig {
    pub(super) node: NodeId,
    pub(super) cluster: ClusterName,
    pub(super) listen: SocketAddr,
    pub(super) identity: Identity,
    pub(super) idle_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) frame_timeout: Duration,
    pub(super) mtu: Mtu,
    pub(super) wire_versions: Vec<WireVersion>,
    pub(super) data: Option<OwnData>,
}

/// What this node says of its data, and what it remembers of its peers'.
pub(super) struct OwnData {
    pub(super) data: u64,
    pub(super) incarnation: u64,
    pub(super) register: Arc<dyn PeerRegister>,
}

impl std::fmt::Debug for OwnData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { data, incarnation, .. } = self;
        f.debug_struct("OwnData").field("data", data).field("incarnation", incarnation).finish()
    }
}

impl QuicConfig {
    /// Defaults for a node: `listen` may have port 0, then the system picks one.
    pub fn new(node: NodeId, cluster: ClusterName, listen: SocketAddr, identity: Identity) -> Self {
        Self {
            node,
            cluster,
            listen,
            identity,
            idle_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(30),
            mtu: Mtu::Standard,
            wire_versions: SUPPORTED_WIRE_VERSIONS.to_vec(),
            data: None,
        }
    }

    /// The data that this node shows its peers, with the number of its life, and where theirs is
    /// remembered. Without it, as by default, peers are not held to their data (ST-9).
    #[must_use]
    pub fn data(mut self, data: u64, incarnation: u64, register: Arc<dyn PeerRegister>) -> Self {
        self.data = Some(OwnData { data, incarnation, register });
        self
    }

    /// A link is given up after hearing nothing, or after not being heard, for this long: 300 ms to
    /// 10 minutes, default 3 s. Shorter finds a dead peer sooner and takes more pauses for death.
    /// The smaller of the two sides' values counts.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Time for a peer to authenticate and open its lanes, default 5 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Time for one frame to arrive once it has begun, default 30 s. Must exceed what the largest
    /// frame (8 MiB) takes on the slowest path.
    #[must_use]
    pub fn frame_timeout(mut self, timeout: Duration) -> Self {
        self.frame_timeout = timeout;
        self
    }

    /// How large datagrams may become, default [`Mtu::Standard`].
    #[must_use]
    pub fn mtu(mut self, mtu: Mtu) -> Self {
        self.mtu = mtu;
        self
    }

    /// The wire versions to speak, newest first, default [`SUPPORTED_WIRE_VERSIONS`]. Narrowed to
    /// pin a cluster to the older version until every node is upgraded.
    #[must_use]
    pub fn wire_versions(mut self, versions: &[WireVersion]) -> Self {
        self.wire_versions = versions.to_vec();
        self
    }

    /// Checks what the types do not.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.node.get() == 0 {
            return Err(ConfigError::NodeZero);
        }
        let timeout = self.idle_timeout;
        if !(IDLE_TIMEOUT_MIN..=IDLE_TIMEOUT_MAX).contains(&timeout) {
            return Err(ConfigError::IdleTimeout { timeout });
        }
        if self.handshake_timeout.is_zero() || self.frame_timeout.is_zero() {
            return Err(ConfigError::ZeroTimeout);
        }
        if self.wire_versions.is_empty() || !self.wire_versions.is_sorted_by(|a, b| a > b) {
            return Err(ConfigError::WireVersions);
        }
        Ok(())
    }

    /// Time between proofs of life on an idle link.
    pub(super) fn beat_interval(&self) -> Duration {
        self.idle_timeout / BEATS_PER_IDLE_TIMEOUT
    }

    pub(super) fn transport(&self) -> Arc<TransportConfig> {
        let idle = IdleTimeout::try_from(self.idle_timeout).expect("checked to be minutes at most");
        let mut mtu = MtuDiscoveryConfig::default();
        if self.mtu == Mtu::Jumbo {
            mtu.upper_bound(JUMBO_MTU_BYTES);
        }
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(STREAMS as u32))
            .datagram_receive_buffer_size(None)
            .stream_receive_window(VarInt::from_u32(LANE_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
            .send_window(u64::from(CONNECTION_WINDOW_BYTES))
            .keep_alive_interval(Some(self.beat_interval()))
            .max_idle_timeout(Some(idle))
            .mtu_discovery_config(Some(mtu))
            .enable_segmentation_offload(true);
        Arc::new(transport)
    }

    pub(super) fn endpoint(&self) -> EndpointConfig {
        let mut endpoint = EndpointConfig::default();
        if self.mtu == Mtu::Jumbo {
            endpoint
                .max_udp_payload_size(JUMBO_UDP_PAYLOAD_BYTES)
                .expect("above the 1,200 bytes that QUIC demands");
        }
        endpoint
    }
}

/// Why settings cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Node ids start at 1.
    #[error("node 0 is not a node")]
    NodeZero,
    /// The idle timeout is out of range.
    #[error("idle timeout {timeout:?}: {IDLE_TIMEOUT_MIN:?} to {IDLE_TIMEOUT_MAX:?} are allowed")]
    IdleTimeout {
        /// What was given.
        timeout: Duration,
    },
    /// A timeout of zero would refuse everything.
    #[error("handshake and frame timeouts must not be zero")]
    ZeroTimeout,
    /// The list of versions is empty or not in order.
    #[error("wire versions must be given newest first, at least one")]
    WireVersions,
}
