use std::collections::BTreeMap;

use polyraft_core::ports::StorageError;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::memory::{FailedCommit, MemoryTable};

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
        Redo::open(disk.clone(), TABLES, &dir.path().join("redo"), LOG_BYTES)
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
    store.append(2, 3 * BLOCK_BYTES).unwrap();
    assert_eq!(store.in_the_table(), 2);
    assert_eq!(store.keys(), [1, 2]);
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
