//! Goal: each basic input has exactly the output that the shell must act on.
//!
//! Method: feed one replica, take, and compare the whole `Output`, shortened to one line per item in
//! the order of its fields. The peers are written by hand.

use super::*;
use crate::conf_change::{ConfChangeKind, ConfChangeStep};
use crate::entry::{CompactionPoint, EntryKind};
use crate::message::{RaftKind, RaftMessage};
use crate::ports::GroupIdentity;

type TestReplica = Replica<&'static str, &'static str>;

const GROUP: GroupId = GroupId::new(7);

fn config() -> ReplicaConfig {
    ReplicaConfig {
        group: GROUP,
        election_ticks: 10,
        heartbeat_ticks: 2,
        seed: 1,
        tail_bytes_max: 1 << 20,
        apply_in_flight_bytes_max: 1 << 20,
        apply_backlog_bytes_max: 1 << 20,
        append_in_flight_bytes_max: 32 << 20,
        retention: Retention { keep_entries: 0, keep_bytes: 1 << 20, step_entries: 1 },
        stands_first: false,
    }
}

/// A fresh replica 101 on node 1, of a group on nodes 1 to `nodes`.
fn replica(nodes: u64) -> TestReplica {
    let node = |n: u64| Member { replica: ReplicaId::new(n * 100 + 1), node: NodeId::new(n) };
    let restored = RestoredLog {
        identity: GroupIdentity { name: "g".into(), replica: ReplicaId::new(101) },
        hard_state: HardState::default(),
        configuration: Configuration::initial((1..=nodes).map(node).collect()),
        compacted: CompactionPoint::default(),
        last: LogIndex::ZERO,
        term_runs: Vec::new(),
        entries: Vec::new(),
    };
    Replica::new(config(), restored, LogIndex::ZERO).expect("a valid configuration")
}

/// Everything in an output, one line per item.
fn take(replica: &mut TestReplica) -> Vec<String> {
    let output = replica.take_output();
    let mut lines = Vec::new();
    for Append { number, append } in output.appends {
        let state = append.hard_state.map(|s| {
            format!(" t{} vote {} commit {}", s.term, s.vote.unwrap_or_default(), s.commit)
        });
        let entries: Vec<_> = append.entries.iter().map(|e| e.index.get()).collect();
        let compact = append.compact.map(|point| format!(" compact {}", point.index));
        let changed = append.configuration.map(|c| format!(" configuration {}", c.index));
        let parts = [state, compact, changed].map(Option::unwrap_or_default).concat();
        lines.push(format!("append {number}:{parts} {entries:?}"));
    }
    for envelope in output.send {
        let Body::Raft(message) = envelope.body else { panic!("only steps of Raft") };
        let entries: Vec<_> = message.entries.iter().map(|e| e.index.get()).collect();
        let (kind, index, commit) = (message.kind, message.index, message.commit);
        lines.push(format!("send {} {kind:?} {index} {entries:?} {commit}", envelope.to));
    }
    lines
        .extend(output.fetches.iter().map(|fetch| format!("fetch [{}, {})", fetch.from, fetch.to)));
    for Committed { entry, waiter } in output.apply {
        lines.push(format!("apply {} {}", entry.index, waiter.unwrap_or("-")));
    }
    lines.extend(output.undecided.iter().map(|(waiter, how)| format!("{waiter} {how:?}")));
    lines.extend(output.reads.iter().map(|(reader, index)| format!("read {reader} {index}")));
    lines.extend(output.reads_failed.iter().map(|reader| format!("read {reader} failed")));
    lines.extend(output.events.iter().map(|event| match event {
        GroupEvent::BecameLeader { term } => format!("leader t{term}"),
        GroupEvent::BecameFollower { term } => format!("follower t{term}"),
        GroupEvent::LeaderChanged { term, leader } => {
            format!("leader of t{term} is {}", leader.unwrap_or_default())
        }
        GroupEvent::ConfChanged { configuration } => format!("changed {}", configuration.index),
        other => format!("{other:?}"),
    }));
    lines
}

fn from_peer(node: u64, message: RaftMessage) -> (NodeId, Envelope) {
    let envelope = Envelope {
        group: GROUP,
        from: ReplicaId::new(node * 100 + 1),
        to: ReplicaId::new(101),
        to_node: NodeId::new(1),
        body: Body::Raft(message),
    };
    (NodeId::new(node), envelope)
}

fn step(replica: &mut TestReplica, node: u64, message: RaftMessage) {
    let (node, envelope) = from_peer(node, message);
    replica.on_message(node, envelope).expect("a correct peer");
}

fn message(kind: RaftKind, term: u64) -> RaftMessage {
    RaftMessage::new(kind, Term::new(term))
}

