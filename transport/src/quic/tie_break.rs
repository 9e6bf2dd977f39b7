//! Which of two connections between the same two nodes is kept (TR-2).
//!
//! Both sides decide alone and must agree. When both have dialled at the same time, the connection
//! dialled by the lower node is kept. That rule alone would keep a dead connection against a peer
//! that has just restarted; so every connection carries the peer's boot id, and a new boot always
//! wins. So does a second dial by the same node, which would not dial if it had a connection, and
//! any connection over one from which nothing is heard any more.

use polyraft_core::ids::NodeId;

/// What decides, as one side sees a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// The node that dialled.
    pub(super) dialler: NodeId,
    /// Drawn at random when the peer's process started.
    pub(super) peer_boot: u64,
}

/// Whether `new` takes the place of `current`, between this node and a peer of which the lower is
/// `lower`. `silent`: nothing was heard on `current` for longer than beats are apart.
pub(super) fn supersedes(new: Origin, current: Origin, lower: NodeId, silent: bool) -> bool {
    silent
        || new.peer_boot != current.peer_boot
        || new.dialler == current.dialler
        || new.dialler == lower
}

/// Whether the two were dialled from both sides by the same lives of the nodes: then each side sees
/// both, works, and has perhaps been using the other one.
pub(super) fn are_simultaneous(new: Origin, current: Origin) -> bool {
    new.peer_boot == current.peer_boot && new.dialler != current.dialler
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId::new(1);
    const HIGH: NodeId = NodeId::new(2);

    fn kept(order: [NodeId; 2]) -> NodeId {
        let [first, second] = order.map(|dialler| Origin { dialler, peer_boot: 9 });
        if supersedes(second, first, LOW, false) { second.dialler } else { first.dialler }
    }

    #[test]
    fn simultaneous_dials_end_alike_in_whatever_order_they_are_seen() {
        assert_eq!(kept([LOW, HIGH]), LOW);
        assert_eq!(kept([HIGH, LOW]), LOW);
    }

    #[test]
    fn a_restarted_peer_wins_over_its_former_life() {
        for (old, new) in [(LOW, HIGH), (HIGH, LOW), (LOW, LOW), (HIGH, HIGH)] {
            let old = Origin { dialler: old, peer_boot: 1 };
            let new = Origin { dialler: new, peer_boot: 2 };
            assert!(supersedes(new, old, LOW, false));
        }
    }

    #[test]
    fn a_second_dial_or_silence_wins() {
        let (low, high) =
            (Origin { dialler: LOW, peer_boot: 1 }, Origin { dialler: HIGH, peer_boot: 1 });
        assert!(supersedes(low, low, LOW, false));
        assert!(supersedes(high, high, LOW, false));
        assert!(!supersedes(high, low, LOW, false));
        assert!(supersedes(high, low, LOW, true));
    }

    #[test]
    fn only_dials_from_both_sides_by_the_same_lives_are_simultaneous() {
        let origin = |dialler, peer_boot| Origin { dialler, peer_boot };
        assert!(are_simultaneous(origin(LOW, 1), origin(HIGH, 1)));
        assert!(!are_simultaneous(origin(LOW, 1), origin(LOW, 1)));
        assert!(!are_simultaneous(origin(LOW, 2), origin(HIGH, 1)));
    }
}
