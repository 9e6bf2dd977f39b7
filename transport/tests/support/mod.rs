//! What the transport's tests share: certificates, a recording receiver, a lossy UDP proxy.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

pub mod certificates;
pub mod recorder;
pub mod trusting;
pub mod udp_proxy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use polyraft_core::ids::NodeId;
use polyraft_core::ports::{PeerAddress, Transport};
use polyraft_transport::{Identity, QuicConfig, QuicTransport, Refusal};
use tokio::runtime::{Handle, Runtime};

#[allow(unused_imports, reason = "each test binary uses its part")]
pub use certificates::{Authority, Leaf};
pub use recorder::Recorder;

/// Longest that a test waits for a state; reached only when the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `state` is there.
pub fn wait_until(what: &str, mut state: impl FnMut() -> bool) {
    let start = Instant::now();
    while !state() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        #[expect(clippy::disallowed_methods, reason = "a look at the state, and another one")]
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn id(node: u64) -> NodeId {
    NodeId::new(node)
}

pub fn at(node: u64, address: impl ToString) -> PeerAddress {
    PeerAddress { node: id(node), address: address.to_string() }
}

/// A runtime of its own, so that dropping it is the sudden death of whoever runs on it.
pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

pub fn config(node: u64, listen: &str, identity: Identity) -> QuicConfig {
    let cluster = polyraft_transport::ClusterName::new(certificates::CLUSTER).unwrap();
    QuicConfig::new(id(node), cluster, listen.parse().unwrap(), identity)
        .idle_timeout(Duration::from_millis(900))
}

/// A QUIC node for tests that look at QUIC alone.
pub struct QuicNode {
    pub transport: QuicTransport,
    pub recorder: Arc<Recorder>,
}

impl QuicNode {
    pub fn start(authority: &Authority, node: u64, handle: &Handle) -> Self {
        Self::with_config(config(node, "127.0.0.1:0", authority.identity(node)), handle)
    }

    pub fn with_config(config: QuicConfig, handle: &Handle) -> Self {
        let recorder = Arc::new(Recorder::default());
        let transport = QuicTransport::start(config, recorder.clone(), handle.clone()).unwrap();
        Self { transport, recorder }
    }

    pub fn address(&self) -> String {
        self.transport.local_addr().to_string()
    }

    pub fn refused(&self, why: Refusal) -> u64 {
        let counts = self.transport.handshake_failures();
        counts.into_iter().find(|(reason, _)| *reason == why).unwrap().1
    }

    /// The reasons for which somebody was refused, each with how often.
    pub fn refusals(&self) -> Vec<(Refusal, u64)> {
        let counts = self.transport.handshake_failures();
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    pub fn connected(&self, peer: u64) -> bool {
        self.transport.link_status().iter().any(|link| link.peer == id(peer) && link.connected)
    }
}

/// Makes two QUIC nodes peers of each other and waits for the link.
pub fn join(a: (u64, &QuicNode), b: (u64, &QuicNode)) {
    a.1.transport.set_peers(&[at(b.0, b.1.address())]);
    b.1.transport.set_peers(&[at(a.0, a.1.address())]);
    wait_until("both connected", || a.1.connected(b.0) && b.1.connected(a.0));
}
