//! Becoming leader, being one, and losing it, between two takes and across them.

use super::*;

#[test]
fn a_sole_voter_sends_nothing_before_its_vote_is_durable() {
    let mut disk = restored(2, &[]);
    disk.configuration.learners = vec![disk.configuration.voters.remove(1)];
    let mut leader = TestReplica::new(config(), disk, LogIndex::ZERO).expect("valid");
    leader.campaign();
    let led = ["append 1: t1 vote 101 commit 0 [1]", "leader t1", "leader of t1 is 1"];
    assert_eq!(take(&mut leader), led);
    propose(&mut leader, "a");
    assert_eq!(take(&mut leader), ["append 2: [2]"]);
    leader.on_persisted(ReadyNumber::new(1));
    let sent = take(&mut leader);
    assert_eq!(sent.first().map(String::as_str), Some("send 201 Append 0 [1] 0"));
}

#[test]
fn a_new_leaders_first_entry_leaves_before_its_sync() {
    let mut leader = replica(3);
    leader.campaign();
    take(&mut leader);
    step(&mut leader, 2, message(RaftKind::RequestPreVoteResponse, 1));
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(1));
    step(&mut leader, 2, message(RaftKind::RequestVoteResponse, 1));
    let out = take(&mut leader);
    let sent: Vec<_> = out.iter().filter(|line| line.contains("Append ")).collect();
    assert_eq!(sent, ["send 201 Append 0 [1] 0", "send 301 Append 0 [1] 0"]);
}

#[test]
fn a_leader_hands_over_only_what_it_has_itself_made_durable() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    acknowledge(&mut leader, 1, 2);
    let mut third = message(RaftKind::AppendResponse, 1);
    third.index = LogIndex::new(2);
    step(&mut leader, 3, third);
    assert!(!take(&mut leader).contains(&"apply 2 a".to_owned()), "two others have it");
    leader.on_persisted(ReadyNumber::new(3));
    assert!(take(&mut leader).contains(&"apply 2 a".to_owned()));
}

#[test]
fn a_proposal_at_a_leader_that_nobody_has_heard_of_yet_is_kept() {
    let mut leader = replica(1);
    leader.campaign();
    propose(&mut leader, "a");
    let led = ["append 1: t1 vote 101 commit 0 [1, 2]", "leader t1", "leader of t1 is 1"];
    assert_eq!(take(&mut leader), led);
    leader.on_persisted(ReadyNumber::new(1));
    assert_eq!(take(&mut leader), ["apply 1 -", "apply 2 a"]);
}

#[test]
fn who_lost_and_won_between_two_takes_does_not_know_of_the_first_term() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    step(&mut leader, 3, message(RaftKind::Heartbeat, 5));
    leader.campaign();
    step(&mut leader, 2, message(RaftKind::RequestPreVoteResponse, 6));
    step(&mut leader, 2, message(RaftKind::RequestVoteResponse, 6));
    assert_eq!(leader.role(), Role::Leader);
    let told = take(&mut leader);
    assert!(told.contains(&"a Unknown".to_owned()), "{told:?}");
    assert!(told.contains(&"leader of t6 is 1".to_owned()), "{told:?}");
}

#[test]
fn losing_leadership_spares_whoever_is_committed() {
    let mut leader = leader();
    leader.config.apply_backlog_bytes_max = 0;
    leader.applying = ApplyQueue::new(LogIndex::new(1), 0);
    propose(&mut leader, "a");
    propose(&mut leader, "b");
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    step(&mut leader, 3, message(RaftKind::Heartbeat, 5));
    let told = take(&mut leader);
    assert!(told.contains(&"b Unknown".to_owned()), "{told:?}");
    assert!(!told.iter().any(|line| line.contains("a Unknown")), "{told:?}");
    assert_eq!(leader.drain().0, ["a"], "it waits for the applier");
}

#[test]
fn being_told_of_the_same_leader_again_is_no_event() {
    let mut replica = replica(3);
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    assert!(take(&mut replica).contains(&"leader of t1 is 2".to_owned()));
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    assert!(!take(&mut replica).iter().any(|line| line.contains("leader")));
}

#[test]
fn a_candidate_that_follows_says_so() {
    let mut replica = replica(3);
    replica.campaign();
    take(&mut replica);
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    let told = take(&mut replica);
    let events: Vec<_> = told.iter().filter(|line| !line.starts_with(['a', 's'])).collect();
    assert_eq!(events, ["follower t1", "leader of t1 is 2"]);
}

#[test]
fn a_leader_with_a_vote_does_not_hand_over_by_itself() {
    let mut leader = leader();
    leader.on_tick();
    assert!(!take(&mut leader).iter().any(|line| line.contains("TimeoutNow")));
    propose(&mut leader, "a");
}

