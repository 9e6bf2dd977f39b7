//! A host's log: the production journal behind the production redo log, on a disk that fails.
//!
//! ```text
//! commit ─→ Journal ─→ Redo ─┬─→ MemoryFile   a write is torn
//!    │                       └─→ MemoryTable  a transaction is lost, or written and not told; full
//!    └─→ model: what must be found again, and what may be if a commit failed
//! ```
//!
//! Promise: opening it again finds what the model says, or that the log is damaged if a bit was
//! flipped; anything else panics.

use std::ops::Range;

use polyraft_core::entry::{Configuration, HardState, LogEntry};
use polyraft_core::ids::{LogIndex, ReplicaId};
use polyraft_core::ports::{GroupAppend, GroupIdentity, LogStore, RestoredLog, StorageError};
use polyraft_storage::MemoryDisks;
use polyraft_storage::journal::{COLD, JOURNAL, Journal, JournalOptions, META, REDO};
use polyraft_storage::memory::MemoryTable;
use polyraft_storage::memory_file::MemoryFile;
use polyraft_storage::redo::{BLOCK_BYTES, Redo};
use polyraft_storage::table::TableId;

use super::GROUP;

/// Blocks of the redo log: so few that it often goes to its table.
const REDO_BLOCKS: usize = 8;
/// Where the bits are that a flip in the redo log's file hits: the part of a block that is used.
const FLIPPED_BYTES: u64 = 120;

/// What a log holds durably.
#[derive(Debug, Clone, Default)]
struct Contents {
    /// From index 1, compacted entries included.
    entries: Vec<LogEntry>,
    hard_state: HardState,
    configuration: Configuration,
}

impl Contents {
    fn append(&mut self, append: &GroupAppend) {
        write_over(&mut self.entries, &append.entries);
        self.hard_state = append.hard_state.unwrap_or(self.hard_state);
        if let Some(configuration) = &append.configuration {
            self.configuration = configuration.clone();
        }
    }

    fn is(&self, restored: &RestoredLog) -> bool {
        let from = restored.last.get() as usize - restored.entries.len();
        restored.last.get() == self.entries.len() as u64
            && restored.entries == self.entries[from..]
            && restored.hard_state == self.hard_state
            && restored.configuration == self.configuration
    }
}

/// The log of one node.
pub(super) struct LogDisk {
    disks: MemoryDisks,
    options: JournalOptions,
    journal: Journal<Redo<MemoryTable, MemoryFile>>,
    durable: Contents,
    /// What it holds instead if the commit that failed was written.
    uncertain: Option<Contents>,
    /// Durable entries, from index 1, that are as they were when somebody last asked.
    unchanged: usize,
    is_failed: bool,
    is_damaged: bool,
}

impl LogDisk {
    /// The log of a group that `id` is created in, on empty disks.
    pub fn create(
        disks: MemoryDisks,
        options: JournalOptions,
        id: ReplicaId,
        configuration: Configuration,
    ) -> Self {
        let journal = open(&disks, &options).expect("an empty disk");
        let durable = Contents::default();
        let mut log = Self {
            disks,
            options,
            journal,
            durable,
            uncertain: None,
            unchanged: 0,
            is_failed: false,
            is_damaged: false,
        };
        let mut create = GroupAppend::empty(GROUP);
        create.create = Some(GroupIdentity { name: "traced".into(), replica: id });
        create.configuration = Some(configuration);
        log.commit(&[create]).expect("a healthy disk");
        log
    }

    /// Every durable entry, from index 1, compacted ones included.
    pub fn entries(&self) -> &[LogEntry] {
        &self.durable.entries
    }

    /// How many of the entries are as they were at the last call.
    pub fn take_unchanged(&mut self) -> usize {
        std::mem::replace(&mut self.unchanged, self.durable.entries.len())
    }

    /// The configuration that was saved last.
    pub fn configuration(&self) -> &Configuration {
        &self.durable.configuration
    }

    /// Whether a commit failed since the log was opened: nothing may be acknowledged.
    pub fn is_failed(&self) -> bool {
        self.is_failed
    }

    /// Whether a bit was flipped.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// One durable commit.
    pub fn commit(&mut self, appends: &[GroupAppend]) -> Result<(), StorageError> {
        let result = self.journal.commit(appends);
        let write = |contents: &mut Contents| appends.iter().for_each(|a| contents.append(a));
        match &result {
            Ok(_) => {
                write(&mut self.durable);
                let firsts = appends.iter().filter_map(|append| append.entries.first());
                let rewritten = firsts.map(|first| first.index.prev().get() as usize).min();
                self.unchanged = self.unchanged.min(rewritten.unwrap_or(usize::MAX));
            }
            Err(StorageError::Full { .. } | StorageError::Corrupt { .. }) => {}
            Err(StorageError::Poisoned) => self.is_failed = true,
            Err(_) => {
                self.is_failed = true;
                let mut written = self.durable.clone();
                write(&mut written);
                self.uncertain = Some(written);
            }
        }
        result.map(|_| ())
    }

