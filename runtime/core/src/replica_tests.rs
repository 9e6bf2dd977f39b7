//! Goal: each basic input has exactly the output that the shell must act on.
//!
//! Method: feed one replica, take, and compare the whole `Output`, shortened to one line per item in
//! the order of its fields. The peers are written by hand.

use super::*;
use crate::conf_change::{ConfChangeKind, ConfChangeStep};
use crate::entry::{CompactionPoint, EntryKind};
use crate::limits;
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

#[path = "replica_announce_tests.rs"]
mod announcements;
#[path = "replica_conf_tests.rs"]
mod configurations;
#[path = "replica_contact_tests.rs"]
mod contacts;
#[path = "replica_event_tests.rs"]
mod events;
#[path = "replica_log_tests.rs"]
mod logs;
#[path = "replica_read_tests.rs"]
mod reads;
#[path = "replica_recovery_tests.rs"]
mod recoveries;
#[path = "replica_role_tests.rs"]
mod roles;
#[path = "replica_timer_tests.rs"]
mod timers;
#[path = "replica_window_tests.rs"]
mod windows;

#[test]
fn a_refused_proposal_comes_back_whole() {
    let refused = replica(3).propose(Bytes::from_static(b"batch"), "a").expect_err("no leader");
    assert_eq!((refused.waiter, &refused.batch[..]), ("a", &b"batch"[..]));
}

#[test]
fn a_status_is_what_the_last_step_left() {
    let status = leader().status();
    let expected = GroupStatus {
        group: GROUP,
        name: "g".into(),
        replica: ReplicaId::new(101),
        health: Health::Healthy,
        role: Role::Leader,
        term: Term::new(1),
        leader: Some(NodeId::new(1)),
        compacted: LogIndex::ZERO,
        last: LogIndex::new(1),
        persisted: LogIndex::new(1),
        commit: LogIndex::new(1),
        applied: LogIndex::new(1),
        replicated: LogIndex::ZERO,
        configuration: status.configuration.clone(),
    };
    assert_eq!(status, expected);
}

#[test]
fn a_message_that_is_no_step_of_raft_is_refused() {
    let (node, envelope) = from_peer(2, message(RaftKind::Heartbeat, 1));
    let body = Body::UnknownGroup;
    let refused = replica(3).on_message(node, Envelope { body, ..envelope });
    assert!(matches!(refused, Err(StepError::NotRaft)), "{refused:?}");
}

#[test]
fn an_invalid_message_changes_nothing() {
    let mut replica = replica(3);
    let before = replica.status();
    let commit = LogIndex::new(5);
    let (node, envelope) = from_peer(2, RaftMessage { commit, ..message(RaftKind::Heartbeat, 9) });
    let refused = replica.on_message(node, envelope);
    assert!(matches!(refused, Err(StepError::Invalid(_))), "{refused:?}");
    assert_eq!((replica.status(), take(&mut replica)), (before, vec![]));
}

#[test]
fn a_second_vote_in_a_term_is_denied() {
    let mut replica = replica(3);
    step(&mut replica, 2, message(RaftKind::RequestVote, 1));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    take(&mut replica);
    step(&mut replica, 3, message(RaftKind::RequestVote, 1));
    let output = replica.take_output();
    let Body::Raft(denied) = &output.send[0].body else { panic!("a step of Raft") };
    assert!(denied.reject, "the vote of term 1 is given to replica 201");
}

#[test]
fn persisting_releases_what_waited_for_it_and_no_more() {
    let mut replica = replica(3);
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    step(&mut replica, 2, append(1, (1, 1), vec![entry(2, 1)], 0));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    assert_eq!(take(&mut replica), ["send 201 AppendResponse 1 [] 0"]);
    replica.on_persisted(ReadyNumber::new(2));
    assert_eq!(take(&mut replica), ["send 201 AppendResponse 2 [] 0"]);
}

#[test]
#[should_panic(expected = "append 1 was never produced")]
fn persisting_what_was_never_asked_for_is_a_bug() {
    replica(3).on_persisted(ReadyNumber::new(1));
}

#[test]
#[should_panic(expected = "ahead of applied")]
fn durable_state_ahead_of_the_applied_is_a_bug() {
    leader().on_applied(LogIndex::new(1), LogIndex::new(2));
}

#[test]
#[should_panic(expected = "outside the log")]
fn a_state_ahead_of_its_log_is_a_bug() {
    let _ = TestReplica::new(config(), restored(3, &[(1, 1)]), LogIndex::new(2));
}

/// What the disk of replica 101 in a group of `nodes` holds: entries by index and term.
fn restored(nodes: u64, entries: &[(u64, u64)]) -> RestoredLog {
    let node = |n: u64| Member { replica: ReplicaId::new(n * 100 + 1), node: NodeId::new(n) };
    let log: Vec<_> = entries.iter().map(|&(index, term)| entry(index, term)).collect();
    RestoredLog {
        identity: GroupIdentity { name: "g".into(), replica: ReplicaId::new(101) },
        hard_state: HardState {
            term: Term::new(entries.last().map_or(0, |&(_, term)| term)),
            ..HardState::default()
        },
        configuration: Configuration::initial((1..=nodes).map(node).collect()),
        compacted: CompactionPoint::default(),
        last: LogIndex::new(log.len() as u64),
        term_runs: log.iter().map(|entry| (entry.index, entry.term)).collect(),
        entries: log,
    }
}

