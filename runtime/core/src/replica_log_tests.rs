//! The log behind a replica: what is in memory, fetched, compacted, and how far everyone is.

use super::*;

/// A leader whose memory keeps nothing that is applied, with entries 2 and 3 committed with node 2.
fn forgetful() -> TestReplica {
    let mut leader = leader();
    leader.config.tail_bytes_max = 0;
    propose(&mut leader, "a");
    propose(&mut leader, "b");
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 3);
    take(&mut leader);
    leader.on_applied(LogIndex::new(3), LogIndex::ZERO);
    take(&mut leader);
    leader
}

/// The ranges that a take asks to be fetched.
fn fetches(leader: &mut TestReplica) -> Vec<Fetch> {
    leader.take_output().fetches
}

#[test]
fn what_is_applied_leaves_memory_down_to_its_budget() {
    let mut leader = forgetful();
    assert_eq!(leader.raft.store().bytes(), 0);
    propose(&mut leader, "c");
    take(&mut leader);
    assert!(leader.raft.store().bytes() > 0, "it is not applied");
}

#[test]
fn what_is_committed_and_not_applied_stays_in_memory() {
    let mut leader = forgetful();
    propose(&mut leader, "c");
    propose(&mut leader, "d");
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(4));
    acknowledge(&mut leader, 1, 5);
    take(&mut leader);
    leader.on_applied(LogIndex::new(4), LogIndex::ZERO);
    assert_eq!(leader.raft.store().tail_start(), LogIndex::new(5));
}

#[test]
fn a_lagging_follower_is_sent_what_was_fetched() {
    let mut leader = forgetful();
    step(&mut leader, 3, message(RaftKind::HeartbeatResponse, 1));
    let fetch = fetches(&mut leader).pop().expect("entry 1 is on disk only");
    assert_eq!((fetch.from, fetch.to), (LogIndex::new(1), LogIndex::new(4)));
    let entries = (1..=3).map(|index| entry(index, 1)).collect();
    leader.on_fetched(fetch, entries);
    let sent = take(&mut leader);
    assert_eq!(sent, ["send 301 Append 0 [1, 2, 3] 3"]);
}

#[test]
fn a_fetch_that_found_nothing_is_asked_for_again() {
    let mut leader = forgetful();
    step(&mut leader, 3, message(RaftKind::HeartbeatResponse, 1));
    let fetch = fetches(&mut leader).pop().expect("entry 1 is on disk only");
    step(&mut leader, 3, message(RaftKind::HeartbeatResponse, 1));
    assert!(fetches(&mut leader).is_empty(), "one is under way");
    leader.on_fetched(fetch, Vec::new());
    let again = fetches(&mut leader);
    assert_eq!(again.iter().map(|fetch| fetch.from.get()).collect::<Vec<_>>(), [1]);
}

#[test]
fn fetched_entries_are_handed_on_and_not_kept() {
    let mut leader = forgetful();
    step(&mut leader, 3, message(RaftKind::HeartbeatResponse, 1));
    let fetch = fetches(&mut leader).pop().expect("entry 1 is on disk only");
    leader.on_fetched(fetch, (1..=3).map(|index| entry(index, 1)).collect());
    leader.take_output();
    step(&mut leader, 3, message(RaftKind::HeartbeatResponse, 1));
    let again = leader.take_output();
    assert!(again.send.is_empty() && again.fetches.len() == 1, "{again:?}");
}

#[test]
fn a_fetch_that_ends_after_stepping_down_sends_nothing() {
    let mut leader = forgetful();
    step(&mut leader, 3, message(RaftKind::HeartbeatResponse, 1));
    let fetch = fetches(&mut leader).pop().expect("entry 1 is on disk only");
    step(&mut leader, 2, message(RaftKind::Heartbeat, 5));
    take(&mut leader);
    leader.on_fetched(fetch, vec![entry(1, 1)]);
    assert_eq!(take(&mut leader), [""; 0]);
}

#[test]
fn a_late_rejection_does_not_take_a_leader_back() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    acknowledge(&mut leader, 1, 2);
    take(&mut leader);
    leader.on_unreachable(NodeId::new(2));
    let late = RaftMessage {
        index: LogIndex::new(2),
        reject: true,
        ..message(RaftKind::AppendResponse, 1)
    };
    step(&mut leader, 2, late);
    take(&mut leader);
    propose(&mut leader, "b");
    step(&mut leader, 2, message(RaftKind::HeartbeatResponse, 1));
    let sent = take(&mut leader);
    assert!(sent.contains(&"send 201 Append 2 [3] 1".to_owned()), "{sent:?}");
}

#[test]
fn applying_sends_nothing() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    assert_eq!(take(&mut leader), ["apply 2 a"]);
    leader.on_applied(LogIndex::new(2), LogIndex::ZERO);
    assert_eq!(take(&mut leader), [""; 0]);
}

