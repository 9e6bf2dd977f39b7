//! Goal: every series family that a node exports moves for its cause, is described, and is named as
//! one convention says (OB-1).
//! Method: three real nodes; their figures are rendered before, between and after
//! faults that each have a family or more to move: elections, killed actors, injected faults, cut
//! links, stalled and full disks, floods, frames and messages that no correct peer sends, foreign
//! certificates, damaged data, a machine that fails. A family that never moved fails by name, as does one
//! that the catalogue lacks, and one whose series grow with the groups.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metrics_exporter_prometheus::PrometheusHandle;
use polyraft::certificates::{CertificateAuthority, Validity};
use polyraft::chaos::Fault;
use polyraft::{
    GroupId, GroupSpec, LimitsConfig, NodeId, ProposeError, Response, StorageConfig, TlsPaths,
};
use polyraft_actors::guard::{Kill, KillMode};
use polyraft_actors::mailbox::{ActorKind, capacity};
use polyraft_actors::metric_catalogue::{HANDSHAKE_FAILURES, METRICS, MetricKind};
use polyraft_actors::spawner::Place;
use polyraft_core::ids::{ReplicaId, Term};
use polyraft_core::message::{Body, Envelope, RaftKind, RaftMessage};
use polyraft_core::ports::Lane;
use polyraft_core::wire;
use polyraft_server::access::Access;
use polyraft_server::admin::Admin;
use polyraft_server::admin_client;
use polyraft_server::etcd::{self, Keyspaces};
use polyraft_server::event_log::EventLog;
use polyraft_server::recorder::install_metrics;
use polyraft_server::summary::SummarySource;
use polyraft_tests::cluster::{Cluster, DEADLINE, Shape, insist, wait_until};
use polyraft_tests::ledger::block_for;
use polyraft_tests::machines::{add, reject, total, weight};
use polyraft_tests::store_faults::{Step, StoreFault};
use polyraft_transport::Refusal;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::codegen::{Service, http};

/// One scrape: by family, its type and the values of its samples.
#[derive(Debug, Default)]
struct Scrape {
    types: BTreeMap<String, String>,
    described: BTreeSet<String>,
    samples: BTreeMap<String, BTreeMap<String, String>>,
}

impl Scrape {
    fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", family, help] => {
                    assert!(!help.is_empty(), "{family}: empty help");
                    scrape.described.insert(family.to_owned());
                }
                ["#", "TYPE", family, kind] => {
                    scrape.types.insert(family.to_owned(), kind.to_owned());
                }
                _ => {
                    let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                    let family = scrape.family_of(series);
                    scrape.samples.entry(family).or_default().insert(series.into(), value.into());
                }
            }
        }
        scrape
    }

    /// The family that a series belongs to: its type was told just before.
    fn family_of(&self, series: &str) -> String {
        let name = series.split('{').next().expect("a split has a first part");
        let base = ["_sum", "_count", "_bucket"].iter().find_map(|end| name.strip_suffix(end));
        let base = base.filter(|base| self.types.contains_key(*base)).unwrap_or(name);
        assert!(self.types.contains_key(base), "{series}: no TYPE");
        base.to_owned()
    }

    /// One figure that tells whether a counter or histogram moved: the sum of its totals.
    fn total(&self, family: &str) -> f64 {
        let Some(samples) = self.samples.get(family) else { return 0.0 };
        let is_total = |series: &&String| {
            let name = series.split('{').next().expect("a split has a first part");
            name == family || name == format!("{family}_count")
        };
        let totals = samples.iter().filter(|(series, _)| is_total(series));
        totals.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
    }
}

/// The metrics of this process, and every family that was seen to move.
struct Scraper {
    metrics: PrometheusHandle,
    last: BTreeMap<&'static str, f64>,
    moved: BTreeSet<&'static str>,
}

impl Scraper {
    /// Before the first node starts: what is recorded without a recorder is lost.
    fn install() -> Self {
        let metrics = install_metrics().expect("one recorder per process");
        Self { metrics, last: BTreeMap::new(), moved: BTreeSet::new() }
    }

    /// As a scrape of the admin interface of node 1 sees it.
    async fn scrape_over_http(&self, cluster: &Cluster) -> Scrape {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (node, metrics) = (cluster.node(1).clone(), self.metrics.clone());
        let (access, summary) = (Access::default(), SummarySource::new(EventLog::new(1)));
        let admin = Admin { node, metrics, groups_expected: 0, access, summary };
        tokio::spawn(admin.serve(listener, std::future::pending()));
        let body = admin_client::get(&address, "/metrics").await.expect("it serves");
        Scrape::parse(std::str::from_utf8(&body).expect("the format is text"))
    }

