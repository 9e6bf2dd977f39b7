//! Goal: what an embedder is promised of a node as a whole (RT, ST, EM, SH), through public calls.
//! Method: many callers, dropped calls, floods and stops; every call must end, typed, and the
//! ledger's state must agree with what was said.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft::chaos::{Direction, Fault, LinkFault};
use polyraft::{
    AppliedBatch, BatchingConfig, GroupHandle, NodeConfig, NodeId, ProposeError, ReadError, Role,
};
use polyraft_tests::cluster::{
    Cluster, DEADLINE, Machines, Shape, hand_over, insist, stale_number, wait_for, wait_until,
};
use polyraft_tests::machines::{Ledger, add, count_of, number, total};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// RT-1: 64 callers at once, on one group through one handle: one actor orders them all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_callers_are_ordered_by_one_actor() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    let group = cluster.leading(1).await;
    let mut callers = JoinSet::new();
    for caller in 0..64_u64 {
        let group = group.clone();
        callers.spawn(async move {
            let mut positions = Vec::new();
            for n in 0..10 {
                let applied = group.propose(add(format!("{caller}-{n}"))).await.expect("healthy");
                positions.push((applied.index, applied.sub_index));
            }
            assert!(positions.is_sorted(), "a caller's own order is kept");
            positions
        });
    }
    let mut positions = Vec::new();
    while let Some(own) = callers.join_next().await {
        positions.extend(own.expect("a caller never panics"));
    }
    positions.sort_unstable();
    assert!(positions.windows(2).all(|w| w[0] < w[1]), "two callers have one position");
    assert_eq!(stale_number(&group, total()).await, 640);
    cluster.equal_hash(1).await;
    cluster.stop_all().await;
}

/// What a flood of one kind of call ended as.
#[derive(Debug, Default)]
struct Flood {
    answered: u64,
    overloaded: u64,
    timed_out: u64,
}

impl Flood {
    fn count<T, E>(&mut self, outcome: &Result<T, E>, kind: impl Fn(&E) -> Option<bool>) {
        match outcome.as_ref().map_err(kind) {
            Ok(_) => self.answered += 1,
            Err(Some(true)) => self.overloaded += 1,
            Err(Some(false)) => self.timed_out += 1,
            Err(None) => panic!("neither an overload nor a deadline"),
        }
    }
}

/// RT-2: every mailbox that a caller can reach is flooded while the machine stands: the excess is
/// refused at once and by name, the rest ends by its deadline, and the group goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_are_refused_by_name() {
    const CALLS: u64 = 80_000;
    let batching = BatchingConfig { queue_commands_max: 1_000, ..BatchingConfig::default() };
    let mut cluster = Cluster::start(Shape::new(1, 1).batching(batching)).await;
    let group = cluster.leading(1).await.with_deadline(Duration::from_secs(2));
    let term = group.status().term;
    cluster.bench(1, 1).close_gate();
    let (mut proposals, mut reads, mut stale) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for _ in 0..CALLS {
        let of = |group: &GroupHandle| group.clone();
        let (a, b, c) = (of(&group), of(&group), of(&group));
        proposals.spawn(async move { a.propose(add("flood")).await });
        reads.spawn(async move { b.read(total()).await });
        stale.spawn(async move { c.read_stale(total()).await });
    }
    let mut flood = Flood::default();
    while let Some(outcome) = proposals.join_next().await {
        flood.count(&outcome.expect("no panic"), |error| match error {
            ProposeError::Overloaded { .. } => Some(true),
            ProposeError::TimedOut { .. } | ProposeError::Expired { .. } => Some(false),
            _ => None,
        });
    }
    assert!(flood.overloaded > 0 && flood.answered == 0, "{flood:?}");
    println!("proposals: {flood:?}");
    for mut kind in [reads, stale] {
        let mut flood = Flood::default();
        while let Some(outcome) = kind.join_next().await {
            flood.count(&outcome.expect("no panic"), |error| match error {
                ReadError::Overloaded { .. } => Some(true),
                ReadError::TimedOut { .. } => Some(false),
                _ => None,
            });
        }
        assert!(flood.overloaded > 0, "{flood:?}");
        println!("reads: {flood:?}");
    }
    cluster.bench(1, 1).open_gate();
    let group = group.with_deadline(DEADLINE);
    // What is still ahead may be too much for a while; a refused proposal was not proposed.
    let until = Instant::now() + DEADLINE;
    while let Err(error) = group.propose(add("after")).await {
        assert!(matches!(error, ProposeError::Overloaded { .. }), "{error:?}");
        assert!(Instant::now() < until, "the flood is over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let read = group.read(count_of("after")).await.expect("the flood is over");
    assert_eq!((number(&read), group.status().term), (1, term));
    cluster.stop_all().await;
}

/// RT-2: while no leader is to be had, reads that wait for one are bounded too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_without_a_leader_are_bounded() {
    let machines: Machines = Arc::new(|_, _| Box::new(Ledger::new(Arc::default())));
    let mut cluster = Cluster::prepare(Shape::new(3, 1), machines).await;
    cluster.start_node(1).await;
    let group = cluster.group(1, 1).with_deadline(Duration::from_secs(600));
    let mut reads = JoinSet::new();
    let (mut is_bounded, until) = (false, Instant::now() + DEADLINE);
    while !is_bounded {
        assert!(Instant::now() < until, "{} reads wait", reads.len());
        // Beyond that the group's thread has not got to them yet, on a busy machine.
        for _ in reads.len()..(reads.len() + 500).min(50_000) {
            let group = group.clone();
            reads.spawn(async move { group.read(total()).await });
        }
        tokio::task::yield_now().await;
        while let Some(outcome) = reads.try_join_next() {
            match outcome.expect("a reader never panics") {
                Err(ReadError::Overloaded { what, .. }) => is_bounded |= what == "waiting reads",
                Err(ReadError::TimedOut { .. }) => {}
                other => panic!("nobody leads: {other:?}"),
            }
        }
    }
    cluster.stop_all().await;
    while let Some(outcome) = reads.join_next().await {
        assert!(outcome.expect("a reader never panics").is_err(), "nobody led");
    }
}

