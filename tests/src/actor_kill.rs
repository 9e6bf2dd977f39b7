//! Kills actors of real nodes, one kind at a time, and tells when nothing is missing any more.

use polyraft::GroupId;
use polyraft_actors::guard::{Kill, KillMode};
use polyraft_actors::mailbox::ActorKind;
use polyraft_actors::node_parts::NodeParts;

/// Every kind of actor.
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
pub fn kill(
    parts: &NodeParts,
    kind: ActorKind,
    mode: KillMode,
) -> Option<Box<dyn Fn() -> bool + Send>> {
    kill_of(parts, GroupId::new(1), kind, mode)
}

/// The same, of any group.
pub fn kill_of(
    parts: &NodeParts,
    group: GroupId,
    kind: ActorKind,
    mode: KillMode,
) -> Option<Box<dyn Fn() -> bool + Send>> {
    macro_rules! end {
        ($addr:expr) => {{
            let addr = $addr;
            addr.try_send(Kill { mode }).ok()?;
            Some(Box::new(move || !addr.connected()))
        }};
    }
    let group = || parts.directory.group(group).and_then(|cell| cell.addrs());
    match kind {
        ActorKind::Group => end!(group()?.group.clone()),
        ActorKind::Batcher => end!(group()?.batcher.clone()),
        ActorKind::Applier => end!(group()?.applier.clone()),
        ActorKind::LogWriter => end!(parts.actors()?.log_writer),
        ActorKind::StateFlusher => end!(parts.actors()?.flusher),
        ActorKind::Tick => end!(parts.actors()?.tick),
        ActorKind::PeerLink => end!(parts.directory.links().into_iter().next()?.1),
        ActorKind::Supervisor => end!(parts.supervisor()?),
        ActorKind::Watchdog => end!(parts.watchdog()?.0),
    }
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
