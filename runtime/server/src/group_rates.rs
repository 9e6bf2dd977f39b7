//! Group rates: how much each group commits, from two looks at what the groups publish.
//!
//! ```text
//! every second: (group, commit index) … ─→ entries committed since the look before, per second
//! ```
//!
//! Promise: a look waits for no group, and its cost is a few words per group. Not here: rates as
//! metrics, which would be a series per group (OB-2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use polyraft::Node;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What each group commits. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupRates(Arc<Mutex<Looks>>);

#[derive(Debug, Default)]
struct Looks {
    last: Option<Instant>,
    groups: HashMap<u64, Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    commit: u64,
    entries_per_second: f64,
}

impl GroupRates {
    /// Looks at a node's groups again and again, until it is dropped.
    pub(crate) async fn watch(self, node: Node) -> std::convert::Infallible {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let groups = node.groups().into_iter();
            let commits = groups.map(|group| (group.id().get(), group.status().commit.get()));
            self.look(Instant::now(), commits);
        }
    }

    /// Entries per second that `group` committed between the last two looks; 0 before the second.
    pub(crate) fn of(&self, group: u64) -> f64 {
        self.lock().groups.get(&group).map_or(0.0, |seen| seen.entries_per_second)
    }

    fn look(&self, now: Instant, commits: impl Iterator<Item = (u64, u64)>) {
        let mut looks = self.lock();
        let since = looks.last.replace(now).map(|last| now.saturating_duration_since(last));
        let since = since.unwrap_or_default().as_secs_f64();
        let rate = |group: u64, commit: u64| match looks.groups.get(&group) {
            // A replica that is rebuilt begins with what it knows to be committed, which may be less.
            Some(before) if since > 0.0 => commit.saturating_sub(before.commit) as f64 / since,
            _ => 0.0,
        };
        let seen = commits.map(|(group, commit)| {
            (group, Seen { commit, entries_per_second: rate(group, commit) })
        });
        let groups = seen.collect();
        looks.groups = groups;
    }

    fn lock(&self) -> MutexGuard<'_, Looks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_committed_between_two_looks() {
        let (rates, began) = (GroupRates::default(), Instant::now());
        rates.look(began, [(1, 100), (2, 7)].into_iter());
        assert_eq!((rates.of(1), rates.of(2), rates.of(3)), (0.0, 0.0, 0.0), "one look is none");
        rates.look(began + Duration::from_secs(2), [(1, 120), (2, 7), (3, 50)].into_iter());
        assert_eq!((rates.of(1), rates.of(2)), (10.0, 0.0));
        assert_eq!(rates.of(3), 0.0, "a new group has committed nothing that was seen");
    }

    #[test]
    fn a_group_that_is_rebuilt_or_gone_has_no_rate() {
        let (rates, began) = (GroupRates::default(), Instant::now());
        rates.look(began, [(1, 100), (2, 100)].into_iter());
        rates.look(began + Duration::from_secs(1), [(1, 90)].into_iter());
        assert_eq!((rates.of(1), rates.of(2)), (0.0, 0.0));
        rates.look(began + Duration::from_secs(1), [(1, 95)].into_iter());
        assert_eq!(rates.of(1), 0.0, "two looks at one time are one");
    }
}
