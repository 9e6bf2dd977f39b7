//! Tests of the wire: round trips of everything, and a name for each refusal.

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
    Forward { request_id: 77, units, timeout: Duration::from_millis(250) }
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

/// Goal: an envelope is whole. Method: take one part away at a time.
#[test]
fn incomplete_envelopes_are_refused() {
    let raw = || envelope_to_proto(envelope(Body::UnknownGroup));
    assert_eq!(
        refused(proto::Envelope { group: 0, ..raw() }),
        WireError::ZeroId { field: "group" }
    );
    assert_eq!(refused(proto::Envelope { from: 0, ..raw() }), WireError::ZeroId { field: "from" });
    assert_eq!(refused(proto::Envelope { to: 0, ..raw() }), WireError::ZeroId { field: "to" });
    let missing = |field| WireError::Missing { field };
    assert_eq!(refused(proto::Envelope { body: None, ..raw() }), missing("body"));
    let empty = [
        (proto::envelope::Body::Forward(proto::Forward::default()), "units"),
        (proto::envelope::Body::ForwardReply(proto::ForwardReply::default()), "results"),
    ];
    for (body, field) in empty {
        assert_eq!(refused(proto::Envelope { body: Some(body), ..raw() }), missing(field));
    }
    let forward = proto::Forward { units: vec![proto::Unit::default()], ..Default::default() };
    let body = Some(proto::envelope::Body::Forward(forward));
    assert_eq!(refused(proto::Envelope { body, ..raw() }), missing("commands"));
    let results = vec![proto::ForwardResult::default()];
    let reply = proto::ForwardReply { request_id: 1, results };
    let body = Some(proto::envelope::Body::ForwardReply(reply));
    assert_eq!(refused(proto::Envelope { body, ..raw() }), missing("result"));
}

/// Goal: only messages for peers, in their shape. Method: every other number, and broken entries.
#[test]
fn impossible_raft_messages_are_refused() {
    let kinds = (0..=20).filter(|kind| kind_from_proto(*kind).is_ok()).collect::<Vec<_>>();
    assert_eq!(kinds, [3, 4, 5, 6, 8, 9, 14, 15, 16, 17, 18]);
    let snapshot = refused_raft(|m| m.kind = 7);
    assert_eq!(snapshot, WireError::UnknownKind { field: "message kind", value: 7 });
    let unknown = refused_raft(|m| m.entries[0].kind = 0);
    assert_eq!(unknown, WireError::UnknownKind { field: "entry kind", value: 0 });
    let (expected, found) = (LogIndex::new(12), LogIndex::new(13));
    let gap = refused_raft(|m| m.entries[1].index = 13);
    assert_eq!(gap, WireError::EntriesNotContiguous { expected, found });
    assert_eq!(refused_raft(|m| m.kind = 8), WireError::UnexpectedEntries);
    assert_eq!(refused_raft(|m| m.entries[0].term = 0), WireError::ZeroId { field: "entry term" });
}

/// Goal: numbers and sizes are bounded. Method: one beyond each limit.
#[test]
fn out_of_range_values_are_refused() {
    let field = |error| match error {
        WireError::OutOfRange { field, .. } => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(refused_raft(|m| m.term = ORDINAL_MAX + 1)), "term");
    assert_eq!(field(refused_raft(|m| m.index = u64::MAX)), "index");
    assert_eq!(field(refused_raft(|m| m.commit = u64::MAX)), "commit");
    let long = Bytes::from(vec![0; CONTEXT_BYTES_MAX + 1]);
    assert_eq!(field(refused_raft(|m| m.context = long)), "context length");
    let data = Bytes::from(vec![0; ENTRY_BYTES_MAX + 1]);
    assert_eq!(field(refused_raft(|m| m.entries[0].data = data)), "entry length");
    let bytes = FRAME_BYTES_MAX + 1;
    let error = decode_frame(Bytes::from(vec![0; bytes]), HERE);
    assert_eq!(error, Err(WireError::FrameTooLarge { bytes }));
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
