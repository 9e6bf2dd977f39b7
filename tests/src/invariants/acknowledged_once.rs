//! Every proposal is answered exactly once; what is acknowledged is never lost, nothing is applied
//! twice, and what was called superseded is never applied.
//!
//! Source: law 3; requirements BP-9, BP-12 and BP-13.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use polyraft_core::entry::{EntryKind, LogEntry};
use polyraft_core::ids::{LogIndex, Term};

use super::Violation;
use crate::host::{ProposalTag, commands_of};

/// How a proposal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Applied at an index.
    Applied(LogIndex),
    /// Never to be applied: refused or superseded.
    Never,
    /// Unknown: leadership or the process was lost.
    Unknown,
}

/// Every proposal, its command and its answer.
#[derive(Debug, Default)]
pub struct AcknowledgedOnce {
    proposed: BTreeMap<ProposalTag, Bytes>,
    answers: BTreeMap<ProposalTag, Answer>,
    places: BTreeMap<ProposalTag, (LogIndex, Term)>,
}

impl AcknowledgedOnce {
    /// A client proposes `command`, unique in the run.
    pub fn proposed(&mut self, tag: ProposalTag, command: Bytes) {
        self.proposed.insert(tag, command);
    }

    /// A leader of `term` appended it at `index`.
    pub fn appended(&mut self, tag: ProposalTag, index: LogIndex, term: Term) {
        self.places.insert(tag, (index, term));
    }

    /// The run is over: how many appended proposals have another term's entry at their place in
    /// `log`, which everyone applied, from index 1.
    ///
    /// # Errors
    /// One of them was acknowledged.
    pub fn overwritten(&self, log: &[LogEntry]) -> Result<usize, Violation> {
        let mut overwritten = 0;
        for (tag, &(index, term)) in &self.places {
            let entry = log.get(index.prev().get() as usize);
            if entry.is_some_and(|entry| entry.term != term) {
                overwritten += 1;
                if let Some(Answer::Applied(_)) = self.answers.get(tag) {
                    let what = format!("#{tag} was overwritten at {index} and acknowledged");
                    return Err(Violation::new("acknowledged once", what));
                }
            }
        }
        Ok(overwritten)
    }

    /// The client is answered.
    ///
    /// # Errors
    /// It was answered before.
    pub fn answered(&mut self, tag: ProposalTag, answer: Answer) -> Result<(), Violation> {
        match self.answers.insert(tag, answer) {
            None => Ok(()),
            Some(first) => {
                let what = format!("#{tag} is answered {first:?} and {answer:?}");
                Err(Violation::new("acknowledged once", what))
            }
        }
    }

    /// The highest index acknowledged so far.
    pub fn acknowledged(&self) -> LogIndex {
        let applied = self.answers.values().filter_map(|answer| match answer {
            Answer::Applied(index) => Some(*index),
            _ => None,
        });
        applied.max().unwrap_or_default()
    }

    /// Proposals answered as applied.
    pub fn applied(&self) -> usize {
        self.answers.values().filter(|answer| matches!(answer, Answer::Applied(_))).count()
    }

    /// Proposals without an answer.
    pub fn unanswered(&self) -> usize {
        self.proposed.len() - self.answers.len()
    }

    /// The run is over; `log` is what everyone applied, from index 1.
    ///
    /// # Errors
    /// A proposal has no answer, or not the one that the log gives.
    pub fn finish(&self, log: &[LogEntry]) -> Result<(), Violation> {
        let broken = |what| Err(Violation::new("acknowledged once", what));
        let mut places: BTreeMap<Bytes, LogIndex> = BTreeMap::new();
        for entry in log.iter().filter(|entry| entry.kind == EntryKind::Normal) {
            for command in commands_of(entry) {
                if let Some(first) = places.insert(command.clone(), entry.index) {
                    return broken(format!(
                        "{command:?} is applied at {first} and {}",
                        entry.index
                    ));
                }
            }
        }
        let known: BTreeSet<_> = self.proposed.values().collect();
        if let Some(command) = places.keys().find(|command| !known.contains(command)) {
            return broken(format!("{command:?} is applied and was never proposed"));
        }
        for (tag, command) in &self.proposed {
            let place = places.get(command).copied();
            match self.answers.get(tag) {
                None => return broken(format!("#{tag} was never answered")),
                Some(Answer::Applied(index)) if place != Some(*index) => {
                    return broken(format!("#{tag} acknowledged at {index} is at {place:?}"));
                }
                Some(Answer::Never) if place.is_some() => {
                    return broken(format!("#{tag} will never be applied, and is at {place:?}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
