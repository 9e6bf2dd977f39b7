//! One journal record: what many groups made durable in one commit, byte by byte (see FORMAT.md).
//!
//! ```text
//! header ─ block of group a ─ block of group b ─ … ─ header again ─ footer
//!   └ sequence, and for each block: group, offset, length, CRC
//! ```
//!
//! Promise: a damaged block is blamed on its own group alone, because the table that frames the blocks
//! is stored twice, each copy under its own CRC. Decoding never panics on any bytes.
//! Not here: what the fields do to a group's log (`journal_index`).

use std::ops::Range;

use bytes::Bytes;
use polyraft_core::entry::{
    CompactionPoint, Configuration, EntryKind, HardState, LogEntry, Member,
};
use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use polyraft_core::ports::{GroupAppend, GroupIdentity};

use crate::field_reader::{FieldReader, Malformed, len_u32};

const VERSION: u8 = 1;
const HEADER_FIXED_BYTES: usize = 24;
const HEADER_BLOCK_BYTES: usize = 20;
const FOOTER_BYTES: usize = 8;
const ENTRY_HEADER_BYTES: usize = 17;

const HAS_CREATE: u8 = 1;
const HAS_HARD_STATE: u8 = 1 << 1;
const HAS_CONFIGURATION: u8 = 1 << 2;
const HAS_ENTRIES: u8 = 1 << 3;
const HAS_COMPACT: u8 = 1 << 4;
const RESETS_LOG: u8 = 1 << 5;
const KNOWN_FLAGS: u8 = (1 << 6) - 1;

/// One group's part of a record, without the entries' data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub group: GroupId,
    pub create: Option<GroupIdentity>,
    pub hard_state: Option<HardState>,
    pub configuration: Option<Configuration>,
    pub entries: Option<EntryRun>,
    pub compact: Option<Compaction>,
}

/// Contiguous entries within a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryRun {
    /// The indexes, half-open.
    pub range: Range<LogIndex>,
    /// Where the first one starts, in bytes from the start of the record.
    pub offset: u32,
    /// The first index of each term, ascending.
    pub terms: Vec<(LogIndex, Term)>,
}

/// A compaction as decided when it was written; replay must not decide again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compaction {
    pub point: CompactionPoint,
    /// Whether the whole log is dropped: it ended before the point, or had another term there.
    pub resets: bool,
}

/// Where one group's block lies, and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockFrame {
    pub group: GroupId,
    offset: u32,
    len: u32,
    crc: u32,
}

