//! Goal: RF-11, whatever a member says, nothing panics, no group is faulted, and no memory is taken for
//! it; once it is gone, the others serve.
//! Method: three whole nodes in virtual time under load. Node 3 also sends what its own frames look like
//! after numbers, terms, kinds, flags and addresses in them were changed, or bits of the frame, or an old frame
//! again. It may lie about votes and entries, so that what is committed meanwhile is not judged.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use polyraft::{GroupId, Health, LogIndex, NodeId, ReplicaId, Term};
use polyraft_actors::entropy::{Entropy, SeededEntropy};
use polyraft_core::entry::EntryKind;
use polyraft_core::message::{Body, Envelope, RaftKind, RaftMessage};
use polyraft_core::ports::{Lane, Transport};
use polyraft_core::wire::{append_envelope, decode_frame};
use polyraft_tests::ledger::command;
use polyraft_tests::memory_node::{MemoryCluster, MemoryOptions, Threads, simulate};

const GROUPS: u64 = 2;
const LIES: u64 = 20_000;
const DEADLINE: Duration = Duration::from_secs(120);
/// More than this node needs for frames and logs of this test, and less than a leak of them.
const GROWTH_BYTES_MAX: u64 = 256 << 20;
const LIAR: NodeId = NodeId::new(3);
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

/// The last frames that the liar sent honestly.
type Sent = Arc<Mutex<VecDeque<(NodeId, Lane, Bytes)>>>;

struct Liar {
    sent: Sent,
    entropy: SeededEntropy,
}

impl Liar {
    fn below(&self, n: u64) -> u64 {
        self.entropy.next_u64() % n
    }

    /// A frame that was not sent, and where to.
    fn lie(&self) -> Option<(NodeId, Lane, Bytes)> {
        let sent = self.sent.lock().expect("no code panics while holding it");
        let at = self.below(sent.len().max(1) as u64) as usize;
        let (to, lane, frame) = sent.get(at)?.clone();
        drop(sent);
        let frame = match self.below(8) {
            0 => frame,
            1 => self.flipped(&frame),
            _ => self.changed(frame, to),
        };
        Some((to, lane, frame))
    }

    fn flipped(&self, frame: &Bytes) -> Bytes {
        let mut bytes = frame.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.below(8);
        }
        bytes.into()
    }

    fn changed(&self, frame: Bytes, to: NodeId) -> Bytes {
        let mut changed = BytesMut::new();
        let envelopes = decode_frame(frame, to).expect("the node itself sent it");
        for mut envelope in envelopes {
            if let Body::Raft(message) = &mut envelope.body {
                for _ in 0..=self.below(3) {
                    self.change(message);
                }
            }
            if self.below(8) == 0 {
                self.misdirect(&mut envelope);
            }
            append_envelope(&mut changed, envelope);
        }
        changed.freeze()
    }

    fn near(&self, number: u64) -> u64 {
        match self.below(16) {
            0 => self.below(1 << 20),
            1 => 0,
            _ => (number + self.below(9)).saturating_sub(4),
        }
    }

    /// Another group's, in another replica's name, or for another than it was.
    fn misdirect(&self, envelope: &mut Envelope) {
        match self.below(3) {
            0 => envelope.group = GroupId::new(1 + self.below(GROUPS + 1)),
            1 => envelope.from = ReplicaId::new(1 + self.below(9)),
            _ => envelope.to = ReplicaId::new(1 + self.below(9)),
        }
    }

    fn change(&self, message: &mut RaftMessage) {
        let index = |index: LogIndex| LogIndex::new(self.near(index.get()));
        match self.below(14) {
            0 => message.term = Term::new(self.near(message.term.get())),
            1 => message.log_term = Term::new(self.near(message.log_term.get())),
            2 => message.index = index(message.index),
            3 => message.commit = index(message.commit),
            4 => message.reject = !message.reject,
            5 => message.reject_hint = index(message.reject_hint),
            6 => message.compact_floor = index(message.compact_floor),
            7 => message.kind = KINDS[self.below(11) as usize],
            8 => message.context = Bytes::from(vec![3; self.below(20) as usize]),
            9 => message.commit_term = Term::new(self.near(message.commit_term.get())),
            10 => message.request_snapshot = index(message.request_snapshot),
            11 => message.priority = self.below(5) as i64 - 2,
            12 => {
                for entry in &mut message.entries {
                    entry.index = index(entry.index);
                }
            }
            _ => {
                for entry in &mut message.entries {
                    entry.term = Term::new(self.near(entry.term.get()));
                    if self.below(4) == 0 {
                        (entry.kind, entry.data) = (EntryKind::Normal, Bytes::new());
                    }
                }
            }
        }
    }
}

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

async fn lies(seed: u64, panics: &AtomicU64) {
    let mut options = MemoryOptions::new(Threads::One, seed);
    let (sent, lying) = (Sent::default(), Arc::new(AtomicBool::new(false)));
    let (seen, is_lie) = (sent.clone(), lying.clone());
    options.observe = Arc::new(move |from, to, lane, frame| {
        if from == LIAR && !is_lie.load(Relaxed) {
            let mut sent = seen.lock().expect("no code panics while holding it");
            sent.push_back((to, lane, frame.clone()));
            if sent.len() > 256 {
                sent.pop_front();
            }
        }
    });
    let mut cluster = MemoryCluster::start(3, options);
    for group in 1..=GROUPS {
        cluster.create_group(GroupId::new(group)).await;
    }
    let liar = Liar { sent, entropy: SeededEntropy::new(seed) };
    let before = anonymous_bytes();
    let mut told = 0;
    for number in 0..LIES {
        if let Some((to, lane, frame)) = liar.lie() {
            lying.store(true, Relaxed);
            told += u64::from(cluster.node(3).transport.try_send(to, lane, frame).is_ok());
            lying.store(false, Relaxed);
        }
        if number % 50 == 0 {
            let group = GroupId::new(1 + number / 50 % GROUPS);
            let _ =
                cluster.node(1).propose(group, command(number), Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(panics.load(Relaxed), 0, "seed {seed}, lie {number}");
    }
    let grown = anonymous_bytes().saturating_sub(before);
    println!("seed {seed}: {told} lies told, {} MiB taken", grown >> 20);
    assert!(told > LIES / 2, "{told} of {LIES} lies were told");
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes taken");
    drop(cluster.stop_node(3).await);
    for group in (1..=GROUPS).map(GroupId::new) {
        for node in &cluster.nodes {
            let status = node.status(group).expect("it was created");
            assert_eq!(status.health, Health::Healthy, "{status:?}");
        }
        let until = tokio::time::Instant::now() + DEADLINE;
        while cluster.node(1).propose(group, command(1), Duration::from_secs(5)).await.is_err() {
            let statuses: Vec<_> = cluster.nodes.iter().map(|node| node.status(group)).collect();
            assert!(tokio::time::Instant::now() < until, "seed {seed}: {statuses:?}");
        }
    }
    cluster.stop().await;
    assert_eq!(panics.load(Relaxed), 0, "seed {seed}");
}

#[test]
fn a_lying_member_makes_nothing_panic() {
    let panics = Arc::new(AtomicU64::new(0));
    let count = panics.clone();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        count.fetch_add(1, Relaxed);
        report(panic);
    }));
    for seed in 1..=3 {
        simulate(lies(seed, &panics));
    }
}