    /// One piece of garbage collection.
    pub fn collect_garbage(&mut self) -> Result<(), StorageError> {
        let result = self.journal.collect_garbage();
        self.is_failed |= !matches!(result, Ok(_) | Err(StorageError::Full { .. }));
        result.map(|_| ())
    }

    /// Durable entries, as a follower that lags behind gets them.
    pub fn read(
        &self,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StorageError> {
        self.journal.reader().entries(GROUP, range, bytes_max)
    }

    /// A new log writer opens the journal again; the redo log goes on.
    pub fn replace_writer(&mut self) -> Result<(), StorageError> {
        let table = self.journal.table().clone();
        self.journal = Journal::open(table, self.options.clone())?;
        Ok(())
    }

    /// A new process opens everything again, and reads what follows `applied`.
    pub fn reopen(
        &mut self,
        options: JournalOptions,
        applied: LogIndex,
    ) -> Result<RestoredLog, StorageError> {
        self.heal();
        self.options = options;
        self.journal = open(&self.disks, &self.options)?;
        let restored = self.journal.restore(GROUP, applied)?;
        if !self.durable.is(&restored) {
            let written = self.uncertain.take().filter(|written| written.is(&restored));
            let lost = || panic!("{restored:?} found where {:?} was durable", self.durable);
            self.durable = written.unwrap_or_else(lost);
            self.unchanged = 0;
        }
        (self.uncertain, self.is_failed) = (None, false);
        Ok(restored)
    }

    /// Takes back failures that were planned and have not happened.
    pub fn heal(&self) {
        self.disks.log.heal();
        self.disks.redo.heal();
    }

    /// Flips a bit of what was written before the last write. Returns whether there was one.
    pub fn flip_bit(&mut self, random: u64) -> bool {
        let (kind, random) = (random % 6, random / 6);
        let flipped = match [JOURNAL, COLD, META, REDO].get(kind as usize) {
            Some(&table) => flip_in(&self.disks.log, table, random),
            None => {
                let (block, bit) = (random % REDO_BLOCKS as u64, random / REDO_BLOCKS as u64);
                let bit = block * 8 * BLOCK_BYTES as u64 + bit % (8 * FLIPPED_BYTES);
                self.disks.redo.flip_bit(bit as usize)
            }
        };
        self.is_damaged |= flipped;
        flipped
    }

    /// Changes a durable entry from `from` on behind valid checksums, as a reader sees damage that
    /// does not check them.
    pub fn forge(&mut self, from: LogIndex) {
        let at = from.get() as usize - 1;
        let mut entries = self.durable.entries.get(at..).unwrap_or_default().to_vec();
        let Some(entry) = entries.iter_mut().find(|entry| entry.data.len() > 12) else { return };
        let mut data = entry.data.to_vec();
        *data.last_mut().expect("it was found by its length") ^= 1;
        entry.data = data.into();
        let append = GroupAppend { entries, ..GroupAppend::empty(GROUP) };
        // On a disk that is full or has failed, nothing is forged.
        let _ = self.commit(&[append]);
    }
}

/// Flips one bit in a value of `table`.
pub(super) fn flip_in(disk: &MemoryTable, table: TableId, random: u64) -> bool {
    let rows = disk.rows(table);
    if rows.is_empty() {
        return false;
    }
    let (key, bytes) = &rows[random as usize % rows.len()];
    let bit = random / rows.len() as u64 % (8 * *bytes as u64).max(1);
    disk.flip_bit(table, key, bit as usize)
}

fn open(
    disks: &MemoryDisks,
    options: &JournalOptions,
) -> Result<Journal<Redo<MemoryTable, MemoryFile>>, StorageError> {
    Journal::open(disks.log_table(REDO_BLOCKS * BLOCK_BYTES)?, options.clone())
}

/// What an append does to a log that starts at index 1.
pub(super) fn write_over(log: &mut Vec<LogEntry>, entries: &[LogEntry]) {
    let Some(first) = entries.first() else { return };
    let keep = usize::try_from(first.index.get() - 1).expect("a test's log fits in memory");
    assert!(keep <= log.len(), "entry {} appended to a log of {}", first.index, log.len());
    log.truncate(keep);
    log.extend_from_slice(entries);
}
