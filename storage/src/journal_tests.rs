//! Goal: whatever a journal was told, it says again: after garbage collection, after restarts, and
//! with damaged bytes only what is certain. Method: a model of the log, memory disks, fault switches.

use std::collections::BTreeMap;

use bytes::Bytes;
use polyraft_core::entry::{
    CompactionPoint, Configuration, EntryKind, HardState, LogEntry, Member,
};
use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use polyraft_core::ports::{GroupAppend, GroupIdentity, LogStore, StorageError};
use proptest::prelude::*;

use crate::journal::{COLD, JOURNAL, Journal, JournalOptions, LOG_TABLES, META};
use crate::journal_record::encode_record;
use crate::lmdb::{LmdbOptions, LmdbTable};
use crate::memory::{FailedCommit, MemoryTable};
use crate::table::{TableStore, TableWrite, WriteSize};

fn group(raw: u64) -> GroupId {
    GroupId::new(raw)
}

fn index(raw: u64) -> LogIndex {
    LogIndex::new(raw)
}

fn identity(raw: u64) -> GroupIdentity {
    GroupIdentity { name: format!("group-{raw}"), replica: ReplicaId::new(raw * 10 + 1) }
}

fn entry(at: u64, term: u64) -> LogEntry {
    let kind = if at.is_multiple_of(7) { EntryKind::ConfChange } else { EntryKind::Normal };
    let data = Bytes::from(vec![(at * 31 + term) as u8; (at % 5) as usize * 9]);
    LogEntry { index: index(at), term: Term::new(term), kind, data }
}

fn create(raw: u64) -> GroupAppend {
    let member = Member { replica: ReplicaId::new(raw * 10 + 1), node: NodeId::new(1) };
    GroupAppend {
        create: Some(identity(raw)),
        configuration: Some(Configuration::initial(vec![member])),
        ..GroupAppend::empty(group(raw))
    }
}

fn append(raw: u64, indexes: std::ops::RangeInclusive<u64>, term: u64) -> GroupAppend {
    let commit = indexes.start().saturating_sub(1);
    GroupAppend {
        hard_state: Some(HardState { term: Term::new(term), vote: None, commit: index(commit) }),
        entries: indexes.map(|at| entry(at, term)).collect(),
        ..GroupAppend::empty(group(raw))
    }
}

fn compact(raw: u64, at: u64, term: u64) -> GroupAppend {
    let point = CompactionPoint { index: index(at), term: Term::new(term) };
    GroupAppend { compact: Some(point), ..GroupAppend::empty(group(raw)) }
}

fn disk() -> MemoryTable {
    MemoryTable::new(LOG_TABLES.len())
}

fn open<T: TableStore>(table: &T) -> Journal<T> {
    Journal::open(table.clone(), JournalOptions::tiny()).unwrap()
}

fn indexes<T: TableStore>(journal: &Journal<T>, raw: u64) -> Vec<(u64, u64)> {
    let restored = journal.restore(group(raw), LogIndex::ZERO).unwrap();
    restored.entries.iter().map(|entry| (entry.index.get(), entry.term.get())).collect()
}

fn collect_all<T: TableStore>(journal: &mut Journal<T>) {
    for _ in 0..100_000 {
        if !journal.collect_garbage().unwrap() {
            return;
        }
    }
    panic!("garbage collection never ends");
}

/// What one group's log should be.
#[derive(Debug, Clone, Default)]
struct ModelGroup {
    identity: Option<GroupIdentity>,
    hard_state: HardState,
    configuration: Configuration,
    compacted: CompactionPoint,
    entries: BTreeMap<u64, LogEntry>,
}

impl ModelGroup {
    fn last(&self) -> u64 {
        self.entries.keys().next_back().copied().unwrap_or(self.compacted.index.get())
    }

