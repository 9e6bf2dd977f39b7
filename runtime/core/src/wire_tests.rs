//! Tests of the wire: round trips of everything, and a name for each refusal.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

const HERE: NodeId = NodeId::new(7);

fn envelope(body: Body) -> Envelope {
    Envelope {
        group: GroupId::new(5),
        from: ReplicaId::new(1),
        to: ReplicaId::new(2),
        to_node: HERE,
        body,
    }
}

fn frame(envelopes: impl IntoIterator<Item = Envelope>) -> Bytes {
    let mut frame = BytesMut::new();
    envelopes.into_iter().for_each(|envelope| append_envelope(&mut frame, envelope));
    frame.freeze()
}

fn entry(index: u64) -> LogEntry {
    LogEntry {
        index: LogIndex::new(index),
        term: Term::new(3),
        kind: if index.is_multiple_of(2) { EntryKind::Normal } else { EntryKind::ConfChange },
        data: Bytes::from(vec![index as u8; 40]),
    }
}

fn append() -> RaftMessage {
    RaftMessage {
        log_term: Term::new(2),
        index: LogIndex::new(10),
        entries: vec![entry(11), entry(12)],
        commit: LogIndex::new(9),
        commit_term: Term::new(2),
        reject: true,
        reject_hint: LogIndex::new(4),
        request_snapshot: LogIndex::new(3),
        priority: -4,
        context: Bytes::from_static(b"context"),
        compact_floor: LogIndex::new(6),
        ..RaftMessage::new(RaftKind::Append, Term::new(3))
    }
}

fn reply() -> ForwardReply {
    let group = GroupId::new(5);
    let deadline = Duration::from_millis(1_500);
    let (bytes, commands, max, term) = (9, 8, 7, Term::new(6));
    let applied = AppliedUnit {
        index: LogIndex::new(3),
        term,
        first_sub_index: 2,
        responses: vec![
            Response::Accepted(Bytes::from_static(b"yes")),
            Response::Rejected(Bytes::from_static(b"no")),
        ],
    };
    let results = vec![
        Ok(applied),
        Err(ProposeError::NotLeader { group, term, leader: Some(NodeId::new(3)) }),
        Err(ProposeError::NotLeader { group, term, leader: None }),
        Err(ProposeError::Overloaded { group, what: LEADER_QUEUE }),
        Err(ProposeError::Expired { group, deadline }),
        Err(ProposeError::TooLarge { group, bytes, max }),
        Err(ProposeError::BatchLength { group, commands, max }),
        Err(ProposeError::Superseded { group }),
        Err(ProposeError::Unknown { group }),
        Err(ProposeError::TimedOut { group, deadline }),
        Err(ProposeError::Faulted { group }),
        Err(ProposeError::Stopped { group }),
    ];
    ForwardReply { request_id: 77, results }
}

fn forward() -> Forward {
    let units = vec![
        Unit { atomic: true, commands: vec![Bytes::from_static(b"a"), Bytes::new()] },
        Unit::single(Bytes::from_static(b"b")),
    ];
    Forward { request_id: 77, units, timeout: Duration::from_millis(250), trace: Some(trace()) }
}

fn trace() -> TraceContext {
    let trace_id = NonZeroU128::new((7 << 120) + 8).expect("not zero");
    TraceContext { trace_id, span_id: NonZeroU64::new((9 << 56) + 1).expect("not zero") }
}

fn everything() -> Vec<Envelope> {
    [
        Body::Raft(append()),
        Body::Forward(forward()),
        Body::ForwardReply(reply()),
        Body::UnknownGroup,
    ]
    .map(envelope)
    .into()
}

/// Goal: every body and field survives, in order, in one frame. Method: there and back.
#[test]
fn frames_round_trip() {
    assert_eq!(decode_frame(frame(everything()), HERE), Ok(everything()));
    assert_eq!(decode_frame(Bytes::new(), HERE), Ok(vec![]));
}

/// Goal: payloads are not copied out of a frame. Method: they lie within its memory.
#[test]
fn payloads_are_slices_of_the_frame() {
    let raw = frame([envelope(Body::Raft(append()))]);
    let within = raw.as_ptr_range();
    let decoded = decode_frame(raw.clone(), HERE).expect("valid");
    let Body::Raft(message) = &decoded[0].body else { panic!("not a raft message") };
    assert!(message.entries.iter().all(|entry| within.contains(&entry.data.as_ptr())));
}