#[test]
fn a_restored_log_is_durable() {
    let replica = TestReplica::new(config(), restored(3, &[(1, 1), (2, 4)]), LogIndex::ZERO);
    let status = replica.expect("a valid configuration").status();
    let indexes = [status.applied, status.commit, status.persisted, status.last];
    assert_eq!(indexes.map(LogIndex::get), [0, 0, 2, 2]);
    assert_eq!((status.term, status.role), (Term::new(4), Role::Follower));
}

#[test]
fn what_the_state_has_applied_is_committed() {
    let mut restored = restored(3, &[(1, 1), (2, 4)]);
    restored.entries.remove(0); // What is applied is not read again.
    let replica = TestReplica::new(config(), restored, LogIndex::new(1));
    assert_eq!(replica.expect("a valid configuration").status().commit, LogIndex::new(1));
}

#[test]
fn a_restored_vote_is_kept() {
    let mut disk = restored(3, &[(1, 1)]);
    disk.hard_state.vote = Some(ReplicaId::new(201));
    let mut replica = TestReplica::new(config(), disk, LogIndex::ZERO).expect("valid");
    step(
        &mut replica,
        3,
        RaftMessage {
            index: LogIndex::new(9),
            log_term: Term::new(1),
            ..message(RaftKind::RequestVote, 1)
        },
    );
    let output = replica.take_output();
    let Body::Raft(denied) = &output.send[0].body else { panic!("a step of Raft") };
    assert!(denied.reject, "the vote of term 1 is given to replica 201");
}

/// A sole leader that may have no backlog, and has one.
fn leader_with_a_backlog() -> TestReplica {
    let mut leader = sole_leader();
    leader.config.apply_backlog_bytes_max = 0;
    propose(&mut leader, "a");
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(2));
    take(&mut leader);
    leader
}

#[test]
fn a_backlog_refuses_proposals_until_it_is_applied() {
    let mut leader = leader_with_a_backlog();
    let refused = leader.propose(Bytes::from_static(b"batch"), "b").expect_err("a backlog");
    assert_eq!((refused.waiter, refused.why), ("b", Refusal::ApplyBacklogFull));
    leader.on_applied(LogIndex::new(2), LogIndex::ZERO);
    propose(&mut leader, "b");
}

#[test]
fn a_backlog_refuses_appends_and_lets_heartbeats_through() {
    let mut replica = replica(3);
    replica.config.apply_backlog_bytes_max = 0;
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 1));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    take(&mut replica);
    let (node, more) = from_peer(2, append(1, (1, 1), vec![entry(2, 1)], 1));
    let refused = replica.on_message(node, more);
    assert!(matches!(refused, Err(StepError::ApplyBacklogFull(GROUP))), "{refused:?}");
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
}

#[test]
fn a_disk_that_is_behind_refuses_appends_and_answers_heartbeats() {
    let mut replica = replica(3);
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    replica.config.apply_backlog_bytes_max = 0;
    step(&mut replica, 2, append(1, (0, 0), vec![entry(1, 1)], 0));
    take(&mut replica);
    let (node, more) = from_peer(2, append(1, (1, 1), vec![entry(2, 1)], 0));
    let refused = replica.on_message(node, more.clone());
    assert!(matches!(refused, Err(StepError::DiskBacklogFull(GROUP))), "{refused:?}");
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    assert_eq!(take(&mut replica), [""; 0], "a disk may be slow");
    (0..replica.config.election_ticks / 2).for_each(|_| replica.on_tick());
    step(&mut replica, 2, message(RaftKind::Heartbeat, 1));
    assert_eq!(take(&mut replica), ["send 201 HeartbeatResponse 0 [] 0"]);
    replica.on_persisted(ReadyNumber::new(2));
    assert!(replica.on_message(node, more).is_ok());
}

#[test]
fn uncommitted_bytes_are_bounded() {
    let mut leader = leader();
    let half = Bytes::from(vec![0; limits::UNCOMMITTED_BYTES_MAX / 2 + 1]);
    assert!(leader.propose(half.clone(), "a").is_ok());
    let refused = leader.propose(half.clone(), "b").expect_err("too much");
    assert_eq!((refused.waiter, refused.why), ("b", Refusal::UncommittedFull));
    assert_eq!(leader.status().last, LogIndex::new(2), "only the first was appended");
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(3));
    acknowledge(&mut leader, 1, 2);
    take(&mut leader);
    leader.on_applied(LogIndex::new(2), LogIndex::ZERO);
    assert!(leader.propose(half, "b").is_ok(), "the first is committed");
}

