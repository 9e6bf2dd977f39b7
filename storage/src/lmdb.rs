//! Tables in LMDB: the only file that touches the environment.
//!
//! ```text
//! write ─ room in the map ─ reserve disk ─ txn ─ body ─ commit + fdatasync
//!            │ none            │ no space      │ map full
//!            └─→ Full          └─→ Full        └─→ abort, grow the map with no reader inside, run the body again
//! ```
//!
//! Promise: default sync flags only, so `Ok` from a write is durable. A full disk is found before the
//! transaction, by reserving the file's blocks, because a write that fails half-way inside LMDB
//! cannot be told from a broken disk.
//! Not here: retries after a failed sync. The caller poisons itself (ST-12).
//! Source: LMDB's `lmdb.h`, "Restrictions/caveats" and `mdb_env_set_mapsize`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use heed::types::Bytes as Raw;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, MdbError, PutFlags};
use heed::{RoTxn, RwTxn, WithoutTls};
use polyraft_core::ports::StorageError;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::identity::DirectoryLock;
use crate::table::{TableId, TableRead, TableStore, TableWrite, WriteSize, is_empty_range};

type Rows = Database<'static, Raw, Raw>;

/// Disk blocks are reserved in steps of this many bytes.
const RESERVE_STEP_BYTES: u64 = 16 << 20;
/// Pages that a transaction may need beside its data: free list, roots, branches.
const RESERVE_PAGES: u64 = 64;
const PAGE_BYTES: u64 = 4096;
/// What a page holds of each row beside its key and value, at most.
const ROW_BYTES: u64 = 32;
/// Bytes of the map beyond its limit, kept back for transactions that make room: two pieces of garbage
/// collection whose pages are not free yet, each with a redo log and its share of copied branches.
const ROOM_BYTES: usize = 32 << 20;
/// How often, and with what pause, growth waits for the readers inside to leave.
const GROW_ATTEMPTS: u32 = 2_000;
const GROW_PAUSE: Duration = Duration::from_millis(1);

/// What a new environment writes and frees again, unless told otherwise.
pub const PRESIZE_BYTES: usize = 32 << 20;

/// A table of our own, after the caller's.
const ADVANCE_TABLE: &str = "advance";

/// How one LMDB environment is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LmdbOptions {
    /// Address space of the map in bytes, a multiple of 1 MiB; not disk space. It doubles when full.
    pub map_bytes: usize,
    /// The store is full when this many bytes are in use. The map may be 32 MiB larger, for what makes
    /// room again.
    pub map_bytes_max: usize,
    /// File bytes written once at creation, so that free pages are contiguous and on disk; 0 for none.
    pub presize_bytes: usize,
    /// Read transactions that may be open at the same time.
    pub readers_max: u32,
}

impl Default for LmdbOptions {
    fn default() -> Self {
        Self {
            map_bytes: 64 << 30,
            map_bytes_max: 8 << 40,
            presize_bytes: PRESIZE_BYTES,
            readers_max: 1024,
        }
    }
}

impl LmdbOptions {
    /// A map and a file so small that tests reach their limits: 1 MiB, up to 64 MiB, no pre-sizing.
    pub fn tiny() -> Self {
        Self { map_bytes: 1 << 20, map_bytes_max: 64 << 20, presize_bytes: 0, readers_max: 64 }
    }
}

/// Ordered tables in one LMDB environment.
#[derive(Debug, Clone)]
pub struct LmdbTable {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Env<WithoutTls>,
    tables: Vec<Rows>,
    map_bytes_max: usize,
    /// Held shared by every transaction, exclusively while the map is replaced. Growth only *tries*
    /// for it: a queued writer would block a reader that is already inside and starts another read.
    gate: RwLock<()>,
    /// Bytes from the start of the file whose blocks are known to be reserved.
    reserved: Mutex<u64>,
    file: File,
    /// The data directory stays locked as long as an environment in it is open.
    _lock: Option<Arc<DirectoryLock>>,
}

