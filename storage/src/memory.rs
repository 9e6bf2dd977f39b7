//! Tables in memory, on a disk that fails when told to.
//!
//! Every clone is a handle of the same disk, so a test "restarts" by opening a journal or a state
//! store on a clone. Faults are switched on from outside; latency is left to the caller.
//!
//! Promise: without a fault it behaves as `LmdbTable` does, snapshots included.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polyraft_core::ports::StorageError;

use crate::table::{TableId, TableRead, TableStore, TableWrite, WriteSize, is_empty_range};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is left of a commit that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedCommit {
    /// Nothing: the next restart finds the state before it.
    Lost,
    /// Everything, although the caller was told that it failed: the next restart finds it.
    Written,
}

/// Operations since the disk was made. Counters only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryStats {
    /// Transactions committed.
    pub commits: u64,
    /// Keys put, in committed and failed transactions.
    pub puts: u64,
    /// Bytes of the keys and values put.
    pub put_bytes: u64,
    /// Keys deleted, in committed and failed transactions.
    pub deletes: u64,
}

/// Ordered tables in memory, with fault switches.
#[derive(Debug, Clone)]
pub struct MemoryTable {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    tables: Vec<Arc<Rows>>,
    stats: MemoryStats,
    next_commit: Option<FailedCommit>,
    full: bool,
    hold_syncs: bool,
    /// How to take back, newest last, what was committed but never synced.
    unsynced: Vec<Undo>,
}

/// A row's table, key and value before a change.
type Undo = (TableId, Vec<u8>, Option<Vec<u8>>);

impl MemoryTable {
    /// An empty disk with `tables` tables.
    pub fn new(tables: usize) -> Self {
        let disk = Disk { tables: vec![Arc::default(); tables], ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Makes the next commit fail, leaving behind what `outcome` says.
    pub fn fail_next_commit(&self, outcome: FailedCommit) {
        self.lock().next_commit = Some(outcome);
    }

    /// Makes every write fail as full, or heals that.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Takes back every fault that was switched on and has not happened, and frees a full disk.
    pub fn heal(&self) {
        let mut disk = self.lock();
        (disk.next_commit, disk.full) = (None, false);
    }

    /// While `true`, commits report success without being synced: a disk that lies.
    pub fn hold_syncs(&self, hold: bool) {
        let mut disk = self.lock();
        disk.hold_syncs = hold;
        if !hold {
            disk.unsynced.clear();
        }
    }

    /// A power cut: takes back every commit that was not synced.
    pub fn lose_unsynced(&self) {
        let mut disk = self.lock();
        let undo = std::mem::take(&mut disk.unsynced);
        disk.take_back(undo);
    }

    /// Flips one bit of the value of `key`; `bit` counts from the lowest bit of the first byte.
    /// Returns whether there is such a bit.
    pub fn flip_bit(&self, table: TableId, key: &[u8], bit: usize) -> bool {
        let mut disk = self.lock();
        let rows = Arc::make_mut(&mut disk.tables[table.0]);
        match rows.get_mut(key).and_then(|value| value.get_mut(bit / 8)) {
            Some(byte) => {
                *byte ^= 1 << (bit % 8);
                true
            }
            None => false,
        }
    }

    /// Every key of a table, ascending, with the length of its value in bytes.
    pub fn rows(&self, table: TableId) -> Vec<(Vec<u8>, usize)> {
        self.lock().tables[table.0].iter().map(|(k, v)| (k.clone(), v.len())).collect()
    }

    /// Operations so far.
    pub fn stats(&self) -> MemoryStats {
        self.lock().stats
    }

    /// A disk of its own with the same rows and no faults.
    #[must_use]
    pub fn copy(&self) -> Self {
        let disk = Disk { tables: self.lock().tables.clone(), ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn take_back(&mut self, undo: Vec<Undo>) {
        for (table, key, value) in undo.into_iter().rev() {
            let rows = Arc::make_mut(&mut self.tables[table.0]);
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }
}

impl TableStore for MemoryTable {
    type Read<'a> = MemorySnapshot;

    fn read(&self) -> Result<MemorySnapshot, StorageError> {
        Ok(MemorySnapshot { tables: self.lock().tables.clone() })
    }

    fn write(
        &self,
        _size: WriteSize,
        body: &mut dyn FnMut(&mut dyn TableWrite) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut disk = self.lock();
        if disk.full {
            return Err(StorageError::Full { what: "the simulated disk".into() });
        }
        let mut write = MemoryWrite { disk: &mut disk, undo: Vec::new() };
        let result = body(&mut write);
        let undo = write.undo;
        if let Err(error) = result {
            disk.take_back(undo);
            return Err(error);
        }
        match disk.next_commit.take() {
            Some(FailedCommit::Lost) => disk.take_back(undo),
            Some(FailedCommit::Written) => {}
            None => {
                disk.stats.commits += 1;
                if disk.hold_syncs {
                    disk.unsynced.extend(undo);
                }
                return Ok(());
            }
        }
        let source = std::io::Error::other("simulated sync failure");
        Err(StorageError::Io { doing: "committing to memory", source: Box::new(source) })
    }

    /// It has no limit: a disk that is full is met by the write.
    fn check_room(&self, _: WriteSize) -> Result<(), StorageError> {
        Ok(())
    }
}

/// A snapshot of every table.
#[derive(Debug)]
pub struct MemorySnapshot {
    tables: Vec<Arc<Rows>>,
}

impl TableRead for MemorySnapshot {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<&[u8]>, StorageError> {
        Ok(self.tables[table.0].get(key).map(Vec::as_slice))
    }

    fn scan(
        &self,
        table: TableId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError> {
        scan_rows(&self.tables[table.0], from, to, reverse, visit);
        Ok(())
    }
}

struct MemoryWrite<'a> {
    disk: &'a mut Disk,
    undo: Vec<Undo>,
}

impl TableRead for MemoryWrite<'_> {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<&[u8]>, StorageError> {
        Ok(self.disk.tables[table.0].get(key).map(Vec::as_slice))
    }

    fn scan(
        &self,
        table: TableId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError> {
        scan_rows(&self.disk.tables[table.0], from, to, reverse, visit);
        Ok(())
    }
}

impl TableWrite for MemoryWrite<'_> {
    fn put(&mut self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.disk.stats.puts += 1;
        self.disk.stats.put_bytes += (key.len() + value.len()) as u64;
        let rows = Arc::make_mut(&mut self.disk.tables[table.0]);
        let before = rows.insert(key.to_vec(), value.to_vec());
        self.undo.push((table, key.to_vec(), before));
        Ok(())
    }

    fn append(&mut self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let last = self.disk.tables[table.0].last_key_value();
        assert!(last.is_none_or(|(last, _)| last.as_slice() < key), "append out of order");
        self.put(table, key, value)
    }

    fn delete(&mut self, table: TableId, key: &[u8]) -> Result<(), StorageError> {
        self.disk.stats.deletes += 1;
        let rows = Arc::make_mut(&mut self.disk.tables[table.0]);
        if let Some(before) = rows.remove(key) {
            self.undo.push((table, key.to_vec(), Some(before)));
        }
        Ok(())
    }
}

fn scan_rows(
    rows: &Rows,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
    reverse: bool,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) {
    if is_empty_range(from, to) {
        return;
    }
    let mut range = rows.range::<[u8], _>((from, to));
    while let Some((key, value)) = if reverse { range.next_back() } else { range.next() } {
        if !visit(key, value) {
            return;
        }
    }
}
