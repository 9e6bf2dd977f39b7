//! A conf change: the data of a conf-change entry, in an encoding of our own.
//!
//! ```text
//! ConfChange ─encode→ entry data ─log, wire→ decode ─→ raft-rs (raft_bridge) and Configuration
//! ```
//!
//! The encoding is `ConfChange` in `proto/peer.proto`, read and written by prost alone. Its fields
//! are numbered as raft-rs numbers `ConfChangeV2`, whose parser sees only what this node itself
//! proposes. Where new replicas live travels in the context, which raft-rs does not read.
//!
//! Promise: a decoded change names no replica 0, none twice, and a node for each one it adds.
//! Not here: whether a change is allowed now (raft-rs, and the membership plans).

use bytes::Bytes;
use prost::Message as _;

use crate::entry::{Configuration, Member};
use crate::ids::{LogIndex, NodeId, ReplicaId};
use crate::wire::proto;

/// Most replicas that one change may name.
pub const CONF_CHANGE_STEPS_MAX: usize = 64;

/// A change of a group's configuration. Without steps: leave the joint configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfChange {
    /// Whether and how the change passes through a joint configuration.
    pub transition: ConfTransition,
    /// What happens to each replica named.
    pub steps: Vec<ConfChangeStep>,
    /// Where the replicas that are added live.
    pub members: Vec<Member>,
}

/// How a change comes into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConfTransition {
    /// At once if one voter changes, else jointly, left automatically.
    #[default]
    Auto,
    /// Jointly, left automatically.
    Implicit,
    /// Jointly, left by a change without steps.
    Explicit,
}

/// What happens to one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfChangeStep {
    /// What.
    pub kind: ConfChangeKind,
    /// To whom.
    pub replica: ReplicaId,
}

/// What a change does to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// It votes from now on.
    AddVoter,
    /// It follows without a vote from now on.
    AddLearner,
    /// It is no member any more.
    Remove,
}

