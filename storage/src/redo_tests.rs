use std::collections::BTreeMap;

use polyraft_core::ports::StorageError;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::memory::{FailedCommit, MemoryTable};
use crate::memory_file::{MemoryFile, SECTOR_BYTES};

const ROWS: TableId = TableId(0);
const OTHER: TableId = TableId(1);
const TABLES: RedoTables = RedoTables { appended: ROWS, generation: TableId(2) };
/// Sixteen blocks: rows of more than two are written through.
const LOG_BYTES: usize = 16 * BLOCK_BYTES;

struct Store {
    dir: TempDir,
    disk: MemoryTable,
    redo: Redo<MemoryTable>,
}

impl Store {
    fn new() -> Self {
        let (dir, disk) = (tempfile::tempdir().unwrap(), MemoryTable::new(3));
        let redo = Self::open(&dir, &disk).unwrap();
        Self { dir, disk, redo }
    }

    fn open(dir: &TempDir, disk: &MemoryTable) -> Result<Redo<MemoryTable>, StorageError> {
        Redo::open(disk.clone(), TABLES, dir.path().join("redo").as_path(), LOG_BYTES)
    }

    /// What a killed process finds: nothing is brought anywhere when a store is dropped.
    fn restart(&mut self) {
        self.redo = Self::open(&self.dir, &self.disk).unwrap();
    }

    fn append(&self, key: u64, bytes: usize) -> Result<(), StorageError> {
        self.redo.append(ROWS, &key.to_be_bytes(), &vec![key as u8; bytes])
    }

    fn delete(&self, key: u64) -> Result<(), StorageError> {
        let key = key.to_be_bytes();
        self.redo.write(WriteSize::default(), &mut |write| write.delete(ROWS, &key))
    }

    fn scan(&self, from: Bound<u64>, to: Bound<u64>, reverse: bool) -> Vec<(u64, usize)> {
        let (from, to) = (from.map(u64::to_be_bytes), to.map(u64::to_be_bytes));
        let read = self.redo.read().unwrap();
        let mut rows = Vec::new();
        let bounds = (from.as_ref().map(|key| &key[..]), to.as_ref().map(|key| &key[..]));
        read.scan(ROWS, bounds.0, bounds.1, reverse, &mut |key, value| {
            rows.push((u64::from_be_bytes(key.try_into().unwrap()), value.len()));
            true
        })
        .unwrap();
        rows
    }

    fn keys(&self) -> Vec<u64> {
        let all = self.scan(Bound::Unbounded, Bound::Unbounded, false);
        all.into_iter().map(|(key, _)| key).collect()
    }

    fn in_the_table(&self) -> usize {
        self.disk.rows(ROWS).len()
    }
}

#[test]
fn an_append_needs_no_transaction_and_is_read_at_once() {
    let store = Store::new();
    let before = store.disk.stats().commits;
    (1..=5).for_each(|key| store.append(key, 10).unwrap());
    assert_eq!((store.disk.stats().commits, store.in_the_table()), (before, 0));
    assert_eq!(store.keys(), [1, 2, 3, 4, 5]);
    let read = store.redo.read().unwrap();
    assert_eq!(read.get(ROWS, &3_u64.to_be_bytes()).unwrap(), Some(&[3; 10][..]));
    assert_eq!(read.get(OTHER, &3_u64.to_be_bytes()).unwrap(), None);
}

