//! What may be under way to a follower: messages, bytes, and the size of each (RF-6).

use super::*;
use crate::limits::{APPEND_BYTES_MAX, APPEND_INFLIGHT_MAX};

const FOLLOWER: u64 = 201;

/// A leader whose follower 201 acknowledged entry 1, with windows of `bytes_max`.
fn narrow(bytes_max: usize) -> TestReplica {
    let mut leader = leader();
    leader.windows = AppendWindows::new(bytes_max);
    leader
}

fn propose_bytes(leader: &mut TestReplica, bytes: usize) {
    assert!(leader.propose(vec![0; bytes].into(), "a").is_ok());
}

/// The appends to the follower that a take sends: each one's indexes.
fn appends(leader: &mut TestReplica) -> Vec<Vec<u64>> {
    let to_follower = leader.take_output().send.into_iter().filter(|e| e.to.get() == FOLLOWER);
    let messages = to_follower.filter_map(|envelope| match envelope.body {
        Body::Raft(message) if message.kind == RaftKind::Append => Some(message),
        _ => None,
    });
    let indexes = messages.map(|m| m.entries.iter().map(|e| e.index.get()).collect::<Vec<_>>());
    indexes.filter(|indexes| !indexes.is_empty()).collect()
}

#[test]
fn a_full_window_holds_further_entries_back() {
    let mut leader = narrow(300);
    for _ in 0..4 {
        propose_bytes(&mut leader, 100);
        appends(&mut leader);
    }
    assert_eq!(leader.windows.bytes(FOLLOWER), 396, "the third crosses the limit");
    assert_eq!(leader.status().last, LogIndex::new(5), "the log has all four");
}

#[test]
fn an_acknowledgement_lets_the_next_entries_go() {
    let mut leader = narrow(300);
    let sent: Vec<_> = (0..4)
        .flat_map(|_| {
            propose_bytes(&mut leader, 100);
            appends(&mut leader)
        })
        .collect();
    assert_eq!(sent, [[2], [3], [4]]);
    acknowledge(&mut leader, 1, 2);
    assert_eq!(appends(&mut leader), [[5]]);
    acknowledge(&mut leader, 1, 5);
    assert_eq!((appends(&mut leader), leader.windows.bytes(FOLLOWER)), (vec![], 0));
}

#[test]
fn a_window_that_emptied_is_as_wide_as_before() {
    let mut leader = narrow(300);
    for _ in 0..4 {
        propose_bytes(&mut leader, 100);
        appends(&mut leader);
    }
    acknowledge(&mut leader, 1, 5);
    appends(&mut leader);
    let sent: Vec<_> = (0..5)
        .flat_map(|_| {
            propose_bytes(&mut leader, 10);
            appends(&mut leader)
        })
        .collect();
    assert_eq!(sent, [[6], [7], [8], [9], [10]], "five of 42 bytes fit");
}

#[test]
fn an_entry_larger_than_the_window_goes_alone() {
    let mut leader = narrow(300);
    propose_bytes(&mut leader, 5_000);
    assert_eq!(appends(&mut leader), [[2]]);
    propose_bytes(&mut leader, 1);
    assert_eq!(appends(&mut leader), [[0; 0]; 0]);
    acknowledge(&mut leader, 1, 2);
    assert_eq!(appends(&mut leader), [[3]]);
}

#[test]
fn proposals_between_two_takes_share_the_window() {
    let mut leader = narrow(300);
    (0..10).for_each(|_| propose_bytes(&mut leader, 100));
    assert_eq!(appends(&mut leader), [[2, 3, 4]]);
    assert_eq!(leader.windows.bytes(FOLLOWER), 396);
}

#[test]
fn a_follower_that_was_behind_is_filled_to_the_limit_and_no_further() {
    const WINDOW: usize = 3 << 20;
    let mut leader = narrow(WINDOW);
    leader.on_unreachable(NodeId::new(2));
    (0..20).for_each(|_| propose_bytes(&mut leader, 512 << 10));
    appends(&mut leader);
    acknowledge(&mut leader, 1, 2);
    let sent = appends(&mut leader);
    let bytes = leader.windows.bytes(FOLLOWER);
    assert!(sent.len() >= 3, "{sent:?}");
    assert!((WINDOW..WINDOW + APPEND_BYTES_MAX).contains(&bytes), "{bytes} bytes under way");
}

#[test]
fn a_message_has_a_mebibyte_at_most() {
    let mut leader = leader();
    leader.on_unreachable(NodeId::new(2));
    (0..8).for_each(|_| propose_bytes(&mut leader, 300 << 10));
    appends(&mut leader);
    acknowledge(&mut leader, 1, 2);
    let sent = appends(&mut leader);
    assert!(sent.iter().all(|indexes| indexes.len() <= 3), "{sent:?}: 900 KiB at most");
    assert_eq!(sent.concat().last(), Some(&9), "and all of them");
}

#[test]
fn at_most_256_messages_are_under_way() {
    let mut leader = leader();
    let sent = (0..300).map(|_| {
        propose_bytes(&mut leader, 1);
        appends(&mut leader).len()
    });
    assert_eq!(sent.sum::<usize>(), APPEND_INFLIGHT_MAX);
}

#[test]
fn an_unreachable_follower_has_nothing_under_way_once_it_answers() {
    let mut leader = narrow(300);
    propose_bytes(&mut leader, 250);
    appends(&mut leader);
    leader.on_unreachable(NodeId::new(2));
    propose_bytes(&mut leader, 1);
    appends(&mut leader);
    acknowledge(&mut leader, 1, 3);
    assert_eq!((appends(&mut leader), leader.windows.bytes(FOLLOWER)), (vec![], 0));
}

#[test]
fn a_heartbeats_answer_lets_a_full_window_probe() {
    let mut leader = narrow(300);
    for _ in 0..4 {
        propose_bytes(&mut leader, 100);
        appends(&mut leader);
    }
    step(&mut leader, 2, message(RaftKind::HeartbeatResponse, 1));
    let sent = appends(&mut leader);
    assert_eq!(sent, [[5]], "the oldest may be lost: the next shows it");
}

#[test]
fn one_slow_follower_does_not_hold_back_the_other() {
    let mut leader = narrow(300);
    for _ in 0..4 {
        propose_bytes(&mut leader, 100);
        appends(&mut leader);
    }
    let mut response = message(RaftKind::AppendResponse, 1);
    response.index = LogIndex::new(1);
    step(&mut leader, 3, response);
    leader.take_output();
    assert!(leader.windows.bytes(301) > 0, "the other is sent what it lacks");
    assert_eq!(leader.windows.bytes(FOLLOWER), 396);
}

#[test]
fn a_leader_that_stepped_down_has_nothing_under_way() {
    let mut leader = narrow(300);
    propose_bytes(&mut leader, 250);
    appends(&mut leader);
    step(&mut leader, 3, message(RaftKind::Heartbeat, 5));
    take(&mut leader);
    assert_eq!(leader.windows.bytes(FOLLOWER), 0);
}
