//! The redo log's file: a fixed number of blocks, written in place past the page cache.
//!
//! ```text
//! Redo ─write→ BlockFile ─┬─ RedoFile    (production)
//!                         └─ MemoryFile  (tests, simulation: tears what a crash interrupts)
//! ```
//!
//! Its blocks exist and are written once before the first use, so that a write never has to change
//! the file's metadata: one write that returns when it is durable (`O_DIRECT | O_DSYNC`) is one trip
//! to the disk. Where a file system has no direct I/O, `O_DSYNC` alone has the same promise.
//!
//! Source: open(2); ext4 turns preallocated extents into written ones by journalled metadata.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, IoSlice, Read, Write};
use std::path::Path;

use polyraft_core::ports::StorageError;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::redo_frame::{BLOCK_BYTES, Block};

/// Buffers that one system call takes (`IOV_MAX` of Linux).
const VECTORS_MAX: usize = 1024;

/// A fixed number of blocks on a disk, written in place and durably.
pub trait BlockFile: fmt::Debug + Send + Sized + 'static {
    /// Where such a file is.
    type Place: fmt::Debug + ?Sized;

    /// Whether there is a file at `place`.
    fn exists(place: &Self::Place) -> bool;

    /// Creates the file with `blocks` blocks of zeros, in place of another. It is there as a whole or
    /// not at all.
    ///
    /// # Errors
    /// [`StorageError::Full`] if there is no space, [`StorageError::Io`] otherwise.
    fn create(place: &Self::Place, blocks: usize) -> Result<(), StorageError>;

    /// Opens the file, and reads all of it.
    ///
    /// # Errors
    /// [`StorageError::Io`] if it is not there or cannot be read.
    fn open(place: &Self::Place) -> Result<(Self, Vec<u8>), StorageError>;

    /// How many blocks it has.
    fn blocks(&self) -> usize;

    /// Writes `blocks` from block `at` on, durably. A crash may leave any part of them written.
    ///
    /// # Errors
    /// [`StorageError::Io`]: any part of them may be written.
    ///
    /// # Panics
    /// If they do not fit the file.
    fn write(&self, at: usize, blocks: &[Block]) -> Result<(), StorageError>;
}

/// The file on a file system, open for writing.
#[derive(Debug)]
pub struct RedoFile {
    file: File,
    blocks: usize,
}

impl BlockFile for RedoFile {
    type Place = Path;

    fn exists(path: &Path) -> bool {
        path.exists()
    }

    fn create(path: &Path, blocks: usize) -> Result<(), StorageError> {
        let new = path.with_extension("new");
        let create = || {
            let mut file = File::create(&new)?;
            (0..blocks).try_for_each(|_| file.write_all(&Block::ZERO.0))?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        create().map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => {
                StorageError::Full { what: format!("the disk, creating {}", path.display()) }
            }
            _ => failed("creating the redo log", error),
        })
    }

    fn open(path: &Path) -> Result<(Self, Vec<u8>), StorageError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| failed("reading the redo log", error))?;
        let file = open_direct(path).map_err(|errno| failed("opening the redo log", errno))?;
        let blocks = bytes.len() / BLOCK_BYTES;
        Ok((Self { file, blocks }, bytes))
    }

    fn blocks(&self) -> usize {
        self.blocks
    }

    fn write(&self, at: usize, blocks: &[Block]) -> Result<(), StorageError> {
        assert!(at + blocks.len() <= self.blocks, "block {at} of {}", self.blocks);
        let mut done = 0;
        while done < blocks.len() {
            let vectors: Vec<_> = blocks[done..]
                .iter()
                .take(VECTORS_MAX)
                .map(|block| IoSlice::new(&block.0))
                .collect();
            let offset = ((at + done) * BLOCK_BYTES) as u64;
            match rustix::io::pwritev(&self.file, &vectors, offset) {
                Ok(bytes) if bytes > 0 && bytes % BLOCK_BYTES == 0 => done += bytes / BLOCK_BYTES,
                Ok(_) => return Err(failed("writing the redo log", Errno::IO)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("writing the redo log", errno)),
            }
        }
        Ok(())
    }
}

/// Some file systems refuse direct I/O when a file is opened, others at the first use.
fn open_direct(path: &Path) -> Result<File, Errno> {
    let open = |flags| {
        rustix::fs::open(
            path,
            OFlags::RDWR | OFlags::DSYNC | OFlags::CLOEXEC | flags,
            Mode::empty(),
        )
    };
    let direct = open(OFlags::DIRECT).and_then(|file| {
        let mut block = Block::ZERO;
        rustix::io::pread(&file, &mut block.0, 0)?;
        Ok(file)
    });
    match direct {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(open(OFlags::empty())?.into()),
        opened => Ok(opened?.into()),
    }
}

fn failed(doing: &'static str, source: impl Into<io::Error>) -> StorageError {
    StorageError::Io { doing, source: Box::new(source.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(byte: u8) -> Block {
        Block([byte; BLOCK_BYTES])
    }

    #[test]
    fn what_was_written_is_read_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("redo");
        RedoFile::create(&path, 4).unwrap();
        let (file, zeros) = RedoFile::open(&path).unwrap();
        assert_eq!((file.blocks(), zeros), (4, vec![0; 4 * BLOCK_BYTES]));
        file.write(1, &[block(1), block(2)]).unwrap();
        file.write(3, &[block(3)]).unwrap();
        let bytes = RedoFile::open(&path).unwrap().1;
        let firsts: Vec<_> = bytes.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
        assert_eq!(firsts, [0, 1, 2, 3]);
    }

    #[test]
    fn more_blocks_than_one_call_takes_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("redo");
        RedoFile::create(&path, VECTORS_MAX + 2).unwrap();
        let (file, _) = RedoFile::open(&path).unwrap();
        file.write(1, &vec![block(9); VECTORS_MAX + 1]).unwrap();
        let bytes = RedoFile::open(&path).unwrap().1;
        assert_eq!((bytes[0], bytes[BLOCK_BYTES], bytes[bytes.len() - 1]), (0, 9, 9));
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let missing = RedoFile::open(&dir.path().join("redo"));
        assert!(matches!(missing, Err(StorageError::Io { doing: "reading the redo log", .. })));
        assert!(RedoFile::create(&dir.path().join("no/redo"), 1).is_err());
    }
}
