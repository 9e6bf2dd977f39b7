//! Tests of the outbox: lanes, merging, limits, and who is told of what was dropped.

use super::*;
use crate::entry::{EntryKind, LogEntry};
use crate::ids::{LogIndex, NodeId, Term};
use crate::message::{RaftKind, RaftMessage};
use crate::wire::decode_frame;

const PEER: NodeId = NodeId::new(2);

fn envelope(group: u64, message: RaftMessage) -> Envelope {
    let (from, to) = (ReplicaId::new(1), ReplicaId::new(2));
    let body = Body::Raft(message);
    Envelope { group: GroupId::new(group), from, to, to_node: PEER, body }
}

fn heartbeat(group: u64, commit: u64) -> Envelope {
    let commit = LogIndex::new(commit);
    envelope(group, RaftMessage { commit, ..RaftMessage::new(RaftKind::Heartbeat, Term::new(4)) })
}

fn append(group: u64, bytes: usize) -> Envelope {
    let entry = LogEntry {
        index: LogIndex::new(1),
        term: Term::new(1),
        kind: EntryKind::Normal,
        data: Bytes::from(vec![0; bytes]),
    };
    let entries = vec![entry];
    envelope(group, RaftMessage { entries, ..RaftMessage::new(RaftKind::Append, Term::new(1)) })
}

fn outbox() -> Outbox {
    Outbox::new(OutboxLimits::default())
}

fn decoded(frame: Option<Bytes>) -> Vec<Envelope> {
    decode_frame(frame.expect("a frame"), PEER).expect("valid")
}

/// Goal: one frame per interval for 10,000 groups, the latest heartbeat of each (TK-5). Method:
/// two rounds of heartbeats with large numbers, then one release.
#[test]
fn ten_thousand_heartbeats_are_one_frame() {
    let mut outbox = outbox();
    let groups = (u64::MAX - 10_000)..u64::MAX;
    for commit in [1 << 40, 1 << 41] {
        groups.clone().for_each(|group| outbox.push(heartbeat(group, commit)).expect("aside"));
    }
    assert!(!outbox.has_frame(Lane::Control));
    assert_eq!(outbox.next_frame(Lane::Control), None, "not before the interval has passed");
    outbox.release_heartbeats();
    assert!(outbox.has_frame(Lane::Control));
    let sent = decoded(outbox.next_frame(Lane::Control));
    let latest: Vec<_> = groups.map(|group| heartbeat(group, 1 << 41)).collect();
    assert!(sent == latest, "all, once, the latest");
    assert_eq!(outbox.next_frame(Lane::Control), None);
    let stats = outbox.stats();
    assert_eq!((stats.heartbeats_merged, stats.heartbeats_held), (10_000, 0));
    assert_eq!((stats.lanes[0].frames, stats.lanes[0].framed), (1, 10_000));
}

/// Goal: without coalescing, each envelope is a frame, in order. Method: a target of nothing.
#[test]
fn a_target_of_nothing_gives_each_envelope_a_frame() {
    let mut outbox = Outbox::new(OutboxLimits { frame_bytes_target: 0, ..OutboxLimits::default() });
    for group in 1..=3 {
        outbox.push(append(group, 10)).expect("room");
    }
    for group in 1..=3 {
        assert_eq!(decoded(outbox.next_frame(Lane::Append)), [append(group, 10)]);
    }
    assert_eq!(outbox.next_frame(Lane::Append), None);
}

/// Goal: heartbeats that a slow link has not taken are replaced, not piled up; too many are
/// spread over frames. Method: release twice; then 300,000 groups.
#[test]
fn released_heartbeats_merge_and_split() {
    let mut outbox = outbox();
    outbox.push(heartbeat(1, 1)).expect("aside");
    outbox.release_heartbeats();
    outbox.push(heartbeat(1, 2)).expect("aside");
    outbox.push(heartbeat(2, 2)).expect("aside");
    outbox.release_heartbeats();
    let sent = decoded(outbox.next_frame(Lane::Control));
    assert_eq!(sent, [heartbeat(1, 2), heartbeat(2, 2)]);
    assert_eq!(outbox.stats().heartbeats_merged, 1);
    let mut many = 0;
    (1..=300_000).for_each(|group| outbox.push(heartbeat(group << 40, u64::MAX)).expect("aside"));
    outbox.release_heartbeats();
    while let Some(frame) = outbox.next_frame(Lane::Control) {
        assert!(frame.len() <= FRAME_BYTES_MAX);
        many += 1;
    }
    assert!(many > 1);
    assert_eq!(outbox.stats().lanes[0].framed, 300_002);
}

