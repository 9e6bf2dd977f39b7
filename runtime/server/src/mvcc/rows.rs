//! How keys and revisions become rows of the state, so that byte order is the order wanted.
//!
//! ```text
//! 'v' encoded key ¬main ¬sub           newest version of a key first
//! 'e' main sub                         oldest revision first
//! 'm'                                  the one metadata row
//! ```
//!
//! An encoded key is the key's bytes, but for its zeros, and an end:
//!
//! ```text
//! 00 n        the end, after n zeros, n ≤ 126        in this order: a key that ends is less than one
//! 00 7F       127 zeros, and more follows            that goes on with zeros, which is less than one
//! 00 100-n    n ≤ 126 zeros, then another byte       that goes on with another byte
//! ```
//!
//! So encoded keys sort as keys do, none is the beginning of another, no key's rows lie between
//! another's, and binary keys full of zeros stay short.

use std::ops::Bound;

/// Largest row key that a group's state takes.
const ROW_KEY_BYTES_MAX: usize = 480;
const REVISION_BYTES: usize = 12;
/// `00` and how many zeros come before the end.
const END_BYTES: usize = 2;
/// Zeros that one code stands for at the most, and the code of exactly so many when more follows.
const ZEROS_MAX: usize = 0x7F;
const VERSION_TAG: u8 = b'v';
const EVENT_TAG: u8 = b'e';

/// Longest key that can be stored, in bytes as [`encoded_key_len`] counts them: 465 for keys without
/// zero bytes. etcd has no limit of its own below that of a request; LMDB does.
pub const KEY_ENCODED_BYTES_MAX: usize = ROW_KEY_BYTES_MAX - 1 - END_BYTES - REVISION_BYTES;

/// The row with the compacted revision.
pub(super) const META_ROW: &[u8] = b"m";

/// A key's length once encoded, without its end: a run of up to 126 zero bytes counts as two, or as
/// none if the key ends with it.
pub fn encoded_key_len(key: &[u8]) -> usize {
    key_prefix(key).len() - 1 - END_BYTES
}

/// One write's place in the keyspace's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Revision {
    /// The transaction.
    pub main: i64,
    /// The write within it, from 0.
    pub sub: u32,
}

impl Revision {
    /// The last write that `main` could hold.
    pub fn end_of(main: i64) -> Self {
        Self { main, sub: u32::MAX }
    }
}

/// The row of `key` as written at `revision`.
pub(super) fn version_row(key: &[u8], revision: Revision) -> Vec<u8> {
    let mut row = key_prefix(key);
    push_descending(&mut row, revision);
    row
}

/// The row that sorts where `revision` of the key with this `prefix` would.
pub(super) fn seek_row(prefix: &[u8], revision: Revision) -> Vec<u8> {
    let mut row = prefix.to_vec();
    push_descending(&mut row, revision);
    row
}

/// Just past every version of the key with this `prefix`.
pub(super) fn after_key(prefix: &[u8]) -> Vec<u8> {
    let mut row = prefix.to_vec();
    // The least key that is greater has one more zero.
    *row.last_mut().expect("a prefix ends with its number of zeros") += 1;
    row
}

/// What all rows of `key` begin with, and no row of another key.
pub(super) fn key_prefix(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + key.len() + END_BYTES + REVISION_BYTES);
    row.push(VERSION_TAG);
    let mut zeros = 0;
    for byte in key {
        if *byte != 0 {
            if zeros > 0 {
                row.extend_from_slice(&[0, (0x100 - zeros) as u8]);
            }
            zeros = 0;
            row.push(*byte);
            continue;
        }
        zeros += 1;
        if zeros == ZEROS_MAX {
            row.extend_from_slice(&[0, ZEROS_MAX as u8]);
            zeros = 0;
        }
    }
    row.extend_from_slice(&[0, zeros as u8]);
    row
}

/// Splits a version row into the prefix shared by the key's rows, and the revision.
pub(super) fn split_version_row(row: &[u8]) -> (&[u8], Revision) {
    let (prefix, revision) = row.split_at(row.len() - REVISION_BYTES);
    let (main, sub) = revision.split_at(8);
    let main = !u64::from_be_bytes(main.try_into().expect("split at 8 bytes"));
    let sub = !u32::from_be_bytes(sub.try_into().expect("4 of 12 bytes are left"));
    (prefix, Revision { main: main as i64, sub })
}

/// The key whose rows begin with `prefix`.
pub(super) fn key_of(prefix: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len());
    let mut bytes = prefix[1..].iter();
    while let Some(byte) = bytes.next() {
        if *byte != 0 {
            key.push(*byte);
            continue;
        }
        let code = usize::from(*bytes.next().expect("a zero is followed by a number of zeros"));
        let zeros = if code <= ZEROS_MAX { code } else { 0x100 - code };
        key.resize(key.len() + zeros, 0);
    }
    key
}

/// The row that says which key was written at `revision`.
pub(super) fn event_row(revision: Revision) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + REVISION_BYTES);
    row.push(EVENT_TAG);
    row.extend_from_slice(&(revision.main as u64).to_be_bytes());
    row.extend_from_slice(&revision.sub.to_be_bytes());
    row
}

/// The revision of an event row.
pub(super) fn event_revision(row: &[u8]) -> Revision {
    let main = u64::from_be_bytes(row[1..9].try_into().expect("8 bytes were taken"));
    let sub = u32::from_be_bytes(row[9..13].try_into().expect("4 bytes were taken"));
    Revision { main: main as i64, sub }
}

