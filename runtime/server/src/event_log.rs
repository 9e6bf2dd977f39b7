//! Event log: what happened lately on this node, for whoever looks after something went wrong.
//!
//! ```text
//! groups, links, faults ─note→ ring of the last rows ─after(seq)→ /events, /summary
//!                        └ too many of a kind at once: one row that counts
//! ```
//!
//! Promise: bounded. A thousand groups that elect at once make a handful of rows, and a kind that never
//! ends drives out its own rows first. A row that goes on counting gets a new number, so that whoever
//! asks for what came after a number sees it again.
//! Not here: where events come from ([`crate::event_watch`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Rows that are remembered.
const ROWS_MAX: usize = 200;
/// Rows of one kind that stand alone within [`WINDOW_MS`]; further ones are counted in one more.
const ALONE_MAX: usize = 5;
/// How long a row that counts goes on counting.
const WINDOW_MS: u64 = 10_000;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A replica here won an election.
    BecameLeader,
    /// A replica here knows of another leader.
    LeaderChanged,
    /// A replica here knows of no leader any more.
    LeaderLost,
    /// A group's members changed.
    ConfChanged,
    /// A group's actor died and was rebuilt.
    ActorRestarted,
    /// A group was taken out of service here.
    GroupFaulted,
    /// Events of a group came faster than they were read.
    EventsMissed,
    /// A link to a peer is up.
    LinkUp,
    /// A link to a peer is gone.
    LinkLost,
    /// A link to or from a peer could not be made.
    LinkRefused,
    /// A store failed.
    StorageFailed,
    /// A fault was injected.
    FaultInjected,
    /// An injected fault is over.
    FaultEnded,
}

impl EventKind {
    /// What a row says that counts several.
    const fn in_numbers(self) -> &'static str {
        match self {
            Self::BecameLeader => "more groups led from here",
            Self::LeaderChanged => "more groups led from elsewhere",
            Self::LeaderLost => "more groups without a leader",
            Self::ConfChanged => "more changes of members",
            Self::ActorRestarted => "more actors restarted",
            Self::GroupFaulted => "more groups out of service",
            Self::EventsMissed => "more groups with events that were missed",
            Self::LinkUp => "more times a link came up",
            Self::LinkLost => "more times a link was lost",
            Self::LinkRefused => "more refused connections",
            Self::StorageFailed => "more failures of a store",
            Self::FaultInjected => "more faults injected",
            Self::FaultEnded => "more faults ended",
        }
    }
}

/// What happened, before it has a place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// What kind of thing.
    pub kind: EventKind,
    /// The group it happened to.
    pub group: Option<u64>,
    /// The peer it is about.
    pub peer: Option<u64>,
    /// One line for a person.
    pub text: String,
}

/// One row of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: from 1, ascending, with gaps.
    pub seq: u64,
    /// When it happened, or the last that it counts: milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The node that saw it.
    pub node: u64,
    /// What kind of thing.
    pub kind: EventKind,
    /// The group it happened to, if to one.
    pub group: Option<u64>,
    /// The peer it is about, if about one.
    pub peer: Option<u64>,
    /// How many happenings it counts; 1 for most.
    pub count: u64,
    /// One line for a person.
    pub text: String,
}

/// A node's log. A cheap clone.
#[derive(Debug, Clone)]
pub struct EventLog {
    node: u64,
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug, Default)]
struct Ring {
    last_seq: u64,
    /// Ascending by number.
    rows: VecDeque<Event>,
    /// The row that counts, of each kind, and when it began to.
    counting: BTreeMap<EventKind, (u64, u64)>,
}

impl EventLog {
    /// An empty log of `node`.
    pub fn new(node: u64) -> Self {
        Self { node, ring: Arc::default() }
    }

    /// Notes what happened at `unix_ms`.
    pub fn note(&self, unix_ms: u64, happening: Happening) {
        self.ring().note(self.node, unix_ms, happening);
    }

