//! Tests of the bridge: what raft-rs itself produces is the reference.

use raft::storage::MemStorage;
use raft::{Config, RawNode};

use super::*;
use crate::conf_change::ConfChangeStep;
use crate::entry::Member;
use crate::ids::NodeId;

fn entry(index: u64, bytes: usize) -> LogEntry {
    let data = Bytes::from(vec![1; bytes]);
    LogEntry { index: LogIndex::new(index), term: Term::new(3), kind: EntryKind::Normal, data }
}

fn append(anchor: u64, entries: Vec<LogEntry>) -> RaftMessage {
    let (index, log_term) = (LogIndex::new(anchor), Term::new(2));
    let commit = LogIndex::new(9);
    RaftMessage {
        index,
        log_term,
        commit,
        entries,
        ..RaftMessage::new(RaftKind::Append, Term::new(3))
    }
}

fn to_raft(message: RaftMessage) -> eraftpb::Message {
    message_to_raft(message, ReplicaId::new(1), ReplicaId::new(2))
}

fn from_raft(message: eraftpb::Message) -> Result<Vec<RaftMessage>, BridgeError> {
    messages_from_raft(message, LogIndex::new(4))
}

/// Goal: every kind and every field survives. Method: there and back.
#[test]
fn messages_round_trip() {
    let mut full = RaftMessage {
        reject: true,
        reject_hint: LogIndex::new(5),
        request_snapshot: LogIndex::new(6),
        commit_term: Term::new(7),
        priority: -8,
        context: Bytes::from_static(b"read"),
        compact_floor: LogIndex::new(4),
        ..append(0, Vec::new())
    };
    let kinds = (0..=18).filter_map(|n| {
        use raft::eraftpb::MessageType as T;
        let all = [
            T::MsgHup,
            T::MsgBeat,
            T::MsgPropose,
            T::MsgAppend,
            T::MsgAppendResponse,
            T::MsgRequestVote,
            T::MsgRequestVoteResponse,
            T::MsgSnapshot,
            T::MsgHeartbeat,
            T::MsgHeartbeatResponse,
            T::MsgUnreachable,
            T::MsgSnapStatus,
            T::MsgCheckQuorum,
            T::MsgTransferLeader,
            T::MsgTimeoutNow,
            T::MsgReadIndex,
            T::MsgReadIndexResp,
            T::MsgRequestPreVote,
            T::MsgRequestPreVoteResponse,
        ];
        kind_from_raft(all[n]).ok()
    });
    let mut seen = 0;
    for kind in kinds {
        full.kind = kind;
        assert_eq!(from_raft(to_raft(full.clone())), Ok(vec![full.clone()]));
        seen += 1;
    }
    assert_eq!(seen, 11);
    let with_entries =
        RaftMessage { compact_floor: LogIndex::new(4), ..append(6, vec![entry(7, 3)]) };
    assert_eq!(from_raft(to_raft(with_entries.clone())), Ok(vec![with_entries]));
}

/// Goal: what is not for peers does not leave. Method: a snapshot and a passed-on proposal.
#[test]
fn snapshots_and_proposals_stay() {
    for kind in [MessageType::MsgSnapshot, MessageType::MsgPropose, MessageType::MsgTransferLeader]
    {
        let message = eraftpb::Message { msg_type: kind, ..Default::default() };
        assert_eq!(from_raft(message), Err(BridgeError::NotForPeers { kind: kind as i32 }));
    }
}

/// Goal: merged appends are split at the byte limit, each anchored right. Method: five of 400 KiB.
#[test]
fn large_appends_are_split() {
    let entries: Vec<_> = (7..12).map(|index| entry(index, 400 << 10)).collect();
    let parts = from_raft(to_raft(append(6, entries.clone()))).expect("for peers");
    let shape: Vec<_> =
        parts.iter().map(|p| (p.index.get(), p.log_term.get(), p.entries.len())).collect();
    assert_eq!(shape, [(6, 2, 2), (8, 3, 2), (10, 3, 1)]);
    assert!(parts.iter().all(|part| part.commit == LogIndex::new(9)));
    let joined: Vec<_> = parts.into_iter().flat_map(|part| part.entries).collect();
    assert_eq!(joined, entries);
}

