//! Goal: whoever is not exactly the expected peer, or breaks the wire format, is refused and counted,
//! and a healthy link beside it is undisturbed (TR-6, TR-7, TR-12).
//! Method: real QUIC on loopback; impostors are polyraft nodes with wrong certificates, or a bare
//! quinn client with a right certificate that writes wrong bytes.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polyraft_core::ports::{Lane, Transport};
use polyraft_transport::{
    ClusterName, Identity, QuicConfig, QuicTransport, Refusal, StartError, WireVersion,
};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::recorder::Event;
use support::{Authority, Leaf, QuicNode, at, config, id, join, runtime, wait_until};
use tokio::runtime::Runtime;

/// Node 1 under attack and its healthy peer 2; node 3 is a peer in name, for impostors to claim.
struct Scene {
    runtime: Runtime,
    authority: Authority,
    target: QuicNode,
    healthy: QuicNode,
}

/// A healthy link stays up on a machine that is too busy for beats, too.
const PATIENT: Duration = Duration::from_secs(10);

impl Scene {
    fn new() -> Self {
        let (runtime, authority) = (runtime(), Authority::default());
        let settings = || {
            config(1, "127.0.0.1:0", authority.identity(1))
                .frame_timeout(Duration::from_millis(500))
                .handshake_timeout(Duration::from_millis(900))
                .idle_timeout(PATIENT)
        };
        let target = QuicNode::with_config(settings(), runtime.handle());
        let patient = config(2, "127.0.0.1:0", authority.identity(2)).idle_timeout(PATIENT);
        let healthy = QuicNode::with_config(patient, runtime.handle());
        join((1, &target), (2, &healthy));
        // Nobody listens at node 3's address: it has to dial.
        target.transport.set_peers(&[at(2, healthy.address()), at(3, "127.0.0.1:9")]);
        Self { runtime, authority, target, healthy }
    }

    /// Starts an impostor that dials the target, and waits until the target refuses it.
    fn refuses(&self, impostor: QuicConfig, why: Refusal) {
        let impostor = QuicNode::with_config(impostor, self.runtime.handle());
        impostor.transport.set_peers(&[at(1, self.target.address())]);
        wait_until(why.label(), || self.target.refused(why) > 0);
        wait_until("told", || impostor.refused(Refusal::RefusedByPeer) > 0);
        assert!(!impostor.connected(1));
        assert_eq!(impostor.recorder.events(), []);
        self.assert_undisturbed();
    }

    /// The healthy link carries frames and was never down; nothing came from an impostor.
    fn assert_undisturbed(&self) {
        let lane = Lane::Request;
        let before = self.target.recorder.frames(id(2), lane).len();
        self.healthy.transport.try_send(id(1), lane, Bytes::from_static(b"still here")).unwrap();
        wait_until("a frame on the healthy link", || {
            self.target.recorder.frames(id(2), lane).len() > before
        });
        let is_down = |event: &Event| *event == Event::Disconnected(id(2));
        assert_eq!(self.target.recorder.count(is_down), 0);
        assert_eq!(self.target.recorder.frames(id(3), lane), [] as [Bytes; 0]);
        self.target.recorder.assert_consistent();
    }

    fn impostor(&self, leaf: &Leaf) -> QuicConfig {
        config(
            3,
            "127.0.0.1:0",
            self.authority.identity_trusting(leaf, &self.authority.root_pem(), ""),
        )
    }

