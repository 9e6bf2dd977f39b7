//! Supervisor: whatever died is rebuilt from storage, and a crash loop is taken out of service.
//!
//! ```text
//! Down, and every interval → look around: what should run and does not?
//!     log writer  → start again on the journal it left, introduce it to every group
//!     flusher, tick, link, watchdog → start again, introduce it to those who use it
//!     group, batcher or applier → end the other two, rebuild all three (with backoff)
//! ```
//!
//! It is level-triggered: `Down` only says that a look is worth while. A supervisor's own next life
//! therefore needs to know nothing of the one before, and is started by that one's drop.
//!
//! Promise: a group that was told `Faulted` stays out until the node restarts; others never notice.
//! Not here: what a group restores (`group_life`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use polyraft_core::entry::Configuration;
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, Incarnation, LogIndex, NodeId};
use polyraft_core::status::Health;
use polyraft_core::time::Moment;
use tokio::sync::oneshot;

use crate::applier::{FlushTick, FlusherReplaced};
use crate::directory::GroupCell;
use crate::fault_desk::{FaultDesk, quarantine};
use crate::group::LogWriterReplaced;
use crate::group_life::{self, LifeError, initial_status};
use crate::guard::{Down, DownGuard};
use crate::log_writer::{CreateGroup, LogWriter, LogWriterPorts, StorageFailed};
use crate::mailbox::{ActorKind, deliver_fact, messages, offer};
use crate::node_parts::{NodeActors, NodeParts};
use crate::peer_link::PeerLink;
use crate::spawner::{Place, start};
use crate::state_flusher::StateFlusher;
use crate::tick::{RegisterGroup, RegisterLink, Tick};
use crate::watchdog::{ArbiterStalls, PING_INTERVAL_DEFAULT, Watchdog};

messages!(CreateAndStart, LookAround);

/// Deaths in a row, each soon after the last, after which a group is quarantined (RT-5).
const DEATHS_IN_A_ROW_MAX: u32 = 12;
/// A death so long after the one before begins a new row. Well above the longest pause: replicas that
/// die of the same entry keep each other from electing the leader that makes them apply it again.
const HEALTHY_LIFE: Duration = Duration::from_secs(60);
/// Pause before the second life in a row; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// From the report of a death to the second look.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Command from the node: create a group durably, and start it. One per creation in progress.
pub struct CreateAndStart {
    /// The group, as it is first written.
    pub create: CreateGroup,
    /// Its cell, already in the directory.
    pub cell: Arc<GroupCell>,
}

/// To itself: look around.
struct LookAround;

/// The deaths of one group, each without progress since the one before.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    deaths: u32,
    last: Moment,
    reached: LogIndex,
}

impl Row {
    /// Counts a death of a group that had applied up to `applied`. A machine that panics at an entry
    /// never gets beyond it; a life that got further than any before, or lasted, ends the row.
    fn add(&mut self, now: Moment, applied: LogIndex) -> u32 {
        if applied > self.reached || now.since(self.last) > HEALTHY_LIFE {
            self.deaths = 0;
        }
        self.reached = self.reached.max(applied);
        self.deaths += 1;
        self.last = now;
        self.deaths
    }
}

/// The actor.
pub struct Supervisor {
    parts: Arc<NodeParts>,
    rows: BTreeMap<GroupId, Row>,
    rebuilding: BTreeMap<GroupId, Incarnation>,
    /// Groups that died of another actor's death, which is no fault of theirs.
    excused: BTreeSet<GroupId>,
    next_incarnation: u64,
    looked: Moment,
}

/// Starts a node's supervisor, which starts everything else.
pub fn start_supervisor(parts: &Arc<NodeParts>) -> Addr<Supervisor> {
    let for_actor = parts.clone();
    let place = Place::Supervisor;
    let addr = start(&*parts.spawner, place, ActorKind::Supervisor, move |_| Supervisor {
        // Lives are numbered so that no two supervisors can give the same number.
        next_incarnation: for_actor.entropy.next_u64() >> 1,
        parts: for_actor,
        rows: BTreeMap::new(),
        rebuilding: BTreeMap::new(),
        excused: BTreeSet::new(),
        looked: Moment::START,
    });
    parts.set_supervisor(addr.clone());
    addr
}

/// The node's fault desk, started by the first supervisor.
fn desk(parts: &Arc<NodeParts>) -> Addr<FaultDesk> {
    parts.desk(|| {
        let for_actor = parts.clone();
        let new = move |_: &mut _| FaultDesk::new(for_actor);
        start(&*parts.spawner, Place::Supervisor, ActorKind::Supervisor, new)
    })
}

