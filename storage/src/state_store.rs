//! The durable state of every group's state machine, and the buffers in front of it.
//!
//! ```text
//! reads:  active buffer → frozen buffer → durable base
//! writes: active buffer ─freeze→ frozen buffer ─flush (many groups, one transaction)→ base
//! ```
//!
//! Promise: a group's state and its applied index become durable together or not at all (AP-8);
//! flushing a buffer again, or after a later one, changes nothing. Keys of two groups never meet.
//! A row's checksum covers key and value: what is read is what was written, or `Corrupt` (ST-7).
//! LMDB's own pages have none: a row whose key was damaged may be taken for absent.
//! Not here: what the bytes mean; the log, which replays what a crash takes from the buffers.

use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, LogIndex, Term};
use polyraft_core::limits::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX};
use polyraft_core::ports::{GroupState, StateFlush, StateStore, StorageError};
use polyraft_core::state_machine::{State, StateError};

use crate::field_reader::{FieldReader, Malformed};
use crate::table::{TableId, TableRead, TableStore, TableWrite, WriteSize, is_empty_range};
use crate::write_buffer::WriteBuffer;

/// Tables of the state's store, in the order of these ids.
pub const STATE_TABLES: [&str; 2] = ["state", "applied"];
/// group (u64 big-endian), key → checksum, value.
pub const STATE: TableId = TableId(0);
/// group (u64 big-endian) → applied index and term.
pub const APPLIED: TableId = TableId(1);

const APPLIED_VERSION: u8 = 1;
const PREFIX_BYTES: usize = 8;
const FULL_KEY_BYTES_MAX: usize = PREFIX_BYTES + STATE_KEY_BYTES_MAX;
/// Rows that a reset deletes per transaction.
const RESET_ROWS: usize = 4096;

const _: () = assert!(FULL_KEY_BYTES_MAX <= 511, "LMDB's longest key");

/// The state of every group on a node. A cheap clone is another handle of the same store.
#[derive(Debug, Clone)]
pub struct TableStateStore<T> {
    table: T,
    is_poisoned: Arc<AtomicBool>,
}

impl<T: TableStore> TableStateStore<T> {
    /// Opens the state in `table`, a store with the tables of [`STATE_TABLES`].
    pub fn new(table: T) -> Self {
        Self { table, is_poisoned: Arc::default() }
    }

    /// The table under the state: to ask for its size.
    pub fn table(&self) -> &T {
        &self.table
    }

    /// Deletes all of a group's state, durably: before a quarantined replica is re-seeded under a new
    /// id. The group must not be open. A crash in between leaves a state that cannot be opened until
    /// this is called again.
    ///
    /// # Errors
    /// As for [`StateStore::flush`].
    pub fn reset(&self, group: GroupId) -> Result<(), StorageError> {
        let applied_key = group.get().to_be_bytes();
        let resetting = encode_applied(group, AppliedRow::Resetting);
        let mut first = WriteSize::default();
        first.add(&applied_key, &resetting);
        self.write(first, &mut |write| write.put(APPLIED, &applied_key, &resetting))?;
        loop {
            let keys = self.some_keys(group)?;
            if keys.is_empty() {
                break;
            }
            let operations = keys.len() as u64;
            let size = WriteSize { operations, ..WriteSize::MAKES_ROOM };
            self.write(size, &mut |write| {
                keys.iter().try_for_each(|key| write.delete(STATE, key))
            })?;
        }
        let last = WriteSize { operations: 1, ..WriteSize::MAKES_ROOM };
        self.write(last, &mut |write| write.delete(APPLIED, &applied_key))
    }

    fn some_keys(&self, group: GroupId) -> Result<Vec<Vec<u8>>, StorageError> {
        let mut keys = Vec::new();
        let from = FullKey::new(group, &[]);
        let to = group_end(group);
        let to = to.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_slice()));
        let from = Bound::Included(from.as_slice());
        self.table.read()?.scan(STATE, from, to, false, &mut |key, _| {
            keys.push(key.to_vec());
            keys.len() < RESET_ROWS
        })?;
        Ok(keys)
    }

    /// Runs a write transaction; any failure but `Full` poisons.
    fn write(
        &self,
        size: WriteSize,
        body: &mut dyn FnMut(&mut dyn TableWrite) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        if self.is_poisoned.load(Ordering::Acquire) {
            return Err(StorageError::Poisoned);
        }
        let result = self.table.write(size, body);
        if result.as_ref().is_err_and(|error| !crate::journal::is_full(error)) {
            self.is_poisoned.store(true, Ordering::Release);
        }
        result
    }
}

