//! Which of two connections between the same two nodes is kept (TR-2).
//!
//! ```text
//! another boot, or the old one silent → Replace      more certificates renewed → TakeOver
//! as many: same dialler → Replace     lower dialler → TakeOver     else, and fewer → Drain
//! ```
//!
//! Promise: both sides decide alone, and agree, in whatever order they see the two. When both have
//! dialled at the same time, the connection dialled by the lower node is kept. That rule alone would
//! keep a dead connection against a peer that has just restarted; so every connection carries the
//! peer's boot id, and a new boot always wins. So does a second dial by the same node, which would not
//! dial if it had a connection, and any connection over one from which nothing is heard any more.
//! A node whose certificate was replaced dials although it has a connection: each side says in which
//! round of its certificates a connection was made, and the one with more rounds behind it is kept.

use std::cmp::Ordering;

use polyraft_core::ids::NodeId;

/// What decides, as one side sees a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// The node that dialled.
    pub(super) dialler: NodeId,
    /// Drawn at random when the peer's process started.
    pub(super) peer_boot: u64,
    /// How often this node had replaced its certificate when it showed it here.
    pub(super) round: u64,
    /// The same of the peer, as it says.
    pub(super) peer_round: u64,
}

impl Origin {
    /// The same number on both sides; grows with each replacement on either.
    fn rounds(self) -> u128 {
        u128::from(self.round) + u128::from(self.peer_round)
    }
}

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The current one is dead, or of a dead process: it is closed, and the link was down.
    Replace,
    /// Both work. The new one is sent on from now on, and the current one is emptied.
    TakeOver,
    /// Both work. The current one stays, and the new one is emptied: the peer may have used it.
    Drain,
}

/// Judges `new` against `current`, between this node and a peer of which the lower is `lower`.
/// `dead`: `current` was lost, or nothing was heard on it for longer than beats are apart.
pub(super) fn judge(new: Origin, current: Origin, lower: NodeId, dead: bool) -> Verdict {
    if dead || new.peer_boot != current.peer_boot {
        return Verdict::Replace;
    }
    match new.rounds().cmp(&current.rounds()) {
        Ordering::Greater => Verdict::TakeOver,
        Ordering::Less => Verdict::Drain,
        Ordering::Equal if new.dialler == current.dialler => Verdict::Replace,
        Ordering::Equal if new.dialler == lower => Verdict::TakeOver,
        Ordering::Equal => Verdict::Drain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId::new(1);
    const HIGH: NodeId = NodeId::new(2);

    fn origin(dialler: NodeId, rounds: [u64; 2]) -> Origin {
        Origin { dialler, peer_boot: 9, round: rounds[0], peer_round: rounds[1] }
    }

    /// The one that is left of several that work, in the order in which they are seen.
    fn kept(order: &[Origin]) -> Origin {
        let better = |current: Origin, new: &Origin| match judge(*new, current, LOW, false) {
            Verdict::Replace | Verdict::TakeOver => *new,
            Verdict::Drain => current,
        };
        order[1..].iter().fold(order[0], better)
    }

    #[test]
    fn simultaneous_dials_end_alike_in_whatever_order_they_are_seen() {
        let (low, high) = (origin(LOW, [0, 0]), origin(HIGH, [0, 0]));
        assert_eq!(kept(&[low, high]), low);
        assert_eq!(kept(&[high, low]), low);
        assert_eq!(judge(low, high, LOW, false), Verdict::TakeOver, "the link stays up");
    }

    #[test]
    fn a_restarted_peer_wins_over_its_former_life() {
        for (old, new) in [(LOW, HIGH), (HIGH, LOW), (LOW, LOW), (HIGH, HIGH)] {
            let old = Origin { peer_boot: 1, ..origin(old, [7, 7]) };
            let new = Origin { peer_boot: 2, ..origin(new, [7, 0]) };
            assert_eq!(judge(new, old, LOW, false), Verdict::Replace);
        }
    }

    #[test]
    fn a_second_dial_or_silence_wins() {
        let (low, high) = (origin(LOW, [0, 0]), origin(HIGH, [0, 0]));
        assert_eq!(judge(low, low, LOW, false), Verdict::Replace);
        assert_eq!(judge(high, high, LOW, false), Verdict::Replace);
        assert_eq!(judge(high, low, LOW, false), Verdict::Drain);
        assert_eq!(judge(high, low, LOW, true), Verdict::Replace);
    }

    /// Goal: with any number of renewals on either side, both sides are left with the same connection,
    /// and it is the latest. Method: what two nodes can have dialled while both renew, in every order.
    #[test]
    fn renewals_end_alike_in_whatever_order_they_are_seen() {
        let made = [
            origin(HIGH, [0, 0]),
            origin(LOW, [1, 0]),
            origin(HIGH, [0, 1]),
            origin(LOW, [1, 1]),
            origin(HIGH, [2, 1]),
        ];
        let mut orders = 0;
        for first in made {
            for second in made {
                for third in made {
                    let seen = [first, second, third];
                    if first == second || second == third || first == third {
                        continue;
                    }
                    let mut other = seen;
                    other.reverse();
                    assert_eq!(kept(&seen), kept(&other), "{seen:?}");
                    let most = seen.iter().map(|origin| origin.rounds()).max();
                    assert_eq!(Some(kept(&seen).rounds()), most);
                    orders += 1;
                }
            }
        }
        assert_eq!(orders, 60);
    }

    #[test]
    fn a_renewal_never_takes_the_link_down() {
        for (old, new) in [(LOW, HIGH), (HIGH, LOW), (LOW, LOW), (HIGH, HIGH)] {
            let (before, after) = (origin(old, [3, 5]), origin(new, [4, 5]));
            assert_eq!(judge(after, before, LOW, false), Verdict::TakeOver);
            assert_eq!(judge(before, after, LOW, false), Verdict::Drain);
        }
    }
}
