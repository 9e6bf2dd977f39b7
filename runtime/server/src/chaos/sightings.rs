//! What nodes said of themselves while the load ran: who led which term, and how far each had applied.

use std::collections::{BTreeMap, BTreeSet};

use super::violation::Violation;
use crate::report::NodeReport;

const LEADER: &str = "leader";

/// Everything seen so far.
#[derive(Debug, Clone, Default)]
pub struct Sightings {
    leaders: BTreeMap<(u64, u64), BTreeSet<u64>>,
    applied: BTreeMap<(u64, u64), Applied>,
    fell: Vec<Violation>,
    /// Answers taken in.
    pub reports: u64,
}

#[derive(Debug, Clone, Copy)]
struct Applied {
    life: u64,
    index: u64,
}

impl Sightings {
    /// Takes in an answer of `node` in its `life`: the same number as long as nothing that was
    /// applied may be forgotten.
    pub fn add(&mut self, life: u64, report: &NodeReport) {
        let node = report.node;
        self.reports += 1;
        for group in &report.groups {
            if group.role == LEADER {
                self.leaders.entry((group.group, group.term)).or_default().insert(node);
            }
            let now = Applied { life, index: group.applied };
            let before = self.applied.insert((node, group.group), now);
            match before {
                Some(before) if before.life == life && before.index > group.applied => {
                    self.fell.push(Violation::AppliedFell {
                        node,
                        group: group.group,
                        before: before.index,
                        after: group.applied,
                    });
                }
                _ => {}
            }
        }
    }

    /// Pairs of a group and a term that had a leader.
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// What must not have been seen.
    pub fn violations(&self) -> Vec<Violation> {
        let several = self.leaders.iter().filter(|(_, nodes)| nodes.len() > 1);
        let led = several.map(|((group, term), nodes)| Violation::TwoLeaders {
            group: *group,
            term: *term,
            nodes: nodes.clone(),
        });
        led.chain(self.fell.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::GroupReport;

    fn report(node: u64, role: &str, term: u64, applied: u64) -> NodeReport {
        let group = GroupReport {
            group: 7,
            name: "ks".into(),
            health: "healthy".into(),
            role: role.into(),
            term,
            leader: None,
            commit: applied,
            applied,
            voters: 3,
        };
        NodeReport {
            node,
            cluster: "c".into(),
            storage_bytes: 0,
            storage_failure: None,
            certificates: None,
            refused: Default::default(),
            peers: vec![],
            groups: vec![group],
        }
    }

    #[test]
    fn two_leaders_of_one_term_are_found() {
        let mut seen = Sightings::default();
        seen.add(0, &report(1, "leader", 3, 5));
        seen.add(0, &report(2, "leader", 4, 5));
        seen.add(0, &report(1, "follower", 4, 5));
        assert!(seen.violations().is_empty());
        seen.add(0, &report(3, "leader", 4, 5));
        let expected = Violation::TwoLeaders { group: 7, term: 4, nodes: [2, 3].into() };
        assert_eq!(seen.violations(), [expected]);
        assert_eq!((seen.terms_led(), seen.reports), (2, 4));
    }

    #[test]
    fn applied_may_fall_between_lives_only() {
        let mut seen = Sightings::default();
        seen.add(0, &report(1, "follower", 1, 9));
        seen.add(1, &report(1, "follower", 1, 4));
        seen.add(1, &report(2, "follower", 1, 2));
        assert!(seen.violations().is_empty());
        seen.add(1, &report(1, "follower", 1, 3));
        let expected = Violation::AppliedFell { node: 1, group: 7, before: 4, after: 3 };
        assert_eq!(seen.violations(), [expected]);
    }
}
