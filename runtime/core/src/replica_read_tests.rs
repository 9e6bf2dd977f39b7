//! Linearizable reads, as one replica sees them.

use super::*;

fn context(round: u64) -> Bytes {
    [101u64, 1, round].iter().flat_map(|n| n.to_be_bytes()).collect()
}

fn heartbeat_answer(leader: &mut TestReplica, node: u64, round: u64) {
    let context = context(round);
    step(leader, node, RaftMessage { context, ..message(RaftKind::HeartbeatResponse, 1) });
}

#[test]
fn a_sole_leader_confirms_its_own_reads() {
    let mut leader = sole_leader();
    leader.read("r");
    assert_eq!(take(&mut leader), ["read r 1"]);
}

#[test]
fn a_read_waits_until_a_leader_has_committed_in_its_term() {
    let mut leader = replica(1);
    leader.campaign();
    take(&mut leader);
    leader.read("r");
    assert_eq!(take(&mut leader), [""; 0]);
    leader.on_persisted(ReadyNumber::new(1));
    assert_eq!(take(&mut leader), ["apply 1 -", "read r 1"]);
}

#[test]
fn a_read_waits_until_a_follower_knows_its_leader() {
    let mut replica = replica(3);
    replica.read("r");
    assert_eq!(take(&mut replica), [""; 0]);
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    let asked = take(&mut replica);
    assert!(asked.contains(&"send 201 ReadIndex 0 [] 0".to_owned()), "{asked:?}");
}

#[test]
fn a_follower_reads_at_its_leaders_index() {
    let mut replica = replica(3);
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    replica.read("r");
    take(&mut replica);
    let index = LogIndex::new(42);
    let answer =
        RaftMessage { index, context: context(1), ..message(RaftKind::ReadIndexResponse, 1) };
    step(&mut replica, 2, answer);
    assert_eq!(take(&mut replica), ["read r 42"]);
}

#[test]
fn readers_share_a_round() {
    let mut leader = leader();
    leader.read("a");
    leader.read("b");
    assert_eq!(take(&mut leader).len(), 2, "one heartbeat to each follower");
    heartbeat_answer(&mut leader, 2, 1);
    assert_eq!(take(&mut leader), ["read a 1", "read b 1"]);
}

/// Found by the simulator: raft-rs would take answers to the first question for answers to the second, and
/// confirm the read in between.
#[test]
fn a_question_that_comes_twice_is_not_confirmed_by_answers_to_the_first() {
    let mut leader = leader();
    let question =
        RaftMessage { context: Bytes::from_static(b"q"), ..message(RaftKind::ReadIndex, 0) };
    step(&mut leader, 2, question.clone());
    let asked = sent_contexts(&mut leader);
    leader.read("r");
    take(&mut leader);
    let answer = |context: &Bytes| RaftMessage {
        context: context.clone(),
        ..message(RaftKind::HeartbeatResponse, 1)
    };
    step(&mut leader, 2, answer(&asked[0]));
    assert!(take(&mut leader).iter().any(|line| line.contains("ReadIndexResponse")));
    step(&mut leader, 2, question);
    take(&mut leader);
    step(&mut leader, 3, answer(&asked[0]));
    let told = take(&mut leader);
    assert!(!told.contains(&"read r 1".to_owned()), "r was asked after that answer: {told:?}");
}

fn sent_contexts(leader: &mut TestReplica) -> Vec<Bytes> {
    let sent = leader.take_output().send.into_iter();
    let context = |envelope: Envelope| match envelope.body {
        Body::Raft(message) => Some(message.context),
        _ => None,
    };
    sent.filter_map(context).collect()
}

#[test]
fn rounds_while_a_disk_stands_still_leave_nothing_behind() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    let held = leader.held.len();
    for round in 1..=100 {
        leader.read("r");
        take(&mut leader);
        heartbeat_answer(&mut leader, 2, round);
        assert!(take(&mut leader).contains(&"read r 1".to_owned()), "round {round}");
    }
    assert_eq!(leader.held.len(), held);
}

#[test]
fn a_later_round_confirms_an_earlier_one() {
    let mut leader = leader();
    leader.read("a");
    take(&mut leader);
    leader.read("b");
    take(&mut leader);
    heartbeat_answer(&mut leader, 2, 2);
    assert_eq!(take(&mut leader), ["read a 1", "read b 1"]);
}

#[test]
fn an_answer_without_a_context_confirms_nothing() {
    let mut leader = leader();
    leader.read("r");
    take(&mut leader);
    step(&mut leader, 2, message(RaftKind::HeartbeatResponse, 1));
    assert!(!take(&mut leader).iter().any(|line| line.starts_with("read")));
    assert_eq!(leader.reads_waiting(), 1);
}

#[test]
fn a_round_of_an_earlier_life_confirms_nothing() {
    let mut leader = leader();
    leader.read("r");
    take(&mut leader);
    let context: Bytes = [101u64, 99, 1].iter().flat_map(|n| n.to_be_bytes()).collect();
    step(&mut leader, 2, RaftMessage { context, ..message(RaftKind::HeartbeatResponse, 1) });
    assert_eq!(leader.reads_waiting(), 1);
}

#[test]
fn readers_outlive_a_lost_leadership() {
    let mut leader = leader();
    leader.read("r");
    take(&mut leader);
    step(&mut leader, 3, message(RaftKind::Heartbeat, 5));
    let lost = take(&mut leader);
    assert!(!lost.iter().any(|line| line.contains("read r")), "{lost:?}");
    assert_eq!(leader.reads_waiting(), 1);
}

#[test]
fn a_read_does_not_wait_for_what_is_not_committed() {
    let mut leader = leader();
    propose(&mut leader, "a");
    leader.read("r");
    take(&mut leader);
    heartbeat_answer(&mut leader, 2, 1);
    assert_eq!(take(&mut leader).last().map(String::as_str), Some("read r 1"));
}

#[test]
fn a_round_that_is_confirmed_twice_answers_once() {
    let mut leader = leader();
    leader.read("r");
    take(&mut leader);
    heartbeat_answer(&mut leader, 2, 1);
    take(&mut leader);
    heartbeat_answer(&mut leader, 3, 1);
    assert!(!take(&mut leader).iter().any(|line| line.starts_with("read")));
    assert_eq!(leader.reads_waiting(), 0);
}

#[test]
fn a_third_round_waits_for_one_of_two() {
    let mut leader = leader();
    for reader in ["a", "b", "c", "d"] {
        leader.read(reader);
        take(&mut leader);
    }
    heartbeat_answer(&mut leader, 2, 1);
    let told = take(&mut leader);
    assert_eq!(told.last().map(String::as_str), Some("read a 1"));
    heartbeat_answer(&mut leader, 2, 3);
    assert_eq!(take(&mut leader), ["read b 1", "read c 1", "read d 1"]);
}

#[test]
fn an_answer_of_another_term_confirms_nothing() {
    let mut leader = leader();
    leader.read("r");
    take(&mut leader);
    let late = RaftMessage { context: context(1), ..message(RaftKind::HeartbeatResponse, 1) };
    step(&mut leader, 3, message(RaftKind::Heartbeat, 5));
    step(&mut leader, 2, late);
    assert!(!take(&mut leader).iter().any(|line| line == "read r 1"));
}
