//! Goal: under sustained overload a group answers `Ok` for most of what it can apply and refuses the
//! rest at once, and under a moderate load it refuses nothing (BP-10, AP-2).
//! Method: three whole nodes in virtual time, whose machines take 20 ms for an entry of up to a hundred
//! commands. Units of twenty commands arrive at a fixed rate, each with a deadline of 2 s, whatever
//! becomes of the earlier ones. The queue has room for 13 s of them. Apart from that, a leader whose
//! hand-over hangs refuses what it is sent, until it gives up.

use std::sync::Arc;
use std::time::Duration;

use polyraft::{GroupId, NodeId};
use polyraft_actors::batcher::Propose;
use polyraft_actors::directory::GroupCell;
use polyraft_actors::group::TransferLeader;
use polyraft_actors::proposal::UnitReply;
use polyraft_core::batch::Unit;
use polyraft_core::batch_config::BatchConfig;
use polyraft_core::error::ProposeError;
use polyraft_tests::ledger::command;
use polyraft_tests::memory_node::{MemoryCluster, MemoryOptions, Threads, simulate};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const GROUP: GroupId = GroupId::new(1);
const ENTRY_TAKES: Duration = Duration::from_millis(20);
/// Commands per second that are applied, if entries are full.
const CAPACITY: u64 = 5_000;
const UNIT_COMMANDS: u64 = 20;
const DEADLINE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(5);

/// What became of the commands of a load.
#[derive(Debug, Default)]
struct Heard {
    offered: u64,
    applied: u64,
    overloaded: u64,
    other: u64,
    longest_refusal: Duration,
}

impl Heard {
    fn note(&mut self, took: Duration, outcome: Option<ProposeError>) {
        match outcome {
            None => self.applied += UNIT_COMMANDS,
            Some(ProposeError::Overloaded { .. }) => {
                self.overloaded += UNIT_COMMANDS;
                self.longest_refusal = self.longest_refusal.max(took);
            }
            Some(_) => self.other += UNIT_COMMANDS,
        }
    }
}

/// One unit; an answer after its deadline is none.
async fn call(cell: Arc<GroupCell>, first: u64) -> (Duration, Option<ProposeError>) {
    let began = Instant::now();
    let commands = (first..first + UNIT_COMMANDS).map(command).collect();
    let (reply, outcome) = oneshot::channel();
    let unit = Unit { atomic: false, commands };
    let propose = Propose { unit, deadline: DEADLINE, trace: None, reply: UnitReply::Local(reply) };
    let addrs = cell.addrs().expect("the group runs");
    let error = match addrs.batcher.try_send(propose) {
        Err(_) => Some(ProposeError::Overloaded { group: GROUP, what: "the batcher's mailbox" }),
        Ok(()) => match timeout(DEADLINE, outcome).await {
            Ok(outcome) => outcome.expect("every unit is answered").err(),
            Err(_) => Some(ProposeError::TimedOut { group: GROUP, deadline: DEADLINE }),
        },
    };
    (began.elapsed(), error)
}

async fn offer(cell: &Arc<GroupCell>, rate: u64, time: Duration) -> Heard {
    let (mut heard, mut calls, began) = (Heard::default(), JoinSet::new(), Instant::now());
    while began.elapsed() < time {
        tokio::time::sleep(STEP).await;
        while heard.offered < began.elapsed().as_millis() as u64 * rate / 1_000 {
            calls.spawn(call(cell.clone(), heard.offered));
            heard.offered += UNIT_COMMANDS;
        }
        while let Some(answer) = calls.try_join_next() {
            let (took, outcome) = answer.expect("a caller never panics");
            heard.note(took, outcome);
        }
    }
    while let Some(answer) = calls.join_next().await {
        let (took, outcome) = answer.expect("a caller never panics");
        heard.note(took, outcome);
    }
    heard
}

/// What a cluster answers to `rate` commands per second; nobody is elected meanwhile.
fn overload(rate: u64, time: Duration) -> Heard {
    simulate(async move {
        let mut options = MemoryOptions::new(Threads::One, rate);
        options.slice_takes = ENTRY_TAKES;
        options.settings.batch = BatchConfig::default();
        options.settings.applier.slice_bytes_max = 1; // An entry each.
        let cluster = MemoryCluster::start(3, options);
        cluster.create_group(GROUP).await;
        let leader = cluster.leader(GROUP, Duration::from_secs(60)).await;
        let term = || cluster.node(leader).status(GROUP).expect("the group runs").term;
        let before = term();
        let heard = offer(&cluster.node(leader).cell(GROUP), rate, time).await;
        assert_eq!(term(), before, "an election under load");
        cluster.stop().await;
        heard
    })
}

fn check_goodput(times: u64, time: Duration) {
    let heard = overload(times * CAPACITY, time);
    println!("{times} times what can be applied: {heard:?}");
    let can_be_applied = CAPACITY * time.as_secs();
    assert!(heard.applied * 10 >= can_be_applied * 8, "{can_be_applied} can be: {heard:?}");
    assert!(heard.overloaded > heard.other, "most of the rest is refused early: {heard:?}");
    assert!(heard.longest_refusal < ENTRY_TAKES, "a refusal waits for nothing: {heard:?}");
}

#[test]
fn twice_what_can_be_applied_costs_little_of_it() {
    check_goodput(2, Duration::from_secs(10));
}

#[test]
fn twenty_times_what_can_be_applied_costs_little_of_it() {
    check_goodput(20, Duration::from_secs(10));
}

#[test]
fn a_moderate_load_is_refused_nothing() {
    let heard = overload(CAPACITY / 2, Duration::from_secs(10));
    assert_eq!((heard.overloaded, heard.other), (0, 0), "{heard:?}");
    assert_eq!(heard.applied, heard.offered);
}

/// What a leader refuses goes back in line: not round and round without a pause, in which virtual time
/// would stand still and this test never end; and not with a deadline that begins anew.
#[test]
fn a_hand_over_that_hangs_costs_neither_a_core_nor_a_deadline() {
    simulate(async {
        let cluster = MemoryCluster::start(3, MemoryOptions::new(Threads::One, 7));
        cluster.create_group(GROUP).await;
        let leader = cluster.leader(GROUP, Duration::from_secs(60)).await;
        let (node, heir) = (cluster.node(leader), leader % 3 + 1);
        cluster.isolate(heir, true);
        let addrs = node.cell(GROUP).addrs().expect("the group runs");
        assert!(addrs.group.try_send(TransferLeader { to: NodeId::new(heir) }).is_ok());
        let short = Duration::from_millis(100);
        let patient = node.propose(GROUP, command(1), Duration::from_secs(30));
        let hasty = async {
            let began = Instant::now();
            (node.propose(GROUP, command(2), short).await, began.elapsed())
        };
        let (patient, (hasty, took)) = tokio::join!(patient, hasty);
        assert!(patient.is_ok(), "the hand-over is given up: {patient:?}");
        assert!(hasty.is_err() && took < 2 * short, "{hasty:?} after {took:?}");
        cluster.stop().await;
    });
}