/// Goal: a heartbeat that confirms a read does not wait. Method: one with a context.
#[test]
fn a_read_heartbeat_goes_at_once() {
    let mut outbox = outbox();
    let mut reads = heartbeat(1, 1);
    let Body::Raft(message) = &mut reads.body else { unreachable!("it is a heartbeat") };
    message.context = Bytes::from_static(b"read");
    outbox.push(reads.clone()).expect("room");
    assert_eq!(decoded(outbox.next_frame(Lane::Control)), [reads]);
}

/// Goal: frames end at the target, keep the order and hold at least one. Method: small and
/// large appends.
#[test]
fn frames_end_at_the_target() {
    let mut outbox = outbox();
    for (group, bytes) in [(1, 100 << 10), (2, 100 << 10), (3, 100 << 10), (4, 1 << 20), (5, 1)] {
        outbox.push(append(group, bytes)).expect("room");
    }
    let mut frames = Vec::new();
    while let Some(frame) = outbox.next_frame(Lane::Append) {
        frames.push(decoded(Some(frame)).iter().map(|e| e.group.get()).collect::<Vec<_>>());
    }
    assert_eq!(frames, [vec![1, 2], vec![3], vec![4], vec![5]]);
    assert!(!outbox.has_frame(Lane::Append));
    let stats = outbox.stats().lanes[Lane::Append as usize];
    assert_eq!((stats.queued, stats.queued_bytes, stats.framed), (0, 0, 5));
}

/// Goal: a full lane drops and says whom to tell, and leaves the other lanes alone; so does an
/// envelope beyond a frame. Method: a stuck append lane.
#[test]
fn a_full_lane_drops_by_name() {
    let limits = OutboxLimits { append_bytes_max: 0, ..OutboxLimits::default() };
    let mut outbox = Outbox::new(limits);
    let to = |group| Destination { group: GroupId::new(group), replica: ReplicaId::new(2) };
    outbox.push(append(1, 5 << 20)).expect("an empty lane takes any envelope");
    let reason = DropReason::Full { lane: Lane::Append };
    assert_eq!(outbox.push(append(2, 5 << 20)), Err(Dropped { to: to(2), reason }));
    let vote = envelope(3, RaftMessage::new(RaftKind::RequestVote, Term::new(1)));
    outbox.push(vote).expect("another lane");
    let huge = outbox.push(append(4, FRAME_BYTES_MAX)).expect_err("too large");
    assert!(matches!(huge.reason, DropReason::TooLarge { .. }));
    assert_eq!(outbox.stats().lanes[Lane::Append as usize].dropped, 2);
    outbox.push(heartbeat(1, 1)).expect("aside");
    assert_eq!(outbox.clear(), [to(1), to(3)]);
    assert!(Lane::ALL.iter().all(|lane| !outbox.has_frame(*lane)));
    outbox.release_heartbeats();
    assert_eq!(outbox.next_frame(Lane::Control), None);
    let dropped = outbox.stats().lanes.map(|lane| lane.dropped);
    assert_eq!(dropped, [2, 3, 0]);
}

fn vote(group: u64) -> Envelope {
    envelope(group, RaftMessage::new(RaftKind::RequestVote, Term::new(1)))
}

fn destination(group: u64) -> Destination {
    Destination { group: GroupId::new(group), replica: ReplicaId::new(2) }
}

#[test]
fn an_empty_outbox_has_no_frame() {
    let mut outbox = outbox();
    assert_eq!(Lane::ALL.map(|lane| outbox.has_frame(lane)), [false; 3]);
    assert_eq!(Lane::ALL.map(|lane| outbox.next_frame(lane)), [None, None, None]);
    assert_eq!(outbox.stats(), OutboxStats::default());
}

#[test]
fn a_lane_sees_only_its_own() {
    let mut outbox = outbox();
    outbox.push(append(1, 1)).expect("room");
    assert_eq!(Lane::ALL.map(|lane| outbox.has_frame(lane)), [false, true, false]);
    assert_eq!(outbox.next_frame(Lane::Control), None);
}

