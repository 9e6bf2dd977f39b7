//! The journal: every group's log on this node, one appended record per group commit.
//!
//! ```text
//! commit ─→ journal table: sequence → record      (one append, one sync, however many groups)
//!              │ garbage collection, oldest first
//!              ├─→ cold table: group, index → entry (what lagging groups still need)
//!              └─→ meta table: group → identity, hard state, configuration, compaction
//! ```
//!
//! Promise: a record is the unit of atomicity: truncation, append and compaction of all its groups
//! become durable together (ST-11). The cost of an append does not depend on the log's length (ST-4).
//! After a failed commit nothing is acknowledged again (ST-12); `Full` wrote nothing and may be retried.
//! A damaged byte quarantines its own group, which is never truncated (ST-7).
//! Not here: the record's bytes (`journal_record`), what is where (`journal_index`).

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use polyraft_core::entry::{CompactionPoint, LogEntry};
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, LogIndex};
use polyraft_core::ports::{
    CommitStats, GroupAppend, GroupIdentity, LogReader, LogStats, LogStore, RestoredLog,
    StorageError,
};
use polyraft_core::wire::ORDINAL_MAX;

use crate::field_reader::Malformed;
use crate::journal_gc;
use crate::journal_index::{GroupIndex, JournalIndex, LogShape, Place, Span};
use crate::journal_meta::decode_meta;
use crate::journal_record::{RawEntry, decode_block, decode_frames, encode_record, entries_at};
use crate::table::{TableId, TableRead, TableStore, WriteSize};

/// Tables of the log's store, in the order of these ids.
pub const LOG_TABLES: [&str; 4] = ["journal", "cold", "meta", "redo"];
/// sequence (u64 big-endian) → record.
pub const JOURNAL: TableId = TableId(0);
/// group, index (u64 big-endian each) → entry.
pub const COLD: TableId = TableId(1);
/// group (u64 big-endian) → meta row.
pub const META: TableId = TableId(2);
/// Key of a meta row that is no group's: a record was lost whose groups nobody knows.
pub(crate) const LOST_RECORD_KEY: &[u8] = b"lost";
/// The redo log's own; see `redo`.
pub const REDO: TableId = TableId(3);

/// How often a read starts over because garbage collection moved what it was about to read.
const READ_ATTEMPTS: usize = 16;

/// How a journal is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalOptions {
    /// Garbage is collected beyond this many bytes of records: what a start has to scan.
    pub journal_bytes_max: u64,
    /// Bytes of records that one piece of garbage collection deletes, but at least one record.
    pub gc_step_bytes: u64,
    /// Records that one piece deletes at most, and rows of the cold table.
    pub gc_step_rows: usize,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { journal_bytes_max: 128 << 20, gc_step_bytes: 2 << 20, gc_step_rows: 256 }
    }
}

impl JournalOptions {
    /// Limits that are hit within ten entries.
    pub fn tiny() -> Self {
        Self { journal_bytes_max: 1 << 10, gc_step_bytes: 256, gc_step_rows: 2 }
    }
}

/// The durable log of every group on a node.
#[derive(Debug)]
pub struct Journal<T> {
    pub(crate) shared: Arc<Shared<T>>,
    pub(crate) options: JournalOptions,
    pub(crate) next_sequence: u64,
    /// Sequence and bytes of every record, oldest first.
    pub(crate) records: VecDeque<(u64, u64)>,
    pub(crate) record_bytes: u64,
    /// Of the records that garbage collection removed.
    pub(crate) collected_bytes: u64,
    buffer: Vec<u8>,
}

/// What the writer and the readers share.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    pub table: T,
    /// A write failed: what the tables hold may not be what the index says.
    is_poisoned: AtomicBool,
    /// Held by garbage collection: meanwhile the tables may be ahead of the index.
    moving: Mutex<()>,
    index: RwLock<JournalIndex>,
}

