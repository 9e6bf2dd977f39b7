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

fn term_of(tail: &LogTail, index: u64) -> Option<u64> {
    tail.term_at(LogIndex::new(index)).map(Term::get)
}

/// A log of ten entries of term 3, of which the last two are in memory and four are compacted.
fn restored() -> LogTail {
    LogTail::new(
        RaftState::default(),
        CompactionPoint { index: LogIndex::new(4), term: Term::new(2) },
        vec![(LogIndex::new(5), Term::new(3))],
        LogIndex::new(10),
        vec![entry(9, 3, 100), entry(10, 3, 100)],
    )
}

#[test]
fn a_restored_tail_knows_the_terms_of_what_it_does_not_hold() {
    let tail = restored();
    let terms = [3, 4, 5, 8, 10, 11].map(|index| term_of(&tail, index));
    assert_eq!(terms, [None, Some(2), Some(3), Some(3), Some(3), None]);
}

#[test]
fn a_restored_tail_starts_behind_what_is_on_disk_only() {
    let tail = restored();
    assert_eq!((tail.tail_start(), tail.last()), (LogIndex::new(9), LogIndex::new(10)));
    assert_eq!((tail.bytes(), tail.end_bytes()), (264, 264));
}

#[test]
#[should_panic(expected = "end before the log does")]
fn restored_entries_reach_the_end() {
    LogTail::new(
        RaftState::default(),
        CompactionPoint::default(),
        vec![(LogIndex::new(1), Term::new(1))],
        LogIndex::new(3),
        vec![entry(2, 1, 0)],
    );
}

#[test]
fn an_empty_log_ends_where_it_was_compacted() {
    let point = CompactionPoint { index: LogIndex::new(7), term: Term::new(2) };
    let tail = LogTail::new(RaftState::default(), point, vec![], LogIndex::new(7), vec![]);
    assert_eq!((tail.tail_start(), tail.last()), (LogIndex::new(8), LogIndex::new(7)));
    assert_eq!(tail.first_index().expect("known"), 8);
    assert_eq!(tail.last_index().expect("known"), 7);
}

#[test]
fn appending_nothing_changes_nothing() {
    let mut tail = tail(&[entry(1, 1, 8)]);
    tail.append(&[]);
    assert_eq!((tail.last(), tail.bytes()), (LogIndex::new(1), 40));
}

#[test]
fn a_replaced_suffix_is_not_charged() {
    let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
    tail.append(&[entry(2, 2, 10)]);
    assert_eq!((tail.bytes(), tail.end_bytes()), (132 + 42, 132 + 42));
}

#[test]
fn the_whole_live_log_can_be_replaced() {
    let mut tail = tail(&[entry(1, 1, 0), entry(2, 1, 0)]);
    tail.append(&[entry(1, 9, 0)]);
    assert_eq!([1, 2].map(|index| term_of(&tail, index)), [Some(9), None]);
}

#[test]
fn a_term_that_comes_back_starts_a_run_of_its_own() {
    let mut tail = tail(&[entry(1, 1, 0), entry(2, 2, 0)]);
    tail.append(&[entry(2, 1, 0), entry(3, 4, 0)]);
    assert_eq!([1, 2, 3].map(|index| term_of(&tail, index)), [Some(1), Some(1), Some(4)]);
}

#[test]
#[should_panic(expected = "rewrites history")]
fn what_is_compacted_is_never_replaced() {
    restored().append(&[entry(4, 9, 0)]);
}

#[test]
#[should_panic(expected = "reaches below the tail")]
fn what_is_on_disk_only_is_never_replaced() {
    restored().append(&[entry(6, 9, 0)]);
}

#[test]
#[should_panic(expected = "not contiguous")]
fn appended_entries_follow_each_other() {
    tail(&[entry(1, 1, 0), entry(3, 1, 0)]);
}

#[test]
fn eviction_stops_at_its_budget() {
    let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
    tail.evict(2 * 132, LogIndex::new(3));
    assert_eq!((tail.tail_start(), tail.bytes()), (LogIndex::new(2), 264));
}

#[test]
fn evicted_entries_stay_part_of_the_log() {
    let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100)]);
    tail.evict(0, LogIndex::new(2));
    assert_eq!((tail.tail_start(), tail.last()), (LogIndex::new(3), LogIndex::new(2)));
    assert_eq!((tail.bytes(), tail.end_bytes()), (0, 264));
    assert_eq!(term_of(&tail, 1), Some(1));
}