/// Goal: an append whose anchor is not before its entries does not leave. Method: a gap.
#[test]
fn gaps_are_refused() {
    let error = from_raft(to_raft(append(3, vec![entry(7, 1)]))).expect_err("gap");
    assert_eq!(error, BridgeError::AppendGap { anchor: LogIndex::new(3), first: LogIndex::new(7) });
}

/// Goal: foreign entries are refused, hard states survive. Method: one of each.
#[test]
fn entries_and_hard_states_translate() {
    let old = eraftpb::EntryType::EntryConfChange;
    let old = eraftpb::Entry { entry_type: old, index: 5, ..Default::default() };
    let index = LogIndex::new(5);
    assert_eq!(entry_from_raft(old), Err(BridgeError::OldConfChange { index }));
    let odd = eraftpb::Entry { context: Bytes::from_static(b"x"), index: 5, ..Default::default() };
    assert_eq!(entry_from_raft(odd), Err(BridgeError::EntryContext { index }));
    for vote in [None, Some(ReplicaId::new(3))] {
        let state = HardState { term: Term::new(2), vote, commit: LogIndex::new(1) };
        assert_eq!(hard_state_from_raft(&hard_state_to_raft(state)), state);
    }
}

fn single_node(configuration: &Configuration) -> RawNode<MemStorage> {
    let storage = MemStorage::new_with_conf_state(conf_state_to_raft(configuration));
    let config = Config { id: 1, ..Config::default() };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut node = RawNode::new(&config, storage, &logger).expect("a valid configuration");
    node.campaign().expect("alone");
    persist(&mut node);
    node
}

/// Handles readies until there are none; returns what was committed.
fn persist(node: &mut RawNode<MemStorage>) -> Vec<eraftpb::Entry> {
    let mut committed = Vec::new();
    while node.has_ready() {
        let mut ready = node.ready();
        committed.extend(ready.take_committed_entries());
        let store = node.store().clone();
        store.wl().append(ready.entries()).expect("contiguous");
        if let Some(hard_state) = ready.hs() {
            store.wl().set_hardstate(hard_state.clone());
        }
        committed.extend(node.advance(ready).take_committed_entries());
        node.advance_apply();
    }
    committed
}

/// Goal: raft-rs's encoding of a conf change and ours are one. Method: let raft-rs propose, commit
/// and apply one, read the entry with our decoder, and compare the bytes.
#[test]
fn conf_changes_pass_through_raft() {
    let member =
        |replica, node| Member { replica: ReplicaId::new(replica), node: NodeId::new(node) };
    let before = Configuration::initial(vec![member(1, 10)]);
    let step = |kind, replica| ConfChangeStep { kind, replica: ReplicaId::new(replica) };
    let change = ConfChange {
        transition: ConfTransition::Explicit,
        steps: vec![step(ConfChangeKind::AddVoter, 2), step(ConfChangeKind::AddLearner, 3)],
        members: vec![member(2, 20), member(3, 30)],
    };
    let mut node = single_node(&before);
    node.propose_conf_change(vec![], conf_change_to_raft(&change)).expect("leader");
    let committed = persist(&mut node);
    let entry = entry_from_raft(committed.last().expect("committed").clone()).expect("ours");
    assert_eq!(entry.kind, EntryKind::ConfChange);
    assert_eq!(entry.data, change.encode());
    assert_eq!(ConfChange::decode(&entry.data), Ok(change.clone()));
    let state = node.apply_conf_change(&conf_change_to_raft(&change)).expect("allowed");
    let after = configuration_after(&before, &change, entry.index, &state);
    assert_eq!(after.members, [member(1, 10), member(2, 20), member(3, 30)]);
    assert_eq!(after.voters, [ReplicaId::new(1), ReplicaId::new(2)]);
    assert_eq!(after.voters_outgoing, [ReplicaId::new(1)]);
    assert_eq!(after.learners, [ReplicaId::new(3)]);
    assert_eq!((after.index, after.auto_leave), (entry.index, false));
    assert_eq!(conf_state_to_raft(&after), state);
}

