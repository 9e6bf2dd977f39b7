//! Goal: links live as long as they work, die when they do not, and follow what is configured
//! (TR-2, TR-5, TR-6, TR-8, TR-13).
//! Method: real QUIC on loopback, through a UDP proxy that loses one direction or both.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft_core::ports::{Lane, Transport};
use polyraft_transport::{Identity, Mtu, Refusal};
use support::recorder::Event;
use support::udp_proxy::UdpProxy;
use support::{Authority, Leaf, QuicNode, at, config, id, join, runtime, wait_until};
use tokio::runtime::Runtime;

/// How many connections have been in use for a node's first link, one after the other.
fn connections(node: &QuicNode) -> u64 {
    let link = &node.transport.link_status()[0];
    link.connects + link.takeovers
}

/// The idle timeout of `support::config`, and what detection may add to it on a loaded machine.
const DETECTION_MAX: Duration = Duration::from_millis(900 + 900);

/// Node 1 dials node 2 through a proxy; node 2 cannot dial, its address for node 1 is dead.
fn proxied(runtime: &Runtime) -> (QuicNode, UdpProxy, QuicNode) {
    let authority = Authority::default();
    let a = QuicNode::start(&authority, 1, runtime.handle());
    let b = QuicNode::start(&authority, 2, runtime.handle());
    let proxy = UdpProxy::start(b.transport.local_addr(), runtime.handle());
    b.transport.set_peers(&[at(1, "127.0.0.1:9")]);
    a.transport.set_peers(&[at(2, proxy.address)]);
    wait_until("connected", || a.connected(2) && b.connected(1));
    (a, proxy, b)
}

/// Goal: whichever direction is lost, both sides know within the bound, and the link heals.
fn detects(to_server: bool, from_server: bool, busy: Option<Lane>) {
    let runtime = runtime();
    let (a, proxy, b) = proxied(&runtime);
    if let Some(lane) = busy {
        // One-way traffic at the moment of the fault: heard without being heard.
        for (from, to) in [((1, &a), (2, &b)), ((2, &b), (1, &a))] {
            let frame = Bytes::from_static(b"x");
            wait_until("sent", || from.1.transport.try_send(id(to.0), lane, frame.clone()).is_ok());
        }
    }
    proxy.state.set(to_server, from_server);
    let cut = Instant::now();
    wait_until("both noticed", || !a.recorder.connected(id(2)) && !b.recorder.connected(id(1)));
    assert!(cut.elapsed() < DETECTION_MAX, "took {:?}", cut.elapsed());
    assert!(proxy.state.lost.load(SeqCst) > 0, "the fault happened");

    proxy.state.set(false, false);
    wait_until("healed", || a.connected(2) && b.connected(1));
    a.recorder.assert_consistent();
    b.recorder.assert_consistent();
}

#[test]
fn a_black_hole_is_detected() {
    detects(true, true, None);
}

#[test]
fn losing_what_goes_out_is_detected() {
    detects(true, false, None);
    detects(true, false, Some(Lane::Append));
}

#[test]
fn losing_what_comes_in_is_detected() {
    detects(false, true, None);
    detects(false, true, Some(Lane::Append));
}

/// Goal: an idle link stays up for many idle timeouts, and its peer is heard all the time.
#[test]
fn an_idle_link_stays_up() {
    let runtime = runtime();
    let (a, _proxy, b) = proxied(&runtime);
    let start = Instant::now();
    wait_until("four idle timeouts passed", || start.elapsed() > Duration::from_millis(3_600));
    for (node, peer) in [(&a, 2), (&b, 1)] {
        assert_eq!(node.recorder.events(), [Event::Connected(id(peer))]);
        assert!(
            node.transport.last_heard(id(peer)).unwrap().elapsed() < Duration::from_millis(900)
        );
        assert_eq!(node.transport.link_status()[0].connects, 1);
    }
}

/// Goal: both dial at once, again and again: one connection is left, and nothing counts as failed.
#[test]
fn simultaneous_dials_end_in_one_connection() {
    let (runtime, authority) = (runtime(), Authority::default());
    let a = QuicNode::start(&authority, 1, runtime.handle());
    let b = QuicNode::start(&authority, 2, runtime.handle());
    for _ in 0..20 {
        join((1, &a), (2, &b));
        let frame = Bytes::from_static(b"x");
        wait_until("frames flow", || {
            a.transport.try_send(id(2), Lane::Control, frame.clone()).is_ok()
                && b.transport.try_send(id(1), Lane::Control, frame.clone()).is_ok()
        });
        a.transport.set_peers(&[]);
        b.transport.set_peers(&[]);
        wait_until("apart", || !a.recorder.connected(id(2)) && !b.recorder.connected(id(1)));
    }
    a.recorder.assert_consistent();
    b.recorder.assert_consistent();
}

