//! Group life: one group's three actors, from storage to running.
//!
//! ```text
//! end the old ones → OpenState (behind their flushes) → Restore (behind their appends)
//!     → Replica → Applier, Group, Batcher → registered, published
//! ```
//!
//! Promise: nothing of an earlier life can change the state or the log after a new life has read
//! them: both reads queue behind whatever the earlier one left with the flusher and the log writer.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use polyraft_core::entry::Configuration;
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, Incarnation, Term};
use polyraft_core::ports::{GroupIdentity, GroupState, RestoredLog, StorageError};
use polyraft_core::replica::{Replica, ReplicaConfig};
use polyraft_core::status::{GroupStatus, Health, Role};
use tokio::sync::oneshot;

use crate::applier::{Applier, ApplierPorts};
use crate::batcher::{Batcher, BatcherPorts};
use crate::directory::{GroupAddrs, GroupCell};
use crate::fault_desk::FaultDesk;
use crate::group::{Group, GroupPorts};
use crate::guard::{DownGuard, Kill, KillMode};
use crate::log_writer::Restore;
use crate::machine_lease::MachineLease;
use crate::mailbox::{ActorKind, deliver_fact};
use crate::node_parts::{NodeActors, NodeParts};
use crate::proposal_trace::TraceOutlet;
use crate::spawner::{Place, Prepared, prepare};
use crate::state_flusher::OpenState;
use crate::tick::RegisterGroup;

/// How often a rebuild looks whether the earlier life's actors are gone.
const GONE_POLL: Duration = Duration::from_millis(1);

/// Why a group has no new life.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LifeError {
    /// The log writer, the flusher or the supervisor died meanwhile: try again.
    #[error("interrupted by the death of another actor")]
    Interrupted,
    /// What is on disk cannot be used.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// What is on disk contradicts itself.
    #[error("the log and the state do not fit together: {0}")]
    Inconsistent(String),
}

/// The status of a group that has not started.
pub fn initial_status(
    group: GroupId,
    identity: &GroupIdentity,
    configuration: Configuration,
) -> GroupStatus {
    GroupStatus {
        group,
        name: identity.name.as_str().into(),
        replica: identity.replica,
        health: Health::Restarting,
        role: Role::Follower,
        term: Term::default(),
        leader: None,
        compacted: Default::default(),
        last: Default::default(),
        persisted: Default::default(),
        commit: Default::default(),
        applied: Default::default(),
        replicated: Default::default(),
        configuration: Arc::new(configuration),
    }
}

/// Tells the actors of a life to end.
pub(crate) fn end(addrs: &GroupAddrs) {
    let stop = Kill { mode: KillMode::Stop };
    deliver_fact(&addrs.group, stop);
    deliver_fact(&addrs.batcher, stop);
    deliver_fact(&addrs.applier, stop);
}

/// Ends the group's earlier life, if any, and starts the next one.
pub(crate) async fn rebuild(
    parts: Arc<NodeParts>,
    actors: NodeActors,
    cell: Arc<GroupCell>,
    group: GroupId,
    incarnation: Incarnation,
    desk: Addr<FaultDesk>,
) -> Result<(), LifeError> {
    cell.retire();
    // Also those that an earlier supervisor ended and did not live to see gone.
    while !cell.are_retired_gone() {
        tokio::time::sleep(GONE_POLL).await;
    }
    let state = open_state(&actors, group).await?;
    failpoint::hit(Step::GroupRestore).map_err(StorageError::from)?;
    let restored = restore(&actors, group, &*state).await?;
    failpoint::pass(Step::GroupRestored);
    let replica = replica(&parts, group, restored, &*state)?;
    // Those that die after this will find the new life in its cell, and be replaced there.
    if !actors.are_all_alive() {
        return Err(LifeError::Interrupted);
    }
    let life = Life { parts, actors, cell, group, incarnation, desk };
    life.start(replica, state);
    Ok(())
}

async fn open_state(actors: &NodeActors, group: GroupId) -> Result<Box<dyn GroupState>, LifeError> {
    let (reply, opened) = oneshot::channel();
    deliver_fact(&actors.flusher, OpenState { group, reply });
    Ok(opened.await.map_err(|_| LifeError::Interrupted)??)
}

async fn restore(
    actors: &NodeActors,
    group: GroupId,
    state: &dyn GroupState,
) -> Result<RestoredLog, LifeError> {
    let (reply, restored) = oneshot::channel();
    let applied = state.durable_applied();
    deliver_fact(&actors.log_writer, Restore { group, applied, reply });
    Ok(restored.await.map_err(|_| LifeError::Interrupted)??)
}

type GroupReplica = Replica<crate::proposal::BatchWaiters, crate::group::ReadWaiter>;

