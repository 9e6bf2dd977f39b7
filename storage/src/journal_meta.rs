//! A group's row in the meta table: what the journal's deleted prefix said about it.
//!
//! Promise: loading the row and applying the remaining records gives the group as it was. The row may
//! know more than the first of these records do; [`GroupIndex`] tells by `meta_sequence`.

use std::collections::VecDeque;
use std::ops::Range;

use polyraft_core::ids::{GroupId, LogIndex, Term};

use crate::field_reader::{FieldReader, Malformed, len_u32};
use crate::journal_index::{GroupIndex, LogShape, Place, Span};
use crate::journal_record::{
    decode_configuration, decode_hard_state, decode_identity, decode_point, encode_configuration,
    encode_hard_state, encode_identity, encode_point,
};

const VERSION: u8 = 1;

/// Encodes `index` as of the record `sequence`, with everything up to `cold_end` in the cold table,
/// which holds rows within `cold_rows`.
pub(crate) fn encode_meta(
    group: GroupId,
    index: &GroupIndex,
    sequence: u64,
    cold_end: LogIndex,
    cold_rows: &Range<u64>,
) -> Vec<u8> {
    let mut out = vec![VERSION, 0, 0, 0, 0];
    out.extend_from_slice(&sequence.to_le_bytes());
    out.push(u8::from(index.identity.is_some()));
    if let Some(identity) = &index.identity {
        encode_identity(&mut out, identity);
    }
    out.push(u8::from(index.damage.is_some()));
    let damage = index.damage.as_deref().unwrap_or_default();
    out.extend_from_slice(&len_u32(damage.len()).to_le_bytes());
    out.extend_from_slice(damage.as_bytes());
    encode_hard_state(&mut out, &index.hard_state);
    encode_configuration(&mut out, &index.configuration);
    encode_point(&mut out, index.shape.compacted);
    for field in [cold_end.get(), cold_rows.start, cold_rows.end] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    let runs: Vec<_> = index.shape.runs.iter().filter(|(first, _)| *first < cold_end).collect();
    out.extend_from_slice(&len_u32(runs.len()).to_le_bytes());
    for (first, term) in runs {
        out.extend_from_slice(&first.get().to_le_bytes());
        out.extend_from_slice(&term.get().to_le_bytes());
    }
    let crc = meta_crc(group, &out);
    out[1..5].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Decodes a group's row.
///
/// # Errors
/// The row is damaged: the group must be quarantined.
pub(crate) fn decode_meta(group: GroupId, bytes: &[u8]) -> Result<GroupIndex, Malformed> {
    let mut reader = FieldReader::new(bytes);
    let version = reader.u8()?;
    if reader.u32()? != meta_crc(group, bytes) {
        return Err(Malformed("meta row checksum"));
    }
    if version != VERSION {
        return Err(Malformed("meta row version"));
    }
    let meta_sequence = reader.ordinal()?;
    let identity = match reader.u8()? {
        0 => None,
        _ => Some(decode_identity(&mut reader)?),
    };
    let is_damaged = reader.u8()? != 0;
    let reason_len = reader.count(1)?;
    let reason = String::from_utf8_lossy(reader.bytes(reason_len)?).into_owned();
    let hard_state = decode_hard_state(&mut reader)?;
    let configuration = decode_configuration(&mut reader)?;
    let compacted = decode_point(&mut reader)?;
    let cold_end = LogIndex::new(reader.ordinal()?);
    let cold_rows = reader.ordinal()?..reader.ordinal()?;
    let runs = (0..reader.count(16)?)
        .map(|_| Ok((LogIndex::new(reader.u64()?), Term::new(reader.u64()?))))
        .collect::<Result<VecDeque<_>, _>>()?;
    reader.finish()?;
    if identity.is_none() && !is_damaged {
        return Err(Malformed("meta row without identity"));
    }
    if cold_end <= compacted.index {
        return Err(Malformed("meta row range"));
    }
    let shape = LogShape { compacted, last: cold_end.prev(), runs };
    let cold = shape.first()..cold_end;
    if !are_runs_of(&shape.runs, &cold) {
        return Err(Malformed("meta row terms"));
    }
    if !cold.is_empty() && (cold_rows.start > cold.start.get() || cold_rows.end < cold_end.get()) {
        return Err(Malformed("meta row range"));
    }
    let spans = match cold.is_empty() {
        true => VecDeque::new(),
        false => VecDeque::from([Span { range: cold, place: Place::Cold }]),
    };
    let damage = is_damaged.then_some(reason);
    Ok(GroupIndex {
        identity,
        hard_state,
        configuration,
        shape,
        spans,
        cold_rows,
        meta_sequence,
        damage,
        is_damaged_in_meta: is_damaged,
    })
}

/// Whether `runs` ascend from the first index of `live` and end within it.
fn are_runs_of(runs: &VecDeque<(LogIndex, Term)>, live: &Range<LogIndex>) -> bool {
    let ascends = runs.iter().zip(runs.iter().skip(1)).all(|(run, next)| run.0 < next.0);
    let (first, last) = (runs.front().map(|run| run.0), runs.back().map(|run| run.0));
    match live.is_empty() {
        true => runs.is_empty(),
        false => ascends && first == Some(live.start) && last.is_some_and(|last| last < live.end),
    }
}

/// Covers the group and everything but the checksum itself.
fn meta_crc(group: GroupId, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&group.get().to_le_bytes()), &bytes[..1]);
    crc32c::crc32c_append(crc, bytes.get(5..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use polyraft_core::entry::CompactionPoint;
    use polyraft_core::ports::GroupIdentity;

    use super::*;
    use crate::journal_index::JournalIndex;
    use crate::journal_record::Block;

    const GROUP: GroupId = GroupId::new(1);

    fn identity() -> GroupIdentity {
        GroupIdentity { name: "a".into(), replica: polyraft_core::ids::ReplicaId::new(4) }
    }

    fn row(
        runs: &[(u64, u64)],
        live: Range<u64>,
        rows: Range<u64>,
    ) -> Result<GroupIndex, Malformed> {
        let runs = runs.iter().map(|run| (LogIndex::new(run.0), Term::new(run.1))).collect();
        let compacted = CompactionPoint {
            index: LogIndex::new(live.start).prev(),
            ..CompactionPoint::default()
        };
        let end = LogIndex::new(live.end);
        let shape = LogShape { compacted, last: end.prev(), runs };
        let index = GroupIndex { identity: Some(identity()), shape, ..GroupIndex::default() };
        decode_meta(GROUP, &encode_meta(GROUP, &index, 9, end, &rows))
    }

    #[test]
    fn terms_must_be_those_of_the_live_rows() {
        assert!(row(&[(3, 1), (5, 2)], 3..6, 3..6).is_ok());
        assert!(row(&[], 3..3, 0..0).is_ok());
        let bad: [&[(u64, u64)]; 5] =
            [&[], &[(4, 1)], &[(2, 1)], &[(3, 1), (3, 2)], &[(3, 1), (5, 2), (4, 3)]];
        for runs in bad {
            assert_eq!(row(runs, 3..6, 3..6).unwrap_err(), Malformed("meta row terms"), "{runs:?}");
        }
        assert_eq!(row(&[(2, 1)], 3..3, 0..0).unwrap_err(), Malformed("meta row terms"));
        assert_eq!(row(&[(3, 1)], 3..6, 4..6).unwrap_err(), Malformed("meta row range"));
    }

    /// Goal: a quarantine that the row knows of is not ended by the record that created the group, which may
    /// still be there: the entries that are missing behind it would count as foreseen.
    #[test]
    fn a_quarantine_is_not_ended_by_a_record_that_the_row_knows_of() {
        let damage = Some("lost".to_owned());
        let index = GroupIndex { identity: Some(identity()), damage, ..GroupIndex::default() };
        let damage_after = |sequence: u64| {
            let bytes = encode_meta(GROUP, &index, 9, LogIndex::new(1), &(0..0));
            let mut groups = JournalIndex::default();
            groups.groups.insert(GROUP, decode_meta(GROUP, &bytes).expect("it was just encoded"));
            groups.apply(&created(), sequence);
            groups.groups.remove(&GROUP).and_then(|group| group.damage)
        };
        assert_eq!(damage_after(9), Some("lost".to_owned()));
        assert_eq!(damage_after(10), None);
    }

    fn created() -> Block {
        let create = Some(identity());
        let (hard_state, configuration, entries, compact) = (None, None, None, None);
        Block { group: GROUP, create, hard_state, configuration, entries, compact }
    }
}