/// Goal: byte limits hold: no message is larger than it is charged for. Method: compare them.
#[test]
fn nothing_is_larger_than_charged() {
    let mut largest = RaftMessage {
        term: Term::new(ORDINAL_MAX),
        log_term: Term::new(ORDINAL_MAX),
        index: LogIndex::new(ORDINAL_MAX),
        commit: LogIndex::new(ORDINAL_MAX),
        commit_term: Term::new(ORDINAL_MAX),
        reject_hint: LogIndex::new(ORDINAL_MAX),
        request_snapshot: LogIndex::new(ORDINAL_MAX),
        priority: i64::MIN,
        compact_floor: LogIndex::new(ORDINAL_MAX),
        ..append()
    };
    largest.entries[0].index = LogIndex::new(ORDINAL_MAX);
    largest.entries[0].term = Term::new(ORDINAL_MAX);
    let ids = |mut envelope: Envelope| {
        envelope.group = GroupId::new(u64::MAX);
        envelope.from = ReplicaId::new(u64::MAX);
        envelope.to = ReplicaId::new(u64::MAX);
        envelope
    };
    for envelope in everything().into_iter().chain([envelope(Body::Raft(largest))]).map(ids) {
        let charged = envelope.charged_bytes();
        let bytes = frame([envelope.clone()]).len();
        assert!(bytes <= charged, "{bytes} bytes for {charged}: {envelope:?}");
    }
}

/// Encodes `raw` as the only envelope of a frame, whatever it says, and decodes it.
fn refused(raw: proto::Envelope) -> WireError {
    let frame = proto::Frame { envelopes: vec![raw] };
    decode_frame(frame.encode_to_vec().into(), HERE).expect_err("refused")
}

fn refused_raft(edit: impl FnOnce(&mut proto::RaftMessage)) -> WireError {
    let mut message = raft_to_proto(append());
    edit(&mut message);
    let mut raw = envelope_to_proto(envelope(Body::UnknownGroup));
    raw.body = Some(proto::envelope::Body::Raft(message));
    refused(raw)
}

/// A frame with one envelope that says nothing but what `edit` makes it say.
fn refused_envelope(edit: impl FnOnce(&mut proto::Envelope)) -> WireError {
    let mut raw = envelope_to_proto(envelope(Body::UnknownGroup));
    edit(&mut raw);
    refused(raw)
}

fn refused_body(body: proto::envelope::Body) -> WireError {
    refused_envelope(|raw| raw.body = Some(body))
}

fn refused_forward(edit: impl FnOnce(&mut proto::Forward)) -> WireError {
    let mut raw = forward_to_proto(forward());
    edit(&mut raw);
    refused_body(proto::envelope::Body::Forward(raw))
}

/// What a reply with the one result `result` is refused for.
fn refused_result(result: Option<proto::forward_result::Result>) -> WireError {
    let results = vec![proto::ForwardResult { result }];
    refused_body(proto::envelope::Body::ForwardReply(proto::ForwardReply {
        request_id: 1,
        results,
    }))
}

fn refused_applied(edit: impl FnOnce(&mut proto::Applied)) -> WireError {
    let mut raw = proto::Applied { index: 3, term: 2, ..proto::Applied::default() };
    edit(&mut raw);
    refused_result(Some(proto::forward_result::Result::Applied(raw)))
}

fn zero(field: &'static str) -> WireError {
    WireError::ZeroId { field }
}

fn missing(field: &'static str) -> WireError {
    WireError::Missing { field }
}

fn beyond(field: &'static str, max: u64) -> WireError {
    WireError::OutOfRange { field, value: max + 1, max }
}

#[test]
fn an_envelope_names_its_group() {
    assert_eq!(refused_envelope(|raw| raw.group = 0), zero("group"));
}

#[test]
fn an_envelope_names_its_sender() {
    assert_eq!(refused_envelope(|raw| raw.from = 0), zero("from"));
}

