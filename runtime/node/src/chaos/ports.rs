//! Chaos ports: everything that a node with chaos enabled has between itself and its adapters.

use std::sync::Arc;

use polyraft_actors::clock::Clock;
use polyraft_core::ports::{LogStore, StateStore, Transport, TransportEvents};
use tokio::runtime::Handle;

use super::clock::{ActiveClock, FaultyClock};
use super::disk::{ActiveDisk, DiskFaults, FaultyLog, FaultyState};
use super::fault::{DiskFault, LinkFault};
use super::in_force::InForce;
use super::link::ActiveLink;
use super::links::LinkFaults;

/// The faults of each port. A cheap clone.
#[derive(Clone)]
pub(crate) struct ChaosPorts {
    pub(super) links: Arc<LinkFaults>,
    pub(super) disks: Arc<DiskFaults>,
    pub(super) clocks: Arc<InForce<ActiveClock>>,
    /// The machine's own clock.
    pub(super) clock: Arc<dyn Clock>,
    /// Where frames wait and stalls are watched; it outlives every actor.
    pub(super) runtime: Handle,
}

impl ChaosPorts {
    /// Ports without faults, over the machine's `clock`.
    pub(crate) fn new(clock: Arc<dyn Clock>, runtime: Handle) -> Self {
        let (links, disks, clocks) = (Arc::default(), Arc::default(), Arc::default());
        Self { links, disks, clocks, clock, runtime }
    }

    /// The clock that the node sees.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(FaultyClock { inner: self.clock.clone(), faults: self.clocks.clone() })
    }

    /// What the transport tells the node.
    pub(crate) fn events(&self, inner: Arc<dyn TransportEvents>) -> Arc<dyn TransportEvents> {
        self.links.around_events(inner, self.runtime.clone())
    }

    /// The transport that the node sends by; `events` are the node's own.
    pub(crate) fn transport(
        &self,
        inner: Arc<dyn Transport>,
        events: Arc<dyn TransportEvents>,
    ) -> Arc<dyn Transport> {
        self.links.around_transport(inner, events, self.runtime.clone())
    }

    /// A life of the journal.
    pub(crate) fn log(&self, inner: Box<dyn LogStore>) -> Box<dyn LogStore> {
        Box::new(FaultyLog { inner, faults: self.disks.clone() })
    }

    /// The state store.
    pub(crate) fn state(&self, inner: Arc<dyn StateStore>) -> Arc<dyn StateStore> {
        Arc::new(FaultyState { inner, faults: self.disks.clone() })
    }

    pub(super) fn add_link(&self, fault: LinkFault, seed: u64) -> Arc<ActiveLink> {
        let active = Arc::new(ActiveLink::new(fault, seed));
        self.links.add(active.clone(), &self.runtime);
        active
    }

    pub(super) fn add_disk(&self, fault: DiskFault) -> Arc<ActiveDisk> {
        let active = Arc::new(ActiveDisk::new(fault));
        self.disks.add(active.clone());
        active
    }

    pub(super) fn add_clock(&self, step_ms: i64) -> Arc<ActiveClock> {
        let active = Arc::new(ActiveClock::new(step_ms));
        self.clocks.add(active.clone());
        active
    }
}
