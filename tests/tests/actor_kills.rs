//! Goal: whatever actor dies, its node recovers, and nothing acknowledged is lost or applied twice
//! (RT-5); an error at any step leaves a group healthy or faulted with an event, never hung (RT-12);
//! a stalled disk blocks neither the shards nor the status (RT-6, RT-7).
//! Method: real nodes on LMDB and QUIC under load, each kind of actor killed ten times by panic and by
//! stop in turn; nodes on memory disks that fail where they are told to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft::{GroupEvent, GroupHandle, GroupId, Health, NodeId, ProposeError, Term};
use polyraft_actors::guard::{Kill, KillMode};
use polyraft_actors::mailbox::ActorKind;
use polyraft_storage::memory::{FailedCommit, MemoryTable};
use polyraft_tests::actor_kill::{KINDS, is_whole, kill};
use polyraft_tests::cluster::{Cluster, DEADLINE, Machines, Shape, wait_until};
use polyraft_tests::ledger::{Ledger, Outcomes, command, counts};
use polyraft_tests::memory_node::{
    MemoryCluster, MemoryNode, MemoryOptions, Threads, propose, simulate,
};
use polyraft_tests::store_faults::{self, StoreFault};
use tokio::sync::broadcast::Receiver;

const KILLS_PER_KIND: u64 = 10;
const PROPOSERS: u64 = 4;

/// Numbers proposed through every node, and what became of them.
struct Load {
    next: AtomicU64,
    stop: AtomicBool,
    outcomes: Mutex<Outcomes>,
}

impl Load {
    async fn propose(&self, group: &GroupHandle) -> Result<(), ProposeError> {
        let number = self.next.fetch_add(1, Relaxed);
        let outcome = group.propose(command(number)).await;
        self.outcomes.lock().expect("no panic while held").note(number, &outcome);
        outcome.map(|_| ())
    }

