//! Garbage collection: the journal's oldest records go, what is still needed of them is kept.
//!
//! ```text
//! oldest records ─┬─ live entries ─────────→ cold table
//!                 ├─ every group in them ──→ meta row
//!                 └─ deleted, in the same transaction
//! ```
//!
//! Promise: work is done in small pieces, each atomic, so that no commit waits long; a group that is
//! quarantined stays so after its damaged record is gone. Once a record is lost, what shows it (the gap,
//! the record of which nothing can be read) is about to go too: every group's meta row is then written, once.
//! Not here: when to collect. The log writer calls between commits.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::GroupId;
use polyraft_core::ports::StorageError;

use crate::journal::{
    COLD, JOURNAL, Journal, LOST_RECORD_KEY, META, cold_key, cold_value, visit_span,
};
use crate::journal_index::{JournalIndex, Place};
use crate::journal_meta::encode_meta;
use crate::journal_record::decode_frames;
use crate::table::{TableRead, TableStore, WriteSize};

/// Does one piece of work; returns whether more is waiting.
pub(crate) fn collect<T: TableStore>(journal: &mut Journal<T>) -> Result<bool, StorageError> {
    if journal.record_bytes > journal.options.journal_bytes_max {
        collect_records(journal)?;
    } else if !journal.shared.index().garbage.is_empty() {
        collect_cold_rows(journal)?;
    }
    let has_garbage = !journal.shared.index().garbage.is_empty();
    Ok(has_garbage || journal.record_bytes > journal.options.journal_bytes_max)
}

/// What one piece writes.
#[derive(Debug, Default)]
struct Piece {
    /// Records to delete, oldest first.
    records: Vec<u64>,
    record_bytes: u64,
    /// Rows for the cold table.
    cold: Vec<([u8; 16], Vec<u8>)>,
    /// Groups that had a part in the records: their meta rows take over.
    groups: BTreeSet<GroupId>,
    /// Whether a record was lost of which not even the groups are known, and nothing says so yet.
    lost_record: bool,
    /// Groups whose entries turned out to be damaged.
    damaged: BTreeMap<GroupId, String>,
}

fn collect_records<T: TableStore>(journal: &mut Journal<T>) -> Result<(), StorageError> {
    let piece = plan_piece(journal)?;
    let Some(&upto) = piece.records.last() else { return Ok(()) };
    for (group, reason) in &piece.damaged {
        journal.shared.index_mut().quarantine(*group, reason.clone());
    }
    let sequence = journal.next_sequence - 1;
    let rows = meta_rows(&journal.shared.index(), &piece.groups, upto, sequence);
    let operations = piece.records.len() as u64;
    let mut size = WriteSize { operations, ..WriteSize::MAKES_ROOM };
    size.add(LOST_RECORD_KEY, &[]);
    piece.cold.iter().for_each(|(key, value)| size.add(key, value));
    rows.iter().for_each(|(key, value)| size.add(key, value));
    journal.write(size, &mut |write| {
        failpoint::hit(Step::CollectStart)?;
        piece.cold.iter().try_for_each(|(key, value)| write.put(COLD, key, value))?;
        rows.iter().try_for_each(|(key, value)| write.put(META, key, value))?;
        if piece.lost_record {
            write.put(META, LOST_RECORD_KEY, &[])?;
        }
        failpoint::hit(Step::CollectInside)?;
        piece.records.iter().try_for_each(|at| write.delete(JOURNAL, &at.to_be_bytes()))
    })?;
    failpoint::pass(Step::CollectCommitted);
    journal.records.drain(..piece.records.len());
    journal.record_bytes -= piece.record_bytes;
    journal.collected_bytes += piece.record_bytes;
    let mut index = journal.shared.index_mut();
    index.is_loss_unrecorded &= !piece.lost_record;
    for group in &piece.groups {
        if let Some(group) = index.groups.get_mut(group) {
            group.moved_to_cold(upto);
            group.meta_sequence = sequence;
        }
    }
    Ok(())
}

fn plan_piece<T: TableStore>(journal: &Journal<T>) -> Result<Piece, StorageError> {
    let mut piece = Piece::default();
    let read = journal.shared.table.read()?;
    let index = journal.shared.index();
    if index.is_loss_unrecorded {
        piece.lost_record = true;
        piece.groups.extend(index.groups.keys());
    }
    for &(sequence, bytes) in journal.records.iter().take(journal.options.gc_step_rows) {
        let is_enough = piece.record_bytes + bytes > journal.options.gc_step_bytes;
        if is_enough && !piece.records.is_empty() {
            break;
        }
        let record = read.get(JOURNAL, &sequence.to_be_bytes())?.unwrap_or_default();
        match decode_frames(record, sequence) {
            Ok(frames) => piece.groups.extend(frames.iter().map(|frame| frame.group)),
            Err(_) => piece.groups.extend(index.groups.keys()),
        }
        piece.records.push(sequence);
        piece.record_bytes += bytes;
    }
    let Some(&upto) = piece.records.last() else { return Ok(piece) };
    for group in piece.groups.clone() {
        if let Some(rule) = copy_live(&read, &index, group, upto, &mut piece.cold)? {
            piece.damaged.insert(group, rule);
        }
    }
    Ok(piece)
}