impl Supervisor {
    fn guard(&mut self, actor: ActorKind) -> DownGuard {
        self.next_incarnation += 1;
        let incarnation = Incarnation::new(self.next_incarnation);
        DownGuard::new(actor, None, incarnation, desk(&self.parts).recipient())
    }

    fn look_around(&mut self, ctx: &mut Context<Self>) {
        if self.parts.is_stopping() || self.parts.storage_failure().is_some() {
            return;
        }
        let Some(actors) = self.node_actors() else { return };
        self.look_at_links(&actors);
        self.look_at_watchdog();
        let now = self.parts.clock.now();
        for (group, cell) in self.parts.directory.groups() {
            self.look_at_group(group, &cell, now, &actors, ctx);
        }
        self.flush_all(now);
    }

    /// The actors that serve the whole node, each started again if it is gone.
    fn node_actors(&mut self) -> Option<NodeActors> {
        let before = self.parts.actors();
        if before.as_ref().is_some_and(NodeActors::are_all_alive) {
            return before;
        }
        let log_writer_lives = before.as_ref().is_some_and(|a| a.log_writer.connected());
        let flusher_lives = before.as_ref().is_some_and(|a| a.flusher.connected());
        let tick_lives = before.as_ref().is_some_and(|a| a.tick.connected());
        let kept = before.as_ref();
        let (log_writer, reader) = match kept.filter(|_| log_writer_lives) {
            Some(actors) => (actors.log_writer.clone(), actors.reader.clone()),
            None => self.start_log_writer()?,
        };
        let flusher = match kept.filter(|_| flusher_lives) {
            Some(actors) => actors.flusher.clone(),
            None => self.start_flusher(),
        };
        let tick = match kept.filter(|_| tick_lives) {
            Some(actors) => actors.tick.clone(),
            None => self.start_tick(),
        };
        if before.is_some() {
            restarted(ActorKind::LogWriter, !log_writer_lives);
            restarted(ActorKind::StateFlusher, !flusher_lives);
            restarted(ActorKind::Tick, !tick_lives);
        }
        let actors = NodeActors { log_writer, reader, flusher, tick };
        self.parts.set_actors(actors.clone());
        self.introduce(&actors, log_writer_lives);
        Some(actors)
    }

    /// Makes the new node-wide actors known to those who had something with the old ones.
    fn introduce(&self, actors: &NodeActors, log_writer_lived: bool) {
        for (peer, link) in self.parts.directory.links() {
            deliver_fact(&actors.tick, RegisterLink { peer, to: link.recipient() });
        }
        for (group, cell) in self.parts.directory.groups() {
            let Some(addrs) = cell.addrs() else { continue };
            if !log_writer_lived {
                let log = actors.log_writer.clone().recipient();
                let reader = actors.reader.clone();
                deliver_fact(&addrs.group, LogWriterReplaced { log, reader });
            }
            let to = actors.flusher.clone().recipient();
            deliver_fact(&addrs.applier, FlusherReplaced { to });
            let to = addrs.group.clone().recipient();
            deliver_fact(&actors.tick, RegisterGroup { group, to });
        }
    }

    fn start_log_writer(
        &mut self,
    ) -> Option<(Addr<LogWriter>, Arc<dyn polyraft_core::ports::LogReader>)> {
        let store = match self.parts.lend_log() {
            Ok(store) => store,
            Err(error) => {
                self.parts.storage_failed(format!("the journal cannot be opened: {error}"));
                return None;
            }
        };
        let reader = store.reader();
        // What an earlier life of the log writer created, and could not say any more.
        for (group, identity) in store.groups() {
            let status = initial_status(group, &identity, Configuration::default());
            self.parts.directory.insert_group(group, status).0.mark_stored();
        }
        let guard = self.guard(ActorKind::LogWriter);
        let parts = self.parts.clone();
        let ports = LogWriterPorts {
            clock: parts.clock.clone(),
            progress: parts.log_progress.clone(),
            failed: desk(&parts).recipient(),
            refused: desk(&parts).recipient(),
        };
        let writer =
            start(&*self.parts.spawner, Place::LogWriter, ActorKind::LogWriter, move |_| {
                LogWriter::new(store, parts.settings.log_writer, ports, guard)
            });
        Some((writer, reader))
    }

    fn start_flusher(&mut self) -> Addr<StateFlusher> {
        let guard = self.guard(ActorKind::StateFlusher);
        let failed = desk(&self.parts).recipient::<StorageFailed>();
        let parts = self.parts.clone();
        let place = Place::StateFlusher;
        start(&*self.parts.spawner, place, ActorKind::StateFlusher, move |_| {
            let (store, clock) = (parts.state.clone(), parts.clock.clone());
            StateFlusher::new(store, parts.settings.state_flusher, clock, failed, guard)
        })
    }

