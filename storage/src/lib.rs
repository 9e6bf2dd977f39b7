//! polyraft's production storage: the journal, the state store and the data directory's identity.
//!
//! ```text
//! DIR/lock, identity      one process, one node        identity
//! DIR/peers/              which data peers showed      peer_register
//! DIR/log/    LMDB, redo  every group's log            journal, redo
//! DIR/state/  LMDB        every group's state          state_store
//! ```
//!
//! Both stores are written over a small inner port ([`table`]), so that the same code runs on LMDB and
//! on a memory disk that fails when told to. FORMAT.md has every record byte by byte.
//!
//! Promise: `Ok` means durable; default sync flags only (ST-3). Checksums on everything (ST-7).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod field_reader;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod journal;
mod journal_gc;
mod journal_index;
mod journal_meta;
mod journal_record;
#[cfg(test)]
mod journal_tests;
pub mod lmdb;
pub mod memory;
pub mod memory_file;
pub mod peer_register;
pub mod redo;
mod redo_file;
mod redo_frame;
pub mod state_store;
#[cfg(test)]
mod state_tests;
pub mod table;
mod write_buffer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use polyraft_core::ids::NodeId;
use polyraft_core::ports::StorageError;

use crate::identity::{DataIdentity, IdentityError};
use crate::journal::{JOURNAL, Journal, JournalOptions, LOG_TABLES, REDO};
use crate::lmdb::{LmdbOptions, LmdbTable};
use crate::memory::MemoryTable;
use crate::memory_file::MemoryFile;
use crate::redo::{Redo, RedoTables};
use crate::state_store::{STATE_TABLES, TableStateStore};

/// The tables under the journal.
pub type LogTable = Redo<LmdbTable>;

const REDO_TABLES: RedoTables = RedoTables { appended: JOURNAL, generation: REDO };

/// How a data directory is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageOptions {
    /// The log's environment.
    pub log: LmdbOptions,
    /// The state's environment.
    pub state: LmdbOptions,
    /// The journal in the log's environment.
    pub journal: JournalOptions,
    /// Size in bytes of the log's redo file, made at creation. More makes transactions rarer and
    /// longer: while the kernel copies one into fresh pages, no other thread gets its core.
    pub redo_bytes: usize,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            log: LmdbOptions::default(),
            state: LmdbOptions::default(),
            journal: JournalOptions::default(),
            redo_bytes: 1 << 20,
        }
    }
}

impl StorageOptions {
    /// Limits that tests reach.
    pub fn tiny() -> Self {
        Self {
            log: LmdbOptions::tiny(),
            state: LmdbOptions::tiny(),
            journal: JournalOptions::tiny(),
            redo_bytes: 32 << 10,
        }
    }
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory is another's, or in use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A subdirectory cannot be created.
    #[error("{} cannot be created", path.display())]
    Directory {
        /// The subdirectory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// An environment cannot be opened or read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Everything that a node stores.
#[derive(Debug)]
pub struct Storage<L, S> {
    /// Every group's log. Belongs to the log writer.
    pub journal: Journal<L>,
    /// Every group's state.
    pub state: Arc<TableStateStore<S>>,
    /// Whose data it is, and how often it was opened.
    pub identity: DataIdentity,
}

impl Storage<LogTable, LmdbTable> {
    /// Opens or creates the data directory `dir` for `node` of `cluster`. It stays locked until every
    /// handle of both stores is dropped.
    ///
    /// # Errors
    /// See [`OpenError`]. Damaged groups are not errors here: they are quarantined one by one.
    pub fn open(
        dir: &Path,
        options: &StorageOptions,
        cluster: &str,
        node: NodeId,
    ) -> Result<Self, OpenError> {
        let (lock, identity) = identity::claim(dir, cluster, node)?;
        let lock = Arc::new(lock);
        let environment = |name: &str, tables: &[&str], options: &LmdbOptions| {
            let path = dir.join(name);
            match std::fs::create_dir_all(&path) {
                Ok(()) => Ok(LmdbTable::open(&path, tables, options, Some(Arc::clone(&lock)))?),
                Err(source) => Err(OpenError::Directory { path, source }),
            }
        };
        let log = environment("log", &LOG_TABLES, &options.log)?;
        let state = environment("state", &STATE_TABLES, &options.state)?;
        let journal = Journal::open(log_table(dir, log, options)?, options.journal.clone())?;
        Ok(Self { journal, state: Arc::new(TableStateStore::new(state)), identity })
    }
}

fn log_table(
    dir: &Path,
    table: LmdbTable,
    options: &StorageOptions,
) -> Result<LogTable, StorageError> {
    let file = dir.join("log").join("redo");
    Redo::open(table, REDO_TABLES, file.as_path(), options.redo_bytes)
}

/// The disks of a node in memory: they survive the storage that is opened on them.
#[derive(Debug, Clone)]
pub struct MemoryDisks {
    /// Under the journal.
    pub log: MemoryTable,
    /// The redo log's file before it, if it is opened with one.
    pub redo: MemoryFile,
    /// Under the state store.
    pub state: MemoryTable,
}

impl MemoryDisks {
    /// Disks of their own with the same content and no faults.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { log: self.log.copy(), redo: self.redo.copy(), state: self.state.copy() }
    }

    /// The tables under the journal, behind a redo log of `bytes` as on a real disk.
    ///
    /// # Errors
    /// As for [`Redo::open`].
    pub fn log_table(&self, bytes: usize) -> Result<Redo<MemoryTable, MemoryFile>, StorageError> {
        Redo::open(self.log.clone(), REDO_TABLES, &self.redo, bytes)
    }
}

impl Default for MemoryDisks {
    fn default() -> Self {
        Self {
            log: MemoryTable::new(LOG_TABLES.len()),
            redo: MemoryFile::default(),
            state: MemoryTable::new(STATE_TABLES.len()),
        }
    }
}

impl Storage<MemoryTable, MemoryTable> {
    /// Opens the storage on disks in memory; again on the same disks, it is a restart.
    ///
    /// # Errors
    /// As for [`Journal::open`].
    pub fn open_in_memory(
        disks: &MemoryDisks,
        options: &JournalOptions,
        identity: DataIdentity,
    ) -> Result<Self, StorageError> {
        let journal = Journal::open(disks.log.clone(), options.clone())?;
        let state = Arc::new(TableStateStore::new(disks.state.clone()));
        Ok(Self { journal, state, identity })
    }
}

#[cfg(test)]
mod tests {
    use polyraft_core::entry::{
        CompactionPoint, Configuration, EntryKind, HardState, LogEntry, Member,
    };
    use polyraft_core::ids::{GroupId, LogIndex, ReplicaId, Term};
    use polyraft_core::ports::{GroupAppend, GroupIdentity, LogStore};

