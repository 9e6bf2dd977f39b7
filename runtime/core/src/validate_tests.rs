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
            last_term: Term::new(log.last_term()),
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

#[test]
fn a_vote_of_term_0_would_panic() {
    let vote = message(RaftKind::RequestVote, 0);
    refused_and_fatal(Bench::new(), vote, |e| matches!(e, InvalidMessage::Term { .. }));
}

/// Found by fuzzing.
#[test]
fn a_pre_vote_that_is_refused_in_term_0_would_panic() {
    let low = RaftMessage { priority: -1, ..message(RaftKind::RequestPreVote, 1) };
    let is_it = |e: &InvalidMessage| matches!(e, InvalidMessage::PreVoteInTermZero { .. });
    refused_and_fatal(Bench::new(), low.clone(), is_it);
    let bench = Bench::new();
    let behind = message(RaftKind::RequestPreVote, 1);
    let behind_view =
        ReplicaView { last: LogIndex::new(1), last_term: Term::new(3), ..bench.view() };
    let from = (NodeId::new(20), replica(2), replica(1));
    let checked = validate(&behind_view, from.0, from.1, from.2, &behind);
    assert!(checked.is_err_and(|error| is_it(&error)));
    let mut later = Bench::new();
    later.step(2, message(RaftKind::Heartbeat, 1));
    assert!(later.offer(2, low), "in a later term it is answered");
}

#[test]
fn a_commit_beyond_the_log_would_panic() {
    let mut heartbeat = message(RaftKind::Heartbeat, 1);
    heartbeat.commit = LogIndex::new(1);
    refused_and_fatal(Bench::new(), heartbeat, |e| {
        matches!(e, InvalidMessage::CommitBeyondLast { .. })
    });
}

#[test]
fn an_anchor_without_a_term_would_panic() {
    let gap = append(1, (5, 0), vec![entry(6, 1)]);
    refused_and_fatal(Bench::new(), gap, |e| matches!(e, InvalidMessage::Anchor { .. }));
}

#[test]
fn an_entry_without_a_term_would_panic() {
    let mut no_term = append(1, (0, 0), vec![entry(1, 0)]);
    no_term.commit = LogIndex::new(1);
    refused_and_fatal(Bench::new(), no_term, |e| matches!(e, InvalidMessage::EntryTerm { .. }));
}

#[test]
fn entries_that_do_not_follow_would_panic() {
    let scattered = append(1, (0, 0), vec![entry(7, 1)]);
    refused_and_fatal(Bench::new(), scattered, |e| {
        matches!(e, InvalidMessage::EntriesNotContiguous { .. })
    });
}

#[test]
fn a_read_with_a_term_would_panic_a_follower_that_passes_it_on() {
    let mut bench = Bench::new();
    assert!(bench.offer(2, message(RaftKind::Heartbeat, 1)));
    let mut read = message(RaftKind::ReadIndex, 1);
    read.context = Bytes::from_static(b"read");
    refused_and_fatal(bench, read, |e| matches!(e, InvalidMessage::Term { .. }));
}

#[test]
fn a_vote_that_elects_a_volatile_log_would_panic() {
    let mut bench = Bench::new();
    assert!(bench.offer(2, append(1, (0, 0), vec![entry(1, 1)])));
    bench.node.raft.become_candidate();
    let granted = message(RaftKind::RequestVoteResponse, 2);
    bench.step(3, granted.clone());
    refused_and_fatal(bench, granted, |e| matches!(e, InvalidMessage::NotPersisted { .. }));
}

#[test]
fn a_vote_that_elects_a_removed_replica_would_panic() {
    let mut bench = Bench::new();
    bench.node.raft.become_candidate();
    bench.node.raft.become_candidate();
    bench.apply(LogEntry { kind: EntryKind::ConfChange, data: removal(1).encode(), ..entry(1, 1) });
    let granted = message(RaftKind::RequestVoteResponse, 2);
    bench.step(3, granted.clone());
    refused_and_fatal(bench, granted, |e| matches!(e, InvalidMessage::NotVoter { .. }));
}

