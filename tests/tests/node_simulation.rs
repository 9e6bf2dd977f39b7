//! Goal: whole nodes of production actors keep every promise, whatever the seed.
//!
//! Method: a hundred seeds of `node_sim`: network, disks, clocks, crashes and dead actors under clients
//! on every node, judged at every step, healed, and looked at again; each history is also given to a
//! search that trusts no log. Broken ports show that the judge would notice.

#[path = "node_simulation/second_opinion.rs"]
mod second_opinion;

use std::time::Duration;

use polyraft::{GroupId, NodeId};
use polyraft_tests::ledger::command;
use polyraft_tests::linearizability::{self, Contradiction, Heard, Log, Operation, Write};
use polyraft_tests::memory_node::{
    MemoryCluster, MemoryOptions, Threads, propose, simulate, wait_until,
};
use polyraft_tests::node_sim::{self, Counts, Fault, Report, Sabotage};
use second_opinion::wrong_keys;
use tokio::time::Instant;

const SEEDS: u64 = 100;
/// One in so many seeds is run a second time.
const REPLAYED_ONE_IN: u64 = 10;

/// How to see what went wrong.
fn rerun(report: &Report) -> String {
    let Report { seed, failure, .. } = report;
    let command = "cargo run -p polyraft-tests --bin sim -- --depth nodes";
    format!("{}\n  {command} --seed {seed} --trace", failure.as_deref().unwrap_or("no failure"))
}

#[test]
fn a_hundred_seeds_hold() {
    let (mut totals, mut keys) = (Counts::default(), 0);
    let mut searching = Duration::ZERO;
    for seed in 1..=SEEDS {
        let report = node_sim::run(seed, false);
        assert!(report.failure.is_none(), "{}", rerun(&report));
        if seed % REPLAYED_ONE_IN == 0 {
            assert_eq!(node_sim::run(seed, false), report, "seed {seed} does not replay");
        }
        totals.add_all(&report.counts);
        let histories = report.histories.into_iter().map(|(_, operations)| operations);
        let began = std::time::Instant::now();
        let (wrong, searched) = wrong_keys(histories.collect());
        searching += began.elapsed();
        assert!(wrong.is_empty(), "seed {seed}: no order for {wrong:?}, and the log has one");
        keys += searched;
    }
    println!("{keys} keys have an order, found in {searching:?}; {:#?}", totals.0);
    let faults = Fault::ALL.iter().map(|fault| fault.as_str());
    let actors = polyraft_tests::actor_kill::KINDS.iter().map(|kind| kind.as_str());
    let outcomes = ["acknowledged", "answered reads", "refused", "unknown", "answered late"];
    let missing: Vec<_> =
        faults.chain(actors).chain(outcomes).filter(|what| totals.of(what) == 0).collect();
    assert!(missing.is_empty(), "too quiet: {missing:?} never happened");
    assert!(totals.of("acknowledged") > 20 * SEEDS && totals.of("answered reads") > 15 * SEEDS);
}

/// Goal: each broken port is caught. Method: seeds until one fails; prints which.
#[test]
fn broken_ports_are_caught() {
    const SEEDS_MAX: u64 = 20;
    for sabotage in Sabotage::ALL {
        let caught = (1..=SEEDS_MAX).find_map(|seed| {
            let report = node_sim::run_sabotaged(seed, Some(sabotage), false);
            Some((seed, report.failure?))
        });
        let (seed, failure) = caught.unwrap_or_else(|| panic!("{sabotage:?} goes unnoticed"));
        println!("{sabotage:?}: caught by seed {seed}: {failure}");
    }
}

