//! Lossy transport: a node's transport with loss, delay, and an observer of every frame.
//!
//! ```text
//! PeerLink ─try_send→ [observe] ─lose?→ [delay, in order per lane] → inner Transport
//! ```
//!
//! Promise: which frames are lost is a function of the seed and the order of sending; order within a
//! lane is kept. A lost frame is gone, which is harsher than QUIC, where it would only be late.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use polyraft_actors::entropy::{Entropy, SeededEntropy};
use polyraft_core::ids::NodeId;
use polyraft_core::ports::{Lane, LinkStatus, PeerAddress, SendError, Transport};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

/// Sees every frame that a node hands over: receiver, lane, bytes.
pub type ObserveFrame = dyn Fn(NodeId, Lane, &Bytes) + Send + Sync;

/// How bad a network is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkWeather {
    /// From sending to arrival, one way.
    pub delay: Duration,
    /// Frames lost of each thousand.
    pub loss_per_mille: u32,
}

/// Frames under way on one lane, each with its time of arrival.
type LateFrames = UnboundedSender<(Instant, Bytes)>;

/// The transport.
pub struct LossyTransport<T> {
    inner: Arc<T>,
    delay: Duration,
    loss_per_mille: AtomicU32,
    entropy: SeededEntropy,
    observe: Arc<ObserveFrame>,
    late: Mutex<BTreeMap<(NodeId, Lane), LateFrames>>,
}

impl<T: Transport> LossyTransport<T> {
    /// `inner` under `weather`; `seed` decides which frames are lost.
    pub fn new(inner: T, weather: NetworkWeather, seed: u64, observe: Arc<ObserveFrame>) -> Self {
        Self {
            inner: Arc::new(inner),
            delay: weather.delay,
            loss_per_mille: AtomicU32::new(weather.loss_per_mille),
            entropy: SeededEntropy::new(seed),
            observe,
            late: Mutex::default(),
        }
    }

    /// Loses so many frames of each thousand from now on.
    pub fn set_loss_per_mille(&self, loss: u32) {
        self.loss_per_mille.store(loss, Relaxed);
    }

    fn send_late(&self, peer: NodeId, lane: Lane, frame: Bytes) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = late.entry((peer, lane)).or_insert_with(|| {
            let (queue, mut frames) = unbounded_channel::<(Instant, Bytes)>();
            let inner = self.inner.clone();
            tokio::spawn(async move {
                while let Some((due, frame)) = frames.recv().await {
                    tokio::time::sleep_until(due).await;
                    // The link went down meanwhile: the frame is lost on the way.
                    let _ = inner.try_send(peer, lane, frame);
                }
            });
            queue
        });
        // An Err means that the runtime is going down.
        let _ = queue.send((Instant::now() + self.delay, frame));
    }
}

impl<T: Transport> Transport for LossyTransport<T> {
    fn try_send(&self, peer: NodeId, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        (self.observe)(peer, lane, &frame);
        let loss = self.loss_per_mille.load(Relaxed);
        if loss > 0 && self.entropy.next_u64() % 1_000 < u64::from(loss) {
            return Ok(());
        }
        if self.delay.is_zero() {
            return self.inner.try_send(peer, lane, frame);
        }
        self.send_late(peer, lane, frame);
        Ok(())
    }

    fn set_peers(&self, peers: &[PeerAddress]) {
        self.inner.set_peers(peers);
    }

    fn link_status(&self) -> Vec<LinkStatus> {
        self.inner.link_status()
    }

    fn shutdown(&self) {
        self.inner.shutdown();
    }
}
