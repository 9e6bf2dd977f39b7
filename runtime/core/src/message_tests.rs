//! Tests of messages: which lane, what they are charged, which heartbeats merge.

use super::*;
use crate::entry::EntryKind;

fn raft(kind: RaftKind) -> RaftMessage {
    RaftMessage::new(kind, Term::new(1))
}

fn envelope(body: Body) -> Envelope {
    Envelope {
        group: GroupId::new(1),
        from: ReplicaId::new(1),
        to: ReplicaId::new(2),
        to_node: NodeId::new(2),
        body,
    }
}

fn lane(kind: RaftKind) -> Lane {
    envelope(Body::Raft(raft(kind))).lane()
}

fn forward(units: Vec<Unit>) -> Body {
    Body::Forward(Forward { request_id: 1, units, timeout: Duration::ZERO, trace: None })
}

fn reply(results: Vec<Result<AppliedUnit, ProposeError>>) -> Body {
    Body::ForwardReply(ForwardReply { request_id: 1, results })
}

fn unit(bytes: usize) -> Unit {
    Unit::single(vec![0; bytes].into())
}

fn applied(bodies: &[usize]) -> AppliedUnit {
    AppliedUnit {
        index: LogIndex::new(1),
        term: Term::new(1),
        first_sub_index: 0,
        responses: bodies.iter().map(|n| Response::Accepted(vec![0; *n].into())).collect(),
    }
}

fn charged(body: Body) -> usize {
    envelope(body).charged_bytes()
}

#[test]
fn appends_and_their_answers_share_a_lane() {
    assert_eq!(lane(RaftKind::Append), Lane::Append);
    assert_eq!(lane(RaftKind::AppendResponse), Lane::Append);
}

#[test]
fn heartbeats_do_not_wait_behind_appends() {
    assert_eq!(lane(RaftKind::Heartbeat), Lane::Control);
    assert_eq!(lane(RaftKind::HeartbeatResponse), Lane::Control);
}

#[test]
fn elections_do_not_wait_behind_appends() {
    use RaftKind::{
        RequestPreVote, RequestPreVoteResponse, RequestVote, RequestVoteResponse, TimeoutNow,
    };
    let kinds =
        [RequestPreVote, RequestPreVoteResponse, RequestVote, RequestVoteResponse, TimeoutNow];
    assert_eq!(kinds.map(lane), [Lane::Control; 5]);
}

#[test]
fn reads_do_not_wait_behind_appends() {
    assert_eq!(lane(RaftKind::ReadIndex), Lane::Control);
    assert_eq!(lane(RaftKind::ReadIndexResponse), Lane::Control);
}

#[test]
fn requests_delay_neither_elections_nor_appends() {
    let bodies = [forward(vec![unit(1)]), reply(vec![Ok(applied(&[]))]), Body::UnknownGroup];
    assert_eq!(bodies.map(|body| envelope(body).lane()), [Lane::Request; 3]);
}

#[test]
fn a_new_message_says_nothing_but_kind_and_term() {
    let expected = RaftMessage {
        kind: RaftKind::Heartbeat,
        term: Term::new(1),
        log_term: Term::new(0),
        index: LogIndex::ZERO,
        entries: vec![],
        commit: LogIndex::ZERO,
        commit_term: Term::new(0),
        reject: false,
        reject_hint: LogIndex::ZERO,
        request_snapshot: LogIndex::ZERO,
        priority: 0,
        context: Bytes::new(),
        compact_floor: LogIndex::ZERO,
    };
    assert_eq!(raft(RaftKind::Heartbeat), expected);
}

#[test]
fn a_heartbeat_without_a_read_is_plain() {
    assert!(raft(RaftKind::Heartbeat).is_plain_heartbeat());
}

#[test]
fn a_heartbeat_that_confirms_a_read_is_not_plain() {
    let context = Bytes::from_static(b"read");
    assert!(!RaftMessage { context, ..raft(RaftKind::Heartbeat) }.is_plain_heartbeat());
}

#[test]
fn only_heartbeats_are_plain_heartbeats() {
    assert!(!raft(RaftKind::HeartbeatResponse).is_plain_heartbeat());
    assert!(!raft(RaftKind::Append).is_plain_heartbeat());
}

#[test]
fn an_append_is_charged_for_every_entry() {
    let entry = |bytes: usize| LogEntry {
        index: LogIndex::new(1),
        term: Term::new(1),
        kind: EntryKind::Normal,
        data: vec![0; bytes].into(),
    };
    let entries = vec![entry(0), entry(1_000)];
    let message = RaftMessage { entries, ..raft(RaftKind::Append) };
    assert_eq!(charged(Body::Raft(message)), 160 + 48 + 1_048);
}

#[test]
fn a_context_is_charged() {
    let context = Bytes::from_static(b"0123456789");
    let message = RaftMessage { context, ..raft(RaftKind::Heartbeat) };
    assert_eq!(charged(Body::Raft(message)), 160 + 10);
}

#[test]
fn a_forward_is_charged_for_units_and_commands() {
    let pair = Unit { atomic: true, commands: vec![Bytes::new(), Bytes::from_static(b"abc")] };
    assert_eq!(charged(forward(vec![pair, unit(5)])), 160 + (48 + 48 + 51) + (48 + 53));
}

#[test]
fn a_reply_is_charged_for_results_and_their_bodies() {
    let refused = Err(ProposeError::Stopped { group: GroupId::new(1) });
    assert_eq!(charged(reply(vec![refused, Ok(applied(&[0, 7]))])), 160 + 48 + (48 + 48 + 55));
}

#[test]
fn a_message_without_parts_is_charged_all_the_same() {
    assert_eq!(charged(Body::UnknownGroup), 160);
}
