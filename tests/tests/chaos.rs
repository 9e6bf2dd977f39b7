//! Goal: every fault that the product can inject takes effect on a data group, says so in its counters,
//! and leaves nothing behind once it is ended (CH-1, CH-2, CH-3, CH-4); nobody without the token can
//! inject one, nor anybody where chaos is not enabled (CH-7).
//! Method: three real nodes whose groups are ledgers, which notice what is applied twice or out of order
//! and time that falls; one fault after the other, written as JSON; the admin interface over HTTP.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use polyraft::chaos::{ActorKind, ChaosError, Fault, FaultId, FaultRecord};
use polyraft::{GroupHandle, Health, ProposeError, Role};
use polyraft_server::access::{Access, AdminAccessConfig};
use polyraft_server::access_token::AccessToken;
use polyraft_server::admin::Admin;
use polyraft_server::event_log::EventLog;
use polyraft_server::summary::SummarySource;
use polyraft_tests::actor_kill::is_whole;
use polyraft_tests::cluster::{Cluster, DEADLINE, Shape, insist, stale_number, wait_until};
use polyraft_tests::machines::{add, total};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// One fault on one node.
struct Injected<'a> {
    cluster: &'a Cluster,
    node: u64,
    id: FaultId,
}

impl<'a> Injected<'a> {
    fn new(cluster: &'a Cluster, node: u64, json: &str) -> Self {
        let fault = Fault::from_json(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e}"));
        let chaos = cluster.node(node).chaos().expect("the shape has chaos");
        let id = chaos.inject(fault).unwrap_or_else(|error| panic!("{json}: {error}"));
        Self { cluster, node, id }
    }

    /// Retried while the actor is between two lives.
    async fn insist(cluster: &'a Cluster, node: u64, json: &str) -> Self {
        let fault = Fault::from_json(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e}"));
        let chaos = cluster.node(node).chaos().expect("the shape has chaos");
        let mut id = None;
        wait_until(DEADLINE, json, || {
            id = chaos.inject(fault.clone()).ok();
            id.is_some()
        })
        .await;
        Self { cluster, node, id: id.expect("it was just injected") }
    }

    fn record(&self) -> FaultRecord {
        let chaos = self.cluster.node(self.node).chaos().expect("the shape has chaos");
        let found = chaos.faults().into_iter().find(|record| record.id == self.id);
        found.expect("it is not forgotten")
    }

    fn effect(&self, name: &str) -> i64 {
        self.record().effects[name]
    }

    /// Waits until the fault has proved itself.
    async fn shows(&self, name: &str, at_least: i64) {
        let what = format!("{:?} to show {name} >= {at_least}", self.record().fault);
        wait_until(DEADLINE, &what, || self.effect(name) >= at_least).await;
    }

    /// Ends it; it can still be asked what it did.
    fn end(self) -> Self {
        let chaos = self.cluster.node(self.node).chaos().expect("the shape has chaos");
        assert!(chaos.end(self.id).expect("it is known"), "it was in force");
        assert!(self.record().ended_ms.is_some(), "it has ended");
        self
    }
}

fn others(cluster: &Cluster, node: u64) -> Vec<u64> {
    cluster.running().into_iter().filter(|other| *other != node).collect()
}

/// The same link fault to both peers of a node.
fn on_links<'a>(cluster: &'a Cluster, node: u64, fault: &str) -> Vec<Injected<'a>> {
    let json = |peer| format!(r#"{{"kind":"link","peer":{peer},"direction":"both",{fault}}}"#);
    others(cluster, node).iter().map(|p| Injected::new(cluster, node, &json(p))).collect()
}

/// Writes with several callers at a time, so many each.
async fn write(cluster: &Cluster, node: u64, each: u32) {
    let mut callers = JoinSet::new();
    for caller in 0..8_u32 {
        let group = cluster.group(node, 1);
        callers.spawn(async move {
            for number in 0..each {
                insist(&group, add((caller * each + number).to_be_bytes())).await;
            }
        });
    }
    callers.join_all().await;
}

/// The shortest of so many writes, one after the other.
async fn shortest_write(cluster: &Cluster, node: u64, writes: u32) -> Duration {
    let mut shortest = Duration::MAX;
    for _ in 0..writes {
        let began = Instant::now();
        insist(&cluster.group(node, 1), add("timed")).await;
        shortest = shortest.min(began.elapsed());
    }
    shortest
}