fn acknowledge(replica: &mut TestReplica, term: u64, index: u64) {
    let mut response = message(RaftKind::AppendResponse, term);
    response.index = LogIndex::new(index);
    step(replica, 2, response);
}

fn entry(index: u64, term: u64) -> LogEntry {
    let (index, term) = (LogIndex::new(index), Term::new(term));
    LogEntry { index, term, kind: EntryKind::Normal, data: Bytes::new() }
}

fn append(term: u64, after: (u64, u64), entries: Vec<LogEntry>, commit: u64) -> RaftMessage {
    let mut append = message(RaftKind::Append, term);
    append.index = LogIndex::new(after.0);
    append.log_term = Term::new(after.1);
    append.entries = entries;
    append.commit = LogIndex::new(commit);
    append
}

/// A sole voter that leads in term 1, with its no-op applied.
fn sole_leader() -> TestReplica {
    let mut replica = replica(1);
    replica.campaign();
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    take(&mut replica);
    replica.on_applied(LogIndex::new(1), LogIndex::ZERO);
    take(&mut replica);
    replica
}

/// One of three that leads in term 1, with its no-op applied and acknowledged by node 2.
fn leader() -> TestReplica {
    let mut replica = replica(3);
    replica.campaign();
    take(&mut replica);
    step(&mut replica, 2, message(RaftKind::RequestPreVoteResponse, 1));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    step(&mut replica, 2, message(RaftKind::RequestVoteResponse, 1));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(2));
    acknowledge(&mut replica, 1, 1);
    take(&mut replica);
    replica.on_applied(LogIndex::new(1), LogIndex::ZERO);
    take(&mut replica);
    replica
}

fn propose(replica: &mut TestReplica, waiter: &'static str) {
    let proposed = replica.propose(Bytes::from_static(b"batch"), waiter);
    assert!(proposed.is_ok(), "{:?}", proposed.err().map(|refused| refused.why));
}

#[test]
fn nothing_in_nothing_out() {
    assert_eq!(take(&mut replica(3)), [""; 0]);
    assert_eq!(take(&mut leader()), [""; 0]);
}

#[test]
fn a_campaign_asks_first() {
    let mut replica = replica(3);
    replica.campaign();
    let asked = ["send 201 RequestPreVote 0 [] 0", "send 301 RequestPreVote 0 [] 0"];
    assert_eq!(take(&mut replica), asked);
}

#[test]
fn a_candidate_asks_for_votes_when_its_own_is_durable() {
    let mut replica = replica(3);
    replica.campaign();
    take(&mut replica);
    step(&mut replica, 2, message(RaftKind::RequestPreVoteResponse, 1));
    assert_eq!(take(&mut replica), ["append 1: t1 vote 101 commit 0 []", "leader of t1 is 0"]);
    replica.on_persisted(ReadyNumber::new(1));
    let asked = ["send 201 RequestVote 0 [] 0", "send 301 RequestVote 0 [] 0"];
    assert_eq!(take(&mut replica), asked);
}

#[test]
fn a_vote_leaves_when_it_is_durable() {
    let mut replica = replica(3);
    step(&mut replica, 2, message(RaftKind::RequestVote, 1));
    assert_eq!(take(&mut replica), ["append 1: t1 vote 201 commit 0 []", "leader of t1 is 0"]);
    replica.on_persisted(ReadyNumber::new(1));
    assert_eq!(take(&mut replica), ["send 201 RequestVoteResponse 0 [] 0"]);
}

#[test]
fn an_append_is_acknowledged_when_it_is_durable() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 0));
    assert_eq!(take(&mut replica), ["append 1: t1 vote 0 commit 0 [1]", "leader of t1 is 2"]);
    replica.on_persisted(ReadyNumber::new(1));
    assert_eq!(take(&mut replica), ["send 201 AppendResponse 1 [] 0"]);
}

#[test]
fn a_commit_index_alone_is_not_written() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    take(&mut replica);
    step(&mut replica, 2, append(1, (1, 1), Vec::new(), 1));
    assert_eq!(take(&mut replica), ["send 201 AppendResponse 1 [] 1", "apply 1 -"]);
}

#[test]
fn a_conflict_replaces_the_tail() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1), entry(2, 1)], 0));
    take(&mut replica);
    step(&mut replica, 3, append(2, (1, 1), vec![entry(2, 2)], 0));
    assert_eq!(take(&mut replica), ["append 2: t2 vote 0 commit 0 [2]", "leader of t2 is 3"]);
    replica.on_persisted(ReadyNumber::new(1));
    // What ended the first append is gone, so raft-rs counts nothing of it, not even entry 1.
    assert_eq!(replica.status().persisted, LogIndex::ZERO);
    replica.on_persisted(ReadyNumber::new(2));
    assert_eq!(replica.status().persisted, LogIndex::new(2));
}

