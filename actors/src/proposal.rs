//! Proposals in flight: the waiters that travel with a committed entry, and how they are answered.
//!
//! ```text
//! BatchWaiters ─with the entry→ Applier ─resolve→ each caller's oneshot
//! ```
//!
//! Waiters are woken by the applier itself, one per unit, as soon as the entry is applied (AP-11).
//! A waiter that is dropped unanswered tells its caller the same as [`ProposeError::Unknown`].

use polyraft_core::entry::LogEntry;
use polyraft_core::error::ProposeError;
use polyraft_core::ids::{LogIndex, Term};
use polyraft_core::state_machine::Response;
use tokio::sync::oneshot;

/// What a caller gets for one unit: the commands it proposed in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedUnit {
    /// The entry that carried it.
    pub index: LogIndex,
    /// The entry's term.
    pub term: Term,
    /// Position of its first command within the entry, from 0.
    pub first_sub_index: u32,
    /// One response per command, in order.
    pub responses: Vec<Response>,
}

/// Someone who waits for one unit of a batch.
#[derive(Debug)]
pub struct UnitWaiter {
    /// Commands in the unit; its share of the entry's responses.
    pub commands: u32,
    /// Where the outcome goes. The caller may have gone.
    pub reply: oneshot::Sender<Result<AppliedUnit, ProposeError>>,
}

/// Everyone who waits for one entry, in the order of its units.
#[derive(Debug, Default)]
pub struct BatchWaiters {
    /// One per unit of the batch.
    pub units: Vec<UnitWaiter>,
}

impl BatchWaiters {
    /// Answers every waiter with its share of `responses`.
    ///
    /// # Panics
    /// If the units' commands are not as many as the responses: callers would get each other's.
    pub fn resolve(self, index: LogIndex, term: Term, responses: Vec<Response>) {
        let expected: usize = self.units.iter().map(|u| u.commands as usize).sum();
        let got = responses.len();
        assert!(expected == got, "entry {index}: {got} responses for {expected} commands");
        let mut responses = responses.into_iter();
        let mut first_sub_index = 0;
        for unit in self.units {
            let responses = responses.by_ref().take(unit.commands as usize).collect();
            // An Err means that the caller has stopped waiting.
            let _ = unit.reply.send(Ok(AppliedUnit { index, term, first_sub_index, responses }));
            first_sub_index += unit.commands;
        }
    }

    /// Answers every waiter with `error`.
    pub fn fail_all(self, error: &ProposeError) {
        for unit in self.units {
            // As above.
            let _ = unit.reply.send(Err(error.clone()));
        }
    }
}

/// An entry that the group has committed, with those who wait for it on this node.
#[derive(Debug)]
pub struct CommittedEntry {
    /// The entry.
    pub entry: LogEntry,
    /// Who waits; `None` for entries proposed elsewhere, in an earlier life, or by Raft itself.
    pub waiters: Option<BatchWaiters>,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use polyraft_core::ids::GroupId;

    use super::*;

    fn waiters(
        commands: &[u32],
    ) -> (BatchWaiters, Vec<oneshot::Receiver<Result<AppliedUnit, ProposeError>>>) {
        let (units, replies) = commands
            .iter()
            .map(|&commands| {
                let (reply, receiver) = oneshot::channel();
                (UnitWaiter { commands, reply }, receiver)
            })
            .unzip();
        (BatchWaiters { units }, replies)
    }

    fn response(n: u8) -> Response {
        Response::Accepted(Bytes::copy_from_slice(&[n]))
    }

    #[test]
    fn each_unit_gets_its_own_share() {
        let (batch, mut replies) = waiters(&[2, 1]);
        drop(replies.remove(0));
        let (index, term) = (LogIndex::new(9), Term::new(4));
        batch.resolve(index, term, vec![response(0), response(1), response(2)]);
        let expected =
            AppliedUnit { index, term, first_sub_index: 2, responses: vec![response(2)] };
        assert_eq!(replies[0].try_recv().expect("answered"), Ok(expected));
    }

    #[test]
    fn failing_answers_everyone() {
        let (batch, replies) = waiters(&[1, 5, 1]);
        let error = ProposeError::Unknown { group: GroupId::new(1) };
        batch.fail_all(&error);
        for mut reply in replies {
            assert_eq!(reply.try_recv().expect("answered"), Err(error.clone()));
        }
    }

    #[test]
    #[should_panic(expected = "2 responses for 3 commands")]
    fn a_wrong_number_of_responses_is_never_spread() {
        let (batch, _replies) = waiters(&[2, 1]);
        batch.resolve(LogIndex::new(1), Term::new(1), vec![response(0), response(1)]);
    }
}
