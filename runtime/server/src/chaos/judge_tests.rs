//! The judge's negative controls: each kind of violation, in a history small enough to read.

use std::time::Instant;

use super::*;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A put to key 0, from `began` to `ended`.
fn put(value: u64, (began, ended): (u64, u64), outcome: PutOutcome) -> Operation {
    let call = Call::Put { value: ValueId(value), outcome };
    Operation { keyspace: 0, key: 0, node: 1, began: at(began), ended: at(ended), call }
}

fn acknowledged(value: u64, times: (u64, u64), revision: i64) -> Operation {
    put(value, times, PutOutcome::Acknowledged(revision))
}

fn read((began, ended): (u64, u64), revision: i64, seen: Option<(u64, i64)>) -> Operation {
    let seen = seen.map(|(value, revision)| (ValueId(value), revision));
    let call = Call::Get(Some(Sight { revision, seen }));
    Operation { keyspace: 0, key: 0, node: 2, began: at(began), ended: at(ended), call }
}

/// A keyspace whose key 0 was put these values, from revision 2 on.
fn ledger(values: &[u64]) -> Ledger {
    let row =
        |(revision, value): (i64, &u64)| Row { revision, key: 0, value: Some(ValueId(*value)) };
    let rows: Vec<_> = (2..).zip(values).map(row).collect();
    Ledger {
        name: "ks".into(),
        before: 1,
        revision: 1 + rows.len() as i64,
        rows,
        ..Ledger::default()
    }
}

fn verdict(history: &[Operation], ledger: Ledger) -> Vec<String> {
    judge(history, &[ledger], true).iter().map(ToString::to_string).collect()
}

#[test]
fn a_history_that_keeps_every_promise_is_clean() {
    let history = [
        acknowledged(1, (0, 10), 2),
        // Unknown and applied later; unknown and never applied; refused.
        put(2, (5, 9), PutOutcome::Unknown),
        put(3, (5, 9), PutOutcome::Unknown),
        put(4, (11, 12), PutOutcome::Failed),
        read((11, 15), 2, Some((1, 2))),
        read((14, 20), 3, Some((2, 3))),
        acknowledged(5, (16, 30), 4),
        // Overlaps the put, and may see it or not.
        read((17, 31), 3, Some((2, 3))),
    ];
    assert_eq!(verdict(&history, ledger(&[1, 2, 5])), [""; 0]);
    let empty = [read((0, 1), 1, None)];
    assert_eq!(verdict(&empty, ledger(&[])), [""; 0]);
}

#[test]
fn a_lost_write_is_found() {
    let history = [acknowledged(1, (0, 10), 2), acknowledged(2, (11, 20), 3)];
    let found = verdict(&history, ledger(&[1]));
    assert_eq!(found, ["ks: put 2 of key 0, acknowledged at revision 3, is lost"]);
    let moved = verdict(&history, ledger(&[2, 1]));
    assert_eq!(moved.len(), 2, "{moved:?}");
    assert!(moved[0].contains("put 1, acknowledged at revision 2, is at 3"), "{moved:?}");
}

#[test]
fn a_write_applied_twice_is_found() {
    let history = [acknowledged(1, (0, 10), 2)];
    let found = verdict(&history, ledger(&[1, 1]));
    assert_eq!(found, ["ks: put 1 was applied at each of [2, 3]"]);
    let refused = [put(1, (0, 10), PutOutcome::Failed)];
    let found = verdict(&refused, ledger(&[1]));
    assert_eq!(found, ["ks: put 1 was refused, and is at revision 2"]);
}

#[test]
fn a_stale_read_is_found() {
    let writes = [acknowledged(1, (0, 10), 2), acknowledged(2, (11, 20), 3)];
    let stale = read((21, 25), 2, Some((1, 2)));
    let found = verdict(&[writes[0], writes[1], stale], ledger(&[1, 2]));
    let expected = "ks: a read that began at 21 ms, after revision 3 was answered, stands at 2";
    assert_eq!(found, [expected]);
    // Also against another read: what one client saw, no later read may miss.
    let (unknown, first) = (put(2, (5, 9), PutOutcome::Unknown), read((21, 25), 3, Some((2, 3))));
    let second = read((26, 27), 2, Some((1, 2)));
    let found = verdict(&[writes[0], unknown, first, second], ledger(&[1, 2]));
    assert_eq!(found.len(), 1, "{found:?}");
    let wrong = read((21, 25), 3, Some((1, 2)));
    let found = verdict(&[writes[0], writes[1], wrong], ledger(&[1, 2]));
    let expected = "ks: a read of key 0 at revision 3 saw Some((1, 2)), not Some((2, 3))";
    assert_eq!(found, [expected]);
    let beyond = read((21, 25), 9, Some((2, 3)));
    let found = verdict(&[writes[0], writes[1], beyond], ledger(&[1, 2]));
    assert_eq!(found.len(), 1, "what it saw after revision 3 is gone: {found:?}");
}

#[test]
fn writes_against_the_order_of_time_are_found() {
    let history = [acknowledged(2, (0, 10), 3), acknowledged(1, (11, 20), 2)];
    let found = verdict(&history, ledger(&[1, 2]));
    let expected = "ks: a write that began at 11 ms, after revision 3 was answered, stands at 2";
    assert_eq!(found, [expected]);
    // An unknown outcome is no licence: it cannot have been applied before it was sent.
    let history = [acknowledged(2, (0, 10), 3), put(1, (11, 20), PutOutcome::Unknown)];
    assert_eq!(verdict(&history, ledger(&[1, 2])), [expected]);
}

#[test]
fn gaps_strangers_and_differing_hashes_are_found() {
    let mut gap = ledger(&[1, 2]);
    gap.rows.remove(0);
    let found = verdict(&[acknowledged(2, (0, 1), 3)], gap.clone());
    assert_eq!(found, ["ks: no write at the revisions from 2 up to 3"]);
    assert!(judge(&[acknowledged(2, (0, 1), 3)], &[gap], false).is_empty());
    let found = verdict(&[], ledger(&[9]));
    assert_eq!(found, ["ks: nobody put what is at revision 2"]);
    let mut shared = ledger(&[1, 2]);
    shared.rows[1].revision = 2;
    shared.revision = 2;
    let history = [acknowledged(1, (0, 9), 2), acknowledged(2, (0, 9), 2)];
    assert_eq!(verdict(&history, shared), ["ks: several writes at revision 2"]);
    let mut forked = ledger(&[]);
    forked.hashes = [(1, 0xa), (2, 0xa), (3, 0xb)].into();
    let found = verdict(&[], forked);
    assert_eq!(found, ["ks: hashes at revision 1 differ: {1: a, 2: a, 3: b}"]);
}

/// Goal: the judge scales. Method: a clean history of 200,000 requests, which takes a second where
/// one that compared each with each would take many minutes.
#[test]
fn judging_is_near_linear() {
    let values: Vec<_> = (1..=200_000).collect();
    let write = |n: &u64| acknowledged(*n, (10 * n, 10 * n + 25), *n as i64 + 1);
    let history: Vec<_> = values.iter().map(write).collect();
    let (ledger, began) = ([ledger(&values)], Instant::now());
    assert!(judge(&history, &ledger, true).is_empty());
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
