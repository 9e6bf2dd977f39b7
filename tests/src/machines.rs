//! Ledger: a state machine whose state proves what was applied, and a bench to disturb it.
//!
//! ```text
//! add KEY      counts KEY; the count is 1 exactly if KEY was applied exactly once
//! create KEY   as add, but rejected if KEY is there
//! reject       writes, then rejects: nothing of it may stay
//! poison       cannot be decoded: faults the group
//! ```
//!
//! Every command also moves the position, which must grow strictly (AP-1), the time, which must not
//! fall (AP-3), and a hash over all of it in order. A machine that sees a gap in sub-indexes, a
//! repeated or an empty command says so with an error, which faults its group: tests need only look
//! at the group's health.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use polyraft::{ApplyContext, ApplyError, Response, State, StateMachine};

const POSITION: &[u8] = b"position";
const TIME: &[u8] = b"time";
const HASH: &[u8] = b"hash";
const TOTAL: &[u8] = b"total";
/// Before the key of every counter.
const COUNTER: u8 = b'#';

/// A command that counts `key`, of at most 400 bytes.
pub fn add(key: impl AsRef<[u8]>) -> Bytes {
    command(b'+', key.as_ref())
}

/// A command that counts `key` unless it has been counted.
pub fn create(key: impl AsRef<[u8]>) -> Bytes {
    command(b'!', key.as_ref())
}

/// A command that is rejected after it has written.
pub fn reject() -> Bytes {
    command(b'-', b"")
}

/// A command that no machine can decode.
pub fn poison() -> Bytes {
    command(b'?', b"")
}

/// A command that adds to the total and to the hash alone, of any size.
pub fn weight(bytes: usize) -> Bytes {
    command(b'=', &vec![b'w'; bytes.saturating_sub(1)])
}

/// Asks how often `key` was counted.
pub fn count_of(key: impl AsRef<[u8]>) -> Bytes {
    command(COUNTER, key.as_ref())
}

/// Asks how many commands were accepted.
pub fn total() -> Bytes {
    Bytes::from_static(TOTAL)
}

/// Asks for the hash over everything that was applied, in order.
pub fn hash() -> Bytes {
    Bytes::from_static(HASH)
}

/// Reads a number that the machine answered.
///
/// # Panics
/// If it is not one of its answers.
pub fn number(body: &Bytes) -> u64 {
    u64::from_be_bytes(body.as_ref().try_into().expect("the machine answers eight bytes"))
}

fn command(op: u8, rest: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + rest.len());
    bytes.push(op);
    bytes.extend_from_slice(rest);
    bytes.into()
}

/// What holds commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Gate {
    /// Nothing.
    #[default]
    Open,
    /// Every command after so many.
    ClosedAfter(u64),
}

/// Disturbs the machines of one group on one node. Nothing is disturbed at first.
#[derive(Debug, Default)]
pub struct Bench {
    gate: Mutex<Gate>,
    changed: Condvar,
    pause_us: AtomicU64,
    entry_pause_us: AtomicU64,
    pause_is_random: AtomicBool,
    is_failing: AtomicBool,
    applied: AtomicU64,
    random: AtomicU64,
}

impl Bench {
    /// Holds every command until the gate is opened.
    pub fn close_gate(&self) {
        *self.gate() = Gate::ClosedAfter(0);
    }

    /// Lets this many commands through, counted from the machine's first, and holds the rest.
    pub fn close_gate_at(&self, commands: u64) {
        *self.gate() = Gate::ClosedAfter(commands);
    }

    /// Lets commands through again.
    pub fn open_gate(&self) {
        *self.gate() = Gate::Open;
        self.changed.notify_all();
    }

    /// Makes every command take this long.
    pub fn pause_each(&self, pause: Duration) {
        self.pause_is_random.store(false, Ordering::SeqCst);
        self.store_pause(pause);
    }

    /// Makes every entry, however many commands it holds, take this long.
    pub fn pause_each_entry(&self, pause: Duration) {
        self.entry_pause_us.store(micros(pause), Ordering::SeqCst);
    }

    /// Makes every command take up to this long, each another time.
    pub fn pause_up_to(&self, pause: Duration) {
        self.pause_is_random.store(true, Ordering::SeqCst);
        self.store_pause(pause);
    }

