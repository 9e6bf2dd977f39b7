//! Node parts: what outlives every actor of a node, and from which any actor can be rebuilt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use actix::Addr;
use polyraft_core::batch_config::BatchConfig;
use polyraft_core::compaction::Retention;
use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::outbox::OutboxLimits;
use polyraft_core::ports::{LogReader, LogStore, StateStore, StorageError, Transport};
use polyraft_core::state_machine::StateMachine;

use crate::applier::ApplierConfig;
use crate::clock::Clock;
use crate::directory::Directory;
use crate::entropy::Entropy;
use crate::fault_desk::{FaultDesk, quarantine};
use crate::lent_log::LogLender;
use crate::log_writer::{LogWriter, LogWriterConfig};
use crate::log_writer_progress::LogWriterProgress;
use crate::proposal_trace::TraceSink;
use crate::spawner::Spawner;
use crate::state_flusher::{StateFlusher, StateFlusherConfig};
use crate::supervisor::Supervisor;
use crate::tick::Tick;
use crate::watchdog::{ArbiterStalls, Watchdog};
use crate::workers::Workers;

/// Opens the journal; called again after a log writer took the open one along, on the same data.
pub type OpenLog = dyn Fn() -> Result<Box<dyn LogStore>, StorageError> + Send + Sync;

/// Makes the state machine of a group, by its id and name.
pub type MakeMachine = dyn Fn(GroupId, &str) -> Box<dyn StateMachine> + Send + Sync;

/// Called once when a store has failed: this process must not acknowledge anything again (ST-12).
pub type OnStorageFailed = dyn Fn(String) + Send + Sync;

/// What is the same for every group of a node.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Length of a tick.
    pub tick: Duration,
    /// Heartbeats are sent every so many ticks.
    pub heartbeat_ticks: u64,
    /// Base election timeout in ticks.
    pub election_ticks: u64,
    /// When batches are cut.
    pub batch: BatchConfig,
    /// How long a read waits for a leader's confirmation.
    pub read_deadline: Duration,
    /// What stays in a compacted log.
    pub retention: Retention,
    /// Applied entries kept in memory, per group, in bytes.
    pub tail_bytes_max: usize,
    /// Committed entries that an applier may hold, in bytes.
    pub apply_in_flight_bytes_max: usize,
    /// Committed and unapplied bytes beyond which a group refuses proposals.
    pub apply_backlog_bytes_max: usize,
    /// See [`polyraft_core::replica::ReplicaConfig`].
    pub append_in_flight_bytes_max: usize,
    /// What waits for one peer, and how it is merged into frames.
    pub outbox: OutboxLimits,
    /// The applier's slices and buffer.
    pub applier: ApplierConfig,
    /// The log writer's batches.
    pub log_writer: LogWriterConfig,
    /// The state flusher's batches.
    pub state_flusher: StateFlusherConfig,
    /// How often applied state is made durable, and how often the supervisor looks around.
    pub flush_interval: Duration,
}

/// The actors that serve the whole node, in their current lives.
#[derive(Clone)]
pub struct NodeActors {
    /// Owns the journal.
    pub log_writer: Addr<LogWriter>,
    /// Reads the journal.
    pub reader: Arc<dyn LogReader>,
    /// Makes state durable.
    pub flusher: Addr<StateFlusher>,
    /// The timer.
    pub tick: Addr<Tick>,
}

impl NodeActors {
    /// Whether each of them runs.
    pub fn are_all_alive(&self) -> bool {
        self.log_writer.connected() && self.flusher.connected() && self.tick.connected()
    }
}