impl<T: TableStore> Shared<T> {
    pub fn index(&self) -> RwLockReadGuard<'_, JournalIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for garbage collection that is under way.
    fn moving(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_poisoned(&self) -> bool {
        self.is_poisoned.load(Ordering::Acquire)
    }

    pub fn index_mut(&self) -> RwLockWriteGuard<'_, JournalIndex> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: TableStore> Journal<T> {
    /// Opens the journal in `table`, a store with the tables of [`LOG_TABLES`]: scans it once.
    /// Damaged groups are quarantined, not fatal.
    ///
    /// # Errors
    /// [`StorageError::Io`] if the tables cannot be read.
    pub fn open(table: T, options: JournalOptions) -> Result<Self, StorageError> {
        let mut index = JournalIndex::default();
        let mut records = VecDeque::new();
        {
            let read = table.read()?;
            let is_told = load_meta(&read, &mut index)?;
            replay(&read, is_told, &mut index, &mut records)?;
        }
        let known = index.groups.values().map(|group| group.meta_sequence).max().unwrap_or(0);
        let last = records.back().map_or(0, |(sequence, _)| *sequence);
        let record_bytes = records.iter().map(|(_, bytes)| bytes).sum();
        Ok(Self {
            shared: Arc::new(Shared {
                table,
                is_poisoned: AtomicBool::new(false),
                moving: Mutex::default(),
                index: RwLock::new(index),
            }),
            options,
            next_sequence: known.max(last) + 1,
            records,
            record_bytes,
            collected_bytes: 0,
            buffer: Vec::new(),
        })
    }

    /// The table under the journal: to open it again after its owner died, or to ask for its size.
    pub fn table(&self) -> &T {
        &self.shared.table
    }

    /// The quarantined groups and why, ascending.
    pub fn quarantined(&self) -> Vec<(GroupId, String)> {
        let index = self.shared.index();
        let damaged =
            index.groups.iter().filter_map(|(id, group)| Some((id, group.damage.clone()?)));
        damaged.map(|(id, reason)| (*id, reason)).collect()
    }

    /// Bytes of the records in the journal.
    pub fn journal_bytes(&self) -> u64 {
        self.record_bytes
    }

    /// Runs a write transaction; any failure but `Full` poisons.
    pub(crate) fn write(
        &mut self,
        size: WriteSize,
        body: &mut dyn FnMut(&mut dyn crate::table::TableWrite) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let result = self.shared.table.write(size, body);
        self.poison_on_failure(&result);
        result
    }

    fn poison_on_failure(&self, result: &Result<(), StorageError>) {
        if matches!(result, Err(error) if !is_full(error)) {
            self.shared.is_poisoned.store(true, Ordering::Release);
        }
    }

    fn commit_record(
        &mut self,
        plan: &[(&GroupAppend, bool)],
        makes_room: bool,
    ) -> Result<CommitStats, StorageError> {
        let sequence = self.next_sequence;
        let mut record = std::mem::take(&mut self.buffer);
        let blocks = encode_record(&mut record, sequence, plan);
        let key = sequence.to_be_bytes();
        let started = Instant::now();
        let table = &self.shared.table;
        let written = if makes_room {
            let mut size = WriteSize::MAKES_ROOM;
            size.add(&key, &record);
            table.write(size, &mut |write| write.append(JOURNAL, &key, &record))
        } else {
            table.append(JOURNAL, &key, &record)
        };
        let sync = started.elapsed();
        self.poison_on_failure(&written);
        let bytes = record.len() as u64;
        self.buffer = record;
        written?;
        failpoint::pass(Step::JournalAppended);
        let mut index = self.shared.index_mut();
        blocks.iter().for_each(|block| index.apply(block, sequence));
        drop(index);
        self.next_sequence += 1;
        self.records.push_back((sequence, bytes));
        self.record_bytes += bytes;
        let entries = plan.iter().map(|(append, _)| append.entries.len() as u64).sum();
        Ok(CommitStats { bytes, entries, sync })
    }
}

impl<T: TableStore> LogStore for Journal<T> {
    fn commit(&mut self, appends: &[GroupAppend]) -> Result<CommitStats, StorageError> {
        if self.shared.is_poisoned() {
            return Err(StorageError::Poisoned);
        }
        let plan = plan_commit(&self.shared.index(), appends)?;
        if plan.is_empty() {
            return Ok(CommitStats::default());
        }
        self.commit_record(&plan, false)
    }

    fn compact(&mut self, points: &[(GroupId, CompactionPoint)]) -> Result<(), StorageError> {
        if self.shared.is_poisoned() {
            return Err(StorageError::Poisoned);
        }
        let index = self.shared.index();
        let is_reached = |group: GroupId, point: CompactionPoint| {
            let Ok(GroupIndex { shape, .. }) = healthy(&index, group) else { return false };
            point.index > shape.compacted.index && !shape.resets_at(point)
        };
        let reached = points.iter().filter(|(group, point)| is_reached(*group, *point));
        let appends: Vec<_> = reached
            .map(|(group, point)| GroupAppend {
                compact: Some(*point),
                ..GroupAppend::empty(*group)
            })
            .collect();
        drop(index);
        if appends.is_empty() {
            return Ok(());
        }
        let plan: Vec<_> = appends.iter().map(|append| (append, false)).collect();
        self.commit_record(&plan, true).map(|_| ())
    }

