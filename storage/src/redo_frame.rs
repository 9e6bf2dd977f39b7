//! A frame of the redo log: one row, in whole blocks of the disk.
//!
//! ```text
//! │ header │ key │ value │ zeros │ header │ key │ value ……… │ zeros │
//! └─────── block ────────────────┴──────── blocks ─────────────────┘
//! ```
//!
//! No block is written twice in a generation, so that no later write can tear an earlier frame. A block
//! that continues a frame begins with a zero, which no header does: whatever a caller stores, its bytes
//! are never read as a frame.
//! Promise: [`recover`] returns every frame that was wholly written, in order, and stops before one
//! that was cut short. A damaged frame with others behind it was durable once: its value is returned
//! as it is if header and key can be read, for whoever owns it to find the damage, and left out
//! otherwise, for whoever owns the keys to find the gap.
//! Not here: the file (`redo_file`), when frames are forgotten (`redo`).

use bytes::Bytes;

use crate::field_reader::{FieldReader, Malformed};

/// Disks and file systems write this many bytes at once, or fewer.
pub const BLOCK_BYTES: usize = 4096;
/// Its first byte is not zero.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 36;

/// Memory that may be written past the page cache: its address is a multiple of its length.
#[repr(C, align(4096))]
#[derive(Debug, Clone)]
pub struct Block(pub [u8; BLOCK_BYTES]);

impl Block {
    /// Nothing but zeros.
    pub const ZERO: Self = Self([0; BLOCK_BYTES]);
}

/// A row found in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub key: Box<[u8]>,
    pub value: Bytes,
}

/// Blocks that a row takes.
pub(crate) fn blocks_of(key: &[u8], value: &[u8]) -> usize {
    blocks_for(HEADER_BYTES + key.len() + value.len())
}

/// The first block is all the frame's; each of the others has one byte less.
const fn blocks_for(bytes: usize) -> usize {
    1 + bytes.saturating_sub(BLOCK_BYTES).div_ceil(BLOCK_BYTES - 1)
}

/// Replaces `out` by the frame number `ordinal`, from 0, of `generation`.
pub(crate) fn encode(
    out: &mut Vec<Block>,
    (generation, ordinal): (u64, u64),
    key: &[u8],
    value: &[u8],
) {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("rows are far below 4 GiB");
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&VERSION.to_le_bytes());
    header[8..16].copy_from_slice(&generation.to_le_bytes());
    header[16..24].copy_from_slice(&ordinal.to_le_bytes());
    header[24..28].copy_from_slice(&len(key).to_le_bytes());
    header[28..32].copy_from_slice(&len(value).to_le_bytes());
    header[32..].copy_from_slice(&crc32c::crc32c(value).to_le_bytes());
    let crc = header_crc(&header, key);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    out.clear();
    out.resize(blocks_of(key, value), Block::ZERO);
    let (mut block, mut at) = (0, 0);
    for mut part in [&header[..], key, value] {
        while !part.is_empty() {
            if at == BLOCK_BYTES {
                (block, at) = (block + 1, 1);
            }
            let room = &mut out[block].0[at..];
            let (now, later) = part.split_at(part.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            at += now.len();
            part = later;
        }
    }
}

/// The rows of `generation` in a log file's bytes.
pub(crate) fn recover(file: &[u8], generation: u64) -> Vec<Row> {
    let (mut rows, mut at, mut next, mut may_be_torn) = (Vec::new(), 0, 0, false);
    while at + BLOCK_BYTES <= file.len() {
        let frame = Frame::read(&file[at..]).ok();
        match frame.filter(|frame| frame.generation == generation && frame.ordinal >= next) {
            Some(frame) => {
                at += blocks_of(&frame.row.key, &frame.row.value) * BLOCK_BYTES;
                // Behind a gap, something was damaged that had been durable.
                may_be_torn = !frame.is_whole && frame.ordinal == next;
                next = frame.ordinal.saturating_add(1);
                rows.push(frame.row);
            }
            None => at += BLOCK_BYTES,
        }
    }
    if may_be_torn {
        rows.pop();
    }
    rows
}

/// A frame whose header and key are whole.
struct Frame {
    generation: u64,
    ordinal: u64,
    row: Row,
    is_whole: bool,
}

