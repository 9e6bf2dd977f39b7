//! The judge: what clients saw, against what the cluster holds in the end.
//!
//! ```text
//! history (requests, times, answers) ─┐
//! ledgers (revision → key, value)  ───┼─→ violations
//! sightings (leaders, applied), hashes ┘
//! ```
//!
//! A keyspace keeps every revision, so its end tells in which order all writes were applied: each
//! request has its place in that order, a write at its revision and a read behind it. Linearizable
//! is then a matter of one pass: nothing that began after an answer may stand before it.
//!
//! Promise: near-linear in the history; every violation is found in what was recorded, none invented:
//! a put of unknown outcome may have been applied once, at any time after it began, or never.
//! Source: the log-order argument of Herlihy and Wing's linearization points.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::history::{Call, Operation, PutOutcome, Sight, ValueId};
use super::violation::Violation;

/// One write as a keyspace holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The revision at which it was applied.
    pub revision: i64,
    /// The key, by its number.
    pub key: u32,
    /// What was put; `None` if no client of this run made such a value.
    pub value: Option<ValueId>,
}

/// Everything that one keyspace applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The keyspace's name.
    pub name: String,
    /// Its revision before the load.
    pub before: i64,
    /// Its revision in the end.
    pub revision: i64,
    /// Every write to the load's keys, ascending by revision.
    pub rows: Vec<Row>,
    /// Hashes of everything up to `revision`, by node.
    pub hashes: BTreeMap<u64, u32>,
}

/// Judges every keyspace. `alone`: nobody but this load wrote to them, so each revision is one put.
pub fn judge(history: &[Operation], ledgers: &[Ledger], alone: bool) -> Vec<Violation> {
    let mut by_keyspace = vec![Vec::new(); ledgers.len()];
    for operation in history {
        by_keyspace[operation.keyspace].push(operation);
    }
    let mut violations = Vec::new();
    for (ledger, operations) in ledgers.iter().zip(&by_keyspace) {
        let case = Case::new(ledger);
        case.judge_rows(alone, &mut violations);
        case.judge_puts(operations, &mut violations);
        case.judge_reads(operations, &mut violations);
        case.judge_order(operations, &mut violations);
        judge_hashes(ledger, &mut violations);
    }
    violations
}

fn judge_hashes(ledger: &Ledger, violations: &mut Vec<Violation>) {
    if ledger.hashes.values().collect::<BTreeSet<_>>().len() > 1 {
        let (keyspace, hashes) = (ledger.name.clone(), ledger.hashes.clone());
        violations.push(Violation::Diverged { keyspace, revision: ledger.revision, hashes });
    }
}

/// One keyspace's ledger, by revision and by value.
struct Case<'l> {
    ledger: &'l Ledger,
    applied: HashMap<ValueId, Vec<i64>>,
    /// Each key's writes, ascending.
    keys: HashMap<u32, Vec<Row>>,
}

impl<'l> Case<'l> {
    fn new(ledger: &'l Ledger) -> Self {
        let (mut applied, mut keys) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for row in &ledger.rows {
            keys.entry(row.key).or_default().push(*row);
            if let Some(value) = row.value {
                applied.entry(value).or_default().push(row.revision);
            }
        }
        Self { ledger, applied, keys }
    }

    fn name(&self) -> String {
        self.ledger.name.clone()
    }

    /// Values that are there twice, or that nobody put; revisions without a put, or with several.
    fn judge_rows(&self, alone: bool, violations: &mut Vec<Violation>) {
        let keyspace = || self.name();
        let twice = self.applied.iter().filter(|(_, revisions)| revisions.len() > 1);
        let mut twice: Vec<_> = twice.map(|(value, at)| (*value, at.clone())).collect();
        twice.sort();
        violations.extend(twice.into_iter().map(|(value, revisions)| Violation::AppliedTwice {
            keyspace: keyspace(),
            value: value.0,
            revisions,
        }));
        let mut next = self.ledger.before + 1;
        for row in &self.ledger.rows {
            let revision = row.revision;
            if row.value.is_none() {
                violations.push(Violation::Unaccounted { keyspace: keyspace(), revision });
            }
            if revision < next {
                violations.push(Violation::SharedRevision { keyspace: keyspace(), revision });
            }
            if alone && revision > next {
                violations.push(Violation::Gap { keyspace: keyspace(), from: next, to: revision });
            }
            next = next.max(revision + 1);
        }
        let end = self.ledger.revision + 1;
        if alone && next < end {
            violations.push(Violation::Gap { keyspace: keyspace(), from: next, to: end });
        }
    }