#[test]
fn every_kind_that_peers_exchange_has_its_own_number() {
    let types: std::collections::BTreeSet<_> = [
        RaftKind::Append,
        RaftKind::AppendResponse,
        RaftKind::RequestVote,
        RaftKind::RequestVoteResponse,
        RaftKind::Heartbeat,
        RaftKind::HeartbeatResponse,
        RaftKind::TimeoutNow,
        RaftKind::ReadIndex,
        RaftKind::ReadIndexResponse,
        RaftKind::RequestPreVote,
        RaftKind::RequestPreVoteResponse,
    ]
    .map(|kind| kind_to_raft(kind) as i32)
    .into();
    assert_eq!(types.len(), 11);
}

#[test]
fn what_a_replica_tells_itself_stays() {
    use MessageType::{MsgBeat, MsgCheckQuorum, MsgHup, MsgSnapStatus, MsgUnreachable};
    for kind in [MsgHup, MsgBeat, MsgCheckQuorum, MsgSnapStatus, MsgUnreachable] {
        assert_eq!(kind_from_raft(kind), Err(BridgeError::NotForPeers { kind: kind as i32 }));
    }
}

#[test]
fn an_append_without_entries_is_one_message() {
    let empty = RaftMessage { compact_floor: LogIndex::new(4), ..append(6, vec![]) };
    assert_eq!(from_raft(to_raft(empty.clone())), Ok(vec![empty]));
}

