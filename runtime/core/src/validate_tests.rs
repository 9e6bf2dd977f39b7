//! Tests of validation, with a real `RawNode` behind it.
//!
//! Two directions: thousands of random messages that pass never panic it, and each message of the
//! module's table is refused, and shown to panic it (or to corrupt it) when stepped all the same.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use proptest::prelude::*;
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

use super::*;
use crate::conf_change::{ConfChangeKind, ConfChangeStep};
use crate::entry::{LogEntry, Member};
use crate::raft_bridge::{
    conf_change_to_raft, conf_state_to_raft, configuration_after, entry_from_raft, entry_to_raft,
    message_to_raft,
};
use crate::wire::ORDINAL_MAX;

fn replica(id: u64) -> ReplicaId {
    ReplicaId::new(id)
}

fn member(id: u64) -> Member {
    Member { replica: replica(id), node: NodeId::new(id * 10) }
}

/// Replica 1 of three, on a real `RawNode` whose readies are handled only when told.
struct Bench {
    node: RawNode<MemStorage>,
    configuration: Configuration,
}

impl Bench {
    fn new() -> Self {
        let configuration = Configuration::initial(vec![member(1), member(2), member(3)]);
        let storage = MemStorage::new_with_conf_state(conf_state_to_raft(&configuration));
        let config = Config {
            id: 1,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_inflight_msgs: 4,
            max_size_per_msg: 64,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, storage, &logger).expect("valid");
        Self { node, configuration }
    }

    fn view(&self) -> ReplicaView<'_> {
        let log = &self.node.raft.raft_log;
        ReplicaView {
            replica: replica(1),
            term: Term::new(self.node.raft.term),
            commit: LogIndex::new(log.committed),
            last: LogIndex::new(log.last_index()),
            leads: false,
            persisted: LogIndex::new(log.persisted),
            configuration: &self.configuration,
        }
    }

    fn check(&self, from: u64, message: &RaftMessage) -> Result<(), InvalidMessage> {
        validate(&self.view(), NodeId::new(from * 10), replica(from), replica(1), message)
    }

    fn step(&mut self, from: u64, message: RaftMessage) {
        let _ = self.node.step(message_to_raft(message, replica(from), replica(1)));
    }

    /// Steps it if it is valid; returns whether it was.
    fn offer(&mut self, from: u64, message: RaftMessage) -> bool {
        let valid = self.check(from, &message).is_ok();
        if valid {
            self.step(from, message);
        }
        valid
    }

    /// Persists and applies everything.
    fn settle(&mut self) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let store = self.node.store().clone();
            let mut committed = ready.take_committed_entries();
            store.wl().append(ready.entries()).expect("contiguous");
            if let Some(hard_state) = ready.hs() {
                store.wl().set_hardstate(hard_state.clone());
            }
            committed.extend(self.node.advance(ready).take_committed_entries());
            for entry in committed {
                self.apply(entry_from_raft(entry).expect("ours"));
            }
            self.node.advance_apply();
        }
    }

    /// A replica that wins without anyone's vote must not stand with a volatile log.
    fn settle_if_alone(&mut self) {
        if self.configuration.voters.len() == 1 {
            self.settle();
        }
    }

    fn apply(&mut self, entry: LogEntry) {
        if entry.kind == EntryKind::ConfChange {
            let change = ConfChange::decode(&entry.data).expect("validated");
            if let Ok(state) = self.node.apply_conf_change(&conf_change_to_raft(&change)) {
                self.configuration =
                    configuration_after(&self.configuration, &change, entry.index, &state);
            }
        }
    }

    /// Wins an election in term 1 and commits its no-op, entry 1.
    fn lead(&mut self) {
        self.node.raft.become_candidate();
        self.node.raft.become_leader();
        self.settle();
        let mut ack = message(RaftKind::AppendResponse, 1);
        ack.index = LogIndex::new(1);
        assert!(self.offer(2, ack));
        self.settle();
        assert_eq!(self.view().commit, LogIndex::new(1));
    }
}

fn message(kind: RaftKind, term: u64) -> RaftMessage {
    RaftMessage::new(kind, Term::new(term))
}