/// The compaction floors of the messages to each node that a take sends.
fn floors(replica: &mut TestReplica) -> Vec<(u64, u64)> {
    let sent = replica.take_output().send.into_iter();
    let floors = sent.filter_map(|envelope| match envelope.body {
        Body::Raft(message) => Some((envelope.to_node.get(), message.compact_floor.get())),
        _ => None,
    });
    floors.collect()
}

#[test]
fn a_leader_says_what_everyone_has() {
    let mut leader = leader();
    propose(&mut leader, "a");
    assert_eq!(floors(&mut leader), [(2, 0)], "node 3 has acknowledged nothing");
    let mut third = message(RaftKind::AppendResponse, 1);
    third.index = LogIndex::new(1);
    step(&mut leader, 3, third);
    assert_eq!(floors(&mut leader), [(3, 1)]);
}

#[test]
fn a_follower_says_nothing_of_what_everyone_has() {
    let mut leader = leader();
    let mut third = message(RaftKind::AppendResponse, 1);
    third.index = LogIndex::new(1);
    step(&mut leader, 3, third);
    leader.take_output();
    step(&mut leader, 3, message(RaftKind::Heartbeat, 5));
    leader.take_output();
    leader.on_persisted(ReadyNumber::new(3));
    assert_eq!(floors(&mut leader), [(3, 0)]);
}

#[test]
fn a_floor_of_one_who_does_not_lead_is_not_believed() {
    let mut replica = follower_with_an_entry_applied();
    let floor = LogIndex::new(1);
    step(
        &mut replica,
        3,
        RaftMessage { compact_floor: floor, ..message(RaftKind::RequestVote, 5) },
    );
    assert!(!take(&mut replica).iter().any(|line| line.contains("compact")));
}

#[test]
fn restored_bytes_count_towards_the_cap() {
    let mut disk = restored(1, &[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
    for entry in &mut disk.entries {
        entry.data = vec![0; 100].into();
    }
    disk.hard_state.commit = LogIndex::new(5);
    let retention = Retention { keep_entries: 1_000, keep_bytes: 300, step_entries: 1_000 };
    let config = ReplicaConfig { retention, ..config() };
    let mut leader = TestReplica::new(config, disk, LogIndex::ZERO).expect("valid");
    leader.campaign();
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(1));
    take(&mut leader);
    leader.on_applied(LogIndex::new(6), LogIndex::new(6));
    assert_eq!(take(&mut leader), ["append 2: compact 5 []"], "660 bytes before the new entry");
}

#[test]
fn what_the_state_has_applied_is_not_handed_over_again() {
    let mut disk = restored(3, &[(1, 1), (2, 1)]);
    disk.entries.remove(0);
    disk.hard_state.commit = LogIndex::new(2);
    let mut replica = TestReplica::new(config(), disk, LogIndex::new(1)).expect("valid");
    assert_eq!(take(&mut replica), ["apply 2 -"]);
}

#[test]
#[should_panic(expected = "commit 2 is not in the log")]
fn a_commit_that_the_log_does_not_reach_is_a_bug() {
    let mut disk = restored(3, &[(1, 1)]);
    disk.hard_state.commit = LogIndex::new(2);
    let _ = TestReplica::new(config(), disk, LogIndex::ZERO);
}

#[test]
fn nothing_is_compacted_before_the_state_is_durable() {
    let mut leader = sole_leader();
    propose(&mut leader, "a");
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(2));
    take(&mut leader);
    leader.on_applied(LogIndex::new(2), LogIndex::ZERO);
    assert_eq!(take(&mut leader), [""; 0]);
    leader.on_applied(LogIndex::new(2), LogIndex::new(1));
    assert_eq!(take(&mut leader), ["append 3: compact 1 []"]);
    assert_eq!(leader.status().compacted, LogIndex::new(1));
}

#[test]
fn acknowledging_an_older_append_after_a_newer_one_changes_nothing() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    step(&mut replica, 2, append(1, (1, 1), vec![entry(2, 1)], 0));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(2));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    assert_eq!((take(&mut replica), replica.persisted), (vec![], ReadyNumber::new(2)));
}

#[test]
fn an_append_is_refused_at_the_end_of_the_log() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (4, 1), vec![entry(5, 1)], 0));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    let sent = replica.take_output().send;
    let Body::Raft(refusal) = &sent[0].body else { panic!("a step of Raft") };
    let told = (refusal.reject, refusal.index.get(), refusal.reject_hint.get());
    assert_eq!(told, (true, 4, 0), "nothing is there before entry 4");
}

#[test]
fn a_follower_that_lost_nothing_is_sent_nothing_twice() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    step(&mut leader, 2, message(RaftKind::HeartbeatResponse, 1));
    let sent = take(&mut leader);
    assert!(!sent.iter().any(|line| line.contains("[2]")), "it is under way: {sent:?}");
}