    async fn run(self: Arc<Self>, groups: Vec<GroupHandle>, from: usize) {
        for at in from.. {
            if self.stop.load(Relaxed) {
                return;
            }
            if self.propose(&groups[at % groups.len()]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

fn ledgers(panics_at: Option<(u64, u64)>) -> Machines {
    Arc::new(move |_: NodeId, spec| {
        let at = panics_at.filter(|(group, _)| *group == spec.id().get()).map(|(_, at)| at);
        Box::new(Ledger { panics_at: at, ..Ledger::default() })
    })
}

/// Kills `kind` once on `node` and waits until the node is whole and serves again.
async fn kill_and_recover(cluster: &Cluster, load: &Load, kind: ActorKind, at: u64) -> Duration {
    let node = 1 + at % 3;
    let mode = if at.is_multiple_of(2) { KillMode::Panic } else { KillMode::Stop };
    let (parts, group) = (cluster.node(node).parts(), cluster.group(node, 1));
    let mut gone = None;
    wait_until(DEADLINE, "an actor to kill", || {
        gone = kill(parts, kind, mode);
        gone.is_some()
    })
    .await;
    let since = Instant::now();
    let gone = gone.expect("it was just killed");
    wait_until(DEADLINE, "the actor's end", &*gone).await;
    wait_until(DEADLINE, "every actor's next life", || is_whole(parts)).await;
    while load.propose(&group).await.is_err() {
        let what = format!("{} {at}: no service after {DEADLINE:?}", kind.as_str());
        assert!(since.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    since.elapsed()
}

/// The highest term of each group.
fn terms(cluster: &Cluster) -> [Term; 2] {
    [1, 2].map(|group| {
        let terms = cluster.everywhere(group).into_iter().map(|handle| handle.status().term);
        terms.max().expect("three nodes run")
    })
}

type Events = Vec<Receiver<GroupEvent>>;

fn all_events(cluster: &Cluster) -> Events {
    let groups = [1, 2].into_iter().flat_map(|group| cluster.everywhere(group));
    groups.map(|group| group.subscribe()).collect()
}

/// EV-1: each death of a group's actor is told once, by its kind; no other's death is told of groups.
async fn check_restarts(kind: ActorKind, events: &mut Events) {
    let of_groups = matches!(kind, ActorKind::Group | ActorKind::Batcher | ActorKind::Applier);
    let expected = of_groups.then_some((kind.as_str(), KILLS_PER_KIND));
    let mut restarted = BTreeMap::<_, u64>::new();
    let mut lives_before = vec![1; events.len()];
    // The last is told a moment after its actors run.
    wait_until(DEADLINE, "restarts to be told", || {
        for (events, before) in events.iter_mut().zip(&mut lives_before) {
            while let Ok(event) = events.try_recv() {
                let GroupEvent::ActorRestarted { actor, lives } = event else { continue };
                assert!(lives > *before, "{actor}: life {lives} after {before}");
                *before = lives;
                *restarted.entry(actor).or_default() += 1;
            }
        }
        restarted.values().sum::<u64>() >= expected.map_or(0, |(_, kills)| kills)
    })
    .await;
    assert_eq!(restarted, BTreeMap::from_iter(expected), "killed: {}", kind.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_actor_killed_ten_times_under_load() {
    let mut cluster = Cluster::prepare(Shape::new(3, 2), ledgers(None)).await;
    cluster.start_all().await;
    let mut events = all_events(&cluster);
    let load = Arc::new(Load {
        next: AtomicU64::new(1),
        stop: AtomicBool::new(false),
        outcomes: Mutex::default(),
    });
    let proposers: Vec<_> = (0..PROPOSERS)
        .map(|from| tokio::spawn(load.clone().run(cluster.everywhere(1), from as usize)))
        .collect();
    for kind in KINDS {
        let (mut slowest, before) = (Duration::ZERO, terms(&cluster));
        for at in 0..KILLS_PER_KIND {
            slowest = slowest.max(kill_and_recover(&cluster, &load, kind, at).await);
        }
        println!("{}: {KILLS_PER_KIND} kills, slowest recovery {slowest:?}", kind.as_str());
        check_restarts(kind, &mut events).await;
        if !matches!(kind, ActorKind::Group | ActorKind::Batcher | ActorKind::Applier) {
            assert_eq!(terms(&cluster), before, "{} deaths cost an election", kind.as_str());
        }
        for node in cluster.running() {
            for group in cluster.node(node).groups() {
                let health = group.status().health;
                assert!(!matches!(health, Health::Faulted(_)), "{}: {health:?}", group.name());
            }
        }
    }
    load.stop.store(true, Relaxed);
    for proposer in proposers {
        proposer.await.expect("a proposer never panics");
    }
    let handles = cluster.everywhere(1);
    let commit = handles.iter().map(|g| g.status().commit).max().expect("three nodes run");
    wait_until(DEADLINE, "all to apply", || handles.iter().all(|g| g.status().applied >= commit))
        .await;
    let mut answers = Vec::new();
    for handle in &handles {
        answers.push(counts(&handle.read_stale(Bytes::new()).await.expect("a healthy group")));
    }
    let outcomes = std::mem::take(&mut *load.outcomes.lock().expect("the proposers ended"));
    println!(
        "{} acknowledged, {} unknown, {} refused",
        outcomes.acknowledged.len(),
        outcomes.unknown.len(),
        outcomes.refused.len()
    );
    answers.iter().for_each(|counts| outcomes.check(counts));
    assert!(answers.iter().all(|counts| *counts == answers[0]), "replicas differ");
    assert!(outcomes.acknowledged.len() as u64 >= KINDS.len() as u64 * KILLS_PER_KIND);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_quarantines_its_group_alone() {
    const POISON: u64 = 666;
    let mut cluster = Cluster::prepare(Shape::new(3, 2), ledgers(Some((2, POISON)))).await;
    cluster.start_all().await;
    let mut events: Vec<_> = cluster.everywhere(2).iter().map(GroupHandle::subscribe).collect();
    cluster.group(1, 2).propose(command(1)).await.expect("a healthy group");
    let short = Duration::from_millis(200);
    let poisoned = cluster.group(1, 2).with_deadline(short).propose(command(POISON)).await;
    assert!(poisoned.is_err(), "{poisoned:?}");

    let (mut number, mut failed) = (1, 0);
    let since = Instant::now();
    // A majority, beyond which nobody can tell the last one that the entry is committed.
    let is_faulted = |group: &GroupHandle| matches!(group.status().health, Health::Faulted(_));
    while cluster.everywhere(2).iter().filter(|group| is_faulted(group)).count() < 2 {
        assert!(since.elapsed() < 2 * DEADLINE, "not quarantined");
        for group in cluster.everywhere(1) {
            // A link that is replaced may leave one unknown; each has a number of its own.
            failed += u64::from(group.propose(command(number)).await.is_err());
            number += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = since.elapsed();
    println!(
        "quarantined by a majority after {took:?}; {number} others meanwhile, {failed} failed"
    );
    assert!(failed * 20 <= number, "the other group serves throughout: {failed} of {number}");
    for (group, events) in cluster.everywhere(2).iter().zip(&mut events) {
        if !is_faulted(group) {
            continue;
        }
        let mut faults = 0;
        while let Ok(event) = events.try_recv() {
            faults += u32::from(matches!(event, GroupEvent::GroupFaulted { .. }));
        }
        assert_eq!(faults, 1, "one event per cause");
        let refused = group.propose(command(2)).await;
        assert_eq!(refused, Err(ProposeError::Faulted { group: GroupId::new(2) }));
    }
    assert!(cluster.everywhere(1).iter().all(|g| g.status().health == Health::Healthy));
    cluster.stop_all().await;
}

/// Where an error is injected, on the node that leads.
#[derive(Debug, Clone, Copy)]
enum Step {
    CommitFails,
    CommitRefusesGroup,
    CommitIsWrittenAndFails,
    CommitIsLost,
    FlushIsLost,
    FlushIsWrittenAndFails,
    LogFillsUp,
    StateFillsUp,
    ApplyFails,
    ApplyPanics,
}

const POISON: u64 = 1 << 40;

fn inject(step: Step, node: &MemoryNode) {
    let (disks, stores) = (&node.remains.disks, &node.remains.store_faults);
    match step {
        Step::CommitFails => stores.arm(store_faults::Step::Commit, StoreFault::Io),
        Step::CommitRefusesGroup => stores.arm(store_faults::Step::Commit, StoreFault::Corrupt),
        Step::CommitIsWrittenAndFails => disks.log.fail_next_commit(FailedCommit::Written),
        Step::CommitIsLost => disks.log.fail_next_commit(FailedCommit::Lost),
        Step::FlushIsLost => disks.state.fail_next_commit(FailedCommit::Lost),
        Step::FlushIsWrittenAndFails => disks.state.fail_next_commit(FailedCommit::Written),
        Step::LogFillsUp => fill_for_a_while(disks.log.clone()),
        Step::StateFillsUp => fill_for_a_while(disks.state.clone()),
        Step::ApplyFails | Step::ApplyPanics => {}
    }
}

/// A full disk, until someone makes room.
fn fill_for_a_while(disk: MemoryTable) {
    disk.set_full(true);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(10)).await;
        disk.set_full(false);
    });
}

/// Whether every replica is served, or says why not. An entry that no machine can apply faults every
/// replica that knows it to be committed: a majority, beyond which nobody can tell the others.
fn is_settled(cluster: &MemoryCluster, group: GroupId, poisons: bool) -> bool {
    let health = |node: &MemoryNode| node.status(group).expect("the test created it").health;
    let is_faulted = |node: &&MemoryNode| matches!(health(node), Health::Faulted(_));
    let is_served = |node: &MemoryNode| health(node) == Health::Healthy || is_faulted(&node);
    let faulted = cluster.nodes.iter().filter(is_faulted).count();
    if poisons { faulted > cluster.nodes.len() / 2 } else { cluster.nodes.iter().all(is_served) }
}

fn kill_supervisor(node: &MemoryNode) {
    let supervisor = node.parts.supervisor().expect("it runs");
    supervisor.try_send(Kill { mode: KillMode::Stop }).expect("an empty mailbox");
}

/// One injection: nothing hangs, whatever was acknowledged stays, and who does not serve says so.
async fn injected(step: Step, supervisor_dies: bool) {
    const GROUP: GroupId = GroupId::new(1);
    let seconds = Duration::from_secs;
    let at = |asked: bool| asked.then_some(POISON);
    let ledger = Ledger {
        panics_at: at(matches!(step, Step::ApplyPanics)),
        fails_at: at(matches!(step, Step::ApplyFails)),
        ..Ledger::default()
    };
    let options = MemoryOptions {
        machine: Arc::new(move |_, _| Box::new(ledger.clone())),
        ..MemoryOptions::new(Threads::One, 11)
    };
    let cluster = MemoryCluster::start(3, options);
    cluster.create_group(GROUP).await;
    let leader = cluster.leader(GROUP, DEADLINE).await;
    let mut events: Vec<_> = cluster.nodes.iter().map(|n| n.cell(GROUP).subscribe()).collect();
    let mut outcomes = Outcomes::default();
    if supervisor_dies {
        cluster.nodes.iter().for_each(kill_supervisor);
    }
    inject(step, cluster.node(leader));
    let poisons = matches!(step, Step::ApplyFails | Step::ApplyPanics);
    for number in 0..200 {
        let number = if number == 20 && poisons { POISON } else { number };
        let cell = cluster.nodes[(number % 3) as usize].cell(GROUP);
        // Panics if it is not answered in time.
        let outcome = propose(&cell, GROUP, command(number), seconds(1)).await;
        outcomes.note(number, &outcome);
        // While a disk is full they are refused at once: the last ones come long after it has room.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    polyraft_tests::memory_node::wait_until("settled", seconds(600), || {
        is_settled(&cluster, GROUP, poisons)
    })
    .await;
    for (node, events) in cluster.nodes.iter().zip(&mut events) {
        let mut raised = 0;
        while let Ok(event) = events.try_recv() {
            raised += usize::from(matches!(event, GroupEvent::GroupFaulted { .. }));
        }
        let health = node.status(GROUP).expect("it is here").health;
        let faulted = matches!(health, Health::Faulted(_));
        assert_eq!(raised, usize::from(faulted), "{step:?} on node {}: {health:?}", node.id);
        assert!(
            faulted || node.parts.storage_failure().is_none(),
            "{step:?}: a failed store serves"
        );
        if faulted {
            continue;
        }
        let answer = node.read_stale(GROUP, Bytes::new(), seconds(5)).await;
        match answer {
            Ok(rows) => outcomes.check_prefix(&counts(&rows)),
            // It may be about to hear of the entry that no machine can apply.
            Err(error) => assert!(poisons, "{step:?}: a healthy group does not answer: {error}"),
        }
    }
    let acknowledged = outcomes.acknowledged.len();
    if poisons {
        assert!(acknowledged >= 20, "{step:?}: {acknowledged}");
        assert!(!outcomes.acknowledged.contains(&POISON), "{step:?}: nobody could apply it");
    } else {
        assert!(acknowledged > 50, "{step:?}: the others took over, {acknowledged}");
    }
    println!("{step:?}: {acknowledged} of 200 acknowledged");
    cluster.stop().await;
}

#[test]
fn an_error_at_any_step_is_served_or_said() {
    for step in [
        Step::CommitFails,
        Step::CommitRefusesGroup,
        Step::CommitIsWrittenAndFails,
        Step::CommitIsLost,
        Step::FlushIsLost,
        Step::FlushIsWrittenAndFails,
        Step::LogFillsUp,
        Step::StateFillsUp,
        Step::ApplyFails,
        Step::ApplyPanics,
    ] {
        for supervisor_dies in [false, true] {
            simulate(injected(step, supervisor_dies));
        }
    }
}

/// Goal: a disk that stalls for 2 s holds up neither the shards nor whoever asks for the status.
/// The margins are for busy machines; what was measured is printed.
#[test]
fn a_stalled_disk_blocks_no_shard_and_no_status() {
    const STALL: Duration = Duration::from_secs(2);
    const GROUP: GroupId = GroupId::new(1);
    actix::System::new().block_on(async {
        let mut options = MemoryOptions::new(Threads::Own, 3);
        options.settings.election_ticks = 150;
        let cluster = MemoryCluster::start(3, options);
        cluster.create_group(GROUP).await;
        let leader = cluster.leader(GROUP, DEADLINE).await;
        let node = cluster.node(leader);
        node.propose(GROUP, command(1), DEADLINE).await.expect("a healthy group");
        let stores = &node.remains.store_faults;
        stores.set_commit_takes(STALL);
        let cell = node.cell(GROUP);
        let stalled =
            tokio::spawn(async move { propose(&cell, GROUP, command(2), DEADLINE).await });
        let stalls = node.parts.stalls().expect("arbiters of their own are watched");
        wait_until(DEADLINE, "a commit under way", || {
            node.parts.log_progress.in_commit_for(node.parts.clock.now()).is_some()
        })
        .await;
        let mut status_took = Vec::new();
        while let Some(stalled_for) = node.parts.log_progress.in_commit_for(node.parts.clock.now())
        {
            if stalled_for > STALL / 2 {
                stores.set_commit_takes(Duration::ZERO);
            }
            let asked = Instant::now();
            assert!(node.status(GROUP).is_some());
            status_took.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        status_took.sort();
        let median = status_took[status_took.len() / 2];
        assert!(median < Duration::from_millis(10), "status took {median:?}");
        for (place, stall) in stalls.max() {
            println!("{place}: worst stall {stall:?}");
            assert!(stall < STALL / 4, "{place} was blocked for {stall:?}");
        }
        stalled.await.expect("no panic").expect("committed in the end");
        assert_eq!(node.status(GROUP).expect("it is here").term.get(), 1, "no election");
        cluster.stop().await;
    });
}
