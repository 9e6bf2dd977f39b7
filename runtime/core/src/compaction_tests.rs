//! Tests of compaction: which bound decides, by entries and by bytes.

use super::*;

const LAST: LogIndex = LogIndex::new(1_000);

fn retention(keep_entries: u64, keep_bytes: u64, step_entries: u64) -> Retention {
    Retention { keep_entries, keep_bytes, step_entries }
}

fn due(floor: u64, durable: u64, compacted: u64) -> Option<u64> {
    let mut compaction = Compaction::new(retention(10, 1 << 20, 5), LogIndex::new(durable));
    compaction.raise_floor(LogIndex::new(floor));
    compaction.due(LogIndex::new(compacted), LAST).map(LogIndex::get)
}

#[test]
fn the_slowest_bound_decides() {
    assert_eq!(due(100, 50, 0), Some(40));
    assert_eq!(due(50, 100, 0), Some(40));
}

#[test]
fn a_floor_that_nobody_told_keeps_everything() {
    assert_eq!(due(0, 100, 0), None);
}

#[test]
fn a_log_shorter_than_its_tail_is_kept() {
    assert_eq!(due(10, 10, 0), None);
}

#[test]
fn small_steps_wait() {
    assert_eq!(due(100, 100, 86), None);
    assert_eq!(due(100, 100, 85), Some(90));
}

#[test]
fn a_step_of_nothing_is_no_compaction() {
    let mut compaction = Compaction::new(retention(0, 1 << 20, 0), LogIndex::new(7));
    compaction.raise_floor(LogIndex::new(7));
    assert_eq!(compaction.due(LogIndex::new(7), LAST), None);
}

#[test]
fn a_floor_beyond_the_own_log_is_cut_to_it() {
    let mut compaction = Compaction::new(retention(0, 1 << 20, 1), LogIndex::new(50));
    compaction.raise_floor(LogIndex::new(90));
    assert_eq!(compaction.due(LogIndex::ZERO, LogIndex::new(30)), Some(LogIndex::new(30)));
}

#[test]
fn bounds_never_fall() {
    let mut compaction = Compaction::new(retention(0, 1 << 20, 1), LogIndex::ZERO);
    for index in [9, 3] {
        compaction.raise_floor(LogIndex::new(index));
        compaction.durable_applied(LogIndex::new(index));
    }
    assert_eq!(compaction.due(LogIndex::ZERO, LogIndex::new(20)), Some(LogIndex::new(9)));
}

/// A log of `entries` entries of 10 bytes, one per append, that may keep 160 bytes and 1,000
/// entries; everyone has everything up to `safe`.
fn heavy(entries: u64, safe: u64) -> Compaction {
    let mut compaction = Compaction::new(retention(1_000, 160, 1_000), LogIndex::new(safe));
    compaction.raise_floor(LogIndex::new(safe));
    for index in 1..=entries {
        let at = LogIndex::new(index);
        compaction.log_changed(at, at, index * 10);
    }
    compaction
}

#[test]
fn bytes_within_the_cap_are_kept() {
    assert_eq!(heavy(16, 16).due(LogIndex::ZERO, LogIndex::new(16)), None);
}

#[test]
fn bytes_beyond_the_cap_go_although_the_entries_are_few() {
    let mut compaction = heavy(20, 20);
    assert_eq!(compaction.due(LogIndex::ZERO, LogIndex::new(20)), Some(LogIndex::new(4)));
    assert_eq!(compaction.due(LogIndex::new(4), LogIndex::new(20)), None, "160 bytes are left");
}

#[test]
fn bytes_that_a_replica_lacks_are_kept_whatever_the_cap() {
    assert_eq!(heavy(100, 3).due(LogIndex::ZERO, LogIndex::new(100)), Some(LogIndex::new(3)));
    assert_eq!(heavy(100, 0).due(LogIndex::ZERO, LogIndex::new(100)), None);
}

#[test]
fn bytes_that_were_held_back_go_when_the_floor_rises() {
    let mut compaction = heavy(100, 3);
    assert_eq!(compaction.due(LogIndex::ZERO, LogIndex::new(100)), Some(LogIndex::new(3)));
    compaction.raise_floor(LogIndex::new(100));
    compaction.durable_applied(LogIndex::new(100));
    let next = compaction.due(LogIndex::new(3), LogIndex::new(100));
    assert_eq!(next, Some(LogIndex::new(84)));
}

#[test]
fn replaced_entries_do_not_count() {
    let mut compaction = heavy(20, 20);
    compaction.log_changed(LogIndex::new(11), LogIndex::new(11), 110);
    assert_eq!(compaction.due(LogIndex::ZERO, LogIndex::new(11)), None, "110 bytes are left");
}

/// 20 entries of 10 bytes, all of which everyone has; two may stay, or 160 bytes.
fn cut_by_entries() -> Compaction {
    let mut compaction = Compaction::new(retention(2, 160, 1), LogIndex::new(20));
    compaction.raise_floor(LogIndex::new(20));
    for index in 1..=20 {
        let at = LogIndex::new(index);
        compaction.log_changed(at, at, index * 10);
    }
    compaction
}

#[test]
fn the_larger_of_both_cuts_is_made() {
    let mut compaction = cut_by_entries();
    assert_eq!(compaction.due(LogIndex::ZERO, LogIndex::new(20)), Some(LogIndex::new(18)));
}

#[test]
fn small_appends_share_a_mark() {
    let mut compaction = heavy(0, 1_000);
    for index in 1..=1_000 {
        let at = LogIndex::new(index);
        compaction.log_changed(at, at, index);
    }
    let cut = compaction.due(LogIndex::ZERO, LAST).expect("1,000 bytes are more than 160");
    assert!((840..=850).contains(&cut.get()), "within a mark of the cap: {cut}");
    assert!(compaction.marks.len() <= MARKS_PER_CAP as usize, "{}", compaction.marks.len());
}

#[test]
fn an_entry_that_is_replaced_at_a_mark_takes_the_mark_along() {
    let mut compaction = heavy(20, 20);
    compaction.log_changed(LogIndex::new(20), LogIndex::new(20), 195);
    assert_eq!(compaction.marks.back(), Some(&(LogIndex::new(19), 190)), "5 bytes are no mark");
}

#[test]
fn what_is_compacted_already_is_not_compacted_again() {
    assert_eq!(heavy(20, 20).due(LogIndex::new(4), LogIndex::new(20)), None);
}

#[test]
fn marks_up_to_a_cut_by_entries_are_gone_with_it() {
    let mut compaction = cut_by_entries();
    assert_eq!(compaction.due(LogIndex::ZERO, LogIndex::new(20)), Some(LogIndex::new(18)));
    assert_eq!((compaction.marks.len(), compaction.start_bytes), (2, 180));
}
