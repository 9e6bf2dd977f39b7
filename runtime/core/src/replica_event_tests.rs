//! EV-1: what a replica tells its subscribers, once per cause, for every change of role, term, leader
//! and configuration.

use super::*;

/// The events since the last take, in order.
fn told(replica: &mut TestReplica) -> Vec<String> {
    let of_events = |line: &String| {
        ["leader ", "follower ", "changed "].iter().any(|event| line.starts_with(event))
    };
    take(replica).into_iter().filter(of_events).collect()
}

/// One of three that has asked for pre-votes.
fn pre_candidate() -> TestReplica {
    let mut replica = replica(3);
    replica.campaign();
    assert_eq!(told(&mut replica), [""; 0], "to ask is no event: nothing has changed for others");
    assert_eq!(replica.role(), Role::PreCandidate);
    replica
}

/// One of three that has asked for votes in term 1.
fn candidate() -> TestReplica {
    let mut replica = pre_candidate();
    step(&mut replica, 2, message(RaftKind::RequestPreVoteResponse, 1));
    assert_eq!(told(&mut replica), ["leader of t1 is 0"]);
    assert_eq!(replica.role(), Role::Candidate);
    replica.on_persisted(ReadyNumber::new(1));
    told(&mut replica);
    replica
}

fn refusal(kind: RaftKind, term: u64) -> RaftMessage {
    RaftMessage { reject: true, ..message(kind, term) }
}

#[test]
fn who_starts_has_nothing_to_tell() {
    assert_eq!(told(&mut replica(3)), [""; 0]);
    let disk = restored(3, &[(1, 4), (2, 6)]);
    let mut restarted = TestReplica::new(config(), disk, LogIndex::ZERO).expect("valid");
    assert_eq!(told(&mut restarted), [""; 0], "the term it had is no news");
}

#[test]
fn a_candidate_that_wins_leads_and_is_the_leader() {
    let mut replica = candidate();
    step(&mut replica, 3, message(RaftKind::RequestVoteResponse, 1));
    assert_eq!(told(&mut replica), ["leader t1", "leader of t1 is 1"]);
    step(&mut replica, 2, message(RaftKind::RequestVoteResponse, 1));
    assert_eq!(told(&mut replica), [""; 0], "a vote that comes late makes it no leader again");
}

#[test]
fn a_sole_voter_tells_of_its_election_in_one() {
    let mut replica = replica(1);
    replica.campaign();
    assert_eq!(told(&mut replica), ["leader t1", "leader of t1 is 1"]);
}

#[test]
fn a_pre_candidate_that_is_refused_follows_again() {
    let mut replica =
        TestReplica::new(config(), restored(3, &[(1, 4)]), LogIndex::ZERO).expect("valid");
    replica.campaign();
    step(&mut replica, 2, refusal(RaftKind::RequestPreVoteResponse, 4));
    assert_eq!(told(&mut replica), [""; 0], "one of two may still agree");
    step(&mut replica, 3, refusal(RaftKind::RequestPreVoteResponse, 4));
    assert_eq!(told(&mut replica), ["follower t4"]);
}

#[test]
fn a_candidate_that_loses_follows_without_a_leader() {
    let mut replica = candidate();
    for node in [2, 3] {
        step(&mut replica, node, refusal(RaftKind::RequestVoteResponse, 1));
    }
    assert_eq!(told(&mut replica), ["follower t1"]);
}

#[test]
fn a_candidate_hears_of_the_winner_of_its_own_term() {
    let mut replica = candidate();
    step(&mut replica, 3, append(1, (0, 0), vec![entry(1, 1)], 0));
    assert_eq!(told(&mut replica), ["follower t1", "leader of t1 is 3"]);
}

#[test]
fn a_follower_tells_of_each_leader_once() {
    let mut replica = replica(3);
    for _ in 0..3 {
        step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    }
    assert_eq!(told(&mut replica), ["leader of t1 is 2"]);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 1));
    assert_eq!(told(&mut replica), [""; 0], "an append is no news of the leader");
    step(&mut replica, 3, message(RaftKind::Heartbeat, 2));
    assert_eq!(told(&mut replica), ["leader of t2 is 3"]);
}

/// A subscriber that waits for a leader must not be told of one that was overtaken before anybody
/// looked, and no event may be missing of the one that counts.
#[test]
fn leaders_that_nobody_saw_are_not_told_of() {
    let mut replica = replica(3);
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    step(&mut replica, 3, message(RaftKind::Heartbeat, 2));
    step(&mut replica, 2, message(RaftKind::Heartbeat, 3));
    assert_eq!(told(&mut replica), ["leader of t3 is 2"]);
}

#[test]
fn what_an_earlier_term_says_is_no_event() {
    let mut replica = replica(3);
    step(&mut replica, 3, message(RaftKind::Heartbeat, 5));
    told(&mut replica);
    step(&mut replica, 2, message(RaftKind::Heartbeat, 4));
    step(&mut replica, 2, refusal(RaftKind::RequestVoteResponse, 4));
    assert_eq!(told(&mut replica), [""; 0]);
}