/// Bounds of all event rows.
pub(super) fn event_bounds() -> (Bound<&'static [u8]>, Bound<&'static [u8]>) {
    const FROM: &[u8] = &[EVENT_TAG];
    const TO: &[u8] = &[EVENT_TAG + 1];
    (Bound::Included(FROM), Bound::Excluded(TO))
}

/// The keys a request names, as etcd's `key` and `range_end` say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyRange<'a> {
    /// One key.
    One(&'a [u8]),
    /// From the first, up to but without the second.
    Between(&'a [u8], &'a [u8]),
    /// From a key to the end.
    From(&'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// An empty `range_end` is one key; a single zero byte is "to the end".
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::One(key),
            [0] => Self::From(key),
            end => Self::Between(key, end),
        }
    }

    /// Every key.
    pub fn all() -> Self {
        Self::From(&[])
    }

    /// Whether the range names `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => *one == key,
            Self::Between(first, end) => *first <= key && key < *end,
            Self::From(first) => *first <= key,
        }
    }

    /// Rows from the first included to the second excluded hold all versions of the range's keys,
    /// and perhaps others, if a bound is too long to be a row. `None`: no key can be in it.
    pub fn rows(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        match self {
            Self::One(key) if encoded_key_len(key) > KEY_ENCODED_BYTES_MAX => None,
            Self::One(key) => Some((key_prefix(key), after_key(&key_prefix(key)))),
            Self::Between(first, end) if first >= end => None,
            Self::Between(first, end) => Some((key_prefix(first), key_prefix(end))),
            Self::From(first) => Some((key_prefix(first), vec![VERSION_TAG + 1])),
        }
        .map(|(from, to)| (clipped(from), clipped(to)))
    }
}

/// Cut to a legal row that bounds the same rows.
///
/// Downwards that is plain. Upwards: only a row equal to the cut bound could be lost, and a row holds
/// a whole encoded key, which is never the beginning of another one, such as the bound's.
fn clipped(mut row: Vec<u8>) -> Vec<u8> {
    row.truncate(ROW_KEY_BYTES_MAX);
    row
}

fn push_descending(row: &mut Vec<u8>, revision: Revision) {
    row.extend_from_slice(&(!(revision.main as u64)).to_be_bytes());
    row.extend_from_slice(&(!revision.sub).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        // Few distinct bytes, so that escapes, prefixes and equal keys are common.
        let byte = prop_oneof![Just(0u8), Just(1), Just(b'a'), Just(0xFF)];
        // Runs of zeros on both sides of every limit of their codes.
        let zeros = prop_oneof![1..4usize, 125..130usize, 252..256usize];
        let part = prop_oneof![
            4 => proptest::collection::vec(byte, 1..4),
            1 => zeros.prop_map(|n| vec![0; n]),
        ];
        proptest::collection::vec(part, 1..4).prop_map(|parts| parts.concat())
    }

    proptest! {
        /// Goal: rows sort as (key ascending, revision descending). Method: compare both orders.
        #[test]
        fn rows_sort_by_key_then_newest_first(
            a in key(), b in key(), ra in 0i64..9, rb in 0i64..9, sa in 0u32..3, sb in 0u32..3,
        ) {
            let (ra, rb) = (Revision { main: ra, sub: sa }, Revision { main: rb, sub: sb });
            let expected = a.cmp(&b).then(rb.cmp(&ra));
            prop_assert_eq!(version_row(&a, ra).cmp(&version_row(&b, rb)), expected);
        }

        /// Goal: a row gives back what it was made of.
        #[test]
        fn rows_split_into_what_they_were_made_of(a in key(), main in 0i64.., sub in any::<u32>()) {
            let revision = Revision { main, sub };
            let row = version_row(&a, revision);
            let (prefix, found) = split_version_row(&row);
            prop_assert_eq!(found, revision);
            prop_assert_eq!(key_of(prefix), a.clone());
            prop_assert_eq!(prefix, &key_prefix(&a)[..]);
            prop_assert_eq!(event_revision(&event_row(revision)), revision);
        }

        /// Goal: no key of a range has a row outside the range's bounds, and the bounds are in order.
        #[test]
        fn bounds_cover_the_range(a in key(), b in key(), k in key(), long in any::<bool>()) {
            let mut end = b;
            if long { end.extend(vec![7; 600]); }
            for range in [KeyRange::new(&a, &end), KeyRange::One(&a), KeyRange::From(&end)] {
                let row = version_row(&k, Revision { main: 3, sub: 0 });
                let Some((from, to)) = range.rows() else {
                    prop_assert!(!range.contains(&k));
                    continue;
                };
                prop_assert!(from <= to);
                prop_assert!(from.len() <= ROW_KEY_BYTES_MAX && to.len() <= ROW_KEY_BYTES_MAX);
                if range.contains(&k) {
                    prop_assert!(from <= row && row < to);
                    prop_assert!(after_key(&key_prefix(&k)) <= to);
                }
            }
        }
    }

    #[test]
    fn runs_of_zeros_are_short() {
        assert_eq!(encoded_key_len(b"a\0b\0\0c"), 3 + 2 + 2);
        assert_eq!(encoded_key_len(b"ab\0"), 2);
        assert_eq!(encoded_key_len(&[0; 1_000]), 2 * 7);
        assert_eq!(KEY_ENCODED_BYTES_MAX, 465);
        // The keys of `etcdctl check perf`: a name and 256 bytes, nearly all zero.
        let mut key = b"/etcdctl-check-perf/".to_vec();
        key.extend([0xC8, 0x01]);
        key.resize(key.len() + 254, 0);
        assert!(encoded_key_len(&key) < 30, "{}", encoded_key_len(&key));
    }
}
