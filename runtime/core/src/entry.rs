//! Log entries and the small records that are persisted beside them.
//!
//! These are the shapes that cross every port: storage and transport see nothing of raft-rs.

use bytes::Bytes;

use crate::ids::{LogIndex, NodeId, ReplicaId, Term};

/// What an entry's data means to Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A batch of commands (see [`crate::batch`]), or empty: a new leader's no-op.
    Normal,
    /// A change of the group's configuration, for Raft itself.
    ConfChange,
}

/// One entry of one group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Position in the log, from 1.
    pub index: LogIndex,
    /// Term of the leader that created it.
    pub term: Term,
    /// Who reads `data`.
    pub kind: EntryKind,
    /// The payload; reference-counted, never copied on the way through.
    pub data: Bytes,
}

impl LogEntry {
    /// Bytes charged for this entry against every byte limit: its data and a fixed overhead.
    pub fn charged_bytes(&self) -> usize {
        self.data.len() + ENTRY_OVERHEAD_BYTES
    }
}

/// Charged per entry beside its data, so that a flood of empty entries is bounded too.
pub const ENTRY_OVERHEAD_BYTES: usize = 32;

/// Raft's durable promise of one replica: what it has voted and how far it knows to have committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: Term,
    /// The candidate it voted for in `term`.
    pub vote: Option<ReplicaId>,
    /// The highest index it knows to be committed.
    pub commit: LogIndex,
}

/// A member of a group: which replica, and on which node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The replica.
    pub replica: ReplicaId,
    /// The node that hosts it.
    pub node: NodeId,
}

/// A group's configuration as of one log index. Lists are sorted and without duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// The conf entry that produced it; 0 for the one the group was created with.
    pub index: LogIndex,
    /// Where every replica named below lives.
    pub members: Vec<Member>,
    /// Replicas whose majority commits.
    pub voters: Vec<ReplicaId>,
    /// Replicas that follow without a vote.
    pub learners: Vec<ReplicaId>,
    /// The old voters while a joint change is under way, else empty.
    pub voters_outgoing: Vec<ReplicaId>,
    /// Old voters that become learners when the joint change ends.
    pub learners_next: Vec<ReplicaId>,
    /// Whether Raft leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl Configuration {
    /// The configuration a group is created with: every member votes.
    pub fn initial(mut members: Vec<Member>) -> Self {
        members.sort();
        members.dedup();
        let voters = members.iter().map(|m| m.replica).collect();
        Self { members, voters, ..Self::default() }
    }

    /// Whether `replica` has a vote, in either half of a joint configuration.
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.voters_outgoing.contains(&replica)
    }

    /// The node that hosts `replica`, if it is a member.
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.members.iter().find(|m| m.replica == replica).map(|m| m.node)
    }

    /// The replica on `node`, if there is one.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.members.iter().find(|m| m.node == node).map(|m| m.replica)
    }
}

/// The last entry that was compacted away; 0 and 0 for a whole log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactionPoint {
    /// Entries up to and including this index are gone.
    pub index: LogIndex,
    /// The term of the entry at `index`.
    pub term: Term,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(replica: u64, node: u64) -> Member {
        Member { replica: ReplicaId::new(replica), node: NodeId::new(node) }
    }

    #[test]
    fn an_entry_is_charged_for_its_data_and_an_overhead() {
        let entry = |bytes: usize| LogEntry {
            index: LogIndex::new(1),
            term: Term::new(1),
            kind: EntryKind::Normal,
            data: vec![0; bytes].into(),
        };
        assert_eq!(entry(0).charged_bytes(), ENTRY_OVERHEAD_BYTES);
        assert_eq!(entry(100).charged_bytes(), 100 + ENTRY_OVERHEAD_BYTES);
    }

    #[test]
    fn a_new_group_has_each_member_once_in_order() {
        let made = Configuration::initial(vec![member(3, 30), member(1, 10), member(3, 30)]);
        let expected = Configuration {
            members: vec![member(1, 10), member(3, 30)],
            voters: vec![ReplicaId::new(1), ReplicaId::new(3)],
            ..Configuration::default()
        };
        assert_eq!(made, expected);
    }

    #[test]
    fn a_vote_in_either_half_is_a_vote() {
        let joint = Configuration {
            voters: vec![ReplicaId::new(1)],
            voters_outgoing: vec![ReplicaId::new(2)],
            learners: vec![ReplicaId::new(3)],
            ..Configuration::default()
        };
        let votes = [1, 2, 3, 4].map(|id| joint.is_voter(ReplicaId::new(id)));
        assert_eq!(votes, [true, true, false, false]);
    }

    #[test]
    fn replicas_and_nodes_are_found_by_each_other() {
        let made = Configuration::initial(vec![member(1, 10), member(2, 20)]);
        assert_eq!(made.node_of(ReplicaId::new(2)), Some(NodeId::new(20)));
        assert_eq!(made.replica_on(NodeId::new(20)), Some(ReplicaId::new(2)));
    }

    #[test]
    fn strangers_are_not_found() {
        let made = Configuration::initial(vec![member(1, 10)]);
        assert_eq!(made.node_of(ReplicaId::new(10)), None, "10 is a node");
        assert_eq!(made.replica_on(NodeId::new(1)), None, "1 is a replica");
    }
}