/// ST-2: a hundred groups with one proposal each share syncs: one writer commits for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_groups_share_commits() {
    const GROUPS: u64 = 100;
    let mut cluster = Cluster::start(Shape::new(1, GROUPS)).await;
    let groups: Vec<GroupHandle> = (1..=GROUPS).map(|g| cluster.group(1, g)).collect();
    let settled = || groups.iter().all(|g| g.status().applied == g.status().last);
    wait_until(DEADLINE, "nothing is left to write", settled).await;
    let mut fewest = u64::MAX;
    // A busy machine may run the callers one by one: one burst that is taken as a burst is enough.
    for round in 0..20_u64 {
        let before = cluster.node(1).status().log_writer.commits;
        let mut callers = JoinSet::new();
        for group in groups.clone() {
            callers.spawn(async move { group.propose(add(round.to_be_bytes())).await });
        }
        while let Some(outcome) = callers.join_next().await {
            outcome.expect("no panic").expect("a healthy node");
        }
        fewest = fewest.min(cluster.node(1).status().log_writer.commits - before);
        if fewest <= 10 {
            break;
        }
    }
    println!("{fewest} commits for {GROUPS} proposals");
    assert!(fewest <= 10, "{fewest} commits for {GROUPS} proposals");
    cluster.stop_all().await;
}

/// RT-7: statuses are answered while a commit stands still, and say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_does_not_wait_for_the_disk() {
    const SOON_OVER: Duration = Duration::from_millis(500);
    let mut cluster = Cluster::start(Shape::new(1, 1)).await;
    let group = cluster.leading(1).await;
    cluster.slow_disks(Duration::from_secs(5));
    let proposal = tokio::spawn(async move { group.propose(add("late")).await });
    let log_writer = || cluster.node(1).status().log_writer;
    // A commit that was under way before the disks were slow is soon over.
    let is_stuck = || log_writer().in_commit_for.is_some_and(|so_far| so_far > SOON_OVER);
    wait_until(DEADLINE, "a commit is under way", is_stuck).await;
    let before = log_writer().commits;
    for _ in 0..100 {
        assert_eq!(cluster.group(1, 1).status().health, polyraft::Health::Healthy);
        assert!(log_writer().in_commit_for.is_some(), "the commit ended before it was asked about");
    }
    assert_eq!(log_writer().commits, before, "all of them were answered during one commit");
    cluster.slow_disks(Duration::ZERO);
    proposal.await.expect("no panic").expect("the disk was slow, not broken");
    cluster.stop_all().await;
}

