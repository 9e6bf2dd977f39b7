//! The writes of one group's state machine that are not durable yet.
//!
//! ```text
//! put, delete ─→ active buffer ─freeze→ frozen buffer ─flush→ durable base
//!                   │ undo log: back to the last `begin`
//! ```
//!
//! Promise: `freeze` takes exactly what was written up to the last `set_applied`; later writes stay,
//! and can still be rolled back.
//! Not here: reading the base and flushing (`state_store`).

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use bytes::Bytes;

/// Key to value, or `None` for a deletion.
pub(crate) type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// Charged per buffered write beside its key and value.
const WRITE_OVERHEAD_BYTES: usize = 64;

/// The active buffer of one group.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    writes: Writes,
    bytes: usize,
    /// What each write since the last mark replaced in `writes`: `None` if the key was not there.
    undo: Vec<(Bytes, Option<Option<Bytes>>)>,
    /// Where in `undo` the current unit of work begins.
    unit: usize,
}

impl WriteBuffer {
    pub fn writes(&self) -> &Writes {
        &self.writes
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets or deletes a key, undoably.
    pub fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        let before = self.replace(key.clone(), Some(value));
        self.undo.push((key, before));
    }

    /// Everything so far belongs to an applied entry: it is frozen next, and never rolled back.
    pub fn mark_applied(&mut self) {
        self.undo.clear();
        self.unit = 0;
    }

    pub fn begin(&mut self) {
        self.unit = self.undo.len();
    }

    pub fn rollback(&mut self) {
        while self.undo.len() > self.unit {
            if let Some((key, before)) = self.undo.pop() {
                self.replace(key, before);
            }
        }
    }

    /// Takes the writes up to the last `mark_applied` out of the buffer.
    pub fn freeze(&mut self) -> Writes {
        let mut later = Writes::new();
        for (key, before) in self.undo.iter().rev() {
            let current = match before {
                Some(before) => self.writes.insert(key.clone(), before.clone()),
                None => self.writes.remove(key),
            };
            // Walking back, the first value met of a key is its latest.
            if let Some(current) = current {
                later.entry(key.clone()).or_insert(current);
            }
        }
        // What an earliest write replaced is in the frozen buffer now, below the active one.
        let mut seen = BTreeSet::new();
        for (key, before) in &mut self.undo {
            if seen.insert(key.clone()) {
                *before = None;
            }
        }
        self.bytes = later.iter().map(|(key, value)| charge(key, value)).sum();
        mem::replace(&mut self.writes, later)
    }

    /// Puts `value` at `key`, or takes the key out of the buffer; returns what was there.
    fn replace(&mut self, key: Bytes, value: Option<Option<Bytes>>) -> Option<Option<Bytes>> {
        let charged = value.as_ref().map_or(0, |value| charge(&key, value));
        let before = match value {
            Some(value) => self.writes.insert(key.clone(), value),
            None => self.writes.remove(&key),
        };
        let released = before.as_ref().map_or(0, |value| charge(&key, value));
        self.bytes = self.bytes + charged - released;
        before
    }
}

fn charge(key: &Bytes, value: &Option<Bytes>) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len) + WRITE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(buffer: &mut WriteBuffer, key: &'static str, value: &'static str) {
        buffer.write(key.into(), Some(value.into()));
    }

    fn writes(pairs: &[(&'static str, Option<&'static str>)]) -> Writes {
        pairs.iter().map(|(key, value)| ((*key).into(), value.map(Bytes::from))).collect()
    }

    #[test]
    fn rollback_returns_to_the_unit_of_work() {
        let mut buffer = WriteBuffer::default();
        put(&mut buffer, "a", "1");
        buffer.mark_applied();
        let (before, bytes) = (buffer.writes.clone(), buffer.bytes());
        buffer.begin();
        put(&mut buffer, "a", "2");
        put(&mut buffer, "a", "3");
        put(&mut buffer, "b", "4");
        buffer.write("a".into(), None);
        buffer.rollback();
        assert_eq!((buffer.writes.clone(), buffer.bytes()), (before.clone(), bytes));
        buffer.rollback();
        assert_eq!(buffer.writes, before, "a second rollback has nothing to undo");
    }

    #[test]
    fn a_new_unit_keeps_what_the_one_before_wrote() {
        let mut buffer = WriteBuffer::default();
        buffer.begin();
        put(&mut buffer, "a", "1");
        buffer.begin();
        put(&mut buffer, "a", "2");
        buffer.rollback();
        assert_eq!(buffer.writes, writes(&[("a", Some("1"))]));
    }

    #[test]
    fn freeze_takes_what_is_applied_and_later_writes_can_still_be_undone() {
        let mut buffer = WriteBuffer::default();
        put(&mut buffer, "a", "1");
        put(&mut buffer, "b", "1");
        buffer.mark_applied();
        put(&mut buffer, "a", "2");
        buffer.begin();
        put(&mut buffer, "a", "3");
        put(&mut buffer, "c", "3");
        buffer.write("b".into(), None);
        let frozen = buffer.freeze();
        assert_eq!(frozen, writes(&[("a", Some("1")), ("b", Some("1"))]));
        assert_eq!(buffer.writes, writes(&[("a", Some("3")), ("b", None), ("c", Some("3"))]));
        buffer.rollback();
        assert_eq!(buffer.writes, writes(&[("a", Some("2"))]));
        buffer.begin();
        buffer.rollback();
        assert_eq!(buffer.writes, writes(&[("a", Some("2"))]));
        assert_eq!(buffer.bytes(), 2 + WRITE_OVERHEAD_BYTES);
    }

    #[test]
    fn freezing_within_an_entry_and_rolling_it_back_leaves_an_empty_buffer() {
        let mut buffer = WriteBuffer::default();
        put(&mut buffer, "a", "1");
        buffer.mark_applied();
        buffer.begin();
        put(&mut buffer, "a", "2");
        assert_eq!(buffer.freeze(), writes(&[("a", Some("1"))]));
        buffer.rollback();
        assert_eq!((buffer.writes, buffer.bytes), (Writes::new(), 0));
    }
}
