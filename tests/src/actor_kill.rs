//! Kills actors of real nodes, one kind at a time, and tells when nothing is missing any more.

use polyraft::GroupId;
use polyraft_actors::actor_target::{ActorTarget, Disturbance, IsGone};
use polyraft_actors::guard::{Kill, KillMode};
use polyraft_actors::mailbox::ActorKind;
use polyraft_actors::node_parts::NodeParts;

/// Every kind of actor. Those of groups are group 1's.
pub const KINDS: [ActorKind; 9] = [
    ActorKind::Group,
    ActorKind::Batcher,
    ActorKind::Applier,
    ActorKind::LogWriter,
    ActorKind::StateFlusher,
    ActorKind::Tick,
    ActorKind::PeerLink,
    ActorKind::Supervisor,
    ActorKind::Watchdog,
];

/// Kills one actor of a node, of group 1 if it is a group's; returns what tells whether it is gone, or
/// `None` if it was not there to kill.
pub fn kill(parts: &NodeParts, kind: ActorKind, mode: KillMode) -> Option<IsGone> {
    let target = match kind {
        ActorKind::PeerLink => ActorTarget::LinkTo(*parts.peers.first()?),
        kind if kind.is_of_group() => ActorTarget::OfGroup(kind, GroupId::new(1)),
        kind => ActorTarget::OfNode(kind),
    };
    target.disturb(parts, Disturbance::Kill(Kill { mode })).ok()
}

/// Whether every actor of a node runs.
pub fn is_whole(parts: &NodeParts) -> bool {
    let cells = parts.directory.groups();
    let groups =
        cells.iter().all(|(_, cell)| cell.addrs().is_some_and(|addrs| addrs.are_all_alive()));
    let actors = parts.actors().is_some_and(|actors| actors.are_all_alive());
    let links = parts.directory.links().iter().all(|(_, link)| link.connected());
    let watchdog = parts.watchdog().is_some_and(|(watchdog, _)| watchdog.connected());
    groups && actors && links && watchdog && parts.supervisor().is_some_and(|s| s.connected())
}