/// Goal: TK-7, TR-8, RD-2. Method: a leader is cut off, silently: it steps down within two election
/// timeouts and answers neither read nor write after that. A follower is cut off for a minute and comes
/// back: the term stays.
#[test]
fn isolation_ends_a_leadership_and_changes_no_term() {
    const GROUP: GroupId = GroupId::new(1);
    const DEADLINE: Duration = Duration::from_secs(60);
    // Ticks of 20 ms, 50 to 99 of them.
    const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
    simulate(async {
        let cluster = MemoryCluster::start(3, MemoryOptions::new(Threads::One, 5));
        cluster.create_group(GROUP).await;
        let leader = cluster.leader(GROUP, DEADLINE).await;
        cluster.node(leader).propose(GROUP, command(1), DEADLINE).await.expect("a healthy group");
        let term = cluster.node(leader).status(GROUP).expect("it is here").term;
        let follower = cluster.node(leader % 3 + 1);
        cut_off(&cluster, follower.id, true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(follower.status(GROUP).expect("it is here").term, term, "it asks, first");
        cut_off(&cluster, follower.id, false);
        follower.propose(GROUP, command(2), DEADLINE).await.expect("it follows again");
        tokio::time::sleep(4 * ELECTION_TIMEOUT).await;
        for node in &cluster.nodes {
            assert_eq!(node.status(GROUP).expect("it is here").term, term, "node {}", node.id);
        }

        let (old, cut_at) = (cluster.node(leader), Instant::now());
        cut_off(&cluster, old.id, true);
        let read = old.read(GROUP, command(2), 3 * ELECTION_TIMEOUT);
        let cell = old.cell(GROUP);
        let write = propose(&cell, GROUP, command(3), ELECTION_TIMEOUT);
        let leads = || old.status(GROUP).is_some_and(|s| s.role.as_str() == "leader");
        let stepped_down = wait_until("it to step down", 2 * ELECTION_TIMEOUT, || !leads());
        let (read, write, ()) = tokio::join!(read, write, stepped_down);
        println!("stepped down, with every answer, after {:?}", cut_at.elapsed());
        assert!(read.is_err(), "an isolated leader answers no read: {read:?}");
        assert!(write.expect_err("nor a write").may_have_committed());
        let elected = || {
            cluster.nodes.iter().any(|n| {
                n.id != old.id && n.status(GROUP).is_some_and(|s| s.role.as_str() == "leader")
            })
        };
        wait_until("the others to elect one", DEADLINE, elected).await;
        cut_off(&cluster, old.id, false);
        cluster.stop().await;
    });
}

/// Cuts a node off without anybody being told, or ends that.
fn cut_off(cluster: &MemoryCluster, node: NodeId, off: bool) {
    for other in cluster.nodes.iter().map(|other| other.id).filter(|other| *other != node) {
        for (from, to) in [(node, other), (other, node)] {
            match off {
                true => cluster.network.cut(from, to),
                false => cluster.network.heal(from, to),
            }
        }
    }
}

/// Two writes of one key, and a read of the second.
fn history() -> (Log, Vec<Operation>) {
    let at = |index| (index, 0);
    let log = [1, 2].map(|number| (at(number), Write { number, key: 0 }));
    let operation = |number, index, value, writes| {
        let (began, heard) = (2 * number, Heard::Done { at: at(index), value });
        Operation { number, key: 0, writes, began, ended: began + 1, heard }
    };
    let operations =
        vec![operation(1, 1, 0, true), operation(2, 2, 1, true), operation(3, 2, 2, false)];
    (log.into(), operations)
}

/// Goal: the log's check and the search find the same to be wrong. Method: one sound history, and three
/// that a stale read, a lost write and a repeated write would make.
#[test]
fn both_opinions_catch_a_wrong_history() {
    let both = |log: &Log, operations: &[Operation]| {
        let is_wrong = !wrong_keys(vec![operations.to_vec()]).0.is_empty();
        (linearizability::check(log, operations).err(), is_wrong)
    };
    let (log, operations) = history();
    assert_eq!(both(&log, &operations), (None, false));

    let mut stale = operations.clone();
    stale[2].heard = Heard::Done { at: (1, 0), value: 1 };
    let found = both(&log, &stale);
    assert!(matches!(found, (Some(Contradiction::OutOfOrder(..)), true)), "{found:?}");

    let mut lost = log.clone();
    lost.remove(&(2, 0));
    let mut unseen = operations.clone();
    unseen[2].heard = Heard::Done { at: (1, 0), value: 1 };
    let found = both(&lost, &unseen);
    assert!(matches!(found, (Some(Contradiction::Lost(..)), true)), "{found:?}");

    let mut repeated = log.clone();
    repeated.insert((3, 0), Write { number: 1, key: 0 });
    let mut seen = operations.clone();
    seen[2].heard = Heard::Done { at: (3, 0), value: 1 };
    let found = both(&repeated, &seen);
    assert!(matches!(found, (Some(Contradiction::AppliedTwice { .. }), true)), "{found:?}");
}
