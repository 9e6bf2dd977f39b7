//! Goal: what callers of `propose` are promised (BP), on real nodes.
//! Method: closed gates hold batches in flight, so that what a batch gathers is decided by the test
//! and not by time; every outcome is compared with the replicated state.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft::{
    Applied, BatcherStats, BatchingConfig, FlushReason, GroupEvent, GroupHandle, LimitsConfig,
    ProposeError, limits,
};
use polyraft_tests::cluster::{
    Cluster, DEADLINE, Shape, insist, stale_number, wait_for, wait_until,
};
use polyraft_tests::machines::{add, count_of, create, number, reject, total, weight};
use tokio::task::{JoinHandle, JoinSet};

type Outcome = Result<Applied, ProposeError>;

/// Batches that only fill up, so that a test sees what else cuts them.
fn patient() -> BatchingConfig {
    BatchingConfig { linger: Duration::from_secs(1), ..BatchingConfig::default() }
}

fn propose(group: &GroupHandle, command: Bytes) -> JoinHandle<Outcome> {
    let group = group.clone();
    tokio::spawn(async move { group.propose(command).await })
}

async fn stats_when(
    group: &GroupHandle,
    what: &str,
    holds: fn(&BatcherStats) -> bool,
) -> BatcherStats {
    wait_for(DEADLINE, what, || async { group.batcher_stats().await.filter(holds) }).await
}

fn cut(stats: &BatcherStats, reason: FlushReason) -> u64 {
    let at = FlushReason::ALL.iter().position(|r| *r == reason).expect("every reason is in ALL");
    stats.cut_batches[at]
}

/// One node, its first batch held in flight by a closed gate.
async fn held(batching: BatchingConfig) -> (Cluster, GroupHandle, JoinHandle<Outcome>) {
    let cluster = Cluster::start(Shape::new(1, 1).batching(batching)).await;
    let group = cluster.leading(1).await;
    cluster.bench(1, 1).close_gate();
    let first = propose(&group, add("first"));
    stats_when(&group, "the first batch in flight", |s| s.in_flight == 1).await;
    (cluster, group, first)
}

async fn ok(outcome: JoinHandle<Outcome>) -> Applied {
    outcome.await.expect("a caller never panics").expect("it was committed and applied")
}

/// BP-1: a batch is cut at its count, whatever the linger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_count_flushes() {
    let (mut cluster, group, first) = held(BatchingConfig { commands_max: 4, ..patient() }).await;
    let four: Vec<_> = (0..4).map(|n| propose(&group, add([n]))).collect();
    let stats = stats_when(&group, "a batch cut by count", |s| s.cut_commands == 5).await;
    assert_eq!((cut(&stats, FlushReason::Idle), cut(&stats, FlushReason::Count)), (1, 1));
    cluster.bench(1, 1).open_gate();
    let mut entries = BTreeSet::new();
    for outcome in four {
        entries.insert(ok(outcome).await.index);
    }
    assert_eq!(entries.len(), 1, "a batch is one entry");
    assert_eq!(number(ok(first).await.response.body()), 1);
    cluster.stop_all().await;
}

/// BP-1: a batch is cut at its bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_bytes_flush() {
    let (mut cluster, group, _first) = held(BatchingConfig { bytes_max: 256, ..patient() }).await;
    let _two = [propose(&group, weight(200)), propose(&group, weight(200))];
    let stats = stats_when(&group, "a batch cut by bytes", |s| s.cut_commands > 1).await;
    assert_eq!(cut(&stats, FlushReason::Bytes), 1, "{stats:?}");
    cluster.bench(1, 1).open_gate();
    cluster.stop_all().await;
}

/// BP-1: a batch is cut when its oldest unit has lingered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lingering_unit_flushes() {
    let linger = Duration::from_millis(20);
    let (mut cluster, group, _first) = held(BatchingConfig { linger, ..patient() }).await;
    let _second = propose(&group, add("second"));
    let stats = stats_when(&group, "a batch cut by linger", |s| s.cut_commands == 2).await;
    assert_eq!(cut(&stats, FlushReason::Linger), 1, "{stats:?}");
    assert!(stats.waited >= linger, "{:?}", stats.waited);
    cluster.bench(1, 1).open_gate();
    cluster.stop_all().await;
}

