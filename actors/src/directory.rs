//! Directory: where each group's and each link's actors are now, for everyone who sends to them.
//!
//! ```text
//! GroupHandle, PeerLink, Tick ─look up→ GroupCell → addresses of the current life
//! Group ─publish→ GroupCell → status, events (read without any mailbox, RT-7)
//! ```
//!
//! A cell lives as long as its group is on this node; the addresses in it are replaced at each
//! restart and absent in between. The lock is held for a copy, never while waiting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use actix::Addr;
use polyraft_core::ids::{GroupId, Incarnation, NodeId};
use polyraft_core::status::{GroupEvent, GroupStatus, Health};
use tokio::sync::{broadcast, watch};

use crate::applier::Applier;
use crate::batcher::Batcher;
use crate::group::Group;
use crate::machine_lease::MachineLease;
use crate::mailbox::ActorKind;
use crate::peer_link::PeerLink;

/// Events that a slow subscriber may fall behind before it is told that it lagged (EV-2).
const EVENTS_BUFFERED: usize = 256;

/// The actors of one life of a group.
pub struct GroupAddrs {
    /// Owns the replica.
    pub group: Addr<Group>,
    /// Cuts its batches.
    pub batcher: Addr<Batcher>,
    /// Applies its entries.
    pub applier: Addr<Applier>,
    /// Its machine, which may outlive its applier.
    pub(crate) machine: MachineLease,
}

impl GroupAddrs {
    /// Whether all three run.
    pub fn are_all_alive(&self) -> bool {
        self.group.connected() && self.batcher.connected() && self.applier.connected()
    }

    /// Whether one of them runs, or left a machine behind that a later life must wait for.
    pub(crate) fn is_any_alive(&self) -> bool {
        let actors = self.group.connected() || self.batcher.connected() || self.applier.connected();
        actors || self.machine.is_out()
    }
}

/// What the rest of the node knows of one group, whichever life it is in.
pub struct GroupCell {
    is_stored: AtomicBool,
    addrs: RwLock<Option<Arc<GroupAddrs>>>,
    /// Actors of earlier lives that were told to end.
    retired: RwLock<Vec<Arc<GroupAddrs>>>,
    lives: AtomicU64,
    /// Which life ended last, and which of its actors was the first to go.
    first_down: RwLock<Option<(Incarnation, ActorKind)>>,
    status: watch::Sender<GroupStatus>,
    events: broadcast::Sender<GroupEvent>,
}

impl GroupCell {
    /// A cell for a group that has not started.
    pub fn new(status: GroupStatus) -> Self {
        Self {
            is_stored: AtomicBool::new(false),
            addrs: RwLock::new(None),
            retired: RwLock::default(),
            lives: AtomicU64::new(0),
            first_down: RwLock::default(),
            status: watch::Sender::new(status),
            events: broadcast::Sender::new(EVENTS_BUFFERED),
        }
    }

    /// From now on the group exists on disk: the supervisor keeps it running.
    pub fn mark_stored(&self) {
        self.is_stored.store(true, Ordering::Release);
    }

    /// Whether the group exists on disk; a group that is being created does not yet.
    pub fn is_stored(&self) -> bool {
        self.is_stored.load(Ordering::Acquire)
    }

    /// The actors of the current life; `None` while the group is down.
    pub fn addrs(&self) -> Option<Arc<GroupAddrs>> {
        self.addrs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the actors: by those of another life, or by none.
    pub fn set_addrs(&self, addrs: Option<GroupAddrs>) {
        self.lives.fetch_add(u64::from(addrs.is_some()), Ordering::Relaxed);
        *self.addrs.write().unwrap_or_else(PoisonError::into_inner) = addrs.map(Arc::new);
    }

    /// The status as last published.
    pub fn status(&self) -> GroupStatus {
        self.status.borrow().clone()
    }

    /// Follows the status.
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        self.status.subscribe()
    }

