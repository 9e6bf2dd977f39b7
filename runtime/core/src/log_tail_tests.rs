//! Tests of the log tail.

use super::*;

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    Entry { index, term, data: vec![7; bytes].into(), ..Entry::default() }
}

fn tail(entries: &[Entry]) -> LogTail {
    let mut tail = LogTail::new(
        RaftState::default(),
        CompactionPoint::default(),
        Vec::new(),
        LogIndex::ZERO,
        Vec::new(),
    );
    tail.append(entries);
    tail
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|e| e.index).collect()
}

#[test]
fn conflicting_suffix_is_replaced_with_its_terms() {
    let mut tail = tail(&[entry(1, 1, 0), entry(2, 1, 0), entry(3, 2, 0), entry(4, 2, 0)]);
    tail.append(&[entry(3, 5, 0)]);
    assert_eq!(tail.last(), LogIndex::new(3));
    let terms: Vec<_> = (0..=4).map(|i| tail.term_at(LogIndex::new(i)).map(Term::get)).collect();
    assert_eq!(terms, [Some(0), Some(1), Some(1), Some(5), None]);
}

#[test]
fn bytes_are_limited_but_never_below_one_entry() {
    let tail = tail(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
    let read = |max| {
        indexes(&tail.entries(1, 4, Some(max), GetEntriesContext::empty(false)).expect("in memory"))
    };
    assert_eq!(read(1), [1]);
    assert_eq!(read(2 * 132), [1, 2]);
    assert_eq!(read(u64::MAX), [1, 2, 3]);
}

#[test]
fn evicted_entries_are_fetched_once_and_served_from_the_fetch() {
    let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
    tail.evict(0, LogIndex::new(2));
    assert_eq!(tail.tail_start(), LogIndex::new(3));
    let asked = tail.entries(1, 4, None, GetEntriesContext::empty(true));
    assert!(matches!(asked, Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable))));
    let fetch = tail.take_fetches().pop().expect("one fetch");
    assert_eq!((fetch.from.get(), fetch.to.get()), (1, 3));
    let again = tail.entries(1, 4, None, GetEntriesContext::empty(true));
    assert!(again.is_err() && tail.take_fetches().is_empty(), "one read is under way");
    tail.fetch_ended(fetch.from);
    tail.set_fetched(vec![entry(1, 1, 100), entry(2, 1, 100)]);
    let got = tail.entries(2, 4, None, GetEntriesContext::empty(true)).expect("fetched");
    assert_eq!(indexes(&got), [2]);
}

#[test]
fn eviction_keeps_what_is_not_applied() {
    let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
    tail.evict(0, LogIndex::new(1));
    assert_eq!(tail.tail_start(), LogIndex::new(2));
    assert_eq!(tail.bytes(), 2 * 132);
}

#[test]
fn compaction_keeps_the_term_at_its_point() {
    let mut tail = tail(&[entry(1, 1, 0), entry(2, 1, 0), entry(3, 2, 0), entry(4, 2, 0)]);
    let point = tail.compact(LogIndex::new(2));
    assert_eq!(point, CompactionPoint { index: LogIndex::new(2), term: Term::new(1) });
    assert_eq!(tail.term_at(LogIndex::new(1)), None);
    assert_eq!(tail.term_at(LogIndex::new(2)), Some(Term::new(1)));
    assert_eq!(tail.term_at(LogIndex::new(3)), Some(Term::new(2)));
    let compacted = tail.entries(2, 4, None, GetEntriesContext::empty(false));
    assert!(matches!(compacted, Err(raft::Error::Store(StorageError::Compacted))));
    assert_eq!(tail.first_index().expect("known"), 3);
}

#[test]
#[should_panic(expected = "leaves a gap")]
fn a_gap_is_a_bug() {
    tail(&[entry(1, 1, 0)]).append(&[entry(3, 1, 0)]);
}
