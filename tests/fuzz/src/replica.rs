//! What members of a group may send to a replica, in any order, between anything else that happens
//! to it (RF-11).
//!
//! ```text
//! step: frame of a member │ message made near the replica's own term and log
//!     │ tick, persist, apply, flush, fetch, propose, read, transfer, crash and restart …   → Host
//! ```
//!
//! Properties: nothing panics, the invariants that `status` asserts included; the journal takes every
//! append and gives it back after a crash; every proposal and read comes back at most once. A member
//! that lies may break consensus, so that what is committed is not judged here.

use std::collections::BTreeSet;

use bytes::Bytes;
use polyraft_core::compaction::Retention;
use polyraft_core::conf_change::{ConfChange, ConfChangeKind, ConfTransition};
use polyraft_core::entry::{Configuration, EntryKind, LogEntry};
use polyraft_core::ids::{LogIndex, NodeId, ReplicaId, Term};
use polyraft_core::message::{Body, Envelope, RaftKind, RaftMessage};
use polyraft_core::replica::ReplicaConfig;
use polyraft_core::wire::{ORDINAL_MAX, decode_frame};
use polyraft_storage::journal::JournalOptions;
use polyraft_tests::host::{GROUP, Host, Taken, encode_commands, member, replica_of};

use crate::script::{Script, chunk};
use crate::wire;

const HERE: NodeId = NodeId::new(1);
/// Steps of one input: an input is a short story, not a long one.
const STEPS_MAX: usize = 256;

pub fn run(data: &[u8]) {
    let mut scene = Scene::new();
    let mut script = Script(data);
    for _ in 0..STEPS_MAX {
        if scene.step(&mut script).is_none() {
            break;
        }
        scene.observe();
    }
    scene.restart(usize::MAX);
}

struct Scene {
    host: Host,
    proposed: u64,
    read: u64,
    answered: BTreeSet<u64>,
    readers: BTreeSet<u64>,
}