    /// A bare QUIC client with node 3's certificate, or none.
    fn client(&self, certificate: bool, alpn: &[u8]) -> quinn::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.authority.root_pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(support::trusting::Trusting));
        let mut tls = if certificate {
            let (chain, key) = self.authority.issue(&Leaf::of(3));
            let chain = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
    }

    fn endpoint(&self) -> quinn::Endpoint {
        let _runtime = self.runtime.enter();
        quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap()
    }

    /// Dials as a bare client and expects the target to close the connection for `why`.
    fn refuses_client(&self, client: quinn::ClientConfig, why: Refusal) {
        let endpoint = self.endpoint();
        let target = self.target.transport.local_addr();
        self.runtime.block_on(async {
            if let Ok(connection) = endpoint.connect_with(client, target, "x").unwrap().await {
                connection.closed().await;
            }
        });
        wait_until(why.label(), || self.target.refused(why) > 0);
        self.assert_undisturbed();
    }

    /// Opens the four streams as node 3, writes `bytes` on the first lane, pausing after each piece, and
    /// expects to be closed for `why`.
    fn refuses_bytes(&self, script: Script, why: Refusal) {
        let endpoint = self.endpoint();
        let target = self.target.transport.local_addr();
        let client = self.client(true, b"polyraft/1");
        self.runtime.block_on(async {
            let connection = endpoint.connect_with(client, target, "x").unwrap().await.unwrap();
            let mut lanes = Vec::new();
            for preamble in &script.preambles {
                // The target may have seen enough and closed before the last one.
                let Ok(mut lane) = connection.open_uni().await else { break };
                let _ = lane.write_all(preamble).await;
                lanes.push(lane);
            }
            for byte in &script.bytes {
                if lanes[1].write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(script.pause).await;
            }
            if script.finish {
                lanes[1].finish().unwrap();
            }
            connection.closed().await;
        });
        wait_until(why.label(), || self.target.refused(why) > 0);
        self.assert_undisturbed();
    }
}

/// What a bare client writes.
struct Script {
    preambles: Vec<Vec<u8>>,
    bytes: Vec<u8>,
    pause: Duration,
    finish: bool,
}

impl Script {
    fn new(bytes: &[u8]) -> Self {
        let preamble = |lane| vec![1, lane, 0, 0, 0, 0, 0, 0, 0, 9];
        let mut preambles: Vec<_> = (0..=3).map(preamble).collect();
        // Its data, the number of its life, and its round of certificates.
        preambles[0].extend([0; 24]);
        Self { preambles, bytes: bytes.to_vec(), pause: Duration::ZERO, finish: false }
    }
}

#[test]
fn no_certificate() {
    let scene = Scene::new();
    scene.refuses_client(scene.client(false, b"polyraft/1"), Refusal::NoCertificate);
}

#[test]
fn wrong_alpn() {
    let scene = Scene::new();
    scene.refuses_client(scene.client(true, b"polyraft/99"), Refusal::WrongAlpn);
}

#[test]
fn other_authority() {
    let scene = Scene::new();
    let other = Authority::default();
    // It trusts the target; only the target must refuse.
    let identity = other.identity_trusting(&Leaf::of(3), &scene.authority.root_pem(), "");
    scene.refuses(config(3, "127.0.0.1:0", identity), Refusal::UntrustedIssuer);
}

#[test]
fn expired() {
    let scene = Scene::new();
    let leaf = Leaf { expired: true, ..Leaf::of(3) };
    scene.refuses(scene.impostor(&leaf), Refusal::Expired);
}

#[test]
fn right_authority_but_not_a_peer() {
    let scene = Scene::new();
    let stranger = config(4, "127.0.0.1:0", scene.authority.identity(4));
    scene.refuses(stranger, Refusal::UnknownPeer);
}

#[test]
fn a_node_dialled_is_another_one() {
    let scene = Scene::new();
    // Node 2 answers at what is configured as node 3's address.
    scene
        .target
        .transport
        .set_peers(&[at(2, scene.healthy.address()), at(3, scene.healthy.address())]);
    wait_until("refused", || scene.target.refused(Refusal::WrongNode) > 0);
    scene.assert_undisturbed();
}

#[test]
fn wrong_cluster() {
    let scene = Scene::new();
    let leaf = Leaf { uris: vec!["polyraft://other/node/3".to_owned()], ..Leaf::of(3) };
    let identity = scene.authority.identity_trusting(&leaf, &scene.authority.root_pem(), "");
    let listen = "127.0.0.1:0".parse().unwrap();
    let impostor = QuicNode::with_config(
        QuicConfig::new(id(3), ClusterName::new("other").unwrap(), listen, identity),
        scene.runtime.handle(),
    );
    // Each side refuses the other: it does not answer the target's dial, nor is its own answered.
    impostor.transport.set_peers(&[at(1, scene.target.address())]);
    wait_until("it refuses us", || impostor.refused(Refusal::WrongCluster) > 0);
    scene.target.transport.set_peers(&[at(2, scene.healthy.address()), at(3, impostor.address())]);
    wait_until("we refuse it", || scene.target.refused(Refusal::WrongCluster) > 0);
    scene.assert_undisturbed();
}

