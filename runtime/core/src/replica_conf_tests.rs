//! Changes of membership, as one replica sees them.

use super::*;

fn change(kind: ConfChangeKind, node: u64) -> ConfChange {
    let member = Member { replica: ReplicaId::new(node * 100 + 1), node: NodeId::new(node) };
    let steps = vec![ConfChangeStep { kind, replica: member.replica }];
    let members = if kind == ConfChangeKind::Remove { vec![] } else { vec![member] };
    ConfChange { steps, members, ..ConfChange::default() }
}

fn conf_entry(index: u64, term: u64, change: &ConfChange) -> LogEntry {
    LogEntry { kind: EntryKind::ConfChange, data: change.encode(), ..super::entry(index, term) }
}

#[test]
fn a_follower_proposes_no_change() {
    let learner = change(ConfChangeKind::AddLearner, 4);
    assert_eq!(replica(3).propose_members(&learner), Err(Refusal::NotLeader));
}

#[test]
fn a_second_change_waits_for_the_first() {
    let mut leader = leader();
    let learner = change(ConfChangeKind::AddLearner, 4);
    assert_eq!(leader.propose_members(&learner), Ok(LogIndex::new(2)));
    assert_eq!(leader.propose_members(&learner), Err(Refusal::ChangePending));
}

#[test]
fn a_change_takes_effect_when_its_entry_is_next_to_apply() {
    let mut replica = replica(3);
    let learner = change(ConfChangeKind::AddLearner, 4);
    let entries = vec![entry(1, 1), conf_entry(2, 1, &learner)];
    step(&mut replica, 2, append(1, (0, 0), entries, 2));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    let handed = take(&mut replica);
    assert!(handed.contains(&"apply 1 -".to_owned()), "{handed:?}");
    assert!(replica.status().configuration.learners.is_empty(), "entry 1 is not applied");
    replica.on_applied(LogIndex::new(1), LogIndex::ZERO);
    assert_eq!(take(&mut replica), ["append 2: configuration 2 []", "changed 2"]);
    assert_eq!(replica.status().configuration.learners, [ReplicaId::new(401)]);
}

#[test]
fn a_change_that_is_in_force_already_is_passed() {
    let learner = change(ConfChangeKind::AddLearner, 4);
    let mut disk = restored(3, &[(1, 1)]);
    disk.entries = vec![conf_entry(1, 1, &learner)];
    disk.hard_state.commit = LogIndex::new(1);
    disk.configuration.index = LogIndex::new(1);
    disk.configuration.members.extend(&learner.members);
    disk.configuration.learners = vec![ReplicaId::new(401)];
    let mut replica = TestReplica::new(config(), disk, LogIndex::ZERO).expect("valid");
    assert_eq!(take(&mut replica), ["apply 1 -"], "a replay after a restart");
}

#[test]
fn a_new_member_is_no_stranger() {
    let mut replica = replica(3);
    step(&mut replica, 4, message(RaftKind::RequestPreVote, 1));
    take(&mut replica);
    assert_eq!(replica.strangers.len(), 1);
    let learner = change(ConfChangeKind::AddLearner, 4);
    step(&mut replica, 2, append(1, (0, 0), vec![conf_entry(1, 1, &learner)], 1));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    take(&mut replica);
    assert!(replica.strangers.is_empty());
    assert_eq!(replica.node_of(ReplicaId::new(401)), Some(NodeId::new(4)));
}

#[test]
fn a_removed_follower_is_sent_nothing_more() {
    let mut leader = leader();
    let removal = change(ConfChangeKind::Remove, 3);
    assert_eq!(leader.propose_members(&removal), Ok(LogIndex::new(2)));
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(4));
    take(&mut leader);
    propose(&mut leader, "a");
    let sent = take(&mut leader);
    assert!(sent.iter().any(|line| line.starts_with("send 201 Append")), "{sent:?}");
    assert!(!sent.iter().any(|line| line.starts_with("send 301")), "{sent:?}");
}

#[test]
fn a_leader_that_hands_over_changes_no_members() {
    let mut leader = leader();
    leader.transfer_leader(NodeId::new(2));
    let learner = change(ConfChangeKind::AddLearner, 4);
    assert_eq!(leader.propose_members(&learner), Err(Refusal::NotLeader));
}

#[test]
fn a_backlog_refuses_changes_too() {
    let mut leader = leader_with_a_backlog();
    let learner = change(ConfChangeKind::AddLearner, 4);
    assert_eq!(leader.propose_members(&learner), Err(Refusal::ApplyBacklogFull));
}

/// A leader of three whose change, entry 2, is in force and durable, and handed over.
fn changed(change: &ConfChange) -> TestReplica {
    let mut leader = leader();
    assert_eq!(leader.propose_members(change), Ok(LogIndex::new(2)));
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(4));
    assert!(take(&mut leader).contains(&"apply 2 -".to_owned()));
    leader
}

#[test]
fn a_change_that_is_applied_makes_room_for_the_next() {
    let mut leader = changed(&change(ConfChangeKind::AddLearner, 4));
    let next = change(ConfChangeKind::AddLearner, 5);
    assert_eq!(leader.propose_members(&next), Err(Refusal::ChangePending));
    leader.on_applied(LogIndex::new(2), LogIndex::ZERO);
    assert_eq!(leader.propose_members(&next), Ok(LogIndex::new(3)));
}

#[test]
fn a_joint_configuration_is_left_at_once_when_it_is_applied() {
    let transition = crate::conf_change::ConfTransition::Implicit;
    let mut leader = changed(&ConfChange { transition, ..change(ConfChangeKind::AddLearner, 4) });
    leader.on_applied(LogIndex::new(2), LogIndex::ZERO);
    let out = take(&mut leader);
    assert_eq!(out[0], "append 5: t1 vote 101 commit 2 [3]");
    assert!(out.contains(&"send 201 Append 2 [3] 2".to_owned()), "{out:?}");
}

#[test]
fn an_explicit_joint_configuration_stays() {
    let transition = crate::conf_change::ConfTransition::Explicit;
    let mut leader = changed(&ConfChange { transition, ..change(ConfChangeKind::AddLearner, 4) });
    leader.on_applied(LogIndex::new(2), LogIndex::ZERO);
    assert_eq!(take(&mut leader), [""; 0]);
    assert!(!leader.status().configuration.voters_outgoing.is_empty());
    assert_eq!(leader.propose_members(&ConfChange::default()), Ok(LogIndex::new(3)));
}

#[test]
fn a_new_member_is_sent_what_it_lacks() {
    let mut leader = leader();
    assert_eq!(leader.propose_members(&change(ConfChangeKind::AddVoter, 4)), Ok(LogIndex::new(2)));
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    let told = take(&mut leader);
    let sent: Vec<_> = told.iter().filter(|line| line.starts_with("send 401")).collect();
    assert_eq!(sent.len(), 1, "{told:?}");
}
