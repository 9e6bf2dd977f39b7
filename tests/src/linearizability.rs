//! Linearizability: what clients heard, held against the log, in near-linear time.
//!
//! ```text
//! clients ─began, ended, position, value→ operations ┐
//! replicas ─applied, in log order──────→ log ────────┴→ check → the first contradiction
//! ```
//!
//! Raft has already found the one order that linearizability asks for: the log's. Every answer names its
//! place in it, so nothing is searched. Three things remain to be seen: each answer is what the log says
//! at that place; each write is in the log as often as its client was told; and an operation that began
//! after another one ended stands behind it (for a read, not before it).
//!
//! An operation that may have happened is held to its beginning only. Values are the numbers of the
//! operations that wrote them, so that no two writes are alike.
//! Not here: a search that trusts no log (`stateright`, in the tests); where histories come from
//! (`node_sim`).
//! Source: Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects".

use std::collections::BTreeMap;

/// A place in a group's log: the entry, and the command in it.
pub type Position = (u64, u32);

/// What one client asked of one key, and what it heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its number, unique in the history and not 0.
    pub number: u64,
    /// The key.
    pub key: u64,
    /// Whether it writes its number to the key.
    pub writes: bool,
    /// When it began, in the order of all beginnings and ends.
    pub began: u64,
    /// When its client heard of it, in the same order.
    pub ended: u64,
    /// What its client heard.
    pub heard: Heard,
}

/// What a client heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It happened at this place in the log; of a read: everything up to there is visible.
    Done {
        /// The place.
        at: Position,
        /// The operation that had written the key last, or 0.
        value: u64,
    },
    /// It did not happen and never will.
    Refused,
    /// It may happen, or have happened.
    Unknown,
}

/// A write as the replicas applied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// The operation.
    pub number: u64,
    /// The key that it wrote to.
    pub key: u64,
}

/// Every write that any replica applied, in the order of the log.
pub type Log = BTreeMap<Position, Write>;

/// Why a history is not linearizable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// A write is in the log more than once.
    #[error("operation {number} is applied at {first:?} and again at {second:?}")]
    AppliedTwice {
        /// The operation.
        number: u64,
        /// Where it is.
        first: Position,
        /// Where it is as well.
        second: Position,
    },
    /// A write was acknowledged and is not where its client was told.
    #[error("operation {0:?} is acknowledged, and something else is there")]
    Lost(Operation),
    /// A write was refused as never proposed, and was applied.
    #[error("operation {0:?} is refused, and applied at {1:?}")]
    RefusedAndApplied(Operation, Position),
    /// An answer is not what the log says.
    #[error("operation {0:?} saw another value than {1}, which is there")]
    WrongValue(Operation, u64),
    /// An operation does not stand behind one that had ended when it began.
    #[error("operation {0:?} began when everything up to {1:?} had been seen")]
    OutOfOrder(Operation, Position),
}

/// Checks one group's history.
///
/// # Errors
/// The first contradiction found.
pub fn check(log: &Log, operations: &[Operation]) -> Result<(), Contradiction> {
    let places = places(log)?;
    let keys = keys(log);
    for operation in operations {
        check_answer(log, &places, &keys, operation)?;
    }
    check_order(&places, operations)
}

/// Where each write is.
fn places(log: &Log) -> Result<BTreeMap<u64, Position>, Contradiction> {
    let mut places = BTreeMap::new();
    for (&second, write) in log {
        if let Some(first) = places.insert(write.number, second) {
            return Err(Contradiction::AppliedTwice { number: write.number, first, second });
        }
    }
    Ok(places)
}

/// Each key's writes, in order.
type Keys = BTreeMap<u64, BTreeMap<Position, u64>>;

fn keys(log: &Log) -> Keys {
    let mut keys = Keys::new();
    for (at, write) in log {
        keys.entry(write.key).or_default().insert(*at, write.number);
    }
    keys
}

fn check_answer(
    log: &Log,
    places: &BTreeMap<u64, Position>,
    keys: &Keys,
    operation: &Operation,
) -> Result<(), Contradiction> {
    let Operation { number, key, writes, .. } = *operation;
    let (at, value) = match operation.heard {
        Heard::Done { at, value } => (at, value),
        Heard::Unknown => return Ok(()),
        Heard::Refused => {
            return match places.get(&number) {
                Some(at) if writes => Err(Contradiction::RefusedAndApplied(*operation, *at)),
                _ => Ok(()),
            };
        }
    };
    if writes && log.get(&at) != Some(&Write { number, key }) {
        return Err(Contradiction::Lost(*operation));
    }
    let of_key = keys.get(&key);
    let last = match writes {
        true => of_key.and_then(|writes| writes.range(..at).next_back()),
        false => of_key.and_then(|writes| writes.range(..=at).next_back()),
    };
    let there = last.map_or(0, |(_, number)| *number);
    if there == value { Ok(()) } else { Err(Contradiction::WrongValue(*operation, there)) }
}