#[test]
fn an_emptied_tail_goes_on_at_its_end() {
    let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100)]);
    tail.evict(0, LogIndex::new(2));
    tail.append(&[entry(3, 2, 0)]);
    assert_eq!((tail.tail_start(), tail.last()), (LogIndex::new(3), LogIndex::new(3)));
}

#[test]
fn compaction_frees_what_is_in_memory() {
    let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
    tail.compact(LogIndex::new(2));
    assert_eq!((tail.bytes(), tail.end_bytes()), (132, 396));
    assert_eq!(tail.compacted().index, LogIndex::new(2));
}

#[test]
fn a_log_can_be_compacted_to_its_end() {
    let mut tail = tail(&[entry(1, 1, 0), entry(2, 5, 0)]);
    tail.compact(LogIndex::new(2));
    assert_eq!(term_of(&tail, 2), Some(5));
    tail.append(&[entry(3, 6, 0)]);
    assert_eq!([2, 3].map(|index| term_of(&tail, index)), [Some(5), Some(6)]);
}

#[test]
#[should_panic(expected = "compaction to 3 outside")]
fn compaction_ends_within_the_log() {
    tail(&[entry(1, 1, 0), entry(2, 1, 0)]).compact(LogIndex::new(3));
}

#[test]
#[should_panic(expected = "compaction to 4 outside")]
fn compaction_goes_forward() {
    restored().compact(LogIndex::new(4));
}

#[test]
fn a_compacted_range_is_not_waited_for() {
    let mut tail = restored();
    assert!(tail.entries(5, 11, None, GetEntriesContext::empty(true)).is_err());
    assert_eq!(tail.take_fetches().len(), 1);
    tail.compact(LogIndex::new(6));
    assert!(tail.entries(7, 11, None, GetEntriesContext::empty(true)).is_err());
    let again = tail.take_fetches();
    assert_eq!(again.iter().map(|fetch| fetch.from.get()).collect::<Vec<_>>(), [7]);
}

#[test]
fn different_followers_fetch_different_ranges() {
    let tail = restored();
    for low in [5, 7] {
        assert!(tail.entries(low, 11, Some(1_000), GetEntriesContext::empty(true)).is_err());
    }
    let asked = tail.fetches.take();
    let shape: Vec<_> = asked.iter().map(|f| (f.from.get(), f.to.get(), f.bytes_max)).collect();
    assert_eq!(shape, [(5, 9, 1_000), (7, 9, 1_000)]);
}

#[test]
#[should_panic(expected = "raft-rs needs [5, 11) now")]
fn what_cannot_wait_is_in_memory() {
    let _ = restored().entries(5, 11, None, GetEntriesContext::empty(false));
}

#[test]
#[should_panic(expected = "end after 10")]
fn nobody_reads_beyond_the_log() {
    let _ = restored().entries(9, 12, None, GetEntriesContext::empty(false));
}

#[test]
fn fetched_entries_end_where_they_were_wanted() {
    let mut tail = restored();
    tail.set_fetched(vec![entry(5, 3, 0), entry(6, 3, 0), entry(7, 3, 0)]);
    let read = |low, high, max| {
        tail.entries(low, high, max, GetEntriesContext::empty(true)).map(|e| indexes(&e))
    };
    assert_eq!(read(5, 7, None).expect("fetched"), [5, 6]);
    assert_eq!(read(5, 8, Some(1)).expect("fetched"), [5], "never less than one");
    assert!(read(8, 9, None).is_err(), "not among them");
}

#[test]
fn there_is_never_a_snapshot() {
    let none = restored().snapshot(1, 2);
    let expected = raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable);
    assert_eq!(none.map(|_| ()), Err(expected));
}

#[test]
fn terms_outside_the_log_say_which_side() {
    let tail = restored();
    let compacted = raft::Error::Store(StorageError::Compacted);
    let unavailable = raft::Error::Store(StorageError::Unavailable);
    assert_eq!([tail.term(3), tail.term(11)], [Err(compacted), Err(unavailable)]);
}

fn runs(tail: &LogTail) -> Vec<(u64, u64)> {
    tail.term_runs.iter().map(|(start, term)| (start.get(), term.get())).collect()
}

#[test]
fn entries_of_one_term_share_a_run() {
    let mut tail = tail(&[entry(1, 1, 0), entry(2, 1, 0), entry(3, 2, 0)]);
    tail.append(&[entry(4, 2, 0)]);
    assert_eq!(runs(&tail), [(1, 1), (3, 2)]);
}