impl LmdbTable {
    /// Opens or creates the environment in `path`, an existing directory, with the given tables.
    ///
    /// # Errors
    /// [`StorageError::Io`] if it cannot be opened; [`StorageError::Full`] if there is no space.
    pub fn open(
        path: &Path,
        tables: &[&str],
        options: &LmdbOptions,
        lock: Option<Arc<DirectoryLock>>,
    ) -> Result<Self, StorageError> {
        let is_new = !path.join("data.mdb").exists();
        let mut open = EnvOpenOptions::new().read_txn_without_tls();
        open.map_size(options.map_bytes).max_readers(options.readers_max);
        let tables = [tables, &[ADVANCE_TABLE]].concat();
        open.max_dbs(u32::try_from(tables.len()).expect("a handful of tables"));
        // SAFETY: the map is undefined if its file is changed from outside. The data directory is
        // locked exclusively by its owner, and no flag that weakens LMDB's own locking is set.
        let env = unsafe { open.open(path) }.map_err(|e| failed("opening the environment", e))?;
        let file = env.try_clone_inner_file().map_err(|e| failed("opening the environment", e))?;
        let rows = create_tables(&env, &tables)?;
        let inner = Inner {
            env,
            tables: rows,
            map_bytes_max: options.map_bytes_max,
            gate: RwLock::new(()),
            reserved: Mutex::new(0),
            file,
            _lock: lock,
        };
        let store = Self { inner: Arc::new(inner) };
        if is_new && options.presize_bytes > 0 {
            store.presize(options.presize_bytes)?;
        }
        Ok(store)
    }

    /// The size of the data file in bytes, with blocks reserved ahead.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the file cannot be asked.
    pub fn file_bytes(&self) -> Result<u64, StorageError> {
        self.inner.env.real_disk_size().map_err(|e| failed("sizing the file", e))
    }

    /// Bytes of the map, as grown so far.
    pub fn map_bytes(&self) -> usize {
        self.inner.env.info().map_size
    }

    /// Bytes of the pages that hold data, without free ones.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the tables cannot be asked.
    pub fn used_bytes(&self) -> Result<u64, StorageError> {
        let _inside = self.enter();
        let txn = self.inner.env.read_txn().map_err(|e| failed("starting a read", e))?;
        let mut pages = 0;
        for rows in &self.inner.tables {
            let stat = rows.stat(&txn).map_err(|e| failed("asking for a table's size", e))?;
            pages += stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
        }
        Ok(pages as u64 * PAGE_BYTES)
    }

    /// Writes and deletes one filler value: its pages are contiguous, on disk, and free.
    fn presize(&self, bytes: usize) -> Result<(), StorageError> {
        const KEY: &[u8] = b"filler";
        let filler = vec![0; bytes];
        let size = WriteSize { bytes: bytes as u64, operations: 1, makes_room: true };
        self.write(size, &mut |write| write.put(TableId(0), KEY, &filler))?;
        self.write(WriteSize::MAKES_ROOM, &mut |write| write.delete(TableId(0), KEY))
    }

    fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.inner.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the file up to the last page that was ever used.
    fn extent(&self) -> u64 {
        (self.inner.env.info().last_page_number as u64 + 1) * PAGE_BYTES
    }

