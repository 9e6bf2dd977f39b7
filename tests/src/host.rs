//! A host: one node of a simulated cluster, with one replica over the production storage.
//!
//! ```text
//! inputs → Replica ─take→ appends ─persist→ LogDisk (journal, redo log) ─crash, restart→ Replica
//!                    ├──→ committed ─apply→ AppliedState (bench, state store) ─flush→ durable
//!                    └──→ fetches ─fetch→ Replica
//! ```
//!
//! The host is the shell of the core, with every queue visible: what is written, applied or lost, and
//! when, is decided by the caller. What a crash leaves is what the two disks hold. As in production,
//! a disk that failed acknowledges nothing until a restart, a full one is tried again, and damage
//! takes the replica out of service.
//! Not here: the network (the caller routes the envelopes that `take` returns).

mod applied_state;
mod chronicle;
mod log_disk;
mod sabotage;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use polyraft_core::batch::{self, Unit};
use polyraft_core::entry::{Configuration, EntryKind, LogEntry, Member};
use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId};
use polyraft_core::log_tail::Fetch;
use polyraft_core::message::Envelope;
use polyraft_core::output::{Append, Committed, Output, Refused};
use polyraft_core::pending::Undecided;
use polyraft_core::ports::{GroupAppend, StorageError};
use polyraft_core::replica::{Replica, ReplicaConfig};
use polyraft_core::status::GroupEvent;
use polyraft_storage::MemoryDisks;
use polyraft_storage::journal::JournalOptions;
use polyraft_storage::memory::FailedCommit;
use polyraft_storage::memory_file::TornWrite;

use applied_state::AppliedState;
use log_disk::{LogDisk, write_over};
pub use sabotage::Sabotage;

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
    /// A hash of the whole state after it.
    pub state: u64,
}

/// How a write to one of a host's disks fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFailure {
    /// The redo log's next write is torn.
    Write(TornWrite),
    /// The next transaction under the journal fails.
    Transaction(FailedCommit),
    /// The next flush of the state fails.
    Flush(FailedCommit),
}