impl Frame {
    /// Reads the frame that begins where `blocks` does.
    fn read(blocks: &[u8]) -> Result<Self, Malformed> {
        let header = blocks.first_chunk().ok_or(Malformed("frame header"))?;
        let mut fields = FieldReader::new(header);
        let (version, crc) = (fields.u32()?, fields.u32()?);
        let (generation, ordinal) = (fields.u64()?, fields.u64()?);
        let (key_len, value_len) = (fields.u32()? as usize, fields.u32()? as usize);
        let value_crc = fields.u32()?;
        let bytes = HEADER_BYTES + key_len + value_len;
        if version != VERSION || blocks_for(bytes) > blocks.len() / BLOCK_BYTES {
            return Err(Malformed("frame header"));
        }
        let bytes = Bytes::from(gather(blocks, bytes));
        let (key, value) =
            (&bytes[HEADER_BYTES..][..key_len], bytes.slice(HEADER_BYTES + key_len..));
        if crc != header_crc(header, key) {
            return Err(Malformed("frame header"));
        }
        let is_whole = value_crc == crc32c::crc32c(&value);
        Ok(Self { generation, ordinal, row: Row { key: key.into(), value }, is_whole })
    }
}

/// The first `len` bytes of a frame, which are there.
fn gather(blocks: &[u8], len: usize) -> Vec<u8> {
    let (first, rest) = blocks.split_at(BLOCK_BYTES);
    let mut bytes = Vec::with_capacity(len + BLOCK_BYTES);
    bytes.extend_from_slice(first);
    for block in rest.chunks(BLOCK_BYTES).take(blocks_for(len) - 1) {
        bytes.extend_from_slice(&block[1..]);
    }
    bytes.truncate(len);
    bytes
}

