//! Who is meant: nodes by word, links by shape, from what the nodes say at the moment.
//!
//! ```text
//! 5 nodes, node 1 leads     single 2 | 1 3 4 5         majority_minority 1 2 | 3 4 5
//!                           bridge 1 2 -3- 4 5         ring 1-2-3-4-5-1
//! ```
//!
//! A link is a direction: `(from, to)` is cut where `from` sends.

use rand::Rng;
use rand::seq::SliceRandom;

use super::nodes::leader_of;
use super::timed_fault::{NodePick, Shape};
use crate::report::NodeReport;

/// What is known when a fault begins.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Every node of the cluster.
    pub nodes: Vec<u64>,
    /// Who leads each group, by group, as far as known.
    pub leaders: Vec<(u64, u64)>,
}

impl Scene {
    /// The scene that `reports` tell of.
    pub fn new(nodes: Vec<u64>, groups: &[u64], reports: &[NodeReport]) -> Self {
        let led = |group: &u64| Some((*group, leader_of(*group, reports)?));
        Self { nodes, leaders: groups.iter().filter_map(led).collect() }
    }

    /// Who leads `group`, or, without one, the most groups.
    pub fn leader(&self, group: Option<u64>) -> Option<u64> {
        match group {
            Some(group) => {
                self.leaders.iter().find(|(led, _)| *led == group).map(|(_, node)| *node)
            }
            None => {
                let led =
                    |node: &u64| self.leaders.iter().filter(|(_, leader)| leader == node).count();
                let most = self.nodes.iter().copied().filter(|node| led(node) > 0);
                most.max_by_key(|node| (led(node), std::cmp::Reverse(*node)))
            }
        }
    }

    /// The nodes that `pick` means, ascending; `None` while no leader is known.
    pub fn pick(
        &self,
        pick: &NodePick,
        group: Option<u64>,
        rng: &mut impl Rng,
    ) -> Option<Vec<u64>> {
        if let NodePick::Named(nodes) = pick {
            return Some(nodes.clone());
        }
        if *pick == NodePick::All {
            return Some(self.nodes.clone());
        }
        let ordered = self.leader_first(group, rng)?;
        let minority = (self.nodes.len() - 1) / 2;
        let mut picked = match pick {
            NodePick::Leader => ordered[..1].to_vec(),
            NodePick::Follower => ordered.get(1..2)?.to_vec(),
            NodePick::Majority => ordered[..self.nodes.len() - minority].to_vec(),
            _ => ordered.get(1..=minority)?.to_vec(),
        };
        picked.sort_unstable();
        Some(picked)
    }

    /// The leader, then the others in any order.
    fn leader_first(&self, group: Option<u64>, rng: &mut impl Rng) -> Option<Vec<u64>> {
        let leader = self.leader(group)?;
        let mut others: Vec<_> =
            self.nodes.iter().copied().filter(|node| *node != leader).collect();
        others.shuffle(rng);
        Some([vec![leader], others].concat())
    }

    /// The links that `shape` cuts; `None` while no leader is known.
    pub fn cuts(&self, shape: Shape, rng: &mut impl Rng) -> Option<Vec<(u64, u64)>> {
        let order = self.leader_first(None, rng)?;
        let (leader, count) = (order[0], order.len());
        let place = |node: u64| order.iter().position(|other| *other == node).unwrap_or(0);
        let is_cut = |from: u64, to: u64| match shape {
            Shape::Single => (from == order[1]) != (to == order[1]),
            Shape::LeaderOnly => (from == leader) != (to == leader),
            Shape::OneWayIn => to == leader,
            Shape::OneWayOut => from == leader,
            Shape::MajorityMinority => {
                let minority = (count - 1) / 2;
                (place(from) < minority) != (place(to) < minority)
            }
            // The first half, the node in between, the other half.
            Shape::Bridge => {
                let bridge = (count - 1) / 2;
                place(from).cmp(&bridge) as i8 * (place(to).cmp(&bridge) as i8) < 0
            }
            Shape::Ring => {
                let apart = place(from).abs_diff(place(to));
                apart != 1 && apart != count - 1
            }
        };
        let all = self.nodes.iter().flat_map(|from| self.nodes.iter().map(move |to| (*from, *to)));
        Some(all.filter(|(from, to)| from != to && is_cut(*from, *to)).collect())
    }