/// A leader in term 1 whose log ends at 1, and the acknowledgement of entry 2.
fn leader_and_acknowledgement() -> (Bench, RaftMessage) {
    let mut bench = Bench::new();
    bench.lead();
    let index = LogIndex::new(2);
    (bench, RaftMessage { index, ..message(RaftKind::AppendResponse, 1) })
}

#[test]
fn acknowledgements_beyond_the_log_are_refused() {
    let (mut bench, ack) = leader_and_acknowledgement();
    let (index, last) = (LogIndex::new(2), LogIndex::new(1));
    assert_eq!(bench.check(2, &ack), Err(InvalidMessage::AckBeyondLast { index, last }));
    bench.node.propose(vec![], b"x".to_vec()).expect("leader");
    assert_eq!(bench.check(2, &ack), Ok(()), "the entry exists now");
}

#[test]
fn acknowledgements_of_another_term_are_left_to_raft() {
    let (bench, ack) = leader_and_acknowledgement();
    assert_eq!(bench.check(2, &RaftMessage { term: Term::new(2), ..ack }), Ok(()));
}

#[test]
fn nobody_may_ask_for_a_snapshot() {
    let (bench, ack) = leader_and_acknowledgement();
    let asks = RaftMessage { request_snapshot: LogIndex::new(1), ..ack };
    assert_eq!(bench.check(2, &asks), Err(InvalidMessage::SnapshotRequest));
}

/// Validates a heartbeat in the name of `from` to `to`, off the node `sender`.
fn addressed(sender: u64, from: u64, to: u64, kind: RaftKind) -> Result<(), InvalidMessage> {
    let bench = Bench::new();
    let (sender, from, to) = (NodeId::new(sender), replica(from), replica(to));
    validate(&bench.view(), sender, from, to, &message(kind, 1))
}

#[test]
fn a_member_on_its_own_node_is_heard() {
    assert_eq!(addressed(20, 2, 1, RaftKind::Heartbeat), Ok(()));
}

#[test]
fn a_message_for_another_replica_is_refused() {
    let expected = InvalidMessage::WrongReplica { to: replica(3), replica: replica(1) };
    assert_eq!(addressed(20, 2, 3, RaftKind::Heartbeat), Err(expected));
}

#[test]
fn a_member_on_another_node_is_refused() {
    let (home, sender) = (NodeId::new(20), NodeId::new(30));
    let expected = InvalidMessage::WrongNode { from: replica(2), home, sender };
    assert_eq!(addressed(30, 2, 1, RaftKind::Heartbeat), Err(expected));
}

#[test]
fn nobody_speaks_in_this_replicas_name() {
    assert_eq!(addressed(10, 1, 1, RaftKind::Heartbeat), Err(InvalidMessage::FromSelf));
}

#[test]
fn a_stranger_may_lead_stand_and_hand_over() {
    use RaftKind::{Append, Heartbeat, RequestPreVote, RequestVote};
    let heard = KINDS.into_iter().filter(|kind| {
        let (from, kind) = (replica(9), *kind);
        addressed(90, 9, 1, kind) != Err(InvalidMessage::UnknownSender { from, kind })
    });
    let expected = [Append, RequestVote, Heartbeat, RaftKind::TimeoutNow, RequestPreVote];
    assert_eq!(heard.collect::<Vec<_>>(), expected);
}

#[test]
fn a_strangers_acknowledgement_is_refused() {
    let kind = RaftKind::AppendResponse;
    let expected = InvalidMessage::UnknownSender { from: replica(9), kind };
    assert_eq!(addressed(90, 9, 1, kind), Err(expected));
}

