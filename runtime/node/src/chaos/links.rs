//! Links: a transport under faults, on both sides of the port.
//!
//! ```text
//! PeerLink ─try_send→ FaultyTransport ─judge─→ [late, in order per lane] ─→ QUIC
//! LinkEvents ←on_frame─ [late, in order per lane] ←─judge─ FaultyEvents ←── QUIC
//! ```
//!
//! Promise: order within a lane is kept but by faults that reorder; what waits is bounded, and the rest
//! vanishes; once no fault concerns a lane, what waits on it goes on at once. A peer that is cut off
//! altogether is reported as gone after as long as the transport takes to notice a silent one, and as back
//! when the cut ends (TR-8): QUIC's own beats pass below this port, so the peer's side sees only that
//! frames vanish, unless the same is injected there.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use polyraft_core::ids::NodeId;
use polyraft_core::ports::{Lane, LinkStatus, PeerAddress, SendError, Transport, TransportEvents};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until};

use super::in_force::InForce;
use super::link::{ActiveLink, Passage, Way, judge};

/// After so long the transport gives up a peer that it does not hear.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How long a frame is held back so that those behind it overtake it.
const HELD_BACK: Duration = Duration::from_millis(50);
/// Bytes that may wait, each way.
const LATE_BYTES_MAX: usize = 64 << 20;
/// Before a frame that found its receiver busy is offered again.
const OFFER_AGAIN: Duration = Duration::from_millis(1);

/// Hands a frame on. `Err` gives it back because the receiver is busy.
type HandOn = dyn Fn(NodeId, Lane, Bytes) -> Result<(), Bytes> + Send + Sync;

/// The faults of a node's links.
#[derive(Default)]
pub(super) struct LinkFaults {
    in_force: InForce<ActiveLink>,
    /// A fault has ended.
    ended: Notify,
    /// Peers reported as gone.
    silenced: Mutex<BTreeSet<NodeId>>,
    ends: Mutex<Option<Ends>>,
}

/// What lies on either side of the faults.
#[derive(Clone)]
struct Ends {
    events: Arc<dyn TransportEvents>,
    transport: Weak<dyn Transport>,
}

impl LinkFaults {
    /// Puts a fault in force; a peer that it silences is given up in a while, on `runtime`.
    pub(super) fn add(self: &Arc<Self>, fault: Arc<ActiveLink>, runtime: &Handle) {
        self.in_force.add(fault.clone());
        if fault.silences(fault.fault.peer) {
            let faults = self.clone();
            runtime.spawn(async move {
                sleep(SILENCE_MAX).await;
                faults.give_up(&fault);
            });
        }
    }

    pub(super) fn end(&self, fault: &Arc<ActiveLink>) {
        self.in_force.remove(fault);
        self.ended.notify_waiters();
        let peer = fault.fault.peer;
        let mut silenced = self.silenced();
        if self.is_silenced_by_any(peer) || !silenced.remove(&peer) {
            return;
        }
        let Some(Ends { events, transport }) = self.ends() else { return };
        let links = transport.upgrade().map(|transport| transport.link_status());
        if links.into_iter().flatten().any(|link| link.peer == peer && link.connected) {
            events.on_connected(peer);
        }
    }

    fn give_up(&self, fault: &Arc<ActiveLink>) {
        let peer = fault.fault.peer;
        let mut silenced = self.silenced();
        let lasts = !self.in_force.those(|other| std::ptr::eq(other, &**fault)).is_empty();
        if !lasts || !silenced.insert(peer) {
            return;
        }
        fault.disconnects.fetch_add(1, Relaxed);
        if let Some(Ends { events, .. }) = self.ends() {
            events.on_disconnected(peer);
        }
    }