    fn start_tick(&mut self) -> Addr<Tick> {
        let guard = self.guard(ActorKind::Tick);
        let parts = self.parts.clone();
        start(&*self.parts.spawner, Place::Tick, ActorKind::Tick, move |_| {
            let (tick, beats) = (parts.settings.tick, parts.settings.heartbeat_ticks);
            let heartbeat = tick * u32::try_from(beats).expect("a heartbeat is a few ticks");
            Tick::new(tick, heartbeat, parts.clock.clone(), guard)
        })
    }

    fn look_at_links(&mut self, actors: &NodeActors) {
        for peer in self.parts.peers.clone() {
            let before = self.parts.directory.link(peer);
            if before.as_ref().is_some_and(|link| link.connected()) {
                continue;
            }
            restarted(ActorKind::PeerLink, before.is_some());
            let link = self.start_link(peer);
            self.parts.directory.set_link(peer, link.clone());
            let to = link.recipient();
            deliver_fact(&actors.tick, RegisterLink { peer, to });
        }
    }

    fn start_link(&mut self, peer: NodeId) -> Addr<PeerLink> {
        let guard = self.guard(ActorKind::PeerLink);
        let parts = self.parts.clone();
        start(&*self.parts.spawner, Place::Transport, ActorKind::PeerLink, move |_| {
            let (transport, directory) = (parts.transport.clone(), parts.directory.clone());
            let clock = parts.clock.clone();
            PeerLink::new(peer, parts.settings.outbox, transport, directory, clock, guard)
        })
    }

    fn look_at_watchdog(&mut self) {
        let before = self.parts.watchdog();
        let watched = self.parts.spawner.watched();
        if watched.is_empty() || before.as_ref().is_some_and(|(addr, _)| addr.connected()) {
            return;
        }
        restarted(ActorKind::Watchdog, before.is_some());
        let (labels, arbiters): (Vec<_>, Vec<_>) = watched.into_iter().unzip();
        let stalls = before.map_or_else(|| Arc::new(ArbiterStalls::of(labels)), |(_, s)| s);
        let (guard, clock) = (self.guard(ActorKind::Watchdog), self.parts.clock.clone());
        let for_actor = stalls.clone();
        let addr = start(&*self.parts.spawner, Place::Tick, ActorKind::Watchdog, move |_| {
            Watchdog::new(PING_INTERVAL_DEFAULT, clock, arbiters, for_actor, guard)
        });
        self.parts.set_watchdog(addr, stalls);
    }

    fn look_at_group(
        &mut self,
        group: GroupId,
        cell: &Arc<GroupCell>,
        now: Moment,
        actors: &NodeActors,
        ctx: &mut Context<Self>,
    ) {
        let dead = cell.addrs().is_none_or(|addrs| !addrs.are_all_alive());
        if !dead || cell.is_out() || !cell.is_stored() || self.rebuilding.contains_key(&group) {
            return;
        }
        let row = self.rows.entry(group).or_default();
        let excused = self.excused.remove(&group);
        let deaths = if excused { row.deaths } else { row.add(now, cell.status().applied) };
        if deaths > DEATHS_IN_A_ROW_MAX {
            let reason = format!("its actors died {deaths} times in a row");
            return quarantine(&self.parts, group, reason);
        }
        for kind in [ActorKind::Group, ActorKind::Batcher, ActorKind::Applier] {
            restarted(kind, cell.addrs().is_some());
        }
        let pause = backoff(deaths);
        self.rebuild(group, cell.clone(), pause, actors.clone(), ctx);
    }

    fn rebuild(
        &mut self,
        group: GroupId,
        cell: Arc<GroupCell>,
        pause: Duration,
        actors: NodeActors,
        ctx: &mut Context<Self>,
    ) {
        self.next_incarnation += 1;
        let incarnation = Incarnation::new(self.next_incarnation);
        self.rebuilding.insert(group, incarnation);
        cell.publish_health(Health::Restarting);
        let desk = desk(&self.parts);
        let life = group_life::rebuild(self.parts.clone(), actors, cell, group, incarnation, desk);
        let rebuilt = async move {
            tokio::time::sleep(pause).await;
            life.await
        };
        let rebuilt = rebuilt.into_actor(self).map(move |result, supervisor, ctx| {
            supervisor.rebuilt(group, result, ctx);
        });
        ctx.spawn(rebuilt);
    }

