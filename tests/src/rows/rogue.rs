//! A rogue: a peer with a good certificate that says what it likes, as fast as its lanes take it.
//!
//! ```text
//! Rogue ─frames→ QUIC ⇄ a node under test           what it is answered is read and forgotten
//! ```
//!
//! Also, two of them face to face are a link without anything above it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use polyraft::{GroupId, NodeId, ReplicaId, TlsPaths};
use polyraft_core::message::{Body, Envelope};
use polyraft_core::ports::{Lane, PeerAddress, SendError, Transport, TransportEvents};
use polyraft_core::wire;
use polyraft_transport::{ClusterName, Identity, Mtu, QuicConfig, QuicTransport};
use tokio::runtime::Runtime;

use super::report::{Micros, micros, record};
use crate::cluster::{DEADLINE, wait_until};

/// Envelopes of one frame.
const ENVELOPES: usize = 64;
/// Pause of a sender whose lane is full.
const FULL_PAUSE: Duration = Duration::from_micros(200);

/// What arrives: frames of each lane are counted, and the control lane's are timed.
#[derive(Default)]
pub struct Arrivals(Mutex<Arrived>);

struct Arrived {
    frames: [u64; Lane::ALL.len()],
    bytes: [u64; Lane::ALL.len()],
    last: Option<Instant>,
    intervals: Micros,
}

impl Default for Arrived {
    fn default() -> Self {
        let (frames, bytes) = ([0; Lane::ALL.len()], [0; Lane::ALL.len()]);
        Self { frames, bytes, last: None, intervals: micros() }
    }
}

impl Arrivals {
    /// Bytes that arrived on `lane`.
    pub fn bytes(&self, lane: Lane) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes[lane as usize]
    }

    /// Intervals between frames of the control lane.
    pub fn intervals(&self) -> Micros {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).intervals.clone()
    }
}

impl TransportEvents for Arrivals {
    fn on_frame(&self, _: NodeId, lane: Lane, frame: Bytes) -> Result<(), Bytes> {
        let mut arrived = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.frames[lane as usize] += 1;
        arrived.bytes[lane as usize] += frame.len() as u64;
        if lane == Lane::Control {
            let now = Instant::now();
            if let Some(before) = arrived.last.replace(now) {
                record(&mut arrived.intervals, now - before);
            }
        }
        Ok(())
    }

    fn on_writable(&self, _: NodeId, _: Lane) {}

    fn on_connected(&self, _: NodeId) {}

    fn on_disconnected(&self, _: NodeId) {}
}

/// The rogue. It runs on a thread of its own.
pub struct Rogue {
    node: NodeId,
    transport: QuicTransport,
    /// What it has received.
    pub arrivals: Arc<Arrivals>,
    runtime: Option<Runtime>,
}

impl Rogue {
    /// A rogue with the certificate of `node`.
    ///
    /// # Panics
    /// It cannot listen.
    pub fn start(node: u64, listen: SocketAddr, tls: &TlsPaths) -> Self {
        let read = |path| std::fs::read(path).expect("certificates were saved");
        let (chain, key, roots) = (read(&tls.cert), read(&tls.key), read(&tls.ca));
        let identity = Identity::from_pem(&chain, &key, &roots, &[]).expect("they are good");
        let cluster = ClusterName::new("test").expect("a good name");
        let node = NodeId::new(node);
        let config = QuicConfig::new(node, cluster, listen, identity).mtu(Mtu::Jumbo);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("rows-rogue")
            .enable_all()
            .build()
            .expect("a thread can be started");
        let arrivals = Arc::new(Arrivals::default());
        let transport = QuicTransport::start(config, arrivals.clone(), runtime.handle().clone());
        let transport = transport.expect("the address is free");
        Self { node, transport, arrivals, runtime: Some(runtime) }
    }

    /// Waits until it is connected to `peer`.
    pub async fn connect(&self, peer: u64, address: SocketAddr) {
        let node = NodeId::new(peer);
        self.transport.set_peers(&[PeerAddress { node, address: address.to_string() }]);
        let connected = || self.transport.link_status().iter().any(|link| link.connected);
        wait_until(DEADLINE, "the rogue is connected", connected).await;
    }

    /// Hands one frame over, if the lane takes it now.
    ///
    /// # Errors
    /// It does not.
    pub fn try_send(&self, peer: u64, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        self.transport.try_send(NodeId::new(peer), lane, frame)
    }

    /// Sends frames full of `body` to `peer`, one after the other, for `time`; returns how many
    /// envelopes left.
    pub async fn flood(&self, peer: u64, group: GroupId, body: Body, time: Duration) -> u64 {
        let (lane, frame) = frame_of(self.node, peer, group, &body);
        let (mut sent, until) = (0, Instant::now() + time);
        while Instant::now() < until {
            match self.try_send(peer, lane, frame.clone()) {
                Ok(()) => sent += ENVELOPES as u64,
                Err(_) => tokio::time::sleep(FULL_PAUSE).await,
            }
        }
        sent
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.transport.shutdown();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn frame_of(from: NodeId, peer: u64, group: GroupId, body: &Body) -> (Lane, Bytes) {
    // First replicas are numbered from 101, in the order of their nodes.
    let replica = |node: u64| ReplicaId::new(100 + node);
    let envelope = Envelope {
        group,
        from: replica(from.get()),
        to: replica(peer),
        to_node: NodeId::new(peer),
        body: body.clone(),
    };
    let mut frame = BytesMut::new();
    for _ in 0..ENVELOPES {
        wire::append_envelope(&mut frame, envelope.clone());
    }
    (envelope.lane(), frame.freeze())
}
