//! Conformance: what every `StateMachine` must hold (EM-3), checked without a node.
//!
//! ```text
//! commands ─→ machine A ─┐
//! commands ─→ machine B ─┼─ after each: same response, same state; a rejection leaves no trace
//! commands ─→ machine C ─┘  C is opened anew over its state after every command
//! ```
//!
//! Machines that keep derived data in memory must rebuild it in `open`; machines that read a clock,
//! randomness or the order of a hash map differ sooner or later. An embedder runs [`check`] over
//! commands that are typical of its service.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use polyraft::{
    ApplyContext, GroupId, LogIndex, Response, State, StateError, StateMachine, Term, limits,
};

/// An ordered state in memory, with the runtime's rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryState {
    rows: BTreeMap<Bytes, Bytes>,
}

impl MemoryState {
    fn check_key(key: &[u8]) -> Result<(), StateError> {
        match key.first() {
            None => Err(StateError::KeySize { bytes: 0 }),
            Some(&limits::STATE_KEY_RESERVED) => Err(StateError::ReservedKey),
            _ if key.len() > limits::STATE_KEY_BYTES_MAX => {
                Err(StateError::KeySize { bytes: key.len() })
            }
            _ => Ok(()),
        }
    }
}

impl State for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.rows.get(key).cloned())
    }

    fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), StateError> {
        Self::check_key(key)?;
        if value.len() > limits::STATE_VALUE_BYTES_MAX {
            return Err(StateError::ValueSize { bytes: value.len() });
        }
        self.rows.insert(Bytes::copy_from_slice(key), value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        Self::check_key(key)?;
        self.rows.remove(key);
        Ok(())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &Bytes) -> bool,
    ) -> Result<(), StateError> {
        let rows = self.rows.range::<[u8], _>((from, to));
        let _ = match reverse {
            true => rows.rev().all(|(key, value)| visit(key, value)),
            false => rows.into_iter().all(|(key, value)| visit(key, value)),
        };
        Ok(())
    }
}

/// The rule that a machine breaks, and at which command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The command's position, from 0.
    pub command: usize,
    /// The rule.
    pub rule: Rule,
}

/// What a machine must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `open` takes every state that the machine wrote.
    Opens,
    /// A command of the embedder's is no error.
    Applies,
    /// Two machines over equal states answer alike.
    SameResponse,
    /// Two machines over equal states write alike.
    SameState,
    /// A machine that was opened anew behaves like one that was not.
    SameAfterOpen,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command {} breaks {:?}", self.command, self.rule)
    }
}

impl std::error::Error for Violation {}

/// One machine over one state.
struct Replica {
    machine: Box<dyn StateMachine>,
    state: MemoryState,
}

impl Replica {
    fn open(machine: Box<dyn StateMachine>, state: MemoryState) -> Option<Self> {
        let mut replica = Self { machine, state };
        replica.machine.open(&replica.state).ok()?;
        Some(replica)
    }

    /// As the runtime does it: a rejection is rolled back.
    fn apply(&mut self, context: &ApplyContext, command: &[u8]) -> Option<Response> {
        let before = self.state.clone();
        let response = self.machine.apply(&mut self.state, context, command).ok()?;
        if !response.is_accepted() {
            self.state = before;
        }
        Some(response)
    }
}

/// Runs `commands` through machines that `make` makes. Returns the state that they agree on.
///
/// # Errors
/// The first violation.
pub fn check(
    make: impl Fn() -> Box<dyn StateMachine>,
    commands: impl IntoIterator<Item = Bytes>,
) -> Result<MemoryState, Violation> {
    let open = |command, state| {
        let violation = Violation { command, rule: Rule::Opens };
        Replica::open(make(), state).ok_or(violation)
    };
    let mut first = open(0, MemoryState::default())?;
    let mut second = open(0, MemoryState::default())?;
    let mut reopened = open(0, MemoryState::default())?;
    for (at, command) in commands.into_iter().enumerate() {
        let context = context(at);
        let violation = |rule| Violation { command: at, rule };
        let applies = violation(Rule::Applies);
        let response = first.apply(&context, &command).ok_or(applies)?;
        if second.apply(&context, &command).as_ref() != Some(&response) {
            return Err(violation(Rule::SameResponse));
        }
        if first.state != second.state {
            return Err(violation(Rule::SameState));
        }
        let again = reopened.apply(&context, &command);
        if again.as_ref() != Some(&response) || reopened.state != first.state {
            return Err(violation(Rule::SameAfterOpen));
        }
        reopened = open(at, reopened.state)?;
    }
    Ok(first.state)
}

/// A few commands per entry, and a clock that often stands still.
fn context(at: usize) -> ApplyContext {
    let at = u64::try_from(at).expect("a position fits");
    ApplyContext {
        group: GroupId::new(1),
        index: LogIndex::new(1 + at / 4),
        term: Term::new(1 + at / 64),
        sub_index: u32::try_from(at % 4).expect("less than four"),
        time_ms: 1_700_000_000_000 + at / 8,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use polyraft::ApplyError;
    use polyraft_server::mvcc::Keyspace;
    use polyraft_server::proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest};
    use polyraft_server::proto::keyspace::Command;
    use polyraft_server::proto::keyspace::command::Kind;
    use prost::Message;

    use super::*;
    use crate::machines::{Bench, Ledger, add, create, poison, reject};

    fn ledger() -> Box<dyn StateMachine> {
        Box::new(Ledger::new(Arc::new(Bench::default())))
    }

    /// EM-3: the tests' own machine conforms, rejections included.
    #[test]
    fn the_ledger_conforms() {
        let commands = [add("a"), create("a"), reject(), create("b"), add("b")];
        let state = check(ledger, commands).unwrap();
        assert!(state.get(b"#b").unwrap().is_some());
    }

    /// EM-3: the server's keyspace conforms, over puts, deletions, compactions and refusals.
    #[test]
    fn the_keyspace_conforms() {
        let commands = (0..400_i64).map(|n| {
            let key = Bytes::from(format!("key-{}", n * 7 % 23));
            let kind = match n % 9 {
                7 => Kind::DeleteRange(DeleteRangeRequest { key, ..Default::default() }),
                8 => Kind::Compact(CompactionRequest { revision: n / 3, ..Default::default() }),
                _ => {
                    Kind::Put(PutRequest { key, value: n.to_string().into(), ..Default::default() })
                }
            };
            Bytes::from(Command { kind: Some(kind) }.encode_to_vec())
        });
        let state = check(|| Box::new(Keyspace::default()), commands).unwrap();
        assert!(!state.rows.is_empty());
    }

    /// Counts in memory and forgets to rebuild the count.
    #[derive(Default)]
    struct Forgetful(u64);

    impl StateMachine for Forgetful {
        fn apply(
            &mut self,
            _: &mut dyn State,
            _: &ApplyContext,
            _: &[u8],
        ) -> Result<Response, ApplyError> {
            self.0 += 1;
            Ok(Response::Accepted(self.0.to_string().into()))
        }

        fn query(&self, _: &dyn State, _: &[u8]) -> Result<Bytes, ApplyError> {
            Ok(Bytes::new())
        }
    }

    /// A test of the kit: machines that break a rule are told which.
    #[test]
    fn violations_are_named() {
        let forgetful = check(|| Box::<Forgetful>::default(), [add("a"), add("a")]);
        assert_eq!(forgetful, Err(Violation { command: 1, rule: Rule::SameAfterOpen }));
        let poisoned = check(ledger, [add("a"), poison()]);
        assert_eq!(poisoned, Err(Violation { command: 1, rule: Rule::Applies }));
    }
}
