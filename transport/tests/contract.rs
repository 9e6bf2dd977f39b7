//! Goal: both adapters keep the contract of `Transport` (TR-1, TR-2, TR-4, TR-5, TR-10, TR-13).
//! Method: one suite, run on each; every wait is for a state.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft_core::limits::FRAME_BYTES_MAX;
use polyraft_core::ports::{Lane, SendError, Transport};
use polyraft_transport::{MemoryNetwork, QuicTransport};
use support::recorder::Event;
use support::{Authority, Recorder, at, config, id, runtime, wait_until};
use tokio::runtime::Runtime;

/// Starts nodes on one kind of network.
trait Rig: Sized {
    fn new() -> Self;

    /// Starts `node`, listening where the rig always puts it.
    fn start(&self, node: u64) -> Node;

    fn address(&self, node: u64) -> String;

    fn join(&self, node: u64, peers: &[u64]) -> Node {
        let started = self.start(node);
        let peers: Vec<_> = peers.iter().map(|peer| at(*peer, self.address(*peer))).collect();
        started.transport.set_peers(&peers);
        started
    }
}

struct Node {
    transport: Box<dyn Transport>,
    recorder: Arc<Recorder>,
    /// Dropped to kill the node without a word to anyone.
    runtime: Option<Runtime>,
}

impl Node {
    fn kill(mut self) -> Arc<Recorder> {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.recorder.clone()
    }

    fn send(&self, peer: u64, lane: Lane, frame: &[u8]) -> Result<(), SendError> {
        self.transport.try_send(id(peer), lane, Bytes::copy_from_slice(frame))
    }

    fn send_when_possible(&self, peer: u64, lane: Lane, frame: &[u8]) {
        wait_until("room for a frame", || self.send(peer, lane, frame).is_ok());
    }
}

fn linked<R: Rig>() -> (R, Node, Node) {
    let rig = R::new();
    let (a, b) = (rig.join(1, &[2]), rig.join(2, &[1]));
    wait_connected(&a, &b);
    (rig, a, b)
}

fn wait_connected(a: &Node, b: &Node) {
    wait_until("1 and 2 connected", || a.recorder.connected(id(2)) && b.recorder.connected(id(1)));
}

struct Memory {
    network: MemoryNetwork,
    runtime: Runtime,
}

impl Rig for Memory {
    fn new() -> Self {
        Self { network: MemoryNetwork::new(), runtime: runtime() }
    }

    fn start(&self, node: u64) -> Node {
        let recorder = Arc::new(Recorder::default());
        let handle = self.runtime.handle().clone();
        let transport = self.network.join(id(node), recorder.clone(), handle);
        Node { transport: Box::new(transport), recorder, runtime: None }
    }

    fn address(&self, node: u64) -> String {
        format!("memory:{node}")
    }
}

struct Quic {
    authority: Authority,
    ports: Vec<u16>,
}

impl Rig for Quic {
    fn new() -> Self {
        // Held together, then released: distinct ports that stay the nodes' over restarts.
        let sockets: Vec<_> =
            (0..4).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let ports = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        Self { authority: Authority::default(), ports }
    }

    fn start(&self, node: u64) -> Node {
        let recorder = Arc::new(Recorder::default());
        let runtime = runtime();
        let mut started = None;
        wait_until("the port is free", || {
            let config = config(node, &self.address(node), self.authority.identity(node));
            let handle = runtime.handle().clone();
            started = QuicTransport::start(config, recorder.clone(), handle).ok();
            started.is_some()
        });
        Node { transport: Box::new(started.unwrap()), recorder, runtime: Some(runtime) }
    }

    fn address(&self, node: u64) -> String {
        format!("127.0.0.1:{}", self.ports[node as usize])
    }
}

