//! Election watch: what one replica's outputs say about elections, as figures.
//!
//! ```text
//! after each output: role, term, leader, events ─observe→ started, won after, leaderless for
//! ```
//!
//! It decides nothing and keeps no more than since when. Several inputs are observed at once: a replica
//! that stood and won in between has started an election that took no time.

use std::time::Duration;

use polyraft_core::ids::Term;
use polyraft_core::status::{GroupEvent, GroupStatus, Role};
use polyraft_core::time::Moment;

/// Since when the replica stands, and knows no leader.
#[derive(Debug)]
pub(crate) struct ElectionWatch {
    standing_since: Option<Moment>,
    leaderless_since: Option<Moment>,
    term: Term,
}

/// What one look has seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// It has begun to stand.
    started: bool,
    /// It has won, so long after it began to stand.
    won_after: Option<Duration>,
    /// It knows a leader again, after so long.
    leaderless_for: Option<Duration>,
    /// It has entered a later term.
    term_changed: bool,
}

impl ElectionWatch {
    /// A watch over a replica whose life begins `now` in `term`, without a leader.
    pub(crate) fn new(now: Moment, term: Term) -> Self {
        Self { standing_since: None, leaderless_since: Some(now), term }
    }

    /// Looks at what the replica says of itself now, and at what happened since the last look.
    pub(crate) fn observe(
        &mut self,
        now: Moment,
        status: &GroupStatus,
        events: &[GroupEvent],
    ) -> Seen {
        let won = events.iter().any(|event| matches!(event, GroupEvent::BecameLeader { .. }));
        let stands = matches!(status.role, Role::PreCandidate | Role::Candidate);
        let mut seen = Seen {
            started: (won || stands) && self.standing_since.is_none(),
            term_changed: status.term > self.term,
            ..Seen::default()
        };
        self.term = status.term;
        if seen.started {
            self.standing_since = Some(now);
        }
        if won {
            seen.won_after = self.standing_since.take().map(|since| now.since(since));
        } else if !stands {
            self.standing_since = None;
        }
        match status.leader {
            None => drop(self.leaderless_since.get_or_insert(now)),
            Some(_) => {
                seen.leaderless_for = self.leaderless_since.take().map(|since| now.since(since));
            }
        }
        seen
    }
}

impl Seen {
    pub(crate) fn record(&self) {
        if self.started {
            metrics::counter!("polyraft_elections_started_total").increment(1);
        }
        if let Some(took) = self.won_after {
            metrics::counter!("polyraft_elections_won_total").increment(1);
            metrics::histogram!("polyraft_election_duration_seconds").record(took);
        }
        if let Some(lasted) = self.leaderless_for {
            metrics::histogram!("polyraft_leaderless_duration_seconds").record(lasted);
        }
        if self.term_changed {
            metrics::counter!("polyraft_term_changes_total").increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use polyraft_core::entry::Configuration;
    use polyraft_core::ids::{GroupId, NodeId, ReplicaId};
    use polyraft_core::ports::GroupIdentity;

    use super::*;
    use crate::group_life::initial_status;

    fn at(ms: u64) -> Moment {
        Moment::new(Duration::from_millis(ms))
    }

    fn ms(ms: u64) -> Option<Duration> {
        Some(Duration::from_millis(ms))
    }

    fn status(role: Role, term: u64, leader: Option<u64>) -> GroupStatus {
        let identity = GroupIdentity { name: "g".into(), replica: ReplicaId::new(101) };
        let status = initial_status(GroupId::new(1), &identity, Configuration::default());
        let (term, leader) = (Term::new(term), leader.map(NodeId::new));
        GroupStatus { role, term, leader, ..status }
    }

    fn won(term: u64) -> [GroupEvent; 1] {
        [GroupEvent::BecameLeader { term: Term::new(term) }]
    }

    #[test]
    fn an_election_lasts_from_standing_to_leading() {
        let mut watch = ElectionWatch::new(at(0), Term::new(1));
        let stands = watch.observe(at(100), &status(Role::PreCandidate, 1, None), &[]);
        assert_eq!(stands, Seen { started: true, ..Seen::default() });
        let goes_on = watch.observe(at(120), &status(Role::Candidate, 2, None), &[]);
        assert_eq!(goes_on, Seen { term_changed: true, ..Seen::default() });
        let leads = watch.observe(at(150), &status(Role::Leader, 2, Some(1)), &won(2));
        let expected = Seen { won_after: ms(50), leaderless_for: ms(150), ..Seen::default() };
        assert_eq!(leads, expected);
        let quiet = watch.observe(at(200), &status(Role::Leader, 2, Some(1)), &[]);
        assert_eq!(quiet, Seen::default());
    }

    #[test]
    fn one_who_wins_between_two_looks_has_stood() {
        let mut watch = ElectionWatch::new(at(0), Term::default());
        let seen = watch.observe(at(10), &status(Role::Leader, 1, Some(1)), &won(1));
        let expected =
            Seen { started: true, won_after: ms(0), leaderless_for: ms(10), term_changed: true };
        assert_eq!(seen, expected);
    }

    #[test]
    fn one_who_loses_starts_anew_the_next_time() {
        let mut watch = ElectionWatch::new(at(0), Term::new(1));
        assert!(watch.observe(at(10), &status(Role::Candidate, 2, None), &[]).started);
        let lost = watch.observe(at(20), &status(Role::Follower, 2, Some(3)), &[]);
        assert_eq!(lost, Seen { leaderless_for: ms(20), ..Seen::default() });
        assert!(watch.observe(at(90), &status(Role::PreCandidate, 2, None), &[]).started);
        let found = watch.observe(at(95), &status(Role::Follower, 3, Some(2)), &[]);
        assert_eq!(found.leaderless_for, ms(5));
    }
}
