//! Tests of append windows, over a real leader whose followers' progress is set by hand.

use raft::eraftpb::{ConfState, Entry, HardState};
use raft::{Config, Inflights, RaftState, RawNode};

use super::*;
use crate::entry::CompactionPoint;
use crate::ids::LogIndex;

const FOLLOWER: u64 = 2;
/// Bytes charged for an entry of [`append`].
const CHARGED: usize = 100;

/// Replica 1 of three, which leads; its log has the leader's empty entry.
fn leader() -> RawNode<LogTail> {
    let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let initial = RaftState::new(HardState::default(), members);
    let start = CompactionPoint::default();
    let log = LogTail::new(initial, start, Vec::new(), LogIndex::ZERO, Vec::new());
    let config = Config { id: 1, ..Config::default() };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut node = RawNode::new(&config, log, &logger).expect("a valid configuration");
    node.raft.become_candidate();
    node.raft.become_leader();
    node.raft.msgs.clear();
    node
}

fn progress(node: &mut RawNode<LogTail>) -> &mut Progress {
    node.raft.mut_prs().get_mut(FOLLOWER).expect("a member")
}

/// A leader that sends to its follower without asking, and has sent it everything before `next`.
fn replicating(next: u64) -> RawNode<LogTail> {
    let mut node = leader();
    progress(&mut node).become_replicate();
    progress(&mut node).next_idx = next;
    node
}