#[test]
fn a_lane_keeps_its_order() {
    let mut outbox = outbox();
    let sent = [vote(3), vote(1), vote(2)];
    sent.clone().into_iter().for_each(|envelope| outbox.push(envelope).expect("room"));
    assert_eq!(decoded(outbox.next_frame(Lane::Control)), sent);
}

#[test]
fn released_heartbeats_go_before_what_waits() {
    let mut outbox = outbox();
    outbox.push(vote(1)).expect("room");
    outbox.push(heartbeat(2, 1)).expect("aside");
    outbox.release_heartbeats();
    assert_eq!(decoded(outbox.next_frame(Lane::Control)), [heartbeat(2, 1)]);
    assert_eq!(decoded(outbox.next_frame(Lane::Control)), [vote(1)]);
}

#[test]
fn heartbeats_to_different_replicas_do_not_merge() {
    let mut outbox = outbox();
    let other = Envelope { to: ReplicaId::new(9), ..heartbeat(1, 1) };
    outbox.push(heartbeat(1, 1)).expect("aside");
    outbox.push(other.clone()).expect("aside");
    outbox.release_heartbeats();
    assert_eq!(decoded(outbox.next_frame(Lane::Control)), [heartbeat(1, 1), other]);
    assert_eq!(outbox.stats().heartbeats_merged, 0);
}

#[test]
fn a_heartbeat_after_the_release_waits_for_the_next() {
    let mut outbox = outbox();
    outbox.release_heartbeats();
    outbox.push(heartbeat(1, 1)).expect("aside");
    assert!(!outbox.has_frame(Lane::Control));
    assert_eq!(outbox.stats().heartbeats_held, 1);
}

#[test]
fn heartbeats_are_never_refused() {
    let mut outbox = outbox();
    let bytes = FRAME_BYTES_MAX / 160 + 2;
    let refused = (1..=bytes as u64).filter(|group| outbox.push(vote(*group)).is_err()).count();
    assert!(refused > 0, "the lane is full");
    assert_eq!(outbox.push(heartbeat(1, 1)), Ok(()));
}

#[test]
fn a_frame_makes_room() {
    let mut outbox = Outbox::new(OutboxLimits { append_bytes_max: 0, ..OutboxLimits::default() });
    outbox.push(append(1, 5 << 20)).expect("an empty lane takes any envelope");
    assert!(outbox.push(append(2, 5 << 20)).is_err());
    assert!(outbox.next_frame(Lane::Append).is_some());
    assert_eq!(outbox.push(append(2, 5 << 20)), Ok(()));
}

#[test]
fn what_waits_is_charged_as_it_says() {
    let mut outbox = outbox();
    outbox.push(append(1, 1_000)).expect("room");
    let stats = outbox.stats().lanes[Lane::Append as usize];
    assert_eq!((stats.queued, stats.queued_bytes), (1, append(1, 1_000).charged_bytes()));
}

#[test]
fn whoever_waits_twice_is_told_once() {
    let mut outbox = outbox();
    for envelope in [append(1, 1), vote(1), heartbeat(1, 1)] {
        outbox.push(envelope).expect("room");
    }
    assert_eq!(outbox.clear(), [destination(1)]);
}

#[test]
fn an_outbox_is_usable_after_it_was_cleared() {
    let mut outbox = outbox();
    outbox.push(vote(1)).expect("room");
    outbox.clear();
    outbox.push(vote(2)).expect("room");
    assert_eq!(decoded(outbox.next_frame(Lane::Control)), [vote(2)]);
}

#[test]
fn a_drop_says_whom_and_why() {
    let to = destination(4);
    let full = Dropped { to, reason: DropReason::Full { lane: Lane::Append } };
    let large = Dropped { to, reason: DropReason::TooLarge { bytes: 9 } };
    let text = "group 4: message to replica 2 dropped, the append lane is full";
    assert_eq!(full.to_string(), text);
    let text = "group 4: message to replica 2 dropped, 9 bytes do not fit a frame";
    assert_eq!(large.to_string(), text);
}

/// An append to `group` that is charged exactly `bytes`.
fn charged(group: u64, bytes: usize) -> Envelope {
    let empty = append(group, 0).charged_bytes();
    let envelope = append(group, bytes - empty);
    assert_eq!(envelope.charged_bytes(), bytes);
    envelope
}