/// Why the data of a conf-change entry cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfChangeError {
    /// Not the encoding of a change.
    #[error("not a conf change")]
    Decode(#[from] prost::DecodeError),
    /// A transition or kind that this build does not know.
    #[error("conf change has the unknown {field} {value}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// A replica or node 0.
    #[error("conf change names replica or node 0")]
    ZeroId,
    /// A replica is named by two steps, or its node by two members.
    #[error("conf change names replica {replica} twice")]
    Duplicate {
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica is added without saying where it lives.
    #[error("conf change adds replica {replica} without its node")]
    NoNode {
        /// The replica.
        replica: ReplicaId,
    },
    /// More steps than allowed.
    #[error("conf change of {steps} steps; at most {CONF_CHANGE_STEPS_MAX} are allowed")]
    TooMany {
        /// Steps there are.
        steps: usize,
    },
}

impl ConfChange {
    /// The entry's data. Empty for the default change, as raft-rs writes when it leaves a joint
    /// configuration by itself.
    pub fn encode(&self) -> Bytes {
        let raw = proto::ConfChange {
            transition: transition_to_proto(self.transition).into(),
            changes: self.steps.iter().map(step_to_proto).collect(),
            context: self.encode_context(),
        };
        raw.encode_to_vec().into()
    }

    /// The context's bytes: where the added replicas live.
    pub(crate) fn encode_context(&self) -> Bytes {
        let member = |m: &Member| proto::Member { replica: m.replica.get(), node: m.node.get() };
        let members = self.members.iter().map(member).collect();
        proto::ConfChangeContext { members }.encode_to_vec().into()
    }

    /// Reads an entry's data.
    ///
    /// # Errors
    /// See [`ConfChangeError`]; the promise in the module's doc holds for what is returned.
    pub fn decode(data: &Bytes) -> Result<Self, ConfChangeError> {
        let raw = proto::ConfChange::decode(data.clone())?;
        let context = proto::ConfChangeContext::decode(raw.context)?;
        let change = Self {
            transition: transition_from_proto(raw.transition)?,
            steps: raw.changes.iter().map(step_from_proto).collect::<Result<_, _>>()?,
            members: context.members.iter().map(member_from_proto).collect::<Result<_, _>>()?,
        };
        change.check()?;
        Ok(change)
    }

    /// Checks what the types alone do not say.
    ///
    /// # Errors
    /// See [`ConfChangeError`].
    pub fn check(&self) -> Result<(), ConfChangeError> {
        let steps = self.steps.len().max(self.members.len());
        if steps > CONF_CHANGE_STEPS_MAX {
            return Err(ConfChangeError::TooMany { steps });
        }
        unique(self.steps.iter().map(|step| step.replica))?;
        unique(self.members.iter().map(|member| member.replica))?;
        let homeless = self.steps.iter().find(|step| {
            step.kind != ConfChangeKind::Remove
                && !self.members.iter().any(|member| member.replica == step.replica)
        });
        homeless.map_or(Ok(()), |step| Err(ConfChangeError::NoNode { replica: step.replica }))
    }

    /// Where the replicas of `before` and those that this change adds live.
    pub(crate) fn members_after(&self, before: &Configuration) -> Vec<Member> {
        let kept = |m: &&Member| !self.members.iter().any(|new| new.replica == m.replica);
        let mut members: Vec<_> = before.members.iter().filter(kept).copied().collect();
        members.extend_from_slice(&self.members);
        members.sort_unstable();
        members
    }
}

/// Fails if a replica occurs twice. Quadratic: the lists are short.
fn unique(replicas: impl Iterator<Item = ReplicaId> + Clone) -> Result<(), ConfChangeError> {
    for (at, replica) in replicas.clone().enumerate() {
        if replicas.clone().take(at).any(|earlier| earlier == replica) {
            return Err(ConfChangeError::Duplicate { replica });
        }
    }
    Ok(())
}

fn transition_to_proto(transition: ConfTransition) -> proto::ConfChangeTransition {
    match transition {
        ConfTransition::Auto => proto::ConfChangeTransition::Auto,
        ConfTransition::Implicit => proto::ConfChangeTransition::Implicit,
        ConfTransition::Explicit => proto::ConfChangeTransition::Explicit,
    }
}

fn transition_from_proto(value: i32) -> Result<ConfTransition, ConfChangeError> {
    match proto::ConfChangeTransition::try_from(value) {
        Ok(proto::ConfChangeTransition::Auto) => Ok(ConfTransition::Auto),
        Ok(proto::ConfChangeTransition::Implicit) => Ok(ConfTransition::Implicit),
        Ok(proto::ConfChangeTransition::Explicit) => Ok(ConfTransition::Explicit),
        Err(_) => Err(ConfChangeError::Unknown { field: "transition", value }),
    }
}

fn step_to_proto(step: &ConfChangeStep) -> proto::ConfChangeSingle {
    let kind = match step.kind {
        ConfChangeKind::AddVoter => proto::ConfChangeKind::AddVoter,
        ConfChangeKind::AddLearner => proto::ConfChangeKind::AddLearner,
        ConfChangeKind::Remove => proto::ConfChangeKind::Remove,
    };
    proto::ConfChangeSingle { kind: kind.into(), replica: step.replica.get() }
}

fn step_from_proto(raw: &proto::ConfChangeSingle) -> Result<ConfChangeStep, ConfChangeError> {
    let kind = match proto::ConfChangeKind::try_from(raw.kind) {
        Ok(proto::ConfChangeKind::AddVoter) => ConfChangeKind::AddVoter,
        Ok(proto::ConfChangeKind::AddLearner) => ConfChangeKind::AddLearner,
        Ok(proto::ConfChangeKind::Remove) => ConfChangeKind::Remove,
        Err(_) => return Err(ConfChangeError::Unknown { field: "kind", value: raw.kind }),
    };
    if raw.replica == 0 {
        return Err(ConfChangeError::ZeroId);
    }
    Ok(ConfChangeStep { kind, replica: ReplicaId::new(raw.replica) })
}

fn member_from_proto(raw: &proto::Member) -> Result<Member, ConfChangeError> {
    if raw.replica == 0 || raw.node == 0 {
        return Err(ConfChangeError::ZeroId);
    }
    Ok(Member { replica: ReplicaId::new(raw.replica), node: NodeId::new(raw.node) })
}

/// The lists that raft-rs keeps, in our terms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ConfLists {
    pub(crate) voters: Vec<ReplicaId>,
    pub(crate) learners: Vec<ReplicaId>,
    pub(crate) voters_outgoing: Vec<ReplicaId>,
    pub(crate) learners_next: Vec<ReplicaId>,
    pub(crate) auto_leave: bool,
}

impl ConfLists {
    /// The configuration of the entry at `index`, whose replicas live where `members` says; the
    /// members that no list names are left out.
    pub(crate) fn configuration(self, index: LogIndex, members: Vec<Member>) -> Configuration {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        let named = |m: &Member| lists.iter().any(|list| list.contains(&m.replica));
        let members = members.into_iter().filter(named).collect();
        let Self { voters, learners, voters_outgoing, learners_next, auto_leave } = self;
        Configuration {
            index,
            members,
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        }
    }
}

#[cfg(test)]
#[path = "conf_change_tests.rs"]
mod tests;