    fn rebuilt(&mut self, group: GroupId, result: Result<(), LifeError>, ctx: &mut Context<Self>) {
        self.rebuilding.remove(&group);
        tracing::debug!(%group, ?result, "group rebuilt");
        let cell = self.parts.directory.group(group);
        match result {
            // It was taken out of service while it was being rebuilt.
            Ok(()) if cell.as_ref().is_some_and(|cell| cell.is_out()) => {
                cell.expect("it was just looked at").retire();
            }
            Ok(()) => {
                metrics::counter!("polyraft_group_lives_total").increment(1);
                if let Some((cell, restarted)) =
                    cell.and_then(|c| Some((c.clone(), c.restarted()?)))
                {
                    cell.raise(restarted);
                }
            }
            Err(LifeError::Interrupted) => {
                self.excused.insert(group);
                ctx.notify(LookAround);
            }
            Err(error) => quarantine(&self.parts, group, error.to_string()),
        }
    }

    /// Once an interval, appliers bring their durable state up to date.
    fn flush_all(&mut self, now: Moment) {
        if now.since(self.looked) < self.parts.settings.flush_interval {
            return;
        }
        self.looked = now;
        for (_, cell) in self.parts.directory.groups() {
            if let Some(addrs) = cell.addrs() {
                let _ = offer(&addrs.applier, ActorKind::Applier, FlushTick);
            }
        }
    }
}

/// Counts another life of an actor, if there was one before.
fn restarted(actor: ActorKind, again: bool) {
    if again {
        metrics::counter!("polyraft_actor_restarts_total", "actor" => actor.as_str()).increment(1);
    }
}

/// None for a first life, then doubling.
fn backoff(deaths: u32) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        more => BACKOFF_MIN.saturating_mul(1 << (more - 2).min(16)).min(BACKOFF_MAX),
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look_around(ctx);
        let interval = self.parts.settings.flush_interval;
        ctx.run_interval(interval, |supervisor, ctx| supervisor.look_around(ctx));
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if !self.parts.is_stopping() {
            metrics::counter!("polyraft_actor_panics_total", "actor" => "supervisor").increment(1);
            restarted(ActorKind::Supervisor, true);
            start_supervisor(&self.parts);
        }
    }
}

crate::guard::killable!(Supervisor);

impl Handler<LookAround> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: LookAround, ctx: &mut Self::Context) {
        self.look_around(ctx);
    }
}

impl Handler<Down> for Supervisor {
    type Result = ();

    fn handle(&mut self, down: Down, ctx: &mut Self::Context) {
        let actor = down.actor.as_str();
        let Down { group, panicked, .. } = down;
        tracing::debug!(actor, ?group, panicked, "actor down");
        metrics::counter!("polyraft_actor_down_total", "actor" => actor).increment(1);
        self.look_around(ctx);
        // The guard reports while the actor is being dropped; its mailbox closes a moment later.
        ctx.notify_later(LookAround, LOOK_AGAIN);
    }
}

impl Handler<CreateAndStart> for Supervisor {
    type Result = ();

    /// What waits for the disk is no part of the supervisor: a group that becomes durable after this
    /// supervisor died is its successor's to start.
    fn handle(&mut self, message: CreateAndStart, _: &mut Self::Context) {
        let CreateAndStart { create, cell } = message;
        let group = create.append.group;
        let Some(actors) = self.node_actors() else {
            return self.parts.directory.remove_group(group);
        };
        let (written, done) = oneshot::channel();
        let CreateGroup { append, reply } = create;
        failpoint::pass(Step::CreateSubmit);
        deliver_fact(&actors.log_writer, CreateGroup { append, reply: written });
        let parts = self.parts.clone();
        actix::spawn(async move {
            let result = done.await;
            if matches!(result, Ok(Ok(()))) {
                failpoint::pass(Step::CreateStored);
                cell.mark_stored();
                if let Some(supervisor) = parts.supervisor() {
                    deliver_fact(&supervisor, LookAround);
                }
            } else if !cell.is_stored() {
                // Else the next log writer found what the one that died had written.
                parts.directory.remove_group(group);
            }
            // An Err means that the creator has stopped waiting.
            let _ = result.map(|result| reply.send(result));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only deaths without progress make a crash loop. Method: rows of deaths, one a second.
    #[test]
    fn progress_or_a_long_life_ends_a_row() {
        let at = |s| Moment::new(Duration::from_secs(s));
        let mut stuck = Row::default();
        let deaths = (20..40).map(|s| stuck.add(at(s), LogIndex::new(7)));
        assert_eq!(deaths.last(), Some(20));
        let mut moving = Row::default();
        assert!((20..40).all(|s| moving.add(at(s), LogIndex::new(s)) == 1));
        assert_eq!(stuck.add(at(100), LogIndex::new(7)), 1);
    }
}
