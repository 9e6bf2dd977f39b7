//! Goal: a node that is not what it should be is refused, counted by reason in the status, and leaves
//! healthy links alone; a node whose configuration or data is wrong does not start (TR-6, ST-9, EM-5).
//! Method: nodes 1 and 2 serve a group; node 3 comes with wrong certificates, one fault at a time, and
//! at last with right ones.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft::certificates::{CertificateAuthority, NodeCertificate, Validity};
use polyraft::{NodeConfig, NodeId, NodeStatus, StartError};
use polyraft_tests::cluster::{Cluster, DEADLINE, Machines, Shape, wait_until};
use polyraft_tests::ledger::{Ledger, command, counts};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType, date_time_ymd};

fn ledgers() -> Machines {
    std::sync::Arc::new(|_, _| Box::new(Ledger::default()))
}

/// Makes `certificate` what node 3 shows.
fn show(certificates: &Path, certificate: &NodeCertificate) {
    std::fs::write(certificates.join("node-3.pem"), &certificate.chain_pem).expect("a directory");
    std::fs::write(certificates.join("node-3.key"), &certificate.key_pem).expect("a directory");
}

/// A certificate of the cluster's own authority for node 3, good in January 2020.
fn expired(certificates: &Path) -> NodeCertificate {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "polyraft test authority");
    let key = std::fs::read_to_string(certificates.join("ca.key")).expect("it was saved there");
    let key = KeyPair::from_pem(&key).expect("it was saved there");
    let issuer = Issuer::new(authority, key);
    let mut params = CertificateParams::default();
    let uri = "polyraft://test/node/3".try_into().expect("it is ASCII");
    params.subject_alt_names = vec![SanType::URI(uri)];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    let key = KeyPair::generate().expect("randomness");
    let chain = params.signed_by(&key, &issuer).expect("the authority's key signs");
    let (chain_pem, key_pem) = (chain.pem(), key.serialize_pem());
    NodeCertificate { node: NodeId::new(3), chain_pem, key_pem }
}

/// Refusals for one of `reasons`, on nodes 1 and 2 together.
fn refused(cluster: &Cluster, reasons: &[&str]) -> u64 {
    let of = |status: NodeStatus| {
        let counted = status.handshake_failures.into_iter();
        counted.filter(|(reason, _)| reasons.contains(reason)).map(|(_, n)| n).sum::<u64>()
    };
    [1, 2].map(|node| of(cluster.node(node).status())).iter().sum()
}

/// Connections made so far between nodes 1 and 2.
fn connects(cluster: &Cluster) -> u64 {
    let peers = cluster.node(1).status().peers;
    peers.iter().find(|link| link.peer == NodeId::new(2)).expect("a peer").connects
}

/// Nodes 1 and 2, with a leader, on the one connection that is left when both have dialled.
async fn two_of_three() -> Cluster {
    const QUIET: Duration = Duration::from_secs(1);
    let mut cluster = Cluster::prepare(Shape::new(3, 1), ledgers()).await;
    cluster.start_node(1).await;
    cluster.start_node(2).await;
    cluster.leader(1).await;
    let (mut seen, mut since) = (connects(&cluster), Instant::now());
    wait_until(DEADLINE, "one connection that stays", || {
        if connects(&cluster) != seen {
            (seen, since) = (connects(&cluster), Instant::now());
        }
        since.elapsed() > QUIET
    })
    .await;
    cluster
}

/// Starts node 3 with what it shows, and waits until its peers have refused it for `reason`.
async fn is_refused(cluster: &Cluster, reasons: &[&str], number: u64) {
    let (before, healthy) = (refused(cluster, reasons), connects(cluster));
    let node = cluster.try_start_node(3).await.expect("it starts; it is its peers who refuse it");
    wait_until(DEADLINE, reasons[0], || refused(cluster, reasons) > before).await;
    assert!(node.status().peers.iter().all(|link| !link.connected), "{:?}", node.status().peers);
    let answer = cluster.group(1, 1).propose(command(number)).await;
    assert!(answer.is_ok(), "nodes 1 and 2 are a quorum: {answer:?}");
    assert_eq!(connects(cluster), healthy, "the healthy link was disturbed by {reasons:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impostors_are_refused_and_counted() {
    let mut cluster = two_of_three().await;
    let certificates = cluster.data_dir(1).with_file_name("certs");
    let authority = CertificateAuthority::load(&certificates).expect("it was saved there");
    let good = authority.issue(NodeId::new(3)).expect("a good id");

    let same_name = CertificateAuthority::create("test", Validity::default()).expect("a good name");
    show(&certificates, &same_name.issue(NodeId::new(3)).expect("a good id"));
    is_refused(&cluster, &["untrusted_issuer", "bad_certificate"], 1).await;

    show(&certificates, &expired(&certificates));
    is_refused(&cluster, &["expired"], 2).await;

    show(&certificates, &good);
    cluster.start_node(3).await;
    cluster.leader(1).await;
    let answer = cluster.group(3, 1).propose(command(3)).await;
    assert!(answer.is_ok(), "the right certificate is welcome: {answer:?}");
    let rows = cluster.group(3, 1).read(Bytes::new()).await.expect("a healthy group");
    assert!(counts(&rows).iter().all(|(_, count)| *count == 1));
    cluster.stop_all().await;
}

/// Goal: a certificate of another node or cluster is of no use, not even to its holder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_another_node_or_cluster_are_refused() {
    let mut cluster = two_of_three().await;
    let healthy = connects(&cluster);
    let certificates = cluster.data_dir(1).with_file_name("certs");
    let authority = CertificateAuthority::load(&certificates).expect("it was saved there");
    let other = CertificateAuthority::create("other", Validity::default()).expect("a good name");
    for wrong in [authority.issue(NodeId::new(4)), other.issue(NodeId::new(3))] {
        show(&certificates, &wrong.expect("a good id"));
        let error = cluster.try_start_node(3).await.err();
        println!("{error:?}");
        let refused = matches!(error, Some(StartError::Transport(_) | StartError::Identity(_)));
        assert!(refused, "{error:?}");
    }
    cluster.group(1, 1).propose(command(1)).await.expect("nodes 1 and 2 are a quorum");
    assert_eq!(connects(&cluster), healthy);
    cluster.stop_all().await;
}

/// Goal: a misspelt key is an error that names it, not a default.
#[test]
fn an_unknown_key_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("node.toml");
    let example = include_str!("../../deploy/node.example.toml");
    std::fs::write(&file, example).expect("an empty directory");
    NodeConfig::from_toml_file(&file).expect("the example is valid");
    std::fs::write(&file, format!("data_dri = \"/tmp\"\n{example}")).expect("a directory");
    let errors = NodeConfig::from_toml_file(&file).expect_err("a misspelt key").to_string();
    assert!(errors.contains("data_dri: unknown key"), "{errors}");
}