/// One node with one replica.
pub struct Host {
    node: NodeId,
    id: ReplicaId,
    config: ReplicaConfig,
    disks: MemoryDisks,
    log_disk: LogDisk,
    state: AppliedState,
    replica: Option<Replica<ProposalTag, ReadTag>>,
    lives: u64,
    appends: VecDeque<Append>,
    fetches: VecDeque<Fetch>,
    committed: VecDeque<Committed<ProposalTag>>,
    log: Vec<LogEntry>,
    applied: Vec<LogEntry>,
    /// Callers whose replica was taken out of service, until they are told.
    orphans: (Vec<ProposalTag>, Vec<ReadTag>),
    fault: Option<String>,
    sabotage: Option<Sabotage>,
    /// Whom a shell that keys waiters by index alone would answer.
    by_index: BTreeMap<LogIndex, ProposalTag>,
    applied_in_life: usize,
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
        let (disks, id) = (MemoryDisks::default(), replica_of(node));
        let log_disk = LogDisk::create(disks.clone(), options.clone(), id, configuration);
        let state = AppliedState::new(disks.state.clone());
        let mut host = Self {
            node,
            id,
            config,
            disks,
            log_disk,
            state,
            replica: None,
            lives: 0,
            appends: VecDeque::new(),
            fetches: VecDeque::new(),
            committed: VecDeque::new(),
            log: Vec::new(),
            applied: Vec::new(),
            orphans: Default::default(),
            fault: None,
            sabotage: None,
            by_index: BTreeMap::new(),
            applied_in_life: 0,
        };
        host.restart(options);
        host
    }

    /// Stops, and comes back on an empty disk with replica `id`, whose group starts with
    /// `configuration`: all that the node was told, acknowledged and voted is gone.
    pub fn wipe(&mut self, id: ReplicaId, configuration: Configuration, options: JournalOptions) {
        assert!(self.replica.is_none(), "{} runs", self.node);
        self.disks = MemoryDisks::default();
        self.id = id;
        self.log_disk = LogDisk::create(self.disks.clone(), options.clone(), id, configuration);
        self.state = AppliedState::new(self.disks.state.clone());
        (self.log, self.applied, self.fault) = (Vec::new(), Vec::new(), None);
        self.restart(options);
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
        self.log_disk.entries()
    }

    /// How many entries of the durable log are as they were at the last call.
    pub fn take_unchanged(&mut self) -> usize {
        self.log_disk.take_unchanged()
    }

    /// The configuration that its journal holds.
    pub fn configuration(&self) -> &Configuration {
        self.log_disk.configuration()
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

    /// Whether one of its disks failed: it acknowledges nothing until it is restarted.
    pub fn is_failed(&self) -> bool {
        self.log_disk.is_failed() || self.state.is_failed()
    }

    /// Why its replica is out of service, if damage was found.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Takes the replica's output: queues what is for this host and returns the rest.
    pub fn take(&mut self) -> Taken {
        let (proposals, mut reads_failed) = std::mem::take(&mut self.orphans);
        let mut undecided: Vec<_> =
            proposals.into_iter().map(|tag| (tag, Undecided::Unknown)).collect();
        let Some(replica) = self.replica.as_mut() else {
            return Taken { undecided, reads_failed, ..Taken::default() };
        };
        let output = replica.take_output();
        let Output { appends, send, fetches, apply, reads, events, .. } = output;
        for append in &appends {
            write_over(&mut self.log, &append.append.entries);
            if self.sabotage == Some(Sabotage::AcknowledgeBeforeDurable) {
                replica.on_persisted(append.number);
            }
        }
        self.appends.extend(appends.iter().cloned());
        self.fetches.extend(fetches);
        self.committed.extend(apply);
        undecided.extend(output.undecided);
        reads_failed.extend(output.reads_failed);
        if self.sabotage == Some(Sabotage::WaitersByIndex) {
            undecided.clear(); // They wait on, for whatever comes to their index.
        }
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

    /// Proposes a batch.
    ///
    /// # Errors
    /// As for [`Replica::propose`].
    ///
    /// # Panics
    /// If it does not run.
    pub fn propose(&mut self, batch: Bytes, tag: ProposalTag) -> Result<(), Refused<ProposalTag>> {
        let replica = self.replica.as_mut().expect("it runs");
        let index = replica.status().last.next();
        replica.propose(batch, tag)?;
        if self.sabotage == Some(Sabotage::WaitersByIndex) {
            self.by_index.insert(index, tag);
        }
        Ok(())
    }

    /// Makes the first `count` queued appends durable in one commit and acknowledges them.
    /// Returns them; none if the disk is full or has failed.
    pub fn persist(&mut self, count: usize) -> Vec<Append> {
        let persisted = self.commit(count);
        let acknowledged = match self.sabotage {
            Some(Sabotage::AcknowledgeOutOfOrder) if !persisted.is_empty() => self.appends.back(),
            _ => None,
        };
        let last = acknowledged.or(persisted.last()).map(|append| append.number);
        if let (Some(replica), Some(last)) = (self.replica.as_mut(), last) {
            replica.on_persisted(last);
        }
        persisted
    }

    fn commit(&mut self, count: usize) -> Vec<Append> {
        let is_deaf = self.sabotage == Some(Sabotage::AcknowledgeAfterFailure);
        if count == 0 || self.appends.is_empty() || self.is_failed() && !is_deaf {
            return Vec::new();
        }
        let count = count.min(self.appends.len());
        let appends: Vec<_> = self.appends.range(..count).map(|a| self.spoiled(a)).collect();
        match self.log_disk.commit(&appends) {
            Err(StorageError::Full { .. }) => return Vec::new(),
            Err(error @ StorageError::Corrupt { .. }) => {
                assert!(self.log_disk.is_damaged(), "{}: {error}", self.node);
                self.take_out_of_service(error.to_string());
                return Vec::new();
            }
            Err(_) if !is_deaf => return Vec::new(),
            Ok(()) | Err(_) => {}
        }
        self.appends.drain(..count).collect()
    }

    fn spoiled(&self, append: &Append) -> GroupAppend {
        let mut append = append.append.clone();
        if let Some(sabotage) = self.sabotage {
            sabotage.spoil(&mut append, self.durable_log().len(), self.log_disk.configuration());
        }
        append
    }

    /// Does one piece of the journal's garbage collection.
    pub fn collect_garbage(&mut self) {
        if !self.is_failed() {
            // What fails is seen in `is_failed`; a full disk is tried again.
            let _ = self.log_disk.collect_garbage();
        }
    }

    /// Answers the oldest read of durable entries, if there is one: its range.
    pub fn fetch(&mut self) -> Option<(LogIndex, LogIndex)> {
        let fetch = self.fetches.pop_front()?;
        let range = (fetch.from, fetch.to);
        match self.log_disk.read(fetch.from..fetch.to, fetch.bytes_max) {
            Ok(entries) => {
                if let Some(replica) = self.replica.as_mut() {
                    replica.on_fetched(fetch, entries);
                }
            }
            Err(StorageError::Compacted { .. }) => {}
            Err(StorageError::Poisoned) => assert!(self.is_failed(), "{}", self.node),
            Err(error) => {
                assert!(self.log_disk.is_damaged(), "{}: {error}", self.node);
                self.take_out_of_service(error.to_string());
            }
        }
        Some(range)
    }

    /// Applies the first `count` queued entries, and tells the replica.
    pub fn apply(&mut self, count: usize) -> Vec<AppliedEntry> {
        let count = count.min(self.committed.len());
        let mut slice: Vec<_> = self.committed.drain(..count).collect();
        if let Some(sabotage) = self.sabotage {
            sabotage.spoil_slice(&mut slice);
        }
        let mut applied = Vec::with_capacity(count);
        let mut slice = slice.into_iter();
        for Committed { entry, mut waiter } in slice.by_ref() {
            if self.sabotage == Some(Sabotage::WaitersByIndex) {
                waiter = self.by_index.remove(&entry.index);
            }
            match self.apply_one(&entry) {
                Ok(state) => applied.push(AppliedEntry { entry, waiter, state }),
                Err(fault) => {
                    assert!(self.state.is_damaged(), "{}: {fault}", self.node);
                    self.orphans.0.extend(waiter);
                    self.take_out_of_service(fault);
                    break;
                }
            }
        }
        self.orphans.0.extend(slice.filter_map(|committed| committed.waiter));
        if !applied.is_empty() {
            self.report_applied();
        }
        applied
    }

    fn apply_one(&mut self, entry: &LogEntry) -> Result<u64, String> {
        self.applied_in_life += 1;
        let is_first = self.applied_in_life == 1 && self.lives > 1;
        let is_repeated = is_first && self.sabotage == Some(Sabotage::AppliedTwice);
        let applied = match is_repeated && entry.kind == EntryKind::Normal {
            true => self.state.apply(&sabotage::repeated(entry)),
            false => self.state.apply(entry),
        };
        applied.map_err(|fault| fault.to_string())?;
        self.applied.push(entry.clone());
        self.state.hash().map_err(|error| error.to_string())
    }

    /// Freezes the applied state for a flush, if none is under way.
    pub fn freeze(&mut self) {
        self.state.freeze();
    }

    /// Makes the applied state durable, or what of it was frozen before.
    pub fn flush(&mut self) {
        if self.is_failed() || self.replica.is_none() {
            return;
        }
        self.state.freeze();
        let lose_index = self.sabotage == Some(Sabotage::StateWithoutIndex);
        // What fails is seen in `is_failed`; a full disk is tried again.
        if let Ok(true) = self.state.flush(lose_index) {
            self.report_applied();
        }
    }

    fn report_applied(&mut self) {
        let applied = LogIndex::new(self.applied.len() as u64);
        let durable = self.state.durable();
        if let Some(replica) = self.replica.as_mut() {
            replica.on_applied(applied, durable);
        }
    }

    /// Plans a failure: the next write that it concerns fails, and nothing is acknowledged any more.
    pub fn fail_disk(&self, failure: DiskFailure) {
        match failure {
            DiskFailure::Write(torn) => self.disks.redo.tear_next_write(torn),
            DiskFailure::Transaction(outcome) => self.disks.log.fail_next_commit(outcome),
            DiskFailure::Flush(outcome) => self.disks.state.fail_next_commit(outcome),
        }
    }

    /// Begins whatever write `failure` concerns, with at most `count` appends; the host is about to
    /// crash in the middle of it.
    pub fn interrupt(&mut self, failure: DiskFailure, count: usize) {
        self.fail_disk(failure);
        if let DiskFailure::Flush(_) = failure {
            self.flush();
        } else if self.commit(count).is_empty() || !self.is_failed() {
            self.collect_garbage();
        }
    }

    /// Makes every write that needs space fail, or heals that.
    pub fn set_full(&self, is_full: bool) {
        self.disks.log.set_full(is_full);
        self.disks.state.set_full(is_full);
    }

    /// Takes back failures that were planned and have not happened.
    pub fn heal_disk(&self) {
        self.log_disk.heal();
        self.disks.state.heal();
    }

    /// Flips a bit on one of the disks. Returns whether there was one to flip.
    pub fn flip_bit(&mut self, random: u64) -> bool {
        if self.sabotage == Some(Sabotage::ChecksumIgnored) {
            let applied = LogIndex::new(self.applied.len() as u64);
            self.log_disk.forge(applied.next());
            return true;
        }
        match random % 4 {
            0 => self.state.flip_bit(random / 4),
            _ => self.log_disk.flip_bit(random / 4),
        }
    }

    fn take_out_of_service(&mut self, why: String) {
        let (proposals, reads) = self.crash(0);
        self.orphans.0.extend(proposals);
        self.orphans.1.extend(reads);
        self.fault = Some(why);
    }

    /// Stops without warning. Of the queued appends the first `written` reach the disk all the same,
    /// unacknowledged. Returns who waited: callers whose answer is lost.
    pub fn crash(&mut self, written: usize) -> (Vec<ProposalTag>, Vec<ReadTag>) {
        let Some(mut replica) = self.replica.take() else { return Default::default() };
        // What it had decided and nobody has taken is lost with it.
        let Output { undecided, apply, reads, reads_failed, .. } = replica.take_output();
        let (mut waiters, mut readers) = replica.drain();
        waiters.extend(undecided.into_iter().map(|(waiter, _)| waiter));
        waiters.extend(apply.into_iter().filter_map(|committed| committed.waiter));
        readers.extend(reads.into_iter().map(|(reader, _)| reader).chain(reads_failed));
        self.commit(written);
        waiters.extend(self.committed.drain(..).filter_map(|committed| committed.waiter));
        self.appends.clear();
        self.fetches.clear();
        self.by_index.clear();
        self.state.close();
        (waiters, readers)
    }

    /// Loses the log writer: of the queued appends the first `written` reach the disk all the same,
    /// unacknowledged, and its successor asks the replica for the rest.
    pub fn replace_log_writer(&mut self, written: usize) {
        self.commit(written);
        if self.is_failed() {
            return; // No successor: the process is about to stop.
        }
        self.appends.clear();
        if let Err(error) = self.log_disk.replace_writer() {
            assert!(self.log_disk.is_damaged(), "{}: {error}", self.node);
            return self.take_out_of_service(error.to_string());
        }
        if self.sabotage == Some(Sabotage::LostAppends) {
            return;
        }
        if let Some(replica) = self.replica.as_mut() {
            replica.on_log_writer_replaced();
        }
    }

    /// Starts from what the disks hold. Does not run if they are damaged: see [`Host::fault`].
    ///
    /// # Panics
    /// If it runs, or if the disks do not hold what was committed to them.
    pub fn restart(&mut self, options: JournalOptions) {
        assert!(self.replica.is_none(), "{} runs", self.node);
        self.fault = None;
        if let Err(why) = self.start(options) {
            let is_damaged = self.log_disk.is_damaged() || self.state.is_damaged();
            assert!(is_damaged, "{}: {why}", self.node);
            self.state.close();
            self.fault = Some(why);
        }
    }

    fn start(&mut self, options: JournalOptions) -> Result<(), String> {
        let applied = self.state.open().map_err(|fault| fault.to_string())?;
        let restored = self.log_disk.reopen(options, applied).map_err(|error| error.to_string())?;
        self.log = self.log_disk.entries().to_vec();
        self.applied.truncate(applied.get() as usize);
        self.lives += 1;
        self.applied_in_life = 0;
        let seed = self.config.seed.wrapping_add(self.lives.wrapping_mul(1_000_003));
        let config = ReplicaConfig { seed, ..self.config.clone() };
        self.replica = Some(Replica::new(config, restored, applied).expect("a consistent log"));
        Ok(())
    }

    /// A hash of the whole state; `None` if it is damaged or not open.
    pub fn state_hash(&mut self) -> Option<u64> {
        self.replica.as_ref()?;
        self.state.hash().ok()
    }
}