#[test]
fn an_envelope_names_its_addressee() {
    assert_eq!(refused_envelope(|raw| raw.to = 0), zero("to"));
}

#[test]
fn an_envelope_has_a_body() {
    assert_eq!(refused_envelope(|raw| raw.body = None), missing("body"));
}

#[test]
fn the_receiver_says_where_an_envelope_arrived() {
    let elsewhere = NodeId::new(99);
    let decoded = decode_frame(frame([envelope(Body::UnknownGroup)]), elsewhere).expect("valid");
    assert_eq!(decoded, [Envelope { to_node: elsewhere, ..envelope(Body::UnknownGroup) }]);
}

#[test]
fn one_bad_envelope_spoils_its_frame() {
    let good = envelope_to_proto(envelope(Body::UnknownGroup));
    let bad = proto::Envelope { group: 0, ..good.clone() };
    let frame = proto::Frame { envelopes: vec![good, bad] };
    assert_eq!(decode_frame(frame.encode_to_vec().into(), HERE), Err(zero("group")));
}

#[test]
fn only_messages_for_peers_are_read() {
    let kinds = (-1..=40).filter(|kind| kind_from_proto(*kind).is_ok()).collect::<Vec<_>>();
    assert_eq!(kinds, [3, 4, 5, 6, 8, 9, 14, 15, 16, 17, 18]);
}

#[test]
fn a_snapshot_is_not_for_peers() {
    let field = "message kind";
    assert_eq!(refused_raft(|m| m.kind = 7), WireError::UnknownKind { field, value: 7 });
}

#[test]
fn an_entry_of_no_kind_is_refused() {
    let expected = |value| WireError::UnknownKind { field: "entry kind", value };
    assert_eq!(refused_raft(|m| m.entries[0].kind = 0), expected(0));
    assert_eq!(refused_raft(|m| m.entries[0].kind = 9), expected(9));
}

#[test]
fn entries_follow_each_other() {
    let (expected, found) = (LogIndex::new(12), LogIndex::new(13));
    let gap = refused_raft(|m| m.entries[1].index = 13);
    assert_eq!(gap, WireError::EntriesNotContiguous { expected, found });
}

#[test]
fn entries_follow_their_anchor() {
    let (expected, found) = (LogIndex::new(11), LogIndex::new(10));
    let overlap = refused_raft(|m| m.entries[0].index = 10);
    assert_eq!(overlap, WireError::EntriesNotContiguous { expected, found });
}

#[test]
fn only_appends_carry_entries() {
    assert_eq!(refused_raft(|m| m.kind = 8), WireError::UnexpectedEntries);
}

#[test]
fn an_entry_has_a_term() {
    assert_eq!(refused_raft(|m| m.entries[0].term = 0), zero("entry term"));
}

#[test]
fn terms_leave_room_for_the_next() {
    assert_eq!(refused_raft(|m| m.term = ORDINAL_MAX + 1), beyond("term", ORDINAL_MAX));
}

#[test]
fn terms_of_the_log_leave_room_for_the_next() {
    assert_eq!(refused_raft(|m| m.log_term = ORDINAL_MAX + 1), beyond("log_term", ORDINAL_MAX));
}

#[test]
fn terms_of_commits_leave_room_for_the_next() {
    let error = refused_raft(|m| m.commit_term = ORDINAL_MAX + 1);
    assert_eq!(error, beyond("commit_term", ORDINAL_MAX));
}

#[test]
fn terms_of_entries_leave_room_for_the_next() {
    let error = refused_raft(|m| m.entries[1].term = ORDINAL_MAX + 1);
    assert_eq!(error, beyond("entry term", ORDINAL_MAX));
}

#[test]
fn indexes_leave_room_for_the_next() {
    assert_eq!(refused_raft(|m| m.index = ORDINAL_MAX + 1), beyond("index", ORDINAL_MAX));
}

#[test]
fn commits_leave_room_for_the_next() {
    assert_eq!(refused_raft(|m| m.commit = ORDINAL_MAX + 1), beyond("commit", ORDINAL_MAX));
}

#[test]
fn hints_leave_room_for_the_next() {
    let error = refused_raft(|m| m.reject_hint = ORDINAL_MAX + 1);
    assert_eq!(error, beyond("reject_hint", ORDINAL_MAX));
}

