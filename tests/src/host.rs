//! A host: one node of a simulated cluster, with one replica over the production journal.
//!
//! ```text
//! inputs → Replica ─take→ appends ─persist→ Journal<MemoryTable> ─crash, restart→ Replica
//!                    ├──→ committed ─apply→ applied ─flush→ durable
//!                    └──→ fetches ─fetch→ Replica
//! ```
//!
//! The host is the shell of the core, with every queue visible: what is written, applied or lost, and
//! when, is decided by the caller. What a crash leaves is what the journal and the flushed state hold.
//! Not here: the network (the caller routes the envelopes that `take` returns).

use std::collections::VecDeque;

use bytes::Bytes;
use polyraft_core::batch::{self, Unit};
use polyraft_core::entry::{Configuration, LogEntry, Member};
use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId};
use polyraft_core::log_tail::Fetch;
use polyraft_core::message::Envelope;
use polyraft_core::output::{Append, Committed, Output};
use polyraft_core::pending::Undecided;
use polyraft_core::ports::{GroupAppend, GroupIdentity, LogStore};
use polyraft_core::replica::{Replica, ReplicaConfig};
use polyraft_core::status::GroupEvent;
use polyraft_storage::MemoryDisks;
use polyraft_storage::journal::{Journal, JournalOptions};
use polyraft_storage::memory::MemoryTable;

/// The one group that every simulated cluster has.
pub const GROUP: GroupId = GroupId::new(7);

/// Names a proposal in a test.
pub type ProposalTag = u64;
/// Names a read in a test.
pub type ReadTag = u64;

/// What followed from a host's inputs, but for what it queued for its own disk and applier.
#[derive(Debug, Default)]
pub struct Taken {
    /// Appends that were queued, as they were when they left the replica.
    pub appends: Vec<Append>,
    /// Messages to route.
    pub send: Vec<Envelope>,
    /// Proposals that ended without being applied.
    pub undecided: Vec<(ProposalTag, Undecided)>,
    /// Reads and the index that they wait for.
    pub reads: Vec<(ReadTag, LogIndex)>,
    /// Reads that nobody confirmed.
    pub reads_failed: Vec<ReadTag>,
    /// Events raised.
    pub events: Vec<GroupEvent>,
}

/// An entry that was applied, and who waited for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedEntry {
    /// The entry.
    pub entry: LogEntry,
    /// The proposal that it answers.
    pub waiter: Option<ProposalTag>,
}

/// A deliberately broken shell: the negative controls of the simulator (CH-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// Tells the replica that appends are durable as soon as they are queued.
    AcknowledgeBeforeDurable,
    /// Leaves the hard state out of every commit.
    HardStateUnsaved,
    /// Applies the second of two committed entries first.
    ApplyOutOfOrder,
    /// Answers a proposal when it is submitted.
    AnswerOnSubmit,
    /// Writes appends over the old log without truncating it: drops each conflicting append.
    TruncationSkipped,
    /// Answers reads at the applied index without asking a leader.
    StaleRead,
    /// Does not tell the replica that its appends died with the log writer.
    LostAppends,
}

/// One node with one replica.
pub struct Host {
    node: NodeId,
    id: ReplicaId,
    config: ReplicaConfig,
    disks: MemoryDisks,
    journal: Journal<MemoryTable>,
    replica: Option<Replica<ProposalTag, ReadTag>>,
    lives: u64,
    appends: VecDeque<Append>,
    fetches: VecDeque<Fetch>,
    committed: VecDeque<Committed<ProposalTag>>,
    log: Vec<LogEntry>,
    durable_log: Vec<LogEntry>,
    applied: Vec<LogEntry>,
    durable: usize,
    sabotage: Option<Sabotage>,
}

/// The replica that `node` hosts first. Replica ids differ from node ids (RF-10).
pub fn replica_of(node: NodeId) -> ReplicaId {
    ReplicaId::new(node.get() * 100 + 1)
}

/// The member that `node` hosts.
pub fn member(node: NodeId) -> Member {
    Member { replica: replica_of(node), node }
}

/// One batch of one unit per command.
pub fn encode_commands(commands: &[Bytes]) -> Bytes {
    let units: Vec<_> = commands.iter().cloned().map(Unit::single).collect();
    batch::encode(0, units.iter())
}

/// The commands of a normal entry; none for a no-op.
pub fn commands_of(entry: &LogEntry) -> Vec<Bytes> {
    if entry.data.is_empty() {
        return Vec::new();
    }
    let batch = batch::decode(entry.data.clone()).expect("only batches are proposed");
    batch.units.into_iter().flat_map(|unit| unit.commands).collect()
}

