//! Ledger: a state machine that counts how often each numbered command was applied.
//!
//! ```text
//! command = 8 bytes, big endian ─apply→ count of that number + 1 ─→ response: the count
//! query   = 8 bytes → its count;  empty query → every (number, count)
//! ```
//!
//! Promise: a number that was acknowledged and is missing was lost, and a count above one was applied
//! twice. A ledger can be told to be slow, or to panic at one number.

use std::ops::Bound;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyraft_core::error::ProposeError;
use polyraft_core::state_machine::{ApplyContext, ApplyError, Response, State, StateMachine};

/// Prefix of the rows.
const ROW: u8 = b'n';

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// How long each command takes; none by default.
    pub apply_takes: Duration,
    /// The number at which the machine panics.
    pub panics_at: Option<u64>,
    /// The number at which the machine returns an error.
    pub fails_at: Option<u64>,
}

/// The command that writes `number`.
pub fn command(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// The counts in the answer to an empty query: (number, count), ascending.
///
/// # Panics
/// If it is no such answer.
pub fn counts(answer: &[u8]) -> Vec<(u64, u64)> {
    assert!(answer.len().is_multiple_of(16), "an answer of {} bytes", answer.len());
    answer.chunks(16).map(|row| (number(&row[..8]), number(&row[8..]))).collect()
}

/// Blocks this thread for `duration`, as a slow disk or a slow machine would.
pub fn block_for(duration: Duration) {
    let until = Instant::now() + duration;
    let (lock, never) = (Mutex::new(()), Condvar::new());
    let mut guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
        guard = never.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("a ledger's numbers have 8 bytes"))
}

fn key(number: &[u8]) -> Vec<u8> {
    [&[ROW], number].concat()
}

impl StateMachine for Ledger {
    fn apply(
        &mut self,
        state: &mut dyn State,
        _: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        let written = number(command);
        assert!(self.panics_at != Some(written), "the ledger panics at {written}, as asked");
        if self.fails_at == Some(written) {
            return Err(ApplyError::Decode { what: format!("{written} is refused, as asked") });
        }
        block_for(self.apply_takes);
        let count = state.get(&key(command))?.map_or(0, |count| number(&count)) + 1;
        let count = Bytes::copy_from_slice(&count.to_be_bytes());
        state.put(&key(command), count.clone())?;
        Ok(Response::Accepted(count))
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        if !query.is_empty() {
            return Ok(state.get(&key(query))?.unwrap_or_else(|| command(0)));
        }
        let mut rows = Vec::new();
        let all = (Bound::Included([ROW]), Bound::Excluded([ROW + 1]));
        let (from, to) = (all.0.as_ref().map(|b| &b[..]), all.1.as_ref().map(|b| &b[..]));
        state.scan(from, to, false, &mut |key, count| {
            rows.extend_from_slice(&key[1..]);
            rows.extend_from_slice(count);
            true
        })?;
        Ok(rows.into())
    }
}

/// Numbers that a test proposes, and what it heard of each.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Acknowledged: each must be applied once.
    pub acknowledged: Vec<u64>,
    /// Unknown: each may be applied once.
    pub unknown: Vec<u64>,
    /// Refused: none may be applied.
    pub refused: Vec<u64>,
}

impl Outcomes {
    /// Notes what was heard of `number`.
    pub fn note<T>(&mut self, number: u64, outcome: &Result<T, ProposeError>) {
        match outcome {
            Ok(_) => self.acknowledged.push(number),
            Err(error) if error.may_have_committed() => self.unknown.push(number),
            Err(_) => self.refused.push(number),
        }
    }

    /// Checks a ledger's counts: nothing acknowledged is missing, nothing was applied twice, and
    /// nothing that was refused was applied.
    ///
    /// # Panics
    /// If that is not so.
    pub fn check(&self, counts: &[(u64, u64)]) {
        self.check_prefix(counts);
        let applied = |n: &&u64| counts.binary_search_by_key(*n, |(n, _)| *n).is_ok();
        let lost: Vec<_> = self.acknowledged.iter().filter(|n| !applied(n)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }

    /// Checks the counts of a replica that may lag: what is there is there once, and was not refused.
    ///
    /// # Panics
    /// If that is not so.
    pub fn check_prefix(&self, counts: &[(u64, u64)]) {
        let twice: Vec<_> = counts.iter().filter(|(_, count)| *count != 1).collect();
        assert!(twice.is_empty(), "applied more than once: {twice:?}");
        let applied = |n: &&u64| counts.binary_search_by_key(*n, |(n, _)| *n).is_ok();
        let wrong: Vec<_> = self.refused.iter().filter(applied).collect();
        assert!(wrong.is_empty(), "refused and applied: {wrong:?}");
        let proposed = self.acknowledged.len() + self.unknown.len();
        assert!(counts.len() <= proposed, "{} applied of {proposed}", counts.len());
    }
}
