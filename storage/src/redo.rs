//! Redo log: rows appended to a table are durable after one write, and reach the table later.
//!
//! ```text
//! append ─→ redo file (one write, durable) ─→ [pending]      read ─→ pending, then the table
//! write, or the file is full ─→ one transaction: pending → table, generation + 1, the caller's own
//! ```
//!
//! A transaction of LMDB takes two trips to the disk, pages and then the root; the journal's appends,
//! one for every group commit, need neither the order nor the tree. What was appended is never
//! changed by a transaction before it is in the table, so there is one order of changes.
//!
//! Promise: as [`TableStore`]'s. After a crash, [`Redo::open`] brings every durable row to the table.
//! Frames of an earlier generation are never taken for the present one's: the generation changes in
//! the transaction that moves them.
//! Not here: a frame's bytes (`redo_frame`), the file (`redo_file`).

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ports::StorageError;

use crate::journal::is_full;
pub use crate::redo_file::{BlockFile, RedoFile};
pub use crate::redo_frame::{BLOCK_BYTES, Block};
use crate::redo_frame::{blocks_of, encode, recover};
use crate::table::{TableId, TableRead, TableStore, TableWrite, WriteSize, is_empty_range};

/// A row that takes more than this share of the file is written through: it is worth a transaction.
const WRITE_THROUGH_SHARE: usize = 2;
/// The key of the present generation.
const GENERATION: &[u8] = b"generation";

/// Which tables of a store have which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedoTables {
    /// Rows appended to this one go through the redo log.
    pub appended: TableId,
    /// Holds the log's generation, and nothing else.
    pub generation: TableId,
}

/// A store of tables with a redo log before one of them.
#[derive(Debug)]
pub struct Redo<T, F = RedoFile> {
    inner: Arc<Inner<T, F>>,
}

impl<T, F> Clone for Redo<T, F> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[derive(Debug)]
struct Inner<T, F> {
    table: T,
    tables: RedoTables,
    /// Rows that are durable in the file only. A reader keeps the map as it was.
    pending: RwLock<Arc<Pending>>,
    writer: Mutex<Writer<F>>,
}

/// Rows of the file, and the generation in which they are not in the table.
#[derive(Debug, Clone, Default)]
struct Pending {
    generation: u64,
    rows: BTreeMap<Box<[u8]>, Bytes>,
}

/// Where the next frame goes.
#[derive(Debug)]
struct Writer<F> {
    file: F,
    generation: u64,
    ordinal: u64,
    /// In blocks.
    at: usize,
    buffer: Vec<Block>,
    /// A write failed: what the file holds, or the table, or which generation it is, is unknown.
    is_broken: bool,
}

impl<T: TableStore, F: BlockFile> Redo<T, F> {
    /// Opens the log at `place` before `table`, and brings to the table what is only in the log. A new
    /// store gets a log of `bytes`; an existing one keeps its own.
    ///
    /// # Errors
    /// [`StorageError::Io`] if either cannot be read or written, or if the log of an existing store is
    /// gone; [`StorageError::Full`] if there is no space.
    pub fn open(
        table: T,
        tables: RedoTables,
        place: &F::Place,
        bytes: usize,
    ) -> Result<Self, StorageError> {
        let known = generation(&table.read()?, tables)?;
        if known == 0 {
            // Nothing was acknowledged yet: what is there is of a store that is gone.
            F::create(place, bytes.div_ceil(BLOCK_BYTES))?;
        } else if !F::exists(place) {
            let what = format!("{place:?} is missing, and may hold acknowledged writes");
            let source = Box::new(io::Error::new(io::ErrorKind::NotFound, what));
            return Err(StorageError::Io { doing: "opening the redo log", source });
        }
        let (file, bytes) = F::open(place)?;
        let rows: BTreeMap<_, _> =
            recover(&bytes, known).into_iter().map(|row| (row.key, row.value)).collect();
        if !rows.is_empty() {
            tracing::info!(rows = rows.len(), "rows of the redo log brought to their table");
        }
        // Until the table has the rows, nothing is written behind them.
        let at = file.blocks();
        let buffer = Vec::new();
        let writer = Writer { file, generation: known, ordinal: 0, at, buffer, is_broken: false };
        let pending = RwLock::new(Arc::new(Pending { generation: known, rows }));
        let inner = Inner { table, tables, pending, writer: Mutex::new(writer) };
        let redo = Self { inner: Arc::new(inner) };
        let settled =
            redo.inner.settle(&mut redo.inner.writer(), WriteSize::MAKES_ROOM, &mut |_| Ok(()));
        match settled {
            // A full disk can be read, and is emptied by whoever reads it.
            Err(error) if !is_full(&error) => Err(error),
            _ => Ok(redo),
        }
    }