#[test]
fn revoked() {
    let scene = Scene::new();
    let (roots, crl) = (scene.authority.root_pem(), scene.authority.revoke(&[3]));
    let identity = scene.authority.identity_trusting(&Leaf::of(1), &roots, &crl);
    scene.target.transport.reload(identity).unwrap();
    wait_until("renewed", || scene.target.transport.link_status()[0].takeovers == 1);
    let revoked = QuicNode::start(&scene.authority, 3, scene.runtime.handle());
    revoked.transport.set_peers(&[at(1, scene.target.address())]);
    wait_until("refused", || scene.target.refused(Refusal::Revoked) > 0);
    assert!(scene.target.connected(2));
}

#[test]
fn a_name_missing_or_doubled_does_not_even_start() {
    let authority = Authority::default();
    let two = ["polyraft://test/node/1", "polyraft://test/node/2"].map(str::to_owned).to_vec();
    for uris in [vec![], two, vec!["https://test/node/1".to_owned()]] {
        let (chain, key) = authority.issue(&Leaf { uris, ..Leaf::of(1) });
        let roots = authority.root_pem();
        assert!(
            Identity::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes(), b"").is_err()
        );
    }
    let runtime = runtime();
    let other = config(2, "127.0.0.1:0", authority.identity(1));
    let started = QuicTransport::start(
        other,
        Arc::new(support::Recorder::default()),
        runtime.handle().clone(),
    );
    assert!(matches!(started.err(), Some(StartError::Identity(_))));
}

#[test]
fn oversized_frame() {
    Scene::new().refuses_bytes(Script::new(&[0x7f, 0, 0, 0]), Refusal::FrameTooLarge);
}

#[test]
fn truncated_frame() {
    let script = Script { finish: true, ..Script::new(&[0, 0, 0, 9, 1, 2]) };
    Scene::new().refuses_bytes(script, Refusal::FrameTruncated);
}

#[test]
fn ended_lane() {
    let script = Script { finish: true, ..Script::new(&[]) };
    Scene::new().refuses_bytes(script, Refusal::LaneClosed);
}

#[test]
fn dribbled_frame() {
    let mut bytes = vec![0, 1, 0, 0];
    bytes.resize(400, 7);
    let script = Script { pause: Duration::from_millis(10), ..Script::new(&bytes) };
    Scene::new().refuses_bytes(script, Refusal::FrameStalled);
}

#[test]
fn garbage_preambles() {
    let with = |preamble: [u8; 10]| {
        let mut preambles = Script::new(&[]).preambles;
        preambles[2] = preamble.to_vec();
        preambles
    };
    let unknown_lane = with([1, 9, 0, 0, 0, 0, 0, 0, 0, 9]);
    let same_lane = with([1, 1, 0, 0, 0, 0, 0, 0, 0, 9]);
    let other_version = with([2, 2, 0, 0, 0, 0, 0, 0, 0, 9]);
    let other_boot = with([1, 2, 0, 0, 0, 0, 0, 0, 0, 8]);
    for preambles in [unknown_lane, same_lane, other_version, other_boot] {
        let script = Script { preambles, ..Script::new(&[]) };
        Scene::new().refuses_bytes(script, Refusal::BadPreamble);
    }
}

#[test]
fn preambles_that_never_come() {
    let script = Script { preambles: vec![vec![1, 1, 0]], ..Script::new(&[]) };
    Scene::new().refuses_bytes(script, Refusal::HandshakeTimeout);
}

#[test]
fn the_highest_common_wire_version_is_spoken() {
    let (runtime, authority) = (runtime(), Authority::default());
    let [one, two, three] = [1, 2, 3].map(WireVersion::new);
    let start = |node, versions: &[WireVersion]| {
        let settings = config(node, "127.0.0.1:0", authority.identity(node));
        QuicNode::with_config(settings.wire_versions(versions), runtime.handle())
    };
    let (old, new) = (start(1, &[two, one]), start(2, &[three, two]));
    join((1, &old), (2, &new));
    assert_eq!(old.transport.wire_version(id(2)), Some(two));
    assert_eq!(new.transport.wire_version(id(1)), Some(two));

    let ancient = start(3, &[one]);
    ancient.transport.set_peers(&[at(2, new.address())]);
    new.transport.set_peers(&[at(1, old.address()), at(3, ancient.address())]);
    wait_until("refused", || {
        new.refused(Refusal::WrongAlpn) + ancient.refused(Refusal::WrongAlpn) > 0
    });
    assert!(!new.connected(3) && new.connected(1));
}
