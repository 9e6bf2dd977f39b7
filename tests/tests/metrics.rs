//! Goal: every series family that a node exports moves for its cause, is described, and is named as
//! one convention says (OB-1).
//! Method: three real nodes and the admin interface; `/metrics` is scraped before, between and after
//! faults that each have a family or more to move: elections, killed actors, injected faults, cut
//! links, floods, frames and messages that no correct peer sends, a machine that fails, a full log. A
//! family that never moved fails by name, as does one that the catalogue lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use metrics_exporter_prometheus::PrometheusHandle;
use polyraft::chaos::Fault;
use polyraft::{
    GroupHandle, GroupId, GroupSpec, LimitsConfig, NodeId, ProposeError, Response, StorageConfig,
};
use polyraft_actors::guard::{Kill, KillMode};
use polyraft_actors::mailbox::{ActorKind, capacity};
use polyraft_actors::metric_catalogue::{METRICS, MetricKind};
use polyraft_actors::spawner::Place;
use polyraft_core::ids::{ReplicaId, Term};
use polyraft_core::message::{Body, Envelope, RaftKind, RaftMessage};
use polyraft_core::ports::Lane;
use polyraft_core::wire;
use polyraft_server::admin::Admin;
use polyraft_server::admin_client;
use polyraft_server::instance::install_metrics;
use polyraft_tests::cluster::{Cluster, DEADLINE, Shape, insist, wait_until};
use polyraft_tests::ledger::block_for;
use polyraft_tests::machines::{add, reject, weight};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

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

/// The admin interface of one node, and every family that was seen to move on it.
struct Scraper {
    metrics: PrometheusHandle,
    address: String,
    last: BTreeMap<&'static str, f64>,
    moved: BTreeSet<&'static str>,
}

impl Scraper {
    /// Before the first node starts: what is recorded without a recorder is lost.
    fn install() -> Self {
        let metrics = install_metrics().expect("one recorder per process");
        Self { metrics, address: String::new(), last: BTreeMap::new(), moved: BTreeSet::new() }
    }