/// BP-1: with batching off, every command is an entry of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batching_can_be_off() {
    let (mut cluster, group, _first) = held(BatchingConfig { enabled: false, ..patient() }).await;
    let five: Vec<_> = (0..5).map(|n| propose(&group, add([n]))).collect();
    let stats = stats_when(&group, "six batches", |s| s.cut_commands == 6).await;
    assert_eq!(cut(&stats, FlushReason::Off), 6, "{stats:?}");
    cluster.bench(1, 1).open_gate();
    let mut entries = BTreeSet::new();
    for outcome in five {
        entries.insert(ok(outcome).await.index);
    }
    assert_eq!(entries.len(), 5);
    cluster.stop_all().await;
}

/// BP-2, BP-4: a hundred callers share one entry, and one rejection is that caller's alone; of an
/// atomic proposal, one rejection rejects all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_rejected_of_a_hundred() {
    let (mut cluster, group, first) = held(patient()).await;
    let hundred: Vec<_> =
        (0..100_u8).map(|n| propose(&group, if n == 42 { reject() } else { add([n]) })).collect();
    stats_when(&group, "a batch of a hundred", |s| s.cut_commands == 101).await;
    cluster.bench(1, 1).open_gate();
    let (mut entries, mut accepted) = (BTreeSet::new(), 0);
    for outcome in hundred {
        let applied = ok(outcome).await;
        entries.insert(applied.index);
        accepted += u32::from(applied.response.is_accepted());
    }
    assert_eq!((entries.len(), accepted), (1, 99));
    ok(first).await;

    let atomic = (0..100_u8).map(|n| if n == 99 { reject() } else { add([b'a', n]) }).collect();
    let none = group.propose_atomic(atomic).await.expect("a rejection is a result");
    assert_eq!(none.responses.iter().filter(|r| r.is_accepted()).count(), 0);
    assert_eq!(stale_number(&group, total()).await, 100);
    assert_eq!(stale_number(&group, count_of([b'a', 0])).await, 0);
    cluster.stop_all().await;
}

/// BP-3: a leader that has lost its quorum acknowledges nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_quorum_no_ok() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let leader = cluster.leader(1).await;
    let group = cluster.group(leader, 1).with_deadline(Duration::from_secs(2));
    for node in cluster.running().into_iter().filter(|node| *node != leader) {
        cluster.kill(node);
    }
    // What is killed lives on for a moment, and might still acknowledge.
    let is_alone = || cluster.node(leader).status().peers.iter().all(|link| !link.connected);
    wait_until(DEADLINE, "the others are gone", is_alone).await;
    let outcomes: Vec<_> = (0..20_u8).map(|n| propose(&group, add([n]))).collect();
    for outcome in outcomes {
        let outcome = outcome.await.expect("a caller never panics");
        assert!(outcome.is_err(), "acknowledged without a quorum: {outcome:?}");
    }
    assert_eq!(stale_number(&group, total()).await, 0);
    cluster.stop_all().await;
}

/// BP-5: a lone client's proposals never wait for company, however long the linger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_client_never_lingers() {
    let mut cluster = Cluster::start(Shape::new(3, 1).batching(patient())).await;
    let group = cluster.leading(1).await;
    for n in 0..20_u8 {
        group.propose(add([n])).await.expect("a healthy cluster");
    }
    let stats = group.batcher_stats().await.expect("a healthy group");
    assert_eq!(cut(&stats, FlushReason::Idle), 20, "{stats:?}");
    cluster.stop_all().await;
}

/// What became of every proposal of a run, by its key.
#[derive(Default)]
struct Fates {
    acknowledged: Vec<String>,
    refused: Vec<String>,
    unknown: Vec<String>,
}

/// BP-9: whatever happens to leaders, each proposal ends as acknowledged or with a typed error, and
/// the state agrees: acknowledged is once, refused is never, unknown is at most once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_proposal_is_lost_or_invented() {
    const CALLERS: u64 = 12;
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let at = cluster.group(caller % 3 + 1, 1);
        callers.spawn(call_until(at, caller, stopped.clone()));
    }
    for _ in 0..3 {
        let before = cluster.leader(1).await;
        cluster.kill(before);
        insist(&cluster.leading(1).await, add("after a kill")).await;
        cluster.start_node(before).await;
        cluster.leader(1).await;
    }
    stop.send(true).expect("callers wait for it");
    let (mut submitted, mut fates) = (0, Fates::default());
    while let Some(finished) = callers.join_next().await {
        let (sent, own) = finished.expect("a caller never panics");
        submitted += sent;
        fates.acknowledged.extend(own.acknowledged);
        fates.refused.extend(own.refused);
        fates.unknown.extend(own.unknown);
    }
    let ended = fates.acknowledged.len() + fates.refused.len() + fates.unknown.len();
    assert_eq!(submitted, ended);
    assert!(fates.acknowledged.len() >= 12, "only {} got through", fates.acknowledged.len());
    cluster.equal_hash(1).await;
    let group = cluster.leading(1).await;
    check_fates(&group, &fates).await;
    cluster.stop_all().await;
}

