//! What a replica publishes about itself, and the events it raises.
//!
//! A status is a copy, replaced whole after every step: reading one never waits for the replica (RT-7).

use std::sync::Arc;

use crate::entry::Configuration;
use crate::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};

/// A replica's role in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether an election could be won, without disturbing anyone.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Orders the group's proposals.
    Leader,
}

impl Role {
    /// Its name in metrics, logs and status pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre_candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// Whether a group is served on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Its actors run.
    Healthy,
    /// An actor died; it is being rebuilt from storage.
    Restarting,
    /// It was taken out of service on this node, for the reason given.
    Faulted(String),
    /// It was stopped.
    Stopped,
}

impl Health {
    /// Its name in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Restarting => "restarting",
            Self::Faulted(_) => "faulted",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the group is out of service here, for good.
    pub const fn is_out(&self) -> bool {
        matches!(self, Self::Faulted(_) | Self::Stopped)
    }
}

/// One replica of one group, as of its last step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Its name.
    pub name: Arc<str>,
    /// This node's replica.
    pub replica: ReplicaId,
    /// Whether it is served here.
    pub health: Health,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// The leader's node, if known: `None`, never 0 (RF-10).
    pub leader: Option<NodeId>,
    /// Entries up to here are compacted away.
    pub compacted: LogIndex,
    /// The last entry in the log.
    pub last: LogIndex,
    /// The last entry that is durable here.
    pub persisted: LogIndex,
    /// The last entry known to be committed.
    pub commit: LogIndex,
    /// The last entry that is applied here.
    pub applied: LogIndex,
    /// A leader's log is durable up to here on every member, as far as it knows; 0 elsewhere.
    pub replicated: LogIndex,
    /// The configuration in force.
    pub configuration: Arc<Configuration>,
}

/// Something that happened to a group on this node; each is raised once per cause (EV-1).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupEvent {
    /// This replica won an election.
    BecameLeader {
        /// The term it leads.
        term: Term,
    },
    /// This replica stopped leading or standing.
    BecameFollower {
        /// The term it follows in.
        term: Term,
    },
    /// The known leader changed, to none included.
    LeaderChanged {
        /// The term.
        term: Term,
        /// The new leader's node.
        leader: Option<NodeId>,
    },
    /// A configuration took effect.
    ConfChanged {
        /// The new configuration.
        configuration: Configuration,
    },
    /// An actor of the group died and was rebuilt from storage.
    ActorRestarted {
        /// The kind of the actor that died first, as in the mailbox table.
        actor: &'static str,
        /// Lives so far, this one included.
        lives: u64,
    },
    /// The group was taken out of service on this node.
    GroupFaulted {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_called_in_metrics_as_in_raft() {
        let roles = [Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader];
        let names = ["follower", "pre_candidate", "candidate", "leader"];
        assert_eq!(roles.map(Role::as_str), names);
    }
}