    /// Groups whose leader cannot reach, there and back, a majority without `cuts`.
    pub fn cut_off(&self, cuts: &[(u64, u64)]) -> Vec<u64> {
        let reaches = |leader: u64| {
            let open = |node: &&u64| {
                !cuts.contains(&(leader, **node)) && !cuts.contains(&(**node, leader))
            };
            self.nodes.iter().filter(open).count() > self.nodes.len() / 2
        };
        let lost = self.leaders.iter().filter(|(_, leader)| !reaches(*leader));
        lost.map(|(group, _)| *group).collect()
    }

    /// Groups that one of `nodes` leads.
    pub fn led_by(&self, nodes: &[u64]) -> Vec<u64> {
        let led = self.leaders.iter().filter(|(_, leader)| nodes.contains(leader));
        led.map(|(group, _)| *group).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn scene(nodes: u64) -> Scene {
        Scene { nodes: (1..=nodes).collect(), leaders: vec![(10, 2), (11, 2), (12, 3)] }
    }

    fn cuts(shape: Shape, nodes: u64) -> Vec<(u64, u64)> {
        scene(nodes).cuts(shape, &mut StdRng::seed_from_u64(1)).unwrap()
    }

    #[test]
    fn words_mean_nodes() {
        let (scene, rng) = (scene(5), &mut StdRng::seed_from_u64(1));
        let mut pick = |pick: NodePick, group| scene.pick(&pick, group, rng);
        assert_eq!(pick(NodePick::Leader, None), Some(vec![2]));
        assert_eq!(pick(NodePick::Leader, Some(12)), Some(vec![3]));
        assert_eq!(pick(NodePick::Leader, Some(99)), None);
        assert_ne!(pick(NodePick::Follower, None), Some(vec![2]));
        assert_eq!(pick(NodePick::All, None), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(pick(NodePick::Named(vec![4]), None), Some(vec![4]));
        let majority = pick(NodePick::Majority, None).unwrap();
        assert!(majority.len() == 3 && majority.contains(&2), "{majority:?}");
        let minority = pick(NodePick::Minority, None).unwrap();
        assert!(minority.len() == 2 && !minority.contains(&2), "{minority:?}");
    }

    #[test]
    fn the_same_seed_picks_the_same_nodes() {
        let pick =
            |seed| scene(5).pick(&NodePick::Minority, None, &mut StdRng::seed_from_u64(seed));
        assert_eq!(pick(7), pick(7));
        assert!((0..20).any(|seed| pick(seed) != pick(7)));
    }

    /// Goal: each shape leaves the links that its name promises. Method: count, on five nodes, how many
    /// others each node still hears and reaches.
    #[test]
    fn shapes_leave_what_their_names_promise() {
        let open = |shape| {
            let cuts = cuts(shape, 5);
            let mut degrees: Vec<_> = (1..=5)
                .map(|node| {
                    let others = (1..=5).filter(|other| *other != node);
                    let (reached, heard): (Vec<_>, Vec<_>) = others
                        .map(|o| (!cuts.contains(&(node, o)), !cuts.contains(&(o, node))))
                        .unzip();
                    let count = |all: Vec<bool>| all.into_iter().filter(|is_open| *is_open).count();
                    (count(reached), count(heard))
                })
                .collect();
            degrees.sort_unstable();
            degrees
        };
        assert_eq!(open(Shape::Single), [(0, 0), (3, 3), (3, 3), (3, 3), (3, 3)]);
        assert_eq!(open(Shape::MajorityMinority), [(1, 1), (1, 1), (2, 2), (2, 2), (2, 2)]);
        assert_eq!(open(Shape::Bridge), [(2, 2), (2, 2), (2, 2), (2, 2), (4, 4)]);
        assert_eq!(open(Shape::Ring), [(2, 2); 5]);
        assert_eq!(open(Shape::OneWayIn), [(3, 4), (3, 4), (3, 4), (3, 4), (4, 0)]);
        assert_eq!(open(Shape::OneWayOut), [(0, 4), (4, 3), (4, 3), (4, 3), (4, 3)]);
        assert!(cuts(Shape::LeaderOnly, 5).iter().all(|(from, to)| *from == 2 || *to == 2));
    }

    #[test]
    fn groups_of_a_leader_without_a_majority_are_cut_off() {
        let scene = scene(5);
        assert_eq!(scene.cut_off(&cuts(Shape::LeaderOnly, 5)), [10, 11]);
        assert_eq!(scene.cut_off(&cuts(Shape::OneWayIn, 5)), [10, 11]);
        assert_eq!(scene.cut_off(&cuts(Shape::Ring, 5)), [0; 0]);
        assert_eq!(scene.led_by(&[3]), [12]);
    }
}