    fn restore(&self, group: GroupId, applied: LogIndex) -> Result<RestoredLog, StorageError> {
        let mut restored = {
            let index = self.shared.index();
            let group_index = healthy(&index, group)?;
            let shape = &group_index.shape;
            RestoredLog {
                identity: group_index.identity.clone().expect("a healthy group has an identity"),
                hard_state: group_index.hard_state,
                configuration: group_index.configuration.clone(),
                compacted: shape.compacted,
                last: shape.last,
                term_runs: shape.runs.iter().copied().collect(),
                entries: Vec::new(),
            }
        };
        let start = applied.min(restored.last).max(restored.compacted.index).next();
        restored.entries = self.shared.entries(group, start..restored.last.next(), usize::MAX)?;
        Ok(restored)
    }

    fn groups(&self) -> Vec<(GroupId, GroupIdentity)> {
        let index = self.shared.index();
        index.groups.iter().filter_map(|(id, group)| Some((*id, group.identity.clone()?))).collect()
    }

    fn collect_garbage(&mut self) -> Result<bool, StorageError> {
        if self.shared.is_poisoned() {
            return Err(StorageError::Poisoned);
        }
        let shared = Arc::clone(&self.shared);
        let _moving = shared.moving();
        journal_gc::collect(self)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::clone(&self.shared) as Arc<dyn LogReader>
    }

