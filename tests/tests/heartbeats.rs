//! Goal: heartbeats depend on nothing but time: not on apply, the disk or the number of groups
//! (TK-2 to TK-9).
//! Method: what is about protocol runs in virtual time on memory nodes, where every frame is seen and a
//! count is exact; what is about threads runs in real time on threads of its own, with margins for a
//! busy machine. The long versions are ignored by default:
//! `cargo test -p polyraft-tests --release --test heartbeats -- --ignored`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use polyraft::{GroupEvent, GroupId, NodeId, Profile, Role};
use polyraft_core::message::Body;
use polyraft_core::wire;
use polyraft_tests::ledger::{Ledger, command};
use polyraft_tests::lossy_transport::NetworkWeather;
use polyraft_tests::memory_node::{
    MemoryCluster, MemoryOptions, Threads, propose, settings, simulate, wait_until,
};
use tokio::sync::broadcast::Receiver;
use tokio::time::Instant;

const GROUP: GroupId = GroupId::new(1);
const DEADLINE: Duration = Duration::from_secs(120);
const HEARTBEAT: Duration = Duration::from_millis(150);
const ELECTION: Duration = Duration::from_secs(3);
/// What apply or disk take each time, in the short tests.
const STALL: Duration = Duration::from_secs(2);
/// Longest interval on a machine that others use: far below the stall, which would be seen whole.
const BUSY: Duration = Duration::from_millis(800);

/// When a frame with heartbeats was sent, from whom to whom.
type Sent = BTreeMap<(NodeId, NodeId), Vec<Instant>>;

/// When frames with heartbeats left, by sender and receiver.
#[derive(Clone, Default)]
struct Beats(Arc<Mutex<Sent>>);