/// Encodes a record into `out`, replacing what it held, and returns the blocks as a reader would see
/// them. `resets` tells for each append whether its compaction drops the whole log.
pub(crate) fn encode_record(
    out: &mut Vec<u8>,
    sequence: u64,
    appends: &[(&GroupAppend, bool)],
) -> Vec<Block> {
    out.clear();
    let header_bytes = HEADER_FIXED_BYTES + appends.len() * HEADER_BLOCK_BYTES;
    out.resize(header_bytes, 0);
    let mut blocks = Vec::with_capacity(appends.len());
    let mut table = HEADER_FIXED_BYTES;
    for &(append, resets) in appends {
        let start = out.len();
        blocks.push(encode_block(out, append, resets));
        let crc = crc32c::crc32c(&out[start..]);
        let len = len_u32(out.len() - start);
        let frame = &mut out[table..table + HEADER_BLOCK_BYTES];
        frame[..8].copy_from_slice(&append.group.get().to_le_bytes());
        frame[8..12].copy_from_slice(&len_u32(start).to_le_bytes());
        frame[12..16].copy_from_slice(&len.to_le_bytes());
        frame[16..].copy_from_slice(&crc.to_le_bytes());
        table += HEADER_BLOCK_BYTES;
    }
    let body_bytes = len_u32(out.len() - header_bytes);
    out[0] = VERSION;
    out[8..16].copy_from_slice(&sequence.to_le_bytes());
    out[16..20].copy_from_slice(&len_u32(appends.len()).to_le_bytes());
    out[20..24].copy_from_slice(&body_bytes.to_le_bytes());
    let crc = header_crc(&out[..header_bytes]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_within(..header_bytes);
    let header_len = len_u32(header_bytes).to_le_bytes();
    out.extend_from_slice(&header_len);
    out.extend_from_slice(&crc32c::crc32c(&header_len).to_le_bytes());
    blocks
}

/// Reads the framing of a record from whichever copy of it is whole.
///
/// # Errors
/// Both copies are damaged, or they belong to another sequence.
pub(crate) fn decode_frames(record: &[u8], sequence: u64) -> Result<Vec<BlockFrame>, Malformed> {
    decode_header(record, record, sequence).or_else(|front| {
        let (rest, footer) =
            record.split_last_chunk::<FOOTER_BYTES>().ok_or(Malformed("record cut short"))?;
        let mut footer = FieldReader::new(footer);
        let header_len = footer.u32()?;
        if footer.u32()? != crc32c::crc32c(&header_len.to_le_bytes()) {
            return Err(front);
        }
        let at = rest.len().checked_sub(header_len as usize).ok_or(front)?;
        decode_header(record, &rest[at..], sequence)
    })
}

/// Checks and decodes one block.
///
/// # Errors
/// The block is damaged; others of the record are unaffected.
pub(crate) fn decode_block(record: &[u8], frame: &BlockFrame) -> Result<Block, Malformed> {
    let range = frame.offset as usize..frame.offset as usize + frame.len as usize;
    let bytes = record.get(range).ok_or(Malformed("block beyond the record"))?;
    if crc32c::crc32c(bytes) != frame.crc {
        return Err(Malformed("block checksum"));
    }
    let mut reader = FieldReader::new(bytes);
    let flags = reader.u8()?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Malformed("unknown block flags"));
    }
    let has = |flag| flags & flag != 0;
    let create = has(HAS_CREATE).then(|| decode_identity(&mut reader)).transpose()?;
    let hard_state = has(HAS_HARD_STATE).then(|| decode_hard_state(&mut reader)).transpose()?;
    let configuration =
        has(HAS_CONFIGURATION).then(|| decode_configuration(&mut reader)).transpose()?;
    let compact = has(HAS_COMPACT).then(|| decode_point(&mut reader)).transpose()?;
    let compact = compact.map(|point| Compaction { point, resets: has(RESETS_LOG) });
    let entries = match has(HAS_ENTRIES) {
        true => Some(decode_run(&mut reader, frame)?),
        false => None,
    };
    reader.finish()?;
    Ok(Block { group: frame.group, create, hard_state, configuration, entries, compact })
}

/// The entries of one group that follow one another from `offset` in a record: `first` is the index
/// of the entry there. Ends at the first entry that is damaged.
pub(crate) fn entries_at(
    record: &[u8],
    offset: u32,
    group: GroupId,
    first: LogIndex,
) -> impl Iterator<Item = Result<RawEntry<'_>, Malformed>> {
    let mut reader = record.get(offset as usize..).map(FieldReader::new);
    let mut index = first;
    std::iter::from_fn(move || {
        let entry = RawEntry::split(reader.as_mut()?, group, index);
        if entry.is_err() {
            reader = None;
        }
        index = LogIndex::new(index.get().wrapping_add(1));
        Some(entry)
    })
}

/// An entry still in its record, not yet checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawEntry<'a> {
    group: GroupId,
    pub index: LogIndex,
    /// Header and data as stored.
    pub bytes: &'a [u8],
}

impl<'a> RawEntry<'a> {
    /// Takes the next entry off `reader` by its length alone.
    fn split(
        reader: &mut FieldReader<'a>,
        group: GroupId,
        index: LogIndex,
    ) -> Result<Self, Malformed> {
        let mut peek = reader.clone();
        peek.u32()?;
        let len = peek.u32()? as usize;
        let bytes = reader.bytes(ENTRY_HEADER_BYTES.saturating_add(len))?;
        Ok(Self { group, index, bytes })
    }

    /// An entry that was stored alone.
    pub fn whole(bytes: &'a [u8], group: GroupId, index: LogIndex) -> Result<Self, Malformed> {
        let mut reader = FieldReader::new(bytes);
        let entry = Self::split(&mut reader, group, index)?;
        reader.finish()?;
        Ok(entry)
    }

    /// Checks the entry's checksum and copies it out.
    ///
    /// # Errors
    /// The entry is damaged, or is not the one it should be.
    pub fn check(self) -> Result<LogEntry, Malformed> {
        let mut reader = FieldReader::new(self.bytes);
        let crc = reader.u32()?;
        if crc != entry_crc(self.group, self.index, &self.bytes[4..]) {
            return Err(Malformed("entry checksum"));
        }
        reader.u32()?;
        let term = Term::new(reader.u64()?);
        let kind = decode_kind(reader.u8()?)?;
        let data = Bytes::copy_from_slice(reader.bytes(reader.remaining())?);
        Ok(LogEntry { index: self.index, term, kind, data })
    }
}

