//! The bench with a small ledger: what reaches the machine, and what a rejection leaves behind.

use polyraft_core::ids::Term;

use super::*;
use crate::testing::{Engine, EngineMachine, FakeState, Ledger, batch_entry, unit};

const GROUP: GroupId = GroupId::new(1);

fn bench() -> ApplyBench {
    let state = Box::new(FakeState::empty(GROUP));
    let mut bench = ApplyBench::new(GROUP, Box::new(Ledger::default()), state);
    bench.open().expect("an empty state opens");
    bench
}

fn accepted(responses: &[Response]) -> Vec<bool> {
    responses.iter().map(Response::is_accepted).collect()
}

fn entry(index: u64, kind: EntryKind, data: &'static [u8]) -> LogEntry {
    LogEntry {
        index: LogIndex::new(index),
        term: Term::new(1),
        kind,
        data: Bytes::from_static(data),
    }
}

fn list(bench: &ApplyBench) -> Bytes {
    bench.query(b"list").expect("the ledger lists")
}

#[test]
fn one_rejection_among_a_hundred_leaves_ninety_nine() {
    let mut bench = bench();
    let commands: Vec<String> =
        (0..100).map(|n| format!("add {}", if n == 70 { 3 } else { n })).collect();
    let units = commands.iter().map(|c| unit(false, &[c])).collect::<Vec<_>>();
    let responses = bench.apply(&batch_entry(1, 10, &units)).expect("applied");
    let rejected: Vec<usize> = (0..100).filter(|&n| !responses[n].is_accepted()).collect();
    assert_eq!(rejected, [70]);
    assert_eq!(responses[70], Response::Rejected(Bytes::from_static(b"exists")));
    assert_eq!(bench.query(b"count").expect("the ledger counts"), "99");
    assert_eq!(bench.applied(), LogIndex::new(1));
}

/// Goal: BP-4. Method: an atomic unit whose last command collides, between two that stand.
#[test]
fn an_atomic_unit_is_undone_as_one() {
    let mut bench = bench();
    let units = [
        unit(false, &["add a"]),
        unit(true, &["add b", "add c", "add a", "add d"]),
        unit(true, &["add e"]),
    ];
    let responses = bench.apply(&batch_entry(1, 10, &units)).expect("applied");
    assert_eq!(accepted(&responses), [true, false, false, false, false, true]);
    let bodies: Vec<&[u8]> = responses[1..5].iter().map(|r| &r.body()[..]).collect();
    assert_eq!(bodies, [&b""[..], b"", b"exists", b""]);
    assert_eq!(list(&bench), "a e", "the state is rolled back");
    assert_eq!(bench.query(b"count").expect("the ledger counts"), "2", "and the derived count");
}

#[test]
fn no_ops_and_conf_entries_only_advance_the_index() {
    let mut bench = bench();
    for index in 1..=1_000 {
        let kind = if index % 2 == 0 { EntryKind::Normal } else { EntryKind::ConfChange };
        let data: &[u8] = if kind == EntryKind::Normal { b"" } else { b"not a batch" };
        assert_eq!(bench.apply(&entry(index, kind, data)).expect("applied"), []);
    }
    assert_eq!(bench.applied(), LogIndex::new(1_000));
    assert_eq!(list(&bench), "");
}

/// Goal: AP-3 across restarts. Method: feed proposers' clocks that fall, reopen the state, go on.
#[test]
fn time_never_falls_not_even_after_a_restart() {
    let mut bench = bench();
    let mut times = Vec::new();
    let times_of = |bench: &mut ApplyBench, index: u64, time_ms: u64| {
        let responses = bench.apply(&batch_entry(index, time_ms, &[unit(false, &["time"])]));
        responses.expect("applied")[0].body().clone()
    };
    for (index, time_ms) in [(1, 5_000), (2, 4_000), (3, 6_000)] {
        times.push(times_of(&mut bench, index, time_ms));
    }
    bench.machine = Box::new(Ledger::default());
    bench.time_ms = 0;
    bench.open().expect("reopened");
    times.push(times_of(&mut bench, 4, 1_000));
    assert_eq!(times, ["5000", "5000", "6000", "6000"]);
    assert_eq!(list(&bench), "", "the machine does not see the runtime's key");
}