#[test]
fn a_sole_voter_leads_at_once_and_commits_when_durable() {
    let mut replica = replica(1);
    replica.campaign();
    let led = ["append 1: t1 vote 101 commit 0 [1]", "leader t1", "leader of t1 is 1"];
    assert_eq!(take(&mut replica), led);
    replica.on_persisted(ReadyNumber::new(1));
    assert_eq!(take(&mut replica), ["apply 1 -"]);
}

#[test]
fn a_leader_sends_before_its_own_sync() {
    let mut leader = leader();
    propose(&mut leader, "a");
    let out = take(&mut leader);
    assert_eq!(out[..2], ["append 3: t1 vote 101 commit 1 [2]", "send 201 Append 1 [2] 1"]);
}

#[test]
fn a_proposal_is_applied_with_its_waiter() {
    let mut leader = sole_leader();
    propose(&mut leader, "a");
    assert_eq!(take(&mut leader), ["append 2: t1 vote 101 commit 1 [2]"]);
    leader.on_persisted(ReadyNumber::new(2));
    assert_eq!(take(&mut leader), ["apply 2 a"]);
}

#[test]
fn a_follower_refuses_proposals() {
    let refused = replica(3).propose(Bytes::from_static(b"batch"), "a").expect_err("no leader");
    assert_eq!((refused.waiter, refused.why), ("a", Refusal::NotLeader));
}

#[test]
fn stepping_down_leaves_waiters_unknown() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    step(&mut leader, 3, message(RaftKind::Heartbeat, 5));
    let lost = ["append 4: t5 vote 0 commit 1 []", "a Unknown", "follower t5", "leader of t5 is 3"];
    assert_eq!(take(&mut leader), lost);
}

#[test]
fn a_read_is_confirmed_by_a_heartbeat() {
    let mut leader = leader();
    leader.read("r");
    let out = take(&mut leader);
    assert_eq!(out, ["send 201 Heartbeat 0 [] 1", "send 301 Heartbeat 0 [] 0"]);
    let mut response = message(RaftKind::HeartbeatResponse, 1);
    response.context = [101u64, 1, 1].iter().flat_map(|n| n.to_be_bytes()).collect();
    step(&mut leader, 2, response);
    assert_eq!(take(&mut leader), ["read r 1"]);
}

#[test]
fn a_read_that_nobody_confirms_fails() {
    let mut replica = replica(3);
    replica.read("r");
    let failed = (0..30).flat_map(|_| {
        replica.on_tick();
        take(&mut replica)
    });
    assert!(failed.into_iter().any(|line| line == "read r failed"));
}

#[test]
fn a_configuration_is_durable_before_its_entry_is_applied() {
    let mut leader = sole_leader();
    let second = Member { replica: ReplicaId::new(201), node: NodeId::new(2) };
    let step = ConfChangeStep { kind: ConfChangeKind::AddLearner, replica: second.replica };
    let change = ConfChange { steps: vec![step], members: vec![second], ..ConfChange::default() };
    assert_eq!(leader.propose_members(&change), Ok(LogIndex::new(2)));
    assert_eq!(take(&mut leader), ["append 2: t1 vote 101 commit 1 [2]"]);
    leader.on_persisted(ReadyNumber::new(2));
    assert_eq!(take(&mut leader)[..1], ["append 3: configuration 2 []"]);
    leader.on_persisted(ReadyNumber::new(3));
    assert_eq!(take(&mut leader), ["apply 2 -"]);
}

#[test]
fn compaction_follows_the_durable_state() {
    let mut leader = sole_leader();
    leader.on_applied(LogIndex::new(1), LogIndex::new(1));
    assert_eq!(take(&mut leader), ["append 2: compact 1 []"]);
}

#[test]
fn draining_gives_back_everyone() {
    let mut leader = leader();
    propose(&mut leader, "a");
    leader.read("r");
    assert_eq!(leader.drain(), (vec!["a"], vec!["r"]));
}

#[test]
fn a_stranger_is_answered() {
    let mut replica = replica(3);
    step(&mut replica, 9, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    assert_eq!(take(&mut replica), ["send 901 AppendResponse 1 [] 0"]);
}

#[test]
fn without_voters_there_is_no_replica() {
    let restored = RestoredLog {
        identity: GroupIdentity { name: "g".into(), replica: ReplicaId::new(101) },
        hard_state: HardState::default(),
        configuration: Configuration::default(),
        compacted: CompactionPoint::default(),
        last: LogIndex::ZERO,
        term_runs: Vec::new(),
        entries: Vec::new(),
    };
    assert!(TestReplica::new(config(), restored, LogIndex::ZERO).is_err());
}
