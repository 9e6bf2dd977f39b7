//! A replica votes once in a term, restarts included.
//!
//! Source: Raft thesis §3.4 and §3.8; requirement RF-1.

use std::collections::BTreeMap;

use polyraft_core::ids::{ReplicaId, Term};
use polyraft_core::message::{Body, Envelope, RaftKind};

use super::Violation;

/// Every vote that left a replica.
#[derive(Debug, Default)]
pub struct OneVote {
    votes: BTreeMap<(ReplicaId, Term), ReplicaId>,
}

impl OneVote {
    /// A replica sends `envelope`. A request for votes is a vote for oneself.
    ///
    /// # Errors
    /// It grants a vote that was given to another.
    pub fn sent(&mut self, envelope: &Envelope) -> Result<(), Violation> {
        let Body::Raft(message) = &envelope.body else { return Ok(()) };
        let candidate = match message.kind {
            RaftKind::RequestVote => envelope.from,
            RaftKind::RequestVoteResponse if !message.reject => envelope.to,
            _ => return Ok(()),
        };
        let key = (envelope.from, message.term);
        let first = *self.votes.entry(key).or_insert(candidate);
        if first == candidate {
            return Ok(());
        }
        let (voter, term) = key;
        let what = format!("{voter} votes for {first} and {candidate} in term {term}");
        Err(Violation::new("one vote", what))
    }
}
