//! Chaos: faults injected into a running node, each with the proof that it took effect.
//!
//! ```text
//!  Chaos::inject ─┬ kill, stall ─→ the actor's own mailbox
//!                 ├ link ────────→ [Transport] [TransportEvents]  ┐
//!                 ├ disk ────────→ [LogStore] [StateStore]        ├ wrapped at the start,
//!                 └ clock ───────→ [Clock]                        ┘ if chaos is enabled
//! ```
//!
//! Off unless the node was started from [`NodeConfig::with_chaos`](crate::NodeConfig::with_chaos); then
//! nothing is wrapped and [`Node::chaos`](crate::Node::chaos) is `None`. Every injection and every end
//! is logged as a warning with the fault's JSON, and counted
//! (`polyraft_faults_injected_total`, `polyraft_faults_in_force`).
//!
//! Promise: a fault acts from the return of [`Chaos::inject`] until it is ended, and its effects are
//! counted where they happen: a fault whose counters stand still did nothing (CH-4). Faults on the same
//! port add up. A node that stops ends them all. What chance decides repeats from run to run, frame by
//! frame (CH-7).
//!
//! Not here: who may inject (the embedder decides; the server asks for a token), and when.
//!
//! ```
//! use polyraft::chaos::{Direction, Fault, LinkFault};
//! use polyraft::{Node, NodeId};
//!
//! fn lose_a_third(node: &Node) -> Result<(), Box<dyn std::error::Error>> {
//!     let chaos = node.chaos().ok_or("started without chaos")?;
//!     let mut lossy = LinkFault::new(NodeId::new(2), Direction::Both);
//!     lossy.loss_per_mille = 333;
//!     let id = chaos.inject(Fault::Link(lossy))?;
//!     println!("{:?}", chaos.faults()); // what it has done so far
//!     assert!(chaos.end(id)?);
//!     Ok(())
//! }
//! ```

mod clock;
mod disk;
mod fault;
mod fault_text;
mod in_force;
mod link;
mod links;
mod ports;
mod record;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use fault::{
    CLOCK_STEP_MAX, ClockFault, Direction, DiskError, DiskFault, FAULT_DURATION_MAX, Fault,
    FaultError, KillActor, LinkFault, StallActor, Store,
};
use polyraft_actors::actor_target::{ActorTarget, Disturbance, IsGone, TargetError};
use polyraft_actors::guard::Kill;
pub use polyraft_actors::guard::KillMode;
pub use polyraft_actors::mailbox::ActorKind;
use polyraft_actors::node_parts::NodeParts;
use polyraft_actors::stall::{Stall, StallOver};
use polyraft_core::ids::NodeId;
pub use polyraft_core::ports::Lane;
pub(crate) use ports::ChaosPorts;
use record::{Active, Record};
pub use record::{FaultId, FaultRecord};

/// Faults in force at the same time.
pub const FAULTS_IN_FORCE_MAX: usize = 256;
/// Ended faults that are remembered; the oldest are forgotten first.
pub const FAULTS_ENDED_MAX: usize = 1_024;

/// Injects faults into one node. A cheap clone.
#[derive(Clone)]
pub struct Chaos {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Arc<NodeParts>,
    ports: ChaosPorts,
    last_id: AtomicU64,
    /// The node stops. Changes only under the lock of the records.
    is_closed: AtomicBool,
    records: Mutex<BTreeMap<FaultId, Record>>,
}

/// Why a fault was not injected, or not ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChaosError {
    /// Nothing was injected: the fault breaks a rule.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// Nothing was injected: the actor cannot be reached now. Try again.
    #[error(transparent)]
    Actor(#[from] TargetError),
    /// Nothing was injected: too many faults are in force. End one first.
    #[error("{FAULTS_IN_FORCE_MAX} faults are in force, as many as may be")]
    TooMany,
    /// Nothing was injected: the node stops, or has stopped.
    #[error("the node stops")]
    Stopped,
    /// There is no such fault, or no longer.
    #[error("there is no fault {id}")]
    UnknownFault {
        /// The id asked for.
        id: FaultId,
    },
}

impl Chaos {
    pub(crate) fn new(parts: Arc<NodeParts>, ports: ChaosPorts) -> Self {
        let (last_id, is_closed, records) = Default::default();
        Self { inner: Arc::new(Inner { parts, ports, last_id, is_closed, records }) }
    }

    /// Ends every fault, and takes no more: one that lasts would keep the node from stopping.
    pub(crate) fn close(&self) {
        let records = self.records();
        self.inner.is_closed.store(true, Relaxed);
        drop(records);
        self.end_all();
    }

    /// Injects a fault, which acts at once. Ids count from 1.
    ///
    /// # Errors
    /// See [`ChaosError`]; nothing was injected.
    pub fn inject(&self, fault: Fault) -> Result<FaultId, ChaosError> {
        fault.check()?;
        let mut records = self.records();
        if self.inner.is_closed.load(Relaxed) {
            return Err(ChaosError::Stopped);
        }
        if records.values().filter(|record| record.ended_ms.is_none()).count()
            >= FAULTS_IN_FORCE_MAX
        {
            return Err(ChaosError::TooMany);
        }
        let id = FaultId::new(self.inner.last_id.load(Relaxed) + 1);
        let active = self.activate(&fault, id)?;
        // Under the lock of the records; what is refused takes no id, so that draws repeat.
        self.inner.last_id.store(id.get(), Relaxed);
        let json = record::json(&fault);
        let node = self.inner.parts.node.get();
        tracing::warn!(node, id = id.get(), fault = json, "fault injected");
        metrics::counter!("polyraft_faults_injected_total", "kind" => fault.kind()).increment(1);
        metrics::gauge!("polyraft_faults_in_force").increment(1.0);
        let is_over = matches!(active, Active::Kill { .. });
        let mut record = Record::new(id, fault, active, self.now_ms());
        if is_over {
            self.conclude(&mut record);
        }
        records.insert(id, record);
        forget_oldest(&mut records);
        Ok(id)
    }