#[test]
fn wanted_snapshots_leave_room_for_the_next() {
    let error = refused_raft(|m| m.request_snapshot = ORDINAL_MAX + 1);
    assert_eq!(error, beyond("request_snapshot", ORDINAL_MAX));
}

#[test]
fn floors_leave_room_for_the_next() {
    let error = refused_raft(|m| m.compact_floor = ORDINAL_MAX + 1);
    assert_eq!(error, beyond("compact_floor", ORDINAL_MAX));
}

#[test]
fn the_largest_numbers_are_read() {
    let message = RaftMessage {
        commit: LogIndex::new(ORDINAL_MAX),
        ..RaftMessage::new(RaftKind::Heartbeat, Term::new(ORDINAL_MAX))
    };
    let sent = envelope(Body::Raft(message));
    assert_eq!(decode_frame(frame([sent.clone()]), HERE), Ok(vec![sent]));
}

#[test]
fn a_context_is_short() {
    let context = |bytes| move |m: &mut proto::RaftMessage| m.context = vec![0; bytes].into();
    let error = refused_raft(context(CONTEXT_BYTES_MAX + 1));
    assert_eq!(error, beyond("context length", CONTEXT_BYTES_MAX as u64));
    let mut longest = raft_to_proto(append());
    context(CONTEXT_BYTES_MAX)(&mut longest);
    assert!(raft_from_proto(longest).is_ok(), "exactly the limit");
}

#[test]
fn an_entry_is_no_larger_than_its_limit() {
    let data = |bytes: usize| Bytes::from(vec![0; bytes]);
    let error = refused_raft(|m| m.entries[0].data = data(ENTRY_BYTES_MAX + 1));
    assert_eq!(error, beyond("entry length", ENTRY_BYTES_MAX as u64));
    let mut largest = raft_to_proto(append());
    largest.entries[0].data = data(ENTRY_BYTES_MAX);
    assert!(raft_from_proto(largest).is_ok(), "exactly the limit");
}

#[test]
fn a_frame_is_no_larger_than_its_limit() {
    let bytes = FRAME_BYTES_MAX + 1;
    let error = decode_frame(Bytes::from(vec![0; bytes]), HERE);
    assert_eq!(error, Err(WireError::FrameTooLarge { bytes }));
}

#[test]
fn bytes_that_are_no_frame_are_refused() {
    let error = decode_frame(Bytes::from_static(&[0xff]), HERE);
    assert!(matches!(error, Err(WireError::Decode(_))), "{error:?}");
}

#[test]
fn a_forward_has_units() {
    assert_eq!(refused_forward(|f| f.units.clear()), missing("units"));
}

#[test]
fn a_forwarded_unit_has_commands() {
    assert_eq!(refused_forward(|f| f.units[1].commands.clear()), missing("commands"));
}

#[test]
fn a_forwarded_unit_has_as_many_commands_as_fit_an_entry() {
    let many = |n| move |f: &mut proto::Forward| f.units[0].commands = vec![Bytes::new(); n];
    let error = refused_forward(many(BATCH_COMMANDS_MAX + 1));
    assert_eq!(error, beyond("commands in a unit", BATCH_COMMANDS_MAX as u64));
}

#[test]
fn a_forwarded_command_is_no_larger_than_its_limit() {
    let long = Bytes::from(vec![0; COMMAND_BYTES_MAX + 1]);
    let error = refused_forward(|f| f.units[0].commands[1] = long);
    assert_eq!(error, beyond("command length", COMMAND_BYTES_MAX as u64));
}

#[test]
fn a_forward_waits_an_hour_at_most() {
    let error = refused_forward(|f| f.timeout_ms = 3_600_001);
    assert_eq!(error, beyond("timeout_ms", 3_600_000));
    let sent = envelope(Body::Forward(Forward { timeout: FORWARD_TIMEOUT_MAX, ..forward() }));
    assert_eq!(decode_frame(frame([sent.clone()]), HERE), Ok(vec![sent]));
}