/// Real time against the log: what began after something was seen stands behind it.
fn check_order(
    places: &BTreeMap<u64, Position>,
    operations: &[Operation],
) -> Result<(), Contradiction> {
    let mut ends: Vec<(u64, Position)> = Vec::new();
    for operation in operations {
        if let Heard::Done { at, .. } = operation.heard {
            ends.push((operation.ended, at));
        }
    }
    ends.sort_unstable();
    let mut begins: Vec<&Operation> = operations.iter().collect();
    begins.sort_unstable_by_key(|operation| operation.began);
    let (mut ends, mut seen) = (ends.into_iter().peekable(), (0, 0));
    for operation in begins {
        while let Some((_, at)) = ends.next_if(|(ended, _)| *ended < operation.began) {
            seen = seen.max(at);
        }
        let place = match operation.heard {
            Heard::Done { at, .. } => Some(at),
            _ => places.get(&operation.number).copied().filter(|_| operation.writes),
        };
        let is_behind = |at: Position| if operation.writes { at > seen } else { at >= seen };
        if place.is_some_and(|at| !is_behind(at)) {
            return Err(Contradiction::OutOfOrder(*operation, seen));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two writes to key 1, one after the other, and a read after both.
    fn sound() -> (Log, Vec<Operation>) {
        let log = Log::from([
            ((1, 0), Write { number: 1, key: 1 }),
            ((2, 0), Write { number: 2, key: 1 }),
        ]);
        let write = |number, began, at, value| {
            let heard = Heard::Done { at, value };
            Operation { number, key: 1, writes: true, began, ended: began + 1, heard }
        };
        let heard = Heard::Done { at: (2, 0), value: 2 };
        let read = Operation { number: 3, key: 1, writes: false, began: 4, ended: 5, heard };
        (log, vec![write(1, 0, (1, 0), 0), write(2, 2, (2, 0), 1), read])
    }

    #[test]
    fn a_sound_history_passes_in_any_order_of_listing() {
        let (log, mut operations) = sound();
        assert_eq!(check(&log, &operations), Ok(()));
        operations.reverse();
        assert_eq!(check(&log, &operations), Ok(()));
    }

    #[test]
    fn a_stale_read_is_found_unless_it_overlaps_the_write() {
        let (log, mut operations) = sound();
        operations[2].heard = Heard::Done { at: (1, 0), value: 1 };
        let stale = operations[2];
        assert_eq!(check(&log, &operations), Err(Contradiction::OutOfOrder(stale, (2, 0))));
        operations[2].began = 2;
        assert_eq!(check(&log, &operations), Ok(()), "it began before the second write ended");
        operations[2].heard = Heard::Done { at: (1, 0), value: 2 };
        assert!(matches!(check(&log, &operations), Err(Contradiction::WrongValue(_, 1))));
    }

    #[test]
    fn a_lost_write_is_found() {
        let (mut log, operations) = sound();
        log.remove(&(2, 0));
        assert_eq!(check(&log, &operations), Err(Contradiction::Lost(operations[1])));
        log.insert((2, 0), Write { number: 9, key: 1 });
        assert_eq!(check(&log, &operations), Err(Contradiction::Lost(operations[1])));
    }

    #[test]
    fn a_write_applied_twice_is_found_whatever_its_client_heard() {
        let (mut log, mut operations) = sound();
        log.insert((3, 0), Write { number: 1, key: 1 });
        for heard in [operations[0].heard, Heard::Unknown] {
            operations[0].heard = heard;
            let twice = Contradiction::AppliedTwice { number: 1, first: (1, 0), second: (3, 0) };
            assert_eq!(check(&log, &operations), Err(twice));
        }
    }

    #[test]
    fn a_refused_write_must_be_absent_and_an_unknown_one_may_come_late_but_not_early() {
        let (log, mut operations) = sound();
        operations[1].heard = Heard::Unknown;
        assert_eq!(check(&log, &operations), Ok(()));
        operations[1].began = 6;
        let early = operations[1];
        assert_eq!(check(&log, &operations), Err(Contradiction::OutOfOrder(early, (2, 0))));
        operations[1].heard = Heard::Refused;
        let refused = operations[1];
        let found = Err(Contradiction::RefusedAndApplied(refused, (2, 0)));
        assert_eq!(check(&log, &operations), found);
    }
}
