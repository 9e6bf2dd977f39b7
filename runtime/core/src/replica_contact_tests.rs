//! When a leader goes by itself: it hears no quorum, or its disk stands still while others' do not.

use super::*;

/// Ticks without a quorum after which a leader goes: `election_ticks` of the configuration.
const PATIENCE: u64 = 10;

/// Replica 101, which leads in term 1 with what it has made durable, in this configuration.
fn leads(nodes: u64, edit: impl FnOnce(&mut Configuration)) -> TestReplica {
    let mut disk = restored(nodes, &[]);
    edit(&mut disk.configuration);
    let mut replica = TestReplica::new(config(), disk, LogIndex::ZERO).expect("valid");
    replica.campaign();
    take(&mut replica);
    for node in 2..=nodes {
        step(&mut replica, node, message(RaftKind::RequestPreVoteResponse, 1));
    }
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    for node in 2..=nodes {
        step(&mut replica, node, message(RaftKind::RequestVoteResponse, 1));
    }
    take(&mut replica);
    replica.on_persisted(replica.appended);
    assert_eq!(replica.role(), Role::Leader);
    replica
}

fn hears(leader: &mut TestReplica, nodes: &[u64]) {
    let term = leader.raft.raft.term;
    for &node in nodes {
        step(leader, node, message(RaftKind::HeartbeatResponse, term));
    }
}

/// Everybody answers for a while, and then these nodes only: how many ticks later it does not lead any
/// more. (Of a leader that nobody ever answered raft-rs's own look, once per election timeout, comes first.)
fn leads_until(leader: &mut TestReplica, nodes: &[u64]) -> Option<u64> {
    let others: Vec<_> = leader.configuration.members.iter().map(|m| m.node.get()).collect();
    for _ in 0..PATIENCE / 2 {
        leader.on_tick();
        hears(leader, &others[1..]);
        take(leader);
    }
    (1..=5 * PATIENCE).find(|_| {
        leader.on_tick();
        if leader.role() == Role::Leader {
            hears(leader, nodes);
        }
        take(leader);
        leader.role() != Role::Leader
    })
}

#[test]
fn a_majority_that_answers_keeps_its_leader() {
    assert_eq!(leads_until(&mut leads(3, |_| {}), &[3]), None);
    assert_eq!(leads_until(&mut leads(5, |_| {}), &[2, 5]), None);
}

#[test]
fn a_minority_that_answers_does_not() {
    assert_eq!(leads_until(&mut leads(5, |_| {}), &[4]), Some(PATIENCE + 1));
    assert_eq!(leads_until(&mut leads(2, |_| {}), &[]), Some(PATIENCE + 1));
}

#[test]
fn a_sole_voter_needs_to_hear_nobody() {
    assert_eq!(leads_until(&mut leads(1, |_| {}), &[]), None);
}

/// Goal: patience counts from the last answer. Method: one answer, then silence.
#[test]
fn silence_counts_from_the_last_answer() {
    let mut leader = leads(3, |_| {});
    for _ in 0..7 {
        leader.on_tick();
        take(&mut leader);
    }
    hears(&mut leader, &[2]);
    let goes = (1..=3 * PATIENCE).find(|_| {
        leader.on_tick();
        take(&mut leader);
        leader.role() != Role::Leader
    });
    assert_eq!(goes, Some(PATIENCE + 1));
}

/// Two that answer in turn, each too rarely to be half of a majority all the time, are one at any time.
#[test]
fn different_voters_may_answer_at_different_times() {
    let mut leader = leads(3, |_| {});
    for round in 0..20 {
        for _ in 0..6 {
            leader.on_tick();
            take(&mut leader);
        }
        hears(&mut leader, &[if round % 2 == 0 { 2 } else { 3 }]);
        assert_eq!(leader.role(), Role::Leader, "round {round}");
    }
}

#[test]
fn a_learner_that_answers_keeps_no_leader() {
    let one_learns = |configuration: &mut Configuration| {
        configuration.learners = configuration.voters.split_off(3);
    };
    assert_eq!(leads_until(&mut leads(4, one_learns), &[4]), Some(PATIENCE + 1));
    assert_eq!(leads_until(&mut leads(4, one_learns), &[2]), None);
}

#[test]
fn in_a_joint_configuration_both_halves_must_answer() {
    let joint = |configuration: &mut Configuration| {
        let id = |node: u64| ReplicaId::new(node * 100 + 1);
        configuration.voters = [1, 2, 3].map(id).to_vec();
        configuration.voters_outgoing = [1, 4, 5].map(id).to_vec();
    };
    assert_eq!(leads_until(&mut leads(5, joint), &[2, 3]), Some(PATIENCE + 1));
    assert_eq!(leads_until(&mut leads(5, joint), &[4, 5]), Some(PATIENCE + 1));
    assert_eq!(leads_until(&mut leads(5, joint), &[3, 4]), None);
}