/// Goal: BP-13, at its sharpest. Method: the first that an old leader hears of the new one is an
/// append that replaces its entry and commits the replacement.
#[test]
fn an_entry_that_took_a_waiters_place_does_not_answer_it() {
    let mut leader = leader();
    propose(&mut leader, "a");
    take(&mut leader);
    step(&mut leader, 3, append(5, (1, 1), vec![entry(2, 5)], 2));
    take(&mut leader);
    leader.on_persisted(ReadyNumber::new(4));
    let out = take(&mut leader);
    assert_eq!(out, ["send 301 AppendResponse 2 [] 2", "apply 2 -", "a Superseded"]);
}

/// EV-1: a leader that hears nobody steps down, and stands one tick later. Who looks only then hears of both.
#[test]
fn a_leader_that_stands_again_before_anybody_looks_has_stepped_down() {
    let mut watched = leader();
    let mut ticks = 0;
    while watched.role() == Role::Leader {
        watched.on_tick();
        ticks += 1;
        take(&mut watched);
    }
    let mut unwatched = leader();
    propose(&mut unwatched, "a");
    (0..=ticks).for_each(|_| unwatched.on_tick());
    assert_eq!(unwatched.role(), Role::PreCandidate);
    let told = take(&mut unwatched);
    let of_role = ["a Unknown", "follower t1", "leader of t1 is 0"];
    assert!(told.ends_with(&of_role.map(str::to_owned)), "{told:?}");
}

#[test]
fn a_leader_that_hands_over_takes_no_proposals() {
    let mut leader = leader();
    leader.transfer_leader(NodeId::new(2));
    let refused = leader.propose(Bytes::from_static(b"batch"), "a").expect_err("handing over");
    assert_eq!(refused.why, Refusal::NotLeader);
}

#[test]
fn a_follower_hands_nothing_over() {
    let mut replica = replica(3);
    replica.transfer_leader(NodeId::new(2));
    assert_eq!(take(&mut replica), [""; 0]);
}

#[test]
fn a_transfer_to_a_node_without_a_replica_changes_nothing() {
    let mut leader = leader();
    leader.transfer_leader(NodeId::new(9));
    propose(&mut leader, "a");
}

#[test]
fn a_caught_up_successor_is_told_to_stand_at_once() {
    let mut leader = leader();
    leader.transfer_leader(NodeId::new(2));
    assert_eq!(take(&mut leader), ["send 201 TimeoutNow 0 [] 0"]);
}

#[test]
fn strangers_are_forgotten_oldest_first() {
    let mut replica = replica(3);
    for node in 10..10 + STRANGERS_MAX as u64 + 1 {
        step(&mut replica, node, message(RaftKind::RequestPreVote, 1));
    }
    assert_eq!(replica.strangers.len(), STRANGERS_MAX);
    assert_eq!(replica.node_of(ReplicaId::new(1_001)), None);
    assert_eq!(replica.node_of(ReplicaId::new(1_101)), Some(NodeId::new(11)));
}

#[test]
fn an_unreachable_node_without_a_replica_is_nobody() {
    let mut leader = leader();
    leader.on_unreachable(NodeId::new(9));
    assert_eq!(take(&mut leader), [""; 0]);
}

/// A follower of node 2 in term 5 that could compact entry 1.
fn follower_with_an_entry_applied() -> TestReplica {
    let mut replica = replica(3);
    step(&mut replica, 2, append(5, (0, 0), vec![entry(1, 5)], 1));
    take(&mut replica);
    replica.on_persisted(ReadyNumber::new(1));
    take(&mut replica);
    replica.on_applied(LogIndex::new(1), LogIndex::new(1));
    replica
}

#[test]
fn a_floor_of_an_old_leader_is_not_believed() {
    let mut replica = follower_with_an_entry_applied();
    let floor = |term| RaftMessage {
        compact_floor: LogIndex::new(1),
        ..message(RaftKind::Heartbeat, term)
    };
    step(&mut replica, 3, floor(4));
    assert!(!take(&mut replica).iter().any(|line| line.contains("compact")));
    step(&mut replica, 2, floor(5));
    assert!(take(&mut replica).iter().any(|line| line.contains("compact 1")));
}

#[test]
fn a_log_beyond_its_bytes_is_compacted_although_its_entries_are_few() {
    let mut leader = sole_leader();
    let retention = Retention { keep_entries: 1_000, keep_bytes: 300, step_entries: 1_000 };
    leader.compaction = Compaction::new(retention, LogIndex::ZERO);
    for number in 2..=5 {
        assert!(leader.propose(vec![0; 100].into(), "a").is_ok());
        take(&mut leader);
        leader.on_persisted(ReadyNumber::new(number));
        take(&mut leader);
    }
    leader.on_applied(LogIndex::new(5), LogIndex::new(5));
    // Five entries of 132 bytes and one of 32: two of them are within 300.
    assert_eq!(take(&mut leader), ["append 6: compact 3 []"]);
}