impl Host {
    /// A node on an empty disk, running, whose group starts with `configuration`.
    pub fn create(
        node: NodeId,
        config: ReplicaConfig,
        configuration: Configuration,
        options: JournalOptions,
    ) -> Self {
        let disks = MemoryDisks::default();
        let mut journal = Journal::open(disks.log.clone(), options).expect("an empty disk");
        let id = replica_of(node);
        let mut create = GroupAppend::empty(GROUP);
        create.create = Some(GroupIdentity { name: "traced".into(), replica: id });
        create.configuration = Some(configuration);
        journal.commit(&[create]).expect("a healthy disk");
        let mut host = Self {
            node,
            id,
            config,
            disks,
            journal,
            replica: None,
            lives: 0,
            appends: VecDeque::new(),
            fetches: VecDeque::new(),
            committed: VecDeque::new(),
            log: Vec::new(),
            durable_log: Vec::new(),
            applied: Vec::new(),
            durable: 0,
            sabotage: None,
        };
        host.restart(JournalOptions::default());
        host
    }

    /// Breaks this host's shell.
    pub fn sabotage(&mut self, sabotage: Sabotage) {
        self.sabotage = Some(sabotage);
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Its replica's id.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Its replica, while it runs.
    pub fn replica(&self) -> Option<&Replica<ProposalTag, ReadTag>> {
        self.replica.as_ref()
    }

    /// Its replica, to be fed.
    pub fn replica_mut(&mut self) -> Option<&mut Replica<ProposalTag, ReadTag>> {
        self.replica.as_mut()
    }

    /// The log as the replica sees it, from index 1, compacted entries included.
    pub fn log(&self) -> &[LogEntry] {
        &self.log
    }

    /// The part of the log that the journal holds durably, compacted entries included.
    pub fn durable_log(&self) -> &[LogEntry] {
        &self.durable_log
    }

    /// Every entry applied, from index 1.
    pub fn applied(&self) -> &[LogEntry] {
        &self.applied
    }

    /// Appends that are queued for the disk.
    pub fn appends_waiting(&self) -> usize {
        self.appends.len()
    }

    /// Committed entries that are queued for the applier.
    pub fn committed_waiting(&self) -> usize {
        self.committed.len()
    }

    /// Whether reads of durable entries wait.
    pub fn has_fetches(&self) -> bool {
        !self.fetches.is_empty()
    }

    /// Takes the replica's output: queues what is for this host and returns the rest.
    pub fn take(&mut self) -> Taken {
        let Some(replica) = self.replica.as_mut() else { return Taken::default() };
        let Output { appends, send, fetches, apply, undecided, reads, reads_failed, events } =
            replica.take_output();
        for append in &appends {
            write_over(&mut self.log, &append.append.entries);
            if self.sabotage == Some(Sabotage::AcknowledgeBeforeDurable) {
                replica.on_persisted(append.number);
            }
        }
        self.appends.extend(appends.iter().cloned());
        self.fetches.extend(fetches);
        self.committed.extend(apply);
        Taken { appends, send, undecided, reads, reads_failed, events }
    }

    /// Tells the followers the commit index, if they were not sent it. A shell does it after a while.
    pub fn announce(&mut self) {
        if let Some(replica) = self.replica.as_mut()
            && let Some(commit) = replica.unannounced()
        {
            replica.announce_commit(commit);
        }
    }

    /// Makes the first `count` queued appends durable in one commit and acknowledges them.
    /// Returns the numbers.
    pub fn persist(&mut self, count: usize) -> Vec<Append> {
        let appends = self.commit(count);
        if let (Some(replica), Some(last)) = (self.replica.as_mut(), appends.last()) {
            replica.on_persisted(last.number);
        }
        appends
    }

    fn commit(&mut self, count: usize) -> Vec<Append> {
        let mut appends: Vec<_> = self.appends.drain(..count.min(self.appends.len())).collect();
        for append in &mut appends {
            self.spoil(&mut append.append);
            write_over(&mut self.durable_log, &append.append.entries);
        }
        let group_appends: Vec<_> = appends.iter().map(|a| a.append.clone()).collect();
        self.journal.commit(&group_appends).expect("the disk is healthy");
        appends
    }

    fn spoil(&self, append: &mut GroupAppend) {
        match self.sabotage {
            Some(Sabotage::HardStateUnsaved) => append.hard_state = None,
            Some(Sabotage::TruncationSkipped) => {
                let end = self.durable_log.len() as u64;
                if append.entries.first().is_some_and(|first| first.index.get() <= end) {
                    append.entries.retain(|entry| entry.index.get() > end);
                }
            }
            _ => {}
        }
    }

    /// Does one piece of the journal's garbage collection.
    pub fn collect_garbage(&mut self) {
        self.journal.collect_garbage().expect("the disk is healthy");
    }

    /// Answers the oldest read of durable entries, if there is one: its range.
    pub fn fetch(&mut self) -> Option<(LogIndex, LogIndex)> {
        let fetch = self.fetches.pop_front()?;
        let range = (fetch.from, fetch.to);
        let reader = self.journal.reader();
        let read = reader.entries(GROUP, fetch.from..fetch.to, fetch.bytes_max);
        let entries = match read {
            Ok(entries) => entries,
            Err(polyraft_core::ports::StorageError::Compacted { .. }) => Vec::new(),
            Err(error) => panic!("{}: {error}", self.node),
        };
        if let Some(replica) = self.replica.as_mut() {
            replica.on_fetched(fetch, entries);
        }
        Some(range)
    }

    /// Applies the first `count` queued entries, and tells the replica.
    pub fn apply(&mut self, count: usize) -> Vec<AppliedEntry> {
        if self.sabotage == Some(Sabotage::ApplyOutOfOrder) && self.committed.len() > 1 {
            self.committed.swap(0, 1);
        }
        let count = count.min(self.committed.len());
        let mut applied = Vec::with_capacity(count);
        for Committed { entry, waiter } in self.committed.drain(..count) {
            self.applied.push(entry.clone());
            applied.push(AppliedEntry { entry, waiter });
        }
        if count > 0 {
            self.report_applied();
        }
        applied
    }

    /// Makes the applied state durable.
    pub fn flush(&mut self) {
        if self.durable < self.applied.len() {
            self.durable = self.applied.len();
            self.report_applied();
        }
    }

    fn report_applied(&mut self) {
        let index = |len: usize| LogIndex::new(len as u64);
        let (applied, durable) = (index(self.applied.len()), index(self.durable));
        if let Some(replica) = self.replica.as_mut() {
            replica.on_applied(applied, durable);
        }
    }

    /// Stops without warning. Of the queued appends the first `written` reach the disk all the same,
    /// unacknowledged. Returns who waited: callers whose answer is lost.
    pub fn crash(&mut self, written: usize) -> (Vec<ProposalTag>, Vec<ReadTag>) {
        let Some(mut replica) = self.replica.take() else { return Default::default() };
        let (mut waiters, readers) = replica.drain();
        self.commit(written);
        waiters.extend(self.committed.drain(..).filter_map(|committed| committed.waiter));
        self.appends.clear();
        self.fetches.clear();
        self.applied.truncate(self.durable);
        self.log = self.durable_log.clone();
        (waiters, readers)
    }

    /// Loses the log writer: of the queued appends the first `written` reach the disk all the same,
    /// unacknowledged, and its successor asks the replica for the rest.
    pub fn replace_log_writer(&mut self, written: usize) {
        self.commit(written);
        self.appends.clear();
        if self.sabotage == Some(Sabotage::LostAppends) {
            return;
        }
        if let Some(replica) = self.replica.as_mut() {
            replica.on_log_writer_replaced();
        }
    }

    /// Starts from what the disk holds.
    ///
    /// # Panics
    /// If it runs, or if the journal does not hold what was committed to it.
    pub fn restart(&mut self, options: JournalOptions) {
        assert!(self.replica.is_none(), "{} runs", self.node);
        self.journal = Journal::open(self.disks.log.clone(), options).expect("a healthy disk");
        let applied = LogIndex::new(self.durable as u64);
        let restored = self.journal.restore(GROUP, applied).expect("a healthy log");
        if self.sabotage.is_none() {
            assert_eq!(restored.last.get(), self.durable_log.len() as u64, "{}", self.node);
            assert_eq!(restored.entries, self.durable_log[self.durable..], "{}", self.node);
        }
        self.lives += 1;
        let seed = self.config.seed.wrapping_add(self.lives.wrapping_mul(1_000_003));
        let config = ReplicaConfig { seed, ..self.config.clone() };
        self.replica = Some(Replica::new(config, restored, applied).expect("a consistent log"));
    }
}

/// What an append does to a log that starts at index 1.
fn write_over(log: &mut Vec<LogEntry>, entries: &[LogEntry]) {
    let Some(first) = entries.first() else { return };
    let keep = usize::try_from(first.index.get() - 1).expect("a test's log fits in memory");
    assert!(keep <= log.len(), "entry {} appended to a log of {}", first.index, log.len());
    log.truncate(keep);
    log.extend_from_slice(entries);
}