#[test]
fn every_kind_but_a_read_has_a_term() {
    let bench = Bench::new();
    for kind in KINDS.into_iter().filter(|kind| *kind != RaftKind::ReadIndex) {
        let expected = InvalidMessage::Term { kind, term: Term::new(0) };
        assert_eq!(bench.check(2, &message(kind, 0)), Err(expected));
    }
}

#[test]
fn a_read_names_itself() {
    for (kind, term) in [(RaftKind::ReadIndex, 0), (RaftKind::ReadIndexResponse, 1)] {
        let expected = InvalidMessage::Context { kind, bytes: 0 };
        assert_eq!(Bench::new().check(2, &message(kind, term)), Err(expected));
    }
}

#[test]
fn a_context_is_short() {
    let kind = RaftKind::Heartbeat;
    let with = |bytes| RaftMessage { context: vec![0; bytes].into(), ..message(kind, 1) };
    let bench = Bench::new();
    assert_eq!(bench.check(2, &with(CONTEXT_BYTES_MAX)), Ok(()));
    let bytes = CONTEXT_BYTES_MAX + 1;
    assert_eq!(bench.check(2, &with(bytes)), Err(InvalidMessage::Context { kind, bytes }));
}

#[test]
fn an_append_at_the_start_has_no_term_before_it() {
    let expected = InvalidMessage::Anchor { index: LogIndex::ZERO, log_term: Term::new(1) };
    assert_eq!(Bench::new().check(2, &append(1, (0, 1), vec![])), Err(expected));
}

#[test]
fn an_anchor_is_no_later_than_its_message() {
    let expected = InvalidMessage::Anchor { index: LogIndex::new(4), log_term: Term::new(3) };
    assert_eq!(Bench::new().check(2, &append(2, (4, 3), vec![])), Err(expected));
}

#[test]
fn terms_of_entries_never_fall() {
    let expected = InvalidMessage::EntryTerm { index: LogIndex::new(3), term: Term::new(1) };
    let falling = append(3, (1, 1), vec![entry(2, 2), entry(3, 1)]);
    assert_eq!(Bench::new().check(2, &falling), Err(expected));
}

#[test]
fn the_first_entry_is_no_older_than_its_anchor() {
    let expected = InvalidMessage::EntryTerm { index: LogIndex::new(2), term: Term::new(1) };
    let falling = append(3, (1, 2), vec![entry(2, 1)]);
    assert_eq!(Bench::new().check(2, &falling), Err(expected));
}

#[test]
fn entries_are_no_later_than_their_message() {
    let expected = InvalidMessage::EntryTerm { index: LogIndex::new(1), term: Term::new(3) };
    assert_eq!(Bench::new().check(2, &append(2, (0, 0), vec![entry(1, 3)])), Err(expected));
}

#[test]
fn a_conf_change_that_cannot_be_read_does_not_enter_the_log() {
    let conf = LogEntry { kind: EntryKind::ConfChange, ..entry(1, 1) };
    let error = Bench::new().check(2, &append(1, (0, 0), vec![conf])).expect_err("no conf change");
    let InvalidMessage::ConfChange { index, .. } = error else { panic!("{error:?}") };
    assert_eq!(index, LogIndex::new(1));
}

#[test]
fn a_commit_of_an_earlier_term_is_left_to_raft() {
    let mut bench = Bench::new();
    assert!(bench.offer(2, message(RaftKind::Heartbeat, 5)));
    let late = RaftMessage { commit: LogIndex::new(9), ..message(RaftKind::Heartbeat, 4) };
    assert_eq!(bench.check(2, &late), Ok(()));
}

#[test]
fn a_replica_without_a_vote_is_not_made_a_candidate() {
    let mut bench = Bench::new();
    bench.configuration.voters.retain(|voter| *voter != replica(1));
    let kind = RaftKind::TimeoutNow;
    assert_eq!(bench.check(2, &message(kind, 1)), Err(InvalidMessage::NotVoter { kind }));
}