    fn apply(&mut self, append: &GroupAppend) {
        if let Some(identity) = &append.create {
            *self = Self { identity: Some(identity.clone()), ..Self::default() };
        }
        self.hard_state = append.hard_state.unwrap_or(self.hard_state);
        if let Some(configuration) = &append.configuration {
            self.configuration = configuration.clone();
        }
        for entry in &append.entries {
            self.entries.split_off(&entry.index.get());
            self.entries.insert(entry.index.get(), entry.clone());
        }
        let Some(point) = append.compact else { return };
        if point.index <= self.compacted.index {
            return;
        }
        let agrees = self.entries.get(&point.index.get()).is_some_and(|e| e.term == point.term);
        let kept = self.entries.split_off(&(point.index.get() + 1));
        self.entries = if agrees { kept } else { BTreeMap::new() };
        self.compacted = point;
    }
}

type Model = BTreeMap<u64, ModelGroup>;

fn check_model<T: TableStore>(journal: &Journal<T>, model: &Model) {
    let known: Vec<_> = journal.groups().into_iter().map(|(id, _)| id.get()).collect();
    assert_eq!(known, model.keys().copied().collect::<Vec<_>>());
    for (raw, expected) in model {
        let applied = index(expected.compacted.index.get() + expected.entries.len() as u64 / 2);
        let restored = journal.restore(group(*raw), applied).unwrap();
        assert_eq!(Some(&restored.identity), expected.identity.as_ref());
        assert_eq!(restored.hard_state, expected.hard_state, "group {raw}");
        assert_eq!(restored.configuration, expected.configuration);
        assert_eq!(restored.compacted, expected.compacted);
        assert_eq!(restored.last.get(), expected.last());
        let live: Vec<_> = expected.entries.values().cloned().collect();
        let tail: Vec<_> = live.iter().filter(|e| e.index > applied).cloned().collect();
        assert_eq!(restored.entries, tail);
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for entry in &live {
            if runs.last().is_none_or(|(_, term)| *term != entry.term) {
                runs.push((entry.index, entry.term));
            }
        }
        assert_eq!(restored.term_runs, runs, "group {raw}");
        let range = expected.compacted.index.next()..index(expected.last() + 1);
        let read = journal.reader().entries(group(*raw), range, usize::MAX).unwrap();
        assert_eq!(read, live);
    }
}

/// One step of a random history; numbers are taken modulo what is possible.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(u64, Change)>),
    Collect,
    Reopen,
}

#[derive(Debug, Clone)]
enum Change {
    Append { back: u64, count: u64, new_term: bool },
    Compact { percent: u64 },
    Snapshot { beyond: u64 },
    Conflict,
    HardState,
    Recreate,
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (0u64..6, 1u64..8, any::<bool>())
            .prop_map(|(back, count, new_term)| Change::Append { back, count, new_term }),
        3 => (0u64..=100).prop_map(|percent| Change::Compact { percent }),
        1 => (1u64..20).prop_map(|beyond| Change::Snapshot { beyond }),
        1 => Just(Change::Conflict),
        2 => Just(Change::HardState),
        1 => Just(Change::Recreate),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let commit = prop::collection::vec((1u64..4, changes()), 1..5).prop_map(Step::Commit);
    prop::collection::vec(
        prop_oneof![6 => commit, 5 => Just(Step::Collect), 1 => Just(Step::Reopen)],
        1..60,
    )
}

/// Turns a change into an append that is valid for the model as it stands.
fn to_append(model: &ModelGroup, raw: u64, change: &Change, nonce: u64) -> GroupAppend {
    let mut out = GroupAppend::empty(group(raw));
    if model.identity.is_none() {
        out = create(raw);
        out.create = Some(GroupIdentity { replica: ReplicaId::new(nonce), ..identity(raw) });
        return out;
    }
    let term = model.hard_state.term.get();
    let (first, last) = (model.compacted.index.get() + 1, model.last());
    match change {
        Change::Append { back, count, new_term } => {
            let term = term + u64::from(*new_term || *back > 0);
            let start = (last + 1).saturating_sub(*back).max(first);
            out = append(raw, start..=start + count - 1, term);
        }
        Change::Compact { percent } => {
            let at = first + (last + 1 - first) * percent / 100;
            if let Some(entry) = model.entries.get(&at) {
                out.compact = Some(CompactionPoint { index: entry.index, term: entry.term });
            }
        }
        Change::Snapshot { beyond } => {
            let term = Term::new(term + 1);
            out.hard_state = Some(HardState { term, ..model.hard_state });
            out.compact = Some(CompactionPoint { index: index(last + beyond), term });
        }
        Change::Conflict => {
            if last >= first {
                let term = Term::new(term + 1);
                out.hard_state = Some(HardState { term, ..model.hard_state });
                out.compact = Some(CompactionPoint { index: index((first + last) / 2), term });
            }
        }
        Change::HardState => {
            let vote = Some(ReplicaId::new(nonce));
            out.hard_state = Some(HardState { vote, ..model.hard_state });
        }
        Change::Recreate => {
            out = create(raw);
            out.create = Some(GroupIdentity { replica: ReplicaId::new(nonce), ..identity(raw) });
        }
    }
    out
}

