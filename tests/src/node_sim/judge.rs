//! Judge: what must hold at every step of a run, and the record of what clients heard.
//!
//! ```text
//! frames   → election safety, one vote per term, log matching
//! applies  → one sequence for all replicas and all their lives, hash by hash (AP-3)
//! statuses → order of indexes
//! answers  → a history per group, for `linearizability`; every question answered once (BP-9)
//! ```
//!
//! The first thing that is wrong is kept and ends the run.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use polyraft_core::ids::{GroupId, LogIndex, NodeId, Term};
use polyraft_core::message::{Body, Envelope, RaftKind};
use polyraft_core::ports::{GroupAppend, Lane};
use polyraft_core::status::{GroupStatus, Health, Role};
use polyraft_core::wire;
use tokio::time::Instant;

use super::chronicle::Chronicle;
use super::witness::History;
use crate::invariants::election_safety::ElectionSafety;
use crate::invariants::index_order::IndexOrder;
use crate::invariants::one_vote::OneVote;
use crate::linearizability::{self, Heard, Log, Operation, Position, Write};

/// A judge that machines, observers and clients share.
pub struct SharedJudge(Mutex<Judge>);

impl SharedJudge {
    /// A judge of one run.
    pub fn new(is_traced: bool) -> Self {
        let chronicle = Chronicle::new(is_traced);
        let (groups, failure) = (BTreeMap::new(), None);
        Self(Mutex::new(Judge { chronicle, groups, foreign: BTreeSet::new(), failure }))
    }

    /// The judge itself.
    pub fn lock(&self) -> MutexGuard<'_, Judge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The judge.
pub struct Judge {
    /// What happened so far.
    pub chronicle: Chronicle,
    groups: BTreeMap<GroupId, Case>,
    /// Nodes on data that is not theirs: what they say reaches nobody.
    foreign: BTreeSet<NodeId>,
    failure: Option<String>,
}

/// What is known of one group.
#[derive(Default)]
struct Case {
    log: Log,
    hashes: BTreeMap<Position, u64>,
    elections: ElectionSafety,
    votes: OneVote,
    entries: BTreeMap<(LogIndex, Term), u64>,
    order: IndexOrder,
    /// When a replica's actors began another life, which may show less than the one before.
    renewed: BTreeMap<NodeId, Instant>,
    seen: BTreeMap<NodeId, GroupStatus>,
    operations: Vec<Operation>,
    unanswered: BTreeSet<u64>,
    /// Beginnings and ends so far.
    moments: u64,
}

impl Judge {
    /// Keeps what is wrong, if it is the first.
    pub fn blame(&mut self, rule: &str, what: String) {
        self.chronicle.note(rule, || format!("!! {rule}: {what}"));
        self.failure.get_or_insert(format!("{rule}: {what}"));
    }

    /// What went wrong first.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// From now on a node works on data that is not its own, or on its own again.
    pub fn set_foreign(&mut self, node: NodeId, foreign: bool) {
        let _ = if foreign { self.foreign.insert(node) } else { self.foreign.remove(&node) };
    }

    fn case(&mut self, group: GroupId) -> &mut Case {
        self.groups.entry(group).or_default()
    }

    /// A node hands a frame to its transport.
    pub fn frame(&mut self, from: NodeId, to: NodeId, lane: Lane, frame: &Bytes) {
        let mut hasher = DefaultHasher::new();
        frame.hash(&mut hasher);
        let bytes = frame.len();
        let told = || format!("n{from} → n{to} {lane}: {bytes} bytes");
        self.chronicle.note((from, to, lane, hasher.finish()), told);
        if self.foreign.contains(&from) {
            return;
        }
        match wire::decode_frame(frame.clone(), to) {
            Ok(envelopes) => envelopes.iter().for_each(|envelope| self.envelope(envelope)),
            Err(error) => self.blame("frames can be decoded", format!("n{from}: {error}")),
        }
    }