fn replica(
    parts: &NodeParts,
    group: GroupId,
    restored: RestoredLog,
    state: &dyn GroupState,
) -> Result<GroupReplica, LifeError> {
    let applied = state.durable_applied();
    if applied < restored.compacted.index || applied > restored.last {
        let (from, to) = (restored.compacted.index, restored.last);
        let what = format!("applied {applied} is not within the log ({from}, {to}]");
        return Err(LifeError::Inconsistent(what));
    }
    let settings = &parts.settings;
    let config = ReplicaConfig {
        group,
        election_ticks: settings.election_ticks,
        heartbeat_ticks: settings.heartbeat_ticks,
        seed: parts.entropy.next_u64(),
        tail_bytes_max: settings.tail_bytes_max,
        apply_in_flight_bytes_max: settings.apply_in_flight_bytes_max,
        apply_backlog_bytes_max: settings.apply_backlog_bytes_max,
        append_in_flight_bytes_max: settings.append_in_flight_bytes_max,
        retention: settings.retention,
        stands_first: stands_first(&restored, group),
    };
    Replica::new(config, restored, applied)
        .map_err(|error| LifeError::Inconsistent(error.to_string()))
}

/// Spreads first leaders over the members: the group's id picks one.
fn stands_first(restored: &RestoredLog, group: GroupId) -> bool {
    let voters = &restored.configuration.voters;
    let len = voters.len().max(1) as u64;
    voters.get((group.get() % len) as usize) == Some(&restored.identity.replica)
}

/// What the three actors of one life share.
struct Life {
    parts: Arc<NodeParts>,
    actors: NodeActors,
    cell: Arc<GroupCell>,
    group: GroupId,
    incarnation: Incarnation,
    desk: Addr<FaultDesk>,
}

impl Life {
    /// The three know each other, so their addresses are made before any of them starts.
    fn start(self, replica: GroupReplica, state: Box<dyn GroupState>) {
        let group = prepare::<Group>(ActorKind::Group);
        let batcher = prepare::<Batcher>(ActorKind::Batcher);
        let applier = prepare::<Applier>(ActorKind::Applier);
        let addrs = GroupAddrs {
            group: group.addr.clone(),
            batcher: batcher.addr.clone(),
            applier: applier.addr.clone(),
            machine: MachineLease::default(),
        };
        self.start_applier(applier, &addrs, state);
        self.start_batcher(batcher, &addrs);
        self.start_group(group, &addrs, replica);
        let to = addrs.group.clone().recipient();
        let register = RegisterGroup { group: self.group, to };
        deliver_fact(&self.actors.tick, register);
        self.cell.set_addrs(Some(addrs));
    }

    fn guard(&self, actor: ActorKind) -> DownGuard {
        let down = self.desk.clone().recipient();
        DownGuard::new(actor, Some(self.group), self.incarnation, down)
    }

    fn start_applier(
        &self,
        prepared: Prepared<Applier>,
        addrs: &GroupAddrs,
        state: Box<dyn GroupState>,
    ) {
        let (parts, group, guard) =
            (self.parts.clone(), self.group, self.guard(ActorKind::Applier));
        let (name, lease) = (self.cell.status().name, addrs.machine.clone());
        let ports = ApplierPorts {
            workers: parts.workers.clone(),
            clock: parts.clock.clone(),
            flusher: self.actors.flusher.clone().recipient(),
            applied: addrs.group.clone().recipient(),
            failed: self.desk.clone().recipient(),
        };
        prepared.start(&*self.parts.spawner, Place::Shard(group), move |_| {
            let machine = lease.lend((parts.machine)(group, &name));
            Applier::new(group, machine, state, parts.settings.applier, ports, guard)
        });
    }

    fn start_batcher(&self, prepared: Prepared<Batcher>, addrs: &GroupAddrs) {
        let (parts, group, guard) =
            (self.parts.clone(), self.group, self.guard(ActorKind::Batcher));
        let ports = BatcherPorts {
            submit: addrs.group.clone().recipient(),
            directory: parts.directory.clone(),
            cell: self.cell.clone(),
            clock: parts.clock.clone(),
            traces: self.traces(),
        };
        prepared.start(&*self.parts.spawner, Place::Shard(group), move |_| {
            let first_request = parts.entropy.next_u64() >> 1;
            Batcher::new(group, parts.settings.batch, ports, first_request, guard)
        });
    }

    fn traces(&self) -> Option<TraceOutlet> {
        let parts = &self.parts;
        parts.traces.clone().map(|sink| TraceOutlet {
            sink,
            clock: parts.clock.clone(),
            node: parts.node,
            group: self.group,
        })
    }

    fn start_group(&self, prepared: Prepared<Group>, addrs: &GroupAddrs, replica: GroupReplica) {
        let (parts, group, guard) = (self.parts.clone(), self.group, self.guard(ActorKind::Group));
        let ports = GroupPorts {
            log: self.actors.log_writer.clone().recipient(),
            reader: self.actors.reader.clone(),
            workers: parts.workers.clone(),
            clock: parts.clock.clone(),
            log_progress: parts.log_progress.clone(),
            apply: addrs.applier.clone().recipient(),
            query: addrs.applier.clone().recipient(),
            directory: parts.directory.clone(),
            cell: self.cell.clone(),
            leader_changed: addrs.batcher.clone().recipient(),
            refused: addrs.batcher.clone().recipient(),
            failed: self.desk.clone().recipient(),
        };
        prepared.start(&*self.parts.spawner, Place::Shard(group), move |_| {
            Group::new((parts.node, group), replica, ports, parts.settings.read_deadline, guard)
        });
    }
}