/// Copies a group's live entries of the records up to `upto`; returns the damage met, if any.
fn copy_live(
    read: &impl TableRead,
    index: &JournalIndex,
    group: GroupId,
    upto: u64,
    cold: &mut Vec<([u8; 16], Vec<u8>)>,
) -> Result<Option<String>, StorageError> {
    let Some(group_index) = index.groups.get(&group) else { return Ok(None) };
    let kept = cold.len();
    for span in group_index.journal_prefix(upto).filter(|span| span.place != Place::Cold) {
        let mut damage = None;
        let mut copied = 0;
        visit_span(read, group, span, &mut |raw| {
            match raw.and_then(|raw| raw.check().map(|_| raw)) {
                Ok(raw) => cold.push((cold_key(group, raw.index.get()), cold_value(raw))),
                Err(rule) => damage = Some(rule.to_string()),
            }
            copied += 1;
            damage.is_none()
        })?;
        if damage.is_none() && copied != span.range.end.distance_from(span.range.start) {
            damage = Some("entry is missing".into());
        }
        if damage.is_some() {
            cold.truncate(kept);
            return Ok(damage);
        }
    }
    Ok(None)
}

/// The meta rows of `groups` once the records up to `upto` are gone.
fn meta_rows(
    index: &JournalIndex,
    groups: &BTreeSet<GroupId>,
    upto: u64,
    sequence: u64,
) -> Vec<([u8; 8], Vec<u8>)> {
    let known = groups.iter().filter_map(|group| Some((*group, index.groups.get(group)?)));
    let rows = known.map(|(group, group_index)| {
        let mut after = group_index.clone();
        after.moved_to_cold(upto);
        let row = encode_meta(group, &after, sequence, after.cold_live().end, &after.cold_rows);
        (group.get().to_be_bytes(), row)
    });
    rows.collect()
}

/// Deletes some dead rows of one group from the cold table.
fn collect_cold_rows<T: TableStore>(journal: &mut Journal<T>) -> Result<(), StorageError> {
    let (group, mut after) = {
        let index = journal.shared.index();
        let Some(&group) = index.garbage.first() else { return Ok(()) };
        (group, index.groups.get(&group).cloned().unwrap_or_default())
    };
    if let Some(dead) = after.cold_garbage() {
        let from_above = dead.start > after.cold_rows.start;
        let (keys, gone) = dead_rows(journal, group, dead, from_above)?;
        after.cold_deleted(&gone);
        let sequence = journal.next_sequence - 1;
        after.meta_sequence = sequence;
        // The meta row alone knows of the rows: it must not speak of entries still in the journal.
        let row = encode_meta(group, &after, sequence, after.cold_live().end, &after.cold_rows);
        let operations = keys.len() as u64;
        let mut size = WriteSize { operations, ..WriteSize::MAKES_ROOM };
        size.add(&[], &row);
        journal.write(size, &mut |write| {
            keys.iter().try_for_each(|key| write.delete(COLD, key))?;
            failpoint::hit(Step::ColdInside)?;
            write.put(META, &group.get().to_be_bytes(), &row)
        })?;
    }
    let mut index = journal.shared.index_mut();
    if after.cold_garbage().is_none() {
        index.garbage.remove(&group);
    }
    if let Some(stored) = index.groups.get_mut(&group) {
        stored.cold_rows = after.cold_rows;
        stored.meta_sequence = after.meta_sequence;
    }
    Ok(())
}

/// The keys of one piece of `dead`, and the part of it that is then free of rows.
fn dead_rows<T: TableStore>(
    journal: &Journal<T>,
    group: GroupId,
    dead: Range<u64>,
    from_above: bool,
) -> Result<(Vec<Vec<u8>>, Range<u64>), StorageError> {
    let mut keys = Vec::new();
    let limit = journal.options.gc_step_rows.max(1);
    let (from, to) = (cold_key(group, dead.start), cold_key(group, dead.end));
    let (from, to) = (Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice()));
    journal.shared.table.read()?.scan(COLD, from, to, from_above, &mut |key, _| {
        keys.push(key.to_vec());
        keys.len() < limit
    })?;
    let last = keys.last().and_then(|key| key[8..].try_into().ok()).map(u64::from_be_bytes);
    let gone = match last {
        Some(last) if keys.len() == limit && from_above => last..dead.end,
        Some(last) if keys.len() == limit => dead.start..last + 1,
        _ => dead,
    };
    Ok((keys, gone))
}