    fn envelope(&mut self, envelope: &Envelope) {
        let case = self.case(envelope.group);
        let mut found = case.votes.sent(envelope).err();
        if let Body::Raft(message) = &envelope.body
            && matches!(message.kind, RaftKind::Append | RaftKind::Heartbeat)
        {
            found = found.or(case.elections.elected(envelope.from, message.term).err());
        }
        let mismatch = case.match_entries(envelope);
        if let Some(violation) = found {
            self.blame(violation.rule, format!("g{}: {}", envelope.group, violation.what));
        }
        if let Some(what) = mismatch {
            self.blame("log matching", format!("g{}: {what}", envelope.group));
        }
    }

    /// A machine has applied a write that takes effect.
    pub fn applied(&mut self, node: NodeId, group: GroupId, write: Write, history: History) {
        let (at, hash) = (history.last, history.hash);
        let told = || format!("n{node} g{group} applied {at:?} operation {}", write.number);
        self.chronicle.note((node, group, at, hash), told);
        self.chronicle.count("applied");
        let case = self.case(group);
        let newest = case.hashes.last_key_value().map(|(at, _)| *at);
        let what = match case.hashes.get(&at) {
            Some(first) if *first == hash => return,
            Some(_) => format!("n{node} g{group}: another state at {at:?} than elsewhere"),
            None if newest.is_some_and(|newest| at < newest) => {
                format!("n{node} g{group}: a write at {at:?} where others have none")
            }
            None => {
                case.hashes.insert(at, hash);
                case.log.insert(at, write);
                return;
            }
        };
        self.blame("state machine safety", what);
    }

    /// A commit of a node's log is durable.
    pub fn persisted(&mut self, node: NodeId, appends: &[GroupAppend]) {
        for append in appends {
            let (group, last) = (append.group, append.entries.last().map(|entry| entry.index));
            let told = || match last {
                Some(last) => format!("n{node} g{group} persisted up to {last}"),
                None => format!("n{node} g{group} persisted"),
            };
            self.chronicle.note((node, group, last), told);
        }
    }

    /// What a node publishes of a group now.
    pub fn status(&mut self, node: NodeId, status: GroupStatus) {
        let group = status.group;
        let (chronicle, foreign) = (&mut self.chronicle, self.foreign.contains(&node));
        let case = self.groups.entry(group).or_default();
        if status.health != Health::Healthy {
            case.order.stopped(node);
        }
        let before = case.seen.insert(node, status.clone());
        if before.as_ref() == Some(&status) {
            return;
        }
        tell(chronicle, node, before.as_ref(), &status);
        if status.health != Health::Healthy || foreign {
            return;
        }
        let mut found = case.order.check(node, &status).err();
        let renewed = case.renewed.get(&node).is_some_and(|at| at.elapsed() < RENEWAL);
        if found.is_some() && renewed {
            case.order.stopped(node);
            found = case.order.check(node, &status).err();
        }
        if status.role == Role::Leader {
            found = found.or(case.elections.elected(status.replica, status.term).err());
        }
        if let Some(violation) = found {
            self.blame(violation.rule, format!("g{group}: {}", violation.what));
        }
    }

    /// A replica's actors begin another life, from what is durable. What the life before published last
    /// may still be looked at afterwards, so that a step back is allowed for a while.
    pub fn renewed(&mut self, node: NodeId, group: GroupId) {
        self.case(group).renewed.insert(node, Instant::now());
    }

    /// A node's life ended: its next one starts from what is durable.
    pub fn stopped(&mut self, node: NodeId) {
        for case in self.groups.values_mut() {
            case.order.stopped(node);
            case.seen.remove(&node);
        }
    }

    /// A client asks; returns the number of its operation, and the key that it is about.
    pub fn began(&mut self, group: GroupId, node: NodeId, writes: bool) -> (u64, u64) {
        let case = self.case(group);
        let number = case.operations.len() as u64 + 1;
        let (key, began) = (number / OPERATIONS_PER_KEY, case.next_moment());
        let (ended, heard) = (u64::MAX, Heard::Unknown);
        case.operations.push(Operation { number, key, writes, began, ended, heard });
        case.unanswered.insert(number);
        let what = if writes { "proposed" } else { "read" };
        self.chronicle.count(what);
        self.chronicle.note((group, node, number), || {
            format!("n{node} g{group} {what}: operation {number} on key {key}")
        });
        (number, key)
    }