#[test]
fn a_run_that_was_replaced_does_not_cover_what_took_its_place() {
    let mut tail = tail(&[entry(1, 1, 0), entry(2, 1, 0), entry(3, 2, 0)]);
    tail.append(&[entry(2, 2, 0)]);
    assert_eq!((term_of(&tail, 2), runs(&tail)), (Some(2), vec![(1, 1), (2, 2)]));
}

#[test]
fn a_run_that_starts_at_the_replacement_is_gone() {
    let mut tail = tail(&[entry(1, 1, 0), entry(2, 2, 0), entry(3, 2, 0)]);
    tail.append(&[entry(2, 3, 0)]);
    assert_eq!(runs(&tail), [(1, 1), (2, 3)]);
}

#[test]
fn compaction_forgets_the_runs_before_it() {
    let runs_after = |index| {
        let mut tail =
            tail(&[entry(1, 1, 0), entry(2, 1, 0), entry(3, 2, 0), entry(4, 2, 0), entry(5, 3, 0)]);
        tail.compact(LogIndex::new(index));
        runs(&tail)
    };
    assert_eq!(runs_after(1), [(1, 1), (3, 2), (5, 3)]);
    assert_eq!(runs_after(2), [(3, 2), (5, 3)], "a run that starts behind the point is the first");
    assert_eq!(runs_after(3), [(3, 2), (5, 3)]);
    assert_eq!(runs_after(4), [(5, 3)]);
}

/// Asks for the entries from `low` on; where the reads that follow start.
fn fetches(tail: &mut LogTail, low: u64) -> Vec<u64> {
    assert!(tail.entries(low, 11, None, GetEntriesContext::empty(true)).is_err());
    tail.take_fetches().iter().map(|fetch| fetch.from.get()).collect()
}

#[test]
fn a_read_that_ended_may_be_asked_for_again() {
    let mut tail = restored();
    assert_eq!(fetches(&mut tail, 5), [5]);
    tail.fetch_ended(LogIndex::new(5));
    assert_eq!(fetches(&mut tail, 5), [5]);
}

#[test]
fn a_read_that_ended_ends_no_other() {
    let mut tail = restored();
    assert_eq!((fetches(&mut tail, 5), fetches(&mut tail, 7)), (vec![5], vec![7]));
    tail.fetch_ended(LogIndex::new(5));
    assert_eq!(fetches(&mut tail, 7), [0; 0], "it is under way");
}

#[test]
fn a_read_behind_a_compaction_is_still_under_way() {
    let mut tail = restored();
    assert_eq!(fetches(&mut tail, 7), [7]);
    tail.compact(LogIndex::new(6));
    assert_eq!(fetches(&mut tail, 7), [0; 0]);
}

#[test]
fn a_read_goes_no_further_than_was_asked() {
    let tail = restored();
    assert!(tail.entries(5, 7, None, GetEntriesContext::empty(true)).is_err());
    let asked = tail.fetches.take();
    let shape: Vec<_> = asked.iter().map(|f| (f.from.get(), f.to.get(), f.bytes_max)).collect();
    assert_eq!(shape, [(5, 7, usize::MAX)]);
}

#[test]
fn fetched_entries_do_not_answer_for_what_is_before_them() {
    let mut tail = restored();
    tail.set_fetched(vec![entry(6, 3, 0), entry(7, 3, 0)]);
    assert_eq!(fetches(&mut tail, 5), [5]);
}

#[test]
fn raft_may_ask_for_the_term_at_the_compaction_point() {
    let tail = restored();
    let terms = [tail.term(4), tail.term(5), tail.term(10)];
    assert_eq!(terms, [Ok(2), Ok(3), Ok(3)]);
}

#[test]
fn memory_holds_what_is_read_across_its_start_only_from_there() {
    let tail = restored();
    let read = |low, high| {
        let entries = tail.entries(low, high, None, GetEntriesContext::empty(false));
        indexes(&entries.expect("in memory"))
    };
    assert_eq!((read(9, 11), read(9, 10), read(11, 11)), (vec![9, 10], vec![9], vec![]));
}

#[test]
fn eviction_of_a_budget_that_is_met_keeps_everything() {
    let mut tail = tail(&[entry(1, 1, 100), entry(2, 1, 100)]);
    tail.evict(264, LogIndex::new(2));
    assert_eq!(tail.tail_start(), LogIndex::new(1));
    tail.evict(263, LogIndex::new(2));
    assert_eq!(tail.tail_start(), LogIndex::new(2));
}
