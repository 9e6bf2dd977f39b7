//! Witness: a state machine of registers that tells the judge everything it applies and answers.
//!
//! ```text
//! command = number, key → register[key] := number, answers what was there before
//! query   = key         → what is there, and the place of the last write to any key
//! ```
//!
//! Beside the registers the state holds a hash of all that was ever applied to it, with positions and
//! times. It is durable with the state, so a state that is flushed without its applied index, or the
//! other way round, has another hash after its replay.

use std::sync::Arc;

use bytes::Bytes;
use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::state_machine::{ApplyContext, ApplyError, Response, State, StateMachine};

use super::judge::SharedJudge;
use crate::invariants::mix;
use crate::linearizability::{Position, Write};

/// Where the hash and the place of the last write are.
const HISTORY: &[u8] = b"h";
/// One in so many commands is rejected by the machine, after it has written.
const REJECTED_ONE_IN: u64 = 16;

/// A write to the registers.
pub fn command(write: Write) -> Bytes {
    [write.number.to_be_bytes(), write.key.to_be_bytes()].concat().into()
}

/// A read of one register.
pub fn query(key: u64) -> Bytes {
    Bytes::copy_from_slice(&key.to_be_bytes())
}

/// What a replica had applied when it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Of everything applied.
    pub hash: u64,
    /// The last write that took effect.
    pub last: Position,
}

/// The answer to a query: the register, and what it was read from.
pub fn answer(bytes: &[u8]) -> Option<(u64, History)> {
    let (value, history) = bytes.split_at_checked(8)?;
    Some((number(value)?, History::decode(history)?))
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

impl History {
    fn encode(self) -> Bytes {
        let words = [self.hash, self.last.0, u64::from(self.last.1)];
        words.map(u64::to_be_bytes).concat().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks(8).map(number);
        let (hash, index, sub) = (words.next()??, words.next()??, words.next()??);
        Some(Self { hash, last: (index, u32::try_from(sub).ok()?) })
    }

    fn of(state: &dyn State) -> Result<Self, ApplyError> {
        let stored = state.get(HISTORY)?;
        Ok(stored.and_then(|bytes| Self::decode(&bytes)).unwrap_or_default())
    }

    fn then(self, context: &ApplyContext, write: Write) -> Self {
        let ApplyContext { index, term, sub_index, time_ms, .. } = *context;
        let words =
            [index.get(), term.get(), u64::from(sub_index), time_ms, write.number, write.key];
        let hash = words.into_iter().fold(self.hash, mix);
        Self { hash, last: (index.get(), sub_index) }
    }
}

/// The machine of one life of one replica.
pub struct Witness {
    node: NodeId,
    judge: Arc<SharedJudge>,
    /// Mixed into every hash: 0, but for the sabotage that reads this replica's own clock.
    impurity: fn() -> u64,
    applied: Option<Position>,
}

impl Witness {
    /// A machine on `node`.
    pub fn new(node: NodeId, judge: Arc<SharedJudge>, impurity: fn() -> u64) -> Self {
        Self { node, judge, impurity, applied: None }
    }

    /// Within a life positions only grow.
    fn advance(&mut self, group: GroupId, at: Position) {
        if let Some(applied) = self.applied.replace(at).filter(|applied| at <= *applied) {
            let node = self.node;
            let what = format!("n{node} g{group}: applies {at:?} after {applied:?}");
            self.judge.lock().blame("applied is monotonic", what);
        }
    }
}

impl StateMachine for Witness {
    fn apply(
        &mut self,
        state: &mut dyn State,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        let words = command.split_at_checked(8).and_then(|(n, k)| Some((number(n)?, number(k)?)));
        let Some((number, key)) = words else {
            return Err(ApplyError::Decode { what: "no command of a witness".to_owned() });
        };
        let write = Write { number, key };
        self.advance(context.group, (context.index.get(), context.sub_index));
        let before = state.get(&register(key))?;
        let mut history = History::of(state)?.then(context, write);
        history.hash ^= (self.impurity)();
        state.put(&register(key), Bytes::copy_from_slice(&number.to_be_bytes()))?;
        state.put(HISTORY, history.encode())?;
        if is_rejected(number) {
            return Ok(Response::Rejected(Bytes::new()));
        }
        self.judge.lock().applied(self.node, context.group, write, history);
        Ok(Response::Accepted(before.unwrap_or_else(|| Bytes::from_static(&[0; 8]))))
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        let Some(key) = number(query) else {
            return Err(ApplyError::Decode { what: "no query of a witness".to_owned() });
        };
        let value = state.get(&register(key))?.unwrap_or_else(|| Bytes::from_static(&[0; 8]));
        Ok([value, History::of(state)?.encode()].concat().into())
    }
}

/// Whether the machine refuses the write of this number.
pub fn is_rejected(number: u64) -> bool {
    number.is_multiple_of(REJECTED_ONE_IN)
}

fn register(key: u64) -> Vec<u8> {
    [b"r".as_slice(), &key.to_be_bytes()].concat()
}