    /// Ends a fault; returns whether it was in force. One that has ended already stays as it is.
    ///
    /// # Errors
    /// [`ChaosError::UnknownFault`].
    pub fn end(&self, id: FaultId) -> Result<bool, ChaosError> {
        let mut records = self.records();
        let record = records.get_mut(&id).ok_or(ChaosError::UnknownFault { id })?;
        Ok(self.conclude(record))
    }

    /// Ends every fault; returns how many were in force.
    pub fn end_all(&self) -> usize {
        let mut records = self.records();
        records.values_mut().map(|record| self.conclude(record)).filter(|ended| *ended).count()
    }

    /// Every fault in force, and those that ended last, in the order of their injection.
    pub fn faults(&self) -> Vec<FaultRecord> {
        self.records().values().map(Record::report).collect()
    }

    /// Makes the fault act.
    fn activate(&self, fault: &Fault, id: FaultId) -> Result<Active, ChaosError> {
        let ports = &self.inner.ports;
        Ok(match fault {
            Fault::KillActor(kill) => {
                let kill_it = Disturbance::Kill(Kill { mode: kill.mode });
                Active::Kill { is_gone: self.disturb(kill.target()?, kill_it)? }
            }
            Fault::StallActor(stall) => self.stall(stall, id)?,
            Fault::Link(link) => {
                self.check_peer(link.peer)?;
                // The same draws for the same fault of the same node in every run.
                let seed = id.get() ^ self.inner.parts.node.get() << 32;
                Active::Link(ports.add_link(link.clone(), seed))
            }
            Fault::Disk(disk) => Active::Disk(ports.add_disk(disk.clone())),
            Fault::Clock(clock) => Active::Clock(ports.add_clock(clock.step_ms)),
        })
    }

    fn disturb(&self, target: ActorTarget, disturbance: Disturbance) -> Result<IsGone, ChaosError> {
        let parts = &self.inner.parts;
        match target {
            ActorTarget::LinkTo(peer) => self.check_peer(peer)?,
            ActorTarget::OfGroup(_, group) if parts.directory.group(group).is_none() => {
                return Err(fault::rule("group", group, "is not on this node").into());
            }
            _ => {}
        }
        Ok(target.disturb(parts, disturbance)?)
    }

    fn stall(&self, stall: &StallActor, id: FaultId) -> Result<Active, ChaosError> {
        let (message, handle, meter, is_over) = Stall::new(stall.length);
        // What matters is when the stall is over, whether the actor lives on or not.
        drop(self.disturb(stall.target()?, Disturbance::Stall(message))?);
        self.end_when(is_over, id);
        Ok(Active::Stall { handle: Some(handle), meter })
    }

    /// A stall that is over by itself ends its fault.
    fn end_when(&self, is_over: StallOver, id: FaultId) {
        let chaos = Arc::downgrade(&self.inner);
        self.inner.ports.runtime.spawn(async move {
            // It never answers: its sender goes away with the stall.
            let _ = is_over.await;
            if let Some(inner) = chaos.upgrade() {
                // An Err means that it was ended so long ago that it is forgotten.
                let _ = Self { inner }.end(id);
            }
        });
    }

    fn check_peer(&self, peer: NodeId) -> Result<(), FaultError> {
        if self.inner.parts.peers.contains(&peer) {
            return Ok(());
        }
        Err(fault::rule("peer", peer, "is not a peer of this node"))
    }

    /// Ends what is in force; whether it was.
    fn conclude(&self, record: &mut Record) -> bool {
        if record.ended_ms.is_some() {
            return false;
        }
        record.ended_ms = Some(self.now_ms());
        let Inner { parts, ports, .. } = &*self.inner;
        match &mut record.active {
            Active::Kill { .. } => {}
            Active::Stall { handle, .. } => drop(handle.take()),
            Active::Link(link) => ports.links.end(link),
            Active::Disk(disk) => ports.disks.end(disk),
            Active::Clock(clock) => ports.clocks.remove(clock),
        }
        metrics::gauge!("polyraft_faults_in_force").decrement(1.0);
        let report = record.report();
        let (id, fault) = (report.id.get(), record::json(&report.fault));
        let effects = record::json(&report.effects);
        tracing::warn!(node = parts.node.get(), id, fault, effects, "fault ended");
        true
    }

    /// The machine's time, whatever clock faults say.
    fn now_ms(&self) -> u64 {
        self.inner.ports.clock.wall_ms()
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<FaultId, Record>> {
        self.inner.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_oldest(records: &mut BTreeMap<FaultId, Record>) {
    let ended = |records: &BTreeMap<_, Record>| {
        let mut ended = records.iter().filter(|(_, record)| record.ended_ms.is_some());
        let first = ended.next().map(|(id, _)| *id);
        (first, ended.count() + 1)
    };
    while let (Some(oldest), count) = ended(records)
        && count > FAULTS_ENDED_MAX
    {
        records.remove(&oldest);
    }
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos").field("node", &self.inner.parts.node).finish_non_exhaustive()
    }
}