impl<T: TableStore> StateStore for TableStateStore<T> {
    fn open(&self, group: GroupId) -> Result<Box<dyn GroupState>, StorageError> {
        let read = self.table.read()?;
        let row = read.get(APPLIED, &group.get().to_be_bytes())?;
        let applied = match row.map(|row| decode_applied(group, row)).transpose() {
            Ok(Some(AppliedRow::Applied(index, term))) => (index, term),
            Ok(None) => (LogIndex::ZERO, Term::new(0)),
            Ok(Some(AppliedRow::Resetting)) => {
                let what = "state: its reset was interrupted".into();
                return Err(StorageError::Corrupt { group, what });
            }
            Err(rule) => return Err(StorageError::Corrupt { group, what: rule.to_string() }),
        };
        drop(read);
        Ok(Box::new(BufferedState {
            table: self.table.clone(),
            group,
            applied,
            durable: applied.0,
            active: WriteBuffer::default(),
            frozen: None,
            frozen_applied: applied.0,
        }))
    }

    fn flush(&self, flushes: &[StateFlush]) -> Result<usize, StorageError> {
        let mut size = WriteSize::default();
        for flush in flushes {
            size.operations += flush.writes.len() as u64 + 1;
            let values = flush.writes.iter().map(|(key, value)| {
                (PREFIX_BYTES + key.len() + 4 + value.as_ref().map_or(0, Bytes::len)) as u64
            });
            size.bytes += values.sum::<u64>();
        }
        let (mut value, mut damaged) = (Vec::new(), 0);
        self.write(size, &mut |write| {
            failpoint::hit(Step::FlushStart)?;
            damaged = 0;
            for flush in flushes {
                damaged += usize::from(flush_group(write, flush, &mut value)?);
            }
            Ok(failpoint::hit(Step::FlushInside)?)
        })?;
        failpoint::pass(Step::FlushCommitted);
        Ok(damaged)
    }
}

/// Returns whether the applied row was damaged: it went bad after the group was opened on it, and is
/// written anew, as all of it is known.
fn flush_group(
    write: &mut dyn TableWrite,
    flush: &StateFlush,
    stored: &mut Vec<u8>,
) -> Result<bool, StorageError> {
    let StateFlush { group, applied, applied_term, writes } = flush;
    let applied_key = group.get().to_be_bytes();
    let row = write.get(APPLIED, &applied_key)?.map(|row| decode_applied(*group, row));
    if matches!(row, Some(Ok(AppliedRow::Applied(durable, _))) if durable > *applied) {
        return Ok(false);
    }
    let is_damaged = matches!(row, Some(Err(_)));
    for (key, value) in writes.iter() {
        let key = FullKey::new(*group, key);
        match value {
            Some(value) => {
                stored.clear();
                stored.extend_from_slice(&value_crc(key.as_slice(), value).to_le_bytes());
                stored.extend_from_slice(value);
                write.put(STATE, key.as_slice(), stored)?;
            }
            None => write.delete(STATE, key.as_slice())?,
        }
    }
    let row = encode_applied(*group, AppliedRow::Applied(*applied, *applied_term));
    write.put(APPLIED, &applied_key, &row)?;
    Ok(is_damaged)
}

/// One group's state: two buffers over the durable base.
#[derive(Debug)]
struct BufferedState<T> {
    table: T,
    group: GroupId,
    applied: (LogIndex, Term),
    durable: LogIndex,
    active: WriteBuffer,
    frozen: Option<StateFlush>,
    /// The applied index as of the last freeze.
    frozen_applied: LogIndex,
}

impl<T: TableStore> BufferedState<T> {
    fn corrupt(&self, rule: Malformed) -> StateError {
        StorageError::Corrupt { group: self.group, what: rule.to_string() }.into()
    }
}