fn entry(index: u64, term: u64) -> LogEntry {
    let (index, term) = (LogIndex::new(index), Term::new(term));
    LogEntry { index, term, kind: EntryKind::Normal, data: Bytes::from_static(b"data") }
}

fn append(term: u64, anchor: (u64, u64), entries: Vec<LogEntry>) -> RaftMessage {
    let (index, log_term) = (LogIndex::new(anchor.0), Term::new(anchor.1));
    RaftMessage { index, log_term, entries, ..message(RaftKind::Append, term) }
}

/// A message is refused as `expected`, and for a reason: stepped all the same, `RawNode` panics.
fn refused_and_fatal(
    mut bench: Bench,
    message: RaftMessage,
    expected: fn(&InvalidMessage) -> bool,
) {
    let error = bench.check(2, &message).expect_err("invalid");
    assert!(expected(&error), "{error:?}");
    let stepped = catch_unwind(AssertUnwindSafe(|| bench.step(2, message.clone())));
    assert!(stepped.is_err(), "raft-rs took {message:?}");
}

/// Goal: the guards against panics are needed and work. Method: one offender per panic.
#[test]
fn what_panics_raft_is_refused() {
    use InvalidMessage as Invalid;
    let vote = message(RaftKind::RequestVote, 0);
    refused_and_fatal(Bench::new(), vote, |e| matches!(e, Invalid::Term { .. }));

    let mut heartbeat = message(RaftKind::Heartbeat, 1);
    heartbeat.commit = LogIndex::new(1);
    refused_and_fatal(Bench::new(), heartbeat, |e| matches!(e, Invalid::CommitBeyondLast { .. }));

    let gap = append(1, (5, 0), vec![entry(6, 1)]);
    refused_and_fatal(Bench::new(), gap, |e| matches!(e, Invalid::Anchor { .. }));

    let mut no_term = append(1, (0, 0), vec![entry(1, 0)]);
    no_term.commit = LogIndex::new(1);
    refused_and_fatal(Bench::new(), no_term, |e| matches!(e, Invalid::EntryTerm { .. }));

    let scattered = append(1, (0, 0), vec![entry(7, 1)]);
    refused_and_fatal(Bench::new(), scattered, |e| {
        matches!(e, Invalid::EntriesNotContiguous { .. })
    });

    let mut bench = Bench::new();
    assert!(bench.offer(2, message(RaftKind::Heartbeat, 1)));
    let mut read = message(RaftKind::ReadIndex, 1);
    read.context = Bytes::from_static(b"read");
    refused_and_fatal(bench, read, |e| matches!(e, Invalid::Term { .. }));

    let mut bench = Bench::new();
    assert!(bench.offer(2, append(1, (0, 0), vec![entry(1, 1)])));
    bench.node.raft.become_candidate();
    let granted = message(RaftKind::RequestVoteResponse, 2);
    bench.step(3, granted.clone());
    refused_and_fatal(bench, granted.clone(), |e| matches!(e, Invalid::NotPersisted { .. }));

    let mut bench = Bench::new();
    bench.node.raft.become_candidate();
    bench.node.raft.become_candidate();
    bench.apply(LogEntry { kind: EntryKind::ConfChange, data: removal(1).encode(), ..entry(1, 1) });
    bench.step(3, granted.clone());
    refused_and_fatal(bench, granted, |e| matches!(e, Invalid::NotVoter { .. }));
}

/// Goal: a leader believes no acknowledgement of what it does not have. Method: the same message
/// before and after the entry exists.
#[test]
fn acknowledgements_beyond_the_log_are_refused() {
    let mut bench = Bench::new();
    bench.lead();
    let mut ack = message(RaftKind::AppendResponse, 1);
    ack.index = LogIndex::new(2);
    assert!(matches!(bench.check(2, &ack), Err(InvalidMessage::AckBeyondLast { .. })));
    bench.node.propose(vec![], b"x".to_vec()).expect("leader");
    assert_eq!(bench.check(2, &ack), Ok(()));
    ack.request_snapshot = LogIndex::new(1);
    assert_eq!(bench.check(2, &ack), Err(InvalidMessage::SnapshotRequest));
}