    /// The rows after number `seq`, ascending; at most the last `rows_max` of them.
    pub fn after(&self, seq: u64, rows_max: usize) -> Vec<Event> {
        let ring = self.ring();
        let newer = ring.rows.iter().rev().take_while(|row| row.seq > seq).take(rows_max);
        let mut newer: Vec<_> = newer.cloned().collect();
        newer.reverse();
        newer
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn note(&mut self, node: u64, unix_ms: u64, happening: Happening) {
        self.last_seq += 1;
        let Happening { kind, group, peer, text } = happening;
        let mut row =
            Event { seq: self.last_seq, unix_ms, node, kind, group, peer, count: 1, text };
        if self.are_enough_alone(kind, unix_ms) {
            let counted = self.take_counting(kind, unix_ms);
            let (count, since) =
                counted.map_or((1, unix_ms), |(row, since)| (row.count + 1, since));
            row.count = count;
            if count > 1 {
                (row.group, row.peer) = (None, None);
                row.text = format!("{count} {}", kind.in_numbers());
            }
            self.counting.insert(kind, (row.seq, since));
        }
        self.rows.push_back(row);
        if self.rows.len() > ROWS_MAX {
            self.forget_one();
        }
    }

    fn are_enough_alone(&self, kind: EventKind, now: u64) -> bool {
        let counting = self.counting.get(&kind).map(|(seq, _)| *seq);
        let recent = self.rows.iter().rev().filter(|row| {
            row.kind == kind && Some(row.seq) != counting && row.unix_ms + WINDOW_MS > now
        });
        recent.take(ALONE_MAX).count() == ALONE_MAX
    }

    /// The row of this kind that still counts at `now`, out of its place, and since when it does.
    fn take_counting(&mut self, kind: EventKind, now: u64) -> Option<(Event, u64)> {
        let (seq, since) = self.counting.get(&kind).copied()?;
        if since + WINDOW_MS <= now {
            return None;
        }
        let at = self.rows.iter().position(|row| row.seq == seq)?;
        self.rows.remove(at).map(|row| (row, since))
    }

    /// Forgets the oldest row of the kind that has most.
    fn forget_one(&mut self) {
        let mut rows = BTreeMap::<_, usize>::new();
        for row in &self.rows {
            *rows.entry(row.kind).or_default() += 1;
        }
        let most = rows.into_iter().max_by_key(|(_, count)| *count).map(|(kind, _)| kind);
        if let Some(at) = self.rows.iter().position(|row| Some(row.kind) == most) {
            self.rows.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening(kind: EventKind, group: u64) -> Happening {
        Happening { kind, group: Some(group), peer: None, text: format!("ks-{group}") }
    }

    fn texts(log: &EventLog) -> Vec<String> {
        log.after(0, ROWS_MAX).into_iter().map(|row| row.text).collect()
    }

    /// Goal: elections everywhere at once do not flush out what led to them. Method: a lost link, then
    /// 1,000 groups.
    #[test]
    fn a_thousand_elections_at_once_are_six_rows() {
        let log = EventLog::new(1);
        log.note(1_000, happening(EventKind::LinkLost, 0));
        for group in 1..=1_000 {
            log.note(2_000 + group, happening(EventKind::BecameLeader, group));
        }
        let expected =
            ["ks-0", "ks-1", "ks-2", "ks-3", "ks-4", "ks-5", "995 more groups led from here"];
        assert_eq!(texts(&log), expected);
        let last = log.after(0, 1).remove(0);
        let counted = (last.seq, last.unix_ms, last.node, last.group, last.count);
        assert_eq!(counted, (1_001, 3_000, 1, None, 995));
    }

    /// Goal: a row that goes on counting is seen again. Method: ask after its own number.
    #[test]
    fn whoever_asks_after_a_number_sees_what_went_on_counting() {
        let log = EventLog::new(1);
        (1..=7).for_each(|group| log.note(group, happening(EventKind::LeaderChanged, group)));
        let seen = log.after(0, ROWS_MAX).last().expect("there are rows").seq;
        assert_eq!(log.after(seen, ROWS_MAX), []);
        log.note(8, happening(EventKind::LeaderChanged, 8));
        let again = log.after(seen, ROWS_MAX);
        assert_eq!((again.len(), again[0].count), (1, 3));
    }

    #[test]
    fn a_new_window_begins_with_rows_that_stand_alone() {
        let log = EventLog::new(1);
        (1..=6).for_each(|group| log.note(group, happening(EventKind::LinkUp, group)));
        log.note(6 + WINDOW_MS, happening(EventKind::LinkUp, 7));
        assert_eq!(texts(&log).last().map(String::as_str), Some("ks-7"));
        // What counted in the window before stays as it is.
        (8..=12).for_each(|g| log.note(7 + WINDOW_MS, happening(EventKind::LinkUp, g)));
        let counts: Vec<_> = log.after(0, ROWS_MAX).iter().map(|row| row.count).collect();
        assert_eq!(counts, [1; 12]);
    }

    #[test]
    fn a_kind_that_never_ends_drives_out_its_own_rows() {
        let log = EventLog::new(1);
        log.note(0, happening(EventKind::GroupFaulted, 42));
        for second in 1..=3_000 {
            log.note(second * 1_000, happening(EventKind::LinkRefused, second));
        }
        let rows = log.after(0, usize::MAX);
        assert_eq!((rows.len(), rows[0].kind), (ROWS_MAX, EventKind::GroupFaulted));
        assert!(rows.is_sorted_by_key(|row| row.seq));
        assert_eq!(log.after(0, 3), rows[ROWS_MAX - 3..]);
    }
}