    /// Notes what has moved since the look before.
    fn look(&mut self) -> Scrape {
        let scrape = Scrape::parse(&self.metrics.render());
        for metric in METRICS {
            let now = scrape.total(metric.name);
            if self.last.insert(metric.name, now).is_some_and(|before| before != now) {
                self.moved.insert(metric.name);
            }
        }
        scrape
    }

    /// Waits until every one of `families` has moved, and says which did not.
    async fn expect(&mut self, cause: &str, families: &[&str]) {
        self.expect_of(cause, || (), families).await;
    }

    /// The same, of what `act` does, again before each look: a message may be lost.
    async fn expect_of(&mut self, cause: &str, mut act: impl FnMut(), families: &[&str]) {
        let until = tokio::time::Instant::now() + DEADLINE;
        loop {
            act();
            self.look();
            let still: Vec<_> = families.iter().filter(|f| !self.moved.contains(**f)).collect();
            if still.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "{cause} did not move {still:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Proposals and reads on every node, so that some are forwarded; a rejection is an outcome too.
async fn work(cluster: &Cluster) {
    for group in cluster.everywhere(1) {
        for number in 0..20_u32 {
            insist(&group, add(number.to_be_bytes())).await;
        }
        group.read(total()).await.expect("a leader confirms it");
        group.read_stale(total()).await.expect("the machine answers");
    }
    let rejected = cluster.group(1, 1).propose(reject()).await.expect("a rejection is an outcome");
    assert!(matches!(rejected.response, Response::Rejected(_)), "{rejected:?}");
}

/// Requests to the etcd API of a node whose groups are no keyspaces: each is refused, and counted.
async fn ask_as_an_etcd_client(cluster: &Cluster) {
    let mut routes = etcd::routes(Keyspaces::new(cluster.node(1).clone(), BTreeMap::new()), None);
    for method in ["Range", "Put", "Nothing"] {
        let request = http::Request::post(format!("/etcdserverpb.KV/{method}"))
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::empty())
            .expect("a good request");
        let answer = routes.call(request).await.expect("it answers");
        assert!(answer.headers().contains_key("grpc-status"), "{method}: {answer:?}");
    }
}

/// Kills an actor whose panic is counted, and the supervisor, whose end is counted by itself.
async fn kill_actors(cluster: &Cluster) {
    let parts = cluster.node(2).parts();
    let kill = Kill { mode: KillMode::Panic };
    let cell = parts.directory.group(GroupId::new(1)).expect("it is on every node");
    let addrs = cell.addrs().expect("it runs");
    addrs.applier.try_send(kill).expect("an empty mailbox");
    wait_until(DEADLINE, "the applier's end", || !addrs.applier.connected()).await;
}

/// Injects a fault into a node; the guard of its end.
fn inject(cluster: &Cluster, node: u64, fault: &str) -> impl FnOnce() {
    let chaos = cluster.node(node).chaos().expect("the shape has it").clone();
    let fault = Fault::from_json(fault.as_bytes()).expect("a good fault");
    let id = chaos.inject(fault).expect("it keeps every rule");
    move || assert!(chaos.end(id).expect("it was injected"), "it was in force")
}

/// The disk of one node stands still, while there is something to write.
async fn stall_a_disk(cluster: &Cluster, scraper: &mut Scraper) {
    let end = inject(cluster, 1, r#"{"kind":"disk","store":"log","stall":true}"#);
    scraper.expect("an injected fault", &OF_CHAOS).await;
    let writes: JoinSet<_> = [1, 2]
        .map(|group| cluster.group(2, group))
        .into_iter()
        .map(|group| async move { insist(&group, add("during the stall")).await })
        .collect();
    scraper.expect("a stalled disk", &["polyraft_log_commit_age_seconds"]).await;
    end();
    writes.join_all().await;
    cluster.wait_for_leaders().await;
}

/// A machine holds every command, so that what is committed waits.
async fn hold_a_machine(cluster: &Cluster, scraper: &mut Scraper) {
    let leader = cluster.leader(1).await;
    cluster.bench(leader, 1).close_gate();
    let mut calls = JoinSet::new();
    for number in 0..50_u32 {
        let group = cluster.group(leader, 1);
        calls.spawn(async move { group.propose(add(number.to_be_bytes())).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let lags = ["polyraft_apply_lag_entries", "polyraft_apply_lag_max_entries"];
    scraper.expect("a slow machine", &lags).await;
    cluster.bench(leader, 1).open_gate();
    calls.join_all().await;
}

/// Node 3 comes with certificates of an authority that nobody knows, until it is refused.
async fn come_with_a_foreign_certificate(cluster: &Cluster, scraper: &mut Scraper) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let foreign = CertificateAuthority::create("test", Validity::default()).expect("a good name");
    foreign.save(dir.path()).expect("an empty directory");
    foreign.issue(NodeId::new(3)).expect("a good id").save(dir.path()).expect("written once");
    let (ours, theirs) = (cluster.tls(3), TlsPaths::in_dir(dir.path(), NodeId::new(3)));
    let files = [(ours.cert, theirs.cert), (ours.key, theirs.key), (ours.ca, theirs.ca)];
    let kept = files.clone().map(|(ours, _)| std::fs::read(ours).expect("it is there"));
    for (ours, theirs) in &files {
        std::fs::copy(theirs, ours).expect("it can be copied");
    }
    cluster.node(3).reload_certificates().expect("they are well-formed");
    scraper.expect("a foreign certificate", &OF_CERTIFICATES).await;
    for ((ours, _), kept) in files.iter().zip(kept) {
        std::fs::write(ours, kept).expect("it can be written");
    }
    cluster.node(3).reload_certificates().expect("they were good before");
    cluster.wait_for_leaders().await;
}

/// A frame that no peer sends, and a message from a replica that lives elsewhere, if there is a link now.
fn send_nonsense(cluster: &Cluster) {
    let parts = cluster.node(1).parts();
    let to_node = NodeId::new(2);
    let garbage = Bytes::from_static(b"\xff\xff\xff\xff");
    let _ = parts.transport.try_send(to_node, Lane::Control, garbage);
    // Replica 103 lives on node 3.
    let envelope = Envelope {
        group: GroupId::new(1),
        from: ReplicaId::new(103),
        to: ReplicaId::new(102),
        to_node,
        body: Body::Raft(RaftMessage::new(RaftKind::Heartbeat, Term::new(1))),
    };
    let mut frame = BytesMut::new();
    wire::append_envelope(&mut frame, envelope);
    let _ = parts.transport.try_send(to_node, Lane::Control, frame.freeze());
}

/// More proposals than a mailbox holds, while the thread that should empty it stands still.
async fn flood(cluster: &Cluster) {
    const CALLS: usize = 2 * capacity(ActorKind::Batcher);
    const STALL: Duration = Duration::from_secs(1);
    let leader = cluster.leader(1).await;
    let group = cluster.group(leader, 1);
    let place = Place::Shard(group.id());
    let thread = cluster.node(leader).parts().spawner.arbiter(place);
    assert!(thread.spawn_fn(|| block_for(STALL)), "the thread runs");
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let group = group.clone();
        calls.spawn(async move { group.propose(add("flood")).await });
    }
    let outcomes = calls.join_all().await;
    let refused = outcomes.iter().filter(|outcome| {
        matches!(outcome, Err(ProposeError::Overloaded { what: "the batcher's mailbox", .. }))
    });
    assert!(refused.count() > 0, "the mailbox took all of {CALLS} calls");
}

/// Cuts the leader of group 1 off, until the others have another; what is asked of it waits.
async fn cut_the_leader_off(cluster: &Cluster, scraper: &mut Scraper) {
    let leader = cluster.leader(1).await;
    let others: Vec<_> = cluster.running().into_iter().filter(|node| *node != leader).collect();
    cluster.isolate(leader, true);
    let (mut calls, mut reads) = (JoinSet::new(), JoinSet::new());
    for number in 0..5_u32 {
        let group = cluster.group(leader, 1);
        calls.spawn(async move { group.propose(add(number.to_be_bytes())).await });
        let group = cluster.group(leader, 1);
        reads.spawn(async move { group.read(total()).await });
    }
    let waiting = ["polyraft_reads_waiting", "polyraft_uncommitted_entries"];
    scraper.expect("a leader that is heard by nobody", &waiting).await;
    cluster.leader_among(1, &others).await;
    assert!(others.iter().any(|other| cluster.swallowed(leader, *other) > 0), "nothing was cut");
    insist(&cluster.group(others[0], 1), add("without it")).await;
    let group = cluster.group(leader, 1);
    calls.spawn(async move { group.propose(add("nobody leads")).await });
    scraper.expect("a leader cut off", &OF_A_CUT).await;
    cluster.isolate(leader, false);
    calls.join_all().await;
    reads.join_all().await;
    cluster.wait_for_leaders().await;
}

/// More is to be forwarded over one link than it takes while it is cut.
async fn fill_a_link(cluster: &Cluster, scraper: &mut Scraper) {
    let leader = cluster.leader(1).await;
    let follower = cluster.follower(1).await;
    cluster.cut(leader, follower, true);
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let group = cluster.group(follower, 1);
        calls.spawn(async move { group.propose(weight(64 << 10)).await });
    }
    scraper.expect("a link that is cut", &["polyraft_link_queue_bytes"]).await;
    cluster.cut(leader, follower, false);
    calls.join_all().await;
    cluster.wait_for_leaders().await;
}

/// Both workers of this runtime are held, and only then tasks are given to it: before, a worker might
/// have taken them along to a queue of its own.
async fn hold_the_runtime(scraper: &mut Scraper) {
    let mut tasks = JoinSet::new();
    let (held, is_held) = std::sync::mpsc::channel();
    for _ in 0..2 {
        let held = held.clone();
        tasks.spawn(async move {
            held.send(()).expect("it is waited for");
            block_for(Duration::from_secs(2));
        });
    }
    (0..2).for_each(|_| is_held.recv().expect("both are spawned"));
    for _ in 0..100 {
        tasks.spawn(async {});
    }
    // Not `expect`: it sleeps, and this runtime's timers stand still too.
    while !scraper.moved.contains("polyraft_runtime_queued_tasks") && !tasks.is_empty() {
        scraper.look();
        block_for(Duration::from_millis(20));
        while tasks.try_join_next().is_some() {}
    }
    tasks.join_all().await;
}

/// A node alone whose log finds no room.
async fn fill_a_log(scraper: &mut Scraper) {
    let limits =
        LimitsConfig { proposal_deadline: Duration::from_millis(500), ..LimitsConfig::default() };
    let cluster = Cluster::start(Shape::new(1, 1).limits(limits).with_chaos()).await;
    let _end = inject(&cluster, 1, r#"{"kind":"disk","store":"log","full":true}"#);
    let refused = cluster.group(1, 1).propose(add("no room for it")).await;
    assert!(refused.is_err(), "acknowledged on a full disk");
    scraper.expect("a full log", &["polyraft_log_full", "polyraft_log_queue_appends"]).await;
}

/// A node alone that compacts, meets damage, finds no room for state, and whose disk then fails.
async fn wear_a_node_out(scraper: &mut Scraper) {
    let limits = LimitsConfig { catch_up_bytes: 1 << 10, ..LimitsConfig::default() };
    let shape = Shape::new(1, 2).storage(StorageConfig::tiny()).limits(limits).with_chaos();
    let cluster = Cluster::start(shape).await;
    let group = cluster.group(1, 1);
    let until = tokio::time::Instant::now() + DEADLINE;
    while !OF_COMPACTION.iter().all(|family| scraper.moved.contains(family)) {
        assert!(tokio::time::Instant::now() < until, "did not move {OF_COMPACTION:?}");
        insist(&group, weight(16 << 10)).await;
        scraper.look();
    }
    cluster.disk(1).arm(Step::Restore, StoreFault::Corrupt);
    let cell = cluster.node(1).parts().directory.group(GroupId::new(2)).expect("it is there");
    let addrs = cell.addrs().expect("it runs");
    addrs.applier.try_send(Kill { mode: KillMode::Stop }).expect("an empty mailbox");
    scraper.expect("damaged data", &["polyraft_checksum_failures_total"]).await;
    let end = inject(&cluster, 1, r#"{"kind":"disk","store":"state","full":true}"#);
    insist(&group, add("no room for it")).await;
    scraper.expect("a full disk of states", &["polyraft_state_full"]).await;
    end();
    let _end = inject(&cluster, 1, r#"{"kind":"disk","store":"both","error":"eio"}"#);
    drop(group.propose(add("the disk fails")).await);
    scraper.expect("a failed disk", &["polyraft_storage_failed"]).await;
}

/// Every family's cause, one fault after the other.
async fn disturb(cluster: &mut Cluster, scraper: &mut Scraper) {
    scraper.expect("a start", &OF_A_START).await;
    work(cluster).await;
    scraper.expect("work", &OF_WORK).await;
    ask_as_an_etcd_client(cluster).await;
    scraper.expect("requests", &OF_REQUESTS).await;
    kill_actors(cluster).await;
    scraper.expect("a killed actor", &OF_A_DEATH).await;
    cluster.wait_for_leaders().await;
    let refused = ["polyraft_link_refused_frames_total", "polyraft_peer_messages_refused_total"];
    scraper.expect_of("nonsense", || send_nonsense(cluster), &refused).await;
    // Its peers were never told of this group, and say so to whoever asks for their votes.
    let lone = GroupSpec::new(GroupId::new(9), "g9");
    cluster.node(1).create_group(lone).await.expect("a new name");
    scraper.expect("a group its peers lack", &["polyraft_link_unknown_group_total"]).await;
    stall_a_disk(cluster, scraper).await;
    hold_a_machine(cluster, scraper).await;
    flood(cluster).await;
    scraper.expect("a flood", &["polyraft_mailbox_dropped_total"]).await;
    cut_the_leader_off(cluster, scraper).await;
    fill_a_link(cluster, scraper).await;
    come_with_a_foreign_certificate(cluster, scraper).await;
    hold_the_runtime(scraper).await;
    cluster.bench(cluster.follower(2).await, 2).fail();
    insist(&cluster.leading(2).await, add("the last")).await;
    let faulted = ["polyraft_apply_faults_total", "polyraft_groups_faulted_total"];
    scraper.expect("a machine that fails", &faulted).await;
}

/// What a cluster moves that starts.
const OF_A_START: [&str; 30] = [
    "polyraft_awake_groups",
    "polyraft_build_info",
    "polyraft_certificate_expiry_timestamp_seconds",
    "polyraft_config_election_timeout_seconds",
    "polyraft_config_heartbeat_interval_seconds",
    "polyraft_election_duration_seconds",
    "polyraft_elections_started_total",
    "polyraft_elections_won_total",
    "polyraft_group_lives_total",
    "polyraft_groups",
    "polyraft_groups_by_health",
    "polyraft_journal_limit_bytes",
    "polyraft_leader_changes_total",
    "polyraft_leaderless_duration_seconds",
    "polyraft_link_connects_total",
    "polyraft_link_round_trip_seconds",
    "polyraft_link_up",
    "polyraft_mailbox_capacity_messages",
    "polyraft_process_max_fds",
    "polyraft_process_open_fds",
    "polyraft_process_resident_bytes",
    "polyraft_process_start_timestamp_seconds",
    "polyraft_process_threads",
    "polyraft_runtime_workers",
    "polyraft_storage_file_bytes",
    "polyraft_storage_map_bytes",
    "polyraft_storage_map_limit_bytes",
    "polyraft_storage_used_bytes",
    "polyraft_term_changes_total",
    "polyraft_term_max",
];

/// What plain work moves.
const OF_WORK: [&str; 39] = [
    "polyraft_applied_commands_total",
    "polyraft_applied_entries_total",
    "polyraft_apply_slice_duration_seconds",
    "polyraft_arbiter_stall_seconds",
    "polyraft_batch_bytes",
    "polyraft_batch_commands",
    "polyraft_batch_wait_seconds",
    "polyraft_batches_total",
    "polyraft_heartbeat_interval_seconds",
    "polyraft_heartbeat_sent_interval_seconds",
    "polyraft_journal_bytes",
    "polyraft_journal_collections_total",
    "polyraft_link_frame_bytes",
    "polyraft_link_frames_total",
    "polyraft_link_received_bytes_total",
    "polyraft_link_received_frames_total",
    "polyraft_link_sent_bytes_total",
    "polyraft_link_sent_frames_total",
    "polyraft_log_commit_appends",
    "polyraft_log_commit_bytes_total",
    "polyraft_log_commit_duration_seconds",
    "polyraft_log_commit_entries_total",
    "polyraft_log_sync_duration_seconds",
    "polyraft_mailbox_high_water_messages",
    "polyraft_process_cpu_seconds_total",
    "polyraft_proposal_duration_seconds",
    "polyraft_proposal_stage_duration_seconds",
    "polyraft_proposals_forwarded_total",
    "polyraft_proposals_total",
    "polyraft_read_duration_seconds",
    "polyraft_read_index_duration_seconds",
    "polyraft_read_index_rounds_total",
    "polyraft_reads_total",
    "polyraft_rejected_commands_total",
    "polyraft_runtime_alive_tasks",
    "polyraft_state_flush_bytes_total",
    "polyraft_state_flush_duration_seconds",
    "polyraft_state_flush_groups",
    "polyraft_tick_lateness_seconds",
];

const OF_REQUESTS: [&str; 2] = ["polyraft_request_duration_seconds", "polyraft_requests_total"];
const OF_CHAOS: [&str; 2] = ["polyraft_faults_injected_total", "polyraft_faults_in_force"];
const OF_A_DEATH: [&str; 3] =
    ["polyraft_actor_down_total", "polyraft_actor_panics_total", "polyraft_actor_restarts_total"];
const OF_A_CUT: [&str; 5] = [
    "polyraft_groups_without_leader",
    "polyraft_link_dropped_total",
    "polyraft_proposals_pending",
    "polyraft_propose_queue_commands",
    "polyraft_replication_lag_max_entries",
];
const OF_CERTIFICATES: [&str; 2] =
    ["polyraft_certificate_reloads_total", "polyraft_handshake_failures_total"];
const OF_COMPACTION: [&str; 2] =
    ["polyraft_compactions_total", "polyraft_journal_collected_bytes_total"];

/// Every family is exported as the catalogue describes it, and no other is.
fn check_exported(scrape: &Scrape) {
    let known: BTreeSet<_> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    let exported: BTreeSet<_> = scrape.samples.keys().cloned().collect();
    assert_eq!(exported, known, "exported on the left, in the catalogue on the right");
    assert_eq!(scrape.described, known, "described on the left, in the catalogue on the right");
    for metric in METRICS {
        let expected = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        assert_eq!(scrape.types[metric.name], expected, "{}", metric.name);
    }
}

/// Every series that a node exports, whatever its value.
fn series(scrape: &Scrape) -> BTreeSet<String> {
    scrape.samples.values().flat_map(BTreeMap::keys).cloned().collect()
}

/// A cluster of so many groups under some load: the series of all three nodes together.
async fn series_with(groups: u64, scraper: &mut Scraper) -> BTreeSet<String> {
    let mut cluster = Cluster::start(Shape::new(3, groups)).await;
    for group in 1..=groups {
        insist(&cluster.group(1 + group % 3, group), add("once")).await;
    }
    work(&cluster).await;
    let series = series(&scraper.look());
    cluster.stop_all().await;
    series
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_moves_for_its_cause_and_no_series_is_a_groups() {
    let mut scraper = Scraper::install();
    scraper.look();
    let mut cluster = Cluster::start(Shape::new(3, 2).with_proxies().with_chaos()).await;
    disturb(&mut cluster, &mut scraper).await;
    fill_a_log(&mut scraper).await;
    wear_a_node_out(&mut scraper).await;
    check_exported(&scraper.scrape_over_http(&cluster).await);
    let never: Vec<_> =
        METRICS.iter().map(|metric| metric.name).filter(|n| !scraper.moved.contains(n)).collect();
    assert!(never.is_empty(), "no cause in this test moved {never:?}");
    cluster.stop_all().await;
    // In this process all series of three nodes; a node has one peer less.
    let few = series_with(3, &mut scraper).await;
    let many = series_with(30, &mut scraper).await;
    assert_eq!(many.difference(&few).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(many.len() <= 3_000, "{} series", many.len());
    println!("{} series of three nodes", many.len());
}

/// Goal: what fails a handshake has a series from the start. Method: the transport's own list.
#[test]
fn handshake_failures_are_those_of_the_transport() {
    let reasons: Vec<_> = Refusal::ALL.iter().map(|why| why.label()).collect();
    assert_eq!(reasons, HANDSHAKE_FAILURES);
}

/// A check that cannot fail proves nothing.
#[test]
fn what_stands_still_or_has_no_type_is_noticed() {
    let text = "# HELP a_total What a is.\n# TYPE a_total counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\n\
                # TYPE b_seconds histogram\nb_seconds_bucket{le=\"0.5\"} 9\nb_seconds_sum 1.5\nb_seconds_count 4\n";
    let scrape = Scrape::parse(text);
    assert_eq!((scrape.total("a_total"), scrape.total("b_seconds")), (5.0, 4.0));
    assert_eq!(scrape.total("absent"), 0.0);
    assert_eq!(scrape.described.into_iter().collect::<Vec<_>>(), ["a_total"]);
    assert!(std::panic::catch_unwind(|| Scrape::parse("c_total 1\n")).is_err());
}