    /// A client's question is answered, for good.
    pub fn ended(&mut self, group: GroupId, number: u64, heard: Heard) {
        let case = self.case(group);
        let is_first = case.unanswered.remove(&number);
        let ended = case.next_moment();
        let operation = &mut case.operations[number as usize - 1];
        (operation.ended, operation.heard) = (ended, heard);
        let what = match (operation.writes, heard) {
            (true, Heard::Done { .. }) => "acknowledged",
            (false, Heard::Done { .. }) => "answered reads",
            (_, Heard::Refused) => "refused",
            (_, Heard::Unknown) => "unknown",
        };
        self.chronicle.count(what);
        let done = match heard {
            Heard::Done { at, value } => Some((at, value)),
            _ => None,
        };
        self.chronicle
            .note((group, number, done), || format!("   g{group} operation {number}: {heard:?}"));
        if !is_first {
            self.blame("answered once", format!("g{group}: operation {number} again"));
        }
    }

    /// A replica answered from this state.
    pub fn answered_from(&mut self, node: NodeId, group: GroupId, history: History) {
        let case = self.case(group);
        let expected = case.hashes.get(&history.last).copied().unwrap_or(0);
        if expected != history.hash {
            let what = format!("n{node} g{group}: answers from another state, {history:?}");
            self.blame("state machine safety", what);
        }
    }

    /// The last write that any replica applied, with the hash there.
    pub fn newest(&mut self, group: GroupId) -> History {
        let newest = self.case(group).hashes.last_key_value();
        newest.map_or(History::default(), |(last, hash)| History { hash: *hash, last: *last })
    }

    /// Questions that nobody has answered.
    pub fn unanswered(&self) -> usize {
        self.groups.values().map(|case| case.unanswered.len()).sum()
    }

    /// Each group's history.
    pub fn histories(&self) -> Vec<(Log, Vec<Operation>)> {
        self.groups.values().map(|case| (case.log.clone(), case.operations.clone())).collect()
    }

    /// Checks the histories against the logs.
    pub fn check_histories(&mut self) {
        for (group, (log, operations)) in (1..).zip(self.histories()) {
            if let Err(contradiction) = linearizability::check(&log, &operations) {
                self.blame("linearizability", format!("g{group}: {contradiction}"));
            }
        }
    }
}

/// Successive operations on one key: few, so that a search through their orders ends.
const OPERATIONS_PER_KEY: u64 = 6;
/// From the making of a machine to the first status of its life, on a node that may stand still.
const RENEWAL: Duration = Duration::from_secs(1);

impl Case {
    fn next_moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// Entries of one index and term are equal wherever they are sent from.
    fn match_entries(&mut self, envelope: &Envelope) -> Option<String> {
        let Body::Raft(message) = &envelope.body else { return None };
        message.entries.iter().find_map(|entry| {
            let mut hasher = DefaultHasher::new();
            (entry.kind as u8, &entry.data).hash(&mut hasher);
            let hash = hasher.finish();
            let first = *self.entries.entry((entry.index, entry.term)).or_insert(hash);
            let (index, term) = (entry.index, entry.term);
            (first != hash).then(|| format!("two entries {index} of term {term}"))
        })
    }
}

/// What has changed, in the words of the pipeline.
fn tell(
    chronicle: &mut Chronicle,
    node: NodeId,
    before: Option<&GroupStatus>,
    status: &GroupStatus,
) {
    let group = status.group;
    let changed = |of: fn(&GroupStatus) -> LogIndex| before.map(of) != Some(of(status));
    if before.map(|b| (b.role, b.term, &b.health))
        != Some((status.role, status.term, &status.health))
    {
        let (role, term, health) = (status.role.as_str(), status.term, &status.health);
        chronicle.note((node, group, role, term), || {
            format!("n{node} g{group} is {role} in term {term}, {health:?}")
        });
    }
    for (word, of) in [
        ("submitted", (|s| s.last) as fn(&GroupStatus) -> LogIndex),
        ("committed", |s| s.commit),
        ("compacted", |s| s.compacted),
    ] {
        if changed(of) {
            let upto = of(status);
            chronicle.note((node, group, word, upto), || {
                format!("n{node} g{group} {word} up to {upto}")
            });
        }
    }
}