#[test]
fn a_lane_is_filled_to_its_last_byte() {
    let limits = OutboxLimits { append_bytes_max: 0, ..OutboxLimits::default() };
    let mut outbox = Outbox::new(limits);
    outbox.push(charged(1, FRAME_BYTES_MAX - 300)).expect("room");
    assert!(outbox.push(charged(2, 301)).is_err(), "one byte too many");
    assert_eq!(outbox.push(charged(2, 300)), Ok(()));
}

#[test]
fn the_largest_envelope_goes_alone() {
    let mut outbox = outbox();
    assert_eq!(outbox.push(charged(1, FRAME_BYTES_MAX)), Ok(()));
    let bytes = FRAME_BYTES_MAX + 1;
    let reason = DropReason::TooLarge { bytes };
    assert_eq!(outbox.push(charged(2, bytes)), Err(Dropped { to: destination(2), reason }));
    assert!(outbox.next_frame(Lane::Append).is_some_and(|frame| frame.len() <= FRAME_BYTES_MAX));
}

#[test]
fn a_frame_is_filled_to_its_target() {
    let frame_bytes_target = 1_000;
    let mut outbox = Outbox::new(OutboxLimits { frame_bytes_target, ..OutboxLimits::default() });
    for (group, bytes) in [(1, 700), (2, 300), (3, 700), (4, 301)] {
        outbox.push(charged(group, bytes)).expect("room");
    }
    let mut lens = || decoded(outbox.next_frame(Lane::Append)).len();
    assert_eq!([lens(), lens(), lens()], [2, 1, 1], "1,000 bytes fit, 1,001 do not");
}

#[test]
fn each_lane_has_the_bound_that_is_named_for_it() {
    let limits = OutboxLimits {
        control_bytes_max: 9 << 20,
        append_bytes_max: 10 << 20,
        request_bytes_max: 11 << 20,
        ..OutboxLimits::default()
    };
    let outbox = Outbox::new(limits);
    assert_eq!(outbox.lanes.each_ref().map(|lane| lane.bytes_max >> 20), [9, 10, 11]);
}

#[test]
fn heartbeats_that_were_released_are_dropped_with_the_rest() {
    let mut outbox = outbox();
    outbox.push(heartbeat(1, 1)).expect("aside");
    outbox.release_heartbeats();
    outbox.push(heartbeat(2, 1)).expect("aside");
    assert_eq!(outbox.clear(), [destination(1), destination(2)]);
    assert!(!outbox.has_frame(Lane::Control));
    let stats = outbox.stats();
    assert_eq!((stats.heartbeats_held, stats.lanes[0].dropped), (0, 2));
}

#[test]
fn a_cleared_lane_is_empty_and_has_room_again() {
    let mut outbox = outbox();
    outbox.push(append(1, 1_000)).expect("room");
    outbox.push(append(2, 1_000)).expect("room");
    outbox.clear();
    let stats = outbox.stats().lanes[Lane::Append as usize];
    assert_eq!((stats.queued, stats.queued_bytes, stats.dropped), (0, 0, 2));
}

#[test]
fn frames_are_counted_with_their_bytes() {
    let mut outbox = outbox();
    outbox.push(vote(1)).expect("room");
    outbox.push(vote(2)).expect("room");
    let frame = outbox.next_frame(Lane::Control).expect("a frame");
    let stats = outbox.stats().lanes[Lane::Control as usize];
    let expected = LaneStats {
        frames: 1,
        framed: 2,
        framed_bytes: frame.len() as u64,
        ..LaneStats::default()
    };
    assert_eq!(stats, expected);
}

#[test]
fn replaced_heartbeats_are_counted_where_they_are_replaced() {
    let mut outbox = outbox();
    outbox.push(heartbeat(1, 1)).expect("aside");
    outbox.push(heartbeat(1, 2)).expect("aside");
    assert_eq!(outbox.stats().heartbeats_merged, 1, "aside");
    outbox.release_heartbeats();
    outbox.push(heartbeat(1, 3)).expect("aside");
    assert_eq!(outbox.stats().heartbeats_held, 2);
    outbox.release_heartbeats();
    let stats = outbox.stats();
    assert_eq!((stats.heartbeats_merged, stats.heartbeats_held), (2, 1), "released");
}