    /// Reserves disk blocks for a transaction of `size`, whatever pages LMDB will choose.
    fn reserve(&self, size: WriteSize) -> Result<(), StorageError> {
        let pages = RESERVE_PAGES + 2 * size.operations;
        let needed = self.extent() + pages * PAGE_BYTES + size.bytes + size.bytes / 2;
        let mut reserved = self.inner.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if needed <= *reserved {
            return Ok(());
        }
        let generous = needed.next_multiple_of(RESERVE_STEP_BYTES);
        for target in [generous, needed.next_multiple_of(PAGE_BYTES)] {
            let length = target - *reserved;
            let flags = FallocateFlags::empty();
            match rustix::fs::fallocate(&self.inner.file, flags, *reserved, length) {
                // Where blocks cannot be reserved, a full disk is met in the commit, as a failure.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    *reserved = target;
                    return Ok(());
                }
                Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {}
                Err(errno) => return Err(failed_io("reserving disk space", errno.into())),
            }
        }
        Err(StorageError::Full { what: format!("the disk, {needed} bytes into the file") })
    }

    fn try_write(
        &self,
        body: &mut dyn FnMut(&mut dyn TableWrite) -> Result<(), StorageError>,
    ) -> Result<(), WriteFailure> {
        let _inside = self.enter();
        let txn = self.inner.env.write_txn().map_err(|e| failed("starting a write", e))?;
        let mut write = LmdbWrite { txn, tables: &self.inner.tables, map_full: false };
        if let Err(error) = body(&mut write) {
            return Err(if write.map_full { WriteFailure::MapFull } else { error.into() });
        }
        match write.txn.commit() {
            Ok(()) => Ok(()),
            Err(heed::Error::Mdb(MdbError::MapFull)) => Err(WriteFailure::MapFull),
            Err(error) => Err(failed("committing", error).into()),
        }
    }

    /// Commits a transaction of one small row. LMDB reuses pages only two transactions after they
    /// were freed, so that a write that fails, and is aborted, would fail in the same way for ever.
    fn advance(&self) -> bool {
        let id = TableId(self.inner.tables.len() - 1);
        self.try_write(&mut |write| write.put(id, b"advanced", &[])).is_ok()
    }

    /// Doubles the map up to its limit, once every transaction inside has left.
    fn grow(&self) -> Result<(), StorageError> {
        for _ in 0..GROW_ATTEMPTS {
            if let Ok(_alone) = self.inner.gate.try_write() {
                let (bytes, max) = (self.map_bytes(), self.inner.map_bytes_max + ROOM_BYTES);
                if bytes >= max {
                    return Err(StorageError::Full { what: format!("the map, {bytes} bytes") });
                }
                let bytes = bytes.saturating_mul(2).min(max);
                // SAFETY: no transaction may be active; each holds the gate shared, and we hold it
                // exclusively.
                let resized = unsafe { self.inner.env.resize(bytes) };
                return resized.map_err(|e| failed("growing the map", e));
            }
            #[expect(clippy::disallowed_methods, reason = "the writer's thread blocks by design")]
            std::thread::sleep(GROW_PAUSE);
        }
        Err(StorageError::Full { what: "the map, and a reader that stays keeps it so".into() })
    }
}

impl TableStore for LmdbTable {
    type Read<'a> = LmdbRead<'a>;

    fn read(&self) -> Result<LmdbRead<'_>, StorageError> {
        let inside = self.enter();
        let txn = self.inner.env.read_txn().map_err(|e| failed("starting a read", e))?;
        Ok(LmdbRead { txn, tables: &self.inner.tables, _inside: inside })
    }

    fn write(
        &self,
        size: WriteSize,
        body: &mut dyn FnMut(&mut dyn TableWrite) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        self.check_room(size)?;
        self.reserve(size)?;
        let mut has_advanced = false;
        loop {
            match self.try_write(body) {
                Ok(()) => return Ok(()),
                Err(WriteFailure::Other(error)) => return Err(error),
                Err(WriteFailure::MapFull) => match self.grow() {
                    Err(StorageError::Full { .. }) if !has_advanced && self.advance() => {
                        has_advanced = true;
                    }
                    grown => grown?,
                },
            }
        }
    }

    /// Pages are counted only where the file has once been as long as the limit.
    fn check_room(&self, size: WriteSize) -> Result<(), StorageError> {
        let limit = self.inner.map_bytes_max as u64;
        // Rows fill at least half of their pages.
        let rows = size.bytes + ROW_BYTES * size.operations;
        let needed = RESERVE_PAGES * PAGE_BYTES + 2 * rows;
        let has_room = size.makes_room
            || self.extent() + needed <= limit
            || self.used_bytes()? + needed <= limit;
        match has_room {
            true => Ok(()),
            false => Err(StorageError::Full { what: format!("the map, {limit} bytes") }),
        }
    }
}

/// Why a transaction did not commit.
enum WriteFailure {
    /// Nothing was written: grow and try again.
    MapFull,
    Other(StorageError),
}

impl From<StorageError> for WriteFailure {
    fn from(error: StorageError) -> Self {
        Self::Other(error)
    }
}

/// A read transaction of LMDB.
pub struct LmdbRead<'a> {
    // Dropped in this order: the transaction ends before growth may start.
    txn: RoTxn<'a, WithoutTls>,
    tables: &'a [Rows],
    _inside: RwLockReadGuard<'a, ()>,
}

impl TableRead for LmdbRead<'_> {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<&[u8]>, StorageError> {
        self.tables[table.0].get(&self.txn, key).map_err(|e| failed("reading", e))
    }

    fn scan(
        &self,
        table: TableId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError> {
        scan_rows(self.tables[table.0], &self.txn, (from, to), reverse, visit)
    }
}

struct LmdbWrite<'a> {
    txn: RwTxn<'a>,
    tables: &'a [Rows],
    map_full: bool,
}