fn run_history<T: TableStore>(table: &T, steps: &[Step]) {
    let mut journal = open(table);
    let mut model = Model::new();
    let mut nonce = 1_000;
    for step in steps {
        match step {
            Step::Commit(changes) => {
                let mut appends = Vec::new();
                for (raw, change) in changes {
                    nonce += 1;
                    let known = model.entry(*raw).or_default();
                    let append = to_append(known, *raw, change, nonce);
                    known.apply(&append);
                    appends.push(append);
                }
                journal.commit(&appends).unwrap();
            }
            Step::Collect => {
                journal.collect_garbage().unwrap();
            }
            Step::Reopen => {
                drop(journal);
                journal = open(table);
            }
        }
        check_model(&journal, &model);
    }
    collect_all(&mut journal);
    assert!(journal.journal_bytes() <= JournalOptions::tiny().journal_bytes_max);
    drop(journal);
    let reopened = open(table);
    check_model(&reopened, &model);
    assert!(reopened.quarantined().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_read_back_as_the_model_says(steps in steps()) {
        run_history(&disk(), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_read_back_on_lmdb(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let table = LmdbTable::open(dir.path(), &LOG_TABLES, &LmdbOptions::tiny(), None).unwrap();
        run_history(&table, &steps);
    }
}

#[test]
fn a_hundred_groups_share_one_commit() {
    let table = disk();
    let mut journal = open(&table);
    let creates: Vec<_> = (1..=100).map(create).collect();
    journal.commit(&creates).unwrap();
    let before = table.stats();
    let proposals: Vec<_> = (1..=100).map(|raw| append(raw, 1..=1, 1)).collect();
    let stats = journal.commit(&proposals).unwrap();
    let after = table.stats();
    assert_eq!((after.commits - before.commits, after.puts - before.puts), (1, 1));
    assert_eq!((stats.entries, stats.bytes), (100, after.put_bytes - before.put_bytes - 8));
    let reopened = open(&table);
    assert!((1..=100).all(|raw| indexes(&reopened, raw) == [(1, 1)]));
}

#[test]
fn the_cost_of_an_append_does_not_depend_on_the_length_of_the_log() {
    let table = disk();
    let mut journal = open(&table);
    journal.commit(&[create(1)]).unwrap();
    let mut costs = Vec::new();
    for at in 1..=2_000 {
        let before = table.stats();
        let mut one = append(1, at..=at, 1);
        one.entries[0].data = Bytes::from_static(b"same");
        journal.commit(&[one]).unwrap();
        let after = table.stats();
        let deletes = after.deletes - before.deletes;
        costs.push((after.puts - before.puts, after.put_bytes - before.put_bytes, deletes));
    }
    assert!(costs.iter().all(|cost| *cost == costs[0]), "{:?}", costs[0]);
    assert_eq!((costs[0].0, costs[0].2), (1, 0));
}

#[test]
fn a_conflicting_suffix_is_gone_after_a_restart() {
    let table = disk();
    let mut journal = open(&table);
    journal.commit(&[create(1), append(1, 1..=5, 1)]).unwrap();
    journal.commit(&[append(1, 3..=3, 2)]).unwrap();
    let expected = vec![(1, 1), (2, 1), (3, 2)];
    assert_eq!(indexes(&journal, 1), expected);
    assert_eq!(indexes(&open(&table), 1), expected);
    let runs = journal.restore(group(1), index(3)).unwrap().term_runs;
    assert_eq!(runs, [(index(1), Term::new(1)), (index(3), Term::new(2))]);
}

#[test]
fn reads_stop_at_the_byte_limit_but_not_before_the_first_entry() {
    let mut journal = open(&disk());
    journal.commit(&[create(1), append(1, 1..=9, 1)]).unwrap();
    let reader = journal.reader();
    let read = |from, to, bytes_max| {
        let entries = reader.entries(group(1), index(from)..index(to), bytes_max).unwrap();
        entries.iter().map(|entry| entry.index.get()).collect::<Vec<_>>()
    };
    assert_eq!(read(4, 9, 0), [4]);
    let two = entry(4, 1).charged_bytes() + entry(5, 1).charged_bytes();
    assert_eq!((read(4, 9, two), read(4, 9, two - 1)), (vec![4, 5], vec![4]));
    assert_eq!((read(8, 40, usize::MAX), read(10, 40, usize::MAX)), (vec![8, 9], vec![]));
    journal.commit(&[compact(1, 5, 1)]).unwrap();
    let error = reader.entries(group(1), index(5)..index(9), usize::MAX).unwrap_err();
    assert!(matches!(error, StorageError::Compacted { compacted, .. } if compacted == index(5)));
    assert_eq!(read(6, 9, usize::MAX), [6, 7, 8]);
}

#[test]
fn garbage_collection_keeps_what_a_lagging_group_needs() {
    let table = disk();
    let mut journal = open(&table);
    journal.commit(&[create(1), append(1, 1..=4, 1), create(2)]).unwrap();
    for at in 1..=200 {
        journal.commit(&[append(2, at..=at, 1), compact(2, at, 1)]).unwrap();
        journal.collect_garbage().unwrap();
    }
    collect_all(&mut journal);
    assert!(
        table.rows(JOURNAL).len() < 20 && table.rows(JOURNAL)[0].0 > 100u64.to_be_bytes().to_vec()
    );
    let reader = journal.reader();
    for journal in [&journal, &open(&table)] {
        assert_eq!(indexes(journal, 1), [(1, 1), (2, 1), (3, 1), (4, 1)]);
        let restored = journal.restore(group(1), index(4)).unwrap();
        assert_eq!(restored.identity, identity(1));
        assert_eq!(restored.hard_state.term, Term::new(1));
        assert_eq!(restored.configuration.voters, [ReplicaId::new(11)]);
    }
    assert_eq!(reader.entries(group(1), index(2)..index(4), 9_999).unwrap().len(), 2);
    assert_eq!(table.rows(COLD).iter().filter(|(key, _)| key[7] == 1).count(), 4);
    journal.commit(&[compact(1, 4, 1)]).unwrap();
    collect_all(&mut journal);
    assert_eq!(table.rows(COLD).len(), 0, "rows go when nobody needs them");
    assert!(indexes(&open(&table), 1).is_empty());
}

#[test]
fn a_failed_commit_poisons_for_good() {
    for (outcome, survives) in [(FailedCommit::Lost, 0), (FailedCommit::Written, 2)] {
        let table = disk();
        let mut journal = open(&table);
        journal.commit(&[create(1)]).unwrap();
        table.fail_next_commit(outcome);
        let failed = journal.commit(&[append(1, 1..=2, 1)]);
        assert!(matches!(failed, Err(StorageError::Io { .. })));
        let later = journal.commit(&[append(1, 1..=2, 1)]);
        assert!(matches!(later, Err(StorageError::Poisoned)));
        assert!(matches!(journal.collect_garbage(), Err(StorageError::Poisoned)));
        assert!(indexes(&journal, 1).is_empty(), "nothing unacknowledged is shown");
        assert_eq!(indexes(&open(&table), 1).len(), survives, "a restart finds either");
    }
}

#[test]
fn a_failed_garbage_collection_poisons_and_loses_nothing() {
    for outcome in [FailedCommit::Lost, FailedCommit::Written] {
        let table = disk();
        let mut journal = open(&table);
        journal.commit(&[create(1)]).unwrap();
        for at in 1..=30 {
            journal.commit(&[append(1, at..=at, 1)]).unwrap();
        }
        (0..3).for_each(|_| assert!(journal.collect_garbage().unwrap()));
        table.fail_next_commit(outcome);
        assert!(matches!(journal.collect_garbage(), Err(StorageError::Io { .. })));
        assert!(matches!(journal.commit(&[]), Err(StorageError::Poisoned)));
        let range = LogIndex::new(1)..LogIndex::new(31);
        let read = journal.reader().entries(GroupId::new(1), range, usize::MAX);
        match outcome {
            FailedCommit::Lost => assert_eq!(read.unwrap().len(), 30),
            // What it was about to read was moved: that is no damage.
            FailedCommit::Written => assert!(matches!(read, Err(StorageError::Poisoned))),
        }
        assert_eq!(indexes(&open(&table), 1).len(), 30);
    }
}

#[test]
fn full_writes_nothing_and_is_no_poison() {
    let table = disk();
    let mut journal = open(&table);
    journal.commit(&[create(1), append(1, 1..=2, 1)]).unwrap();
    table.set_full(true);
    let full = journal.commit(&[append(1, 3..=3, 1)]);
    assert!(matches!(full, Err(StorageError::Full { .. })));
    assert_eq!(indexes(&journal, 1), [(1, 1), (2, 1)]);
    table.set_full(false);
    journal.commit(&[append(1, 3..=3, 1)]).unwrap();
    assert_eq!(indexes(&open(&table), 1), [(1, 1), (2, 1), (3, 1)]);
}

#[test]
fn a_disk_that_lies_about_syncs_loses_whole_commits() {
    let table = disk();
    let mut journal = open(&table);
    journal.commit(&[create(1), append(1, 1..=2, 1)]).unwrap();
    table.hold_syncs(true);
    journal.commit(&[append(1, 2..=9, 2)]).unwrap();
    table.lose_unsynced();
    assert_eq!(indexes(&open(&table), 1), [(1, 1), (2, 1)]);
}

#[test]
fn unknown_groups_are_told_apart() {
    let mut journal = open(&disk());
    let unknown = journal.restore(group(9), LogIndex::ZERO);
    assert!(matches!(unknown, Err(StorageError::UnknownGroup { .. })));
    let unknown = journal.commit(&[append(9, 1..=1, 1)]);
    assert!(matches!(unknown, Err(StorageError::UnknownGroup { .. })));
    journal.commit(&[create(9)]).unwrap();
}

/// Every group either reads exactly as before, or says that it is corrupt. Returns the corrupt ones.
fn damaged_groups<T: TableStore>(journal: &Journal<T>, groups: u64, intact: &Model) -> Vec<u64> {
    let mut damaged = Vec::new();
    for raw in 1..=groups {
        match journal.restore(group(raw), LogIndex::ZERO) {
            Ok(restored) => {
                let expected = &intact[&raw];
                assert_eq!(
                    restored.entries,
                    expected.entries.values().cloned().collect::<Vec<_>>()
                );
                assert_eq!(restored.hard_state, expected.hard_state);
                assert_eq!(restored.configuration, expected.configuration);
                assert_eq!(Some(restored.identity), expected.identity);
            }
            Err(StorageError::Corrupt { .. }) => damaged.push(raw),
            Err(error) => panic!("group {raw}: {error}"),
        }
    }
    damaged
}

fn three_groups(table: &MemoryTable) -> Model {
    let mut model = Model::new();
    let mut journal = open(table);
    let commits = [
        (1..=3).map(create).collect::<Vec<_>>(),
        (1..=3).map(|raw| append(raw, 1..=4, 1)).collect(),
        vec![append(1, 5..=5, 1), append(3, 3..=6, 2)],
    ];
    for appends in commits {
        for append in &appends {
            model.entry(append.group.get()).or_default().apply(append);
        }
        journal.commit(&appends).unwrap();
    }
    model
}

#[test]
fn any_flipped_bit_of_a_record_damages_one_group_at_most() {
    let intact = disk();
    let model = three_groups(&intact);
    let mut quarantines = 0;
    for (key, len) in intact.rows(JOURNAL) {
        for bit in 0..len * 8 {
            let table = intact.copy();
            assert!(table.flip_bit(JOURNAL, &key, bit));
            let damaged = damaged_groups(&open(&table), 3, &model);
            assert!(damaged.len() <= 1, "bit {bit} damaged {damaged:?}");
            quarantines += damaged.len();
        }
    }
    assert!(quarantines > 1_000, "most bits belong to some group: {quarantines}");
}

#[test]
fn a_bit_that_flips_under_an_open_journal_is_never_read_as_data() {
    let table = disk();
    let model = three_groups(&table);
    let journal = open(&table);
    for (key, len) in table.rows(JOURNAL) {
        for bit in 0..len * 8 {
            table.flip_bit(JOURNAL, &key, bit);
            damaged_groups(&journal, 3, &model);
            table.flip_bit(JOURNAL, &key, bit);
        }
    }
    assert!(damaged_groups(&journal, 3, &model).is_empty());
}

#[test]
fn flipped_bits_of_cold_and_meta_rows_damage_their_own_group() {
    let intact = disk();
    let mut journal = open(&intact);
    let mut model = Model::new();
    for append in [create(1), append(1, 1..=4, 1), create(2), append(2, 1..=1, 1)] {
        model.entry(append.group.get()).or_default().apply(&append);
        journal.commit(&[append]).unwrap();
    }
    for at in 2..=60 {
        let next = append(2, at..=at, 1);
        model.get_mut(&2).unwrap().apply(&next);
        journal.commit(&[next]).unwrap();
        journal.collect_garbage().unwrap();
    }
    for table_id in [COLD, META] {
        for (key, len) in intact.rows(table_id) {
            for bit in 0..len * 8 {
                let table = intact.copy();
                table.flip_bit(table_id, &key, bit);
                let damaged = damaged_groups(&open(&table), 2, &model);
                assert_eq!(damaged, [u64::from(key[7])], "bit {bit} of {key:?}");
            }
        }
    }
}

#[test]
fn a_record_damaged_in_both_headers_quarantines_every_group() {
    let table = disk();
    let model = three_groups(&table);
    let (key, len) = table.rows(JOURNAL)[1].clone();
    table.flip_bit(JOURNAL, &key, 24 * 8);
    table.flip_bit(JOURNAL, &key, (len - 9) * 8);
    assert_eq!(damaged_groups(&open(&table), 3, &model), [1, 2, 3]);
    let unknown = open(&table).restore(group(9), LogIndex::ZERO);
    assert!(matches!(unknown, Err(StorageError::Corrupt { .. })));
}

/// Goal: what a lost record took out of service stays so when garbage collection removes the gap that shows
/// the loss, and the record that cannot be read; the collected records are of group 2 alone.
#[test]
fn a_lost_record_is_remembered_when_the_gap_is_collected() {
    for is_gap in [true, false] {
        let table = disk();
        let mut journal = open(&table);
        journal.commit(&[create(1), create(2)]).unwrap();
        (1..=80).for_each(|at| _ = journal.commit(&[append(2, at..=at, 1)]).unwrap());
        journal.commit(&[append(1, 1..=1, 1)]).unwrap();
        collect_all(&mut journal);
        (81..=90).for_each(|at| _ = journal.commit(&[append(2, at..=at, 1)]).unwrap());
        journal.commit(&[append(1, 2..=2, 1)]).unwrap();
        let key = 84_u64.to_be_bytes();
        assert!(table.rows(JOURNAL).iter().any(|(at, _)| *at == key), "not collected so far");
        let mut body = |write: &mut dyn TableWrite| match is_gap {
            true => write.delete(JOURNAL, &key),
            false => write.put(JOURNAL, &key, b"nothing"),
        };
        table.write(WriteSize::default(), &mut body).unwrap();
        let mut journal = open(&table);
        let mut reseed = create(2);
        reseed.create = Some(GroupIdentity { replica: ReplicaId::new(99), ..identity(2) });
        journal.commit(&[reseed]).unwrap();
        (1..=80).for_each(|at| _ = journal.commit(&[append(2, at..=at, 1)]).unwrap());
        collect_all(&mut journal);
        assert!(
            table.rows(JOURNAL)[0].0.as_slice() > key.as_slice(),
            "the loss can be seen no more"
        );
        for journal in [&journal, &open(&table)] {
            let quarantined: Vec<_> = journal.quarantined().into_iter().map(|(id, _)| id).collect();
            assert_eq!(quarantined, [group(1)]);
            assert_eq!(indexes(journal, 2).len(), 80);
            let unknown = journal.restore(group(9), LogIndex::ZERO);
            assert!(matches!(unknown, Err(StorageError::Corrupt { .. })), "{unknown:?}");
        }
    }
}

/// Goal: a journal that lost its end, as its meta rows can tell, takes nothing more: what it took would
/// be behind a gap. Method: remove the last record after a piece of garbage collection.
#[test]
fn a_last_record_that_is_missing_is_noticed_where_a_meta_row_knows_of_it() {
    let table = disk();
    let mut journal = open(&table);
    journal.commit(&[create(1), create(2)]).unwrap();
    for at in 1..=12 {
        journal.commit(&[append(1, at..=at, 1), append(2, at..=at, 1)]).unwrap();
    }
    collect_all(&mut journal);
    drop(journal);
    let records = table.rows(JOURNAL);
    assert!(records.len() > 1 && table.rows(META).len() == 2, "some are collected, some are not");
    let (last, _) = records.last().unwrap();
    table.write(WriteSize::default(), &mut |write| write.delete(JOURNAL, last)).unwrap();
    for raw in [1, 2] {
        let restored = open(&table).restore(group(raw), LogIndex::ZERO);
        assert!(matches!(restored, Err(StorageError::Corrupt { .. })), "group {raw}: {restored:?}");
    }
}

/// Goal: a key or a position that no writer makes is damage, and overflows nothing.
#[test]
fn numbers_that_no_writer_makes_are_damage() {
    let beyond = [polyraft_core::wire::ORDINAL_MAX + 1, u64::MAX];
    for number in beyond {
        let table = disk();
        let model = three_groups(&table);
        let mut size = WriteSize::default();
        size.add(&number.to_be_bytes(), b"x");
        table.write(size, &mut |write| write.put(JOURNAL, &number.to_be_bytes(), b"x")).unwrap();
        assert_eq!(damaged_groups(&open(&table), 3, &model), [1, 2, 3], "sequence {number}");

        let (table, mut record) = (disk(), Vec::new());
        let compacted = GroupAppend { compact: compact(1, number, 1).compact, ..create(1) };
        encode_record(&mut record, 1, &[(&compacted, true)]);
        let (key, size) = (1_u64.to_be_bytes(), WriteSize::default());
        table.write(size, &mut |write| write.put(JOURNAL, &key, &record)).unwrap();
        let restored = open(&table).restore(group(1), LogIndex::ZERO);
        assert!(matches!(restored, Err(StorageError::Corrupt { .. })), "compacted up to {number}");
    }
}

/// Goal: a state that claims more than any log holds harms nobody but its group.
#[test]
fn a_restore_behind_everything_has_no_entries() {
    let mut journal = open(&disk());
    journal.commit(&[create(1), append(1, 1..=3, 1)]).unwrap();
    for applied in [3, 4, u64::MAX] {
        assert_eq!(journal.restore(group(1), index(applied)).unwrap().entries, []);
    }
}

#[test]
fn a_quarantined_group_stays_so_when_its_record_is_collected_and_ends_with_a_new_replica() {
    let table = disk();
    three_groups(&table);
    let (key, len) = table.rows(JOURNAL)[1].clone();
    let journal_intact = open(&table);
    assert!(journal_intact.quarantined().is_empty());
    drop(journal_intact);
    // Past the header and into the first block, which is group 1's.
    table.flip_bit(JOURNAL, &key, (24 + 3 * 20 + 30) * 8);
    assert!(len > 200);
    let mut journal = open(&table);
    assert_eq!(journal.quarantined().len(), 1);
    for at in 5..=80 {
        journal.commit(&[append(2, at..=at, 1)]).unwrap();
    }
    collect_all(&mut journal);
    assert!(table.rows(JOURNAL)[0].0 > key, "the damaged record is gone");
    let mut journal = open(&table);
    let refused = journal.commit(&[append(1, 6..=6, 1)]);
    assert!(matches!(refused, Err(StorageError::Corrupt { .. })));
    assert_eq!(journal.quarantined().len(), 1);
    let mut reseed = create(1);
    reseed.create = Some(GroupIdentity { replica: ReplicaId::new(99), ..identity(1) });
    reseed.compact = Some(CompactionPoint { index: index(50), term: Term::new(3) });
    journal.commit(&[reseed, append(1, 51..=52, 3)]).unwrap();
    for journal in [&journal, &open(&table)] {
        assert!(journal.quarantined().is_empty());
        assert_eq!(indexes(journal, 1), [(51, 3), (52, 3)]);
        assert_eq!(indexes(journal, 2).len(), 80);
    }
}

#[test]
#[should_panic(expected = "was created before")]
fn the_same_replica_is_never_created_twice() {
    let mut journal = open(&disk());
    journal.commit(&[create(1)]).unwrap();
    let _ = journal.commit(&[create(1)]);
}

#[test]
#[should_panic(expected = "entry 7 appended to a log of 1 to 3")]
fn a_gap_is_never_written() {
    let mut journal = open(&disk());
    journal.commit(&[create(1), append(1, 1..=3, 1)]).unwrap();
    let _ = journal.commit(&[append(1, 7..=7, 1)]);
}

#[test]
fn readers_on_other_threads_see_every_committed_entry_while_the_writer_collects() {
    let dir = tempfile::tempdir().unwrap();
    let table = LmdbTable::open(dir.path(), &LOG_TABLES, &LmdbOptions::tiny(), None).unwrap();
    let mut journal = open(&table);
    journal.commit(&[create(1), append(1, 1..=20, 1)]).unwrap();
    let reader = journal.reader();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let mut reads = 0;
        while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            let entries = reader.entries(group(1), index(1)..index(21), usize::MAX).unwrap();
            assert_eq!(entries, (1..=20).map(|at| entry(at, 1)).collect::<Vec<_>>());
            reads += 1;
        }
        reads
    });
    for at in 21..=150 {
        journal.commit(&[append(1, at..=at, 1)]).unwrap();
        journal.collect_garbage().unwrap();
    }
    drop(stop);
    assert!(thread.join().unwrap() > 0);
    assert_eq!(indexes(&journal, 1).len(), 150);
}

