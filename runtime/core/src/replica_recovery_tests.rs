//! What a replica does when a leader ends, and when its own log writer does.

use super::timers::stands;
use super::*;

/// A follower of replica 201 in term 1, with election timeouts that do not interfere.
fn follower() -> TestReplica {
    let config = ReplicaConfig { election_ticks: 100, ..config() };
    let mut replica =
        Replica::new(config, restored(3, &[]), LogIndex::ZERO).expect("a valid configuration");
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    take(&mut replica);
    replica
}

/// A request for a vote of a log that ends at entry 1 of term 1.
fn request(kind: RaftKind, term: u64) -> RaftMessage {
    let mut request = message(kind, term);
    (request.index, request.log_term) = (LogIndex::new(1), Term::new(1));
    request
}

#[test]
fn a_leader_that_asks_for_a_pre_vote_has_ended() {
    let mut replica = follower();
    step(&mut replica, 2, request(RaftKind::RequestPreVote, 2));
    let granted = ["send 201 RequestPreVoteResponse 0 [] 0", "leader of t1 is 0"];
    assert_eq!(take(&mut replica), granted);
}

#[test]
fn a_leader_that_asks_for_a_vote_has_ended() {
    let mut replica = follower();
    step(&mut replica, 2, request(RaftKind::RequestVote, 2));
    assert_eq!(take(&mut replica)[0], "append 2: t2 vote 201 commit 0 []");
}

#[test]
fn what_a_leader_asked_before_it_led_does_not_end_it() {
    for kind in [RaftKind::RequestPreVote, RaftKind::RequestVote] {
        let mut replica = follower();
        step(&mut replica, 2, request(kind, 1));
        take(&mut replica);
        assert_eq!(replica.leader(), Some(NodeId::new(2)), "{kind:?}");
        assert!(replica.early_stand.is_none());
    }
}

#[test]
fn whoever_else_asks_is_refused_while_the_leader_is_heard() {
    for kind in [RaftKind::RequestPreVote, RaftKind::RequestVote] {
        let mut replica = follower();
        step(&mut replica, 3, request(kind, 2));
        assert_eq!(take(&mut replica), [""; 0], "{kind:?}");
        assert_eq!(replica.leader(), Some(NodeId::new(2)));
    }
}

#[test]
fn nothing_else_that_a_leader_says_ends_it() {
    let mut replica = follower();
    step(&mut replica, 2, message(RaftKind::Heartbeat, 2));
    take(&mut replica);
    assert_eq!(replica.leader(), Some(NodeId::new(2)));
    assert!(replica.early_stand.is_none());
}

#[test]
fn the_first_voter_stands_after_two_heartbeats_unless_the_leader_is_back() {
    let mut replica = follower();
    step(&mut replica, 2, request(RaftKind::RequestPreVote, 2));
    take(&mut replica);
    assert_eq!(stands(&mut replica, 5), [4]);
    let mut replica = follower();
    step(&mut replica, 2, request(RaftKind::RequestPreVote, 2));
    step(&mut replica, 2, message(RaftKind::Heartbeat, 2));
    take(&mut replica);
    assert_eq!(stands(&mut replica, 50), [0; 0]);
}

#[test]
fn the_third_voter_stands_after_the_others() {
    let mut disk = restored(3, &[]);
    disk.configuration.voters.rotate_left(1);
    let config = ReplicaConfig { election_ticks: 100, ..config() };
    let mut replica = Replica::new(config, disk, LogIndex::ZERO).expect("a valid configuration");
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    step(&mut replica, 2, request(RaftKind::RequestPreVote, 2));
    take(&mut replica);
    assert_eq!(stands(&mut replica, 13), [12]);
}

/// The first 50 ticks of a life that begins with a vote in term 3.
fn restarted(vote: Option<u64>, stands_first: bool) -> Vec<u64> {
    let mut disk = restored(3, &[(1, 3)]);
    disk.hard_state.vote = vote.map(ReplicaId::new);
    let config = ReplicaConfig { election_ticks: 100, stands_first, ..config() };
    let mut replica = Replica::new(config, disk, LogIndex::ZERO).expect("a valid configuration");
    stands(&mut replica, 50)
}

#[test]
fn who_voted_for_itself_stands_early_after_a_restart() {
    assert_eq!(restarted(Some(101), false), [4, 12, 28]);
}

#[test]
fn who_voted_for_another_leaves_it_the_turn() {
    assert_eq!(restarted(Some(201), true), [12, 20, 36], "but does not wait for it for long");
    assert_eq!(restarted(Some(201), false), [0; 0]);
}

#[test]
fn without_a_vote_the_one_that_was_picked_stands_early() {
    assert_eq!(restarted(None, true), [4, 12, 28]);
    assert_eq!(restarted(None, false), [0; 0]);
}

#[test]
fn a_new_log_writer_is_asked_for_nothing_that_is_durable() {
    let mut replica = leader();
    replica.on_log_writer_replaced();
    assert_eq!(take(&mut replica), [""; 0]);
}

/// A leader that waits for appends 3 and 4, of an entry each.
fn leader_with_two_undurable() -> TestReplica {
    let mut replica = leader();
    propose(&mut replica, "a");
    take(&mut replica);
    propose(&mut replica, "b");
    take(&mut replica);
    replica
}

#[test]
fn a_new_log_writer_is_asked_for_all_that_is_not_durable_at_once() {
    let mut replica = leader_with_two_undurable();
    replica.on_log_writer_replaced();
    assert_eq!(take(&mut replica), ["append 5: t1 vote 101 commit 1 [2, 3]"]);
    replica.on_persisted(ReadyNumber::new(5));
    assert_eq!(replica.status().persisted, LogIndex::new(3));
}

#[test]
fn only_the_end_that_is_not_durable_is_written_again() {
    let mut replica = leader_with_two_undurable();
    replica.on_persisted(ReadyNumber::new(3));
    take(&mut replica);
    replica.on_log_writer_replaced();
    assert_eq!(take(&mut replica), ["append 5: t1 vote 101 commit 1 [3]"]);
}

#[test]
fn a_second_death_asks_for_it_once_more() {
    let mut replica = leader();
    propose(&mut replica, "a");
    take(&mut replica);
    replica.on_log_writer_replaced();
    take(&mut replica);
    replica.on_log_writer_replaced();
    assert_eq!(take(&mut replica), ["append 5: t1 vote 101 commit 1 [2]"]);
}

#[test]
fn what_waits_for_the_dead_log_writer_leaves_with_its_successors_word() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    replica.on_log_writer_replaced();
    assert_eq!(take(&mut replica), ["append 2: t1 vote 0 commit 0 [1]"]);
    replica.on_persisted(ReadyNumber::new(1));
    assert_eq!(
        replica.status().persisted,
        LogIndex::new(1),
        "an acknowledgement that was under way"
    );
    assert_eq!(take(&mut replica), ["send 201 AppendResponse 1 [] 0"]);
}

#[test]
fn a_compaction_that_is_not_durable_is_asked_for_again() {
    let mut replica = sole_leader();
    propose(&mut replica, "a");
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(2));
    take(&mut replica);
    replica.on_applied(LogIndex::new(2), LogIndex::new(2));
    assert_eq!(take(&mut replica), ["append 3: compact 2 []"]);
    replica.on_log_writer_replaced();
    assert_eq!(take(&mut replica), ["append 4: t1 vote 101 commit 1 compact 2 []"]);
}