impl LmdbWrite<'_> {
    fn checked(&mut self, result: heed::Result<()>) -> Result<(), StorageError> {
        result.map_err(|error| {
            self.map_full |= matches!(error, heed::Error::Mdb(MdbError::MapFull));
            match error {
                // Found before the commit: the transaction is aborted and leaves nothing.
                heed::Error::Mdb(MdbError::TxnFull) => {
                    StorageError::Full { what: "a single transaction".into() }
                }
                error => failed("writing", error),
            }
        })
    }
}

impl TableRead for LmdbWrite<'_> {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<&[u8]>, StorageError> {
        self.tables[table.0].get(&self.txn, key).map_err(|e| failed("reading", e))
    }

    fn scan(
        &self,
        table: TableId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError> {
        scan_rows(self.tables[table.0], &self.txn, (from, to), reverse, visit)
    }
}

impl TableWrite for LmdbWrite<'_> {
    fn put(&mut self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let result = self.tables[table.0].put(&mut self.txn, key, value);
        self.checked(result)
    }

    fn append(&mut self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let rows = self.tables[table.0];
        let result = rows.put_with_flags(&mut self.txn, PutFlags::APPEND, key, value);
        self.checked(result)
    }

    fn delete(&mut self, table: TableId, key: &[u8]) -> Result<(), StorageError> {
        let result = self.tables[table.0].delete(&mut self.txn, key).map(|_| ());
        self.checked(result)
    }
}

fn create_tables(env: &Env<WithoutTls>, names: &[&str]) -> Result<Vec<Rows>, StorageError> {
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        let txn = env.write_txn().map_err(|e| failed("creating tables", e))?;
        let created = env.create_databases_and_commit(txn, |opener, txn| {
            opener.create_database::<Raw, Raw>(txn, Some(name)).map(CommitOrAbort::<_, ()>::Commit)
        });
        tables.push(created.map_err(|e| failed("creating tables", e))?.unwrap_commit());
    }
    Ok(tables)
}

fn scan_rows(
    rows: Rows,
    txn: &RoTxn<'_, WithoutTls>,
    range: (Bound<&[u8]>, Bound<&[u8]>),
    reverse: bool,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), StorageError> {
    if is_empty_range(range.0, range.1) {
        return Ok(());
    }
    let scan_failed = |e| failed("scanning", e);
    if reverse {
        for row in rows.rev_range(txn, &range).map_err(scan_failed)? {
            let (key, value) = row.map_err(scan_failed)?;
            if !visit(key, value) {
                break;
            }
        }
    } else {
        for row in rows.range(txn, &range).map_err(scan_failed)? {
            let (key, value) = row.map_err(scan_failed)?;
            if !visit(key, value) {
                break;
            }
        }
    }
    Ok(())
}

fn failed(doing: &'static str, source: heed::Error) -> StorageError {
    StorageError::Io { doing, source: Box::new(source) }
}