    /// The table behind the log, without what is pending.
    pub fn table(&self) -> &T {
        &self.inner.table
    }
}

impl<T: TableStore, F: BlockFile> Inner<T, F> {
    fn writer(&self) -> MutexGuard<'_, Writer<F>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> Arc<Pending> {
        Arc::clone(&self.pending.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings what is pending to the table and starts the next generation, in one transaction with
    /// `body`, which sees it there.
    fn settle(
        &self,
        writer: &mut Writer<F>,
        mut size: WriteSize,
        body: &mut dyn FnMut(&mut dyn TableWrite) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        failpoint::hit(Step::SettleStart)?;
        let RedoTables { appended, generation } = self.tables;
        let pending = self.pending();
        let next = generation_row(writer.generation + 1);
        let rows = &pending.rows;
        rows.iter().for_each(|(key, value)| size.add(key, value));
        size.add(GENERATION, &next);
        self.write_table(writer, size, &mut |write| {
            rows.iter().try_for_each(|(key, value)| write.append(appended, key, value))?;
            write.put(generation, GENERATION, &next)?;
            failpoint::hit(Step::SettleInside)?;
            body(write)
        })?;
        failpoint::pass(Step::SettleCommitted);
        writer.generation += 1;
        (writer.ordinal, writer.at) = (0, 0);
        let empty = Pending { generation: writer.generation, rows: BTreeMap::new() };
        *self.pending.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(empty);
        Ok(())
    }

    /// After a failure but `Full` it is unknown which generation the table has: a frame of the wrong
    /// one would be forgotten.
    fn write_table(
        &self,
        writer: &mut Writer<F>,
        size: WriteSize,
        body: &mut dyn FnMut(&mut dyn TableWrite) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        writer.is_broken = true;
        let result = self.table.write(size, body);
        writer.is_broken = matches!(&result, Err(error) if !is_full(error));
        result
    }

    /// What a reader sees that took `pending` first and the snapshot `table` then. If a transaction
    /// came between, the snapshot has it all.
    fn view<R: TableRead>(
        &self,
        mut pending: Arc<Pending>,
        table: R,
    ) -> Result<RedoRead<R>, StorageError> {
        if !pending.rows.is_empty() && generation(&table, self.tables)? != pending.generation {
            pending = Arc::default();
        }
        Ok(RedoRead { appended: self.tables.appended, pending, table })
    }

    fn append(&self, writer: &mut Writer<F>, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let blocks = blocks_of(key, value);
        // What is acknowledged has a place in the table, so that the log can always be emptied.
        let bytes = ((writer.at + blocks) * BLOCK_BYTES) as u64;
        let operations = writer.ordinal + 1;
        self.table.check_room(WriteSize { bytes, operations, makes_room: false })?;
        if blocks > writer.file.blocks() / WRITE_THROUGH_SHARE {
            let mut size = WriteSize::MAKES_ROOM;
            size.add(key, value);
            let appended = self.tables.appended;
            return self.settle(writer, size, &mut |write| write.append(appended, key, value));
        }
        if writer.at + blocks > writer.file.blocks() {
            self.settle(writer, WriteSize::MAKES_ROOM, &mut |_| Ok(()))?;
        }
        encode(&mut writer.buffer, (writer.generation, writer.ordinal), key, value);
        writer.is_broken = true;
        failpoint::hit(Step::RedoWrite)?;
        writer.file.write(writer.at, &writer.buffer)?;
        failpoint::hit(Step::RedoWritten)?;
        writer.is_broken = false;
        writer.ordinal += 1;
        writer.at += blocks;
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut pending).rows.insert(key.into(), Bytes::copy_from_slice(value));
        Ok(())
    }
}

