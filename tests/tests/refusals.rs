//! Goal: a node that is not what it should be is refused, counted by reason in the status, and leaves
//! healthy links alone; a node whose configuration or data is wrong does not start (TR-6, ST-9, EM-5).
//! Method: nodes 1 and 2 serve a group; node 3 comes with wrong certificates, one fault at a time, and
//! at last with right ones.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft::certificates::{CertificateAuthority, NodeCertificate, Validity};
use polyraft::{
    ClusterConfig, GroupId, GroupSpec, LinkStatus, Node, NodeConfig, NodeId, NodeStatus, StartError,
};
use polyraft_tests::cluster::{Cluster, DEADLINE, Machines, Shape, insist, wait_until};
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
    // A dial that began before the other node listened takes up to the timeout of a handshake, 5 s, and
    // may then replace the connection that is there.
    const QUIET: Duration = Duration::from_secs(6);
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
    // One that dials learns a moment after its handshake that it is refused.
    wait_until(DEADLINE, "both to have refused it", || {
        node.status().peers.iter().all(|link| !link.connected)
    })
    .await;
    let heard = |link: &LinkStatus| link.traffic.frames_in;
    assert!(node.status().peers.iter().all(|link| heard(link) == 0), "{:?}", node.status().peers);
    let group = node.group("g1").expect("it is configured");
    assert_eq!(group.status().leader, None, "it follows or leads although nobody hears it");
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
        let refused = matches!(error, Some(StartError::Transport(_) | StartError::Certificates(_)));
        assert!(refused, "{error:?}");
    }
    cluster.group(1, 1).propose(command(1)).await.expect("nodes 1 and 2 are a quorum");
    assert_eq!(connects(&cluster), healthy);
    cluster.stop_all().await;
}

/// What nodes 1 and 2 remember of node 3's data.
fn records_of_3(cluster: &Cluster) -> [PathBuf; 2] {
    [1, 2].map(|node| cluster.data_dir(node).join("peers/3"))
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a new directory");
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has one").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("room");
        }
    }
}

/// Starts node 3 on the data it has, and lets it serve; both peers have seen this life when it stops.
async fn live_once(cluster: &mut Cluster, number: u64) {
    cluster.start_node(3).await;
    cluster.leader(1).await;
    insist(&cluster.group(3, 1), command(number)).await;
    wait_until(DEADLINE, "both peers to meet node 3", || {
        cluster.node(3).status().peers.iter().all(|link| link.connected)
    })
    .await;
    cluster.stop(3).await;
}

/// Goal: ST-9. A node that lost its data, or got an older copy of it, has forgotten votes and entries:
/// its peers refuse it, whatever its certificate says, until a person removes what they remember.
/// Method: exchange node 3's directory between stop and start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_data_is_refused_until_it_is_allowed() {
    let mut cluster = two_of_three().await;
    live_once(&mut cluster, 1).await;
    assert!(records_of_3(&cluster).iter().all(|record| record.exists()), "3 is remembered");
    let dir = cluster.data_dir(3);
    let (own, older) = (dir.with_extension("own"), dir.with_extension("older"));
    copy_dir(&dir, &older);
    live_once(&mut cluster, 2).await;

    std::fs::rename(&dir, &own).expect("the node has stopped");
    is_refused(&cluster, &["replaced_data"], 3).await;
    // The wiped directory is in its second life now, and no less foreign.
    is_refused(&cluster, &["replaced_data"], 4).await;
    std::fs::remove_dir_all(&dir).expect("the node has stopped");
    // In the life that its peers saw last, but not that process.
    std::fs::rename(&older, &dir).expect("nothing of it runs");
    is_refused(&cluster, &["older_data"], 5).await;
    std::fs::remove_dir_all(&dir).expect("the node has stopped");
    std::fs::rename(&own, &dir).expect("nothing of it runs");
    cluster.start_node(3).await;
    cluster.leader(1).await;
    insist(&cluster.group(3, 1), command(6)).await;

    cluster.stop_all().await;
    std::fs::remove_dir_all(&dir).expect("the node has stopped");
    records_of_3(&cluster).iter().for_each(|record| std::fs::remove_file(record).expect("there"));
    cluster.start_all().await;
    let rows = cluster.group(3, 1).read(Bytes::new()).await.expect("it was allowed to come back");
    assert_eq!(
        counts(&rows).iter().map(|(number, _)| *number).collect::<Vec<_>>(),
        (1..=6).collect::<Vec<_>>()
    );
    cluster.stop_all().await;
}

/// Goal: ST-9. A directory of another cluster's is refused with both names. Method: node 1's own, with
/// a configuration that says otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_data_is_refused() {
    let mut cluster = Cluster::prepare(Shape::new(1, 1), ledgers()).await;
    cluster.start_all().await;
    cluster.stop_all().await;
    let own = cluster.config(1);
    let address = own.listen();
    let other = ClusterConfig::builder("other").node(NodeId::new(1), address.to_string());
    let config = NodeConfig::builder()
        .cluster(other.group(GroupSpec::new(GroupId::new(1), "g1")))
        .node_id(NodeId::new(1))
        .data_dir(cluster.data_dir(1))
        .listen(address)
        .tls(own.tls().clone())
        .build()
        .expect("it is valid");
    let error = Node::start(config, |_| Box::new(Ledger::default())).await.err();
    let Some(StartError::Storage(refused)) = error else { panic!("{error:?}") };
    let text = refused.to_string();
    assert_eq!(text, r#"the directory belongs to cluster "test", not "other""#);
    cluster.start_all().await;
    cluster.group(1, 1).propose(command(1)).await.expect("its own cluster's data serves");
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