#[test]
fn the_runtimes_keys_are_out_of_reach() {
    let mut bench = bench();
    let state = &mut bench.state;
    state.state.put(TIME_KEY, Bytes::from_static(b"12345678")).expect("the runtime may");
    assert!(matches!(state.put(TIME_KEY, Bytes::new()), Err(StateError::ReservedKey)));
    assert!(matches!(state.delete(TIME_KEY), Err(StateError::ReservedKey)));
    assert_eq!(state.get(TIME_KEY).expect("readable"), None);
}

#[test]
fn faults_do_not_advance() {
    let mut bench = bench();
    let garbage = bench.apply(&entry(1, EntryKind::Normal, b"garbage"));
    assert!(matches!(garbage, Err(ApplyFault::Batch(_))));
    assert_eq!(bench.applied(), LogIndex::ZERO);
    let unknown = bench.apply(&batch_entry(1, 10, &[unit(false, &["dance"])]));
    assert!(matches!(unknown, Err(ApplyFault::Machine(ApplyError::Decode { .. }))));
    assert_eq!(bench.applied(), LogIndex::ZERO);
}

/// Takes any error for an absent row.
struct Forgiving;

impl Forgiving {
    fn reads(state: &dyn State, key: &[u8]) -> Bytes {
        let mut found = state.get(key).ok().flatten();
        if key == b"all" {
            let _ = state.scan(Bound::Unbounded, Bound::Unbounded, false, &mut |_, value| {
                found = Some(value.clone());
                true
            });
        }
        found.unwrap_or_default()
    }
}

impl StateMachine for Forgiving {
    fn apply(
        &mut self,
        state: &mut dyn State,
        _: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        Ok(Response::Rejected(Self::reads(state, command)))
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        Ok(Self::reads(state, query))
    }
}

/// Goal: ST-7, nothing is answered from damaged state. Method: a machine that passes no error on reads
/// a damaged row, alone and among others, in a query and in a command.
#[test]
fn damage_is_no_machines_to_forgive() {
    let mut state = FakeState::empty(GROUP);
    state.put(b"good", Bytes::from_static(b"value")).expect("a map");
    state.damage(b"row");
    let mut bench = ApplyBench::new(GROUP, Box::new(Forgiving), Box::new(state));
    bench.open().expect("it reads nothing of the machine's");
    for (index, met) in [&b"row"[..], b"all"].into_iter().enumerate() {
        let answer = bench.query(met);
        let is_named = |damage: &StorageError| damage.to_string().contains("damaged by the test");
        assert!(
            matches!(&answer, Err(QueryError::Damaged(damage)) if is_named(damage)),
            "{answer:?}"
        );
        assert_eq!(bench.query(b"good").expect("it is whole"), "value");
        let command = std::str::from_utf8(met).expect("text");
        let applied = bench.apply(&batch_entry(1, index as u64, &[unit(false, &[command])]));
        assert!(
            matches!(&applied, Err(ApplyFault::Damaged(damage)) if is_named(damage)),
            "{applied:?}"
        );
        assert_eq!(bench.applied(), LogIndex::ZERO);
    }
}

/// Goal: the same of the runtime's own row. Method: the time is damaged when the bench opens.
#[test]
fn a_damaged_row_of_the_runtimes_faults_at_the_opening() {
    let mut state = FakeState::empty(GROUP);
    state.damage(TIME_KEY);
    let mut bench = ApplyBench::new(GROUP, Box::new(Ledger::default()), Box::new(state));
    let opened = bench.open();
    assert!(matches!(opened, Err(ApplyFault::Damaged(_))), "{opened:?}");
}

#[test]
#[should_panic(expected = "entry 2 after applied 0")]
fn a_gap_is_never_applied() {
    let _ = bench().apply(&entry(2, EntryKind::Normal, b""));
}

fn bench_over(engine: &Engine) -> ApplyBench {
    let machine = Box::new(EngineMachine::over(engine));
    ApplyBench::new(GROUP, machine, Box::new(FakeState::empty(GROUP)))
}