    fn stats(&self) -> LogStats {
        LogStats {
            bytes: self.record_bytes,
            bytes_max: self.options.journal_bytes_max,
            collected_bytes: self.collected_bytes,
        }
    }
}

impl<T: TableStore> LogReader for Shared<T> {
    fn entries(
        &self,
        group: GroupId,
        range: Range<LogIndex>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let mut missing = Malformed("entry is missing");
        for _ in 0..READ_ATTEMPTS {
            // The places are looked up before the snapshot is taken: what is gone by then was moved.
            let spans = spans_of(&self.index(), group, &range)?;
            let mut out = EntryCollector { group, bytes_left: bytes_max, entries: Vec::new() };
            let read = self.table.read()?;
            match read_spans(&read, &spans, &mut out)? {
                Ok(()) => return Ok(out.entries),
                Err(rule) => missing = rule,
            }
            drop(read);
            // What was moved is found once the index says where it is.
            drop(self.moving());
            if spans_of(&self.index(), group, &range)? == spans {
                break;
            }
        }
        // A transaction that was said to fail may have moved what the index still points to.
        if self.is_poisoned() {
            return Err(StorageError::Poisoned);
        }
        Err(StorageError::Corrupt { group, what: missing.to_string() })
    }
}

/// Entries read so far, up to a byte limit.
struct EntryCollector {
    group: GroupId,
    bytes_left: usize,
    entries: Vec<LogEntry>,
}

impl EntryCollector {
    /// Takes one more entry; `false` if it does not fit any more.
    fn take(&mut self, raw: RawEntry<'_>) -> Result<bool, Malformed> {
        let entry = raw.check()?;
        let bytes = entry.charged_bytes();
        if bytes > self.bytes_left && !self.entries.is_empty() {
            return Ok(false);
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.entries.push(entry);
        Ok(true)
    }
}

/// Whether an error means that nothing was written.
pub(crate) fn is_full(error: &StorageError) -> bool {
    matches!(error, StorageError::Full { .. })
}

pub(crate) fn cold_key(group: GroupId, index: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&group.get().to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Checks what a commit asks for, before anything is written, and decides its compactions.
fn plan_commit<'a>(
    index: &JournalIndex,
    appends: &'a [GroupAppend],
) -> Result<Vec<(&'a GroupAppend, bool)>, StorageError> {
    let mut plan = Vec::with_capacity(appends.len());
    let mut staged: BTreeMap<GroupId, LogShape> = BTreeMap::new();
    let mut groups: Vec<_> = appends.iter().map(|append| append.group).collect();
    groups.sort_unstable();
    let is_repeated = groups.windows(2).any(|pair| pair[0] == pair[1]);
    let fresh = LogShape::default();
    for append in appends {
        let group = append.group;
        if *append == GroupAppend::empty(group) {
            continue;
        }
        let shape = match (&append.create, staged.get(&group)) {
            (Some(identity), _) => {
                check_create(index, group, identity);
                &fresh
            }
            (None, Some(shape)) => shape,
            (None, None) => &healthy(index, group)?.shape,
        };
        check_entries(append, shape);
        if !is_repeated && append.compact.is_none() {
            plan.push((append, false));
            continue;
        }
        let (after, resets) = after_append(append, shape.clone());
        staged.insert(group, after);
        plan.push((append, resets));
    }
    Ok(plan)
}

/// The log after `append`, and whether its compaction drops the whole log.
fn after_append(append: &GroupAppend, mut shape: LogShape) -> (LogShape, bool) {
    if let (Some(first), Some(last)) = (append.entries.first(), append.entries.last()) {
        let terms: Vec<_> = append.entries.iter().map(|entry| (entry.index, entry.term)).collect();
        shape.append(&(first.index..last.index.next()), &terms);
    }
    let Some(point) = append.compact else { return (shape, false) };
    let resets = shape.resets_at(point);
    shape.compact(crate::journal_record::Compaction { point, resets });
    (shape, resets)
}

/// A replica is created once: again under the same id, it would forget its vote.
fn check_create(index: &JournalIndex, group: GroupId, identity: &GroupIdentity) {
    let existing = index.groups.get(&group).and_then(|group| group.identity.as_ref());
    let is_new = existing.is_none_or(|existing| existing.replica != identity.replica);
    assert!(is_new, "group {group}: replica {} was created before", identity.replica);
}

fn check_entries(append: &GroupAppend, shape: &LogShape) {
    let Some(first) = append.entries.first().map(|entry| entry.index) else { return };
    let group = append.group;
    assert!(
        first >= shape.first() && first <= shape.last.next(),
        "group {group}: entry {first} appended to a log of {} to {}",
        shape.first(),
        shape.last
    );
    for (offset, entry) in append.entries.iter().enumerate() {
        let expected = first.get() + offset as u64;
        assert!(
            entry.index.get() == expected,
            "group {group}: entry {} after {expected}",
            entry.index
        );
    }
}

pub(crate) fn healthy(index: &JournalIndex, group: GroupId) -> Result<&GroupIndex, StorageError> {
    match index.groups.get(&group) {
        Some(GroupIndex { damage: Some(what), .. }) => {
            Err(StorageError::Corrupt { group, what: what.clone() })
        }
        Some(healthy) => Ok(healthy),
        None if index.lost_record => {
            Err(StorageError::Corrupt { group, what: "a record of unknown groups".into() })
        }
        None => Err(StorageError::UnknownGroup { group }),
    }
}

/// The spans that hold the live part of `range`, cut to it.
fn spans_of(
    index: &JournalIndex,
    group: GroupId,
    range: &Range<LogIndex>,
) -> Result<Vec<Span>, StorageError> {
    let GroupIndex { shape, spans, .. } = healthy(index, group)?;
    if range.start <= shape.compacted.index && !range.is_empty() {
        let compacted = shape.compacted.index;
        return Err(StorageError::Compacted { group, index: range.start, compacted });
    }
    let from = spans.partition_point(|span| span.range.end <= range.start);
    let wanted = spans.range(from..).take_while(|span| span.range.start < range.end);
    let cut = wanted.map(|span| Span {
        range: span.range.start.max(range.start)..span.range.end.min(range.end),
        place: span.place,
    });
    Ok(cut.collect())
}

/// Reads spans in order. The inner error is damage, or a record that was moved meanwhile.
fn read_spans(
    read: &impl TableRead,
    spans: &[Span],
    out: &mut EntryCollector,
) -> Result<Result<(), Malformed>, StorageError> {
    for span in spans {
        match read_span(read, span, out)? {
            Ok(true) => {}
            Ok(false) => break,
            Err(rule) => return Ok(Err(rule)),
        }
    }
    Ok(Ok(()))
}

fn read_span(
    read: &impl TableRead,
    span: &Span,
    out: &mut EntryCollector,
) -> Result<Result<bool, Malformed>, StorageError> {
    let mut outcome = Ok(true);
    let mut next = span.range.start;
    let group = out.group;
    visit_span(read, group, span, &mut |raw| {
        outcome = raw.and_then(|raw| {
            let is_next = raw.index == next;
            if is_next { out.take(raw) } else { Err(Malformed("entry is missing")) }
        });
        next = next.next();
        outcome == Ok(true)
    })?;
    if outcome == Ok(true) && next != span.range.end {
        outcome = Err(Malformed("entry is missing"));
    }
    Ok(outcome)
}

/// Visits the entries of one span as they are stored, until `visit` returns `false`.
pub(crate) fn visit_span(
    read: &impl TableRead,
    group: GroupId,
    span: &Span,
    visit: &mut dyn FnMut(Result<RawEntry<'_>, Malformed>) -> bool,
) -> Result<(), StorageError> {
    let (start, end) = (span.range.start, span.range.end);
    match span.place {
        Place::Journal { sequence, offset, index_at } => {
            let Some(record) = read.get(JOURNAL, &sequence.to_be_bytes())? else { return Ok(()) };
            let skipped = start.distance_from(index_at) as usize;
            let wanted = end.distance_from(start) as usize;
            let entries = entries_at(record, offset, group, index_at);
            for entry in entries.skip(skipped).take(wanted) {
                if !visit(entry) {
                    break;
                }
            }
            Ok(())
        }
        Place::Cold => {
            let (from, to) = (cold_key(group, start.get()), cold_key(group, end.get()));
            let (from, to) = (Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice()));
            read.scan(COLD, from, to, false, &mut |key, value| visit(cold_entry(group, key, value)))
        }
    }
}

const COLD_VERSION: u8 = 1;

/// A row of the cold table for an entry.
pub(crate) fn cold_value(raw: RawEntry<'_>) -> Vec<u8> {
    let mut value = Vec::with_capacity(1 + raw.bytes.len());
    value.push(COLD_VERSION);
    value.extend_from_slice(raw.bytes);
    value
}

fn cold_entry<'a>(group: GroupId, key: &[u8], value: &'a [u8]) -> Result<RawEntry<'a>, Malformed> {
    let index = key.get(8..).and_then(|index| index.try_into().ok()).map(u64::from_be_bytes);
    let index = LogIndex::new(index.ok_or(Malformed("cold row key"))?);
    match value.split_first() {
        Some((&COLD_VERSION, entry)) => RawEntry::whole(entry, group, index),
        _ => Err(Malformed("cold row version")),
    }
}