    /// Makes every command fail as a broken disk does, on this node alone.
    pub fn fail(&self) {
        self.is_failing.store(true, Ordering::SeqCst);
    }

    /// Commands that reached a machine here, replays included.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }

    fn store_pause(&self, pause: Duration) {
        self.pause_us.store(micros(pause), Ordering::SeqCst);
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, context: &ApplyContext) -> Result<(), ApplyError> {
        let before = self.applied.fetch_add(1, Ordering::SeqCst);
        let mut gate = self.gate();
        while matches!(*gate, Gate::ClosedAfter(commands) if before >= commands) {
            gate = self.changed.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        let is_first = context.sub_index == 0;
        let of_entry = if is_first { self.entry_pause_us.load(Ordering::SeqCst) } else { 0 };
        let pause = Duration::from_micros(self.next_pause_us() + of_entry);
        if !pause.is_zero() {
            // The time itself is the fault: nothing ends it early.
            let waited = self.changed.wait_timeout_while(gate, pause, |_| true);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        match self.is_failing.load(Ordering::SeqCst) {
            true => Err(broken("the disk, as this test asked")),
            false => Ok(()),
        }
    }

    /// Differs from call to call and needs no more quality than that.
    fn next_pause_us(&self) -> u64 {
        let max = self.pause_us.load(Ordering::SeqCst);
        if max == 0 || !self.pause_is_random.load(Ordering::SeqCst) {
            return max;
        }
        let n = self.random.fetch_add(1, Ordering::SeqCst);
        n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) % max
    }
}

/// The machine.
pub struct Ledger {
    bench: Arc<Bench>,
}

impl Ledger {
    /// A machine that `bench` disturbs.
    pub fn new(bench: Arc<Bench>) -> Self {
        Self { bench }
    }
}

impl StateMachine for Ledger {
    fn apply(
        &mut self,
        state: &mut dyn State,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        self.bench.pass(context)?;
        let Some((op, key)) = command.split_first() else { return Err(broken("an empty command")) };
        check_order(state, context)?;
        let counter = [&[COUNTER], key].concat();
        let count = match op {
            b'+' => read(state, &counter)? + 1,
            b'!' if read(state, &counter)? > 0 => {
                return Ok(Response::Rejected("AlreadyExists".into()));
            }
            b'!' => 1,
            b'-' => {
                state.put(TOTAL, Bytes::from_static(b"left over!"))?;
                return Ok(Response::Rejected("asked to".into()));
            }
            b'=' => 0,
            _ => return Err(broken("an unknown command")),
        };
        if count > 0 {
            state.put(&counter, be(count))?;
        }
        let hash = fnv(&[&be(read(state, HASH)?), &be(context.time_ms), command]);
        let total = read(state, TOTAL)? + 1;
        state.put(HASH, be(hash))?;
        state.put(TOTAL, be(total))?;
        Ok(Response::Accepted(be(if count > 0 { count } else { total })))
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        Ok(be(read(state, query)?))
    }
}

/// Positions grow, times do not fall. Rejected commands leave no position, so gaps are not errors;
/// what proves that none was skipped is the hash, equal everywhere.
fn check_order(state: &mut dyn State, context: &ApplyContext) -> Result<(), ApplyError> {
    let position = [be(context.index.get()), be(context.sub_index.into())].concat();
    let before = state.get(POSITION)?.unwrap_or_default();
    if position.as_slice() <= before.as_ref() {
        return Err(broken("a position at or before the last one"));
    }
    if context.time_ms < read(state, TIME)? {
        return Err(broken("a time before the last one"));
    }
    state.put(POSITION, position.into())?;
    state.put(TIME, be(context.time_ms))?;
    Ok(())
}

fn read(state: &dyn State, key: &[u8]) -> Result<u64, ApplyError> {
    match state.get(key)? {
        None => Ok(0),
        Some(value) => match value.as_ref().try_into() {
            Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
            Err(_) => Err(broken("a number that is none: a rollback was lost")),
        },
    }
}

fn micros(pause: Duration) -> u64 {
    u64::try_from(pause.as_micros()).expect("a pause is short")
}

fn be(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn broken(what: &str) -> ApplyError {
    ApplyError::Decode { what: what.to_owned() }
}

/// FNV-1a.
fn fnv(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