/// Everything a node is made of, except its actors.
pub struct NodeParts {
    /// The node.
    pub node: NodeId,
    /// Every peer, without this node.
    pub peers: Vec<NodeId>,
    /// What is the same for every group.
    pub settings: NodeSettings,
    /// Where actors run.
    pub spawner: Arc<dyn Spawner>,
    /// Where state machines run.
    pub workers: Arc<dyn Workers>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Where the actors of groups and links are.
    pub directory: Arc<Directory>,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// Opens the journal.
    pub open_log: Box<OpenLog>,
    /// The durable state.
    pub state: Arc<dyn StateStore>,
    /// Makes state machines.
    pub machine: Box<MakeMachine>,
    /// Told when a store has failed.
    pub on_storage_failed: Box<OnStorageFailed>,
    /// How the log writer is doing, readable without asking it.
    pub log_progress: Arc<LogWriterProgress>,
    /// Where sampled proposals are told of, if anywhere.
    pub traces: Option<Arc<dyn TraceSink>>,
    /// Empty at first; filled while the node runs.
    pub slots: Slots,
}

/// What is set while the node runs.
#[derive(Default)]
pub struct Slots {
    log: Arc<LogLender>,
    actors: RwLock<Option<NodeActors>>,
    supervisor: RwLock<Option<Addr<Supervisor>>>,
    desk: OnceLock<Addr<FaultDesk>>,
    watchdog: RwLock<Option<(Addr<Watchdog>, Arc<ArbiterStalls>)>>,
    stopping: AtomicBool,
    storage_failed: OnceLock<String>,
}

impl NodeParts {
    /// The actors that serve the whole node; `None` before the start.
    pub fn actors(&self) -> Option<NodeActors> {
        self.slots.actors.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_actors(&self, actors: NodeActors) {
        *self.slots.actors.write().unwrap_or_else(PoisonError::into_inner) = Some(actors);
    }

    /// The journal for the next log writer.
    ///
    /// # Errors
    /// It had to be opened, and could not be.
    pub(crate) fn lend_log(&self) -> Result<Box<dyn LogStore>, StorageError> {
        self.slots.log.lend(&*self.open_log)
    }

    /// The supervisor's current life; `None` before the start.
    pub fn supervisor(&self) -> Option<Addr<Supervisor>> {
        self.slots.supervisor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_supervisor(&self, supervisor: Addr<Supervisor>) {
        *self.slots.supervisor.write().unwrap_or_else(PoisonError::into_inner) = Some(supervisor);
    }

    /// Where deaths and failures are reported; the same for all supervisors.
    pub(crate) fn desk(&self, start: impl FnOnce() -> Addr<FaultDesk>) -> Addr<FaultDesk> {
        self.slots.desk.get_or_init(start).clone()
    }

    /// How long the arbiters kept others waiting, since the watchdog's current life began; `None`
    /// where nothing is watched.
    pub fn stalls(&self) -> Option<Arc<ArbiterStalls>> {
        self.watchdog().map(|(_, stalls)| stalls)
    }

    /// The watchdog's current life; `None` where nothing is watched.
    pub fn watchdog(&self) -> Option<(Addr<Watchdog>, Arc<ArbiterStalls>)> {
        self.slots.watchdog.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_watchdog(&self, watchdog: Addr<Watchdog>, stalls: Arc<ArbiterStalls>) {
        *self.slots.watchdog.write().unwrap_or_else(PoisonError::into_inner) =
            Some((watchdog, stalls));
    }

    /// From now on nothing that dies is rebuilt.
    pub fn stop_supervision(&self) {
        self.slots.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether the node is stopping.
    pub fn is_stopping(&self) -> bool {
        self.slots.stopping.load(Ordering::SeqCst)
    }

    /// Why the stores failed, if one did.
    pub fn storage_failure(&self) -> Option<&str> {
        self.slots.storage_failed.get().map(String::as_str)
    }

    /// Takes every group out of service: a leader that can no longer persist would keep the others
    /// from electing one that can, and its callers waiting.
    pub(crate) fn storage_failed(&self, reason: String) {
        if self.slots.storage_failed.set(reason.clone()).is_ok() {
            for (group, _) in self.directory.groups() {
                quarantine(self, group, reason.clone());
            }
            (self.on_storage_failed)(reason);
        }
    }
}
