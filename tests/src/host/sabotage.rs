//! Deliberately broken shells: the negative controls of the simulator (CH-6).

use bytes::Bytes;
use polyraft_core::batch;
use polyraft_core::conf_change::{ConfChange, ConfChangeKind};
use polyraft_core::entry::{Configuration, EntryKind, LogEntry, Member};
use polyraft_core::output::Committed;
use polyraft_core::ports::GroupAppend;

/// One way to break a host's shell. Each must be noticed, by an invariant or by an assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// Tells the replica that appends are durable as soon as they are queued.
    AcknowledgeBeforeDurable,
    /// Tells the replica that all queued appends are durable when the first of them are.
    AcknowledgeOutOfOrder,
    /// Goes on acknowledging after a commit has failed.
    AcknowledgeAfterFailure,
    /// Leaves the hard state out of every commit.
    HardStateUnsaved,
    /// Saves the term and forgets the vote.
    VoteUnsaved,
    /// Leaves configurations out of every commit.
    ConfigurationUnsaved,
    /// Saves a configuration with the entry that proposes it, before that is committed.
    ConfigurationEarly,
    /// Forgets the old voters of a joint configuration when it is saved.
    JointQuorumIgnored,
    /// Writes appends over the old log without truncating it: drops each conflicting append.
    TruncationSkipped,
    /// Reads damaged entries as if their checksums were right.
    ChecksumIgnored,
    /// Does not tell the replica that its appends died with the log writer.
    LostAppends,
    /// Comes back on an empty disk under the id that it had.
    WipedUnderOldId,
    /// Applies the second of two committed entries first.
    ApplyOutOfOrder,
    /// Applies the first entry after a restart twice.
    AppliedTwice,
    /// Passes over the last entry of a slice.
    EntrySkipped,
    /// Makes state durable without the applied index that it belongs to.
    StateWithoutIndex,
    /// Answers a proposal when it is submitted.
    AnswerOnSubmit,
    /// Answers whoever waits for an entry's index, whichever term they proposed in.
    WaitersByIndex,
    /// Drops the units that wait when leadership is lost, without an answer.
    QueueDropped,
    /// Answers reads at the applied index without asking a leader.
    StaleRead,
    /// Ticks only when nothing waits to be applied.
    HeartbeatsBehindApply,
}

impl Sabotage {
    /// Every one of them.
    pub const ALL: [Self; 21] = [
        Self::AcknowledgeBeforeDurable,
        Self::AcknowledgeOutOfOrder,
        Self::AcknowledgeAfterFailure,
        Self::HardStateUnsaved,
        Self::VoteUnsaved,
        Self::ConfigurationUnsaved,
        Self::ConfigurationEarly,
        Self::JointQuorumIgnored,
        Self::TruncationSkipped,
        Self::ChecksumIgnored,
        Self::LostAppends,
        Self::WipedUnderOldId,
        Self::ApplyOutOfOrder,
        Self::AppliedTwice,
        Self::EntrySkipped,
        Self::StateWithoutIndex,
        Self::AnswerOnSubmit,
        Self::WaitersByIndex,
        Self::QueueDropped,
        Self::StaleRead,
        Self::HeartbeatsBehindApply,
    ];

    /// What becomes of an append on its way to a log of `len` entries, saved with `configuration`.
    pub(super) fn spoil(self, append: &mut GroupAppend, len: usize, configuration: &Configuration) {
        match self {
            Self::HardStateUnsaved => append.hard_state = None,
            Self::VoteUnsaved => {
                if let Some(hard_state) = &mut append.hard_state {
                    hard_state.vote = None;
                }
            }
            Self::ConfigurationUnsaved => append.configuration = None,
            Self::ConfigurationEarly => {
                let entry = append.entries.iter().find(|e| e.kind == EntryKind::ConfChange);
                let early = entry.and_then(|entry| configured_early(configuration, entry));
                append.configuration = early.or(append.configuration.take());
            }
            Self::JointQuorumIgnored => {
                if let Some(configuration) = &mut append.configuration {
                    configuration.voters_outgoing.clear();
                    configuration.auto_leave = false;
                }
            }
            Self::TruncationSkipped => {
                let end = len as u64;
                if append.entries.first().is_some_and(|first| first.index.get() <= end) {
                    append.entries.retain(|entry| entry.index.get() > end);
                }
            }
            _ => {}
        }
    }

    /// What becomes of a slice of committed entries on its way to the machine.
    pub(super) fn spoil_slice<W>(self, slice: &mut [Committed<W>]) {
        match (self, slice) {
            (Self::ApplyOutOfOrder, [first, second, ..]) => {
                std::mem::swap(&mut first.entry, &mut second.entry);
                std::mem::swap(&mut first.entry.index, &mut second.entry.index);
            }
            (Self::EntrySkipped, [_, .., last]) => last.entry.data = Bytes::new(),
            _ => {}
        }
    }
}

/// The configuration that a change of one replica leads to.
fn configured_early(before: &Configuration, entry: &LogEntry) -> Option<Configuration> {
    let change = ConfChange::decode(&entry.data).ok()?;
    let step = change.steps.first()?;
    let mut after = before.clone();
    after.voters.retain(|id| *id != step.replica);
    after.learners.retain(|id| *id != step.replica);
    match step.kind {
        ConfChangeKind::AddVoter => after.voters.push(step.replica),
        ConfChangeKind::AddLearner => after.learners.push(step.replica),
        ConfChangeKind::Remove => after.members.retain(|m| m.replica != step.replica),
    }
    let is_new = |m: &&Member| !after.members.contains(m);
    let new: Vec<_> = change.members.iter().filter(is_new).copied().collect();
    after.members.extend(new);
    after.voters.sort();
    after.index = entry.index;
    Some(after)
}

/// The entry with every unit of its batch twice.
pub(super) fn repeated(entry: &LogEntry) -> LogEntry {
    let Ok(batch) = batch::decode(entry.data.clone()) else { return entry.clone() };
    let twice = batch.units.iter().chain(&batch.units);
    LogEntry { data: batch::encode(batch.time_ms, twice), ..entry.clone() }
}
