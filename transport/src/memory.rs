//! A network within one process, for tests, simulation and single-process clusters.
//!
//! ```text
//! try_send ─→ [lane queue] ─pump task→ on_frame of the other node
//!                              └ cut(from, to): dropped here
//! ```
//!
//! Promise: the contract of `Transport`, with the same bounds as QUIC. Every task runs on the
//! runtime that `join` was called on: on one current-thread runtime with paused time, a run repeats
//! exactly. Two nodes are connected while each has the other as a peer and neither has shut down.
//! Not here: delay, loss at random, reordering; the simulator has its own network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use polyraft_core::ids::NodeId;
use polyraft_core::limits::FRAME_BYTES_MAX;
use polyraft_core::ports::{Lane, LinkStatus, PeerAddress, SendError, Transport, TransportEvents};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::frame::PREFIX_BYTES;
use crate::lane_queue::LaneQueue;
use crate::traffic::Traffic;

/// Pause before a frame that the receiver gave back is offered again.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Connects the nodes that join it. A cheap clone.
#[derive(Clone)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the pairs, in the order in which they wait, whenever who may be connected to whom changes.
    /// (A `watch` channel wakes in random order.)
    topology: Arc<Notify>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.topology.notify_waiters();
    }
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Node>,
    /// Directed: frames from the first to the second are lost.
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Ascending pairs that are kept apart.
    parted: BTreeSet<(NodeId, NodeId)>,
    lives: u64,
    /// Ascending pairs that have a task.
    pairs: BTreeSet<(NodeId, NodeId)>,
}

struct Node {
    /// Tells a node from the one of the same id before it.
    life: u64,
    events: Arc<dyn TransportEvents>,
    peers: BTreeMap<NodeId, Link>,
}

struct Link {
    /// Tells a link from the one to the same peer before it.
    life: u64,
    address: String,
    lanes: Option<Arc<Lanes>>,
    traffic: Arc<Traffic>,
    connects: u64,
}

impl Link {
    fn new(life: u64) -> Self {
        let (address, lanes, traffic, connects) = Default::default();
        Self { life, address, lanes, traffic, connects }
    }
}

