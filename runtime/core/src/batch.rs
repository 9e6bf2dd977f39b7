//! The batch: what one normal Raft entry carries, byte by byte.
//!
//! ```text
//! offset  bytes  field
//! 0       1      version, 1
//! 1       1      codec of everything from offset 14 on: 0 = stored as is
//! 2       4      CRC32C (little endian) of bytes 0..2 followed by bytes 6..end
//! 6       8      proposer's time, milliseconds since the Unix epoch (little endian)
//! 14      1–3    units in the batch, at least 1 (varint)
//! then for every unit, in order:
//!         1–3    commands in the unit × 2, plus 1 if it is atomic (varint)
//!         then for every command, in order:
//!         1–4    its length (varint)
//!         …      its bytes
//! ```
//!
//! A varint is LEB128: seven bits per byte, low bits first, the top bit set on all but the last
//! byte, and never longer than needed. Nothing may follow the last command.
//!
//! Promise: one batch has exactly one encoding, and every byte of it is under the checksum, so a
//! payload can look like anything, another batch included, without being mistaken for framing
//! (BP-2). Decoding slices the input and copies nothing; it allocates in proportion to the input
//! and never trusts a count before checking it. It does not panic on any input.
//!
//! Not here: when a batch is cut ([`crate::propose_batcher`]). An entry without data is a leader's
//! no-op and is no batch.

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits::{BATCH_COMMANDS_MAX, ENTRY_BYTES_MAX};

/// The version that this build writes and the only one that it reads.
pub const BATCH_VERSION: u8 = 1;
/// The codec byte of a batch that is stored as is.
pub const CODEC_NONE: u8 = 0;
/// Most bytes that a batch has beside its units.
pub const BATCH_OVERHEAD_BYTES_MAX: usize = UNITS_OFFSET + VARINT_BYTES_MAX;

/// Where the checksum starts.
const CRC_OFFSET: usize = 2;
/// Where the proposer's time starts.
const TIME_OFFSET: usize = 6;
/// Where the count of units starts.
const UNITS_OFFSET: usize = 14;
/// Longest varint of a `u32`.
const VARINT_BYTES_MAX: usize = 5;
/// Shortest unit: its header and the length of one empty command.
const UNIT_BYTES_MIN: usize = 2;

// Lengths and doubled counts are varints of 32 bits.
const _: () = assert!(ENTRY_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(BATCH_COMMANDS_MAX < (u32::MAX / 2) as usize);

/// One caller's proposal: commands that stay together, in order, within one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Whether one rejected command undoes the others (BP-4).
    pub atomic: bool,
    /// The commands; at least one.
    pub commands: Vec<Bytes>,
}

impl Unit {
    /// A unit of one command.
    pub fn single(command: Bytes) -> Self {
        Self { atomic: false, commands: vec![command] }
    }

    /// Bytes that this unit takes within an encoded batch.
    pub fn encoded_len(&self) -> usize {
        let commands = self.commands.iter().map(|c| varint_len(c.len()) + c.len()).sum::<usize>();
        varint_len(self.commands.len() * 2) + commands
    }
}

/// What one normal entry carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The proposer's clock, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The units, in the order in which they are applied.
    pub units: Vec<Unit>,
}