fn delivers_in_order_on_every_lane<R: Rig>() {
    let (_rig, a, b) = linked::<R>();
    let sent: Vec<Bytes> = (0..300_u32)
        .map(|i| Bytes::from(i.to_be_bytes().repeat(1 + (i as usize * 37) % 4_000)))
        .chain([Bytes::new(), Bytes::from(vec![7; FRAME_BYTES_MAX])])
        .collect();
    for frame in &sent {
        for lane in Lane::ALL {
            a.send_when_possible(2, lane, frame);
            if frame.len() < 4_000 {
                b.send_when_possible(1, lane, frame);
            }
        }
    }
    let small: Vec<_> = sent.iter().filter(|frame| frame.len() < 4_000).cloned().collect();
    for lane in Lane::ALL {
        wait_until("all at 2", || b.recorder.frames(id(1), lane).len() == sent.len());
        assert_eq!(b.recorder.frames(id(1), lane), sent);
        wait_until("all at 1", || a.recorder.frames(id(2), lane).len() == small.len());
        assert_eq!(a.recorder.frames(id(2), lane), small);
    }
    let traffic = a.transport.link_status()[0].traffic;
    assert_eq!(traffic.frames_out, 3 * sent.len() as u64);
    assert!(traffic.bytes_out > 3 * sent.iter().map(|frame| frame.len() as u64).sum::<u64>());
}

fn a_blocked_lane_is_full_and_delays_no_other<R: Rig>() {
    let (_rig, a, b) = linked::<R>();
    b.recorder.set_busy(Lane::Append, true);
    let frame = vec![1; 256 << 10];
    // Goal: bounded. Far more than all windows and queues together is never taken.
    let mut taken = 0;
    let mut refused_since = None;
    wait_until("the lane stays full", || match a.send(2, Lane::Append, &frame) {
        Ok(()) => {
            taken += 1;
            refused_since = None;
            assert!(taken < 256, "64 MiB taken for a receiver that takes nothing");
            false
        }
        Err(error) => {
            assert_eq!(error, SendError::Full);
            let since = *refused_since.get_or_insert_with(Instant::now);
            since.elapsed() > Duration::from_millis(300)
        }
    });
    let writable = |event: &Event| *event == Event::Writable(id(2), Lane::Append);
    let told_before = a.recorder.count(writable);
    for lane in [Lane::Control, Lane::Request] {
        a.send_when_possible(2, lane, b"past the blocked lane");
        wait_until("the other lane delivers", || b.recorder.frames(id(1), lane).len() == 1);
    }
    assert_eq!(b.recorder.frames(id(1), Lane::Append).len(), 0);
    assert!(a.recorder.connected(id(2)), "a blocked lane must not take the link down");

    b.recorder.set_busy(Lane::Append, false);
    wait_until("told of room", || a.recorder.count(writable) > told_before);
    a.send_when_possible(2, Lane::Append, b"last");
    let all = || b.recorder.frames(id(1), Lane::Append).len() == taken + 1;
    wait_until("nothing of what was taken is lost", all);
    assert_eq!(b.recorder.frames(id(1), Lane::Append).last().unwrap(), &b"last"[..]);
}

fn connects_in_any_order_of_start_and_restart<R: Rig>() {
    for [first, second] in [[1, 2], [2, 1]] {
        let rig = R::new();
        let mut nodes = BTreeMap::from([(first, rig.join(first, &[second]))]);
        let early = nodes[&first].send(second, Lane::Control, b"x");
        assert_eq!(early, Err(SendError::Disconnected));
        nodes.insert(second, rig.join(second, &[first]));
        wait_connected(&nodes[&1], &nodes[&2]);
        for [victim, keeper] in [[second, first], [first, second], [first, second]] {
            let back = |event: &Event| *event == Event::Connected(id(victim));
            let before = nodes[&keeper].recorder.count(back);
            nodes.remove(&victim).unwrap().kill().assert_consistent();
            nodes.insert(victim, rig.join(victim, &[keeper]));
            wait_until("the keeper met the new one", || {
                nodes[&keeper].recorder.count(back) > before
            });
            wait_connected(&nodes[&1], &nodes[&2]);
            let met = nodes[&victim].recorder.frames(id(keeper), Lane::Control).len();
            nodes[&keeper].send_when_possible(victim, Lane::Control, b"welcome back");
            wait_until("frames flow", || {
                nodes[&victim].recorder.frames(id(keeper), Lane::Control).len() > met
            });
            nodes[&keeper].recorder.assert_consistent();
        }
    }
}