/// Goal: only the right replica, from its own node, is heard. Method: one lie at a time.
#[test]
fn addresses_are_checked() {
    let bench = Bench::new();
    let heartbeat = message(RaftKind::Heartbeat, 1);
    let check = |sender, from, to, message| {
        validate(&bench.view(), NodeId::new(sender), replica(from), replica(to), message)
    };
    assert_eq!(check(20, 2, 1, &heartbeat), Ok(()));
    assert_eq!(check(90, 9, 1, &heartbeat), Ok(()), "a leader that is not known here yet");
    assert!(matches!(check(20, 2, 3, &heartbeat), Err(InvalidMessage::WrongReplica { .. })));
    assert!(matches!(check(30, 2, 1, &heartbeat), Err(InvalidMessage::WrongNode { .. })));
    assert_eq!(check(10, 1, 1, &heartbeat), Err(InvalidMessage::FromSelf));
    let ack = message(RaftKind::AppendResponse, 1);
    assert!(matches!(check(90, 9, 1, &ack), Err(InvalidMessage::UnknownSender { .. })));
}

/// Goal: contexts and conf changes are checked, learners do not lead. Method: one of each.
#[test]
fn contents_are_checked() {
    let mut bench = Bench::new();
    let read = message(RaftKind::ReadIndex, 0);
    assert!(matches!(bench.check(2, &read), Err(InvalidMessage::Context { bytes: 0, .. })));
    let mut heartbeat = message(RaftKind::Heartbeat, 1);
    heartbeat.context = Bytes::from(vec![0; CONTEXT_BYTES_MAX + 1]);
    assert!(matches!(bench.check(2, &heartbeat), Err(InvalidMessage::Context { .. })));
    let conf = LogEntry { kind: EntryKind::ConfChange, ..entry(1, 1) };
    let error = bench.check(2, &append(1, (0, 0), vec![conf])).expect_err("not a conf change");
    assert!(matches!(error, InvalidMessage::ConfChange { .. }));
    let falling = append(3, (1, 2), vec![entry(2, 1)]);
    assert!(matches!(bench.check(2, &falling), Err(InvalidMessage::EntryTerm { .. })));
    bench.configuration.voters.retain(|voter| *voter != replica(1));
    let timeout_now = message(RaftKind::TimeoutNow, 1);
    assert!(matches!(bench.check(2, &timeout_now), Err(InvalidMessage::NotVoter { .. })));
}

const KINDS: [RaftKind; 11] = [
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
];

#[derive(Debug, Clone)]
enum Op {
    /// From a replica (4 is unknown), its term relative to this replica's. An append is left as it
    /// is (tidy 0), is made contiguous (1), or plausible throughout (2, 3).
    Message {
        from: u64,
        term_ahead: i64,
        message: RaftMessage,
        tidy: u8,
    },
    Settle,
    Tick,
    Campaign,
    Propose,
    Read,
}

/// Small numbers mostly, so that they meet what is there; now and then the largest.
fn any_ordinal() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0u64..6, 1 => Just(ORDINAL_MAX), 1 => Just(ORDINAL_MAX - 1)]
}

fn removal(id: u64) -> ConfChange {
    let step = ConfChangeStep { kind: ConfChangeKind::Remove, replica: replica(id) };
    ConfChange { steps: vec![step], ..ConfChange::default() }
}

fn any_entries() -> impl Strategy<Value = Vec<LogEntry>> {
    let data = removal(3).encode();
    let one = (0u64..6, 0u64..4, 0u8..12).prop_map(move |(index, term, kind)| match kind {
        0 => LogEntry { kind: EntryKind::ConfChange, data: data.clone(), ..entry(index, term) },
        1 => LogEntry { kind: EntryKind::ConfChange, data: Bytes::new(), ..entry(index, term) },
        _ => entry(index, term),
    });
    proptest::collection::vec(one, 0..4)
}

fn any_message() -> impl Strategy<Value = RaftMessage> {
    let numbers = proptest::array::uniform5(any_ordinal());
    let context = prop_oneof![Just(&b""[..]), Just(&b"read"[..]), Just(&b"CampaignTransfer"[..])];
    (0..KINDS.len(), numbers, any_entries(), any::<bool>(), context).prop_map(
        |(kind, [log_term, index, commit, commit_term, hint], entries, reject, context)| {
            let kind = KINDS[kind];
            RaftMessage {
                log_term: Term::new(log_term),
                index: LogIndex::new(index),
                entries: if kind == RaftKind::Append { entries } else { Vec::new() },
                commit: LogIndex::new(commit),
                commit_term: Term::new(commit_term),
                reject,
                reject_hint: LogIndex::new(hint),
                context: Bytes::from_static(context),
                ..message(kind, 0)
            }
        },
    )
}