impl<T: TableStore> State for BufferedState<T> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        check_key(key)?;
        if let Some(value) = self.active.writes().get(key) {
            return Ok(value.clone());
        }
        if let Some(value) = self.frozen.as_ref().and_then(|frozen| frozen.writes.get(key)) {
            return Ok(value.clone());
        }
        let key = FullKey::new(self.group, key);
        let read = self.table.read()?;
        let stored = read.get(STATE, key.as_slice())?;
        let value = stored.map(|stored| checked_value(key.as_slice(), stored)).transpose();
        Ok(value.map_err(|rule| self.corrupt(rule))?.map(Bytes::copy_from_slice))
    }

    fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), StateError> {
        check_key(key)?;
        if value.len() > STATE_VALUE_BYTES_MAX {
            return Err(StateError::ValueSize { bytes: value.len() });
        }
        self.active.write(Bytes::copy_from_slice(key), Some(value));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        check_key(key)?;
        self.active.write(Bytes::copy_from_slice(key), None);
        Ok(())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &Bytes) -> bool,
    ) -> Result<(), StateError> {
        if is_empty_range(from, to) {
            return Ok(());
        }
        let frozen = self.frozen.as_ref().map(|frozen| frozen.writes.range::<[u8], _>((from, to)));
        let mut buffered = Layers {
            upper: Directed { range: self.active.writes().range::<[u8], _>((from, to)), reverse }
                .peekable(),
            lower: Directed { range: frozen.unwrap_or_default(), reverse }.peekable(),
            reverse,
        }
        .peekable();
        let mut damage = None;
        let mut wants_more = true;
        let base = BaseRange::new(self.group, from, to);
        let read = self.table.read()?;
        read.scan(STATE, base.from(), base.to(), reverse, &mut |full_key, stored| {
            let key = full_key.get(PREFIX_BYTES..).unwrap_or_default();
            while wants_more {
                let Some((next, value)) =
                    buffered.next_if(|(next, _)| !is_after(next, key, reverse))
                else {
                    break;
                };
                wants_more = value.as_ref().is_none_or(|value| visit(next, value));
                if next == key {
                    return wants_more;
                }
            }
            if wants_more {
                match checked_value(full_key, stored) {
                    Ok(value) => wants_more = visit(key, &Bytes::copy_from_slice(value)),
                    Err(rule) => damage = Some(rule),
                }
            }
            wants_more && damage.is_none()
        })?;
        drop(read);
        if let Some(rule) = damage {
            return Err(self.corrupt(rule));
        }
        while wants_more && let Some((key, value)) = buffered.next() {
            wants_more = value.as_ref().is_none_or(|value| visit(key, value));
        }
        Ok(())
    }
}

impl<T: TableStore> GroupState for BufferedState<T> {
    fn applied(&self) -> (LogIndex, Term) {
        self.applied
    }

    fn durable_applied(&self) -> LogIndex {
        self.durable
    }

    fn set_applied(&mut self, index: LogIndex, term: Term) {
        let (group, applied) = (self.group, self.applied.0);
        assert!(index >= applied, "group {group}: applied {index} after {applied}");
        self.applied = (index, term);
        self.active.mark_applied();
    }

    fn begin(&mut self) {
        self.active.begin();
    }

    fn rollback(&mut self) {
        self.active.rollback();
    }

    fn buffered_bytes(&self) -> usize {
        self.active.bytes()
    }

    fn freeze(&mut self) -> Option<StateFlush> {
        let (applied, applied_term) = self.applied;
        if self.frozen.is_some() || applied == self.frozen_applied {
            return None;
        }
        let writes = Arc::new(self.active.freeze());
        let flush = StateFlush { group: self.group, applied, applied_term, writes };
        self.frozen_applied = applied;
        self.frozen = Some(flush.clone());
        Some(flush)
    }

    fn flushed(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            self.durable = frozen.applied;
        }
    }
}

/// A buffer's range, in either direction.
struct Directed<'a> {
    range: btree_map::Range<'a, Bytes, Option<Bytes>>,
    reverse: bool,
}

impl<'a> Iterator for Directed<'a> {
    type Item = (&'a Bytes, &'a Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.reverse { self.range.next_back() } else { self.range.next() }
    }
}

/// The active buffer over the frozen one.
struct Layers<'a> {
    upper: Peekable<Directed<'a>>,
    lower: Peekable<Directed<'a>>,
    reverse: bool,
}

