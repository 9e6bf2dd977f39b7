//! The bench with a small ledger: what reaches the machine, and what a rejection leaves behind.

use polyraft_core::ids::Term;

use super::*;
use crate::testing::{FakeState, Ledger, batch_entry, unit};

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
    let mut state = MachineState(Box::new(FakeState::empty(GROUP)));
    state.0.put(TIME_KEY, Bytes::from_static(b"12345678")).expect("the runtime may");
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

#[test]
#[should_panic(expected = "entry 2 after applied 0")]
fn a_gap_is_never_applied() {
    let _ = bench().apply(&entry(2, EntryKind::Normal, b""));
}