/// Returns whether every row can be read: then they tell what garbage collection deleted.
fn load_meta(read: &impl TableRead, index: &mut JournalIndex) -> Result<bool, StorageError> {
    let mut is_told = true;
    read.scan(META, Bound::Unbounded, Bound::Unbounded, false, &mut |key, value| {
        if key == LOST_RECORD_KEY {
            index.lost_record = true;
            return true;
        }
        let Ok(group) = key.try_into().map(u64::from_be_bytes).map(GroupId::new) else {
            index.quarantine_all("a meta row of an unknown group");
            is_told = false;
            return true;
        };
        match decode_meta(group, value) {
            Ok(group_index) => {
                if group_index.cold_garbage().is_some() {
                    index.garbage.insert(group);
                }
                index.groups.insert(group, group_index);
            }
            Err(rule) => {
                index.quarantine(group, format!("meta row: {rule}"));
                is_told = false;
            }
        }
        true
    })?;
    Ok(is_told)
}

fn replay(
    read: &impl TableRead,
    is_told: bool,
    index: &mut JournalIndex,
    records: &mut VecDeque<(u64, u64)>,
) -> Result<(), StorageError> {
    let known = index.groups.values().map(|group| group.meta_sequence).max().unwrap_or(0);
    let mut expected = None;
    read.scan(JOURNAL, Bound::Unbounded, Bound::Unbounded, false, &mut |key, record| {
        let sequence = key.try_into().ok().map(u64::from_be_bytes);
        let Some(sequence) = sequence.filter(|sequence| *sequence <= ORDINAL_MAX) else {
            index.quarantine_all("a journal key that no record has");
            return true;
        };
        if expected.map_or(is_told && sequence > known + 1, |expected| expected != sequence) {
            index.quarantine_all("a record is missing from the journal");
        }
        expected = Some(sequence + 1);
        records.push_back((sequence, record.len() as u64));
        replay_record(index, sequence, record);
        true
    })?;
    // The last record outlives all others, and no meta row knows of a later one.
    if records.back().is_some_and(|(last, _)| *last < known) {
        index.quarantine_all("a record is missing from the end of the journal");
    }
    Ok(())
}

fn replay_record(index: &mut JournalIndex, sequence: u64, record: &[u8]) {
    match decode_frames(record, sequence) {
        Ok(frames) => {
            for frame in &frames {
                match decode_block(record, frame) {
                    Ok(block) => index.apply(&block, sequence),
                    Err(rule) => {
                        index.quarantine(frame.group, format!("record {sequence}: {rule}"));
                    }
                }
            }
        }
        Err(rule) => index.quarantine_all(&format!("record {sequence}: {rule}")),
    }
}
