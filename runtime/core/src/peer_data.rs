//! Peer data: which data directory a node works on, and whether its peers still know it by that one.
//!
//! ```text
//! hello: DataMark ─→ PeerRegister ─→ the data this peer had before, in a later life?  → welcome
//!                                  └→ other data, an older life, a second life       → refused
//! ```
//!
//! A vote counts once per term only while voters remember theirs. A node whose directory was wiped, or
//! replaced by an older copy, has forgotten votes and entries that it acknowledged; under its old id it
//! could help to elect a leader that lacks what was acknowledged. So peers remember which data each of
//! them showed, and refuse the id with any other until a person allows it (ST-9).
//!
//! Source: Ongaro's thesis §11.7.2 (a server that loses its disk must not come back as itself).

use crate::ids::NodeId;

/// What a node says of its data when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataMark {
    /// Drawn at random when the data directory was made. 0: the node has none.
    pub data: u64,
    /// How often the directory was opened, from 1.
    pub incarnation: u64,
    /// Drawn at random when the process started.
    pub boot: u64,
}

impl DataMark {
    /// Whether a peer that was last seen as `known` may be what shows this mark.
    ///
    /// # Errors
    /// It cannot have the memory that it had.
    pub fn follows(self, known: Self) -> Result<(), ForeignData> {
        let Self { data, incarnation, boot } = self;
        if data != known.data {
            return Err(ForeignData::Replaced { known: known.data, shown: data });
        }
        let is_later = incarnation > known.incarnation;
        let is_same = incarnation == known.incarnation && boot == known.boot;
        if is_later || is_same {
            return Ok(());
        }
        Err(ForeignData::Older { known: known.incarnation, shown: incarnation })
    }
}

/// Why a peer's data is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignData {
    /// It is another directory than before: wiped, or another's.
    #[error("the peer had data {known:016x} and now has {shown:016x}")]
    Replaced {
        /// The data it had.
        known: u64,
        /// The data it shows.
        shown: u64,
    },
    /// The directory was open later than this: it is an old copy, or a second one.
    #[error("the peer was in life {known} of its data and now shows another life {shown}")]
    Older {
        /// The last life seen.
        known: u64,
        /// The life shown.
        shown: u64,
    },
    /// What is known of the peer cannot be read or written.
    #[error("what is known of the peer cannot be read or written")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Remembers which data each peer has shown, across restarts of this node.
pub trait PeerRegister: Send + Sync + 'static {
    /// Admits a peer that shows what it must; the first mark of a peer is remembered durably before
    /// this returns. May block for a sync.
    ///
    /// # Errors
    /// [`ForeignData`]: nothing that the peer says may be used.
    fn admit(&self, peer: NodeId, shown: DataMark) -> Result<(), ForeignData>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(data: u64, incarnation: u64, boot: u64) -> DataMark {
        DataMark { data, incarnation, boot }
    }

    #[test]
    fn only_the_same_life_or_a_later_one_follows() {
        let known = mark(7, 3, 100);
        assert!(known.follows(known).is_ok(), "it reconnects");
        assert!(mark(7, 4, 101).follows(known).is_ok(), "it restarted");
        assert!(matches!(mark(8, 9, 101).follows(known), Err(ForeignData::Replaced { .. })));
        assert!(matches!(mark(7, 2, 101).follows(known), Err(ForeignData::Older { .. })));
        // A copy of the directory, opened as often as the original.
        assert!(matches!(mark(7, 3, 101).follows(known), Err(ForeignData::Older { .. })));
    }

    #[test]
    fn a_refusal_tells_what_was_known_and_what_is_shown() {
        let refused = |shown: DataMark| shown.follows(mark(7, 3, 100)).expect_err("foreign");
        let replaced = "the peer had data 0000000000000007 and now has 00000000000000ff";
        assert_eq!(refused(mark(255, 3, 100)).to_string(), replaced);
        let older = "the peer was in life 3 of its data and now shows another life 2";
        assert_eq!(refused(mark(7, 2, 100)).to_string(), older);
    }

    #[test]
    fn data_that_was_replaced_is_told_before_a_life_that_is_too_old() {
        let refused = mark(8, 1, 100).follows(mark(7, 3, 100));
        assert!(
            matches!(refused, Err(ForeignData::Replaced { known: 7, shown: 8 })),
            "{refused:?}"
        );
    }

    #[test]
    fn a_register_that_cannot_be_read_keeps_the_cause() {
        let error = ForeignData::Unusable(Box::new(std::io::Error::other("unplugged")));
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(error.to_string(), "what is known of the peer cannot be read or written");
        assert_eq!(cause.as_deref(), Some("unplugged"));
    }
}