#[test]
fn a_vote_for_a_new_term_is_told_as_the_end_of_the_old_leader() {
    let mut replica = replica(3);
    step(&mut replica, 2, message(RaftKind::RequestVote, 3));
    assert_eq!(told(&mut replica), ["leader of t3 is 0"]);
    step(&mut replica, 3, message(RaftKind::RequestVote, 3));
    assert_eq!(told(&mut replica), [""; 0], "who is refused has changed nothing");
    step(&mut replica, 2, message(RaftKind::Heartbeat, 3));
    assert_eq!(told(&mut replica), ["leader of t3 is 2"]);
}

#[test]
fn a_follower_that_waits_in_vain_tells_once_that_there_is_no_leader() {
    let mut replica = replica(3);
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    told(&mut replica);
    let mut events = Vec::new();
    for _ in 0..100 {
        replica.on_tick();
        events.extend(told(&mut replica));
    }
    assert_eq!(events, ["leader of t1 is 0"], "however often it stands");
}

#[test]
fn a_leader_that_goes_on_tells_nothing() {
    let mut leader = leader();
    for _ in 0..50 {
        leader.on_tick();
        step(&mut leader, 2, message(RaftKind::HeartbeatResponse, 1));
        assert_eq!(told(&mut leader), [""; 0]);
    }
}

#[test]
fn a_leader_that_is_replaced_follows_the_next() {
    let mut leader = leader();
    step(&mut leader, 3, message(RaftKind::Heartbeat, 2));
    assert_eq!(told(&mut leader), ["follower t2", "leader of t2 is 3"]);
}

#[test]
fn a_leader_that_learns_of_a_later_term_follows_nobody_yet() {
    let mut leader = leader();
    step(&mut leader, 2, refusal(RaftKind::AppendResponse, 7));
    assert_eq!(told(&mut leader), ["follower t7", "leader of t7 is 0"]);
    step(&mut leader, 2, message(RaftKind::Heartbeat, 7));
    assert_eq!(told(&mut leader), ["leader of t7 is 2"]);
}

/// EV-1: each of the two is told, in their order, although nobody looked in between.
#[test]
fn a_leader_that_leads_again_before_anybody_looks_has_done_both() {
    let mut leader = sole_leader();
    leader.raft.raft.become_follower(4, 0);
    leader.campaign();
    assert_eq!(leader.role(), Role::Leader);
    assert_eq!(told(&mut leader), ["follower t5", "leader t5", "leader of t5 is 1"]);
}

#[test]
fn a_change_is_told_when_it_is_in_force_and_not_when_it_is_proposed() {
    let mut leader = leader();
    let step = ConfChangeStep { kind: ConfChangeKind::AddLearner, replica: ReplicaId::new(401) };
    let joins = Member { replica: ReplicaId::new(401), node: NodeId::new(4) };
    let change = ConfChange { steps: vec![step], members: vec![joins], ..ConfChange::default() };
    assert_eq!(leader.propose_members(&change), Ok(LogIndex::new(2)));
    assert_eq!(told(&mut leader), [""; 0]);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    assert_eq!(told(&mut leader), ["changed 2"]);
    leader.on_persisted(ReadyNumber::new(4));
    assert_eq!(told(&mut leader), [""; 0], "that it is durable is no second change");
}

/// A joint change is two: both halves are told, each with the entry that put it in force.
#[test]
fn a_joint_change_is_told_when_it_begins_and_when_it_ends() {
    let mut leader = leader();
    let leaves = ConfChangeStep { kind: ConfChangeKind::Remove, replica: ReplicaId::new(301) };
    let transition = crate::conf_change::ConfTransition::Implicit;
    let change = ConfChange { transition, steps: vec![leaves], ..ConfChange::default() };
    assert_eq!(leader.propose_members(&change), Ok(LogIndex::new(2)));
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    assert_eq!(told(&mut leader), ["changed 2"]);
    leader.on_persisted(ReadyNumber::new(4));
    told(&mut leader);
    leader.on_applied(LogIndex::new(2), LogIndex::ZERO);
    told(&mut leader);
    leader.on_persisted(ReadyNumber::new(5));
    acknowledge(&mut leader, 1, 3);
    assert_eq!(told(&mut leader), ["changed 3"]);
}

/// A configuration that was in force before a restart is not news when its entry is applied again.
#[test]
fn a_change_that_is_replayed_is_not_told_again() {
    let mut disk = restored(3, &[(1, 1)]);
    let change = ConfChange {
        steps: vec![ConfChangeStep { kind: ConfChangeKind::Remove, replica: ReplicaId::new(301) }],
        ..ConfChange::default()
    };
    let conf = LogEntry { kind: EntryKind::ConfChange, data: change.encode(), ..entry(2, 1) };
    disk.entries.push(conf);
    disk.term_runs.push((LogIndex::new(2), Term::new(1)));
    disk.last = LogIndex::new(2);
    disk.hard_state.commit = LogIndex::new(2);
    let mut not_in_force = disk.clone();
    disk.configuration.index = LogIndex::new(2);
    not_in_force.configuration.index = LogIndex::ZERO;
    let replayed = |disk: RestoredLog| {
        let mut replica = TestReplica::new(config(), disk, LogIndex::ZERO).expect("valid");
        assert_eq!(told(&mut replica), [""; 0]);
        replica.on_applied(LogIndex::new(1), LogIndex::ZERO);
        told(&mut replica)
    };
    assert_eq!(replayed(disk), [""; 0]);
    // The control: where it was not durable, it takes effect now.
    assert_eq!(replayed(not_in_force), ["changed 2"]);
}