#[test]
fn every_kind_of_answer_is_one() {
    for reject in [false, true] {
        let mut leader = leads(3, |_| {});
        for tick in 0..3 * PATIENCE {
            leader.on_tick();
            let mut answer = RaftMessage { reject, ..message(RaftKind::AppendResponse, 1) };
            answer.index = LogIndex::new(u64::from(!reject));
            step(&mut leader, 3, answer);
            take(&mut leader);
            assert_eq!(leader.role(), Role::Leader, "tick {tick}, rejected: {reject}");
        }
    }
}

#[test]
fn who_steps_down_stands_at_the_next_tick() {
    let mut leader = leads(3, |_| {});
    leads_until(&mut leader, &[]);
    assert_eq!(leader.role(), Role::Follower);
    leader.on_tick();
    assert_eq!(leader.role(), Role::PreCandidate);
    let asked = take(&mut leader).iter().filter(|line| line.contains("RequestPreVote ")).count();
    assert_eq!(asked, 2, "so that those who still hear it know");
}

#[test]
fn who_leads_again_has_the_patience_of_a_new_leader() {
    let mut leader = leads(3, |_| {});
    leads_until(&mut leader, &[]);
    leader.campaign();
    take(&mut leader);
    step(&mut leader, 2, message(RaftKind::RequestPreVoteResponse, 2));
    take(&mut leader);
    leader.on_persisted(leader.appended);
    step(&mut leader, 2, message(RaftKind::RequestVoteResponse, 2));
    take(&mut leader);
    assert_eq!(leader.role(), Role::Leader, "whom it heard in term 1, and when, is forgotten");
    assert_eq!(leads_until(&mut leader, &[2]), None);
}

/// A leader with one proposal that its own disk does not take, and that these nodes have made durable.
fn stalled(nodes: u64, ahead: &[u64]) -> TestReplica {
    let mut leader = leads(nodes, |_| {});
    acknowledged(&mut leader, 1, &(2..=nodes).collect::<Vec<_>>());
    propose(&mut leader, "a");
    take(&mut leader);
    acknowledged(&mut leader, 2, ahead);
    leader
}

fn acknowledged(leader: &mut TestReplica, index: u64, nodes: &[u64]) {
    for &node in nodes {
        let index = LogIndex::new(index);
        step(leader, node, RaftMessage { index, ..message(RaftKind::AppendResponse, 1) });
    }
    take(leader);
}

/// The tick at which it tells another to stand, and whom, if everybody answers.
fn hands_over(leader: &mut TestReplica, nodes: u64) -> Option<(u64, String)> {
    let others: Vec<_> = (2..=nodes).collect();
    (1..=3 * PATIENCE).find_map(|tick| {
        leader.on_tick();
        hears(leader, &others);
        let told = take(leader).into_iter().find(|line| line.contains("TimeoutNow"));
        told.map(|line| (tick, line))
    })
}

#[test]
fn a_leader_whose_disk_stands_still_hands_over_after_an_election_timeout() {
    let told = hands_over(&mut stalled(3, &[2, 3]), 3);
    assert!(told.as_ref().is_some_and(|(tick, _)| *tick == PATIENCE), "{told:?}");
}

#[test]
fn it_hands_over_to_one_that_has_the_proposal() {
    for ahead in [2, 3] {
        let mut leader = stalled(5, &[ahead, 4, 5]);
        let (_, told) = hands_over(&mut leader, 5).expect("a majority goes on without it");
        let behind = if ahead == 2 { "send 301" } else { "send 201" };
        assert!(!told.starts_with(behind), "{told}: it has less than the others");
    }
}

#[test]
fn a_leader_stays_where_too_few_could_go_on_without_it() {
    assert_eq!(hands_over(&mut stalled(3, &[2]), 3), None, "two of three must be ahead of it");
    assert_eq!(hands_over(&mut stalled(5, &[2, 3]), 5), None, "three of five");
    assert_eq!(hands_over(&mut stalled(3, &[]), 3), None, "every disk stands still");
}

#[test]
fn a_leader_that_waits_for_nothing_stays() {
    let mut leader = leads(3, |_| {});
    acknowledged(&mut leader, 1, &[2, 3]);
    leader.on_persisted(leader.appended);
    assert_eq!(hands_over(&mut leader, 3), None);
}

/// A disk that is busy with other groups' appends does not stand still.
#[test]
fn a_disk_that_makes_anything_durable_keeps_its_leader() {
    let mut leader = stalled(3, &[2, 3]);
    for _ in 0..5 {
        for _ in 0..PATIENCE - 1 {
            leader.on_tick();
            hears(&mut leader, &[2, 3]);
            let told = take(&mut leader);
            assert!(!told.iter().any(|line| line.contains("TimeoutNow")), "{told:?}");
        }
        leader.on_disk_progress();
    }
    assert_eq!(hands_over(&mut leader, 3).map(|(tick, _)| tick), Some(PATIENCE));
}

#[test]
fn a_follower_whose_disk_stands_still_hands_nothing_over() {
    let mut follower = replica(3);
    for _ in 0..3 * PATIENCE {
        follower.on_tick();
        step(&mut follower, 2, message(RaftKind::Heartbeat, 1));
        let told = take(&mut follower);
        assert!(!told.iter().any(|line| line.contains("TimeoutNow")), "{told:?}");
    }
    assert_eq!(follower.role(), Role::Follower);
}