fn add(index: u64, name: &str) -> LogEntry {
    batch_entry(index, index, &[unit(false, &[&format!("add {name}")])])
}

/// Goal: the index that own storage has durable decides what is replayed. Method: storage that is two
/// entries ahead of the runtime's state; a machine that applied either again would reject it.
#[test]
fn what_own_storage_has_is_not_applied_again() {
    let mut bench = bench_over(&Engine::with(2, &["a", "b"]));
    bench.open().expect("ahead of the state");
    for (index, name) in [(1, "a"), (2, "b")] {
        assert_eq!(bench.apply(&add(index, name)).expect("passed over"), []);
    }
    assert_eq!((bench.applied(), bench.must_persist()), (LogIndex::new(2), false));
    let responses = bench.apply(&add(3, "c")).expect("applied");
    assert_eq!(accepted(&responses), [true]);
    assert_eq!(list(&bench), "a b c");
    assert!(bench.must_persist());
}

#[test]
fn the_time_that_a_machine_sees_counts_what_was_passed_over() {
    let mut bench = bench_over(&Engine::with(1, &["a"]));
    bench.open().expect("ahead of the state");
    bench.apply(&batch_entry(1, 9_000, &[unit(false, &["add a"])])).expect("passed over");
    bench.apply(&batch_entry(2, 1_000, &[unit(false, &["add b"])])).expect("applied");
    assert_eq!(bench.time_ms, 9_000);
}

/// Goal: a storage directory that was lost or swapped is noticed. Method: it has less than the
/// runtime's state, below which the log may be gone.
#[test]
fn own_storage_that_lost_entries_faults_its_group() {
    let engine = Engine::default();
    let mut bench = bench_over(&engine);
    bench.open().expect("both are empty");
    bench.apply(&add(1, "a")).expect("applied");
    bench.machine = Box::new(EngineMachine::over(&engine));
    let lost = bench.open();
    let (durable, applied) = (LogIndex::ZERO, LogIndex::new(1));
    assert!(
        matches!(lost, Err(ApplyFault::OwnStorageBehind { durable: d, applied: a })
            if (d, a) == (durable, applied)),
        "{lost:?}"
    );
}

#[test]
fn own_storage_is_persisted_up_to_the_applied_index_and_only_when_behind() {
    let engine = Engine::default();
    let mut bench = bench_over(&engine);
    bench.open().expect("both are empty");
    bench.persist().expect("nothing to do");
    bench.apply(&add(1, "a")).expect("applied");
    bench.apply(&entry(2, EntryKind::ConfChange, b"")).expect("applied");
    bench.persist().expect("an engine persists");
    bench.persist().expect("nothing to do");
    assert_eq!(engine.persists(), [LogIndex::new(2)]);
    assert!(!bench.must_persist());
    engine.fail();
    bench.apply(&add(3, "b")).expect("applied");
    assert!(matches!(bench.persist(), Err(ApplyFault::Persist(ApplyError::OwnStorage { .. }))));
    assert!(bench.must_persist(), "what failed is not taken for durable");
}

#[test]
fn an_atomic_unit_is_undone_in_own_storage_and_no_other() {
    let mut bench = bench_over(&Engine::default());
    bench.open().expect("both are empty");
    let units = [
        unit(false, &["add a"]),
        unit(true, &["add b", "add a"]),
        unit(true, &["add c", "add d"]),
        unit(false, &["add a"]),
    ];
    let responses = bench.apply(&batch_entry(1, 10, &units)).expect("applied");
    assert_eq!(accepted(&responses), [true, false, false, true, true, false]);
    assert_eq!(list(&bench), "a c d");
}

/// Goal: nothing is kept where it would not be replayed. Method: a machine with storage of its own
/// writes to the runtime's state.
#[test]
fn a_machine_with_own_storage_cannot_write_to_the_state() {
    let mut bench = bench_over(&Engine::default());
    bench.open().expect("both are empty");
    let refused = bench.apply(&batch_entry(1, 10, &[unit(false, &["put"])]));
    let refused = refused.expect_err("the state is read-only");
    assert!(
        matches!(refused, ApplyFault::Machine(ApplyError::State(StateError::OwnStorage))),
        "{refused:?}"
    );
}
