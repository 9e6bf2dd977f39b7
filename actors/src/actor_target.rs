//! Actor target: any one actor of a node, named as a person would, for whoever disturbs it.
//!
//! ```text
//! kind, group or peer ─→ the current life's address ─message→ actor
//! ```
//!
//! Promise: the message is offered to the life that runs now, and the answer tells when that very life
//! has ended. Not here: what the message does (`guard`, `stall`), and who may send it.

use polyraft_core::ids::{GroupId, NodeId};

use crate::directory::GroupAddrs;
use crate::guard::Kill;
use crate::mailbox::{ActorKind, MAILBOXES, Offer, Port, offer};
use crate::node_parts::NodeParts;
use crate::stall::Stall;

/// Which actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorTarget {
    /// A group's: [`ActorKind::Group`], [`ActorKind::Batcher`] or [`ActorKind::Applier`].
    OfGroup(ActorKind, GroupId),
    /// The link to a peer.
    LinkTo(NodeId),
    /// One of which a node has one.
    OfNode(ActorKind),
}

/// Tells whether the life that a message was sent to has ended.
pub type IsGone = Box<dyn Fn() -> bool + Send + Sync>;

/// Why a message did not reach its actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// It is not there, or between two lives: try again.
    #[error("the actor does not run now")]
    NotRunning,
    /// Its mailbox is full: try again.
    #[error("the actor's mailbox is full")]
    Busy,
}

/// What an actor can be told from outside.
#[derive(Debug)]
pub enum Disturbance {
    /// End.
    Kill(Kill),
    /// Stand still.
    Stall(Stall),
}

impl ActorKind {
    /// Every kind, in the order of their mailboxes.
    pub fn all() -> impl Iterator<Item = Self> {
        MAILBOXES.iter().map(|mailbox| mailbox.actor)
    }

    /// Whether each group has one.
    pub const fn is_of_group(self) -> bool {
        matches!(self, Self::Group | Self::Batcher | Self::Applier)
    }
}

impl ActorTarget {
    /// Sends a disturbance to the actor's current life.
    ///
    /// # Errors
    /// See [`TargetError`]; nothing was sent.
    pub fn disturb(
        self,
        parts: &NodeParts,
        disturbance: Disturbance,
    ) -> Result<IsGone, TargetError> {
        macro_rules! send {
            ($addr:expr) => {{
                let addr = $addr.ok_or(TargetError::NotRunning)?;
                send_to(&addr, self.kind(), disturbance)?;
                Ok(Box::new(move || !addr.connected()))
            }};
        }
        let of_group = |group| parts.directory.group(group).and_then(|cell| cell.addrs());
        match self {
            Self::OfGroup(kind, group) => {
                let addrs = of_group(group).ok_or(TargetError::NotRunning)?;
                let GroupAddrs { group, batcher, applier, .. } = &*addrs;
                match kind {
                    ActorKind::Batcher => send!(Some(batcher.clone())),
                    ActorKind::Applier => send!(Some(applier.clone())),
                    _ => send!(Some(group.clone())),
                }
            }
            Self::LinkTo(peer) => send!(parts.directory.link(peer)),
            Self::OfNode(ActorKind::LogWriter) => send!(parts.actors().map(|a| a.log_writer)),
            Self::OfNode(ActorKind::StateFlusher) => send!(parts.actors().map(|a| a.flusher)),
            Self::OfNode(ActorKind::Tick) => send!(parts.actors().map(|a| a.tick)),
            Self::OfNode(ActorKind::Supervisor) => send!(parts.supervisor()),
            Self::OfNode(ActorKind::Watchdog) => send!(parts.watchdog().map(|(addr, _)| addr)),
            Self::OfNode(_) => Err(TargetError::NotRunning),
        }
    }

    fn kind(self) -> ActorKind {
        match self {
            Self::OfGroup(kind, _) | Self::OfNode(kind) => kind,
            Self::LinkTo(_) => ActorKind::PeerLink,
        }
    }
}

fn send_to(
    addr: &(impl Port<Kill> + Port<Stall>),
    kind: ActorKind,
    disturbance: Disturbance,
) -> Result<(), TargetError> {
    let sent = match disturbance {
        Disturbance::Kill(kill) => offer(addr, kind, kill),
        Disturbance::Stall(stall) => offer(addr, kind, stall),
    };
    match sent {
        Offer::Queued => Ok(()),
        Offer::Dropped => Err(TargetError::Busy),
        Offer::Closed => Err(TargetError::NotRunning),
    }
}