/// An append to the follower that ends with entry `last` and is charged [`CHARGED`] bytes.
fn append(last: u64) -> Message {
    let data = vec![0; CHARGED - ENTRY_OVERHEAD_BYTES].into();
    let mut message = Message { to: FOLLOWER, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    message.set_entries(vec![Entry { index: last, data, ..Entry::default() }].into());
    message
}

/// Windows with appends under way to the follower that end with each of `lasts`.
fn windows(bytes_max: usize, lasts: &[u64]) -> AppendWindows {
    let mut windows = AppendWindows::new(bytes_max);
    windows.sent(&lasts.iter().copied().map(append).collect::<Vec<_>>());
    windows
}

fn is_paced(windows: &AppendWindows) -> bool {
    windows.windows.get(&FOLLOWER).is_some_and(|window| window.is_paced)
}

/// How many messages raft-rs may have under way.
fn capacity(inflights: &Inflights) -> usize {
    let mut probe = inflights.clone();
    while !probe.full() {
        probe.add(u64::MAX);
    }
    probe.count()
}

#[test]
fn an_acknowledgement_frees_what_ends_up_to_it_and_nothing_behind() {
    let mut windows = windows(1_000, &[3, 5, 8]);
    windows.acknowledging(&mut replicating(9).raft, FOLLOWER, 5);
    let left: Vec<_> = windows.windows[&FOLLOWER].flights.iter().map(|(last, _)| *last).collect();
    assert_eq!((windows.bytes(FOLLOWER), left), (CHARGED, vec![8]));
}

#[test]
fn half_of_a_message_frees_nothing_of_it() {
    let mut windows = windows(1_000, &[3, 5]);
    windows.acknowledging(&mut replicating(9).raft, FOLLOWER, 4);
    assert_eq!(windows.bytes(FOLLOWER), CHARGED);
}

#[test]
fn the_answer_of_a_probed_follower_empties_its_window() {
    let mut windows = windows(1_000, &[3, 5, 8]);
    windows.acknowledging(&mut leader().raft, FOLLOWER, 3);
    assert_eq!(windows.bytes(FOLLOWER), 0, "raft-rs forgets what was under way, too");
    assert!(windows.windows[&FOLLOWER].flights.is_empty());
}

#[test]
fn the_answer_of_an_up_to_date_follower_paces_nobody() {
    let mut windows = windows(1_000, &[1]);
    windows.acknowledging(&mut replicating(2).raft, FOLLOWER, 1);
    assert!(!is_paced(&windows), "there is nothing after entry 1");
}

#[test]
fn the_answer_of_a_follower_with_a_backlog_paces_it() {
    let mut windows = windows(1_000, &[]);
    windows.acknowledging(&mut replicating(1).raft, FOLLOWER, 0);
    assert!(is_paced(&windows), "entry 1 has not been sent");
}

#[test]
fn a_probed_follower_has_a_backlog_by_what_it_acknowledges() {
    let mut node = leader();
    progress(&mut node).next_idx = 2;
    let mut behind = windows(1_000, &[]);
    behind.acknowledging(&mut node.raft, FOLLOWER, 0);
    let mut current = windows(1_000, &[]);
    current.acknowledging(&mut node.raft, FOLLOWER, 1);
    assert_eq!([is_paced(&behind), is_paced(&current)], [true, false]);
}

#[test]
fn the_answer_of_nobody_is_passed_over() {
    let mut windows = windows(1_000, &[1]);
    windows.acknowledging(&mut replicating(2).raft, 9, 1);
    assert!(!windows.windows.contains_key(&9));
}

#[test]
fn room_is_counted_in_entries_of_the_largest_size() {
    let room = |bytes_max| Window::default().room(bytes_max);
    let maxima = [0, 1, ENTRY_BYTES_MAX, 2 * ENTRY_BYTES_MAX - 1, 2 * ENTRY_BYTES_MAX];
    assert_eq!(maxima.map(room), [0, 1, 1, 1, 2]);
}

#[test]
fn a_window_that_was_crossed_has_no_room() {
    assert_eq!(windows(150, &[1, 2]).windows[&FOLLOWER].room(150), 0);
}

#[test]
fn pacing_leaves_one_message_at_least_and_as_many_as_ever_at_most() {
    let paced = |messages| {
        let mut progress = Progress::new(1, 8);
        Window::default().pace(&mut progress, messages);
        capacity(&progress.ins)
    };
    assert_eq!([0, 1, 5, APPEND_INFLIGHT_MAX + 1].map(paced), [1, 1, 5, APPEND_INFLIGHT_MAX]);
}

#[test]
fn only_appends_with_entries_are_under_way() {
    let mut read = append(1);
    read.set_msg_type(MessageType::MsgReadIndex);
    let mut empty = append(1);
    empty.set_entries(Vec::new().into());
    let mut windows = AppendWindows::new(1_000);
    windows.sent(&[read, empty]);
    assert_eq!(windows.bytes(FOLLOWER), 0);
}

#[test]
fn what_waits_to_be_taken_counts_as_under_way() {
    let mut windows = windows(CHARGED + 40, &[1]);
    let mut node = replicating(2);
    windows.proposing(&mut node.raft, 40 - ENTRY_OVERHEAD_BYTES);
    assert!(!is_paced(&windows), "40 bytes of room");
    windows.proposing(&mut node.raft, 0);
    assert!(is_paced(&windows), "and none");
}

#[test]
fn what_was_taken_waits_no_longer() {
    let mut windows = windows(CHARGED, &[]);
    let mut node = replicating(2);
    windows.proposing(&mut node.raft, CHARGED);
    windows.sent(&[]);
    windows.proposing(&mut node.raft, 0);
    assert!(!is_paced(&windows));
}

#[test]
fn a_full_window_of_a_probed_follower_is_not_paced_by_proposals() {
    let mut windows = windows(CHARGED, &[1]);
    windows.proposing(&mut leader().raft, 0);
    assert!(!is_paced(&windows), "raft-rs sends it one at a time anyway");
}

#[test]
fn the_answer_to_a_heartbeat_frees_the_oldest_message_of_a_full_window() {
    let mut node = replicating(9);
    progress(&mut node).ins = Inflights::new(1);
    progress(&mut node).ins.add(8);
    let mut windows = windows(1_000, &[5, 8]);
    windows.heartbeat_answered(&node.raft, FOLLOWER);
    let left: Vec<_> = windows.windows[&FOLLOWER].flights.iter().map(|(last, _)| *last).collect();
    assert_eq!((windows.bytes(FOLLOWER), left), (CHARGED, vec![8]));
}

#[test]
fn the_answer_to_a_heartbeat_frees_nothing_of_a_window_with_room() {
    let mut windows = windows(1_000, &[5, 8]);
    windows.heartbeat_answered(&replicating(9).raft, FOLLOWER);
    windows.heartbeat_answered(&replicating(9).raft, 9);
    assert_eq!(windows.bytes(FOLLOWER), 2 * CHARGED);
}

#[test]
fn fetched_entries_are_sent_within_the_window() {
    let mut windows = windows(1_000, &[]);
    let mut node = replicating(1);
    progress(&mut node).ins.add(1);
    windows.fetched(&mut node.raft);
    assert!(is_paced(&windows));
    assert_eq!(capacity(&progress(&mut node).ins), 2, "one more than is under way");
}

#[test]
fn fetched_entries_pace_nobody_who_is_probed_or_has_them() {
    for mut node in [leader(), replicating(2)] {
        let mut windows = windows(1_000, &[]);
        windows.fetched(&mut node.raft);
        assert!(!is_paced(&windows));
    }
}

#[test]
fn a_follower_that_has_caught_up_is_paced_no_longer() {
    let mut node = replicating(2);
    let mut windows = windows(CHARGED, &[1]);
    windows.proposing(&mut node.raft, 0);
    assert_eq!(capacity(&progress(&mut node).ins), 1);
    windows.fill(&mut node.raft);
    assert!(!is_paced(&windows));
    assert_eq!(capacity(&progress(&mut node).ins), APPEND_INFLIGHT_MAX);
}

#[test]
fn a_paced_follower_with_room_is_sent_one_message() {
    let mut node = replicating(1);
    let mut windows = windows(1_000, &[]);
    windows.acknowledging(&mut node.raft, FOLLOWER, 0);
    windows.fill(&mut node.raft);
    let sent: Vec<_> = node.raft.msgs.iter().map(|m| (m.to, m.entries.len())).collect();
    assert_eq!(sent, [(FOLLOWER, 1)]);
}

#[test]
fn a_paced_follower_that_is_probed_is_left_to_raft() {
    let mut node = leader();
    progress(&mut node).next_idx = 1;
    let mut windows = windows(1_000, &[]);
    windows.acknowledging(&mut node.raft, FOLLOWER, 0);
    windows.fill(&mut node.raft);
    assert!(node.raft.msgs.is_empty() && is_paced(&windows));
}

#[test]
fn nothing_is_filled_while_messages_wait_to_be_taken() {
    let mut node = replicating(1);
    let mut windows = windows(1_000, &[]);
    windows.acknowledging(&mut node.raft, FOLLOWER, 0);
    node.raft.msgs.push(append(1));
    windows.fill(&mut node.raft);
    assert_eq!(node.raft.msgs.len(), 1);
}

#[test]
fn who_leads_no_longer_has_nothing_under_way_to_anyone() {
    let mut node = replicating(1);
    let mut windows = windows(1_000, &[1]);
    windows.acknowledging(&mut node.raft, FOLLOWER, 0);
    node.raft.become_follower(2, 3);
    windows.fill(&mut node.raft);
    assert!(windows.windows.is_empty());
    assert_eq!(capacity(&progress(&mut node).ins), APPEND_INFLIGHT_MAX);
}

#[test]
fn the_answer_of_one_who_was_removed_frees_nothing() {
    let mut windows = windows(1_000, &[]);
    windows.sent(&[Message { to: 9, ..append(5) }]);
    windows.heartbeat_answered(&replicating(2).raft, 9);
    assert_eq!(windows.bytes(9), CHARGED);
}
