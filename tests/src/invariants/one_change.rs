//! One conf change at a time: a configuration takes effect only once its entry is committed, each
//! differs from the one before by one voter or passes through a joint one, and a replica that applied
//! beyond a change has changed.
//!
//! Source: Raft thesis §4.1 and §4.3; requirement RF-7.

use std::collections::BTreeMap;

use polyraft_core::entry::Configuration;
use polyraft_core::ids::{LogIndex, ReplicaId};
use polyraft_core::status::GroupStatus;

use super::Violation;

/// Every configuration that took effect anywhere, by the index of its entry.
#[derive(Debug, Default)]
pub struct OneChange {
    known: BTreeMap<LogIndex, Configuration>,
}

impl OneChange {
    /// A configuration is in force somewhere, when everything up to `committed` is known to be
    /// committed.
    ///
    /// # Errors
    /// Its entry is not committed, another has its index, or it does not follow the one before.
    pub fn in_force(
        &mut self,
        configuration: &Configuration,
        committed: LogIndex,
    ) -> Result<(), Violation> {
        let index = configuration.index;
        if index > committed {
            return broken(format!("{configuration:?} in force; committed up to {committed}"));
        }
        match self.known.get(&index) {
            Some(first) if first == configuration => return Ok(()),
            Some(first) => return broken(format!("{configuration:?} and {first:?}")),
            None => {}
        }
        if let Some((_, before)) = self.known.range(..index).next_back()
            && !follows(before, configuration)
        {
            return broken(format!("{configuration:?} after {before:?}"));
        }
        self.known.insert(index, configuration.clone());
        Ok(())
    }

    /// A replica shows `status`.
    ///
    /// # Errors
    /// As for [`OneChange::in_force`], or it has passed a change without changing.
    pub fn check(&mut self, status: &GroupStatus, committed: LogIndex) -> Result<(), Violation> {
        let configuration = &*status.configuration;
        self.in_force(configuration, committed)?;
        match self.known.range(configuration.index.next()..).next() {
            Some((&passed, _)) if passed <= status.applied => {
                broken(format!("applied {} without change {passed}: {status:?}", status.applied))
            }
            _ => Ok(()),
        }
    }
}

/// Whether every majority of one configuration meets every majority of the next.
fn follows(before: &Configuration, after: &Configuration) -> bool {
    match (before.voters_outgoing.is_empty(), after.voters_outgoing.is_empty()) {
        (true, true) => differences(&before.voters, &after.voters) <= 1,
        (true, false) => after.voters_outgoing == before.voters,
        (false, true) => after.voters == before.voters,
        (false, false) => false,
    }
}

fn differences(one: &[ReplicaId], other: &[ReplicaId]) -> usize {
    let lacks = |a: &[ReplicaId], b: &[ReplicaId]| a.iter().filter(|id| !b.contains(id)).count();
    lacks(one, other) + lacks(other, one)
}

fn broken(what: String) -> Result<(), Violation> {
    Err(Violation::new("one change", what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(index: u64, voters: &[u64], outgoing: &[u64]) -> Configuration {
        let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId::new).collect();
        Configuration {
            index: LogIndex::new(index),
            voters: ids(voters),
            voters_outgoing: ids(outgoing),
            ..Configuration::default()
        }
    }

    fn holds(configurations: &[Configuration], committed: u64) -> bool {
        let mut rule = OneChange::default();
        let committed = LogIndex::new(committed);
        configurations.iter().all(|configuration| rule.in_force(configuration, committed).is_ok())
    }

    #[test]
    fn one_voter_at_a_time_or_jointly() {
        assert!(holds(&[of(0, &[1, 2, 3], &[]), of(4, &[1, 2], &[])], 4));
        assert!(!holds(&[of(0, &[1, 2, 3], &[]), of(4, &[1, 2, 4, 5], &[])], 4));
        let joint = [of(0, &[1, 2], &[]), of(4, &[3, 4], &[1, 2]), of(5, &[3, 4], &[])];
        assert!(holds(&joint, 5));
        assert!(!holds(&[of(0, &[1, 2], &[]), of(4, &[3, 4], &[1])], 4));
    }

    #[test]
    fn nothing_is_in_force_before_it_is_committed_nor_twice() {
        assert!(!holds(&[of(0, &[1], &[]), of(4, &[1, 2], &[])], 3));
        assert!(!holds(&[of(0, &[1], &[]), of(4, &[1, 2], &[]), of(4, &[1, 3], &[])], 4));
    }
}
