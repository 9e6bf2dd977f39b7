//! A small machine whose state depends on every command, its place and its time.
//!
//! It reads before it writes, deletes now and then, and rejects one command of eight after it has
//! written, so that buffers, the durable base and rollback all take part in what the state becomes.

use bytes::Bytes;
use polyraft_core::state_machine::{ApplyContext, ApplyError, Response, State, StateMachine};

use crate::invariants::mix;

const CHAIN: &[u8] = b"chain";
const TIME: &[u8] = b"time";
/// Rows beside these two.
const ROWS: u64 = 12;

/// The machine. It keeps nothing but its state.
#[derive(Debug, Default)]
pub struct Chronicle;

impl StateMachine for Chronicle {
    fn apply(
        &mut self,
        state: &mut dyn State,
        context: &ApplyContext,
        command: &[u8],
    ) -> Result<Response, ApplyError> {
        if number(state, TIME)? > context.time_ms {
            return Err(ApplyError::Decode { what: "the time has fallen".into() });
        }
        let place = mix(context.index.get(), u64::from(context.sub_index));
        let told = command.iter().fold(0, |hash, byte| mix(hash, u64::from(*byte)));
        let chain = mix(mix(number(state, CHAIN)?, place), mix(told, context.time_ms));
        put(state, CHAIN, chain)?;
        put(state, TIME, context.time_ms)?;
        let row = |at: u64| [b'#', (at % ROWS) as u8];
        if told % 5 == 0 {
            state.delete(&row(told / 5))?;
        }
        let before = number(state, &row(chain))?;
        put(state, &row(chain), mix(before, told))?;
        let body = Bytes::copy_from_slice(&chain.to_be_bytes());
        Ok(if told % 8 == 0 { Response::Rejected(body) } else { Response::Accepted(body) })
    }

    fn query(&self, state: &dyn State, query: &[u8]) -> Result<Bytes, ApplyError> {
        Ok(state.get(query)?.unwrap_or_default())
    }
}

fn number(state: &dyn State, key: &[u8]) -> Result<u64, ApplyError> {
    let value = state.get(key)?.and_then(|value| value.as_ref().try_into().ok());
    Ok(value.map_or(0, u64::from_be_bytes))
}

fn put(state: &mut dyn State, key: &[u8], value: u64) -> Result<(), ApplyError> {
    Ok(state.put(key, Bytes::copy_from_slice(&value.to_be_bytes()))?)
}
