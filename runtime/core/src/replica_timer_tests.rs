//! When a replica stands for election, asks again and steps down: all by ticks.

use super::*;

/// Long enough that no two timeouts of a run are equal by chance.
const LONG: u64 = 1_000;

fn with(edit: impl FnOnce(&mut ReplicaConfig), nodes: u64) -> TestReplica {
    let mut config = config();
    edit(&mut config);
    Replica::new(config, restored(nodes, &[]), LogIndex::ZERO).expect("a valid configuration")
}

/// The ticks, up to `until`, at which the replica asks for pre-votes.
pub(super) fn stands(replica: &mut TestReplica, until: u64) -> Vec<u64> {
    let mut at = Vec::new();
    for tick in 1..=until {
        replica.on_tick();
        if take(replica).iter().any(|line| line.contains("RequestPreVote ")) {
            at.push(tick);
        }
    }
    at
}

#[test]
fn the_first_election_timeout_follows_from_the_seed() {
    let mut replica = with(|config| config.election_ticks = LONG, 3);
    let expected = ElectionTimer::new(LONG, 1).timeout(0, StateRole::Follower as u8);
    assert_eq!(stands(&mut replica, 2 * LONG).first(), Some(&(expected as u64)));
}

#[test]
fn each_attempt_waits_for_another_time() {
    let mut replica = with(|config| config.election_ticks = LONG, 3);
    let at = stands(&mut replica, 6 * LONG);
    let waits: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.len() >= 2, "{at:?}");
    assert!(waits.iter().all(|wait| (LONG + 1..2 * LONG).contains(wait)), "{waits:?}");
    assert_ne!(waits[0], waits[1]);
}

#[test]
fn replicas_with_the_same_seed_stand_at_the_same_ticks() {
    let run = |seed| {
        let edit = |config: &mut ReplicaConfig| (config.election_ticks, config.seed) = (LONG, seed);
        stands(&mut with(edit, 3), 6 * LONG)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_leader_that_is_heard_puts_off_standing() {
    let mut replica = replica(3);
    for _ in 0..10 {
        assert_eq!(stands(&mut replica, 9), [0; 0]);
        step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
        replica.take_output();
    }
}

/// Who stands first, with timeouts that do not interfere.
fn first() -> TestReplica {
    with(|config| (config.election_ticks, config.stands_first) = (40, true), 3)
}

#[test]
fn who_stands_first_waits_two_heartbeat_intervals_and_then_twice_as_long() {
    assert_eq!(stands(&mut first(), 40), [4, 12, 28]);
}

#[test]
fn who_stands_first_does_so_no_more_once_the_wait_is_an_election_timeout() {
    let edit =
        |config: &mut ReplicaConfig| (config.election_ticks, config.stands_first) = (8, true);
    let mut replica = with(edit, 3);
    assert_eq!(stands(&mut replica, 4), [4]);
    assert!(replica.early_stand.is_none(), "8 ticks are an election timeout");
}

#[test]
fn who_has_heard_of_a_leader_does_not_stand_first() {
    let mut replica = first();
    replica.on_tick();
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    replica.take_output();
    replica.on_persisted(ReadyNumber::new(1));
    assert_eq!(stands(&mut replica, 38), [0; 0]);
    assert_eq!(replica.role(), Role::Follower);
    assert!(replica.early_stand.is_none());
}

#[test]
fn the_others_do_not_stand_first() {
    assert_eq!(stands(&mut with(|config| config.election_ticks = 40, 3), 40), [0; 0]);
}

/// A sole voter with an entry of an earlier leader that is not durable.
fn undurable() -> TestReplica {
    let mut replica = replica(1);
    step(&mut replica, 9, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    replica
}

#[test]
fn a_sole_voter_does_not_win_while_its_log_is_not_durable() {
    let mut replica = undurable();
    (0..100).for_each(|_| replica.on_tick());
    assert_eq!((take(&mut replica), replica.role()), (vec![], Role::Follower));
    replica.on_persisted(ReadyNumber::new(1));
    (0..40).for_each(|_| replica.on_tick());
    assert_eq!(replica.role(), Role::Leader);
}

#[test]
fn a_sole_voter_is_not_made_to_stand_while_its_log_is_not_durable() {
    let mut replica = undurable();
    replica.campaign();
    assert_eq!(replica.role(), Role::Follower);
    replica.on_persisted(ReadyNumber::new(1));
    replica.campaign();
    assert_eq!(replica.role(), Role::Leader);
}

#[test]
fn a_voter_among_others_stands_at_once_and_asks_when_its_log_is_durable() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    assert_eq!(stands(&mut replica, 20), [0; 0]);
    assert_eq!(replica.role(), Role::PreCandidate);
    replica.on_persisted(ReadyNumber::new(1));
    assert!(take(&mut replica).contains(&"send 301 RequestPreVote 1 [] 0".to_owned()));
}

#[test]
fn a_learner_does_not_stand() {
    let mut disk = restored(3, &[]);
    disk.configuration.learners = vec![disk.configuration.voters.remove(0)];
    let mut replica = TestReplica::new(config(), disk, LogIndex::ZERO).expect("valid");
    replica.campaign();
    assert_eq!(stands(&mut replica, 40), [0; 0]);
    assert_eq!(replica.role(), Role::Follower);
}

#[test]
fn a_leader_that_hears_of_nobody_steps_down_and_its_waiters_do_not_know() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    let told: Vec<_> = (0..20)
        .flat_map(|_| {
            leader.on_tick();
            take(&mut leader)
        })
        .filter(|line| !line.starts_with("send"))
        .collect();
    assert_eq!(told, ["a Unknown", "follower t1", "leader of t1 is 0"]);
}

#[test]
fn a_round_is_asked_again_after_two_heartbeat_intervals() {
    let mut leader = leader();
    leader.read("r");
    take(&mut leader);
    let rounds: Vec<_> = (1..=4)
        .map(|_| {
            leader.on_tick();
            let sent = leader.take_output().send.into_iter();
            let asked = sent.filter_map(|envelope| match envelope.body {
                Body::Raft(message) => message.context.last().copied(),
                _ => None,
            });
            asked.max()
        })
        .collect();
    assert_eq!(rounds, [None, Some(1), None, Some(2)]);
}

#[test]
fn a_reader_waits_three_election_timeouts() {
    let mut replica = replica(3);
    replica.read("r");
    let failed_at = (1..=40).find(|_| {
        replica.on_tick();
        take(&mut replica).contains(&"read r failed".to_owned())
    });
    assert_eq!(failed_at, Some(30));
}

#[test]
fn a_transfer_that_nobody_answers_is_given_up_after_an_election_timeout() {
    let mut leader = leader();
    leader.transfer_leader(NodeId::new(3));
    for _ in 0..9 {
        leader.on_tick();
        step(&mut leader, 2, message(RaftKind::HeartbeatResponse, 1));
    }
    let refused = leader.propose(Bytes::new(), "a").expect_err("handing over");
    assert_eq!(refused.why, Refusal::NotLeader);
    leader.on_tick();
    assert!(leader.propose(Bytes::new(), "a").is_ok());
}