/// Makes an append's anchor plausible and its entries contiguous, with terms within reach if asked.
fn tidy_append(message: &mut RaftMessage, tidy_terms: bool) {
    let term = message.term.get().max(1);
    message.log_term = Term::new(match message.index.get() {
        0 => 0,
        _ => message.log_term.get().clamp(1, term),
    });
    let (mut index, mut last_term) = (message.index, message.log_term.get().max(1));
    for entry in &mut message.entries {
        index = index.next();
        entry.index = index;
        if tidy_terms {
            last_term = entry.term.get().clamp(last_term, term);
            entry.term = Term::new(last_term);
        }
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    let peer =
        (2u64..5, -1i64..3, any_message(), 0u8..4).prop_map(|(from, term_ahead, message, tidy)| {
            Op::Message { from, term_ahead, message, tidy }
        });
    prop_oneof![
        20 => peer,
        4 => Just(Op::Settle),
        2 => Just(Op::Tick),
        2 => Just(Op::Campaign),
        2 => Just(Op::Propose),
        1 => Just(Op::Read),
    ]
}

/// Carries out `op`; returns whether a message passed validation.
fn run(bench: &mut Bench, op: Op) -> bool {
    match op {
        Op::Message { from, term_ahead, mut message, tidy } => {
            if message.kind != RaftKind::ReadIndex {
                let term = bench.node.raft.term.saturating_add_signed(term_ahead);
                message.term = Term::new(term.min(ORDINAL_MAX));
            }
            if tidy > 0 && message.kind == RaftKind::Append {
                tidy_append(&mut message, tidy > 1);
            }
            return bench.offer(from, message);
        }
        Op::Settle => bench.settle(),
        Op::Tick => {
            bench.settle_if_alone();
            bench.node.tick();
        }
        Op::Campaign => {
            bench.settle_if_alone();
            let _ = bench.node.campaign();
        }
        Op::Propose => {
            let _ = bench.node.propose(vec![], b"x".to_vec());
        }
        Op::Read => bench.node.read_index(b"own".to_vec()),
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Goal: no message that passes panics raft-rs (RF-11). Method: some 10,000 random messages to
    /// followers, candidates and leaders with durable and volatile logs; stepping is the assertion.
    #[test]
    fn valid_messages_never_panic_raft(
        leads in any::<bool>(),
        ops in proptest::collection::vec(any_op(), 40..120),
    ) {
        let mut bench = Bench::new();
        if leads {
            bench.lead();
        }
        let valid = ops.into_iter().map(|op| run(&mut bench, op)).filter(|valid| *valid).count();
        bench.settle();
        prop_assert!(valid > 0, "the generator makes no valid message");
        let log = &bench.node.raft.raft_log;
        prop_assert!(log.applied <= log.committed && log.committed <= log.last_index());
    }
}

/// Goal: the random test reaches what it is for. Method: a follower takes a real append, commits by
/// heartbeat, and becomes leader by votes, all through validation.
#[test]
fn correct_traffic_passes() {
    let mut bench = Bench::new();
    assert!(bench.offer(2, append(1, (0, 0), vec![entry(1, 1), entry(2, 1)])));
    bench.settle();
    let mut heartbeat = message(RaftKind::Heartbeat, 1);
    heartbeat.commit = LogIndex::new(2);
    assert!(bench.offer(2, heartbeat));
    bench.settle();
    assert_eq!(bench.view().commit, LogIndex::new(2));
    assert!(bench.offer(2, message(RaftKind::TimeoutNow, 1)));
    bench.settle();
    assert!(bench.offer(3, message(RaftKind::RequestVoteResponse, 2)));
    assert_eq!(bench.node.raft.state, StateRole::Leader);
    assert_eq!(entry_to_raft(entry(1, 1)).index, 1);
}
