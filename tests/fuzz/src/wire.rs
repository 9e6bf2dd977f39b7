//! The frames between nodes: every message of `runtime/core/proto`.
//!
//! Properties: what decodes encodes again, decodes to the same, and from then on to the same bytes;
//! the conf changes and batches inside are read without harm. What messages do to a replica is the
//! target `replica`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use polyraft_core::batch::{self, Unit};
use polyraft_core::conf_change::{ConfChange, ConfChangeKind, ConfChangeStep, ConfTransition};
use polyraft_core::entry::{EntryKind, LogEntry, Member};
use polyraft_core::error::ProposeError;
use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use polyraft_core::message::{
    AppliedUnit, Body, Envelope, Forward, ForwardReply, RaftKind, RaftMessage,
};
use polyraft_core::state_machine::Response;
use polyraft_core::trace::TraceContext;
use polyraft_core::wire::{append_envelope, decode_frame};
use polyraft_tests::host::GROUP;

const HERE: NodeId = NodeId::new(1);

pub fn run(data: &[u8]) {
    let Ok(envelopes) = decode_frame(Bytes::copy_from_slice(data), HERE) else { return };
    let again = encode(envelopes.clone());
    assert_eq!(decode_frame(again.clone(), HERE).as_ref(), Ok(&envelopes));
    assert_eq!(encode(envelopes.clone()), again);
    for envelope in envelopes {
        let Body::Raft(message) = envelope.body else { continue };
        message.entries.iter().for_each(read_entry);
    }
}

fn read_entry(entry: &LogEntry) {
    match entry.kind {
        EntryKind::Normal => drop(batch::decode(entry.data.clone())),
        EntryKind::ConfChange => {
            let Ok(change) = ConfChange::decode(&entry.data) else { return };
            assert_eq!(ConfChange::decode(&change.encode()).as_ref(), Ok(&change));
        }
    }
}

/// A frame of these envelopes.
pub fn encode(envelopes: impl IntoIterator<Item = Envelope>) -> Bytes {
    let mut frame = BytesMut::new();
    envelopes.into_iter().for_each(|envelope| append_envelope(&mut frame, envelope));
    frame.freeze()
}

/// A message of the simulated group's replica on node 2 to the one on node 1.
pub fn envelope(body: Body) -> Envelope {
    let (from, to) = (ReplicaId::new(201), ReplicaId::new(101));
    Envelope { group: GROUP, from, to, to_node: HERE, body }
}

/// A change that adds, demotes or removes a replica, through a joint configuration or not.
pub fn conf_change(kind: ConfChangeKind, node: u64, transition: ConfTransition) -> ConfChange {
    let replica = ReplicaId::new(node * 100 + 1);
    ConfChange {
        transition,
        steps: vec![ConfChangeStep { kind, replica }],
        members: vec![Member { replica, node: NodeId::new(node) }],
    }
}

/// A message of each kind with each field set, which is more than correct peers set.
pub fn messages() -> Vec<RaftMessage> {
    use RaftKind::*;
    let kinds = [
        Append,
        AppendResponse,
        RequestVote,
        RequestVoteResponse,
        Heartbeat,
        HeartbeatResponse,
        TimeoutNow,
        ReadIndex,
        ReadIndexResponse,
        RequestPreVote,
        RequestPreVoteResponse,
    ];
    let change = conf_change(ConfChangeKind::AddLearner, 4, ConfTransition::Explicit).encode();
    let entry = |index, kind, data: &Bytes| LogEntry {
        index: LogIndex::new(index),
        term: Term::new(3),
        kind,
        data: data.clone(),
    };
    let message = |kind: RaftKind| RaftMessage {
        log_term: Term::new(2),
        index: LogIndex::new(10),
        commit: LogIndex::new(9),
        commit_term: Term::new(2),
        reject_hint: LogIndex::new(4),
        priority: -4,
        context: Bytes::from_static(b"12345678"),
        compact_floor: LogIndex::new(6),
        entries: match kind {
            Append => vec![
                entry(11, EntryKind::Normal, &crate::batch::encode(&[(false, &[3])])),
                entry(12, EntryKind::ConfChange, &change),
            ],
            _ => Vec::new(),
        },
        ..RaftMessage::new(kind, Term::new(if kind == ReadIndex { 0 } else { 3 }))
    };
    kinds.into_iter().map(message).collect()
}

fn results() -> Vec<Result<AppliedUnit, ProposeError>> {
    let (group, term, deadline) = (GROUP, Term::new(6), Duration::from_millis(1_500));
    let (bytes, commands, max) = (9, 8, 7);
    let responses =
        vec![Response::Accepted(Bytes::from_static(b"yes")), Response::Rejected(Bytes::new())];
    let applied = AppliedUnit { index: LogIndex::new(3), term, first_sub_index: 2, responses };
    vec![
        Ok(applied),
        Err(ProposeError::NotLeader { group, term, leader: Some(NodeId::new(3)) }),
        Err(ProposeError::Overloaded { group, what: "a queue" }),
        Err(ProposeError::Expired { group, deadline }),
        Err(ProposeError::TooLarge { group, bytes, max }),
        Err(ProposeError::BatchLength { group, commands, max }),
        Err(ProposeError::Superseded { group }),
        Err(ProposeError::Unknown { group }),
        Err(ProposeError::TimedOut { group, deadline }),
        Err(ProposeError::Faulted { group }),
        Err(ProposeError::Stopped { group }),
    ]
}

pub fn seeds() -> Vec<Vec<u8>> {
    let units = vec![
        Unit { atomic: true, commands: vec![Bytes::from_static(b"a"), Bytes::new()] },
        Unit::single(Bytes::from_static(b"b")),
    ];
    let trace =
        TraceContext::from_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let timeout = Duration::from_millis(250);
    let forward = Forward { request_id: 77, units, timeout, trace };
    let reply = ForwardReply { request_id: 77, results: results() };
    let mut bodies: Vec<_> = messages().into_iter().map(Body::Raft).collect();
    bodies.extend([Body::Forward(forward), Body::ForwardReply(reply), Body::UnknownGroup]);
    let elsewhere = Envelope { group: GroupId::new(1), ..envelope(Body::UnknownGroup) };
    let heartbeat = RaftMessage::new(RaftKind::Heartbeat, Term::new(3));
    let several = encode([elsewhere, envelope(Body::Raft(heartbeat))]);
    let mut seeds: Vec<_> =
        bodies.into_iter().map(|body| encode([envelope(body)]).to_vec()).collect();
    seeds.push(several.to_vec());
    seeds
}