fn failed_io(doing: &'static str, source: io::Error) -> StorageError {
    StorageError::Io { doing, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: TableId = TableId(0);

    fn open(dir: &Path, options: &LmdbOptions) -> LmdbTable {
        LmdbTable::open(dir, &["rows", "more"], options, None).unwrap()
    }

    fn put(store: &LmdbTable, key: u64, value: &[u8]) -> Result<(), StorageError> {
        let mut size = WriteSize::default();
        size.add(&key.to_be_bytes(), value);
        store.write(size, &mut |write| write.append(ROWS, &key.to_be_bytes(), value))
    }

    fn keys(store: &LmdbTable) -> Vec<u64> {
        let mut keys = Vec::new();
        let visit = &mut |key: &[u8], _: &[u8]| {
            keys.push(u64::from_be_bytes(key.try_into().unwrap()));
            true
        };
        let read = store.read().unwrap();
        read.scan(ROWS, Bound::Unbounded, Bound::Unbounded, false, visit).unwrap();
        keys
    }

    #[test]
    fn the_map_grows_by_itself_and_what_was_written_survives() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &LmdbOptions::tiny());
        let value = vec![7; 256 << 10];
        (0..20).for_each(|key| put(&store, key, &value).unwrap());
        assert!(store.map_bytes() >= 5 << 20);
        let used = store.used_bytes().unwrap();
        assert!((5 << 20..6 << 20).contains(&used), "{used}");
        drop(store);
        let store = open(dir.path(), &LmdbOptions::tiny());
        assert_eq!(keys(&store), (0..20).collect::<Vec<_>>());
        assert_eq!(store.read().unwrap().get(ROWS, &3u64.to_be_bytes()).unwrap(), Some(&*value));
    }

    #[test]
    fn a_full_map_is_full_loses_nothing_and_recovers_when_rows_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let options = LmdbOptions { map_bytes_max: 2 << 20, ..LmdbOptions::tiny() };
        let store = open(dir.path(), &options);
        let value = vec![7; 128 << 10];
        let written = (0..100).take_while(|key| put(&store, *key, &value).is_ok()).count() as u64;
        assert!((5..16).contains(&written), "{written}");
        assert!(matches!(put(&store, 100, &value), Err(StorageError::Full { .. })));
        assert_eq!(keys(&store), (0..written).collect::<Vec<_>>());
        let mut delete = |write: &mut dyn TableWrite| {
            (0..4u64).try_for_each(|key| write.delete(ROWS, &key.to_be_bytes()))
        };
        store.write(WriteSize::MAKES_ROOM, &mut delete).unwrap();
        put(&store, 200, &value).unwrap();
        assert_eq!(keys(&store), (4..written).chain([200]).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_from_the_body_aborts() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &LmdbOptions::tiny());
        let failed = store.write(WriteSize::default(), &mut |write| {
            write.put(ROWS, b"12345678", b"value")?;
            Err(StorageError::Poisoned)
        });
        assert!(matches!(failed, Err(StorageError::Poisoned)));
        assert!(keys(&store).is_empty());
    }

    #[test]
    fn a_read_within_a_read_does_not_block_growth_for_ever_nor_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &LmdbOptions::tiny());
        put(&store, 0, b"first").unwrap();
        let outer = store.read().unwrap();
        let writer = store.clone();
        let (started, wait) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            started.send(()).unwrap();
            put(&writer, 1, &vec![7; 2 << 20])
        });
        wait.recv().unwrap();
        for _ in 0..1000 {
            let inner = store.read().unwrap();
            assert_eq!(inner.get(ROWS, &0u64.to_be_bytes()).unwrap(), Some(&b"first"[..]));
        }
        drop(outer);
        thread.join().unwrap().unwrap();
        assert_eq!(keys(&store), [0, 1]);
    }

    /// A file system of 4 MiB, unmounted when dropped. `None` without the right to mount.
    struct SmallDisk {
        dir: tempfile::TempDir,
    }

    impl SmallDisk {
        fn mount() -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let mut mount = std::process::Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path());
            let is_mounted = mount.output().is_ok_and(|output| output.status.success());
            is_mounted.then_some(Self { dir })
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg(self.dir.path()).status();
        }
    }

    #[test]
    fn a_full_disk_is_full_loses_nothing_and_recovers_when_space_is_freed() {
        let Some(disk) = SmallDisk::mount() else {
            eprintln!("SKIPPED: a full disk needs root, to mount a small tmpfs");
            return;
        };
        let ballast = disk.dir.path().join("ballast");
        std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
        let path = disk.dir.path().join("env");
        std::fs::create_dir(&path).unwrap();
        let store = open(&path, &LmdbOptions::tiny());
        let value = vec![7; 64 << 10];
        let written = (0..100).take_while(|key| put(&store, *key, &value).is_ok()).count() as u64;
        assert!((20..48).contains(&written), "{written}");
        assert!(matches!(put(&store, written, &value), Err(StorageError::Full { .. })));
        assert_eq!(keys(&store), (0..written).collect::<Vec<_>>());
        std::fs::remove_file(&ballast).unwrap();
        (written..written + 8).for_each(|key| put(&store, key, &value).unwrap());
        drop(store);
        assert_eq!(keys(&open(&path, &LmdbOptions::tiny())), (0..written + 8).collect::<Vec<_>>());
    }

    #[test]
    fn presizing_leaves_space_that_later_writes_use() {
        let dir = tempfile::tempdir().unwrap();
        let options =
            LmdbOptions { map_bytes: 64 << 20, presize_bytes: 8 << 20, ..LmdbOptions::tiny() };
        let store = open(dir.path(), &options);
        // Pages freed by the transaction just before cannot be used yet.
        put(&store, 0, b"first").unwrap();
        let before = store.inner.env.info().last_page_number;
        (1..16).for_each(|key| put(&store, key, &vec![7; 256 << 10]).unwrap());
        assert_eq!(store.inner.env.info().last_page_number, before);
    }
}