fn generation(read: &impl TableRead, tables: RedoTables) -> Result<u64, StorageError> {
    let Some(row) = read.get(tables.generation, GENERATION)? else { return Ok(0) };
    let decoded = row.split_first_chunk().map(|(bytes, _)| u64::from_be_bytes(*bytes));
    decoded.filter(|generation| row == generation_row(*generation)).ok_or_else(|| {
        let source = Box::new(io::Error::from(io::ErrorKind::InvalidData));
        StorageError::Io { doing: "reading the redo log's generation", source }
    })
}

/// With a checksum: under a wrong generation, every row of the file would be forgotten.
fn generation_row(generation: u64) -> [u8; 12] {
    let mut row = [0; 12];
    row[..8].copy_from_slice(&generation.to_be_bytes());
    let crc = crc32c::crc32c(&row[..8]);
    row[8..].copy_from_slice(&crc.to_le_bytes());
    row
}

impl<T: TableStore, F: BlockFile> TableStore for Redo<T, F> {
    type Read<'a> = RedoRead<T::Read<'a>>;

    fn read(&self) -> Result<Self::Read<'_>, StorageError> {
        let pending = self.inner.pending();
        self.inner.view(pending, self.inner.table.read()?)
    }

    fn write(
        &self,
        size: WriteSize,
        body: &mut dyn FnMut(&mut dyn TableWrite) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut writer = self.inner.writer();
        match writer.is_broken {
            true => Err(StorageError::Poisoned),
            false if self.inner.pending().rows.is_empty() => {
                self.inner.write_table(&mut writer, size, body)
            }
            false => self.inner.settle(&mut writer, size, body),
        }
    }

    fn check_room(&self, size: WriteSize) -> Result<(), StorageError> {
        self.inner.table.check_room(size)
    }

    fn append(&self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        assert_eq!(table, self.inner.tables.appended, "the log is before another table");
        let mut writer = self.inner.writer();
        if writer.is_broken {
            return Err(StorageError::Poisoned);
        }
        self.inner.append(&mut writer, key, value)
    }
}

/// Reads the table and what is pending before it.
pub struct RedoRead<R> {
    appended: TableId,
    pending: Arc<Pending>,
    table: R,
}

impl<R> RedoRead<R> {
    /// The pending row of a key, if its table has any.
    fn pending(&self, table: TableId, key: &[u8]) -> Option<&[u8]> {
        let pending = (table == self.appended).then(|| self.pending.rows.get(key))?;
        pending.map(|value| &value[..])
    }
}

impl<R: TableRead> TableRead for RedoRead<R> {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<&[u8]>, StorageError> {
        match self.pending(table, key) {
            Some(value) => Ok(Some(value)),
            None => self.table.get(table, key),
        }
    }

    /// What is pending is greater than all that is in the table.
    fn scan(
        &self,
        table: TableId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError> {
        if table != self.appended || self.pending.rows.is_empty() {
            return self.table.scan(table, from, to, reverse, visit);
        }
        if is_empty_range(from, to) {
            return Ok(());
        }
        let mut rows = self.pending.rows.range::<[u8], _>((from, to));
        let mut goes_on = true;
        if reverse {
            goes_on = rows.by_ref().rev().all(|(key, value)| visit(key, value));
        }
        if goes_on {
            self.table.scan(table, from, to, reverse, &mut |key, value| {
                goes_on = visit(key, value);
                goes_on
            })?;
        }
        if goes_on && !reverse {
            let _ = rows.all(|(key, value)| visit(key, value));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "redo_tests.rs"]
mod tests;