impl Batch {
    /// Commands in all units.
    pub fn commands(&self) -> usize {
        self.units.iter().map(|unit| unit.commands.len()).sum()
    }
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchDecodeError {
    /// The bytes end before the batch does.
    #[error("batch ends at byte {bytes}, in the middle of a field")]
    Truncated {
        /// Bytes there are.
        bytes: usize,
    },
    /// Written by a version that this build does not read.
    #[error("batch version {version}; this build reads {BATCH_VERSION}")]
    UnknownVersion {
        /// The version found.
        version: u8,
    },
    /// Compressed in a way that this build does not know.
    #[error("batch codec {codec} is unknown")]
    UnknownCodec {
        /// The codec byte found.
        codec: u8,
    },
    /// The bytes are not those that were written.
    #[error("batch checksum {stored:#010x} does not match its bytes, {computed:#010x}")]
    Checksum {
        /// The checksum in the batch.
        stored: u32,
        /// The checksum of what is there.
        computed: u32,
    },
    /// A number is encoded in more bytes than it needs, or in more than 32 bits.
    #[error("batch has a malformed number before byte {offset}")]
    Varint {
        /// Where the number ends.
        offset: usize,
    },
    /// The batch, or one of its units, is empty.
    #[error("batch or unit without a command before byte {offset}")]
    Empty {
        /// Where the count ends.
        offset: usize,
    },
    /// More commands than a batch may hold.
    #[error("batch of more than {BATCH_COMMANDS_MAX} commands")]
    TooManyCommands,
    /// Bytes follow the last command.
    #[error("{bytes} bytes follow the batch")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// Encodes a batch with one allocation of the exact size and one copy of each command.
///
/// # Panics
/// If there is no unit, a unit without a command, or a command beyond 32 bits of length: the
/// batcher refuses those before they get here.
pub fn encode<'a, I>(time_ms: u64, units: I) -> Bytes
where
    I: Iterator<Item = &'a Unit> + Clone,
{
    let (count, unit_bytes) =
        units.clone().fold((0, 0), |(n, bytes), unit| (n + 1, bytes + unit.encoded_len()));
    assert!(count > 0, "a batch has at least one unit");
    let len = UNITS_OFFSET + varint_len(count) + unit_bytes;
    let mut out = BytesMut::with_capacity(len);
    out.put_u8(BATCH_VERSION);
    out.put_u8(CODEC_NONE);
    out.put_u32_le(0);
    out.put_u64_le(time_ms);
    put_varint(&mut out, count);
    for unit in units {
        assert!(!unit.commands.is_empty(), "a unit has at least one command");
        put_varint(&mut out, unit.commands.len() * 2 + usize::from(unit.atomic));
        for command in &unit.commands {
            put_varint(&mut out, command.len());
            out.put_slice(command);
        }
    }
    debug_assert_eq!(out.len(), len, "the size is computed as it is written");
    let crc = checksum(&out);
    out[CRC_OFFSET..TIME_OFFSET].copy_from_slice(&crc.to_le_bytes());
    out.freeze()
}

/// Decodes a batch; its commands are slices of `data`.
///
/// # Errors
/// The bytes are not exactly one batch of this version, undamaged.
pub fn decode(data: Bytes) -> Result<Batch, BatchDecodeError> {
    let time_ms = check_header(&data)?;
    let mut reader = Reader { data, at: UNITS_OFFSET };
    let count = reader.varint()?;
    reader.require_nonzero(count)?;
    reader.require_room(count, UNIT_BYTES_MIN)?;
    let mut commands_left = BATCH_COMMANDS_MAX;
    let mut units = Vec::with_capacity(count);
    for _ in 0..count {
        units.push(reader.unit(&mut commands_left)?);
    }
    match reader.remaining() {
        0 => Ok(Batch { time_ms, units }),
        bytes => Err(BatchDecodeError::Trailing { bytes }),
    }
}

/// Checks version, codec and checksum; returns the proposer's time.
fn check_header(data: &[u8]) -> Result<u64, BatchDecodeError> {
    let truncated = BatchDecodeError::Truncated { bytes: data.len() };
    let Some((header, _)) = data.split_first_chunk::<UNITS_OFFSET>() else {
        return Err(truncated);
    };
    let [version, codec, c0, c1, c2, c3, time @ ..] = *header;
    if version != BATCH_VERSION {
        return Err(BatchDecodeError::UnknownVersion { version });
    }
    if codec != CODEC_NONE {
        return Err(BatchDecodeError::UnknownCodec { codec });
    }
    let stored = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = checksum(data);
    if stored != computed {
        return Err(BatchDecodeError::Checksum { stored, computed });
    }
    Ok(u64::from_le_bytes(time))
}

/// CRC32C of a batch without the field that holds it.
fn checksum(batch: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&batch[..CRC_OFFSET]), &batch[TIME_OFFSET..])
}

/// Bytes that `value` takes as a varint.
fn varint_len(value: usize) -> usize {
    let bits = (usize::BITS - value.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

/// Appends `value` as a varint.
fn put_varint(out: &mut BytesMut, value: usize) {
    let mut rest = u32::try_from(value).expect("counts and lengths are limited below 32 bits");
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// A cursor over the units of a batch.
struct Reader {
    data: Bytes,
    at: usize,
}

impl Reader {
    fn remaining(&self) -> usize {
        self.data.len() - self.at
    }

    fn truncated(&self) -> BatchDecodeError {
        BatchDecodeError::Truncated { bytes: self.data.len() }
    }

    fn require_nonzero(&self, count: usize) -> Result<(), BatchDecodeError> {
        if count == 0 { Err(BatchDecodeError::Empty { offset: self.at }) } else { Ok(()) }
    }

    /// Fails if `count` items of at least `bytes_min` cannot follow: then nothing is allocated.
    fn require_room(&self, count: usize, bytes_min: usize) -> Result<(), BatchDecodeError> {
        if count > self.remaining() / bytes_min { Err(self.truncated()) } else { Ok(()) }
    }

    fn varint(&mut self) -> Result<usize, BatchDecodeError> {
        let mut value = 0u64;
        for position in 0..VARINT_BYTES_MAX {
            let Some(&byte) = self.data.get(self.at) else { return Err(self.truncated()) };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 == 0 {
                let padded = byte == 0 && position > 0;
                return match u32::try_from(value) {
                    Ok(value) if !padded => Ok(value as usize),
                    _ => Err(BatchDecodeError::Varint { offset: self.at }),
                };
            }
        }
        Err(BatchDecodeError::Varint { offset: self.at })
    }

    fn unit(&mut self, commands_left: &mut usize) -> Result<Unit, BatchDecodeError> {
        let header = self.varint()?;
        let (count, atomic) = (header / 2, header % 2 == 1);
        self.require_nonzero(count)?;
        self.require_room(count, 1)?;
        *commands_left =
            commands_left.checked_sub(count).ok_or(BatchDecodeError::TooManyCommands)?;
        let commands = (0..count).map(|_| self.command()).collect::<Result<Vec<_>, _>>()?;
        Ok(Unit { atomic, commands })
    }

    fn command(&mut self) -> Result<Bytes, BatchDecodeError> {
        let len = self.varint()?;
        self.require_room(len, 1)?;
        let start = self.at;
        self.at += len;
        Ok(self.data.slice(start..self.at))
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