#[test]
fn a_trace_has_two_ids_of_their_length() {
    let expected = TRACE_BYTES;
    for bytes in [0, 1, 15, 16, 23, 25, 1_000] {
        let error = refused_forward(|f| f.trace = Some(vec![1; bytes].into()));
        assert_eq!(error, WireError::WrongLength { field: "trace", bytes, expected });
    }
    let with_zeros = |range: Range<usize>| {
        let mut bytes = vec![1; TRACE_BYTES];
        bytes[range].fill(0);
        refused_forward(|f| f.trace = Some(bytes.into()))
    };
    assert_eq!((with_zeros(0..16), with_zeros(16..24)), (zero("trace id"), zero("span id")));
    let sent = envelope(Body::Forward(Forward { trace: None, ..forward() }));
    assert_eq!(decode_frame(frame([sent.clone()]), HERE), Ok(vec![sent]));
}

#[test]
fn a_reply_has_results() {
    let empty = proto::envelope::Body::ForwardReply(proto::ForwardReply::default());
    assert_eq!(refused_body(empty), missing("results"));
}

#[test]
fn a_result_says_something() {
    assert_eq!(refused_result(None), missing("result"));
}

#[test]
fn an_applied_unit_has_an_index() {
    assert_eq!(refused_applied(|a| a.index = 0), zero("index"));
    assert_eq!(refused_applied(|a| a.index = ORDINAL_MAX + 1), beyond("index", ORDINAL_MAX));
}

#[test]
fn an_applied_unit_has_a_term() {
    assert_eq!(refused_applied(|a| a.term = 0), zero("term"));
    assert_eq!(refused_applied(|a| a.term = ORDINAL_MAX + 1), beyond("term", ORDINAL_MAX));
}

#[test]
fn a_term_that_someone_else_leads_in_is_bounded() {
    let raw = proto::NotLeader { term: ORDINAL_MAX + 1, leader: 0 };
    let error = refused_result(Some(proto::forward_result::Result::NotLeader(raw)));
    assert_eq!(error, beyond("term", ORDINAL_MAX));
}

#[test]
fn which_queue_is_full_at_the_leader_is_not_told() {
    let group = GroupId::new(5);
    let told = |what| vec![Err(ProposeError::Overloaded { group, what })];
    let reply = |what| Body::ForwardReply(ForwardReply { request_id: 1, results: told(what) });
    let decoded = decode_frame(frame([envelope(reply("the mailbox"))]), HERE).expect("valid");
    assert_eq!(decoded, [envelope(reply("a queue at the leader"))]);
}

#[test]
fn a_timeout_is_cut_to_whole_milliseconds() {
    assert_eq!(millis(Duration::from_micros(2_999)), 2);
    assert_eq!(millis(Duration::MAX), u64::MAX);
}

#[test]
fn each_refusal_says_what_it_found() {
    let (expected, found) = (LogIndex::new(2), LogIndex::new(4));
    let texts = [
        WireError::FrameTooLarge { bytes: 8_388_609 },
        zero("from"),
        missing("body"),
        WireError::UnknownKind { field: "message kind", value: 7 },
        WireError::OutOfRange { field: "term", value: 9, max: 8 },
        WireError::WrongLength { field: "trace", bytes: 23, expected: 24 },
        WireError::EntriesNotContiguous { expected, found },
        WireError::UnexpectedEntries,
    ]
    .map(|error| error.to_string());
    let expected = [
        "a frame of 8388609 bytes; at most 8388608 are allowed",
        "from is 0 or missing",
        "body is missing",
        "message kind 7 is unknown or not for peers",
        "term is 9; at most 8 is allowed",
        "trace of 23 bytes; it has 24",
        "entry 4 where 2 was due",
        "entries in a message that carries none",
    ];
    assert_eq!(texts, expected);
}

/// Goal: no part of a frame is taken for another frame. Method: cut at every byte; whole envelopes
/// before the cut are read only where the cut is between two.
#[test]
fn a_frame_is_cut_between_envelopes_or_refused() {
    let whole = frame(everything());
    let ends: Vec<_> = (1..=4).map(|n| frame(everything().into_iter().take(n)).len()).collect();
    for len in 1..whole.len() {
        let decoded = decode_frame(whole.slice(..len), HERE);
        match ends.iter().position(|end| *end == len) {
            Some(at) => assert_eq!(decoded.map(|envelopes| envelopes.len()), Ok(at + 1)),
            None => assert!(decoded.is_err(), "{len} of {} bytes", whole.len()),
        }
    }
}