    /// Follows the events, from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<GroupEvent> {
        self.events.subscribe()
    }

    /// Ends the current life, if any, and waits for nobody.
    pub(crate) fn retire(&self) {
        let Some(addrs) = self.addrs() else { return };
        self.set_addrs(None);
        crate::group_life::end(&addrs);
        self.retired.write().unwrap_or_else(PoisonError::into_inner).push(addrs);
    }

    /// Whether no actor of an earlier life is left: until then it may still write.
    pub(crate) fn are_retired_gone(&self) -> bool {
        let mut retired = self.retired.write().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|addrs| addrs.is_any_alive());
        retired.is_empty()
    }

    /// Whether the group was taken out of service here, for good.
    pub(crate) fn is_out(&self) -> bool {
        self.status.borrow().health.is_out()
    }

    /// An actor of one of the lives is gone. The others of its life are then told to end: only the
    /// first is what the life died of.
    pub(crate) fn note_down(&self, life: Incarnation, actor: ActorKind) {
        let mut first = self.first_down.write().unwrap_or_else(PoisonError::into_inner);
        if first.is_none_or(|(noted, _)| noted != life) {
            *first = Some((life, actor));
        }
    }

    /// What a life that is not the first one tells subscribers (EV-1). Lives are counted here, where
    /// they outlive every supervisor, and whether the group got anywhere in between or not.
    pub(crate) fn restarted(&self) -> Option<GroupEvent> {
        let lives = self.lives.load(Ordering::Relaxed);
        let first = *self.first_down.read().unwrap_or_else(PoisonError::into_inner);
        let actor = first.map_or(ActorKind::Group, |(_, actor)| actor).as_str();
        (lives > 1).then_some(GroupEvent::ActorRestarted { actor, lives })
    }

    /// Publishes a status, if it changed. A life that is ending cannot undo that its group is out of
    /// service.
    pub fn publish(&self, status: GroupStatus) {
        self.status.send_if_modified(|published| {
            let changed = *published != status && !published.health.is_out();
            if changed {
                *published = status;
            }
            changed
        });
    }

    /// Publishes the health alone.
    pub fn publish_health(&self, health: Health) {
        self.status.send_modify(|published| published.health = health);
    }

    /// Ends the group's actors for good: calls from now on fail as stopped.
    pub fn stop(&self) {
        self.publish_health(Health::Stopped);
        self.retire();
    }

    /// Raises an event; nobody need listen.
    pub fn raise(&self, event: GroupEvent) {
        let _ = self.events.send(event);
    }
}

/// Groups by id, and their ids by name.
#[derive(Default)]
struct Groups {
    cells: BTreeMap<GroupId, Arc<GroupCell>>,
    names: BTreeMap<Arc<str>, GroupId>,
}

/// Every group and link of a node.
#[derive(Default)]
pub struct Directory {
    groups: RwLock<Groups>,
    links: RwLock<BTreeMap<NodeId, Addr<PeerLink>>>,
}

impl Directory {
    /// The cell of a group on this node.
    pub fn group(&self, group: GroupId) -> Option<Arc<GroupCell>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).cells.get(&group).cloned()
    }

    /// The group with this name, and its cell. Its cost does not grow with the groups: the server
    /// asks for every request.
    pub fn group_named(&self, name: &str) -> Option<(GroupId, Arc<GroupCell>)> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let id = *groups.names.get(name)?;
        Some((id, groups.cells.get(&id)?.clone()))
    }

    /// Every group on this node, ascending.
    pub fn groups(&self) -> Vec<(GroupId, Arc<GroupCell>)> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.cells.iter().map(|(id, cell)| (*id, cell.clone())).collect()
    }

    /// Adds a group, unless it is there; returns its cell, and whether it is new.
    pub fn insert_group(&self, group: GroupId, status: GroupStatus) -> (Arc<GroupCell>, bool) {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = groups.cells.get(&group) {
            return (cell.clone(), false);
        }
        groups.names.insert(status.name.clone(), group);
        let cell = Arc::new(GroupCell::new(status));
        groups.cells.insert(group, cell.clone());
        (cell, true)
    }

    /// Takes back a group whose creation failed.
    pub fn remove_group(&self, group: GroupId) {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups.cells.remove(&group);
        groups.names.retain(|_, id| *id != group);
    }

    /// The link to a peer.
    pub fn link(&self, peer: NodeId) -> Option<Addr<PeerLink>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }

    /// Every link, ascending by peer.
    pub fn links(&self) -> Vec<(NodeId, Addr<PeerLink>)> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.iter().map(|(peer, link)| (*peer, link.clone())).collect()
    }

    /// Sets the link to a peer: the first one, or a new life.
    pub fn set_link(&self, peer: NodeId, link: Addr<PeerLink>) {
        self.links.write().unwrap_or_else(PoisonError::into_inner).insert(peer, link);
    }
}

