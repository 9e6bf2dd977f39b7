//! A read sees every write that was acknowledged before it began.
//!
//! Every reply carries its index, so real-time order is compared with log order: a read that waits for
//! an index at or after the highest one acknowledged when it was asked is linearizable.
//! Source: Raft thesis §6.4; Herlihy and Wing, "Linearizability".

use std::collections::BTreeMap;

use polyraft_core::ids::LogIndex;

use super::Violation;
use crate::host::ReadTag;

/// Reads under way, with the least index that each may be answered at.
#[derive(Debug, Default)]
pub struct LinearizableReads {
    waiting: BTreeMap<ReadTag, LogIndex>,
    confirmed: usize,
}

impl LinearizableReads {
    /// A client reads when everything up to `acknowledged` has been acknowledged.
    pub fn asked(&mut self, tag: ReadTag, acknowledged: LogIndex) {
        self.waiting.insert(tag, acknowledged);
    }

    /// The read may be answered at `index`.
    ///
    /// # Errors
    /// It misses a write, or it was answered before.
    pub fn confirmed(&mut self, tag: ReadTag, index: LogIndex) -> Result<(), Violation> {
        let least = self.ended(tag)?;
        self.confirmed += 1;
        if index >= least {
            return Ok(());
        }
        let what = format!("read {tag} answered at {index}; {least} was acknowledged before it");
        Err(Violation::new("linearizable reads", what))
    }

    /// The read failed or its replica stopped. Returns what it had to see.
    ///
    /// # Errors
    /// It was answered before.
    pub fn ended(&mut self, tag: ReadTag) -> Result<LogIndex, Violation> {
        let answered_twice =
            || Violation::new("linearizable reads", format!("read {tag} is answered twice"));
        self.waiting.remove(&tag).ok_or_else(answered_twice)
    }

    /// Reads that were answered.
    pub fn answered(&self) -> usize {
        self.confirmed
    }

    /// Reads without an answer.
    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }
}
