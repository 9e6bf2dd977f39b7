//! The journal's index, in memory: where each group's live entries are, and its latest hard state.
//!
//! ```text
//! group ─ compacted ─┬─ span: cold table ─┬─ span: record 17 ─┬─ span: record 20 ─┐ last
//! ```
//!
//! Records are applied in the order of their sequence, live and at start alike, by the same code.
//! Promise: spans are contiguous from after the compaction point to the last entry, and ascend in
//! sequence; so whatever garbage collection moved out of the journal is a prefix.
//! Not here: bytes (`journal_record`), disk (`journal`), what to move (`journal_gc`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use polyraft_core::entry::{CompactionPoint, Configuration, HardState};
use polyraft_core::ids::{GroupId, LogIndex, Term};
use polyraft_core::ports::GroupIdentity;

use crate::journal_record::{Block, Compaction, EntryRun};

/// The extent and terms of one group's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LogShape {
    pub compacted: CompactionPoint,
    pub last: LogIndex,
    /// The first live index of each term, ascending.
    pub runs: VecDeque<(LogIndex, Term)>,
}

impl LogShape {
    pub fn first(&self) -> LogIndex {
        self.compacted.index.next()
    }

    /// The term at the compaction point or of a live entry.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index < self.compacted.index || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).map(|at| self.runs[at].1)
    }

    /// Whether compaction to `point` drops the whole log: it ends before, or disagrees there.
    pub fn resets_at(&self, point: CompactionPoint) -> bool {
        point.index > self.compacted.index && self.term_at(point.index) != Some(point.term)
    }

    /// Replaces everything from the start of `range`, which must be within the log or just after it.
    pub fn append(&mut self, range: &Range<LogIndex>, terms: &[(LogIndex, Term)]) {
        self.truncate(range.start);
        for &(first, term) in terms {
            let first = first.max(range.start);
            while self.runs.back().is_some_and(|(at, _)| *at >= first) {
                self.runs.pop_back();
            }
            if self.runs.back().is_none_or(|(_, last)| *last != term) {
                self.runs.push_back((first, term));
            }
        }
        self.last = range.end.prev();
    }

    fn truncate(&mut self, from: LogIndex) {
        while self.runs.back().is_some_and(|(at, _)| *at >= from) {
            self.runs.pop_back();
        }
        self.last = self.last.min(from.prev());
    }

    /// Forgets entries up to `compaction.point`; a point already passed changes nothing but a reset.
    pub fn compact(&mut self, compaction: Compaction) {
        let Compaction { point, resets } = compaction;
        if resets {
            self.truncate(self.first());
        }
        if point.index <= self.compacted.index {
            return;
        }
        self.compacted = point;
        self.last = self.last.max(point.index);
        let first = point.index.next();
        while self.runs.get(1).is_some_and(|(at, _)| *at <= first) {
            self.runs.pop_front();
        }
        match self.runs.front_mut() {
            Some(_) if self.last < first => self.runs.clear(),
            Some((at, _)) => *at = first.max(*at),
            None => {}
        }
    }
}

/// Where a span's entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the journal: a record's sequence, the byte offset of an entry in it, and which entry.
    Journal { sequence: u64, offset: u32, index_at: LogIndex },
    /// In the cold table, one row each.
    Cold,
}

/// Live entries that lie together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub range: Range<LogIndex>,
    pub place: Place,
}

/// All that is known of one group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GroupIndex {
    /// Unknown only if the record that created the group is damaged.
    pub identity: Option<GroupIdentity>,
    pub hard_state: HardState,
    pub configuration: Configuration,
    pub shape: LogShape,
    pub spans: VecDeque<Span>,
    /// Indexes between which the cold table may hold rows, live or not, half-open.
    pub cold_rows: Range<u64>,
    /// The sequence up to which the group's row in the meta table knows everything.
    pub meta_sequence: u64,
    /// Why the group is quarantined.
    pub damage: Option<String>,
    /// Whether the row in the meta table says so: no record that it knows of ends the quarantine.
    pub is_damaged_in_meta: bool,
}

impl GroupIndex {
    /// Live indexes in the cold table.
    pub fn cold_live(&self) -> Range<LogIndex> {
        match self.spans.front() {
            Some(Span { range, place: Place::Cold }) => range.clone(),
            _ => self.shape.first()..self.shape.first(),
        }
    }

    /// The live entries of records up to `sequence`, which garbage collection must move.
    pub fn journal_prefix(&self, sequence: u64) -> impl Iterator<Item = &Span> {
        self.spans.iter().take_while(move |span| match span.place {
            Place::Cold => true,
            Place::Journal { sequence: at, .. } => at <= sequence,
        })
    }

    /// Rows of the cold table that are no longer live, a piece from either end. What a quarantined
    /// group left behind is nobody's to delete.
    pub fn cold_garbage(&self) -> Option<Range<u64>> {
        if self.damage.is_some() {
            return None;
        }
        let (rows, live) = (&self.cold_rows, self.cold_live());
        let (start, end) = (live.start.get(), live.end.get());
        if rows.is_empty() {
            None
        } else if start == end {
            Some(rows.clone())
        } else if rows.start < start {
            Some(rows.start..start.min(rows.end))
        } else {
            (end < rows.end).then(|| end.max(rows.start)..rows.end)
        }
    }

