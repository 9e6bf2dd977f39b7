//! Reads of a keyspace at one revision.

use std::ops::Bound;

use bytes::Bytes;
use polyraft::{ApplyError, State};
use prost::Message;

use super::refused::Refused;
use super::rows::{self, KeyRange, Revision};
use crate::proto::keyspace::{Refusal, StoredVersion};
use crate::proto::mvccpb::KeyValue;

/// Superseded versions stepped over one by one before a scan seeks past the rest of them.
const STEPS_BEFORE_SEEK: usize = 8;

/// A keyspace as a request sees it.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub state: &'a dyn State,
    /// The newest revision visible: within a transaction that has written, its own.
    pub revision: i64,
    /// Reads below this are refused.
    pub compacted: i64,
}

/// One live key at the revision asked for; its value is decoded only when it is wanted.
pub(super) struct Live<'s> {
    pub prefix: &'s [u8],
    pub mod_revision: i64,
    pub row: &'s Bytes,
}

impl Live<'_> {
    /// The pair as clients see it.
    pub fn decode(&self) -> Result<KeyValue, ApplyError> {
        let stored = StoredVersion::decode(self.row.clone())
            .map_err(|error| ApplyError::Decode { what: format!("a stored version: {error}") })?;
        Ok(KeyValue {
            key: rows::key_of(self.prefix).into(),
            create_revision: stored.create_revision,
            mod_revision: self.mod_revision,
            version: stored.version,
            value: stored.value,
            lease: 0,
        })
    }
}

impl Reader<'_> {
    /// The revision a request means: the newest for 0 and less.
    pub fn resolve(&self, requested: i64) -> Result<i64, Refused> {
        if requested <= 0 {
            return Ok(self.revision);
        }
        if requested > self.revision {
            return Err(Refusal::FutureRevision.into());
        }
        if requested < self.compacted {
            return Err(Refusal::Compacted.into());
        }
        Ok(requested)
    }

    /// `key` now, if it exists.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Refused> {
        let mut found = Ok(None);
        self.visit(KeyRange::One(key), self.revision, &mut |live| {
            found = live.decode().map(Some);
            false
        })?;
        Ok(found?)
    }

    /// Visits the keys of `range` that exist at revision `at`, in key order, until `visit` returns
    /// `false`.
    pub fn visit(
        &self,
        range: KeyRange<'_>,
        at: i64,
        visit: &mut dyn FnMut(Live<'_>) -> bool,
    ) -> Result<(), Refused> {
        let Some((mut from, to)) = range.rows() else { return Ok(()) };
        let mut walk = Walk { at, prefix: Vec::new(), steps: 0 };
        loop {
            let mut seek = None;
            self.state.scan(
                Bound::Included(&from),
                Bound::Excluded(&to),
                false,
                &mut |row, value| match walk.step(row) {
                    Step::Next => true,
                    Step::Seek(to) => {
                        seek = Some(to);
                        false
                    }
                    Step::Found(mod_revision) => {
                        let deleted = value.is_empty();
                        if deleted || !range.contains(&rows::key_of(&walk.prefix)) {
                            return true;
                        }
                        visit(Live { prefix: &walk.prefix, mod_revision, row: value })
                    }
                },
            )?;
            match seek {
                Some(row) => from = row,
                None => return Ok(()),
            }
        }
    }
}

/// Finds each key's newest version at a revision, in a scan over all versions of all keys.
struct Walk {
    at: i64,
    /// The key whose version was found last: its older ones are of no interest.
    prefix: Vec<u8>,
    steps: usize,
}

enum Step {
    Next,
    Seek(Vec<u8>),
    Found(i64),
}

impl Walk {
    fn step(&mut self, row: &[u8]) -> Step {
        let (prefix, revision) = rows::split_version_row(row);
        let older = prefix == self.prefix;
        let newer = revision.main > self.at;
        if !older && !newer {
            self.steps = 0;
            self.prefix.clear();
            self.prefix.extend_from_slice(prefix);
            return Step::Found(revision.main);
        }
        self.steps += 1;
        if self.steps <= STEPS_BEFORE_SEEK {
            return Step::Next;
        }
        self.steps = 0;
        Step::Seek(if older {
            rows::after_key(prefix)
        } else {
            rows::seek_row(prefix, Revision::end_of(self.at))
        })
    }
}