/// A leader of three that is about to be without a vote: the change that removes it is in force.
fn removed_leader() -> TestReplica {
    let mut leader = leader();
    let step = ConfChangeStep { kind: ConfChangeKind::Remove, replica: leader.id };
    let change = ConfChange { steps: vec![step], ..ConfChange::default() };
    assert_eq!(leader.propose_members(&change), Ok(LogIndex::new(2)));
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    assert!(take(&mut leader).contains(&"changed 2".to_owned()));
    leader.on_persisted(ReadyNumber::new(4));
    take(&mut leader);
    leader
}

#[test]
fn a_leader_without_a_vote_hands_over_to_whoever_has_the_most() {
    let mut leader = removed_leader();
    leader.on_tick();
    let told = take(&mut leader).into_iter().filter(|line| line.contains("TimeoutNow"));
    let expected = ["send 201 TimeoutNow 0 [] 0"];
    assert_eq!(told.collect::<Vec<_>>(), expected, "301 has acknowledged nothing");
}

#[test]
fn a_leader_without_a_vote_hands_over_to_one_at_a_time() {
    let mut leader = removed_leader();
    leader.on_tick();
    take(&mut leader);
    leader.on_tick();
    assert!(!take(&mut leader).iter().any(|line| line.contains("TimeoutNow")));
}

#[test]
fn a_leader_without_a_vote_takes_no_proposals() {
    let refused = removed_leader().propose(Bytes::new(), "a").expect_err("it leaves");
    assert_eq!((refused.waiter, refused.why), ("a", Refusal::NotLeader));
}

#[test]
fn a_leader_of_the_outgoing_half_stays() {
    let mut leader = leader();
    let step = ConfChangeStep { kind: ConfChangeKind::Remove, replica: leader.id };
    let transition = crate::conf_change::ConfTransition::Explicit;
    let change = ConfChange { transition, steps: vec![step], ..ConfChange::default() };
    assert_eq!(leader.propose_members(&change), Ok(LogIndex::new(2)));
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    assert!(take(&mut leader).contains(&"changed 2".to_owned()));
    leader.on_tick();
    assert!(!take(&mut leader).iter().any(|line| line.contains("TimeoutNow")));
    propose(&mut leader, "a");
}

#[test]
fn a_follower_announces_nothing_whatever_it_is_asked() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 1));
    take(&mut replica);
    assert!(!replica.announce_commit(LogIndex::new(1)));
    assert_eq!(take(&mut replica), [""; 0]);
}

#[test]
fn what_was_announced_up_to_is_not_announced_for_a_later_commit() {
    let mut leader = leader();
    assert!(leader.announce_commit(LogIndex::new(1)));
    propose(&mut leader, "a");
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    take(&mut leader);
    assert_eq!(leader.unannounced(), Some(LogIndex::new(2)));
    assert!(!leader.announce_commit(LogIndex::new(1)), "who asked for 1 has it");
    assert!(leader.announce_commit(LogIndex::new(2)));
}

#[test]
fn members_are_no_strangers() {
    let mut replica = replica(3);
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    step(&mut replica, 3, message(RaftKind::RequestPreVote, 2));
    assert!(replica.strangers.is_empty());
}

#[test]
fn a_stranger_is_remembered_once_and_where_it_spoke_last() {
    let mut replica = replica(3);
    step(&mut replica, 9, message(RaftKind::RequestPreVote, 1));
    step(&mut replica, 8, message(RaftKind::RequestPreVote, 1));
    let (_, mut moved) = from_peer(9, message(RaftKind::RequestPreVote, 1));
    moved.from = ReplicaId::new(901);
    replica.on_message(NodeId::new(10), moved).expect("a stranger");
    assert_eq!(replica.strangers.len(), 2);
    assert_eq!(replica.node_of(ReplicaId::new(901)), Some(NodeId::new(10)));
}

#[test]
fn a_stranger_may_lead() {
    let mut replica = replica(3);
    step(&mut replica, 9, append(1, (0, 0), Vec::new(), 0));
    assert!(take(&mut replica).contains(&"leader of t1 is 9".to_owned()));
    assert_eq!(replica.leader(), Some(NodeId::new(9)));
}

#[test]
fn a_leader_hears_late_votes_while_its_log_is_not_durable() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    step(&mut leader, 3, message(RaftKind::RequestVoteResponse, 1));
    assert_eq!((take(&mut leader), leader.role()), (vec![], Role::Leader));
}

#[test]
fn a_follower_refuses_to_stand_while_its_log_is_not_durable() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    let (node, word) = from_peer(2, message(RaftKind::TimeoutNow, 1));
    let refused = replica.on_message(node, word).expect_err("not durable");
    let text = "refused: TimeoutNow while the log is durable up to 0 of 1";
    assert_eq!((refused.to_string().as_str(), replica.role()), (text, Role::Follower));
}