    /// Records that the rows of `gone`, as returned by `cold_garbage`, are deleted.
    pub fn cold_deleted(&mut self, gone: &Range<u64>) {
        if gone.start <= self.cold_rows.start {
            self.cold_rows.start = gone.end.min(self.cold_rows.end);
        } else {
            self.cold_rows.end = gone.start;
        }
    }

    /// Records that everything up to `sequence` was moved to the cold table.
    pub fn moved_to_cold(&mut self, sequence: u64) {
        let moved = self.journal_prefix(sequence).count();
        let Some(last) = moved.checked_sub(1).map(|at| &self.spans[at]) else { return };
        let range = self.shape.first()..last.range.end;
        self.spans.drain(..moved);
        let rows = &mut self.cold_rows;
        *rows = match rows.is_empty() {
            true => range.start.get()..range.end.get(),
            false => rows.start.min(range.start.get())..rows.end.max(range.end.get()),
        };
        self.spans.push_front(Span { range, place: Place::Cold });
    }

    fn apply(&mut self, block: &Block, sequence: u64) -> Result<(), &'static str> {
        if self.is_damaged_in_meta && sequence <= self.meta_sequence {
            return Ok(());
        }
        if let Some(identity) = &block.create {
            // A new replica of the group: nothing of an earlier one may show through.
            let (cold_rows, meta_sequence) = (self.cold_rows.clone(), self.meta_sequence);
            let identity = Some(identity.clone());
            *self = Self { identity, cold_rows, meta_sequence, ..Self::default() };
        }
        if self.damage.is_some() {
            return Ok(());
        }
        if self.identity.is_none() {
            return Err("the record that created the group is gone");
        }
        if let Some(hard_state) = block.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(configuration) = &block.configuration {
            self.configuration = configuration.clone();
        }
        if let Some(run) = &block.entries {
            self.apply_entries(run, sequence)?;
        }
        block.compact.map_or(Ok(()), |compaction| self.apply_compaction(compaction, sequence))
    }

    fn apply_entries(&mut self, run: &EntryRun, sequence: u64) -> Result<(), &'static str> {
        // The meta row may be newer than the record: then it knows of compactions, truncations and
        // resets still to come, and what they remove need not connect.
        let start = run.range.start.max(self.shape.first());
        if start > self.shape.last.next() {
            let is_foreseen = sequence <= self.meta_sequence;
            return if is_foreseen { Ok(()) } else { Err("entries are missing before a record") };
        }
        self.truncate_spans(start);
        if start >= run.range.end {
            self.shape.truncate(start);
            return Ok(());
        }
        let range = start..run.range.end;
        self.shape.append(&range, &run.terms);
        let place = Place::Journal { sequence, offset: run.offset, index_at: run.range.start };
        self.spans.push_back(Span { range, place });
        Ok(())
    }

    fn apply_compaction(
        &mut self,
        compaction: Compaction,
        sequence: u64,
    ) -> Result<(), &'static str> {
        let is_beyond = compaction.point.index > self.shape.last;
        if !compaction.resets && is_beyond && sequence > self.meta_sequence {
            return Err("entries are missing before a compaction");
        }
        self.shape.compact(compaction);
        if compaction.resets {
            self.spans.clear();
        }
        let first = self.shape.first();
        while self.spans.front().is_some_and(|span| span.range.end <= first) {
            self.spans.pop_front();
        }
        if let Some(front) = self.spans.front_mut() {
            front.range.start = front.range.start.max(first);
        }
        Ok(())
    }

    fn truncate_spans(&mut self, from: LogIndex) {
        while self.spans.back().is_some_and(|span| span.range.start >= from) {
            self.spans.pop_back();
        }
        if let Some(back) = self.spans.back_mut() {
            back.range.end = back.range.end.min(from);
        }
    }
}

/// Every group of a journal.
#[derive(Debug, Default)]
pub(crate) struct JournalIndex {
    pub groups: BTreeMap<GroupId, GroupIndex>,
    /// Groups whose cold table may hold dead rows.
    pub garbage: BTreeSet<GroupId>,
    /// Whether a record was met of which not even the groups are known.
    pub lost_record: bool,
    /// Whether the meta table does not say so yet.
    pub is_loss_unrecorded: bool,
}

impl JournalIndex {
    /// Applies one group's part of the record `sequence`.
    pub fn apply(&mut self, block: &Block, sequence: u64) {
        let group = self.groups.entry(block.group).or_default();
        if let Err(rule) = group.apply(block, sequence) {
            self.quarantine(block.group, format!("record {sequence}: {rule}"));
        } else if group.cold_garbage().is_some() {
            self.garbage.insert(block.group);
        }
    }

    /// Takes a group out of service. The first reason is kept.
    pub fn quarantine(&mut self, group: GroupId, reason: String) {
        tracing::error!(group = group.get(), reason, "group quarantined: its log is damaged");
        let index = self.groups.entry(group).or_default();
        index.spans.clear();
        index.damage.get_or_insert(reason);
    }

    /// Takes every group out of service: any of them may have had a part in the lost record.
    pub fn quarantine_all(&mut self, reason: &str) {
        (self.lost_record, self.is_loss_unrecorded) = (true, true);
        let groups: Vec<_> = self.groups.keys().copied().collect();
        for group in groups {
            self.quarantine(group, reason.to_owned());
        }
    }
}