impl Scene {
    fn new() -> Self {
        let config = ReplicaConfig {
            group: GROUP,
            election_ticks: 10,
            heartbeat_ticks: 2,
            seed: 1,
            tail_bytes_max: 300,
            apply_in_flight_bytes_max: 1 << 10,
            apply_backlog_bytes_max: 4 << 10,
            append_in_flight_bytes_max: 1 << 10,
            retention: Retention { keep_entries: 3, keep_bytes: 1 << 10, step_entries: 1 },
            stands_first: true,
        };
        let members = [1, 2, 3].map(|node| member(NodeId::new(node))).to_vec();
        let initial = Configuration::initial(members);
        let host = Host::create(HERE, config, initial, JournalOptions::tiny());
        let (answered, readers) = Default::default();
        Self { host, proposed: 0, read: 0, answered, readers }
    }

    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let step = script.byte()?;
        let count = usize::from(step >> 4);
        match step & 0xF {
            0 => self.deliver(script.byte()?, script.chunk()?),
            1..=5 => self.craft(script)?,
            6 => (0..count)
                .for_each(|_| self.host.replica_mut().into_iter().for_each(|r| r.on_tick())),
            7 => drop(self.host.persist(count + 1)),
            8 => self.apply(count + 1),
            9 => self.host.flush(),
            10 => drop(self.host.fetch()),
            11 => self.propose(count),
            12 => self.ask(),
            13 => self.command(count),
            14 => self.restart(count),
            _ => self.host.replace_log_writer(count),
        }
        Some(())
    }

    /// A frame as it comes from a link.
    fn deliver(&mut self, from: u8, frame: &[u8]) {
        let from = NodeId::new(u64::from(from % 5));
        let Ok(envelopes) = decode_frame(Bytes::copy_from_slice(frame), HERE) else { return };
        for envelope in envelopes {
            if let Some(replica) = self.host.replica_mut() {
                let _ = replica.on_message(from, envelope);
            }
        }
    }

    /// A message whose numbers are near to this replica's.
    fn craft(&mut self, script: &mut Script<'_>) -> Option<()> {
        let (who, kind) = (script.byte()?, script.byte()?);
        let from = NodeId::new(2 + u64::from(who & 3)); // Two members, two strangers.
        let status = self.host.replica()?.status();
        let mut near = |base: u64| Some(shifted(base, script.byte()?));
        let kinds = wire::messages();
        let kind = kinds[usize::from(kind) % kinds.len()].kind;
        let term = Term::new(near(status.term.get())?);
        let mut message = RaftMessage::new(kind, term);
        if kind == RaftKind::ReadIndex {
            message.term = Term::default();
        }
        let bases = [status.last, status.commit, status.compacted, status.persisted];
        message.index = LogIndex::new(near(bases[usize::from(who >> 2 & 3)].get())?);
        message.log_term = self.term_of(message.index, Term::new(near(term.get())?));
        message.commit = LogIndex::new(near(status.commit.get())?);
        message.reject_hint = LogIndex::new(near(status.last.get())?);
        message.compact_floor = LogIndex::new(near(status.commit.get())?);
        message.reject = who & 0x10 != 0;
        if who & 0x20 != 0 {
            message.context = Bytes::copy_from_slice(script.bytes(16));
        }
        if kind == RaftKind::Append {
            message.entries = entries(script, &message)?;
        }
        let (from_id, to) = (replica_of(from), ReplicaId::new(101));
        let body = Body::Raft(message);
        let envelope = Envelope { group: GROUP, from: from_id, to, to_node: HERE, body };
        self.deliver(from.get() as u8, &wire::encode([envelope]));
        Some(())
    }

    /// What the log says, where it says something; so that anchors match.
    fn term_of(&self, index: LogIndex, other: Term) -> Term {
        let at = index.get().checked_sub(1).and_then(|at| usize::try_from(at).ok());
        let entry = at.and_then(|at| self.host.log().get(at));
        if index == LogIndex::ZERO { Term::default() } else { entry.map_or(other, |e| e.term) }
    }

    fn apply(&mut self, count: usize) {
        for applied in self.host.apply(count) {
            self.answer(applied.waiter);
        }
    }

    fn propose(&mut self, count: usize) {
        let data = encode_commands(&[Bytes::from(vec![7; 40 * count])]);
        self.proposed += 1;
        let Some(replica) = self.host.replica_mut() else { return };
        if let Err(refused) = replica.propose(data, self.proposed) {
            self.answer(Some(refused.waiter));
        }
    }

    fn ask(&mut self) {
        self.read += 1;
        if let Some(replica) = self.host.replica_mut() {
            replica.read(self.read);
        }
    }

    /// What comes from people and shells.
    fn command(&mut self, which: usize) {
        let Some(replica) = self.host.replica_mut() else { return };
        match which {
            0..4 => replica.on_unreachable(NodeId::new(which as u64)),
            4..8 => replica.transfer_leader(NodeId::new(which as u64 - 4)),
            8..12 => drop(replica.propose_members(&change(which))),
            12 => replica.campaign(),
            13 => self.host.collect_garbage(),
            _ => self.host.announce(),
        }
    }

    fn restart(&mut self, written: usize) {
        let (waiters, readers) = self.host.crash(written);
        waiters.into_iter().for_each(|waiter| self.answer(Some(waiter)));
        readers.into_iter().for_each(|reader| assert!(self.readers.insert(reader)));
        self.host.restart(JournalOptions::tiny());
    }

    fn observe(&mut self) {
        let Taken { undecided, reads, reads_failed, .. } = self.host.take();
        undecided.into_iter().for_each(|(waiter, _)| self.answer(Some(waiter)));
        let readers = reads.into_iter().map(|(reader, _)| reader).chain(reads_failed);
        readers.for_each(|reader| assert!(self.readers.insert(reader), "{reader} answered twice"));
        let _ = self.host.replica().map(|replica| replica.status());
    }

    fn answer(&mut self, waiter: Option<u64>) {
        if let Some(waiter) = waiter {
            assert!(self.answered.insert(waiter), "proposal {waiter} answered twice");
        }
    }
}