fn a_peer_that_is_back_is_linked_within_a_second<R: Rig>() {
    for (keeper, victim) in [(1, 2), (2, 1)] {
        let rig = R::new();
        let kept = rig.join(keeper, &[victim]);
        let killed = rig.join(victim, &[keeper]);
        wait_until("connected", || kept.recorder.connected(id(victim)));
        killed.kill();
        // Long enough for the keeper's backoff to grow, so that it is the inbound dial that counts.
        wait_until("the keeper noticed", || !kept.recorder.connected(id(victim)));
        let gone = Instant::now();
        wait_until("a while passed", || gone.elapsed() > Duration::from_millis(1_500));
        let back = rig.start(victim);
        let start = Instant::now();
        back.transport.set_peers(&[at(keeper, rig.address(keeper))]);
        wait_until("linked", || {
            kept.recorder.connected(id(victim)) && back.recorder.connected(id(keeper))
        });
        assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
        kept.recorder.assert_consistent();
    }
}

fn refuses_what_cannot_be_sent<R: Rig>() {
    let (_rig, a, _b) = linked::<R>();
    let large = vec![0; FRAME_BYTES_MAX + 1];
    assert_eq!(a.send(2, Lane::Append, &large), Err(SendError::TooLarge));
    assert_eq!(a.send(3, Lane::Append, b"x"), Err(SendError::UnknownPeer));
    assert_eq!(a.send(1, Lane::Append, b"x"), Err(SendError::UnknownPeer));
}

fn peers_change_live<R: Rig>() {
    let (rig, a, b) = linked::<R>();
    let c = rig.join(3, &[1]);
    a.transport.set_peers(&[at(1, rig.address(1)), at(2, rig.address(2)), at(3, rig.address(3))]);
    wait_until("3 joined", || a.recorder.connected(id(3)) && c.recorder.connected(id(1)));
    assert!(a.recorder.connected(id(2)), "the others are not disturbed");
    assert_eq!(b.recorder.count(|event| *event == Event::Disconnected(id(1))), 0);

    a.transport.set_peers(&[at(3, rig.address(3))]);
    wait_until("2 left", || !a.recorder.connected(id(2)) && !b.recorder.connected(id(1)));
    assert_eq!(a.send(2, Lane::Control, b"x"), Err(SendError::UnknownPeer));
    let peers: Vec<_> = a.transport.link_status().iter().map(|link| link.peer).collect();
    assert_eq!(peers, [id(3)]);

    a.transport.set_peers(&[at(2, rig.address(2)), at(3, rig.address(3))]);
    wait_until("2 is back", || a.recorder.connected(id(2)) && b.recorder.connected(id(1)));
    for node in [a, b, c] {
        node.recorder.assert_consistent();
    }
}

fn shutdown_is_idempotent_and_final<R: Rig>() {
    let (rig, a, b) = linked::<R>();
    a.transport.shutdown();
    a.transport.shutdown();
    wait_until("both heard", || !a.recorder.connected(id(2)) && !b.recorder.connected(id(1)));
    assert_eq!(a.send(2, Lane::Control, b"x"), Err(SendError::Disconnected));
    a.transport.set_peers(&[at(2, rig.address(2))]);
    assert!(a.transport.link_status().iter().all(|link| !link.connected));
    a.recorder.assert_consistent();
    b.recorder.assert_consistent();
}

macro_rules! suite {
    ($($test:ident,)*) => {
        mod memory { $(#[test] fn $test() { super::$test::<super::Memory>(); })* }
        mod quic { $(#[test] fn $test() { super::$test::<super::Quic>(); })* }
    };
}

suite! {
    delivers_in_order_on_every_lane,
    a_blocked_lane_is_full_and_delays_no_other,
    connects_in_any_order_of_start_and_restart,
    a_peer_that_is_back_is_linked_within_a_second,
    refuses_what_cannot_be_sent,
    peers_change_live,
    shutdown_is_idempotent_and_final,
}
