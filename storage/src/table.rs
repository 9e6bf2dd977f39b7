//! The inner port: a few ordered tables of bytes, changed by atomic and durable transactions.
//!
//! ```text
//! Journal, StateStore ──┬─ LmdbTable    (production; under the journal with a redo log before it)
//!                       └─ MemoryTable  (tests, simulation: a disk that can fail)
//! ```
//!
//! Promise: a transaction is durable as a whole when [`TableStore::write`] returns `Ok`, and a reader
//! sees all of it or none. [`StorageError::Full`] means that nothing was written.
//! Not here: what the bytes mean (`journal_record`, `state_store`).

use std::ops::Bound;

use polyraft_core::ports::StorageError;

/// One table of a store: its position in the list of names that the store was opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableId(pub(crate) usize);

/// An upper estimate of what a transaction writes, so that a full disk is found before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteSize {
    /// Bytes of all keys and values put.
    pub bytes: u64,
    /// Keys put or deleted.
    pub operations: u64,
    /// Whether the transaction may take from what is kept back for those that make room: without it,
    /// a full store could not even be emptied.
    pub makes_room: bool,
}

impl WriteSize {
    /// Nothing yet of a transaction that makes room.
    pub const MAKES_ROOM: Self = Self { bytes: 0, operations: 0, makes_room: true };

    /// Counts one more key, with the value it is set to.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.bytes += (key.len() + value.len()) as u64;
        self.operations += 1;
    }
}

/// Reads one consistent snapshot. Keep it short: a held snapshot keeps every page freed since.
pub trait TableRead {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the table cannot be read.
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<&[u8]>, StorageError>;

    /// Visits the pairs within the bounds in key order (descending if `reverse`), until `visit`
    /// returns `false`. Bounds that exclude everything visit nothing.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the table cannot be read.
    fn scan(
        &self,
        table: TableId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError>;
}

/// Changes made by one transaction.
pub trait TableWrite: TableRead {
    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// The transaction cannot go on; return the error from its body.
    fn put(&mut self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    /// Sets `key`, which is greater than every key of the table, to `value`.
    ///
    /// # Errors
    /// As for [`TableWrite::put`], and if the key is not the greatest.
    fn append(&mut self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    /// Removes `key`; an absent key is fine.
    ///
    /// # Errors
    /// As for [`TableWrite::put`].
    fn delete(&mut self, table: TableId, key: &[u8]) -> Result<(), StorageError>;
}

/// A store of ordered tables. A cheap clone is another handle of the same store.
pub trait TableStore: Clone + Send + Sync + 'static {
    /// A read transaction.
    type Read<'a>: TableRead
    where
        Self: 'a;

    /// Starts a read transaction: the state after the last committed write.
    ///
    /// # Errors
    /// [`StorageError::Io`] if no reader can be had.
    fn read(&self) -> Result<Self::Read<'_>, StorageError>;

    /// Runs `body` in a write transaction, then commits and syncs. `body` may run more than once
    /// (after the store has grown), each time from the same state; an `Err` from it aborts.
    ///
    /// # Errors
    /// [`StorageError::Full`]: nothing was written. Anything else from the commit: it may or may not
    /// have been written, and the caller must not go on.
    fn write(
        &self,
        size: WriteSize,
        body: &mut dyn FnMut(&mut dyn TableWrite) -> Result<(), StorageError>,
    ) -> Result<(), StorageError>;

    /// Whether there is room for a transaction of `size`, before anything depends on it.
    ///
    /// # Errors
    /// [`StorageError::Full`] if there is none; [`StorageError::Io`] if the store cannot be asked.
    fn check_room(&self, size: WriteSize) -> Result<(), StorageError>;

    /// Sets `key`, which is greater than every key that `table` ever had, to `value`, durably. The
    /// cheapest change there is.
    ///
    /// # Errors
    /// As for [`TableStore::write`].
    fn append(&self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let mut size = WriteSize::default();
        size.add(key, value);
        self.write(size, &mut |write| write.append(table, key, value))
    }
}

/// Whether no key can lie within the bounds. Ordered maps panic on some of these.
pub(crate) fn is_empty_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
        | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
    }
}