impl Beats {
    fn watch(&self, options: MemoryOptions) -> MemoryOptions {
        let beats = self.clone();
        let observe = move |from, to, _, frame: &bytes::Bytes| {
            let envelopes = wire::decode_frame(frame.clone(), to).expect("a production frame");
            let is_beat = |body: &Body| matches!(body, Body::Raft(m) if m.is_plain_heartbeat());
            if envelopes.iter().any(|envelope| is_beat(&envelope.body)) {
                beats.lock().entry((from, to)).or_default().push(Instant::now());
            }
        };
        MemoryOptions { observe: Arc::new(observe), ..options }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(NodeId, NodeId), Vec<Instant>>> {
        self.0.lock().expect("no panic while held")
    }

    fn forget(&self) {
        self.lock().clear();
    }

    /// The intervals between frames with heartbeats, ascending, over all pairs.
    fn intervals(&self) -> Vec<Duration> {
        let lock = self.lock();
        let pairs = lock.values().flat_map(|times| times.windows(2));
        let mut intervals: Vec<_> = pairs.map(|two| two[1] - two[0]).collect();
        intervals.sort();
        intervals
    }
}

/// Of ascending `values`, the one that `per_mille` of a thousand do not exceed.
fn quantile(values: &[Duration], per_mille: usize) -> Duration {
    values[(values.len() * per_mille / 1_000).min(values.len() - 1)]
}

/// Dev timing, HB 150 ms and EL 3 s, at ticks of this length.
fn dev(threads: Threads, tick_ms: u64, seed: u64) -> MemoryOptions {
    let tick = Duration::from_millis(tick_ms);
    let ticks = |span: Duration| span.as_millis() as u64 / tick_ms;
    MemoryOptions {
        settings: settings(tick, ticks(HEARTBEAT), ticks(ELECTION)),
        ..MemoryOptions::new(threads, seed)
    }
}

/// Elections won, as far as these subscriptions saw.
fn elections(events: &mut [Receiver<GroupEvent>]) -> usize {
    let mut won = 0;
    for events in events {
        while let Ok(event) = events.try_recv() {
            won += usize::from(matches!(event, GroupEvent::BecameLeader { .. }));
        }
    }
    won
}

fn subscribe(cluster: &MemoryCluster, groups: u64) -> Vec<Receiver<GroupEvent>> {
    let all = cluster.nodes.iter();
    all.flat_map(|n| (1..=groups).map(|g| n.cell(GroupId::new(g)).subscribe())).collect()
}

/// Goal: TK-2. HB 150 ms and EL 3 s at any tick size. Method: the frames of an idle group, and how long
/// its followers take to replace a dead leader.
#[test]
fn effective_timing_is_the_same_at_any_tick() {
    for tick_ms in [1, 10, 50, 150] {
        simulate(async {
            let beats = Beats::default();
            let mut cluster = MemoryCluster::start(3, beats.watch(dev(Threads::One, tick_ms, 5)));
            cluster.create_group(GROUP).await;
            let leader = cluster.leader(GROUP, DEADLINE).await;
            beats.forget();
            tokio::time::sleep(Duration::from_secs(30)).await;
            let intervals = beats.intervals();
            assert!(intervals.len() > 300, "{} at {tick_ms} ms", intervals.len());
            let (low, high) = (HEARTBEAT - HEARTBEAT / 10, HEARTBEAT + HEARTBEAT / 10);
            let in_range = |d: &&Duration| low <= **d && **d <= high;
            let strays: Vec<_> = intervals.iter().filter(|d| !in_range(d)).collect();
            assert!(strays.is_empty(), "tick of {tick_ms} ms: {strays:?}");

            let remains = cluster.stop_node(leader).await;
            let (since, term) = (Instant::now(), cluster.nodes[0].status(GROUP).map(|s| s.term));
            wait_until("another leader", DEADLINE, || {
                cluster.nodes.iter().any(|n| {
                    n.status(GROUP).is_some_and(|s| s.role == Role::Leader && Some(s.term) > term)
                })
            })
            .await;
            // From the last heartbeat, which was up to one interval before.
            let took = since.elapsed();
            assert!(took > ELECTION - HEARTBEAT - HEARTBEAT / 10, "{took:?} at {tick_ms} ms");
            assert!(took < 2 * ELECTION + Duration::from_secs(1), "{took:?} at {tick_ms} ms");
            cluster.restart(leader, remains);
            cluster.stop().await;
        });
    }
}

/// Goal: TK-5. However many groups, one frame with heartbeats per peer and interval.
async fn coalesced(groups: u64, seconds: u64) {
    let beats = Beats::default();
    let cluster = MemoryCluster::start(3, beats.watch(dev(Threads::One, 50, 6)));
    for group in 1..=groups {
        cluster.create_group(GroupId::new(group)).await;
    }
    for group in 1..=groups {
        cluster.leader(GroupId::new(group), DEADLINE).await;
    }
    let mut events = subscribe(&cluster, groups);
    beats.forget();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let intervals_max = seconds * 1_000 / HEARTBEAT.as_millis() as u64 + 1;
    let frames = beats.lock().clone();
    assert_eq!(frames.len(), 6, "every node leads some groups, and beats to both others");
    for (pair, times) in &frames {
        assert!(times.len() as u64 <= intervals_max, "{pair:?}: {} frames", times.len());
        assert!(times.len() as u64 + 2 >= intervals_max, "{pair:?}: {} frames", times.len());
    }
    assert_eq!(elections(&mut events), 0);
    cluster.stop().await;
}

#[test]
fn heartbeats_of_all_groups_share_a_frame() {
    simulate(coalesced(300, 5));
}

#[test]
#[ignore = "3,000 groups take a minute"]
fn heartbeats_of_3000_groups_share_a_frame() {
    simulate(coalesced(3_000, 30));
}

/// Goal: TK-7. A follower that was isolated rejoins without a new term; an isolated leader steps down
/// within two election timeouts.
#[test]
fn isolation_changes_no_term_and_deposes_a_leader() {
    simulate(async {
        let cluster = MemoryCluster::start(3, dev(Threads::One, 50, 7));
        cluster.create_group(GROUP).await;
        let leader = cluster.leader(GROUP, DEADLINE).await;
        let term = cluster.node(leader).status(GROUP).expect("it is here").term;
        let follower = leader % 3 + 1;
        cluster.isolate(follower, true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        cluster.isolate(follower, false);
        wait_until("the follower back", DEADLINE, || {
            cluster.node(follower).status(GROUP).and_then(|s| s.leader) == Some(NodeId::new(leader))
        })
        .await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        for node in &cluster.nodes {
            assert_eq!(node.status(GROUP).map(|s| s.term), Some(term), "node {}", node.id);
        }
        assert_eq!(cluster.agreed_leader(GROUP), Some(leader));

        cluster.isolate(leader, true);
        let since = Instant::now();
        wait_until("the leader to step down", DEADLINE, || {
            cluster.node(leader).status(GROUP).is_some_and(|s| s.role != Role::Leader)
        })
        .await;
        assert!(since.elapsed() <= 2 * ELECTION + HEARTBEAT, "{:?}", since.elapsed());
        cluster.stop().await;
    });
}

/// Goal: TK-6. Method: a thousand elections, one after another, by stopping the leader's heartbeats; a
/// vote was split if no leader came in the first term after.
async fn split_votes(elections: u32) {
    let cluster = MemoryCluster::start(3, MemoryOptions::new(Threads::One, 8));
    cluster.create_group(GROUP).await;
    let mut split = 0;
    for _ in 0..elections {
        let leader = cluster.leader(GROUP, DEADLINE).await;
        let term = cluster.node(leader).status(GROUP).expect("it is here").term;
        cluster.isolate(leader, true);
        let mut won = term;
        wait_until("a new leader", DEADLINE, || {
            let statuses = cluster.nodes.iter().filter_map(|n| n.status(GROUP));
            let leaders = statuses.filter(|s| s.role == Role::Leader && s.term > term);
            leaders.map(|s| s.term).max().is_some_and(|found| {
                won = found;
                true
            })
        })
        .await;
        split += u32::from(won > term.next());
        cluster.isolate(leader, false);
        wait_until("all to follow", DEADLINE, || {
            let terms = cluster.nodes.iter().filter_map(|n| n.status(GROUP));
            let mut now = terms.map(|s| (s.term, s.leader));
            let first = now.next();
            first.is_some_and(|f| f.1.is_some()) && now.all(|t| Some(t) == first)
        })
        .await;
    }
    println!("{split} of {elections} elections split the vote");
    assert!(split * 20 < elections, "{split} of {elections}");
    cluster.stop().await;
}

#[test]
fn votes_are_rarely_split() {
    simulate(split_votes(100));
}

#[test]
#[ignore = "1,000 elections take a minute"]
fn votes_are_rarely_split_over_1000_elections() {
    simulate(split_votes(1_000));
}

/// Goal: TK-9. `wan` is stable at 80 ms of round trip and 1 % loss, for ten minutes under load.
#[test]
fn wan_is_stable_for_ten_minutes() {
    simulate(async {
        let timing = Profile::Wan.timing().effective().expect("profiles are valid");
        let (beats, election) = (timing.heartbeat_ticks.into(), timing.election_ticks.into());
        let cluster = MemoryCluster::start(
            3,
            MemoryOptions {
                settings: settings(timing.tick, beats, election),
                weather: NetworkWeather {
                    delay: Duration::from_millis(40),
                    loss_per_mille: 10,
                    ..NetworkWeather::default()
                },
                ..MemoryOptions::new(Threads::One, 9)
            },
        );
        cluster.create_group(GROUP).await;
        let leader = cluster.leader(GROUP, DEADLINE).await;
        let term = cluster.node(leader).status(GROUP).expect("it is here").term;
        let mut events = subscribe(&cluster, 1);
        let until = Instant::now() + Duration::from_secs(600);
        let (mut committed, mut number) = (0, 0);
        while Instant::now() < until {
            number += 1;
            let deadline = Duration::from_secs(5);
            let cell = cluster.node(leader).cell(GROUP);
            committed += u32::from(propose(&cell, GROUP, command(number), deadline).await.is_ok());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(elections(&mut events), 0);
        assert_eq!(cluster.node(leader).status(GROUP).map(|s| s.term), Some(term));
        assert!(committed > 1_000, "{committed} of {number} commands");
        println!("{committed} of {number} commands in ten minutes");
        cluster.stop().await;
    });
}

/// Goal: TK-3, TK-4. Method: real threads; each batch sleeps in apply, or each commit in the disk, and
/// the beats of the leader go on.
fn beats_go_on(
    apply_takes: Duration,
    commit_takes: Duration,
    run: Duration,
    slowest_max: Duration,
) {
    actix::System::new().block_on(async {
        let beats = Beats::default();
        let options = MemoryOptions {
            machine: Arc::new(move |_, _| Box::new(Ledger { apply_takes, ..Ledger::default() })),
            ..beats.watch(dev(Threads::Own, 50, 10))
        };
        let cluster = MemoryCluster::start(3, options);
        cluster.create_group(GROUP).await;
        let leader = cluster.leader(GROUP, DEADLINE).await;
        let term = cluster.node(leader).status(GROUP).expect("it is here").term;
        let mut events = subscribe(&cluster, 1);
        for node in &cluster.nodes {
            node.remains.store_faults.set_commit_takes(commit_takes);
        }
        beats.forget();
        let until = Instant::now() + run;
        let cell = cluster.node(leader).cell(GROUP);
        let mut proposals = tokio::task::JoinSet::new();
        let mut number = 0;
        while Instant::now() < until {
            for _ in 0..10 {
                number += 1;
                let (cell, patience) = (cell.clone(), Duration::from_millis(500));
                proposals.spawn(async move {
                    tokio::time::timeout(patience, propose(&cell, GROUP, command(number), patience))
                        .await
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let intervals = beats.intervals();
        let slowest = quantile(&intervals, 999);
        println!("{} beats, p99.9 {slowest:?}; {number} commands", intervals.len());
        let expected = run.as_millis() / HEARTBEAT.as_millis();
        assert!(intervals.len() as u128 > expected, "two followers: {}", intervals.len());
        assert!(slowest < slowest_max, "heartbeats waited: {slowest:?}");
        assert_eq!(elections(&mut events), 0);
        assert_eq!(cluster.node(leader).status(GROUP).map(|s| s.term), Some(term));
        for node in &cluster.nodes {
            node.remains.store_faults.set_commit_takes(Duration::ZERO);
        }
        drop(proposals);
        cluster.stop().await;
    });
}

#[test]
fn heartbeats_do_not_wait_for_apply() {
    beats_go_on(STALL, Duration::ZERO, Duration::from_secs(6), BUSY);
}

#[test]
fn heartbeats_do_not_wait_for_the_disk() {
    beats_go_on(Duration::ZERO, STALL, Duration::from_secs(6), BUSY);
}

#[test]
#[ignore = "30 s each"]
fn heartbeats_wait_for_neither_for_long() {
    beats_go_on(Duration::from_millis(500), Duration::ZERO, Duration::from_secs(30), 2 * HEARTBEAT);
    beats_go_on(Duration::ZERO, Duration::from_secs(1), Duration::from_secs(30), 2 * HEARTBEAT);
}