/// Waits until a node has applied what the leader has committed.
async fn catches_up(cluster: &Cluster, node: u64) {
    let commit = cluster.leading(1).await.status().commit;
    let group = cluster.group(node, 1);
    wait_until(DEADLINE, "it to catch up", || group.status().applied >= commit).await;
}

/// A leader that is cut off is replaced, steps down, and takes its peers for dead (TR-8).
async fn a_cut(cluster: &Cluster) {
    let leader = cluster.leader(1).await;
    let cuts = on_links(cluster, leader, r#""cut":true"#);
    let next = cluster.leader_among(1, &others(cluster, leader)).await;
    insist(&cluster.group(next, 1), add("beside the cut")).await;
    let old = cluster.group(leader, 1);
    wait_until(DEADLINE, "it to step down", || old.status().role != Role::Leader).await;
    for cut in cuts {
        cut.shows("frames_dropped", 1).await;
        cut.shows("disconnects", 1).await;
        assert!(cluster.node(leader).status().peers.iter().any(|peer| !peer.connected));
        cut.end();
    }
    let is_back = || cluster.node(leader).status().peers.iter().all(|peer| peer.connected);
    wait_until(DEADLINE, "every link to be up", is_back).await;
    cluster.wait_for_leaders().await;
    insist(&cluster.group(leader, 1), add("after the cut")).await;
}

/// Loss and delay cost time and nothing else.
async fn a_bad_network(cluster: &Cluster) {
    let leader = cluster.leader(1).await;
    let lossy = on_links(cluster, leader, r#""loss_per_mille":300"#);
    write(cluster, leader, 5).await;
    for loss in lossy {
        loss.shows("frames_dropped", 1).await;
        loss.end();
    }
    let leader = cluster.leader(1).await;
    let late = on_links(cluster, leader, r#""delay":"50ms""#);
    let shortest = shortest_write(cluster, leader, 5).await;
    assert!(shortest >= Duration::from_millis(100), "50 ms there and back: {shortest:?}");
    for delay in late {
        delay.shows("frames_delayed", 10).await;
        delay.end();
    }
    let all = r#""jitter":"5ms","duplicate_per_mille":300,"reorder_per_mille":300,"bandwidth_bytes_per_s":500000"#;
    let leader = cluster.leader(1).await;
    for odd in on_links(cluster, leader, all) {
        for effect in
            ["frames_delayed", "frames_duplicated", "frames_reordered", "frames_throttled"]
        {
            let until = Instant::now() + DEADLINE;
            while odd.effect(effect) == 0 {
                assert!(Instant::now() < until, "no {effect}");
                write(cluster, leader, 10).await;
            }
        }
        odd.end();
    }
}

/// What a fault held back for an hour goes on as soon as the fault is over.
async fn a_delay_that_ends(cluster: &Cluster) {
    let leader = cluster.leader(1).await;
    let late = on_links(cluster, leader, r#""delay":"1h""#);
    let next = cluster.leader_among(1, &others(cluster, leader)).await;
    insist(&cluster.group(next, 1), add("without the one behind the delay")).await;
    for delay in late {
        delay.shows("frames_delayed", 1).await;
        delay.end();
    }
    cluster.wait_for_leaders().await;
    insist(&cluster.group(leader, 1), add("through it again")).await;
    catches_up(cluster, leader).await;
}

/// A follower that gets no appends falls behind and still follows.
async fn a_cut_lane(cluster: &Cluster) {
    let (leader, behind) = (cluster.leader(1).await, cluster.follower(1).await);
    let json = format!(
        r#"{{"kind":"link","peer":{behind},"direction":"out","lane":"append","cut":true}}"#
    );
    let cut = Injected::new(cluster, leader, &json);
    let applied = insist(&cluster.group(leader, 1), add("without one")).await.index;
    cut.shows("frames_dropped", 1).await;
    assert!(cluster.group(behind, 1).status().last < applied, "it cannot have it");
    cut.end();
    catches_up(cluster, behind).await;
}

/// One slow disk of three costs nothing, two do; a leader whose disk stands still acknowledges nothing.
async fn slow_disks(cluster: &Cluster) {
    const SLOW: &str = r#"{"kind":"disk","store":"log","delay":"300ms"}"#;
    let leader = cluster.leader(1).await;
    let [one, two] = others(cluster, leader)[..] else { panic!("three nodes run") };
    let first = Injected::new(cluster, one, SLOW);
    let shortest = shortest_write(cluster, leader, 20).await;
    assert!(shortest < Duration::from_millis(300), "{shortest:?}");
    let second = Injected::new(cluster, two, SLOW);
    let shortest = shortest_write(cluster, leader, 3).await;
    assert!(shortest >= Duration::from_millis(300), "{shortest:?}");
    for slow in [first, second] {
        slow.shows("commits_delayed", 1).await;
        slow.end();
    }
    let json = r#"{"kind":"disk","store":"log","stall":true}"#;
    let stalled = Injected::new(cluster, leader, json);
    let group = cluster.group(leader, 1).with_deadline(Duration::from_millis(500));
    let unanswered = group.propose(add("behind the stall")).await.expect_err("nothing is durable");
    assert!(unanswered.may_have_committed(), "{unanswered}");
    stalled.shows("commits_stalled", 1).await;
    let ended = stalled.end();
    catches_up(cluster, leader).await;
    wait_until(DEADLINE, "the stall to be counted", || ended.effect("ms_stalled") >= 400).await;
    insist(&cluster.group(leader, 1), add("after the stall")).await;
}

/// Full disks everywhere: reads are served, writes fail with a type, and nothing was lost (ST-5).
async fn full_disks(cluster: &Cluster) {
    const FULL: &str = r#"{"kind":"disk","store":"both","full":true}"#;
    let leader = cluster.leader(1).await;
    let full: Vec<_> =
        cluster.running().iter().map(|node| Injected::new(cluster, *node, FULL)).collect();
    let group = cluster.group(leader, 1);
    let waiting = group.clone();
    let waiting = tokio::spawn(async move { waiting.propose(add("waits for room")).await });
    let node = cluster.node(leader);
    wait_until(DEADLINE, "a full log", || node.status().log_writer.is_full).await;
    let hasty = group.with_deadline(Duration::from_millis(500));
    let refused = hasty.propose(add("no room")).await.expect_err("no disk has room");
    assert!(refused.is_retryable() || refused.may_have_committed(), "{refused}");
    assert!(!waiting.is_finished(), "nothing is acknowledged on full disks");
    assert!(stale_number(&cluster.group(leader, 1), total()).await > 0, "reads are served");
    for fault in full {
        fault.shows("commits_refused", 1).await;
        fault.end();
    }
    waiting.await.expect("no panic").expect("it commits once there is room");
    insist(&cluster.leading(1).await, add("room again")).await;
    wait_until(DEADLINE, "a log with room", || !node.status().log_writer.is_full).await;
    let slow = Injected::new(cluster, leader, r#"{"kind":"disk","store":"state","delay":"50ms"}"#);
    insist(&cluster.leading(1).await, add("to be flushed")).await;
    slow.shows("commits_delayed", 1).await;
    slow.end();
}

/// What names an actor of a kind on a node, as fields.
fn fields(kind: ActorKind, peer: u64) -> String {
    let of = match kind {
        ActorKind::PeerLink => format!(r#","peer":{peer}"#),
        kind if kind.is_of_group() => r#","group":1"#.to_owned(),
        _ => String::new(),
    };
    format!(r#""actor":"{}"{of}"#, kind.as_str())
}

/// Every kind of actor dies, by a panic and by a stop, and stands still; its node is whole afterwards.
async fn actors(cluster: &Cluster) {
    for (at, kind) in ActorKind::all().enumerate() {
        let node = 1 + at as u64 % 3;
        let actor = fields(kind, 1 + node % 3);
        for mode in ["panic", "stop"] {
            let json = format!(r#"{{"kind":"kill_actor",{actor},"mode":"{mode}"}}"#);
            let killed = Injected::insist(cluster, node, &json).await;
            killed.shows("actor_deaths", 1).await;
            assert!(killed.record().ended_ms.is_some(), "it is over at once");
            let parts = cluster.node(node).parts();
            wait_until(DEADLINE, "every actor's next life", || is_whole(parts)).await;
        }
        let json = format!(r#"{{"kind":"stall_actor",{actor},"for":"40ms"}}"#);
        let stalled = Injected::insist(cluster, node, &json).await;
        wait_until(DEADLINE, &json, || stalled.record().ended_ms.is_some()).await;
        stalled.shows("ms_stalled", 40).await;
        insist(&cluster.group(node, 1), add("after an actor")).await;
    }
}

/// An applier that stands still applies nothing, its group's log goes on, and it catches up.
async fn a_stalled_applier(cluster: &Cluster) {
    let (leader, behind) = (cluster.leader(1).await, cluster.follower(1).await);
    catches_up(cluster, behind).await;
    let json = r#"{"kind":"stall_actor","actor":"applier","group":1,"for":"1h"}"#;
    let stalled = Injected::new(cluster, behind, json);
    stalled.shows("ms_stalled", 1).await;
    let group = cluster.group(behind, 1);
    let before = group.status().applied;
    let index = insist(&cluster.group(leader, 1), add("not applied there")).await.index;
    wait_until(DEADLINE, "it to be committed there", || group.status().commit >= index).await;
    assert_eq!(group.status().applied, before);
    stalled.end();
    wait_until(DEADLINE, "it to be applied there", || group.status().applied >= index).await;
}

/// A clock that is an hour ahead, right again, and an hour behind: ledgers fault if time falls (AP-3).
async fn a_wrong_clock(cluster: &Cluster) {
    for step in ["+1h", "-1h"] {
        let leader = cluster.leader(1).await;
        let json = format!(r#"{{"kind":"clock","step":"{step}"}}"#);
        let wrong = Injected::new(cluster, leader, &json);
        write(cluster, leader, 3).await;
        wrong.shows("clock_readings", 1).await;
        assert_eq!(wrong.effect("clock_offset_ms").unsigned_abs(), 3_600_000);
        wrong.end();
        write(cluster, leader, 3).await;
    }
    let healthy = |group: &GroupHandle| group.status().health == Health::Healthy;
    assert!(cluster.everywhere(1).iter().all(healthy), "time fell");
}

/// A failed commit: that node says so and acknowledges nothing any more, even once the disk works
/// again (ST-12); the others go on, and a restart puts it right.
async fn a_failed_disk(cluster: &mut Cluster) {
    let failed = cluster.follower(1).await;
    {
        let json = r#"{"kind":"disk","store":"log","error":"eio"}"#;
        let eio = Injected::new(cluster, failed, json);
        insist(&cluster.leading(1).await, add("on the others")).await;
        eio.shows("commits_failed", 1).await;
        let node = cluster.node(failed);
        wait_until(DEADLINE, "a reported failure", || node.status().storage_failure.is_some())
            .await;
        eio.end();
        let refused = cluster.group(failed, 1).propose(add("not here")).await;
        assert!(matches!(refused, Err(ProposeError::Faulted { .. })), "{refused:?}");
        let rest = others(cluster, failed);
        let leader = cluster.leader_among(1, &rest).await;
        insist(&cluster.group(leader, 1), add("still on the others")).await;
    }
    let chaos = cluster.node(failed).chaos().expect("the shape has chaos").clone();
    cluster.stop(failed).await;
    let late = chaos.inject(Fault::from_json(br#"{"kind":"clock","step":"+1h"}"#).expect("valid"));
    assert!(matches!(late, Err(ChaosError::Stopped)), "{late:?}");
    drop(chaos);
    cluster.start_node(failed).await;
    cluster.wait_for_leaders().await;
    catches_up(cluster, failed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_takes_effect_and_leaves_nothing_behind() {
    let mut cluster = Cluster::start(Shape::new(3, 2).with_chaos()).await;
    macro_rules! in_turn {
        ($($scenario:ident),+) => {$(
            let began = Instant::now();
            $scenario(&cluster).await;
            println!("{}: {:?}", stringify!($scenario), began.elapsed());
        )+};
    }
    in_turn!(
        a_cut,
        a_bad_network,
        a_delay_that_ends,
        a_cut_lane,
        slow_disks,
        full_disks,
        actors,
        a_stalled_applier,
        a_wrong_clock
    );
    a_failed_disk(&mut cluster).await;
    let in_force = |node: &u64| {
        let faults = cluster.node(*node).chaos().expect("the shape has chaos").faults();
        faults.iter().any(|fault| fault.ended_ms.is_none())
    };
    assert!(!cluster.running().iter().any(in_force), "every fault was ended");
    for group in [1, 2] {
        insist(&cluster.leading(group).await, add("the last")).await;
        cluster.equal_hash(group).await;
    }
    // One that stands still keeps no node from stopping.
    let node = cluster.leader(1).await;
    let stalled = Injected::new(&cluster, node, r#"{"kind":"disk","store":"log","stall":true}"#);
    let waiting = cluster.group(node, 1);
    let waiting = tokio::spawn(async move { waiting.propose(add("behind the stall")).await });
    stalled.shows("commits_stalled", 1).await;
    cluster.stop_all().await;
    // Its followers may have made it durable without it.
    drop(waiting.await.expect("answered, whatever it was"));
}

static METRICS: LazyLock<PrometheusHandle> =
    LazyLock::new(|| PrometheusBuilder::new().build_recorder().handle());

/// The admin interface of node 1 of a cluster.
async fn admin(cluster: &Cluster) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let token = AccessToken::new("open-sesame-open-sesame-open-ses").expect("a long word");
    let config = AdminAccessConfig::default();
    let access = Access::load(&config, "127.0.0.1:0".parse().expect("valid"), Some(token));
    let access = access.expect("it reads no file");
    let (node, metrics) = (cluster.node(1).clone(), METRICS.clone());
    let summary = SummarySource::new(EventLog::new(1));
    let admin = Admin { node, metrics, groups_expected: 1, access, summary };
    tokio::spawn(admin.serve(listener, std::future::pending()));
    address
}

/// One request; its status and its body.
async fn ask(address: &str, request: &str, token: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!("{request} HTTP/1.0\r\n{token}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status line");
    (status.parse().expect("a number"), body.to_owned())
}

const REQUESTS: [&str; 4] =
    ["GET /chaos/faults", "POST /chaos/faults", "DELETE /chaos/faults", "DELETE /chaos/faults/1"];
const TOKEN: &str = "Authorization: Bearer open-sesame-open-sesame-open-ses\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_routes_are_there_for_the_token_alone_and_only_with_chaos() {
    let clock = r#"{"kind":"clock","step":"+1h"}"#;
    let mut plain = Cluster::start(Shape::new(1, 1)).await;
    assert!(plain.node(1).chaos().is_none());
    let address = admin(&plain).await;
    for request in REQUESTS {
        assert_eq!(ask(&address, request, TOKEN, clock).await.0, 404, "{request}");
    }
    plain.stop_all().await;

    let mut cluster = Cluster::start(Shape::new(1, 1).with_chaos()).await;
    let address = admin(&cluster).await;
    for token in [
        "",
        "Authorization: Bearer closed\r\n",
        "Authorization: Basic open-sesame-open-sesame-open-ses\r\n",
    ] {
        for request in REQUESTS {
            assert_eq!(ask(&address, request, token, clock).await.0, 401, "{request} {token}");
        }
    }
    assert_eq!(ask(&address, "GET /chaos/faults", TOKEN, "").await, (200, "[]".to_owned()));
    for (body, named) in [
        ("", "fault"),
        (r#"{"kind":"clock","step":"1h"}"#, r#"step: "1h""#),
        (r#"{"kind":"link","peer":9,"direction":"in","cut":true}"#, "peer = 9: is not a peer"),
        (
            r#"{"kind":"kill_actor","actor":"group","group":7,"mode":"stop"}"#,
            "group = 7: is not on this node",
        ),
    ] {
        let (status, text) = ask(&address, "POST /chaos/faults", TOKEN, body).await;
        assert!(status == 400 && text.contains(named), "{body}: {status} {text}");
    }
    let injected = ask(&address, "POST /chaos/faults", TOKEN, clock).await;
    assert_eq!(injected, (200, r#"{"id":1}"#.to_owned()));
    let (status, listed) = ask(&address, "GET /chaos/faults", TOKEN, "").await;
    let records: Vec<FaultRecord> = serde_json::from_str(&listed).expect("records");
    assert_eq!((status, records.len(), records[0].ended_ms), (200, 1, None));
    assert!(listed.contains(&format!(r#""fault":{clock}"#)), "{listed}");
    assert_eq!(records[0].effects["clock_offset_ms"], 3_600_000);
    for (request, expected) in [
        ("DELETE /chaos/faults/2", (404, "there is no fault 2\n")),
        ("DELETE /chaos/faults/x", (404, "there is no fault x\n")),
        ("DELETE /chaos/faults/1", (200, r#"{"ended":1}"#)),
        ("DELETE /chaos/faults/1", (200, r#"{"ended":0}"#)),
        ("DELETE /chaos/faults", (200, r#"{"ended":0}"#)),
        ("GET /chaos/nothing", (404, "")),
    ] {
        let (status, body) = ask(&address, request, TOKEN, "").await;
        assert_eq!((status, body.as_str()), expected, "{request}");
    }
    insist(&cluster.group(1, 1), add("unharmed")).await;
    cluster.stop_all().await;
}