/// EM-6: calls that are dropped half-way harm nobody: their commands apply once or never, and what
/// comes after is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_calls_are_harmless() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    for node in cluster.running() {
        let group = cluster.group(node, 1);
        for n in 0..50_u64 {
            let patience = Duration::from_micros(n * 40);
            let key = format!("{node}-{n}");
            let _ = tokio::time::timeout(patience, group.propose(add(&key))).await;
            let _ = tokio::time::timeout(patience, group.read(total())).await;
            let _ = tokio::time::timeout(patience, group.propose_batch(vec![add(&key); 2])).await;
        }
        group.propose(add("after")).await.expect("a healthy cluster");
    }
    cluster.equal_hash(1).await;
    let group = cluster.leading(1).await;
    for node in cluster.running() {
        for n in 0..50 {
            let count = stale_number(&group, count_of(format!("{node}-{n}"))).await;
            assert!(count <= 3, "{node}-{n} applied {count} times");
        }
    }
    let stats = wait_for(DEADLINE, "nothing in flight", || async {
        group.batcher_stats().await.filter(|s| s.in_flight == 0)
    })
    .await;
    assert_eq!(stats.pending_units, 0);
    cluster.stop_all().await;
}

/// EM-4: every error says whether the proposal may still commit.
#[test]
fn errors_say_whether_a_plain_retry_is_safe() {
    let group = polyraft::GroupId::new(1);
    let deadline = Duration::from_secs(1);
    let unsure = [ProposeError::Unknown { group }, ProposeError::TimedOut { group, deadline }];
    let sure = [
        ProposeError::NotLeader { group, term: polyraft::Term::new(1), leader: None },
        ProposeError::Overloaded { group, what: "a queue" },
        ProposeError::Expired { group, deadline },
        ProposeError::TooLarge { group, bytes: 2, max: 1 },
        ProposeError::BatchLength { group, commands: 0, max: 1 },
        ProposeError::Superseded { group },
        ProposeError::Faulted { group },
        ProposeError::Stopped { group },
    ];
    assert!(unsure.iter().all(ProposeError::may_have_committed));
    assert!(!sure.iter().any(ProposeError::may_have_committed));
    let hopeless = sure.iter().filter(|error| !error.is_retryable()).count();
    assert_eq!(hopeless, 2, "only what is too large is refused again");
}

/// EM-5: a key that nobody knows is refused, by name, with every other mistake of the file.
#[test]
fn unknown_keys_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("node.toml");
    let text = "node_id = 1\nspeling = true\n[cluster]\nname = \"c\"\n[limits]\ngroup_max = 3\n";
    std::fs::write(&file, text).expect("a new file");
    let errors = NodeConfig::from_toml_file(&file).expect_err("two unknown keys").to_string();
    for key in ["speling", "limits.group_max", "cluster.nodes"] {
        assert!(errors.contains(key), "{key} is not in: {errors}");
    }
}

async fn propose_until(group: GroupHandle, stopped: watch::Receiver<bool>) -> (u64, ProposeError) {
    let mut acknowledged = 0;
    loop {
        let batch: Result<AppliedBatch, _> = group.propose_batch(vec![add("x"), add("y")]).await;
        match batch {
            Ok(_) => acknowledged += 2,
            Err(error) if *stopped.borrow() => return (acknowledged, error),
            Err(error) => panic!("before the stop: {error}"),
        }
    }
}

