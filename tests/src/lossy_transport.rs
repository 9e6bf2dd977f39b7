//! Lossy transport: a node's transport with loss, repetition, delay, and an observer of every frame.
//!
//! ```text
//! PeerLink ─try_send→ [observe] ─lose?→ repeat? → [delay, in order per lane] → inner Transport
//!                                                      └ clogged: takes what fits, then nothing
//! ```
//!
//! Promise: what happens to a frame is a function of the seed and the order of sending; order within a
//! lane is kept, between lanes it is not. A lost frame is gone, which is harsher than QUIC, where it
//! would only be late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use polyraft_actors::entropy::{Entropy, SeededEntropy};
use polyraft_core::ids::NodeId;
use polyraft_core::ports::{Lane, LinkStatus, PeerAddress, SendError, Transport, TransportEvents};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;

/// Sees every frame that a node hands over: receiver, lane, bytes.
pub type ObserveFrame = dyn Fn(NodeId, Lane, &Bytes) + Send + Sync;

/// How bad a network is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkWeather {
    /// From sending to arrival, one way.
    pub delay: Duration,
    /// Up to so much is added to the delay, for each frame anew.
    pub jitter: Duration,
    /// Frames lost of each thousand.
    pub loss_per_mille: u32,
    /// Frames of Raft's lanes that arrive twice, of each thousand.
    pub repeat_per_mille: u32,
    /// Whether requests are repeated as well, which the port forbids.
    pub repeats_requests: bool,
}

/// Frames that a delayed lane takes beyond those under way, before it is full.
const LATE_FRAMES_MAX: usize = 32;
/// How often a lane that could not deliver tries again.
const RETRY: Duration = Duration::from_millis(5);

/// Frames under way on one lane.
struct Late {
    /// Each with its time of arrival.
    frames: UnboundedSender<(Instant, Bytes)>,
    waiting: Arc<AtomicUsize>,
    was_full: Arc<AtomicBool>,
    last_due: Instant,
}

/// Directed lanes that deliver nothing for now.
type Clogged = Arc<Mutex<BTreeSet<(NodeId, Lane)>>>;

/// The transport.
pub struct LossyTransport<T> {
    inner: Arc<T>,
    events: Arc<dyn TransportEvents>,
    weather: Mutex<NetworkWeather>,
    clogged: Clogged,
    entropy: SeededEntropy,
    observe: Arc<ObserveFrame>,
    late: Mutex<BTreeMap<(NodeId, Lane), Late>>,
}

impl<T: Transport> LossyTransport<T> {
    /// `inner` under `weather`; `seed` decides which frames are lost, and `events` hears of room on a
    /// lane that was full.
    pub fn new(
        inner: T,
        events: Arc<dyn TransportEvents>,
        weather: NetworkWeather,
        seed: u64,
        observe: Arc<ObserveFrame>,
    ) -> Self {
        Self {
            inner: Arc::new(inner),
            events,
            weather: Mutex::new(weather),
            clogged: Arc::default(),
            entropy: SeededEntropy::new(seed),
            observe,
            late: Mutex::default(),
        }
    }

    /// Loses so many frames of each thousand from now on.
    pub fn set_loss_per_mille(&self, loss: u32) {
        lock(&self.weather).loss_per_mille = loss;
    }

    /// Repeats so many frames of each thousand from now on.
    pub fn set_repeat_per_mille(&self, repeat: u32) {
        lock(&self.weather).repeat_per_mille = repeat;
    }

    /// Keeps what is sent to a peer on one lane from arriving, or lets it arrive. Without a delay it
    /// has no effect.
    pub fn clog(&self, peer: NodeId, lane: Lane, clogged: bool) {
        let mut all = lock(&self.clogged);
        let _ = if clogged { all.insert((peer, lane)) } else { all.remove(&(peer, lane)) };
    }

    fn happens(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.entropy.next_u64() % 1_000 < u64::from(per_mille)
    }

    fn send_late(
        &self,
        weather: NetworkWeather,
        peer: NodeId,
        lane: Lane,
        frame: Bytes,
    ) -> Result<(), SendError> {
        let mut late = lock(&self.late);
        let queue = late.entry((peer, lane)).or_insert_with(|| self.open_lane(peer, lane));
        if queue.waiting.load(Relaxed) >= LATE_FRAMES_MAX {
            queue.was_full.store(true, Relaxed);
            return Err(SendError::Full);
        }
        let jitter = weather.jitter.as_micros() as u64;
        let extra = if jitter == 0 { 0 } else { self.entropy.next_u64() % jitter };
        let due = Instant::now() + weather.delay + Duration::from_micros(extra);
        queue.last_due = queue.last_due.max(due);
        queue.waiting.fetch_add(1, Relaxed);
        // An Err means that the runtime is going down.
        let _ = queue.frames.send((queue.last_due, frame));
        Ok(())
    }

    fn open_lane(&self, peer: NodeId, lane: Lane) -> Late {
        let (frames, mut arriving) = unbounded_channel::<(Instant, Bytes)>();
        let waiting = Arc::<AtomicUsize>::default();
        let was_full = Arc::<AtomicBool>::default();
        let (still_waiting, filled) = (waiting.clone(), was_full.clone());
        let (inner, events) = (self.inner.clone(), self.events.clone());
        let clogged = self.clogged.clone();
        tokio::spawn(async move {
            while let Some((due, frame)) = arriving.recv().await {
                tokio::time::sleep_until(due).await;
                while lock(&clogged).contains(&(peer, lane))
                    || inner.try_send(peer, lane, frame.clone()) == Err(SendError::Full)
                {
                    // Any other refusal means that the link went down: the frame is lost on the way.
                    tokio::time::sleep(RETRY).await;
                }
                still_waiting.fetch_sub(1, Relaxed);
                if filled.swap(false, Relaxed) {
                    events.on_writable(peer, lane);
                }
            }
        });
        Late { frames, waiting, was_full, last_due: Instant::now() }
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Transport> Transport for LossyTransport<T> {
    fn try_send(&self, peer: NodeId, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        (self.observe)(peer, lane, &frame);
        let weather = *lock(&self.weather);
        if self.happens(weather.loss_per_mille) {
            return Ok(());
        }
        if weather.delay.is_zero() {
            return self.inner.try_send(peer, lane, frame);
        }
        self.send_late(weather, peer, lane, frame.clone())?;
        let may_repeat = weather.repeats_requests || lane != Lane::Request;
        if may_repeat && self.happens(weather.repeat_per_mille) {
            // A full lane has no room for the copy.
            let _ = self.send_late(weather, peer, lane, frame);
        }
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
