//! A block file in memory, on a disk that tears what a crash interrupts.
//!
//! ```text
//! one write of three blocks, interrupted:   │ written │ old │ three sectors written, the rest old │
//! ```
//!
//! A disk writes the blocks of one request in any order, and a sector of 512 bytes whole or not at
//! all; whatever an earlier write returned for stays. Every clone is a handle of the same file.
//!
//! Promise: without a fault it behaves as `RedoFile` does.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polyraft_core::ports::StorageError;

use crate::redo_file::BlockFile;
use crate::redo_frame::{BLOCK_BYTES, Block};

/// Disks write this many bytes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// Sectors of a block.
pub const BLOCK_SECTORS: usize = BLOCK_BYTES / SECTOR_BYTES;

/// How much of a write reached the disk before it was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornWrite {
    /// Bit n: block n of the write did, in part at least; blocks beyond 63 did not.
    pub blocks: u64,
    /// Sectors of the last of these blocks that did, up to [`BLOCK_SECTORS`].
    pub sectors: usize,
}

/// A file in memory, with fault switches. A new one does not exist until it is created.
#[derive(Debug, Clone, Default)]
pub struct MemoryFile {
    image: Arc<Mutex<Image>>,
}

#[derive(Debug, Default)]
struct Image {
    bytes: Option<Vec<u8>>,
    torn: Option<TornWrite>,
    /// Where the last write went, in bytes.
    last: Range<usize>,
}

impl MemoryFile {
    /// Interrupts the next write: it leaves what `torn` says, and fails.
    pub fn tear_next_write(&self, torn: TornWrite) {
        self.lock().torn = Some(torn);
    }

    /// Takes back a fault that has not happened.
    pub fn heal(&self) {
        self.lock().torn = None;
    }

    /// Flips one bit, counted from the lowest of the first byte, unless the last write put it there:
    /// what is damaged of that cannot be told from a write that was cut short. Returns whether it did.
    pub fn flip_bit(&self, bit: usize) -> bool {
        let mut image = self.lock();
        let is_last = image.last.contains(&(bit / 8));
        match image.bytes.as_mut().and_then(|bytes| bytes.get_mut(bit / 8)) {
            Some(byte) if !is_last => {
                *byte ^= 1 << (bit % 8);
                true
            }
            _ => false,
        }
    }

    /// What the file holds; nothing if it does not exist.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone().unwrap_or_default()
    }

    /// A file of its own with the same bytes and no faults.
    #[must_use]
    pub fn copy(&self) -> Self {
        let image = Image { bytes: self.lock().bytes.clone(), ..Image::default() };
        Self { image: Arc::new(Mutex::new(image)) }
    }

    /// A file that holds `bytes`.
    pub fn holding(bytes: Vec<u8>) -> Self {
        let image = Image { bytes: Some(bytes), ..Image::default() };
        Self { image: Arc::new(Mutex::new(image)) }
    }

    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TornWrite {
    /// The bytes of block `number` of a write that reached the disk.
    fn kept(self, number: usize) -> usize {
        if number >= 64 || self.blocks & 1 << number == 0 {
            return 0;
        }
        let is_last = self.blocks >> number == 1;
        if is_last { self.sectors.min(BLOCK_SECTORS) * SECTOR_BYTES } else { BLOCK_BYTES }
    }
}

impl BlockFile for MemoryFile {
    type Place = Self;

    fn exists(place: &Self) -> bool {
        place.lock().bytes.is_some()
    }

    fn create(place: &Self, blocks: usize) -> Result<(), StorageError> {
        *place.lock() = Image { bytes: Some(vec![0; blocks * BLOCK_BYTES]), ..Image::default() };
        Ok(())
    }

    fn open(place: &Self) -> Result<(Self, Vec<u8>), StorageError> {
        let bytes = place.lock().bytes.clone();
        let missing = || failed("reading the redo log", io::ErrorKind::NotFound);
        Ok((place.clone(), bytes.ok_or_else(missing)?))
    }

    fn blocks(&self) -> usize {
        self.lock().bytes.as_ref().map_or(0, Vec::len) / BLOCK_BYTES
    }

    fn write(&self, at: usize, blocks: &[Block]) -> Result<(), StorageError> {
        let mut image = self.lock();
        let torn = image.torn.take();
        let start = at * BLOCK_BYTES;
        image.last = start..start + blocks.len() * BLOCK_BYTES;
        let bytes = image.bytes.as_mut().expect("an open file was created");
        assert!(start + blocks.len() * BLOCK_BYTES <= bytes.len(), "block {at} of a short file");
        for (number, block) in blocks.iter().enumerate() {
            let kept = torn.map_or(BLOCK_BYTES, |torn| torn.kept(number));
            let start = start + number * BLOCK_BYTES;
            bytes[start..start + kept].copy_from_slice(&block.0[..kept]);
        }
        match torn {
            Some(_) => Err(failed("writing the redo log", io::ErrorKind::Other)),
            None => Ok(()),
        }
    }
}

fn failed(doing: &'static str, kind: io::ErrorKind) -> StorageError {
    StorageError::Io { doing, source: Box::new(io::Error::from(kind)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(byte: u8) -> Block {
        Block([byte; BLOCK_BYTES])
    }

    fn file(blocks: usize) -> MemoryFile {
        let place = MemoryFile::default();
        assert!(!MemoryFile::exists(&place) && MemoryFile::open(&place).is_err());
        MemoryFile::create(&place, blocks).unwrap();
        place
    }

    #[test]
    fn what_was_written_is_read_after_opening_again() {
        let place = file(4);
        let (opened, zeros) = MemoryFile::open(&place).unwrap();
        assert_eq!((opened.blocks(), zeros), (4, vec![0; 4 * BLOCK_BYTES]));
        opened.write(1, &[block(1), block(2)]).unwrap();
        let firsts: Vec<_> = place.bytes().chunks(BLOCK_BYTES).map(|block| block[0]).collect();
        assert_eq!(firsts, [0, 1, 2, 0]);
    }

    #[test]
    fn a_torn_write_leaves_the_blocks_and_sectors_it_says_and_fails_once() {
        let place = file(4);
        place.tear_next_write(TornWrite { blocks: 0b1010, sectors: 3 });
        assert!(place.write(0, &[block(1), block(2), block(3), block(4)]).is_err());
        let bytes = place.bytes();
        let written = |block: usize| {
            let bytes = &bytes[block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES];
            bytes.iter().filter(|byte| **byte != 0).count()
        };
        assert_eq!([0, 1, 2, 3].map(written), [0, BLOCK_BYTES, 0, 3 * SECTOR_BYTES]);
        place.write(0, &[block(9)]).unwrap();
        assert_eq!(place.bytes()[0], 9);
    }

    #[test]
    fn a_bit_flips_anywhere_but_in_what_was_written_last() {
        let place = file(2);
        place.write(1, &[block(0)]).unwrap();
        assert!(place.flip_bit(9) && !place.flip_bit(8 * BLOCK_BYTES));
        assert!(!place.flip_bit(8 * 2 * BLOCK_BYTES), "there is no such bit");
        assert_eq!(place.bytes()[..3], [0, 2, 0]);
        let copy = place.copy();
        place.write(0, &[block(7)]).unwrap();
        assert_eq!((copy.bytes()[0], place.bytes()[0]), (0, 7));
    }
}