#[test]
fn a_frame_of_exactly_the_limit_is_looked_at() {
    let error = decode_frame(Bytes::from(vec![0; FRAME_BYTES_MAX]), HERE);
    assert!(matches!(error, Err(WireError::Decode(_))), "{error:?}");
}

#[test]
fn fields_of_a_later_build_are_passed_over() {
    let known = envelope(Body::UnknownGroup);
    let mut later = BytesMut::from(&frame([known.clone()])[..]);
    prost::encoding::uint64::encode(999, &7, &mut later);
    assert_eq!(decode_frame(later.freeze(), HERE), Ok(vec![known]));
}

#[test]
fn what_an_envelope_is_for_is_read_last() {
    let kind = proto::RaftMessage { kind: 7, ..proto::RaftMessage::default() };
    let raw =
        proto::Envelope { group: 0, from: 0, to: 0, body: Some(proto::envelope::Body::Raft(kind)) };
    assert_eq!(refused(raw.clone()), zero("group"));
    let value = 7;
    let unknown = WireError::UnknownKind { field: "message kind", value };
    assert_eq!(refused(proto::Envelope { group: 1, ..raw }), unknown);
}

#[test]
fn the_second_of_two_units_is_looked_at_too() {
    let error = refused_forward(|f| f.units[1].commands[0] = vec![0; COMMAND_BYTES_MAX + 1].into());
    assert_eq!(error, beyond("command length", COMMAND_BYTES_MAX as u64));
    let mut largest = forward_to_proto(forward());
    largest.units[1].commands[0] = vec![0; COMMAND_BYTES_MAX].into();
    assert!(forward_from_proto(largest).is_ok(), "exactly the limit");
}

#[test]
fn a_unit_of_as_many_commands_as_allowed_is_read() {
    let mut most = forward_to_proto(forward());
    most.units[0].commands = vec![Bytes::new(); BATCH_COMMANDS_MAX];
    let units = forward_from_proto(most).map(|forward| forward.units[0].commands.len());
    assert_eq!(units, Ok(BATCH_COMMANDS_MAX));
}

#[test]
fn a_rejection_stays_a_rejection_on_the_wire() {
    let responses =
        vec![Response::Rejected(Bytes::from_static(b"x")), Response::Accepted(Bytes::new())];
    let applied = AppliedUnit {
        index: LogIndex::new(ORDINAL_MAX),
        term: Term::new(ORDINAL_MAX),
        first_sub_index: u32::MAX,
        responses,
    };
    assert_eq!(applied_from_proto(applied_to_proto(applied.clone())), Ok(applied));
}

#[test]
fn an_entry_of_any_index_is_at_most_the_largest() {
    let error = refused_raft(|m| m.entries[1].index = ORDINAL_MAX + 1);
    assert_eq!(error, beyond("entry index", ORDINAL_MAX));
}

/// The bytes of a frame with the one envelope of `body`, behind group 5, replica 1 and replica 2.
fn bytes_of(body: Body) -> Vec<u8> {
    let raw = frame([envelope(body)]);
    assert_eq!(raw[0], 0x0a, "envelopes are field 1");
    assert_eq!(usize::from(raw[1]), raw.len() - 2);
    assert_eq!(raw[2..8], [0x08, 5, 0x10, 1, 0x18, 2]);
    raw[8..].to_vec()
}

#[test]
fn a_heartbeat_is_these_bytes() {
    let commit = LogIndex::new(9);
    let message = RaftMessage { commit, ..RaftMessage::new(RaftKind::Heartbeat, Term::new(4)) };
    assert_eq!(bytes_of(Body::Raft(message)), [0x22, 6, 0x08, 8, 0x10, 4, 0x30, 9]);
}