async fn call_until(
    group: GroupHandle,
    caller: u64,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> (usize, Fates) {
    let (mut sent, mut fates) = (0, Fates::default());
    while !*stopped.borrow() {
        let key = format!("{caller}-{sent}");
        sent += 1;
        match group.propose(add(&key)).await {
            Ok(_) => fates.acknowledged.push(key),
            // A handle of a node that was killed stays stopped: this caller has seen its end.
            Err(ProposeError::Stopped { .. }) => {
                fates.refused.push(key);
                break;
            }
            Err(error) if error.may_have_committed() => fates.unknown.push(key),
            Err(_) => fates.refused.push(key),
        }
    }
    (sent, fates)
}

async fn check_fates(group: &GroupHandle, fates: &Fates) {
    for key in &fates.acknowledged {
        assert_eq!(stale_number(group, count_of(key)).await, 1, "acknowledged {key}");
    }
    for key in &fates.refused {
        assert_eq!(stale_number(group, count_of(key)).await, 0, "refused {key}");
    }
    for key in &fates.unknown {
        assert!(stale_number(group, count_of(key)).await <= 1, "unknown {key} more than once");
    }
}

/// BP-10, RT-2: a full queue refuses, and what expires in it is never proposed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_bounded_and_the_expired_are_not_proposed() {
    let tiny = BatchingConfig { in_flight_max: 1, ..BatchingConfig::tiny() };
    let (mut cluster, group, first) = held(tiny).await;
    let brief = group.with_deadline(Duration::from_millis(200));
    let waiting: Vec<_> = (0..8_u8).map(|n| propose(&brief, add([n]))).collect();
    stats_when(&group, "a full queue", |s| s.pending_commands == 8).await;
    for n in 0..20_u8 {
        let refused = brief.propose(add([b'x', n])).await;
        assert!(matches!(refused, Err(ProposeError::Overloaded { .. })), "{refused:?}");
    }
    for outcome in waiting {
        let outcome = outcome.await.expect("a caller never panics");
        assert!(matches!(outcome, Err(ProposeError::Expired { .. })), "{outcome:?}");
    }
    cluster.bench(1, 1).open_gate();
    ok(first).await;
    group.propose(add("after")).await.expect("the queue is empty again");
    assert_eq!(stale_number(&group, total()).await, 2, "only what was acknowledged");
    cluster.stop_all().await;
}

/// BP-10: the queue is bounded in bytes as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_bounded_in_bytes() {
    let tiny = BatchingConfig { in_flight_max: 1, ..BatchingConfig::tiny() };
    let (mut cluster, group, first) = held(tiny).await;
    let _waiting: Vec<_> = (0..2).map(|_| propose(&group, weight(450))).collect();
    stats_when(&group, "a queue of bytes", |s| s.pending_bytes > 900).await;
    let refused = group.propose(weight(450)).await;
    assert!(matches!(refused, Err(ProposeError::Overloaded { .. })), "{refused:?}");
    cluster.bench(1, 1).open_gate();
    ok(first).await;
    cluster.stop_all().await;
}

/// BP-12: a leadership that is handed over under load leaves nobody waiting for a deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_transfer_resolves_everyone() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let before = cluster.leader(1).await;
    let group = cluster.group(before, 1);
    let mut events = group.subscribe();
    let mut callers = JoinSet::new();
    for caller in 0..32_u64 {
        let group = group.clone();
        callers.spawn(async move {
            let mut outcomes = Vec::new();
            for n in 0..20 {
                outcomes.push(group.propose(add(format!("{caller}-{n}"))).await);
            }
            outcomes
        });
    }
    let heir = cluster.follower(1).await;
    assert!(group.transfer_leader(polyraft::NodeId::new(heir)));
    wait_for(DEADLINE, "the old leader follows", || {
        let event = events.try_recv().ok();
        std::future::ready(event.filter(|e| matches!(e, GroupEvent::BecameFollower { .. })))
    })
    .await;
    let mut answered = 0;
    while let Some(outcomes) = callers.join_next().await {
        for outcome in outcomes.expect("a caller never panics") {
            answered += 1;
            let timed_out = matches!(outcome, Err(ProposeError::TimedOut { .. }));
            assert!(!timed_out, "left to its deadline: {outcome:?}");
        }
    }
    assert_eq!(answered, 32 * 20);
    assert_ne!(cluster.leader(1).await, before);
    cluster.equal_hash(1).await;
    cluster.stop_all().await;
}