/// A number near `base`, or rarely one of the largest that the wire lets through.
fn shifted(base: u64, by: u8) -> u64 {
    match by {
        0xFF => ORDINAL_MAX,
        0xFE => ORDINAL_MAX - 1,
        0xFD => 0,
        by => (base + u64::from(by & 0xF)).saturating_sub(4),
    }
}

/// Up to seven entries after the message's anchor, with terms up to the message's.
fn entries(script: &mut Script<'_>, message: &RaftMessage) -> Option<Vec<LogEntry>> {
    let count = script.byte()? & 7;
    let mut entries = Vec::new();
    let mut index = message.index;
    for _ in 0..count {
        let what = script.byte()?;
        index = LogIndex::new(index.get().checked_add(1)?);
        let below = u64::from(what & 3);
        let term = Term::new(message.term.get().saturating_sub(below).max(1));
        let (kind, data) = match what >> 2 & 7 {
            0 => (EntryKind::ConfChange, change(usize::from(what >> 5)).encode()),
            1 => (EntryKind::ConfChange, ConfChange::default().encode()),
            2 => (EntryKind::Normal, Bytes::new()),
            length => {
                let command = Bytes::from(vec![what; 30 * usize::from(length)]);
                (EntryKind::Normal, encode_commands(&[command]))
            }
        };
        entries.push(LogEntry { index, term, kind, data });
    }
    Some(entries)
}

fn change(which: usize) -> ConfChange {
    use ConfChangeKind::{AddLearner, AddVoter, Remove};
    use ConfTransition::{Auto, Explicit, Implicit};
    let kind = [AddVoter, AddLearner, Remove][which % 3];
    let transition = [Auto, Implicit, Explicit][which / 3 % 3];
    wire::conf_change(kind, 1 + which as u64 % 4, transition)
}

pub fn seeds() -> Vec<Vec<u8>> {
    /// Standing still, and a shift of nothing.
    const SAME: u8 = 4;
    let kind_at = |kind: RaftKind| {
        wire::messages().iter().position(|m| m.kind == kind).unwrap_or_default() as u8
    };
    let craft = |who: u8, kind, shifts: [u8; 6], rest: &[u8]| {
        [&[1, who, kind_at(kind)][..], &shifts, rest].concat()
    };
    let persist = [0xF7];
    let vote = |kind| craft(0, kind, [SAME; 6], &[]);
    let elected = [
        &[0x56][..], // Stands first.
        &vote(RaftKind::RequestPreVoteResponse),
        &persist,
        &vote(RaftKind::RequestVoteResponse),
        &persist,
    ]
    .concat();
    let append = craft(0, RaftKind::Append, [5, SAME, SAME, 7, SAME, SAME], &[3, 12, 17, 25]);
    let ack = craft(0, RaftKind::AppendResponse, [SAME; 6], &[]);
    let frames = wire::messages().into_iter().map(|message| {
        let frame = wire::encode([wire::envelope(Body::Raft(message))]);
        [&[0, 2][..], &chunk(&frame)].concat()
    });
    let mut seeds: Vec<_> = frames.collect();
    seeds.push([&elected[..], &[0x2B, 0x0C], &persist, &ack, &[0xF8, 9, 0x0D]].concat());
    seeds.push([&elected[..], &[0x8D, 0xF7], &ack, &[0xF8, 9], &[0x3E]].concat());
    seeds.push([&append[..], &persist, &append, &[0xF7, 0xF8, 9, 0xDD], &[0x1E]].concat());
    seeds.push(
        [&append[..], &persist, &[0x1F], &craft(4, RaftKind::Heartbeat, [SAME; 6], &[])].concat(),
    );
    seeds
}