#[test]
fn an_append_of_exactly_the_limit_is_not_split() {
    let half = APPEND_BYTES_MAX / 2 - crate::entry::ENTRY_OVERHEAD_BYTES;
    let sizes = |second| {
        let parts = from_raft(to_raft(append(6, vec![entry(7, half), entry(8, second)])));
        parts.expect("for peers").iter().map(|part| part.entries.len()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(half), [2]);
    assert_eq!(sizes(half + 1), [1, 1]);
}

#[test]
fn an_entry_above_the_limit_goes_alone() {
    let entries = vec![entry(7, 1), entry(8, APPEND_BYTES_MAX), entry(9, 1)];
    let parts = from_raft(to_raft(append(6, entries))).expect("for peers");
    let anchors: Vec<_> = parts.iter().map(|part| (part.index.get(), part.entries.len())).collect();
    assert_eq!(anchors, [(6, 1), (7, 1), (8, 1)]);
}

#[test]
fn every_part_of_an_append_carries_the_floor() {
    let entries = vec![entry(7, APPEND_BYTES_MAX), entry(8, APPEND_BYTES_MAX)];
    let parts = from_raft(to_raft(append(6, entries))).expect("for peers");
    assert_eq!(parts.iter().map(|p| p.compact_floor.get()).collect::<Vec<_>>(), [4, 4]);
}

#[test]
fn a_reads_context_is_an_entry_for_raft() {
    let context = Bytes::from_static(b"round 1");
    let read = RaftMessage { context, ..RaftMessage::new(RaftKind::ReadIndex, Term::new(0)) };
    let raft = to_raft(read);
    assert_eq!(raft.entries[0].data, Bytes::from_static(b"round 1"));
    assert!(raft.context.is_empty());
}

#[test]
fn an_append_with_a_foreign_entry_does_not_leave() {
    let mut raft = to_raft(append(6, vec![entry(7, 1)]));
    raft.mut_entries()[0].entry_type = eraftpb::EntryType::EntryConfChange;
    assert_eq!(from_raft(raft), Err(BridgeError::OldConfChange { index: LogIndex::new(7) }));
}

#[test]
fn entries_survive_raft() {
    for kind in [EntryKind::Normal, EntryKind::ConfChange] {
        let entry = LogEntry { kind, ..entry(7, 3) };
        assert_eq!(entry_from_raft(entry_to_raft(entry.clone())), Ok(entry));
    }
}

#[test]
fn a_hard_state_without_a_vote_is_vote_0_for_raft() {
    let raft = hard_state_to_raft(HardState { term: Term::new(2), ..HardState::default() });
    assert_eq!((raft.term, raft.vote, raft.commit), (2, 0, 0));
}

#[test]
fn replicas_of_a_configuration_are_sorted_whatever_raft_says() {
    let member = |id| Member { replica: ReplicaId::new(id), node: NodeId::new(id * 10) };
    let before = Configuration::initial(vec![member(1), member(2), member(3)]);
    let state = eraftpb::ConfState {
        voters: vec![3, 1],
        learners: vec![2],
        auto_leave: true,
        ..Default::default()
    };
    let index = LogIndex::new(9);
    let after = configuration_after(&before, &ConfChange::default(), index, &state);
    let expected = Configuration {
        index,
        members: before.members,
        voters: vec![ReplicaId::new(1), ReplicaId::new(3)],
        learners: vec![ReplicaId::new(2)],
        auto_leave: true,
        ..Configuration::default()
    };
    assert_eq!(after, expected);
}

#[test]
fn refusals_say_what_does_not_leave() {
    let index = LogIndex::new(5);
    let texts = [
        BridgeError::NotForPeers { kind: 7 },
        BridgeError::OldConfChange { index },
        BridgeError::EntryContext { index },
        BridgeError::AppendGap { anchor: LogIndex::new(3), first: index },
    ]
    .map(|error| error.to_string());
    let expected = [
        "raft message type 7 is not sent to peers",
        "entry 5 is a conf change of version 1",
        "entry 5 has a context",
        "append anchored at 3 starts with entry 5",
    ];
    assert_eq!(texts, expected);
}

#[test]
fn every_transition_and_kind_of_step_is_known_to_raft() {
    use eraftpb::{ConfChangeTransition as RaftTransition, ConfChangeType};
    let replica = ReplicaId::new(7);
    let to_raft = |transition, kind| {
        let steps = vec![ConfChangeStep { kind, replica }];
        let change = ConfChange { transition, steps, ..ConfChange::default() };
        let raft = conf_change_to_raft(&change);
        (raft.transition, raft.changes[0].change_type, raft.changes[0].node_id)
    };
    let told = [
        to_raft(ConfTransition::Auto, ConfChangeKind::AddVoter),
        to_raft(ConfTransition::Implicit, ConfChangeKind::AddLearner),
        to_raft(ConfTransition::Explicit, ConfChangeKind::Remove),
    ];
    let expected = [
        (RaftTransition::Auto, ConfChangeType::AddNode, 7),
        (RaftTransition::Implicit, ConfChangeType::AddLearnerNode, 7),
        (RaftTransition::Explicit, ConfChangeType::RemoveNode, 7),
    ];
    assert_eq!(told, expected);
}

#[test]
fn leaving_a_joint_configuration_has_no_context() {
    assert!(conf_change_to_raft(&ConfChange::default()).context.is_empty());
}

#[test]
fn a_part_of_a_split_append_keeps_what_all_of_it_says() {
    let entries = vec![entry(7, APPEND_BYTES_MAX), entry(8, 1)];
    let context = Bytes::from_static(b"c");
    let whole = RaftMessage { context, commit_term: Term::new(2), ..append(6, entries) };
    let parts = from_raft(to_raft(whole)).expect("for peers");
    let kept = parts.iter().map(|p| (p.term.get(), p.commit_term.get(), &p.context[..]));
    assert_eq!(kept.collect::<Vec<_>>(), [(3, 2, &b"c"[..]), (3, 2, &b"c"[..])]);
}