/// BP-12, BP-13: a leader that is cut off tells its callers, as soon as it steps down, that their
/// outcome is unknown; when other entries take the place of theirs, none was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwritten_proposals_never_yield_ok() {
    let mut cluster = Cluster::start(Shape::new(3, 1).with_proxies()).await;
    let leader = cluster.leader(1).await;
    let group = cluster.group(leader, 1);
    group.propose(add("before")).await.expect("a healthy cluster");
    let mut events = group.subscribe();
    cluster.isolate(leader, true);
    let outcomes: Vec<_> = (0..20_u8).map(|n| propose(&group, add([b'l', n]))).collect();
    stats_when(&group, "all of them in the log", |s| s.cut_commands >= 21).await;
    let stepped_down = wait_for(DEADLINE, "an event of its stepping down", || {
        let is_it = matches!(events.try_recv(), Ok(GroupEvent::BecameFollower { .. }));
        std::future::ready(is_it.then(Instant::now))
    })
    .await;
    for outcome in outcomes {
        let outcome = outcome.await.expect("a caller never panics");
        assert!(matches!(outcome, Err(ProposeError::Unknown { .. })), "{outcome:?}");
    }
    println!("all pending resolved {:?} after step-down", stepped_down.elapsed());
    assert!(stepped_down.elapsed() < Duration::from_secs(5), "far from the deadline of 20 s");

    let others: Vec<u64> = cluster.running().into_iter().filter(|n| *n != leader).collect();
    let through = cluster.group(cluster.leader_among(1, &others).await, 1);
    for n in 0..20_u8 {
        insist(&through, create([b'w', n])).await;
    }
    assert!(cluster.swallowed(leader, others[0]) > 0, "the cut had no effect");
    cluster.isolate(leader, false);
    cluster.leader(1).await;
    insist(&cluster.leading(1).await, add("after")).await;
    cluster.equal_hash(1).await;
    for n in 0..20_u8 {
        assert_eq!(stale_number(&group, count_of([b'l', n])).await, 0);
        assert_eq!(stale_number(&group, count_of([b'w', n])).await, 1);
    }
    cluster.stop_all().await;
}

/// BP-15: every node takes proposals, and every node knows whom they go to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_are_taken_at_any_node() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let leader = cluster.leader(1).await;
    for node in cluster.running() {
        let group = cluster.group(node, 1);
        assert_eq!(group.status().leader.map(polyraft::NodeId::get), Some(leader));
        let applied = group.propose(add("anywhere")).await.expect("a healthy cluster");
        assert_eq!(number(applied.response.body()), node);
    }
    cluster.stop_all().await;
}

/// BP-16: the largest command passes, from a follower too; one byte more is refused unproposed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversize_is_refused_before_it_is_proposed() {
    let max = limits::COMMAND_BYTES_MAX;
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    for node in [cluster.leader(1).await, cluster.follower(1).await] {
        let group = cluster.group(node, 1);
        insist(&group, weight(max)).await;
        let before = group.status().last;
        let refused = group.propose(weight(max + 1)).await;
        let expected = |e: &ProposeError| matches!(e, ProposeError::TooLarge { bytes, max: m, .. } if (*bytes, *m) == (max + 1, max));
        assert!(refused.as_ref().is_err_and(expected), "{refused:?}");
        let together = group.propose_batch(vec![weight(max), weight(max)]).await;
        assert!(matches!(together, Err(ProposeError::TooLarge { .. })), "{together:?}");
        let none = group.propose_batch(Vec::new()).await;
        assert!(matches!(none, Err(ProposeError::BatchLength { commands: 0, .. })), "{none:?}");
        let many = vec![add("a"); limits::BATCH_COMMANDS_MAX + 1];
        let many = group.propose_batch(many).await;
        assert!(matches!(many, Err(ProposeError::BatchLength { .. })), "{many:?}");
        assert!(group.status().last.get() <= before.get(), "something was proposed");
    }
    cluster.stop_all().await;
}