/// Goal: a record that is missing before all others is noticed too: there is none before it to tell.
#[test]
fn a_first_record_that_is_missing_takes_its_groups_out_of_service() {
    for after_collection in [false, true] {
        let disk = disk();
        let mut journal = open(&disk);
        journal.commit(&[create(1)]).unwrap();
        (1..=40).for_each(|at| _ = journal.commit(&[append(1, at..=at, 1)]).unwrap());
        if after_collection {
            collect_all(&mut journal);
            assert!(disk.rows(JOURNAL).len() < 41, "something was collected");
            // The meta row tells of more than what was collected; the gap must be behind that.
            (41..=80).for_each(|at| _ = journal.commit(&[append(1, at..=at, 1)]).unwrap());
        }
        assert_eq!(indexes(&open(&disk), 1).len(), if after_collection { 80 } else { 40 });
        let mut rows = disk.rows(JOURNAL).into_iter().map(|(key, _)| key);
        let lost: Vec<_> = match after_collection {
            false => rows.take(1).collect(),
            true => rows.by_ref().take_while(|key| key[7] <= 45).collect(),
        };
        disk.write(WriteSize::default(), &mut |write| {
            lost.iter().try_for_each(|key| write.delete(JOURNAL, key))
        })
        .unwrap();
        let found = open(&disk).restore(group(1), LogIndex::ZERO);
        assert!(matches!(found, Err(StorageError::Corrupt { .. })), "{found:?}");
    }
}