    use super::*;

    #[test]
    fn a_data_directory_opens_once_and_again_after_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let open = |cluster, node| {
            Storage::open(dir.path(), &StorageOptions::tiny(), cluster, NodeId::new(node))
        };
        let first = open("blue", 1).unwrap();
        assert_eq!(first.identity.incarnation, 1);
        let reader = polyraft_core::ports::LogStore::reader(&first.journal);
        drop(first);
        let second = open("blue", 1);
        assert!(matches!(second, Err(OpenError::Identity(IdentityError::Locked { .. }))));
        drop(reader);
        let other = open("blue", 2);
        assert!(matches!(other, Err(OpenError::Identity(IdentityError::NodeMismatch { .. }))));
        assert_eq!(open("blue", 1).unwrap().identity.incarnation, 2);
    }

    /// One group's log in a map of 8 MiB, and how its entries are appended.
    struct SmallLog {
        journal: Journal<LogTable>,
        last: LogIndex,
        dir: tempfile::TempDir,
    }

    const GROUP: GroupId = GroupId::new(1);
    const TERM: Term = Term::new(1);

    impl SmallLog {
        fn create() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut journal = Self::open(dir.path());
            let identity = GroupIdentity { name: "g".into(), replica: ReplicaId::new(1) };
            let member = Member { replica: ReplicaId::new(1), node: NodeId::new(1) };
            let configuration = Some(Configuration::initial(vec![member]));
            let create =
                GroupAppend { create: Some(identity), configuration, ..GroupAppend::empty(GROUP) };
            journal.commit(&[create]).unwrap();
            Self { journal, last: LogIndex::ZERO, dir }
        }

        fn open(dir: &Path) -> Journal<LogTable> {
            let mut options = StorageOptions::default();
            let map_bytes = 8 << 20;
            options.log = LmdbOptions {
                map_bytes,
                map_bytes_max: map_bytes,
                presize_bytes: 0,
                ..options.log
            };
            options.journal.journal_bytes_max = 64 << 10;
            Storage::open(dir, &options, "blue", NodeId::new(1)).unwrap().journal
        }

        /// Appends an entry of `bytes`, or says that the log is full.
        fn append(&mut self, bytes: usize) -> bool {
            let data = bytes::Bytes::from(vec![7; bytes]);
            let index = self.last.next();
            let entries = vec![LogEntry { index, term: TERM, kind: EntryKind::Normal, data }];
            let hard_state = Some(HardState { term: TERM, vote: None, commit: index });
            let append = GroupAppend { entries, hard_state, ..GroupAppend::empty(GROUP) };
            match self.journal.commit(&[append]) {
                Ok(_) => self.last = index,
                Err(StorageError::Full { .. }) => return false,
                Err(error) => panic!("{error}"),
            }
            true
        }

        fn fill(&mut self, bytes: usize) {
            while self.append(bytes) {
                let _ = self.journal.collect_garbage().unwrap();
            }
        }
    }

    /// Goal: a log that has filled its map takes compactions and collections, and appends after them.
    /// Method: live entries of several sizes fill a small map, again and again; each time, it is first
    /// tried whether a start and a collection without any garbage spoil anything.
    #[test]
    fn a_full_map_is_emptied_by_compaction_and_collection() {
        for bytes in [3_000, 60_000, 700_000] {
            let mut log = SmallLog::create();
            for round in 1..=3 {
                let before = log.last;
                log.fill(bytes);
                let filled = log.last.distance_from(before) * bytes as u64;
                assert!(filled > 1 << 20, "{bytes} bytes, round {round}: {filled}");
                while log.journal.collect_garbage().unwrap() {}
                assert!(!log.append(bytes), "{bytes} bytes: nothing was compacted");
                drop(log.journal);
                log.journal = SmallLog::open(log.dir.path());
                let beyond = CompactionPoint { index: log.last.next(), term: TERM };
                let point = CompactionPoint { index: log.last.prev(), term: TERM };
                log.journal.compact(&[(GROUP, point), (GROUP, beyond)]).unwrap();
                while log.journal.collect_garbage().unwrap() {}
            }
            assert!(log.append(bytes));
            let restored = log.journal.restore(GROUP, LogIndex::ZERO).unwrap();
            assert_eq!(restored.last, log.last);
            assert_eq!(restored.compacted.index, log.last.prev().prev());
            assert_eq!(restored.entries.len(), 2);
        }
    }
}