    /// Waits until `due`, but not for faults that are over.
    async fn until(&self, due: Instant, (way, peer, lane): (Way, NodeId, Lane)) {
        let mut passed = pin!(sleep_until(due));
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.in_force.those(|fault| fault.concerns(way, peer, lane)).is_empty() {
                return;
            }
            tokio::select! {
                () = &mut passed => return,
                () = ended => {}
            }
        }
    }

    fn is_silenced_by_any(&self, peer: NodeId) -> bool {
        !self.in_force.those(|fault| fault.silences(peer)).is_empty()
    }

    fn silenced(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.silenced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends(&self) -> Option<Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts the faults between `inner` and a transport that is about to start.
    pub(super) fn around_events(
        self: &Arc<Self>,
        inner: Arc<dyn TransportEvents>,
        runtime: Handle,
    ) -> Arc<dyn TransportEvents> {
        let to = inner.clone();
        let hand_on: Arc<HandOn> =
            Arc::new(move |peer, lane, frame| to.on_frame(peer, lane, frame));
        let lanes = Lanes::new(Way::In, self.clone(), hand_on, runtime);
        Arc::new(FaultyEvents { inner, lanes })
    }

    /// Puts the faults between the node and its transport; `events` hears what becomes of links.
    pub(super) fn around_transport(
        self: &Arc<Self>,
        inner: Arc<dyn Transport>,
        events: Arc<dyn TransportEvents>,
        runtime: Handle,
    ) -> Arc<dyn Transport> {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Ends { events, transport: Arc::downgrade(&inner) });
        let to = inner.clone();
        let hand_on: Arc<HandOn> = Arc::new(move |peer, lane, frame: Bytes| {
            match to.try_send(peer, lane, frame.clone()) {
                Err(SendError::Full) => Err(frame),
                // Without a connection it is lost on the way.
                _ => Ok(()),
            }
        });
        let lanes = Lanes::new(Way::Out, self.clone(), hand_on, runtime);
        Arc::new(FaultyTransport { inner, lanes })
    }
}

/// A frame on its way.
struct Late {
    due: Instant,
    frame: Bytes,
}

/// What is under way on one lane to or from one peer.
struct LateLane {
    queue: UnboundedSender<Late>,
    last_due: Instant,
    progress: Arc<Progress>,
}

impl LateLane {
    fn is_empty(&self) -> bool {
        self.progress.waiting.load(SeqCst) == 0
    }
}

/// How far a lane is.
#[derive(Debug, Default)]
struct Progress {
    waiting: AtomicUsize,
    handed_on: AtomicU64,
}

/// Every lane of one direction.
struct Lanes {
    way: Way,
    faults: Arc<LinkFaults>,
    hand_on: Arc<HandOn>,
    runtime: Handle,
    late: Mutex<BTreeMap<(NodeId, Lane), LateLane>>,
    late_bytes: Arc<AtomicUsize>,
}

impl Lanes {
    fn new(way: Way, faults: Arc<LinkFaults>, hand_on: Arc<HandOn>, runtime: Handle) -> Self {
        let (late, late_bytes) = (Mutex::default(), Arc::default());
        Self { way, faults, hand_on, runtime, late, late_bytes }
    }

    /// Returns the frame if it passes unharmed now; otherwise it has been taken care of.
    fn pass(&self, peer: NodeId, lane: Lane, frame: Bytes) -> Option<Bytes> {
        let faults = self.faults.in_force.those(|fault| fault.concerns(self.way, peer, lane));
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let known = late.get(&(peer, lane));
        if faults.is_empty() && known.is_none_or(LateLane::is_empty) {
            return Some(frame);
        }
        let now = Instant::now();
        let Passage::Arrives { due, copies, held_by } =
            judge(&faults, (self.way, lane), now, frame.len())
        else {
            return None;
        };
        let of_lane = late.entry((peer, lane)).or_insert_with(|| self.start_lane(peer, lane, now));
        if let Some(fault) = held_by {
            self.hold_back((peer, lane), Late { due, frame }, &of_lane.progress, fault);
            return None;
        }
        if due <= now && copies == 1 && of_lane.is_empty() {
            of_lane.progress.handed_on.fetch_add(1, Relaxed);
            return Some(frame);
        }
        of_lane.last_due = of_lane.last_due.max(due);
        for _ in 0..copies {
            if !self.take_room(&frame, &faults) {
                break;
            }
            of_lane.progress.waiting.fetch_add(1, SeqCst);
            // An Err means that the runtime is going down.
            let _ = of_lane.queue.send(Late { due: of_lane.last_due, frame: frame.clone() });
        }
        None
    }

    /// Room for a frame that has to wait; without it the frame vanishes.
    fn take_room(&self, frame: &Bytes, faults: &[Arc<ActiveLink>]) -> bool {
        let before = self.late_bytes.fetch_add(frame.len(), SeqCst);
        let has_room = before + frame.len() <= LATE_BYTES_MAX;
        if !has_room {
            self.late_bytes.fetch_sub(frame.len(), SeqCst);
            if let Some(fault) = faults.first() {
                fault.dropped.fetch_add(1, Relaxed);
            }
        }
        has_room
    }

    fn start_lane(&self, peer: NodeId, lane: Lane, now: Instant) -> LateLane {
        let (queue, frames) = unbounded_channel();
        let progress = Arc::<Progress>::default();
        let carrier = Carrier {
            of: (self.way, peer, lane),
            faults: self.faults.clone(),
            hand_on: self.hand_on.clone(),
            progress: progress.clone(),
            late_bytes: self.late_bytes.clone(),
        };
        self.runtime.spawn(carrier.carry(frames));
        LateLane { queue, last_due: now, progress }
    }

