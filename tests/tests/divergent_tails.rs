//! Goal: RF-3: a log that diverged is repaired durably, and its owner can lead afterwards.
//!
//! Method: seeds. One follower, over the production journal, gets a random log of some terms by
//! appends of two leaders that take turns, persisted or not as they please. Then the last leader
//! replaces a random suffix, at a random place after what is committed; the follower crashes or not,
//! with its queued appends written or not, is brought up to date, and campaigns. Its log, the durable
//! one, and the one that a restart reads must be the leader's, and nothing may panic.

use bytes::Bytes;
use polyraft_core::compaction::Retention;
use polyraft_core::entry::{Configuration, EntryKind, LogEntry};
use polyraft_core::ids::{LogIndex, NodeId, Term};
use polyraft_core::message::{Body, Envelope, RaftKind, RaftMessage};
use polyraft_core::replica::ReplicaConfig;
use polyraft_core::status::Role;
use polyraft_storage::journal::JournalOptions;
use polyraft_tests::host::{GROUP, Host, encode_commands, member, replica_of};
use polyraft_tests::sim::Dice;

/// Divergent tails in one run.
const TAILS: u64 = 10_000;
/// Longest suffix that is replaced, and longest that replaces it.
const TAIL_ENTRIES_MAX: u64 = 6;
const FOLLOWER: NodeId = NodeId::new(1);

fn config(seed: u64) -> ReplicaConfig {
    ReplicaConfig {
        group: GROUP,
        election_ticks: 10,
        heartbeat_ticks: 2,
        seed,
        tail_bytes_max: 0,
        apply_in_flight_bytes_max: 1 << 20,
        apply_backlog_bytes_max: 1 << 20,
        append_in_flight_bytes_max: 1 << 20,
        retention: Retention { keep_entries: 1_000, keep_bytes: 1 << 20, step_entries: 1_000 },
        stands_first: false,
    }
}

/// A follower, and the log of whoever leads it.
struct Case {
    dice: Dice,
    host: Host,
    /// What the present leader holds, from index 1.
    log: Vec<LogEntry>,
    term: u64,
    leader: NodeId,
    commit: u64,
}

impl Case {
    fn new(seed: u64) -> Self {
        let nodes = (1..=3).map(NodeId::new).map(member).collect();
        let initial = Configuration::initial(nodes);
        let host = Host::create(FOLLOWER, config(seed), initial, JournalOptions::tiny());
        let leader = NodeId::new(2);
        Self { dice: Dice::new(seed), host, log: Vec::new(), term: 1, leader, commit: 0 }
    }

    /// Another leader takes over, whose log ends at `keep` and goes on by itself.
    fn take_over(&mut self, keep: u64) {
        self.term += 1 + self.dice.below(3);
        self.leader = NodeId::new(5 - self.leader.get());
        self.log.truncate(usize::try_from(keep).expect("a short log"));
        for _ in 0..=self.dice.below(TAIL_ENTRIES_MAX) {
            let number = self.dice.number();
            self.log.push(LogEntry {
                index: LogIndex::new(self.log.len() as u64 + 1),
                term: Term::new(self.term),
                kind: EntryKind::Normal,
                data: encode_commands(&[Bytes::copy_from_slice(&number.to_be_bytes())]),
            });
        }
    }

    /// The leader sends its log from after `anchor` on, committing what it may.
    fn send_after(&mut self, anchor: u64) {
        let at = usize::try_from(anchor).expect("a short log");
        let log_term = at.checked_sub(1).map_or(Term::new(0), |before| self.log[before].term);
        let message = RaftMessage {
            index: LogIndex::new(anchor),
            log_term,
            entries: self.log[at..].to_vec(),
            commit: LogIndex::new(self.commit),
            ..RaftMessage::new(RaftKind::Append, Term::new(self.term))
        };
        self.deliver(self.leader, message);
    }