/// BP-17: a batch is one contiguous run or nothing, also when the leader dies under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_whole_or_absent_when_the_leader_dies() {
    const COMMANDS: u32 = 50;
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let leader = cluster.leader(1).await;
    let survivor = cluster.follower(1).await;
    let group = cluster.group(survivor, 1);
    let key = |batch: u32, n: u32| format!("{batch}-{n}");
    let mut batches = JoinSet::new();
    for batch in 0..40_u32 {
        let group = group.clone();
        let commands = (0..COMMANDS).map(|n| add(key(batch, n))).collect();
        batches.spawn(async move { (batch, group.propose_batch(commands).await) });
    }
    let _ = batches.join_next().await.map(|first| first.expect("a caller never panics"));
    cluster.kill(leader);
    let mut outcomes = Vec::new();
    while let Some(outcome) = batches.join_next().await {
        outcomes.push(outcome.expect("a caller never panics"));
    }
    insist(&cluster.leading(1).await, add("settled")).await;
    cluster.equal_hash(1).await;
    for (batch, outcome) in outcomes {
        let mut present = 0;
        for n in 0..COMMANDS {
            present += stale_number(&group, count_of(key(batch, n))).await;
        }
        assert!(present == 0 || present == u64::from(COMMANDS), "batch {batch}: {present}");
        if let Ok(applied) = outcome {
            assert_eq!((present, applied.responses.len()), (u64::from(COMMANDS), 50));
        }
    }
    cluster.stop_all().await;
}

/// BP-20: 64 producers on one group share entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_producers_share_entries() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let group = cluster.leading(1).await;
    let before = group.status().last.get();
    let mut producers = JoinSet::new();
    for producer in 0..64_u64 {
        let group = group.clone();
        producers.spawn(async move {
            for n in 0..50 {
                group.propose(add(format!("{producer}-{n}"))).await.expect("a healthy cluster");
            }
        });
    }
    while let Some(done) = producers.join_next().await {
        done.expect("a producer never panics");
    }
    let entries = group.status().last.get() - before;
    println!("{entries} entries for {} proposals", 64 * 50);
    assert!(entries * 10 < 64 * 50, "{entries} entries for {} proposals", 64 * 50);
    assert_eq!(stale_number(&group, total()).await, 64 * 50);
    cluster.stop_all().await;
}

/// BP-21: every figure of a batcher moves for its cause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stat_moves() {
    let tiny = BatchingConfig { in_flight_max: 1, ..BatchingConfig::tiny() };
    let (mut cluster, group, first) = held(tiny).await;
    let brief = group.with_deadline(Duration::from_millis(100));
    let waiting: Vec<_> = (0..8_u8).map(|n| propose(&brief, add([n]))).collect();
    let full = stats_when(&group, "a full queue", |s| s.pending_commands == 8).await;
    assert_eq!((full.pending_units, full.in_flight, full.cut_units), (8, 1, 1));
    assert!(full.pending_bytes > 0 && full.cut_bytes > 0, "{full:?}");
    assert!(brief.propose(add("ninth")).await.is_err());
    for outcome in waiting {
        assert!(outcome.await.expect("a caller never panics").is_err());
    }
    let late = stats_when(&group, "expired units", |s| s.expired_units == 8).await;
    assert_eq!((late.refused_units, late.submitted_units, late.pending_units), (1, 10, 0));
    cluster.bench(1, 1).open_gate();
    ok(first).await;
    let idle = stats_when(&group, "nothing in flight", |s| s.in_flight == 0).await;
    assert_eq!((idle.cut_commands, idle.pending_bytes), (1, 0));
    cluster.stop_all().await;
}

/// BP-10, EM-4: a deadline that passes after the proposal says that it may still commit, and it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_outcome_is_unknown_and_may_be_real() {
    let limits =
        LimitsConfig { proposal_deadline: Duration::from_millis(300), ..LimitsConfig::default() };
    let mut cluster = Cluster::start(Shape::new(1, 1).limits(limits)).await;
    let group = cluster.leading(1).await;
    cluster.bench(1, 1).close_gate();
    let late = group.propose(add("late")).await.expect_err("the gate is closed");
    assert!(matches!(late, ProposeError::TimedOut { .. }), "{late:?}");
    assert!(late.may_have_committed());
    cluster.bench(1, 1).open_gate();
    wait_until(DEADLINE, "all applied", || group.status().applied == group.status().last).await;
    assert_eq!(stale_number(&group, count_of("late")).await, 1);
    cluster.stop_all().await;
}
