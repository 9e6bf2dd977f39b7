//! What a cluster acknowledged, in a file: one line per put, written after its outcome is known.
//!
//! ```text
//! run 1
//! ack r1/c0/0 0a1b2c3d4e5f6071 17      key, hash of its value, revision
//! unk r1/c3/9 8877665544332211         key, hash of its value
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Every key of a ledger begins with this, so that a range over it finds all of them.
pub const KEY_PREFIX: &str = "ledger/";

/// What the client knows of one put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// [`value_hash`] of the value.
    pub value_hash: u64,
    /// The revision that was acknowledged; `None` if the outcome is unknown.
    pub revision: Option<i64>,
}

/// Every put so far, by key.
pub type Puts = BTreeMap<String, Put>;

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The file cannot be read or written.
    #[error("the ledger cannot be read or written")]
    Io(#[from] std::io::Error),
    /// A line is not of this format.
    #[error("ledger line {line}: {text:?} is not one of run, ack, unk")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A key was put twice: the load is broken, not the cluster.
    #[error("ledger line {line}: {key} was put before")]
    PutTwice {
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
}

/// Appends to a ledger.
pub struct LedgerWriter {
    file: BufWriter<File>,
    run: u64,
}

impl LedgerWriter {
    /// Opens the ledger at `path`, or makes it, and begins the next run.
    ///
    /// # Errors
    /// The file cannot be read or written, or is no ledger.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let text = if path.exists() { std::fs::read_to_string(path)? } else { String::new() };
        let run = parse(&text)?.1 + 1;
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let mut writer = Self { file: BufWriter::new(file), run };
        writer.line(&format!("run {run}"))?;
        Ok(writer)
    }

    /// This run's number, which keeps its keys apart from those of earlier ones.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Records one put.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&mut self, key: &str, put: Put) -> Result<(), LedgerError> {
        match put.revision {
            Some(revision) => self.line(&format!("ack {key} {:016x} {revision}", put.value_hash)),
            None => self.line(&format!("unk {key} {:016x}", put.value_hash)),
        }
    }

    fn line(&mut self, line: &str) -> Result<(), LedgerError> {
        writeln!(self.file, "{line}")?;
        Ok(self.file.flush()?)
    }
}

/// Reads every put of the ledger at `path`.
///
/// # Errors
/// The file cannot be read or is no ledger.
pub fn read(path: &Path) -> Result<Puts, LedgerError> {
    Ok(parse(&std::fs::read_to_string(path)?)?.0)
}

/// The puts in `text`, and the last run.
fn parse(text: &str) -> Result<(Puts, u64), LedgerError> {
    let mut puts = Puts::new();
    let mut last_run = 0;
    for (at, text) in text.lines().enumerate() {
        let line = at + 1;
        let malformed = || LedgerError::Malformed { line, text: text.to_owned() };
        let words: Vec<_> = text.split(' ').collect();
        let hash = |text: &str| u64::from_str_radix(text, 16).map_err(|_| malformed());
        let (key, put) = match words[..] {
            ["run", run] => {
                last_run = run.parse().map_err(|_| malformed())?;
                continue;
            }
            ["ack", key, value, revision] => {
                let revision = Some(revision.parse().map_err(|_| malformed())?);
                (key, Put { value_hash: hash(value)?, revision })
            }
            ["unk", key, value] => (key, Put { value_hash: hash(value)?, revision: None }),
            _ => return Err(malformed()),
        };
        if puts.insert(key.to_owned(), put).is_some() {
            return Err(LedgerError::PutTwice { line, key: key.to_owned() });
        }
    }
    Ok((puts, last_run))
}

/// FNV-1a, 64 bits: values are made by this program, so nobody looks for collisions.
pub fn value_hash(value: &[u8]) -> u64 {
    value.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_and_runs_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let acknowledged = Put { value_hash: 7, revision: Some(12) };
        let unknown = Put { value_hash: u64::MAX, revision: None };
        let mut first = LedgerWriter::open(&path).unwrap();
        first.record("a", acknowledged).unwrap();
        drop(first);
        let mut second = LedgerWriter::open(&path).unwrap();
        assert_eq!(second.run(), 2);
        second.record("b", unknown).unwrap();
        let puts = read(&path).unwrap();
        assert_eq!(
            puts.into_iter().collect::<Vec<_>>(),
            [("a".into(), acknowledged), ("b".into(), unknown)]
        );
    }

    #[test]
    fn damage_is_noticed() {
        assert!(matches!(parse("ack a zz 1"), Err(LedgerError::Malformed { line: 1, .. })));
        assert!(matches!(parse("run 1\nack a 7"), Err(LedgerError::Malformed { line: 2, .. })));
        assert!(matches!(parse("unk a 7\nack a 7 1"), Err(LedgerError::PutTwice { line: 2, .. })));
    }
}
