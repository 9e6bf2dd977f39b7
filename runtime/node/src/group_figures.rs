//! Group figures: what all groups of a node are together, for gauges that do not grow with them.
//!
//! ```text
//! GroupStatus, GroupStatus, … ─collect→ GroupFigures → by role, by health, lags
//! ```

use polyraft_actors::gauge_share::GaugeShare;
use polyraft_core::status::{GroupStatus, Health, Role};

const ROLES: [Role; 4] = [Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader];
/// Names of healths.
const HEALTHS: [&str; 4] = ["healthy", "restarting", "faulted", "stopped"];

/// All groups of a node, as they last published themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct GroupFigures {
    by_role: [u64; ROLES.len()],
    by_health: [u64; HEALTHS.len()],
    without_leader: u64,
    term_max: u64,
    uncommitted: u64,
    apply_lag: u64,
    apply_lag_max: u64,
    replication_lag_max: u64,
}

impl FromIterator<GroupStatus> for GroupFigures {
    fn from_iter<I: IntoIterator<Item = GroupStatus>>(groups: I) -> Self {
        let mut figures = Self::default();
        groups.into_iter().for_each(|group| figures.add(&group));
        figures
    }
}

impl GroupFigures {
    fn add(&mut self, group: &GroupStatus) {
        let health = group.health.as_str();
        let at = HEALTHS.iter().position(|name| *name == health).expect("every health has a name");
        self.by_health[at] += 1;
        if group.health.is_out() {
            return;
        }
        self.by_role[group.role as usize] += 1;
        self.without_leader += u64::from(group.leader.is_none());
        self.term_max = self.term_max.max(group.term.get());
        let lag = group.commit.get() - group.applied.get();
        self.uncommitted += group.last.get() - group.commit.get();
        self.apply_lag += lag;
        self.apply_lag_max = self.apply_lag_max.max(lag);
        if group.role == Role::Leader && group.health == Health::Healthy {
            let lacks = group.last.get() - group.replicated.get();
            self.replication_lag_max = self.replication_lag_max.max(lacks);
        }
    }
}

/// Where the figures of one node's groups go.
#[derive(Debug)]
pub(crate) struct GroupGauges {
    by_role: [GaugeShare; ROLES.len()],
    by_health: [GaugeShare; HEALTHS.len()],
    without_leader: GaugeShare,
    uncommitted: GaugeShare,
    apply_lag: GaugeShare,
}

impl GroupGauges {
    pub(crate) fn new() -> Self {
        let share = GaugeShare::new;
        Self {
            by_role: ROLES
                .map(|role| share(metrics::gauge!("polyraft_groups", "role" => role.as_str()))),
            by_health: HEALTHS.map(|health| {
                share(metrics::gauge!("polyraft_groups_by_health", "health" => health))
            }),
            without_leader: share(metrics::gauge!("polyraft_groups_without_leader")),
            uncommitted: share(metrics::gauge!("polyraft_uncommitted_entries")),
            apply_lag: share(metrics::gauge!("polyraft_apply_lag_entries")),
        }
    }

    /// Exports them.
    pub(crate) fn record(&mut self, figures: &GroupFigures) {
        self.by_role.iter_mut().zip(figures.by_role).for_each(|(share, n)| share.set(n));
        self.by_health.iter_mut().zip(figures.by_health).for_each(|(share, n)| share.set(n));
        self.without_leader.set(figures.without_leader);
        self.uncommitted.set(figures.uncommitted);
        self.apply_lag.set(figures.apply_lag);
        metrics::gauge!("polyraft_term_max").set(figures.term_max as f64);
        metrics::gauge!("polyraft_apply_lag_max_entries").set(figures.apply_lag_max as f64);
        metrics::gauge!("polyraft_replication_lag_max_entries")
            .set(figures.replication_lag_max as f64);
    }
}

#[cfg(test)]
mod tests {
    use polyraft_actors::group_life::initial_status;
    use polyraft_core::entry::Configuration;
    use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
    use polyraft_core::ports::GroupIdentity;

    use super::*;

    /// A group whose log ends at 20, committed up to 15.
    fn group(health: Health, role: Role, term: u64, leader: Option<u64>) -> GroupStatus {
        let identity = GroupIdentity { name: "g".into(), replica: ReplicaId::new(101) };
        let status = initial_status(GroupId::new(1), &identity, Configuration::default());
        GroupStatus {
            health,
            role,
            term: Term::new(term),
            leader: leader.map(NodeId::new),
            last: LogIndex::new(20),
            commit: LogIndex::new(15),
            applied: LogIndex::new(12),
            replicated: LogIndex::new(4),
            ..status
        }
    }

    #[test]
    fn groups_add_up_and_the_worst_counts_for_lags() {
        let slow = GroupStatus {
            applied: LogIndex::new(5),
            ..group(Health::Healthy, Role::Follower, 7, Some(2))
        };
        let figures: GroupFigures = [
            group(Health::Healthy, Role::Leader, 3, Some(1)),
            slow,
            group(Health::Restarting, Role::Follower, 1, None),
            group(Health::Faulted("why".into()), Role::Leader, 90, None),
        ]
        .into_iter()
        .collect();
        let expected = GroupFigures {
            by_role: [2, 0, 0, 1],
            by_health: [2, 1, 1, 0],
            without_leader: 1,
            term_max: 7,
            uncommitted: 15,
            apply_lag: 3 + 10 + 3,
            apply_lag_max: 10,
            replication_lag_max: 16,
        };
        assert_eq!(figures, expected);
    }

    #[test]
    fn roles_and_healths_are_in_the_order_of_their_names() {
        assert!(ROLES.iter().enumerate().all(|(at, role)| *role as usize == at));
        let faulted = Health::Faulted(String::new());
        let all = [&Health::Healthy, &Health::Restarting, &faulted, &Health::Stopped];
        assert_eq!(all.map(Health::as_str), HEALTHS);
    }
}