type Lanes = [Arc<LaneQueue>; Lane::ALL.len()];

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryNetwork {
    /// A network without nodes.
    pub fn new() -> Self {
        let shared = Shared { state: Mutex::new(State::default()), topology: Arc::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Adds a node, or replaces the one of this id, which is thereby shut down. Deliveries to it run
    /// on the runtime of `handle`.
    pub fn join(
        &self,
        node: NodeId,
        events: Arc<dyn TransportEvents>,
        handle: Handle,
    ) -> MemoryTransport {
        let life = self.shared.change(|state| {
            state.lives += 1;
            state.nodes.insert(node, Node { life: state.lives, events, peers: BTreeMap::new() });
            state.lives
        });
        MemoryTransport { shared: self.shared.clone(), node, life, handle }
    }

    /// Loses every frame from `from` to `to`, silently; the link stays up.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.shared.lock().cuts.insert((from, to));
    }

    /// Ends a cut of that direction.
    pub fn heal(&self, from: NodeId, to: NodeId) {
        self.shared.lock().cuts.remove(&(from, to));
    }

    /// Takes the link between two nodes down, as both see.
    pub fn disconnect(&self, a: NodeId, b: NodeId) {
        self.shared.change(|state| state.parted.insert(ascending(a, b)));
    }

    /// Lets the link between two nodes come up again.
    pub fn reconnect(&self, a: NodeId, b: NodeId) {
        self.shared.change(|state| state.parted.remove(&ascending(a, b)));
    }
}

/// One node's end of a [`MemoryNetwork`].
pub struct MemoryTransport {
    shared: Arc<Shared>,
    node: NodeId,
    life: u64,
    handle: Handle,
}

impl Transport for MemoryTransport {
    fn try_send(&self, peer: NodeId, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(SendError::TooLarge);
        }
        let mut state = self.shared.lock();
        let node = state.node(self.node, self.life).ok_or(SendError::Disconnected)?;
        let link = node.peers.get(&peer).ok_or(SendError::UnknownPeer)?;
        let lanes = link.lanes.as_ref().ok_or(SendError::Disconnected)?;
        if lanes[lane as usize].push(frame) { Ok(()) } else { Err(SendError::Full) }
    }

    fn set_peers(&self, peers: &[PeerAddress]) {
        let missing = self.shared.change(|state| {
            let State { nodes, lives, .. } = state;
            let node = nodes.get_mut(&self.node).filter(|node| node.life == self.life);
            let Some(node) = node else { return Vec::new() };
            node.peers.retain(|id, _| peers.iter().any(|peer| peer.node == *id));
            let others = || peers.iter().filter(|peer| peer.node != self.node);
            for peer in others() {
                *lives += 1;
                let link = node.peers.entry(peer.node).or_insert_with(|| Link::new(*lives));
                link.address.clone_from(&peer.address);
            }
            others()
                .map(|peer| ascending(self.node, peer.node))
                .filter(|pair| state.pairs.insert(*pair))
                .collect()
        });
        for pair in missing {
            let topology = self.shared.topology.clone();
            self.handle.spawn(keep_pair(Arc::downgrade(&self.shared), pair, topology));
        }
    }

    fn link_status(&self) -> Vec<LinkStatus> {
        let mut state = self.shared.lock();
        let Some(node) = state.node(self.node, self.life) else { return Vec::new() };
        let status = |(id, link): (&NodeId, &Link)| LinkStatus {
            peer: *id,
            address: link.address.clone(),
            connected: link.lanes.is_some(),
            remote: None,
            round_trip_us: link.lanes.as_ref().map(|_| 0),
            traffic: link.traffic.snapshot(),
            certificates: None,
            connects: link.connects,
            takeovers: 0,
            last_error: None,
        };
        node.peers.iter().map(status).collect()
    }

    fn shutdown(&self) {
        self.shared.change(|state| {
            if state.node(self.node, self.life).is_some() {
                state.nodes.remove(&self.node);
            }
        });
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// A connection between two nodes, as the pair's task holds it.
struct Pair {
    ends: [End; 2],
    /// Dropped with the pair: nothing is delivered after that.
    _pumps: JoinSet<()>,
}

#[derive(Clone)]
struct End {
    node: NodeId,
    life: u64,
    link_life: u64,
    events: Arc<dyn TransportEvents>,
    traffic: Arc<Traffic>,
}

/// Keeps two nodes connected while they may be. One task per pair, so that what each node hears of
/// the other is in order.
async fn keep_pair(shared: Weak<Shared>, (a, b): (NodeId, NodeId), topology: Arc<Notify>) {
    let mut pair: Option<Pair> = None;
    loop {
        let mut changed = std::pin::pin!(topology.notified());
        changed.as_mut().enable();
        let Some(network) = shared.upgrade() else { return };
        let wanted = network.lock().ends(a, b);
        let lives = |ends: &[End; 2]| ends.each_ref().map(|end| (end.life, end.link_life));
        if pair.as_ref().map(|pair| lives(&pair.ends)) != wanted.as_ref().map(lives) {
            if let Some(old) = pair.take() {
                disconnect(&network, old);
            }
            pair = wanted.and_then(|ends| connect(&network, ends));
        }
        drop(network);
        changed.await;
    }
}

fn connect(network: &Arc<Shared>, ends: [End; 2]) -> Option<Pair> {
    let mut pumps = JoinSet::new();
    for (from, to) in [(0, 1), (1, 0)] {
        let (from, to) = (&ends[from], &ends[to]);
        let lanes: Arc<Lanes> = Arc::new(std::array::from_fn(|_| Arc::default()));
        {
            let mut state = network.lock();
            let link = state.node(from.node, from.life)?.peers.get_mut(&to.node)?;
            link.lanes = Some(lanes.clone());
            link.connects += 1;
        }
        for lane in Lane::ALL {
            let queue = lanes[lane as usize].clone();
            let pump =
                Pump { network: Arc::downgrade(network), from: from.clone(), to: to.clone() };
            pumps.spawn(pump.run(lane, queue));
        }
    }
    ends[0].events.on_connected(ends[1].node);
    ends[1].events.on_connected(ends[0].node);
    Some(Pair { ends, _pumps: pumps })
}

fn disconnect(network: &Shared, pair: Pair) {
    for (end, other) in [(0, 1), (1, 0)] {
        let (end, other) = (&pair.ends[end], &pair.ends[other]);
        let mut state = network.lock();
        if let Some(link) =
            state.node(end.node, end.life).and_then(|node| node.peers.get_mut(&other.node))
        {
            link.lanes = None;
        }
        drop(state);
        end.events.on_disconnected(other.node);
    }
}

/// Moves the frames of one lane in one direction.
struct Pump {
    network: Weak<Shared>,
    from: End,
    to: End,
}

impl Pump {
    async fn run(self, lane: Lane, queue: Arc<LaneQueue>) {
        loop {
            let drained = queue.drain().await;
            if drained.was_full {
                self.from.events.on_writable(self.to.node, lane);
            }
            for frame in drained.frames {
                self.deliver(lane, frame).await;
            }
        }
    }

    async fn deliver(&self, lane: Lane, mut frame: Bytes) {
        let bytes = frame.len() + PREFIX_BYTES;
        self.from.traffic.sent(1, bytes);
        let Some(network) = self.network.upgrade() else { return };
        if network.lock().cuts.contains(&(self.from.node, self.to.node)) {
            return;
        }
        drop(network);
        self.to.traffic.received(1, bytes);
        while let Err(busy) = self.to.events.on_frame(self.from.node, lane, frame) {
            frame = busy;
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        // A receiver that is never busy must not keep the other lanes from running.
        tokio::task::yield_now().await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the topology and wakes the pairs.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.topology.notify_waiters();
        changed
    }
}

impl State {
    fn node(&mut self, id: NodeId, life: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&id).filter(|node| node.life == life)
    }

    /// Both ends, if the two nodes may be connected.
    fn ends(&self, a: NodeId, b: NodeId) -> Option<[End; 2]> {
        if self.parted.contains(&(a, b)) {
            return None;
        }
        let end = |id: NodeId, peer: NodeId| {
            let node = self.nodes.get(&id)?;
            let link = node.peers.get(&peer)?;
            Some(End {
                node: id,
                life: node.life,
                link_life: link.life,
                events: node.events.clone(),
                traffic: link.traffic.clone(),
            })
        };
        Some([end(a, b)?, end(b, a)?])
    }
}

fn ascending(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what one node hears.
    struct Listener {
        node: NodeId,
        log: Arc<Mutex<Vec<String>>>,
    }

    impl Listener {
        fn note(&self, what: String) {
            self.log.lock().unwrap().push(format!("{}: {what}", self.node));
        }
    }

    impl TransportEvents for Listener {
        fn on_frame(&self, from: NodeId, lane: Lane, frame: Bytes) -> Result<(), Bytes> {
            self.note(format!("{lane} {frame:?} from {from}"));
            Ok(())
        }

        fn on_writable(&self, peer: NodeId, lane: Lane) {
            self.note(format!("{lane} to {peer} writable"));
        }

        fn on_connected(&self, peer: NodeId) {
            self.note(format!("{peer} up"));
        }

        fn on_disconnected(&self, peer: NodeId) {
            self.note(format!("{peer} down"));
        }
    }

    const A: NodeId = NodeId::new(1);
    const B: NodeId = NodeId::new(2);

    /// Lets every task that can run do so.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// A link, a one-way cut, its end, a parting and a reunion, with frames in between.
    fn scenario() -> Vec<String> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap().block_on(async {
            let network = MemoryNetwork::new();
            let nodes = [A, B].map(|node| {
                let listener = Arc::new(Listener { node, log: log.clone() });
                network.join(node, listener, Handle::current())
            });
            for node in &nodes {
                let peer = |node| PeerAddress { node, address: String::new() };
                node.set_peers(&[peer(A), peer(B)]);
            }
            settle().await;
            let send_both = |frame: &'static [u8]| {
                for (node, to) in nodes.iter().zip([B, A]) {
                    for lane in Lane::ALL {
                        let _ = node.try_send(to, lane, Bytes::from_static(frame));
                    }
                }
            };
            send_both(b"first");
            settle().await;
            network.cut(A, B);
            send_both(b"cut");
            settle().await;
            network.heal(A, B);
            network.disconnect(B, A);
            settle().await;
            send_both(b"parted");
            network.reconnect(A, B);
            settle().await;
            send_both(b"last");
            settle().await;
        });
        Arc::try_unwrap(log).unwrap().into_inner().unwrap()
    }

    #[test]
    fn a_run_repeats_exactly() {
        let first = scenario();
        assert!((0..20).all(|_| scenario() == first), "{first:#?}");
    }

    #[test]
    fn a_cut_loses_one_direction_and_a_parting_both() {
        let log = scenario();
        let heard = |what: &str| log.iter().filter(|line| line.contains(what)).count();
        assert_eq!(heard("\"first\" from"), 6);
        assert_eq!((heard("\"cut\" from 1"), heard("\"cut\" from 2")), (0, 3));
        assert_eq!(heard("\"parted\""), 0);
        assert_eq!(heard("\"last\" from"), 6);
        assert_eq!((heard("up"), heard("down")), (4, 2));
    }
}