    /// Lets those behind a frame go first; it counts as reordered once one of them has.
    fn hold_back(
        &self,
        (peer, lane): (NodeId, Lane),
        Late { due, frame }: Late,
        progress: &Arc<Progress>,
        fault: Arc<ActiveLink>,
    ) {
        if !self.take_room(&frame, std::slice::from_ref(&fault)) {
            return;
        }
        let (hand_on, bytes) = (self.hand_on.clone(), self.late_bytes.clone());
        let (progress, len) = (progress.clone(), frame.len());
        let (faults, of) = (self.faults.clone(), (self.way, peer, lane));
        let ahead = progress.handed_on.load(Relaxed) + progress.waiting.load(SeqCst) as u64;
        self.runtime.spawn(async move {
            faults.until(due + HELD_BACK, of).await;
            let overtaken = progress.handed_on.load(Relaxed) > ahead;
            fault.reordered.fetch_add(u64::from(overtaken), Relaxed);
            offer_until_taken(&*hand_on, peer, lane, frame).await;
            bytes.fetch_sub(len, SeqCst);
        });
    }
}

/// Carries one lane's late frames, in order.
struct Carrier {
    of: (Way, NodeId, Lane),
    faults: Arc<LinkFaults>,
    hand_on: Arc<HandOn>,
    progress: Arc<Progress>,
    late_bytes: Arc<AtomicUsize>,
}

impl Carrier {
    async fn carry(self, mut frames: UnboundedReceiver<Late>) {
        let (_, peer, lane) = self.of;
        while let Some(Late { due, frame }) = frames.recv().await {
            self.faults.until(due, self.of).await;
            let len = frame.len();
            offer_until_taken(&*self.hand_on, peer, lane, frame).await;
            self.progress.handed_on.fetch_add(1, Relaxed);
            self.progress.waiting.fetch_sub(1, SeqCst);
            self.late_bytes.fetch_sub(len, SeqCst);
        }
    }
}

async fn offer_until_taken(hand_on: &HandOn, peer: NodeId, lane: Lane, mut frame: Bytes) {
    while let Err(given_back) = hand_on(peer, lane, frame) {
        frame = given_back;
        sleep(OFFER_AGAIN).await;
    }
}

struct FaultyTransport {
    inner: Arc<dyn Transport>,
    lanes: Lanes,
}

impl Transport for FaultyTransport {
    fn try_send(&self, peer: NodeId, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        if self.lanes.faults.silenced().contains(&peer) {
            return Err(SendError::Disconnected);
        }
        match self.lanes.pass(peer, lane, frame) {
            Some(frame) => self.inner.try_send(peer, lane, frame),
            None => Ok(()),
        }
    }

    fn set_peers(&self, peers: &[PeerAddress]) {
        self.inner.set_peers(peers);
    }

    fn link_status(&self) -> Vec<LinkStatus> {
        let mut links = self.inner.link_status();
        let silenced = self.lanes.faults.silenced();
        for link in links.iter_mut().filter(|link| silenced.contains(&link.peer)) {
            link.connected = false;
            link.last_error = Some("cut off by an injected fault".to_owned());
        }
        links
    }

    fn shutdown(&self) {
        self.inner.shutdown();
    }
}

struct FaultyEvents {
    inner: Arc<dyn TransportEvents>,
    lanes: Lanes,
}

impl FaultyEvents {
    /// Whether the node may hear of a peer: of one that is cut off it was told that it is gone.
    fn is_heard(&self, peer: NodeId) -> bool {
        !self.lanes.faults.silenced().contains(&peer)
    }
}

impl TransportEvents for FaultyEvents {
    fn on_frame(&self, from: NodeId, lane: Lane, frame: Bytes) -> Result<(), Bytes> {
        if !self.is_heard(from) {
            return Ok(());
        }
        match self.lanes.pass(from, lane, frame) {
            Some(frame) => self.inner.on_frame(from, lane, frame),
            None => Ok(()),
        }
    }

    fn on_writable(&self, peer: NodeId, lane: Lane) {
        self.inner.on_writable(peer, lane);
    }

    fn on_connected(&self, peer: NodeId) {
        if self.is_heard(peer) {
            self.inner.on_connected(peer);
        }
    }

    fn on_disconnected(&self, peer: NodeId) {
        if self.is_heard(peer) {
            self.inner.on_disconnected(peer);
        }
    }
}