impl<'a> Iterator for Layers<'a> {
    type Item = (&'a Bytes, &'a Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        let (Some((upper, _)), Some((lower, _))) = (self.upper.peek(), self.lower.peek()) else {
            return self.upper.next().or_else(|| self.lower.next());
        };
        if upper == lower {
            self.lower.next();
        } else if is_after(upper, lower, self.reverse) {
            return self.lower.next();
        }
        self.upper.next()
    }
}

/// Whether `key` comes after `other` in the direction of the scan.
fn is_after(key: &[u8], other: &[u8], reverse: bool) -> bool {
    if reverse { key < other } else { key > other }
}

/// A key under its group's prefix, without allocating.
struct FullKey {
    bytes: [u8; FULL_KEY_BYTES_MAX],
    len: usize,
}

impl FullKey {
    /// `key` is at most [`STATE_KEY_BYTES_MAX`] bytes long: what is longer was refused before.
    fn new(group: GroupId, key: &[u8]) -> Self {
        let mut bytes = [0; FULL_KEY_BYTES_MAX];
        let len = PREFIX_BYTES + key.len();
        bytes[..PREFIX_BYTES].copy_from_slice(&group.get().to_be_bytes());
        bytes[PREFIX_BYTES..len].copy_from_slice(key);
        Self { bytes, len }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The bounds of a scan under a group's prefix; bounds may be longer than keys.
struct BaseRange {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

impl BaseRange {
    fn new(group: GroupId, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Self {
        let prefix = group.get().to_be_bytes();
        let full = |key: &[u8]| [&prefix, key].concat();
        let from = match from {
            Bound::Unbounded => Bound::Included(prefix.to_vec()),
            bound => bound.map(full),
        };
        let to = match to {
            Bound::Unbounded => group_end(group).map_or(Bound::Unbounded, Bound::Excluded),
            bound => bound.map(full),
        };
        Self { from, to }
    }

    fn from(&self) -> Bound<&[u8]> {
        self.from.as_ref().map(Vec::as_slice)
    }

    fn to(&self) -> Bound<&[u8]> {
        self.to.as_ref().map(Vec::as_slice)
    }
}

/// The first key after a group's; none for the last group there can be.
fn group_end(group: GroupId) -> Option<Vec<u8>> {
    group.get().checked_add(1).map(|next| next.to_be_bytes().to_vec())
}

fn check_key(key: &[u8]) -> Result<(), StateError> {
    match key.len() {
        1..=STATE_KEY_BYTES_MAX => Ok(()),
        bytes => Err(StateError::KeySize { bytes }),
    }
}

fn value_crc(full_key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(full_key), value)
}

fn checked_value<'a>(full_key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let (crc, value) = stored.split_first_chunk().ok_or(Malformed("state value cut short"))?;
    if u32::from_le_bytes(*crc) != value_crc(full_key, value) {
        return Err(Malformed("state value checksum"));
    }
    Ok(value)
}

/// What a group's row in the applied table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AppliedRow {
    Applied(LogIndex, Term),
    /// The group's state is being deleted.
    Resetting,
}

fn encode_applied(group: GroupId, row: AppliedRow) -> Vec<u8> {
    let (kind, index, term) = match row {
        AppliedRow::Applied(index, term) => (0, index.get(), term.get()),
        AppliedRow::Resetting => (1, 0, 0),
    };
    let mut out = vec![APPLIED_VERSION, 0, 0, 0, 0, kind];
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&term.to_le_bytes());
    let crc = applied_crc(group, &out);
    out[1..5].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode_applied(group: GroupId, row: &[u8]) -> Result<AppliedRow, Malformed> {
    let mut reader = FieldReader::new(row);
    let version = reader.u8()?;
    if reader.u32()? != applied_crc(group, row) {
        return Err(Malformed("applied row checksum"));
    }
    if version != APPLIED_VERSION {
        return Err(Malformed("applied row version"));
    }
    let kind = reader.u8()?;
    let (index, term) = (LogIndex::new(reader.u64()?), Term::new(reader.u64()?));
    reader.finish()?;
    match kind {
        0 => Ok(AppliedRow::Applied(index, term)),
        1 => Ok(AppliedRow::Resetting),
        _ => Err(Malformed("applied row kind")),
    }
}

/// Covers the group and everything but the checksum itself.
fn applied_crc(group: GroupId, row: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&group.get().to_be_bytes()), &row[..1]);
    crc32c::crc32c_append(crc, row.get(5..).unwrap_or_default())
}