#[test]
fn a_restart_finds_what_was_appended() {
    let mut store = Store::new();
    (1..=5).for_each(|key| store.append(key, 5000).unwrap());
    store.restart();
    assert_eq!((store.keys(), store.in_the_table()), (vec![1, 2, 3, 4, 5], 5));
    store.append(6, 10).unwrap();
    store.restart();
    assert_eq!(store.keys(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_full_log_goes_to_the_table_in_one_transaction() {
    let store = Store::new();
    let before = store.disk.stats().commits;
    (1..=17).for_each(|key| store.append(key, 10).unwrap());
    assert_eq!((store.disk.stats().commits - before, store.in_the_table()), (1, 16));
    assert_eq!(store.keys().len(), 17);
}

#[test]
fn a_large_row_is_written_through_behind_what_is_pending() {
    let store = Store::new();
    store.append(1, 10).unwrap();
    store.append(2, 7 * BLOCK_BYTES).unwrap();
    assert_eq!(store.in_the_table(), 0, "with its frame it takes half of the log");
    store.append(3, 8 * BLOCK_BYTES).unwrap();
    assert_eq!(store.in_the_table(), 3);
    assert_eq!(store.keys(), [1, 2, 3]);
}

#[test]
fn a_deleted_row_does_not_come_back() {
    let mut store = Store::new();
    (1..=3).for_each(|key| store.append(key, 10).unwrap());
    store.delete(1).unwrap();
    assert_eq!(store.keys(), [2, 3]);
    store.restart();
    assert_eq!(store.keys(), [2, 3]);
    store.append(4, 10).unwrap();
    store.restart();
    assert_eq!(store.keys(), [2, 3, 4]);
}

#[test]
fn a_reader_keeps_what_it_saw() {
    let store = Store::new();
    store.append(1, 10).unwrap();
    let read = store.redo.read().unwrap();
    store.append(2, 10).unwrap();
    store.delete(1).unwrap();
    assert_eq!(read.get(ROWS, &1_u64.to_be_bytes()).unwrap(), Some(&[1; 10][..]));
    assert_eq!(read.get(ROWS, &2_u64.to_be_bytes()).unwrap(), None);
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_loses_nothing() {
    let mut store = Store::new();
    (1..=16).for_each(|key| store.append(key, 10).unwrap());
    store.disk.set_full(true);
    assert!(matches!(store.append(17, 10), Err(StorageError::Full { .. })));
    assert_eq!(store.keys().len(), 16);
    store.disk.set_full(false);
    store.append(17, 10).unwrap();
    store.restart();
    assert_eq!(store.keys(), (1..=17).collect::<Vec<_>>());
}

#[test]
fn a_transaction_that_fails_is_found_done_or_not_after_a_restart() {
    for (outcome, left) in [(FailedCommit::Lost, vec![1, 2]), (FailedCommit::Written, vec![2])] {
        let mut store = Store::new();
        (1..=2).for_each(|key| store.append(key, 10).unwrap());
        store.disk.fail_next_commit(outcome);
        assert!(store.delete(1).is_err());
        store.restart();
        assert_eq!(store.keys(), left);
    }
}

#[test]
fn the_log_of_an_existing_store_may_not_be_gone() {
    let store = Store::new();
    store.append(1, 10).unwrap();
    std::fs::remove_file(store.dir.path().join("redo")).unwrap();
    let gone = Store::open(&store.dir, &store.disk);
    assert!(
        matches!(gone, Err(StorageError::Io { doing: "opening the redo log", .. })),
        "{gone:?}"
    );
}

#[test]
fn damage_in_the_middle_is_left_to_the_reader_and_a_cut_end_is_dropped() {
    let mut store = Store::new();
    (1..=4).for_each(|key| store.append(key, 10).unwrap());
    let path = store.dir.path().join("redo");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[BLOCK_BYTES] ^= 1; // the header of 2
    bytes[2 * BLOCK_BYTES + 50] ^= 1; // the value of 3
    bytes[3 * BLOCK_BYTES + 50] ^= 1; // the value of 4, the last
    std::fs::write(&path, bytes).unwrap();
    store.restart();
    assert_eq!(store.keys(), [1, 3]);
    let read = store.redo.read().unwrap();
    let value = read.get(ROWS, &3_u64.to_be_bytes()).unwrap().unwrap();
    assert_ne!(value, &[3; 10][..]);
}

#[test]
fn after_a_failed_transaction_nothing_more_is_taken_until_a_restart() {
    for outcome in [FailedCommit::Lost, FailedCommit::Written] {
        let mut store = Store::new();
        (1..=2).for_each(|key| store.append(key, 10).unwrap());
        store.disk.fail_next_commit(outcome);
        assert!(store.delete(9).is_err());
        // The generation is unknown now: a frame might be of the wrong one, and forgotten.
        assert!(matches!(store.append(3, 10), Err(StorageError::Poisoned)), "{outcome:?}");
        assert!(matches!(store.delete(1), Err(StorageError::Poisoned)), "{outcome:?}");
        assert_eq!(store.keys(), [1, 2], "{outcome:?}");
        store.restart();
        store.append(3, 10).unwrap();
        store.restart();
        assert_eq!(store.keys(), [1, 2, 3], "{outcome:?}");
    }
}

#[test]
fn a_failed_transaction_without_anything_pending_is_as_final() {
    let store = Store::new();
    store.disk.fail_next_commit(FailedCommit::Lost);
    assert!(store.delete(1).is_err());
    assert!(matches!(store.append(1, 10), Err(StorageError::Poisoned)));
}

#[test]
fn a_new_store_takes_nothing_from_the_log_of_another() {
    let mut store = Store::new();
    (1..=3).for_each(|key| store.append(key, 10).unwrap());
    store.disk = MemoryTable::new(3);
    store.restart();
    assert_eq!(store.keys(), [0; 0]);
    store.append(1, 10).unwrap();
    store.restart();
    assert_eq!(store.keys(), [1]);
}

#[test]
fn a_store_opens_and_is_read_on_a_full_disk() {
    let mut store = Store::new();
    (1..=3).for_each(|key| store.append(key, 10).unwrap());
    store.disk.set_full(true);
    for _ in 0..2 {
        store.restart();
        assert_eq!((store.keys(), store.in_the_table()), (vec![1, 2, 3], 0));
        assert!(matches!(store.append(4, 10), Err(StorageError::Full { .. })));
        assert!(matches!(store.delete(1), Err(StorageError::Full { .. })));
    }
    store.disk.set_full(false);
    store.append(4, 10).unwrap();
    store.restart();
    assert_eq!(store.keys(), [1, 2, 3, 4]);
}

#[test]
fn a_reader_that_a_transaction_overtakes_sees_it_whole() {
    let store = Store::new();
    (1..=2).for_each(|key| store.append(key, 10).unwrap());
    let pending = store.redo.inner.pending();
    store.append(3, 10).unwrap();
    store.delete(1).unwrap();
    let read = store.redo.inner.view(pending, store.disk.read().unwrap()).unwrap();
    assert_eq!(read.get(ROWS, &1_u64.to_be_bytes()).unwrap(), None);
    let mut keys = Vec::new();
    let all = (Bound::Unbounded, Bound::Unbounded);
    let visit = &mut |key: &[u8], _: &[u8]| {
        keys.push(u64::from_be_bytes(key.try_into().unwrap()));
        true
    };
    read.scan(ROWS, all.0, all.1, false, visit).unwrap();
    assert_eq!(keys, [2, 3]);
}

/// Goal: whatever a writer does, a reader sees a run of keys in order. Method: a window of rows that
/// moves, appended and deleted by one thread, scanned by another until it is at the end.
#[test]
fn a_reader_beside_a_writer_sees_rows_in_order_and_without_a_gap() {
    const LAST: u64 = 400;
    let store = Store::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for key in 1..=LAST {
                store.append(key, 10).unwrap();
                if key % 3 == 0 && key > 8 {
                    (key - 8..key - 5).for_each(|old| store.delete(old).unwrap());
                }
            }
        });
        for reverse in [false, true].into_iter().cycle() {
            let rows = store.scan(Bound::Unbounded, Bound::Unbounded, reverse);
            let mut keys: Vec<_> = rows.into_iter().map(|(key, _)| key).collect();
            if reverse {
                keys.reverse();
            }
            assert!(keys.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{keys:?}");
            if keys.last() == Some(&LAST) {
                break;
            }
        }
    });
}

#[test]
fn a_damaged_generation_hides_no_row() {
    let store = Store::new();
    (1..=3).for_each(|key| store.append(key, 10).unwrap());
    for bit in 0..8 * 12 {
        let disk = store.disk.copy();
        assert!(disk.flip_bit(TABLES.generation, GENERATION, bit));
        let opened = Store::open(&store.dir, &disk);
        assert!(matches!(opened, Err(StorageError::Io { .. })), "bit {bit}: {opened:?}");
    }
    assert_eq!(Store::open(&store.dir, &store.disk).unwrap().inner.pending().generation, 2);
    assert_eq!(store.in_the_table(), 3);
}

/// A disk as a crash left it, opened again: its keys and values.
fn after_crash(file: &[u8], disk: &MemoryTable) -> Vec<(u64, Vec<u8>)> {
    let file = MemoryFile::holding(file.to_vec());
    let redo = Redo::<_, MemoryFile>::open(disk.copy(), TABLES, &file, LOG_BYTES).unwrap();
    let mut rows = Vec::new();
    let read = redo.read().unwrap();
    read.scan(ROWS, Bound::Unbounded, Bound::Unbounded, false, &mut |key, value| {
        rows.push((u64::from_be_bytes(key.try_into().unwrap()), value.to_vec()));
        true
    })
    .unwrap();
    rows
}

/// Every way in which a write of the blocks that differ may have stopped: each set of them, and each
/// sector of a block that was under way.
fn torn(before: &[u8], after: &[u8]) -> Vec<Vec<u8>> {
    let blocks: Vec<_> = (0..before.len() / BLOCK_BYTES)
        .map(|block| block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES)
        .filter(|block| before[block.clone()] != after[block.clone()])
        .collect();
    let mut files = Vec::new();
    for set in 0..1_u32 << blocks.len() {
        let mut file = before.to_vec();
        for (at, block) in blocks.iter().enumerate().filter(|(at, _)| set & 1 << at != 0) {
            file[block.clone()].copy_from_slice(&after[block.clone()]);
            let cut = block.start + SECTOR_BYTES * (1 + (at + set as usize) % 7);
            let mut half = file.clone();
            half[cut..block.end].copy_from_slice(&before[cut..block.end]);
            files.push(half);
        }
        files.push(file);
    }
    files
}

/// Goal: after a crash at any step, with the write under way torn in any way, what was acknowledged is
/// there, in order, and nothing else but the write that was under way.
#[test]
fn every_crash_of_a_history_leaves_what_was_acknowledged() {
    let store = Store::new();
    let path = store.dir.path().join("redo");
    let mut model: Vec<(u64, Vec<u8>)> = Vec::new();
    let sizes = [10, 4_000, 4_100, 8_000, 1, 0, 8_100, 20_000, 4_060];
    let mut crashes = 0;
    for (key, bytes) in (1..40).zip(sizes.into_iter().cycle()) {
        let (file, disk) = (std::fs::read(&path).unwrap(), store.disk.copy());
        store.append(key, bytes).unwrap();
        let written = std::fs::read(&path).unwrap();
        let mut with = model.clone();
        with.push((key, vec![key as u8; bytes]));
        for disk in [&disk, &store.disk] {
            // A transaction before the write is there or not; the write comes after it.
            let is_settled = disk.rows(ROWS).len() == store.in_the_table();
            let files = if is_settled { torn(&file, &written) } else { vec![file.clone()] };
            for file in files {
                let found = after_crash(&file, disk);
                assert!(found == model || found == with, "key {key}, {} rows found", found.len());
                crashes += 1;
            }
        }
        model = with;
        assert_eq!(after_crash(&written, &store.disk), model, "key {key}");
        if key % 7 == 0 {
            let (oldest, _) = model.remove(0);
            let disk = store.disk.copy();
            store.delete(oldest).unwrap();
            assert_eq!(after_crash(&written, &store.disk), model, "without {oldest}");
            assert_eq!(after_crash(&written, &disk).len(), model.len() + 1, "with {oldest}");
        }
    }
    assert!(crashes > 150, "{crashes}");
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    DeleteOldest,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3 * BLOCK_BYTES).prop_map(Step::Append),
        1 => Just(Step::DeleteOldest),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_read_back_as_the_model_says(steps in steps(), low in 0..60_u64, high in 0..60_u64) {
        let (mut store, mut model, mut next) = (Store::new(), BTreeMap::new(), 1);
        for step in steps {
            match step {
                Step::Append(bytes) => {
                    store.append(next, bytes).unwrap();
                    model.insert(next, bytes);
                    next += 1;
                }
                Step::DeleteOldest => {
                    if let Some((key, _)) = model.pop_first() {
                        store.delete(key).unwrap();
                    }
                }
                Step::Restart => store.restart(),
            }
            let all: Vec<_> = model.iter().map(|(key, bytes)| (*key, *bytes)).collect();
            prop_assert_eq!(store.scan(Bound::Unbounded, Bound::Unbounded, false), all);
        }
        let (low, high) = (low.min(high), low.max(high));
        for bounds in [(Bound::Included(low), Bound::Excluded(high)), (Bound::Excluded(low), Bound::Unbounded)] {
            let expected: Vec<_> = match low == high {
                true if bounds.1 != Bound::Unbounded => Vec::new(),
                _ => model.range(bounds).map(|(key, bytes)| (*key, *bytes)).collect(),
            };
            prop_assert_eq!(&store.scan(bounds.0, bounds.1, false), &expected);
            let reversed: Vec<_> = expected.into_iter().rev().collect();
            prop_assert_eq!(store.scan(bounds.0, bounds.1, true), reversed);
        }
    }
}