#[test]
fn a_volatile_log_is_not_made_a_candidate() {
    let mut bench = Bench::new();
    assert!(bench.offer(2, append(1, (0, 0), vec![entry(1, 1)])));
    let kind = RaftKind::TimeoutNow;
    let (persisted, last) = (LogIndex::ZERO, LogIndex::new(1));
    let expected = InvalidMessage::NotPersisted { kind, persisted, last };
    assert_eq!(bench.check(2, &message(kind, 1)), Err(expected));
    bench.settle();
    assert_eq!(bench.check(2, &message(kind, 1)), Ok(()), "durable now");
}

#[test]
fn a_leader_hears_late_votes() {
    let (bench, _) = leader_and_acknowledgement();
    let view = ReplicaView { leads: true, persisted: LogIndex::ZERO, ..bench.view() };
    let late = message(RaftKind::RequestVoteResponse, 1);
    assert_eq!(validate(&view, NodeId::new(20), replica(2), replica(1), &late), Ok(()));
}

#[test]
fn each_refusal_says_what_it_found() {
    let (three, four) = (LogIndex::new(3), LogIndex::new(4));
    let kind = RaftKind::TimeoutNow;
    let texts = [
        InvalidMessage::WrongReplica { to: replica(2), replica: replica(1) },
        InvalidMessage::FromSelf,
        InvalidMessage::UnknownSender { from: replica(9), kind },
        InvalidMessage::Term { kind, term: Term::new(0) },
        InvalidMessage::Context { kind, bytes: 65 },
        InvalidMessage::Anchor { index: three, log_term: Term::new(0) },
        InvalidMessage::EntriesNotContiguous { expected: three, found: four },
        InvalidMessage::EntryTerm { index: three, term: Term::new(0) },
        InvalidMessage::CommitBeyondLast { commit: four, last: three },
        InvalidMessage::AckBeyondLast { index: four, last: three },
        InvalidMessage::SnapshotRequest,
        InvalidMessage::NotPersisted { kind, persisted: three, last: four },
        InvalidMessage::NotVoter { kind },
    ]
    .map(|error| error.to_string());
    let expected = [
        "addressed to replica 2, this is 1",
        "sent in this replica's own name",
        "TimeoutNow from replica 9, which is no member",
        "TimeoutNow in term 0",
        "TimeoutNow with a context of 65 bytes",
        "append anchored at index 3 in term 0",
        "entry 4 where 3 was due",
        "entry 3 in term 0",
        "heartbeat commits 4, the log ends at 3",
        "acknowledges 4, the log ends at 3",
        "asks for a snapshot",
        "TimeoutNow while the log is durable up to 3 of 4",
        "TimeoutNow to a replica without a vote",
    ];
    assert_eq!(texts, expected);
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

#[test]
fn a_commit_beyond_the_log_is_refused_in_this_term_and_in_later_ones() {
    let mut bench = Bench::new();
    assert!(bench.offer(2, append(3, (0, 0), vec![entry(1, 1)])));
    let commit = |commit, term| RaftMessage {
        commit: LogIndex::new(commit),
        ..message(RaftKind::Heartbeat, term)
    };
    let (two, last) = (LogIndex::new(2), LogIndex::new(1));
    let expected = InvalidMessage::CommitBeyondLast { commit: two, last };
    assert_eq!(bench.check(2, &commit(1, 3)), Ok(()), "the last entry");
    assert_eq!(bench.check(2, &commit(2, 2)), Ok(()), "of an earlier term");
    assert_eq!(bench.check(2, &commit(2, 3)), Err(expected.clone()));
    assert_eq!(bench.check(2, &commit(2, 4)), Err(expected));
}

#[test]
fn entries_follow_each_other_to_the_last() {
    let (expected, found) = (LogIndex::new(3), LogIndex::new(4));
    let gap = append(1, (0, 0), vec![entry(1, 1), entry(2, 1), entry(4, 1)]);
    let refused = InvalidMessage::EntriesNotContiguous { expected, found };
    assert_eq!(Bench::new().check(2, &gap), Err(refused));
}

#[test]
fn every_word_that_can_make_a_leader_waits_for_a_durable_log() {
    use RaftKind::{RequestPreVoteResponse, RequestVoteResponse, TimeoutNow};
    let mut bench = Bench::new();
    assert!(bench.offer(2, append(1, (0, 0), vec![entry(1, 1)])));
    let refused = KINDS.into_iter().filter(|kind| {
        let mut word = message(*kind, if *kind == RaftKind::ReadIndex { 0 } else { 1 });
        word.context = Bytes::from_static(b"read");
        matches!(bench.check(2, &word), Err(InvalidMessage::NotPersisted { .. }))
    });
    let expected = [RequestVoteResponse, TimeoutNow, RequestPreVoteResponse];
    assert_eq!(refused.collect::<Vec<_>>(), expected);
}

#[test]
fn a_voter_of_the_outgoing_half_may_be_made_a_candidate() {
    let mut bench = Bench::new();
    bench.configuration.voters.retain(|voter| *voter != replica(1));
    bench.configuration.voters_outgoing = vec![replica(1), replica(2)];
    assert_eq!(bench.check(2, &message(RaftKind::TimeoutNow, 1)), Ok(()));
}

#[test]
fn a_read_is_asked_without_a_term_and_answered_with_one() {
    let read = |kind, term| {
        Bench::new().check(2, &RaftMessage { context: b"read"[..].into(), ..message(kind, term) })
    };
    assert_eq!(read(RaftKind::ReadIndex, 0), Ok(()));
    assert_eq!(read(RaftKind::ReadIndexResponse, 1), Ok(()));
    let (kind, term) = (RaftKind::ReadIndex, Term::new(1));
    assert_eq!(read(kind, 1), Err(InvalidMessage::Term { kind, term }));
}

#[test]
fn the_address_is_checked_before_the_message() {
    let mut nonsense = message(RaftKind::Append, 0);
    nonsense.request_snapshot = LogIndex::new(1);
    let bench = Bench::new();
    let check = |to| validate(&bench.view(), NodeId::new(20), replica(2), replica(to), &nonsense);
    let elsewhere = InvalidMessage::WrongReplica { to: replica(3), replica: replica(1) };
    assert_eq!(check(3), Err(elsewhere));
    let (kind, term) = (RaftKind::Append, Term::new(0));
    assert_eq!(check(1), Err(InvalidMessage::Term { kind, term }));
}

#[test]
fn a_conf_change_behind_other_entries_is_read_too() {
    let good = LogEntry { kind: EntryKind::ConfChange, data: removal(3).encode(), ..entry(1, 1) };
    let bad = LogEntry { kind: EntryKind::ConfChange, ..entry(2, 1) };
    let bench = Bench::new();
    assert_eq!(bench.check(2, &append(1, (0, 0), vec![good.clone()])), Ok(()));
    let error = bench.check(2, &append(1, (0, 0), vec![good, bad])).expect_err("no conf change");
    assert!(matches!(error, InvalidMessage::ConfChange { index, .. } if index.get() == 2));
}

#[test]
fn who_is_refused_with_a_cause_says_it() {
    let home = NodeId::new(20);
    let wrong = InvalidMessage::WrongNode { from: replica(2), home, sender: NodeId::new(30) };
    assert_eq!(wrong.to_string(), "replica 2 lives on node 20, the message came from node 30");
    let source = crate::conf_change::ConfChangeError::ZeroId;
    let conf = InvalidMessage::ConfChange { index: LogIndex::new(3), source };
    let cause = std::error::Error::source(&conf).map(ToString::to_string);
    assert_eq!(conf.to_string(), "entry 3 holds no usable conf change");
    assert_eq!(cause.as_deref(), Some("conf change names replica or node 0"));
}