    async fn serve(&mut self, cluster: &Cluster) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        self.address = listener.local_addr().expect("it is bound").to_string();
        let (node, metrics) = (cluster.node(1).clone(), self.metrics.clone());
        let admin = Admin { node, metrics, groups_expected: 0, chaos_token: None };
        tokio::spawn(admin.serve(listener, std::future::pending()));
    }

    async fn scrape(&self) -> Scrape {
        let body = admin_client::get(&self.address, "/metrics").await.expect("it serves");
        Scrape::parse(std::str::from_utf8(&body).expect("the format is text"))
    }

    /// Scrapes and notes what has moved since the scrape before.
    async fn look(&mut self) -> Scrape {
        let scrape = self.scrape().await;
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
        let until = tokio::time::Instant::now() + DEADLINE;
        loop {
            self.look().await;
            let still: Vec<_> = families.iter().filter(|f| !self.moved.contains(**f)).collect();
            if still.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "{cause} did not move {still:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Proposals of every kind of outcome; a rejected one is one too.
async fn work(group: &GroupHandle) {
    for number in 0..20_u32 {
        insist(group, add(number.to_be_bytes())).await;
    }
    let rejected = group.propose(reject()).await.expect("a rejection is an outcome");
    assert!(matches!(rejected.response, Response::Rejected(_)), "{rejected:?}");
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

/// A fault that disturbs little, until it is seen.
async fn inject_a_fault(cluster: &Cluster, scraper: &mut Scraper) {
    let chaos = cluster.node(1).chaos().expect("the shape has it");
    let fault = Fault::from_json(br#"{"kind":"clock","step":"+1s"}"#).expect("a good fault");
    let id = chaos.inject(fault).expect("it keeps every rule");
    let of_chaos = ["polyraft_faults_injected_total", "polyraft_faults_in_force"];
    scraper.expect("an injected fault", &of_chaos).await;
    assert!(chaos.end(id).expect("it was injected"), "it was in force");
}

/// A frame that no peer sends, and a message from a replica that lives elsewhere.
fn send_nonsense(cluster: &Cluster) {
    let parts = cluster.node(1).parts();
    let to_node = NodeId::new(2);
    let garbage = Bytes::from_static(b"\xff\xff\xff\xff");
    parts.transport.try_send(to_node, Lane::Control, garbage).expect("a connected peer");
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
    parts.transport.try_send(to_node, Lane::Control, frame.freeze()).expect("a connected peer");
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

/// Cuts the leader of group 1 off, until the others have another.
async fn cut_the_leader_off(cluster: &Cluster) {
    let leader = cluster.leader(1).await;
    let others: Vec<_> = cluster.running().into_iter().filter(|node| *node != leader).collect();
    cluster.isolate(leader, true);
    cluster.leader_among(1, &others).await;
    assert!(others.iter().any(|other| cluster.swallowed(leader, *other) > 0), "nothing was cut");
    cluster.isolate(leader, false);
    cluster.wait_for_leaders().await;
}

/// A node alone whose log's map takes little: proposals go on until it is full.
async fn fill_a_log(scraper: &mut Scraper) {
    let storage = StorageConfig { log_map_bytes: 2 << 20, ..StorageConfig::tiny() };
    let limits = LimitsConfig {
        catch_up_bytes: 1 << 10,
        proposal_deadline: Duration::from_millis(500),
        ..LimitsConfig::default()
    };
    let cluster = Cluster::start(Shape::new(1, 1).storage(storage).limits(limits)).await;
    let group = cluster.group(1, 1);
    let mut refused = false;
    for _ in 0..200 {
        refused |= group.propose(weight(64 << 10)).await.is_err();
        if refused {
            break;
        }
    }
    assert!(refused, "12 MiB in a map of 2 MiB");
    scraper.expect("a full log", &["polyraft_log_full", "polyraft_log_queue_appends"]).await;
}

/// Every family's cause, one fault after the other.
async fn disturb(cluster: &mut Cluster, scraper: &mut Scraper) {
    work(&cluster.group(1, 1)).await;
    scraper.expect("work", &OF_WORK).await;
    kill_actors(cluster).await;
    let lives =
        ["polyraft_actor_down_total", "polyraft_actor_panics_total", "polyraft_group_lives_total"];
    scraper.expect("a killed actor", &lives).await;
    cluster.wait_for_leaders().await;
    send_nonsense(cluster);
    let refused = ["polyraft_link_refused_frames_total", "polyraft_peer_messages_refused_total"];
    scraper.expect("nonsense", &refused).await;
    // Its peers were never told of this group, and say so to whoever asks for their votes.
    let lone = GroupSpec::new(GroupId::new(9), "g9");
    cluster.node(1).create_group(lone).await.expect("a new name");
    let lacking = ["polyraft_link_unknown_group_total", "polyraft_awake_groups"];
    scraper.expect("a group its peers lack", &lacking).await;
    inject_a_fault(cluster, scraper).await;
    flood(cluster).await;
    scraper.expect("a flood", &["polyraft_mailbox_dropped_total"]).await;
    cut_the_leader_off(cluster).await;
    let elected = ["polyraft_elections_won_total", "polyraft_leader_changes_total"];
    scraper.expect("a leader cut off", &elected).await;
    scraper.expect("a link that is down", &["polyraft_link_dropped_total"]).await;
    cluster.bench(cluster.follower(2).await, 2).fail();
    insist(&cluster.leading(2).await, add("the last")).await;
    let faulted = ["polyraft_apply_faults_total", "polyraft_groups_faulted_total"];
    scraper.expect("a machine that fails", &faulted).await;
}

/// What plain work moves.
const OF_WORK: [&str; 18] = [
    "polyraft_applied_commands_total",
    "polyraft_applied_entries_total",
    "polyraft_apply_slice_duration_seconds",
    "polyraft_arbiter_stall_seconds",
    "polyraft_batch_commands",
    "polyraft_batch_wait_seconds",
    "polyraft_batches_total",
    "polyraft_heartbeat_interval_seconds",
    "polyraft_link_frame_bytes",
    "polyraft_link_frames_total",
    "polyraft_log_commit_appends",
    "polyraft_log_commit_bytes_total",
    "polyraft_log_commit_duration_seconds",
    "polyraft_log_commit_entries_total",
    "polyraft_rejected_commands_total",
    "polyraft_state_flush_duration_seconds",
    "polyraft_state_flush_groups",
    "polyraft_tick_lateness_seconds",
];

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_moves_for_its_cause() {
    let mut scraper = Scraper::install();
    let mut cluster = Cluster::start(Shape::new(3, 2).with_proxies().with_chaos()).await;
    scraper.serve(&cluster).await;
    scraper.look().await;
    disturb(&mut cluster, &mut scraper).await;
    fill_a_log(&mut scraper).await;
    check_exported(&scraper.scrape().await);
    let never: Vec<_> =
        METRICS.iter().map(|metric| metric.name).filter(|n| !scraper.moved.contains(n)).collect();
    assert!(never.is_empty(), "no cause in this test moved {never:?}");
    cluster.stop_all().await;
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