#[cfg(test)]
mod tests {
    use polyraft_core::entry::Configuration;
    use polyraft_core::ids::{ReplicaId, Term};
    use polyraft_core::ports::GroupIdentity;
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;
    use crate::group_life::initial_status;

    /// Goal: a faulted group stays faulted. Method: its last life publishes itself once more.
    #[test]
    fn a_dying_life_cannot_undo_a_fault() {
        let identity = GroupIdentity { name: "g".into(), replica: ReplicaId::new(101) };
        let status =
            crate::group_life::initial_status(GroupId::new(1), &identity, Configuration::default());
        let cell = GroupCell::new(status.clone());
        cell.publish(GroupStatus { health: Health::Healthy, ..status.clone() });
        assert_eq!(cell.status().health, Health::Healthy);
        cell.publish_health(Health::Faulted("a reason".into()));
        cell.publish(GroupStatus { health: Health::Healthy, ..status });
        assert_eq!(cell.status().health, Health::Faulted("a reason".into()));
    }

    /// Goal: a life is told to have died of what died first. Method: the deaths of one life, in the
    /// order in which they are reported, and one of the next.
    #[test]
    fn a_life_died_of_the_first_of_its_actors_to_go() {
        let identity = GroupIdentity { name: "g".into(), replica: ReplicaId::new(101) };
        let cell =
            GroupCell::new(initial_status(GroupId::new(1), &identity, Configuration::default()));
        let restarted = |lives: u64| {
            cell.lives.store(lives, Ordering::Relaxed);
            cell.restarted()
        };
        assert_eq!(restarted(1), None, "a first life is no restart");
        for actor in [ActorKind::Applier, ActorKind::Group, ActorKind::Batcher] {
            cell.note_down(Incarnation::new(7), actor);
        }
        assert_eq!(restarted(2), Some(GroupEvent::ActorRestarted { actor: "applier", lives: 2 }));
        cell.note_down(Incarnation::new(8), ActorKind::Batcher);
        assert_eq!(restarted(3), Some(GroupEvent::ActorRestarted { actor: "batcher", lives: 3 }));
    }

    fn event(term: u64) -> GroupEvent {
        GroupEvent::BecameLeader { term: Term::new(term) }
    }

    /// Goal: EV-2. Method: more events than are kept, to one who reads them and one who does not.
    #[test]
    fn a_subscriber_that_falls_behind_is_told_how_far_and_holds_nobody_up() {
        let identity = GroupIdentity { name: "g".into(), replica: ReplicaId::new(101) };
        let cell =
            GroupCell::new(initial_status(GroupId::new(1), &identity, Configuration::default()));
        let (mut prompt, mut late) = (cell.subscribe(), cell.subscribe());
        let (events, kept) = (1_000, EVENTS_BUFFERED as u64);
        for term in 1..=events {
            cell.raise(event(term));
            assert_eq!(prompt.try_recv(), Ok(event(term)), "who keeps up misses nothing");
        }
        assert_eq!(late.try_recv(), Err(TryRecvError::Lagged(events - kept)));
        for term in events - kept + 1..=events {
            assert_eq!(late.try_recv(), Ok(event(term)), "what is kept comes in order");
        }
        assert_eq!(late.try_recv(), Err(TryRecvError::Empty));
        cell.raise(event(events + 1));
        assert_eq!(late.try_recv(), Ok(event(events + 1)), "and then it is like the others");
    }

    fn insert(directory: &Directory, id: u64, name: &str) -> bool {
        let identity = GroupIdentity { name: name.to_owned(), replica: ReplicaId::new(101) };
        let group = GroupId::new(id);
        let status = initial_status(group, &identity, Configuration::default());
        directory.insert_group(group, status).1
    }

    #[test]
    fn groups_are_found_by_name_until_they_are_removed() {
        let directory = Directory::default();
        assert!(insert(&directory, 1, "a") && insert(&directory, 2, "b"));
        assert!(!insert(&directory, 1, "a"));
        let named = |name| directory.group_named(name).map(|(id, _)| id);
        assert_eq!((named("a"), named("b")), (Some(GroupId::new(1)), Some(GroupId::new(2))));
        directory.remove_group(GroupId::new(1));
        assert_eq!((named("a"), named("b")), (None, Some(GroupId::new(2))));
        assert!(insert(&directory, 3, "a"));
        assert_eq!(named("a"), Some(GroupId::new(3)));
    }
}
