//! Newtypes for everything that is counted or named.
//!
//! None converts from or to `u64` silently: `new` and `get` mark the places where raft-rs, the
//! wire or the disk begins.

use std::fmt;

/// Defines a `u64` newtype that prints as its value and converts only by name.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw value: only where raft-rs, the wire, the disk or the user begins.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw value: only where raft-rs, the wire, the disk or the user begins.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The value after this one. Panics on overflow.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A process of the cluster, for as long as its data directory lives. Never 0.
    NodeId
}
id! {
    /// One Raft group: the unit of ordering, placement and failure. Never 0.
    GroupId
}
id! {
    /// One group's member on one node, used once and never again (DESIGN §3, rule 14). Never 0.
    ReplicaId
}
id! {
    /// A Raft term. 0 before the first election.
    Term
}
id! {
    /// A position in one group's log. The first entry has index 1; 0 means "before the log".
    LogIndex
}
id! {
    /// Names one batch of proposals between its submission and its outcome, unique in one replica's life.
    ProposalId
}
id! {
    /// Numbers what a replica asks to be made durable; `on_persisted(n)` covers every number up to `n`.
    ReadyNumber
}
id! {
    /// Counts a group actor's lives, so that facts meant for an earlier life are ignored.
    Incarnation
}

impl LogIndex {
    /// The position before the first entry.
    pub const ZERO: Self = Self::new(0);

    /// The index before this one; 0 stays 0.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// How many indexes lie between `earlier` and this one; 0 if `earlier` is later.
    pub const fn distance_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_prints_as_its_number() {
        assert_eq!(format!("{} {:>4}", NodeId::new(7), LogIndex::new(42)), "7   42");
    }

    #[test]
    fn next_is_one_more() {
        assert_eq!(Term::new(8).next(), Term::new(9));
    }

    #[test]
    #[should_panic(expected = "overflow")]
    fn there_is_nothing_after_the_largest() {
        let _ = ReadyNumber::new(u64::MAX).next();
    }

    #[test]
    fn nothing_comes_before_the_log() {
        assert_eq!(LogIndex::new(2).prev(), LogIndex::new(1));
        assert_eq!(LogIndex::ZERO.prev(), LogIndex::ZERO);
    }

    #[test]
    fn distance_is_never_negative() {
        let (early, late) = (LogIndex::new(3), LogIndex::new(10));
        assert_eq!(late.distance_from(early), 7);
        assert_eq!(early.distance_from(late), 0);
        assert_eq!(late.distance_from(late), 0);
    }
}