/// Over the header but for the checksum itself, and the key.
fn header_crc(header: &[u8; HEADER_BYTES], key: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..4]), &header[8..]);
    crc32c::crc32c_append(crc, key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 7;

    fn file(rows: &[(u64, &[u8], &[u8])]) -> Vec<u8> {
        let (mut bytes, mut blocks) = (Vec::new(), Vec::new());
        for (ordinal, (generation, key, value)) in rows.iter().enumerate() {
            encode(&mut blocks, (*generation, ordinal as u64), key, value);
            blocks.iter().for_each(|block| bytes.extend_from_slice(&block.0));
        }
        bytes.resize(bytes.len() + 2 * BLOCK_BYTES, 0);
        bytes
    }

    fn keys(file: &[u8]) -> Vec<Box<[u8]>> {
        recover(file, NOW).into_iter().map(|row| row.key).collect()
    }

    fn named<const N: usize>(keys: [&str; N]) -> Vec<Box<[u8]>> {
        keys.map(|key| key.as_bytes().into()).into()
    }

    #[test]
    fn the_layout_is_as_in_format_md() {
        let mut out = Vec::new();
        encode(&mut out, (7, 8), b"key", b"value");
        let bytes = &out[0].0;
        assert_eq!(out.len(), 1);
        assert_eq!(bytes[..4], [1, 0, 0, 0]);
        assert_eq!(bytes[8..32], {
            let mut fields = [0; 24];
            (fields[0], fields[8], fields[16], fields[20]) = (7, 8, 3, 5);
            fields
        });
        assert_eq!(bytes[32..36], crc32c::crc32c(b"value").to_le_bytes());
        assert_eq!(&bytes[36..44], b"keyvalue");
        assert!(bytes[44..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_row_that_fills_its_block_takes_one_and_a_byte_more_takes_two() {
        let value = [1; BLOCK_BYTES - HEADER_BYTES - 1];
        assert_eq!((blocks_of(b"k", &value), blocks_of(b"ky", &value)), (1, 2));
        let file = file(&[(NOW, b"k", &value), (NOW, b"ky", &value), (NOW, b"z", b"")]);
        assert_eq!(keys(&file), named(["k", "ky", "z"]));
    }

    #[test]
    fn rows_of_an_earlier_generation_are_forgotten() {
        let file = file(&[(NOW, b"new", b""), (NOW - 1, b"old", b""), (NOW - 1, b"older", b"")]);
        assert_eq!(keys(&file), named(["new"]));
    }

    #[test]
    fn the_last_frame_is_dropped_wherever_it_was_cut() {
        let long = [7; 3 * BLOCK_BYTES];
        let whole = file(&[(NOW, b"a", b"1"), (NOW, b"b", &long)]);
        for cut in BLOCK_BYTES..BLOCK_BYTES + HEADER_BYTES + 1 + long.len() {
            let mut torn = whole.clone();
            torn[cut..].fill(0);
            assert_eq!(keys(&torn), named(["a"]), "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_value_with_frames_behind_it_is_returned_as_it_is() {
        let mut bytes = file(&[(NOW, b"a", b"1"), (NOW, b"b", b"2"), (NOW, b"c", b"3")]);
        bytes[BLOCK_BYTES + HEADER_BYTES + 1] ^= 1;
        let rows = recover(&bytes, NOW);
        assert_eq!(rows[1], Row { key: b"b"[..].into(), value: Bytes::from_static(b"3") });
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn a_damaged_header_or_key_with_frames_behind_it_leaves_a_gap() {
        for at in 0..HEADER_BYTES + 1 {
            let mut bytes = file(&[(NOW, b"a", b"1"), (NOW, b"b", b"2"), (NOW, b"c", b"3")]);
            bytes[BLOCK_BYTES + at] ^= 0x10;
            assert_eq!(keys(&bytes), named(["a", "c"]), "byte {at}");
        }
    }

    #[test]
    fn a_long_value_comes_back_whatever_its_length() {
        for len in (0..3).flat_map(|blocks| (0..90).map(move |more| blocks * BLOCK_BYTES + more)) {
            let value: Vec<_> = (0..len).map(|at| at as u8).collect();
            let rows = file(&[(NOW, b"key", &value), (NOW, b"z", b"")]);
            let found = recover(&rows, NOW);
            assert_eq!((&found[0].value[..], found.len()), (&value[..], 2), "{len} bytes");
        }
    }

    #[test]
    fn a_value_is_never_read_as_frames_wherever_it_stands() {
        // Frames as a caller could make them, at every distance from the beginning of a block.
        let mut forged = Vec::new();
        encode(&mut forged, (NOW, 99), b"forged", b"x");
        let forged = &forged[0].0[..HEADER_BYTES + 7];
        for before in 0..BLOCK_BYTES {
            let mut value = vec![0; before];
            value.extend_from_slice(forged);
            value.resize(2 * BLOCK_BYTES, 0);
            value.extend_from_slice(forged);
            for generation in [NOW - 1, NOW] {
                let mut bytes = file(&[(generation, b"k", &value)]);
                bytes[8] ^= 1; // The header is gone, the blocks behind it are not.
                assert_eq!(keys(&bytes), named([]), "{before} bytes before it");
            }
        }
    }

    #[test]
    fn a_cut_end_behind_a_gap_is_kept_so_that_the_gap_is_found() {
        let mut bytes = file(&[(NOW, b"a", b"1"), (NOW, b"b", b"2"), (NOW, b"c", b"3")]);
        bytes[BLOCK_BYTES + 4] ^= 1;
        bytes[2 * BLOCK_BYTES + HEADER_BYTES + 1] ^= 1;
        assert_eq!(keys(&bytes), named(["a", "c"]));
    }

    #[test]
    fn the_largest_ordinal_that_can_be_forged_is_survived() {
        let (mut file, mut blocks) = (Vec::new(), Vec::new());
        for ordinal in [0, u64::MAX] {
            encode(&mut blocks, (NOW, ordinal), b"key", b"value");
            file.extend_from_slice(&blocks[0].0);
        }
        assert_eq!(keys(&file), named(["key", "key"]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            mut bytes in prop::collection::vec(any::<u8>(), 0..3 * BLOCK_BYTES),
            key_len in prop_oneof![0..9_u32, any::<u32>()],
        ) {
            recover(&bytes, NOW);
            if bytes.len() > HEADER_BYTES {
                let (header, rest) = bytes.split_at_mut(HEADER_BYTES);
                header[..4].copy_from_slice(&VERSION.to_le_bytes());
                header[8..16].copy_from_slice(&NOW.to_le_bytes());
                header[24..28].copy_from_slice(&key_len.to_le_bytes());
                let key = &rest[..rest.len().min(key_len as usize)];
                let crc = header_crc(header.first_chunk().unwrap(), key);
                header[4..8].copy_from_slice(&crc.to_le_bytes());
            }
            prop_assert!(recover(&bytes, NOW).len() <= 3);
        }
    }
}
