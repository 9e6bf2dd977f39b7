//! Goal: a group's state reads as if every write were durable, and after a crash it is exactly the
//! state of its applied index. Method: a model map beside the buffers, on memory and on LMDB.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use polyraft_core::ids::{GroupId, LogIndex, Term};
use polyraft_core::limits::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX};
use polyraft_core::ports::{GroupState, StateStore, StorageError};
use polyraft_core::state_machine::StateError;
use proptest::prelude::*;

use crate::lmdb::{LmdbOptions, LmdbTable};
use crate::memory::{FailedCommit, MemoryTable};
use crate::state_store::{APPLIED, STATE, STATE_TABLES, TableStateStore};
use crate::table::TableStore;

type Pairs = Vec<(Vec<u8>, Bytes)>;

fn disk() -> MemoryTable {
    MemoryTable::new(STATE_TABLES.len())
}

fn group(raw: u64) -> GroupId {
    GroupId::new(raw)
}

fn scan(state: &dyn GroupState, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Pairs {
    let mut pairs = Pairs::new();
    let visit = &mut |key: &[u8], value: &Bytes| {
        pairs.push((key.to_vec(), value.clone()));
        true
    };
    state.scan(from, to, reverse, visit).unwrap();
    pairs
}

fn all(state: &dyn GroupState) -> Pairs {
    scan(state, Bound::Unbounded, Bound::Unbounded, false)
}

fn pairs(expected: &[(&str, &str)]) -> Pairs {
    let pair = |(key, value): &(&str, &str)| (key.as_bytes().to_vec(), value.to_string().into());
    expected.iter().map(pair).collect()
}

fn apply(state: &mut dyn GroupState, at: u64, writes: &[(&str, Option<&'static str>)]) {
    state.begin();
    for (key, value) in writes {
        match value {
            Some(value) => state.put(key.as_bytes(), Bytes::from_static(value.as_bytes())).unwrap(),
            None => state.delete(key.as_bytes()).unwrap(),
        }
    }
    state.set_applied(LogIndex::new(at), Term::new(1));
}

fn flush<T: TableStore>(store: &TableStateStore<T>, state: &mut dyn GroupState) {
    if let Some(frozen) = state.freeze() {
        store.flush(&[frozen]).unwrap();
        state.flushed();
    }
}

#[test]
fn a_crash_returns_to_the_last_flush_and_its_applied_index() {
    let disk = disk();
    let store = TableStateStore::new(disk.clone());
    let mut state = store.open(group(1)).unwrap();
    assert_eq!((state.applied(), state.durable_applied()), Default::default());
    apply(&mut *state, 3, &[("a", Some("1")), ("b", Some("2"))]);
    flush(&store, &mut *state);
    apply(&mut *state, 4, &[("a", None), ("c", Some("3"))]);
    assert_eq!(all(&*state), pairs(&[("b", "2"), ("c", "3")]));
    assert_eq!((state.applied().0, state.durable_applied()), (LogIndex::new(4), LogIndex::new(3)));
    let state = TableStateStore::new(disk).open(group(1)).unwrap();
    assert_eq!(all(&*state), pairs(&[("a", "1"), ("b", "2")]));
    assert_eq!(state.applied(), (LogIndex::new(3), Term::new(1)));
}

#[test]
fn a_failed_flush_leaves_all_groups_or_none_and_poisons() {
    for outcome in [FailedCommit::Lost, FailedCommit::Written] {
        let disk = disk();
        let store = TableStateStore::new(disk.clone());
        let mut frozen = Vec::new();
        for raw in 1..=3 {
            let mut state = store.open(group(raw)).unwrap();
            apply(&mut *state, 5, &[("k", Some("v"))]);
            frozen.push(state.freeze().unwrap());
        }
        disk.fail_next_commit(outcome);
        assert!(matches!(store.flush(&frozen), Err(StorageError::Io { .. })));
        assert!(matches!(store.flush(&frozen), Err(StorageError::Poisoned)));
        let reopened = TableStateStore::new(disk);
        for raw in 1..=3 {
            let state = reopened.open(group(raw)).unwrap();
            let found = (all(&*state).len(), state.durable_applied().get());
            let expected = if outcome == FailedCommit::Lost { (0, 0) } else { (1, 5) };
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn flushing_again_or_late_changes_nothing_and_full_is_no_poison() {
    let disk = disk();
    let store = TableStateStore::new(disk.clone());
    let mut state = store.open(group(1)).unwrap();
    apply(&mut *state, 1, &[("a", Some("1"))]);
    let first = state.freeze().unwrap();
    disk.set_full(true);
    assert!(matches!(store.flush(std::slice::from_ref(&first)), Err(StorageError::Full { .. })));
    disk.set_full(false);
    store.flush(std::slice::from_ref(&first)).unwrap();
    state.flushed();
    apply(&mut *state, 2, &[("a", Some("2"))]);
    flush(&store, &mut *state);
    store.flush(&[first]).unwrap();
    let reopened = store.open(group(1)).unwrap();
    assert_eq!(all(&*reopened), pairs(&[("a", "2")]));
    assert_eq!(reopened.durable_applied().get(), 2);
}

#[test]
fn freeze_takes_only_applied_writes_and_one_flush_is_under_way_at_most() {
    let store = TableStateStore::new(disk());
    let mut state = store.open(group(1)).unwrap();
    assert!(state.freeze().is_none(), "nothing was applied");
    apply(&mut *state, 1, &[("a", Some("1"))]);
    state.begin();
    state.put(b"a", Bytes::from_static(b"pending")).unwrap();
    let frozen = state.freeze().unwrap();
    let expected = BTreeMap::from([(Bytes::from("a"), Some(Bytes::from("1")))]);
    assert_eq!((frozen.applied.get(), frozen.writes), (1, Arc::new(expected)));
    assert_eq!(state.get(b"a").unwrap().unwrap(), "pending");
    state.rollback();
    assert_eq!(state.get(b"a").unwrap().unwrap(), "1", "read from the frozen buffer");
    assert_eq!(state.buffered_bytes(), 0);
    apply(&mut *state, 2, &[]);
    assert!(state.freeze().is_none(), "the first is still being flushed");
    state.flushed();
    assert_eq!(state.freeze().map(|flush| flush.applied.get()), Some(2), "the index alone counts");
}

#[test]
fn keys_and_values_have_limits() {
    let store = TableStateStore::new(disk());
    let mut state = store.open(group(1)).unwrap();
    for bytes in [0, STATE_KEY_BYTES_MAX + 1] {
        let put = state.put(&vec![1; bytes], Bytes::new());
        assert!(matches!(put, Err(StateError::KeySize { bytes: found }) if found == bytes));
        assert!(matches!(state.get(&vec![1; bytes]), Err(StateError::KeySize { .. })));
    }
    let big = Bytes::from(vec![0; STATE_VALUE_BYTES_MAX + 1]);
    assert!(matches!(state.put(b"k", big), Err(StateError::ValueSize { .. })));
}

#[test]
fn groups_never_see_each_other() {
    let store = TableStateStore::new(disk());
    for raw in [1, 2, u64::MAX] {
        let mut state = store.open(group(raw)).unwrap();
        apply(&mut *state, raw, &[("k", Some("v")), ("\u{7f}", Some("w"))]);
        flush(&store, &mut *state);
    }
    store.reset(group(2)).unwrap();
    for (raw, expected) in [(1, 2), (2, 0), (u64::MAX, 2)] {
        let state = store.open(group(raw)).unwrap();
        let applied = if expected == 0 { 0 } else { raw };
        assert_eq!((all(&*state).len(), state.applied().0.get()), (expected, applied));
    }
}

#[test]
fn an_interrupted_reset_is_not_opened_until_it_is_done() {
    let disk = disk();
    let store = TableStateStore::new(disk.clone());
    let mut state = store.open(group(1)).unwrap();
    apply(&mut *state, 9, &[("k", Some("v"))]);
    flush(&store, &mut *state);
    disk.fail_next_commit(FailedCommit::Written);
    assert!(matches!(store.reset(group(1)), Err(StorageError::Io { .. })));
    let store = TableStateStore::new(disk);
    assert!(matches!(store.open(group(1)), Err(StorageError::Corrupt { .. })));
    store.reset(group(1)).unwrap();
    assert_eq!(store.open(group(1)).unwrap().applied().0, LogIndex::ZERO);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let disk = disk();
    let store = TableStateStore::new(disk.clone());
    let mut state = store.open(group(1)).unwrap();
    apply(&mut *state, 9, &[("k", Some("value"))]);
    flush(&store, &mut *state);
    for (table, key) in
        [(STATE, b"\0\0\0\0\0\0\0\x01k".to_vec()), (APPLIED, vec![0, 0, 0, 0, 0, 0, 0, 1])]
    {
        let bits = disk.rows(table).iter().find(|(found, _)| *found == key).unwrap().1 * 8;
        for bit in 0..bits {
            assert!(disk.flip_bit(table, &key, bit));
            match store.open(group(1)) {
                Ok(state) => {
                    let get = state.get(b"k");
                    let corrupt =
                        |error| matches!(error, StateError::Storage(StorageError::Corrupt { .. }));
                    assert!(get.is_err_and(corrupt), "bit {bit}");
                    let scan =
                        state.scan(Bound::Unbounded, Bound::Unbounded, false, &mut |_, _| true);
                    assert!(scan.is_err_and(corrupt), "bit {bit}");
                }
                Err(error) => assert!(matches!(error, StorageError::Corrupt { .. })),
            }
            assert!(disk.flip_bit(table, &key, bit));
        }
    }
    assert_eq!(all(&*store.open(group(1)).unwrap()), pairs(&[("k", "value")]));
}

/// Goal: an applied row that goes bad under an open group is told of and mended. Method: damage it
/// between two flushes.
#[test]
fn a_flush_tells_of_the_damaged_row_that_it_writes_anew() {
    let disk = disk();
    let store = TableStateStore::new(disk.clone());
    let mut state = store.open(group(1)).unwrap();
    let mut flush = |at| {
        apply(&mut *state, at, &[("k", Some("value"))]);
        let damaged = store.flush(&[state.freeze().unwrap()]).unwrap();
        state.flushed();
        damaged
    };
    assert_eq!(flush(1), 0);
    assert!(disk.flip_bit(APPLIED, &1_u64.to_be_bytes(), 80));
    assert_eq!((flush(2), flush(3)), (1, 0));
    assert_eq!(store.open(group(1)).unwrap().applied().0, LogIndex::new(3));
}

/// One step of a random life of a state. Keys are one byte of eight, so that they meet often.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Begin,
    Rollback,
    Applied,
    Freeze,
    Flushed,
    Crash,
    Scan(Option<(bool, u8)>, Option<(bool, u8)>, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bound = || prop::option::of((any::<bool>(), 0u8..9));
    let step = prop_oneof![
        8 => (0u8..8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        4 => (0u8..8).prop_map(Step::Delete),
        3 => Just(Step::Begin),
        2 => Just(Step::Rollback),
        4 => Just(Step::Applied),
        2 => Just(Step::Freeze),
        2 => Just(Step::Flushed),
        1 => Just(Step::Crash),
        4 => (bound(), bound(), any::<bool>()).prop_map(|(from, to, rev)| Step::Scan(from, to, rev)),
    ];
    prop::collection::vec(step, 1..120)
}

type Map = BTreeMap<Vec<u8>, Bytes>;

/// The live map, and the ones that rollback, freeze and a crash return to.
#[derive(Debug, Clone, Default)]
struct Model {
    live: Map,
    unit: Map,
    applied: (u64, Map),
    frozen: Option<(u64, Map)>,
    durable: (u64, Map),
    last_frozen: u64,
}

fn run_steps<T: TableStore>(table: &T, steps: &[Step]) {
    let mut store = TableStateStore::new(table.clone());
    let mut state = store.open(group(7)).unwrap();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Put(key, value) => {
                let value = Bytes::from(vec![*value; 3]);
                state.put(&[*key], value.clone()).unwrap();
                model.live.insert(vec![*key], value);
            }
            Step::Delete(key) => {
                state.delete(&[*key]).unwrap();
                model.live.remove([*key].as_slice());
            }
            Step::Begin => {
                state.begin();
                model.unit = model.live.clone();
            }
            Step::Rollback => {
                state.rollback();
                model.live = model.unit.clone();
            }
            Step::Applied => {
                model.applied = (model.applied.0 + 1, model.live.clone());
                model.unit = model.live.clone();
                state.set_applied(LogIndex::new(model.applied.0), Term::new(1));
            }
            Step::Freeze => {
                let expected = model.frozen.is_none() && model.applied.0 > model.last_frozen;
                let frozen = state.freeze();
                assert_eq!(frozen.is_some(), expected);
                if let Some(frozen) = frozen {
                    assert_eq!(frozen.applied.get(), model.applied.0);
                    model.last_frozen = model.applied.0;
                    model.frozen = Some(model.applied.clone());
                    store.flush(&[frozen]).unwrap();
                    model.durable = model.applied.clone();
                }
            }
            Step::Flushed => {
                state.flushed();
                model.frozen = None;
            }
            Step::Crash => {
                store = TableStateStore::new(table.clone());
                state = store.open(group(7)).unwrap();
                let durable = model.durable.clone();
                model = Model {
                    live: durable.1.clone(),
                    unit: durable.1.clone(),
                    last_frozen: durable.0,
                    applied: durable.clone(),
                    frozen: None,
                    durable,
                };
            }
            Step::Scan(from, to, reverse) => {
                check_scan(&*state, &model.live, (*from, *to), *reverse)
            }
        }
        assert_eq!(all(&*state), model.live.clone().into_iter().collect::<Pairs>());
        for key in 0..8 {
            assert_eq!(state.get(&[key]).unwrap().as_ref(), model.live.get([key].as_slice()));
        }
        assert_eq!(state.applied().0.get(), model.applied.0);
    }
}

type RandomBound = Option<(bool, u8)>;

fn check_scan(
    state: &dyn GroupState,
    live: &Map,
    bounds: (RandomBound, RandomBound),
    reverse: bool,
) {
    let (from, to) = (bounds.0.map(|(i, key)| (i, [key])), bounds.1.map(|(i, key)| (i, [key])));
    let bound = |bound: &Option<(bool, [u8; 1])>| match bound {
        None => Bound::Unbounded,
        Some((true, key)) => Bound::Included(key.to_vec()),
        Some((false, key)) => Bound::Excluded(key.to_vec()),
    };
    let (from, to) = (bound(&from), bound(&to));
    let (from, to) = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
    let inside = |key: &[u8]| {
        let above = match from {
            Bound::Included(from) => key >= from,
            Bound::Excluded(from) => key > from,
            Bound::Unbounded => true,
        };
        let below = match to {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        above && below
    };
    let mut expected: Pairs = live.clone().into_iter().filter(|(key, _)| inside(key)).collect();
    if reverse {
        expected.reverse();
    }
    assert_eq!(scan(state, from, to, reverse), expected);
    let mut first = None;
    let visit = &mut |key: &[u8], value: &Bytes| {
        assert!(first.is_none(), "visited after it said stop");
        first = Some((key.to_vec(), value.clone()));
        false
    };
    state.scan(from, to, reverse, visit).unwrap();
    assert_eq!(first.as_ref(), expected.first());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_lives_read_as_the_model_says(steps in steps()) {
        run_steps(&disk(), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_lives_read_as_the_model_says_on_lmdb(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let table = LmdbTable::open(dir.path(), &STATE_TABLES, &LmdbOptions::tiny(), None).unwrap();
        run_steps(&table, &steps);
    }
}