fn encode_block(out: &mut Vec<u8>, append: &GroupAppend, resets: bool) -> Block {
    let flags = [
        (append.create.is_some(), HAS_CREATE),
        (append.hard_state.is_some(), HAS_HARD_STATE),
        (append.configuration.is_some(), HAS_CONFIGURATION),
        (!append.entries.is_empty(), HAS_ENTRIES),
        (append.compact.is_some(), HAS_COMPACT),
        (resets, RESETS_LOG),
    ];
    out.push(flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag));
    if let Some(identity) = &append.create {
        encode_identity(out, identity);
    }
    if let Some(hard_state) = &append.hard_state {
        encode_hard_state(out, hard_state);
    }
    if let Some(configuration) = &append.configuration {
        encode_configuration(out, configuration);
    }
    if let Some(point) = append.compact {
        encode_point(out, point);
    }
    let entries = encode_run(out, append);
    Block {
        group: append.group,
        create: append.create.clone(),
        hard_state: append.hard_state,
        configuration: append.configuration.clone(),
        entries,
        compact: append.compact.map(|point| Compaction { point, resets }),
    }
}

fn encode_run(out: &mut Vec<u8>, append: &GroupAppend) -> Option<EntryRun> {
    let first = append.entries.first()?.index;
    out.extend_from_slice(&first.get().to_le_bytes());
    out.extend_from_slice(&len_u32(append.entries.len()).to_le_bytes());
    let offset = len_u32(out.len());
    let mut terms = Vec::new();
    for entry in &append.entries {
        push_term(&mut terms, entry.index, entry.term);
        encode_entry(out, append.group, entry);
    }
    let end = LogIndex::new(first.get() + append.entries.len() as u64);
    Some(EntryRun { range: first..end, offset, terms })
}

fn encode_entry(out: &mut Vec<u8>, group: GroupId, entry: &LogEntry) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&len_u32(entry.data.len()).to_le_bytes());
    out.extend_from_slice(&entry.term.get().to_le_bytes());
    out.push(match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
    });
    out.extend_from_slice(&entry.data);
    let crc = entry_crc(group, entry.index, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Covers the entry's place in its log too, so that one entry is never taken for another.
fn entry_crc(group: GroupId, index: LogIndex, bytes: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&group.get().to_le_bytes());
    place[8..].copy_from_slice(&index.get().to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), bytes)
}

fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..4]), &header[8..])
}

fn decode_header(
    record: &[u8],
    header: &[u8],
    sequence: u64,
) -> Result<Vec<BlockFrame>, Malformed> {
    let mut reader = FieldReader::new(header);
    let version = reader.u32()?;
    let crc = reader.u32()?;
    let stored_sequence = reader.u64()?;
    let (count, body_bytes) = (reader.u32()? as usize, reader.u32()? as usize);
    let header_bytes = count
        .checked_mul(HEADER_BLOCK_BYTES)
        .map(|table| table + HEADER_FIXED_BYTES)
        .filter(|bytes| *bytes <= header.len())
        .ok_or(Malformed("record header length"))?;
    if crc != header_crc(&header[..header_bytes]) {
        return Err(Malformed("record header checksum"));
    }
    if version != u32::from(VERSION) {
        return Err(Malformed("record version"));
    }
    if stored_sequence != sequence {
        return Err(Malformed("record sequence"));
    }
    if record.len() != 2 * header_bytes + body_bytes + FOOTER_BYTES {
        return Err(Malformed("record length"));
    }
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        let group = GroupId::new(reader.u64()?);
        let (offset, len, crc) = (reader.u32()?, reader.u32()?, reader.u32()?);
        frames.push(BlockFrame { group, offset, len, crc });
    }
    Ok(frames)
}

fn decode_run(reader: &mut FieldReader<'_>, frame: &BlockFrame) -> Result<EntryRun, Malformed> {
    let first = LogIndex::new(reader.ordinal()?);
    let count = reader.count(ENTRY_HEADER_BYTES)?;
    let end = first.get() + count as u64;
    if first == LogIndex::ZERO || count == 0 {
        return Err(Malformed("entry index"));
    }
    let offset = frame.offset + frame.len - len_u32(reader.remaining());
    let mut terms = Vec::new();
    for index in first.get()..end {
        let index = LogIndex::new(index);
        let entry = RawEntry::split(reader, frame.group, index)?;
        let mut fields = FieldReader::new(&entry.bytes[8..]);
        push_term(&mut terms, index, Term::new(fields.u64()?));
        decode_kind(fields.u8()?)?;
    }
    Ok(EntryRun { range: first..LogIndex::new(end), offset, terms })
}