#[test]
fn an_append_is_these_bytes() {
    let data = Bytes::from_static(b"ab");
    let entries = vec![LogEntry { kind: EntryKind::Normal, data, ..entry(11) }];
    let message = RaftMessage {
        entries,
        log_term: Term::new(2),
        index: LogIndex::new(10),
        compact_floor: LogIndex::new(6),
        ..RaftMessage::new(RaftKind::Append, Term::new(3))
    };
    let expected = [
        &[0x22, 22, 0x08, 3, 0x10, 3, 0x18, 2, 0x20, 10][..],
        &[0x2a, 10, 0x08, 1, 0x10, 3, 0x18, 11, 0x22, 2, b'a', b'b'],
        &[0x68, 6],
    ];
    assert_eq!(bytes_of(Body::Raft(message)), expected.concat());
}

#[test]
fn the_rarer_fields_are_these_bytes() {
    let message = RaftMessage {
        commit_term: Term::new(2),
        reject: true,
        reject_hint: LogIndex::new(4),
        request_snapshot: LogIndex::new(3),
        priority: -4,
        context: Bytes::from_static(b"c"),
        ..RaftMessage::new(RaftKind::RequestVoteResponse, Term::new(3))
    };
    let expected = [
        &[0x22, 17, 0x08, 6, 0x10, 3, 0x38, 2, 0x40, 1, 0x48, 4][..],
        &[0x50, 3, 0x58, 7, 0x62, 1, b'c'],
    ];
    assert_eq!(bytes_of(Body::Raft(message)), expected.concat());
}

#[test]
fn kinds_are_numbered_as_by_raft() {
    use RaftKind::{
        Append, AppendResponse, Heartbeat, HeartbeatResponse, ReadIndex, ReadIndexResponse,
        RequestPreVote, RequestPreVoteResponse, RequestVote, RequestVoteResponse, TimeoutNow,
    };
    let replication = [Append, AppendResponse, Heartbeat, HeartbeatResponse];
    assert_eq!(replication.map(|kind| kind_to_proto(kind) as i32), [3, 4, 8, 9]);
    let elections = [RequestVote, RequestVoteResponse, RequestPreVote, RequestPreVoteResponse];
    assert_eq!(elections.map(|kind| kind_to_proto(kind) as i32), [5, 6, 17, 18]);
    let others = [TimeoutNow, ReadIndex, ReadIndexResponse];
    assert_eq!(others.map(|kind| kind_to_proto(kind) as i32), [14, 15, 16]);
}

#[test]
fn a_forward_is_these_bytes() {
    let expected = [
        &[0x2a, 45, 0x08, 77][..],
        &[0x12, 7, 0x08, 1, 0x12, 1, b'a', 0x12, 0],
        &[0x12, 3, 0x12, 1, b'b', 0x18, 0xfa, 1],
        &[0x22, 24, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
        &[9, 0, 0, 0, 0, 0, 0, 1],
    ];
    let bytes = bytes_of(Body::Forward(forward()));
    assert_eq!(bytes, expected.concat());
    let untraced = bytes_of(Body::Forward(Forward { trace: None, ..forward() }));
    assert_eq!((untraced[1], &untraced[2..]), (19, &bytes[2..21]));
}

#[test]
fn outcomes_are_told_apart_by_these_numbers() {
    let field = |result| result_to_proto(result).encode_to_vec()[0] >> 3;
    let numbers: Vec<_> = reply().results.into_iter().map(field).collect();
    assert_eq!(numbers, [1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
}

#[test]
fn an_applied_unit_is_these_bytes() {
    let applied = AppliedUnit {
        index: LogIndex::new(3),
        term: Term::new(6),
        first_sub_index: 2,
        responses: vec![Response::Accepted(Bytes::from_static(b"y"))],
    };
    let expected = [0x08, 3, 0x10, 6, 0x18, 2, 0x22, 5, 0x08, 1, 0x12, 1, b'y'];
    assert_eq!(applied_to_proto(applied).encode_to_vec(), expected);
}

#[test]
fn an_unknown_group_is_these_bytes() {
    assert_eq!(bytes_of(Body::UnknownGroup), [0x3a, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Goal: no bytes panic the decoder. Method: damage one byte of a good frame, and cut it.
    #[test]
    fn damaged_frames_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut raw = frame(everything()).to_vec();
        let at = at.index(raw.len());
        raw[at] = byte;
        let _ = decode_frame(Bytes::copy_from_slice(&raw[..at]), HERE);
        let _ = decode_frame(Bytes::from(raw), HERE);
    }
}