    fn deliver(&mut self, from: NodeId, message: RaftMessage) {
        let envelope = Envelope {
            group: GROUP,
            from: replica_of(from),
            to: replica_of(FOLLOWER),
            to_node: FOLLOWER,
            body: Body::Raft(message),
        };
        let replica = self.host.replica_mut().expect("it runs");
        replica.on_message(from, envelope).expect("a correct leader");
        self.host.take();
    }

    /// The disk gets to some of what is queued, or to nothing.
    fn persist_some(&mut self) {
        let count = self.dice.below(self.host.appends_waiting() as u64 + 1);
        self.host.persist(usize::try_from(count).expect("a short queue"));
        self.host.take();
    }

    fn persist_all(&mut self) {
        self.host.persist(usize::MAX);
        self.host.take();
        self.host.apply(usize::MAX);
        self.host.take();
    }

    /// A log of up to three leaders, of which a part is committed.
    fn grow(&mut self) {
        for _ in 0..=self.dice.below(3) {
            let span = self.log.len() as u64 - self.commit + 1;
            let keep = self.commit + self.dice.below(span);
            self.take_over(keep);
            self.send_after(keep);
            self.persist_some();
        }
        if self.dice.per_mille(500) {
            self.persist_all();
            self.commit += self.dice.below(self.log.len() as u64 - self.commit + 1);
            self.send_after(self.log.len() as u64);
            self.persist_all();
        }
    }

    fn crash_maybe(&mut self) {
        if self.dice.per_mille(300) {
            let written = self.dice.below(self.host.appends_waiting() as u64 + 1);
            self.host.crash(usize::try_from(written).expect("a short queue"));
            self.host.restart(JournalOptions::tiny());
            self.host.take();
        }
    }

    /// The tail that diverges, what replaces it, and the election after it. Returns how many durable
    /// entries were replaced.
    fn run(&mut self) -> usize {
        self.grow();
        self.crash_maybe();
        let span = self.log.len() as u64 - self.commit + 1;
        let keep = self.commit + self.dice.below(span);
        let before = self.host.durable_log().to_vec();
        self.take_over(keep);
        // Refused if a crash took the anchor: then all that is not committed is sent.
        self.send_after(keep);
        self.persist_some();
        self.crash_maybe();
        self.send_after(self.commit);
        self.persist_all();
        assert_eq!(self.host.log(), self.log, "the follower's log is the leader's");
        assert_eq!(self.host.durable_log(), self.log, "durably");
        self.host.crash(0);
        self.host.restart(JournalOptions::tiny()); // Reads the journal, and compares it.
        self.host.take();
        self.campaign();
        let kept = before.iter().zip(&self.log).take_while(|(old, new)| old == new).count();
        before.len() - kept
    }

    /// The repaired follower wins an election and adds an entry to the log that it took over.
    fn campaign(&mut self) {
        self.host.replica_mut().expect("it runs").campaign();
        self.host.take();
        let voter = NodeId::new(2);
        let term = self.term + 1;
        self.deliver(voter, RaftMessage::new(RaftKind::RequestPreVoteResponse, Term::new(term)));
        self.persist_all();
        self.deliver(voter, RaftMessage::new(RaftKind::RequestVoteResponse, Term::new(term)));
        self.persist_all();
        let status = self.host.replica().expect("it runs").status();
        let last = LogIndex::new(self.log.len() as u64 + 1);
        assert_eq!((status.role, status.term.get(), status.last), (Role::Leader, term, last));
        assert_eq!(self.host.durable_log()[..self.log.len()], self.log);
    }
}

#[test]
fn ten_thousand_divergent_tails_are_repaired_durably() {
    let mut replaced = Vec::new();
    for seed in 1..=TAILS {
        let run = std::panic::AssertUnwindSafe(|| Case::new(seed).run());
        match std::panic::catch_unwind(run) {
            Ok(entries) => replaced.push(entries),
            Err(_) => panic!("seed {seed}"),
        }
    }
    let diverged = replaced.iter().filter(|entries| **entries > 0).count();
    let entries: usize = replaced.iter().sum();
    println!("{TAILS} tails: {diverged} had durable entries replaced, {entries} in all");
    assert!(diverged as u64 > TAILS / 4, "only {diverged} tails were durable before");
}