/// Extends run-length encoded terms by one entry.
fn push_term(terms: &mut Vec<(LogIndex, Term)>, index: LogIndex, term: Term) {
    if terms.last().is_none_or(|(_, last)| *last != term) {
        terms.push((index, term));
    }
}

fn decode_kind(byte: u8) -> Result<EntryKind, Malformed> {
    match byte {
        0 => Ok(EntryKind::Normal),
        1 => Ok(EntryKind::ConfChange),
        _ => Err(Malformed("entry kind")),
    }
}

pub(crate) fn encode_identity(out: &mut Vec<u8>, identity: &GroupIdentity) {
    out.extend_from_slice(&identity.replica.get().to_le_bytes());
    out.extend_from_slice(&len_u32(identity.name.len()).to_le_bytes());
    out.extend_from_slice(identity.name.as_bytes());
}

pub(crate) fn decode_identity(reader: &mut FieldReader<'_>) -> Result<GroupIdentity, Malformed> {
    let replica = ReplicaId::new(reader.u64()?);
    let len = reader.count(1)?;
    let name = std::str::from_utf8(reader.bytes(len)?).map_err(|_| Malformed("group name"))?;
    Ok(GroupIdentity { name: name.to_owned(), replica })
}

pub(crate) fn encode_hard_state(out: &mut Vec<u8>, state: &HardState) {
    let vote = state.vote.map_or(0, ReplicaId::get);
    for field in [state.term.get(), vote, state.commit.get()] {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

pub(crate) fn decode_hard_state(reader: &mut FieldReader<'_>) -> Result<HardState, Malformed> {
    let term = Term::new(reader.u64()?);
    let vote = Some(reader.u64()?).filter(|vote| *vote != 0).map(ReplicaId::new);
    Ok(HardState { term, vote, commit: LogIndex::new(reader.u64()?) })
}

pub(crate) fn encode_point(out: &mut Vec<u8>, point: CompactionPoint) {
    out.extend_from_slice(&point.index.get().to_le_bytes());
    out.extend_from_slice(&point.term.get().to_le_bytes());
}

pub(crate) fn decode_point(reader: &mut FieldReader<'_>) -> Result<CompactionPoint, Malformed> {
    Ok(CompactionPoint { index: LogIndex::new(reader.ordinal()?), term: Term::new(reader.u64()?) })
}

pub(crate) fn encode_configuration(out: &mut Vec<u8>, configuration: &Configuration) {
    out.extend_from_slice(&configuration.index.get().to_le_bytes());
    out.push(u8::from(configuration.auto_leave));
    out.extend_from_slice(&len_u32(configuration.members.len()).to_le_bytes());
    for member in &configuration.members {
        out.extend_from_slice(&member.replica.get().to_le_bytes());
        out.extend_from_slice(&member.node.get().to_le_bytes());
    }
    let Configuration { voters, learners, voters_outgoing, learners_next, .. } = configuration;
    for list in [voters, learners, voters_outgoing, learners_next] {
        out.extend_from_slice(&len_u32(list.len()).to_le_bytes());
        for replica in list {
            out.extend_from_slice(&replica.get().to_le_bytes());
        }
    }
}

pub(crate) fn decode_configuration(
    reader: &mut FieldReader<'_>,
) -> Result<Configuration, Malformed> {
    let index = LogIndex::new(reader.u64()?);
    let auto_leave = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed("auto-leave flag")),
    };
    let members = (0..reader.count(16)?)
        .map(|_| {
            let replica = ReplicaId::new(reader.u64()?);
            Ok(Member { replica, node: NodeId::new(reader.u64()?) })
        })
        .collect::<Result<_, _>>()?;
    let mut replicas = || -> Result<Vec<ReplicaId>, Malformed> {
        (0..reader.count(8)?).map(|_| reader.u64().map(ReplicaId::new)).collect()
    };
    let (voters, learners) = (replicas()?, replicas()?);
    let (voters_outgoing, learners_next) = (replicas()?, replicas()?);
    Ok(Configuration {
        index,
        members,
        voters,
        learners,
        voters_outgoing,
        learners_next,
        auto_leave,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Vec<u8> {
        let group = GroupId::new(3);
        let entry = |at, data: &'static [u8]| LogEntry {
            index: LogIndex::new(at),
            term: Term::new(2),
            kind: EntryKind::Normal,
            data: Bytes::from_static(data),
        };
        let member = Member { replica: ReplicaId::new(4), node: NodeId::new(5) };
        let full = GroupAppend {
            group,
            create: Some(GroupIdentity { name: "a".into(), replica: ReplicaId::new(4) }),
            hard_state: Some(HardState { vote: Some(ReplicaId::new(4)), ..HardState::default() }),
            configuration: Some(Configuration::initial(vec![member])),
            entries: vec![entry(1, b"one"), entry(2, b"")],
            compact: Some(CompactionPoint { index: LogIndex::new(1), term: Term::new(2) }),
        };
        let mut out = Vec::new();
        let blocks = encode_record(&mut out, 9, &[(&full, false), (&full, true)]);
        assert_eq!(blocks[0], decode_all(&out, 9).remove(0), "both sides see the same block");
        assert!(blocks[1].compact.is_some_and(|compaction| compaction.resets));
        out
    }

    fn decode_all(record: &[u8], sequence: u64) -> Vec<Block> {
        let frames = decode_frames(record, sequence).unwrap_or_default();
        frames.iter().filter_map(|frame| decode_block(record, frame).ok()).collect()
    }

    #[test]
    fn the_layout_is_as_in_format_md() {
        let mut out = Vec::new();
        let hard_state = Some(HardState {
            term: Term::new(7),
            vote: Some(ReplicaId::new(8)),
            commit: LogIndex::new(9),
        });
        let append = GroupAppend { hard_state, ..GroupAppend::empty(GroupId::new(6)) };
        encode_record(&mut out, 5, &[(&append, false)]);
        assert_eq!(out.len(), 2 * 44 + 25 + 8);
        assert_eq!(out[..4], [1, 0, 0, 0]);
        assert_eq!(out[8..24], [5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0]);
        assert_eq!(out[24..40], [6, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 25, 0, 0, 0]);
        assert_eq!((out[44], out[45], out[53], out[61]), (HAS_HARD_STATE, 7, 8, 9));
        assert_eq!(out[..44], out[69..113]);
        assert_eq!(out[113..117], [44, 0, 0, 0]);
    }

    #[test]
    fn a_record_under_another_sequence_is_refused() {
        assert_eq!(decode_frames(&record(), 10).unwrap_err(), Malformed("record sequence"));
    }

    #[test]
    fn a_record_cut_anywhere_is_refused() {
        let record = record();
        for len in 0..record.len() {
            assert!(decode_frames(&record[..len], 9).is_err(), "{len}");
        }
    }

    #[test]
    fn an_entry_is_not_taken_for_another() {
        let record = record();
        let run = decode_all(&record, 9)[0].entries.clone().expect("it has entries");
        let read = |group, first| {
            let first = LogIndex::new(first);
            entries_at(&record, run.offset, GroupId::new(group), first)
                .next()
                .map(|raw| raw?.check())
        };
        assert_eq!(read(3, 1).map(|entry| entry.is_ok()), Some(true));
        assert_eq!(read(3, 2), Some(Err(Malformed("entry checksum"))));
        assert_eq!(read(4, 1), Some(Err(Malformed("entry checksum"))));
    }

    proptest! {
        #[test]
        fn decoders_survive_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            decode_all(&bytes, 9);
            let whole = BlockFrame {
                group: GroupId::new(1),
                offset: 0,
                len: bytes.len() as u32,
                crc: crc32c::crc32c(&bytes),
            };
            let _ = decode_block(&bytes, &whole);
            let _ = crate::journal_meta::decode_meta(GroupId::new(1), &bytes);
            let entries = entries_at(&bytes, 0, GroupId::new(1), LogIndex::new(u64::MAX));
            prop_assert!(entries.take(1000).count() < 1000);
        }

        #[test]
        fn decoders_survive_bad_fields_under_good_checksums(
            at in 44usize..200, byte in any::<u8>(), extra in any::<u32>(),
        ) {
            let mut bytes = record()[64..].to_vec();
            let at = at.min(bytes.len() - 4);
            bytes[at] = byte;
            bytes[at..at + 4].copy_from_slice(&extra.to_le_bytes());
            for len in [bytes.len(), at] {
                let crc = crc32c::crc32c(&bytes[..len]);
                let group = GroupId::new(3);
                let _ = decode_block(&bytes, &BlockFrame { group, offset: 0, len: len as u32, crc });
            }
        }
    }
}