/// Sends numbered frames whenever there is room, until told to stop; returns how many were taken.
fn send_until(node: &QuicNode, peer: u64, stop: &AtomicBool) -> u32 {
    let mut taken = 0_u32;
    while !stop.load(SeqCst) {
        let frame = Bytes::copy_from_slice(&taken.to_be_bytes());
        match node.transport.try_send(id(peer), Lane::Request, frame) {
            Ok(()) => taken += 1,
            Err(_) => std::thread::yield_now(),
        }
    }
    taken
}

/// The numbers that arrived, sorted: connections that take turns may overtake each other.
fn numbers(node: &QuicNode, peer: u64) -> Vec<u32> {
    let frames = node.recorder.frames(id(peer), Lane::Request);
    let number = |frame: &Bytes| u32::from_be_bytes(frame.as_ref().try_into().unwrap());
    let mut numbers: Vec<_> = frames.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// What each took was delivered by the other, and neither heard of a link that went down.
fn assert_nothing_was_lost(a: &QuicNode, b: &QuicNode, from_a: u32, from_b: u32) {
    let all_there =
        || numbers(b, 1).len() >= from_a as usize && numbers(a, 2).len() >= from_b as usize;
    wait_until("what was taken is delivered", all_there);
    assert_eq!(numbers(b, 1), (0..from_a).collect::<Vec<_>>());
    assert_eq!(numbers(a, 2), (0..from_b).collect::<Vec<_>>());
    for (node, peer) in [(a, 2), (b, 1)] {
        let down = node.recorder.count(|event| *event == Event::Disconnected(id(peer)));
        assert_eq!(down, 0, "the link to node {peer} went down, but a connection was always up");
        assert_eq!(node.transport.link_status()[0].connects, 1, "taking over is not coming up");
        node.recorder.assert_consistent();
    }
}

/// Both dial at once while both send; whether a connection took another's place.
fn dial_at_once(runtime: &Runtime, authority: &Authority, lead: Duration) -> bool {
    let a = QuicNode::start(authority, 1, runtime.handle());
    let b = QuicNode::start(authority, 2, runtime.handle());
    // The higher node lets the lower dial first: it is given the lead that makes them meet.
    b.transport.set_peers(&[at(1, a.address())]);
    let told = Instant::now();
    while told.elapsed() < lead {
        std::thread::yield_now();
    }
    a.transport.set_peers(&[at(2, b.address())]);
    let stop = AtomicBool::new(false);
    let (from_a, from_b) = std::thread::scope(|scope| {
        let from_a = scope.spawn(|| send_until(&a, 2, &stop));
        let from_b = scope.spawn(|| send_until(&b, 1, &stop));
        wait_until("both connected", || a.connected(2) && b.connected(1));
        let since = Instant::now();
        wait_until("a while passed", || since.elapsed() > Duration::from_millis(50));
        stop.store(true, SeqCst);
        (from_a.join().unwrap(), from_b.join().unwrap())
    });
    assert_nothing_was_lost(&a, &b, from_a, from_b);
    [&a, &b].iter().any(|node| node.transport.link_status()[0].takeovers > 0)
}

/// Goal: when both dial at once, the connection that loses is emptied first: what was sent on it
/// arrives, and nobody hears of a link that went down (BP-15, TR-2). Method: both send all the time
/// while they dial, with leads around the one that makes their dials meet, until they have met a few times:
/// on a busy machine that takes more attempts.
#[test]
fn nothing_is_lost_when_one_of_two_connections_takes_over() {
    let (runtime, authority) = (runtime(), Authority::default());
    let (mut takeovers, began) = (0, Instant::now());
    for at in 0.. {
        let lead = Duration::from_millis(84 + at % 15 * 2);
        takeovers += u32::from(dial_at_once(&runtime, &authority, lead));
        if takeovers == 3 {
            println!("{takeovers} of {} pairs dialled at once", at + 1);
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "the dials met {takeovers} times only");
    }
}

/// Goal: certificates and roots rotate without a restart and without a link going down, and whoever is
/// left behind is shut out at once.
#[test]
fn authorities_rotate_live() {
    let (runtime, old, new) = (runtime(), Authority::default(), Authority::default());
    let a = QuicNode::start(&old, 1, runtime.handle());
    let b = QuicNode::start(&old, 2, runtime.handle());
    join((1, &a), (2, &b));
    let both = old.root_pem() + &new.root_pem();
    let renew = |node: &QuicNode, peer, identity| {
        let before = connections(node);
        node.transport.reload(identity).unwrap();
        wait_until("renewed", || node.connected(peer) && connections(node) > before);
    };
    renew(&a, 2, old.identity_trusting(&Leaf::of(1), &both, ""));
    renew(&b, 1, old.identity_trusting(&Leaf::of(2), &both, ""));
    renew(&a, 2, new.identity_trusting(&Leaf::of(1), &both, ""));
    wait_until("both are on the same connection", || is_settled(&a, &b));
    for (node, peer) in [(&a, 2), (&b, 1)] {
        let down = node.recorder.count(|event| *event == Event::Disconnected(id(peer)));
        assert_eq!(down, 0, "node {peer}'s link went down");
    }

    // Node 2 was forgotten: it is still on a certificate of the old authority.
    a.transport.reload(new.identity_trusting(&Leaf::of(1), &new.root_pem(), "")).unwrap();
    wait_until("shut out", || a.refused(Refusal::UntrustedIssuer) > 0 && !a.connected(2));
    let counted = a.refused(Refusal::UntrustedIssuer);
    wait_until("and stays out", || a.refused(Refusal::UntrustedIssuer) > counted + 1);
    assert!(!a.connected(2));
    renew(&b, 1, new.identity_trusting(&Leaf::of(2), &new.root_pem(), ""));
    wait_until("let in again", || a.connected(2));
    assert!(a.transport.reload(new.identity(2)).is_err(), "another node's certificate");
}

/// Goal: a revocation cuts the link of whoever is revoked, and no other; nothing that is still allowed
/// is made anew for it.
#[test]
fn a_revocation_ends_a_link_at_once() {
    let (runtime, authority) = (runtime(), Authority::default());
    let (chain, key) = authority.issue(&Leaf::of(1));
    let roots = authority.root_pem();
    let identity = |crl: &str| {
        let part = str::as_bytes;
        Identity::from_pem(part(&chain), part(&key), part(&roots), part(crl)).unwrap()
    };
    let a = QuicNode::with_config(config(1, "127.0.0.1:0", identity("")), runtime.handle());
    let b = QuicNode::start(&authority, 2, runtime.handle());
    let c = QuicNode::start(&authority, 3, runtime.handle());
    a.transport.set_peers(&[at(2, b.address()), at(3, c.address())]);
    b.transport.set_peers(&[at(1, a.address())]);
    c.transport.set_peers(&[at(1, a.address())]);
    wait_until("connected", || a.connected(2) && a.connected(3) && b.connected(1));
    let before = connections(&a);
    a.transport.reload(identity(&authority.revoke(&[3]))).unwrap();
    wait_until("cut", || a.refused(Refusal::Revoked) > 0 && !a.connected(3) && !c.connected(1));
    let counted = a.refused(Refusal::Revoked);
    wait_until("and stays out", || a.refused(Refusal::Revoked) > counted + 1);
    assert!(a.connected(2) && !a.connected(3));
    assert_eq!(connections(&a), before, "the other link was left alone");
    assert_eq!(a.recorder.count(|event| *event == Event::Disconnected(id(2))), 0);
}

/// Whether both sides use the same connection, on which each has shown its present certificate.
fn is_settled(a: &QuicNode, b: &QuicNode) -> bool {
    let certificates = |node: &QuicNode| node.transport.link_status()[0].certificates.clone();
    let serial = |node: &QuicNode| node.transport.identity().leaf().serial.clone();
    match (certificates(a), certificates(b)) {
        (Some(at_a), Some(at_b)) => {
            at_a.own_is_current
                && at_b.own_is_current
                && at_a.peer.serial == serial(b)
                && at_b.peer.serial == serial(a)
        }
        _ => false,
    }
}

/// Goal: two nodes that replace their certificates at the same moment end on one connection with both
/// new ones; meanwhile no link goes down and no frame is lost (TR-2, TR-6). Method: both send all the
/// time, and reload with a lead between them that changes from round to round, so that their dials and
/// handshakes meet in many ways.
#[test]
fn two_nodes_that_reload_at_once_lose_nothing() {
    const ROUNDS: u64 = 16;
    let (runtime, authority) = (runtime(), Authority::default());
    let a = QuicNode::start(&authority, 1, runtime.handle());
    let b = QuicNode::start(&authority, 2, runtime.handle());
    join((1, &a), (2, &b));
    wait_until("the first dials are settled", || is_settled(&a, &b));
    // While one of them did not yet know its peer, it may have refused it.
    let refused = [a.refusals(), b.refusals()];
    let stop = AtomicBool::new(false);
    let (from_a, from_b) = std::thread::scope(|scope| {
        let from_a = scope.spawn(|| send_until(&a, 2, &stop));
        let from_b = scope.spawn(|| send_until(&b, 1, &stop));
        for round in 1..=ROUNDS {
            let leaf = |node| Leaf { serial: 100 * round + node, ..Leaf::of(node) };
            let [one, two] = [1, 2]
                .map(|node| authority.identity_trusting(&leaf(node), &authority.root_pem(), ""));
            let lead = Duration::from_micros(500 * (round / 2));
            let (first, second) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
            let (early, late) = if round % 2 == 0 { (one, two) } else { (two, one) };
            first.transport.reload(early).unwrap();
            let told = Instant::now();
            while told.elapsed() < lead {
                std::thread::yield_now();
            }
            second.transport.reload(late).unwrap();
            wait_until("both on the new certificates", || is_settled(&a, &b));
        }
        stop.store(true, SeqCst);
        (from_a.join().unwrap(), from_b.join().unwrap())
    });
    assert_nothing_was_lost(&a, &b, from_a, from_b);
    assert_eq!([a.refusals(), b.refusals()], refused, "a renewal is no reason to refuse anybody");
}

/// Goal: what is no longer trusted does not come back by a handshake that is under way (TR-6). Method:
/// over and over, one node withdraws its trust at the moment at which the other renews its link.
#[test]
fn no_handshake_escapes_a_reload() {
    const TIMES: u32 = 20;
    let (runtime, old, new) = (runtime(), Authority::default(), Authority::default());
    let both = old.root_pem() + &new.root_pem();
    let trusting = |roots: &str| new.identity_trusting(&Leaf::of(1), roots, "");
    let a = QuicNode::with_config(config(1, "127.0.0.1:0", trusting(&both)), runtime.handle());
    let identity = old.identity_trusting(&Leaf::of(2), &both, "");
    let b = QuicNode::with_config(config(2, "127.0.0.1:0", identity), runtime.handle());
    join((1, &a), (2, &b));
    for time in 1..=TIMES {
        let refused = a.refused(Refusal::UntrustedIssuer);
        b.transport.reload(old.identity_trusting(&Leaf::of(2), &both, "")).unwrap();
        let told = Instant::now();
        while told.elapsed() < Duration::from_millis(u64::from(time) / 4) {
            std::thread::yield_now();
        }
        a.transport.reload(trusting(&new.root_pem())).unwrap();
        wait_until("shut out", || a.refused(Refusal::UntrustedIssuer) > refused && !a.connected(2));
        let counted = a.refused(Refusal::UntrustedIssuer);
        wait_until("and stays out", || a.refused(Refusal::UntrustedIssuer) > counted + 1);
        assert!(!a.connected(2));
        a.transport.reload(trusting(&both)).unwrap();
        wait_until("back", || a.connected(2) && b.connected(1));
        println!("{time} of {TIMES}");
    }
}

/// Goal: a node that moves is found at its new address without a restart of the others.
#[test]
fn a_peer_moves() {
    let (runtime, authority) = (runtime(), Authority::default());
    let a = QuicNode::start(&authority, 1, runtime.handle());
    // Nothing of node 2's knows node 1's address: node 1 has to find it.
    let dead = at(1, "127.0.0.1:9");
    let before = QuicNode::start(&authority, 2, runtime.handle());
    before.transport.set_peers(std::slice::from_ref(&dead));
    a.transport.set_peers(&[at(2, before.address())]);
    wait_until("connected", || a.connected(2));
    drop(before);
    wait_until("gone", || !a.connected(2));
    let after = QuicNode::start(&authority, 2, runtime.handle());
    after.transport.set_peers(&[dead]);
    let port = after.transport.local_addr().port();
    a.transport.set_peers(&[at(2, format!("localhost:{port}"))]);
    wait_until("found", || a.connected(2) && after.connected(1));
    assert_eq!(a.transport.link_status()[0].remote, Some(after.transport.local_addr()));
}

#[test]
fn jumbo_datagrams_carry_frames() {
    let (runtime, authority) = (runtime(), Authority::default());
    let start = |node| {
        let settings = config(node, "127.0.0.1:0", authority.identity(node)).mtu(Mtu::Jumbo);
        QuicNode::with_config(settings, runtime.handle())
    };
    let (a, b) = (start(1), start(2));
    // One side dials: a connection that loses against another may take frames with it.
    b.transport.set_peers(&[at(1, "127.0.0.1:9")]);
    a.transport.set_peers(&[at(2, b.address())]);
    wait_until("connected", || a.connected(2) && b.connected(1));
    let frame = Bytes::from(vec![5; 1 << 20]);
    for _ in 0..32 {
        wait_until("room", || a.transport.try_send(id(2), Lane::Append, frame.clone()).is_ok());
    }
    wait_until("all there", || b.recorder.frames(id(1), Lane::Append).len() == 32);
    assert_eq!([a.refusals(), b.refusals()], [[], []]);
}