/// SH-1, SH-3: a stop under load ends every call, typed and long before its deadline; leadership
/// goes to the others before the node has ended, over links on which that takes a while, and they go
/// on; a second stop is harmless; nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_leaves_no_caller_behind() {
    let mut cluster = Cluster::start(Shape::new(3, 1).with_chaos()).await;
    let leader = cluster.leader(1).await;
    for peer in (1..=3).filter(|peer| *peer != leader) {
        let mut slow = LinkFault::new(NodeId::new(peer), Direction::Both);
        slow.delay = Duration::from_millis(150);
        let chaos = cluster.node(leader).chaos().expect("asked for");
        chaos.inject(Fault::Link(slow)).expect("a fault that is possible");
    }
    let node = cluster.node(leader).clone();
    let group = cluster.group(leader, 1).with_deadline(Duration::from_secs(600));
    let (stop, stopped) = watch::channel(false);
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        callers.spawn(propose_until(group.clone(), stopped.clone()));
    }
    let busy = || group.status().applied.get() > 10;
    wait_until(DEADLINE, "load", busy).await;
    stop.send(true).expect("callers listen");
    cluster.stop(leader).await;
    node.stop().await;
    assert_ne!(group.status().role, Role::Leader, "it went before somebody had taken over");
    let mut acknowledged = 0;
    let ended = async {
        while let Some(caller) = callers.join_next().await {
            let (own, error) = caller.expect("a caller never panics");
            acknowledged += own;
            let typed =
                matches!(error, ProposeError::Stopped { .. } | ProposeError::Unknown { .. });
            assert!(typed, "{error:?}");
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.expect("no caller waits for its deadline");
    let dead = group.propose(add("dead")).await;
    assert!(matches!(dead, Err(ProposeError::Stopped { .. })), "{dead:?}");
    let dead = group.read(total()).await;
    assert!(matches!(dead, Err(ReadError::Stopped { .. })), "{dead:?}");
    let next = cluster.leading(1).await;
    let found = number(&next.read(total()).await.expect("two of three are a quorum"));
    assert!(found >= acknowledged, "{found} of {acknowledged} acknowledged");
    assert_ne!(next.status().leader, Some(NodeId::new(leader)));
    cluster.stop_all().await;
}

/// SH-3: calls that are stuck behind a standing machine end with the node, readers included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_calls_end_with_the_node() {
    let cluster = Cluster::start(Shape::new(1, 1)).await;
    let group = cluster.leading(1).await.with_deadline(Duration::from_secs(600));
    let bench = cluster.bench(1, 1);
    bench.close_gate();
    let (mut proposals, mut reads) = (JoinSet::new(), JoinSet::new());
    for n in 0..10_u8 {
        let (a, b) = (group.clone(), group.clone());
        proposals.spawn(async move { a.propose(add(Bytes::copy_from_slice(&[n]))).await });
        reads.spawn(async move { b.read(total()).await });
    }
    wait_until(DEADLINE, "the machine stands", || bench.applied() == 1).await;
    // A node waits for a machine that is at work: it is let go once the stop has begun.
    let node = cluster.node(1).clone();
    let stopping = tokio::spawn(async move { node.stop().await });
    let is_stopped = || group.status().health == polyraft::Health::Stopped;
    wait_until(DEADLINE, "the stop has begun", is_stopped).await;
    bench.open_gate();
    tokio::time::timeout(DEADLINE, stopping).await.expect("the node stops").expect("no panic");
    let ended = async {
        while let Some(outcome) = proposals.join_next().await {
            let _typed: Result<_, ProposeError> = outcome.expect("no panic").map(drop);
        }
        while let Some(outcome) = reads.join_next().await {
            let _typed: Result<_, ReadError> = outcome.expect("no panic").map(drop);
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.expect("no caller waits for its deadline");
}

/// EV-2: whoever falls behind with the events is told how many it missed, and nobody waits for it: the
/// group serves, and another subscriber misses none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_falls_behind_is_told() {
    let mut cluster = Cluster::start(Shape::new(3, 1)).await;
    cluster.leading(1).await.propose(add("before")).await.expect("a healthy cluster");
    let (group, mut prompt, mut late) = {
        let group = cluster.group(1, 1);
        (group.clone(), group.subscribe(), group.subscribe())
    };
    // A change of leader is two events or more at each node.
    let mut seen = Vec::new();
    let mut handed_over = 0;
    while seen.len() < 300 {
        hand_over(&cluster.everywhere(1)).await;
        handed_over += 1;
        while let Ok(event) = prompt.try_recv() {
            seen.push(event);
        }
    }
    let missed = match late.try_recv() {
        Err(TryRecvError::Lagged(missed)) => usize::try_from(missed).expect("a few hundred"),
        other => panic!("not told after {} events: {other:?}", seen.len()),
    };
    let rest: Vec<_> = std::iter::from_fn(|| late.try_recv().ok()).collect();
    seen.extend(std::iter::from_fn(|| prompt.try_recv().ok()));
    let kept = rest.len().min(seen.len() - missed);
    assert!(kept >= 200, "{missed} missed of {}, {} kept", seen.len(), rest.len());
    assert_eq!(rest[..kept], seen[missed..missed + kept], "what is kept comes in order");
    assert_eq!(prompt.try_recv(), Err(TryRecvError::Empty), "who keeps up misses nothing");
    insist(&group, add("after")).await;
    println!("{} events of {handed_over} changes of leader, {missed} missed", seen.len());
    cluster.stop_all().await;
}