    /// What was promised of each put holds.
    fn judge_puts(&self, operations: &[&Operation], violations: &mut Vec<Violation>) {
        let mut put = BTreeSet::new();
        for operation in operations {
            let Call::Put { value, outcome } = operation.call else { continue };
            put.insert(value);
            let (keyspace, key) = (self.name(), operation.key);
            let found = self.applied.get(&value).and_then(|at| at.first().copied());
            match (outcome, found) {
                (PutOutcome::Acknowledged(revision), None) => {
                    violations.push(Violation::Lost { keyspace, key, value: value.0, revision });
                }
                (PutOutcome::Acknowledged(acknowledged), Some(found)) if acknowledged != found => {
                    let value = value.0;
                    violations.push(Violation::Moved { keyspace, value, acknowledged, found });
                }
                (PutOutcome::Failed, Some(revision)) => {
                    let value = value.0;
                    violations.push(Violation::FailedButApplied { keyspace, value, revision });
                }
                _ => {}
            }
        }
        for row in &self.ledger.rows {
            if row.value.is_some_and(|value| !put.contains(&value)) {
                let (keyspace, revision) = (self.name(), row.revision);
                violations.push(Violation::Unaccounted { keyspace, revision });
            }
        }
    }

    /// Each read saw the state at the revision that it names.
    fn judge_reads(&self, operations: &[&Operation], violations: &mut Vec<Violation>) {
        for operation in operations {
            let Call::Get(Some(Sight { revision, seen })) = operation.call else { continue };
            let last = self.last_write(operation.key, revision);
            let expected = last.and_then(|row| Some((row.value?, row.revision)));
            // Beyond the ledger's end there is nothing that it could have seen.
            if seen != expected || revision > self.ledger.revision {
                violations.push(Violation::WrongRead {
                    keyspace: self.name(),
                    key: operation.key,
                    revision,
                    seen: seen.map(|(value, at)| (value.0, at)),
                    expected: expected.map(|(value, at)| (value.0, at)),
                });
            }
        }
    }

    /// The last write to `key` at or below `revision`.
    fn last_write(&self, key: u32, revision: i64) -> Option<&Row> {
        let rows = self.keys.get(&key)?;
        rows[..rows.partition_point(|row| row.revision <= revision)].last()
    }

    /// Nothing stands before what was answered before it began.
    fn judge_order(&self, operations: &[&Operation], violations: &mut Vec<Violation>) {
        let mut placed: Vec<_> = operations.iter().filter_map(|op| self.place(op)).collect();
        let mut answered: Vec<_> =
            placed.iter().filter_map(|place| Some((place.answered?, place.revision))).collect();
        placed.sort_by_key(|place| place.began);
        answered.sort();
        let (mut answers, mut newest) = (answered.into_iter().peekable(), self.ledger.before);
        for place in placed {
            while let Some((_, revision)) = answers.next_if(|(at, _)| *at < place.began) {
                newest = newest.max(revision);
            }
            let is_late =
                if place.is_write { place.revision <= newest } else { place.revision < newest };
            if is_late {
                violations.push(Violation::OutOfOrder {
                    keyspace: self.name(),
                    is_write: place.is_write,
                    revision: place.revision,
                    answered: newest,
                    began_ms: place.began.as_millis() as u64,
                });
            }
        }
    }

    /// Where an operation stands in the order of the ledger, if it stands there at all.
    fn place(&self, operation: &Operation) -> Option<Place> {
        let (is_write, revision, is_answered) = match operation.call {
            Call::Get(sight) => (false, sight?.revision, true),
            Call::Put { outcome: PutOutcome::Acknowledged(revision), .. } => (true, revision, true),
            Call::Put { value, .. } => (true, *self.applied.get(&value)?.first()?, false),
        };
        let answered = is_answered.then_some(operation.ended);
        Some(Place { began: operation.began, answered, revision, is_write })
    }
}

struct Place {
    began: Duration,
    answered: Option<Duration>,
    revision: i64,
    is_write: bool,
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
