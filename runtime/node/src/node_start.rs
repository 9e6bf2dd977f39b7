//! How a node comes up: storage, transport, the actix system on its own thread, the supervisor.
//!
//! ```text
//! thread "polyraft-node": actix System ─→ arbiters, workers → transport → Supervisor → … stop
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use polyraft_actors::applier::ApplierConfig;
use polyraft_actors::clock::{Clock, SystemClock};
use polyraft_actors::directory::Directory;
use polyraft_actors::entropy::SeededEntropy;
use polyraft_actors::link_events::LinkEvents;
use polyraft_actors::log_writer::LogWriterConfig;
use polyraft_actors::metric_catalogue;
use polyraft_actors::node_parts::{NodeParts, NodeSettings, OpenLog, Slots};
use polyraft_actors::spawner::{ArbiterSpawner, Spawner};
use polyraft_actors::state_flusher::StateFlusherConfig;
use polyraft_actors::supervisor::start_supervisor;
use polyraft_actors::workers::ThreadWorkers;
use polyraft_core::batch_config::BatchConfig;
use polyraft_core::compaction::Retention;
use polyraft_core::failpoint::{self, Step};
use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::limits::APPEND_INFLIGHT_BYTES_MAX;
use polyraft_core::outbox::OutboxLimits;
use polyraft_core::ports::{Transport, TransportEvents};
use polyraft_core::state_machine::StateMachine;
use polyraft_storage::identity::DataIdentity;
use polyraft_storage::journal::{Journal, JournalOptions};
use polyraft_storage::lmdb::{LmdbOptions, LmdbTable};
use polyraft_storage::peer_register::FilePeerRegister;
use polyraft_storage::{LogTable, Storage, StorageOptions};
use polyraft_transport::{ClusterName, Identity, Mtu, QuicConfig, QuicTransport};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::chaos::{Chaos, ChaosPorts};
use crate::config::NodeConfig;
use crate::config_cluster::GroupSpec;
use crate::node::Running;
use crate::node_error::StartError;
use crate::observer::{Observed, Observer};
use crate::seams::{Seams, WrapLog};

/// Applied entries kept in memory for followers that lag, per group.
const TAIL_BYTES_MAX: usize = 4 << 20;
/// Committed bytes that a group's applier may hold.
const APPLY_IN_FLIGHT_BYTES_MAX: usize = 8 << 20;
/// Committed and unapplied bytes at which a group stops taking proposals.
const APPLY_BACKLOG_BYTES_MAX: usize = 32 << 20;
/// How often applied state is made durable.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Longest that a stopping transport is given to tell its peers.
const FAREWELL_MAX: Duration = Duration::from_millis(100);
/// Threads on which state machines may block, beyond the configured ones that compute.
const APPLY_THREADS_MIN: usize = 16;

/// Makes the state machine of a group.
pub(crate) type Machine = Box<dyn Fn(&GroupSpec) -> Box<dyn StateMachine> + Send + Sync>;

/// A node that has come up.
pub(crate) struct Started {
    pub(crate) parts: Arc<NodeParts>,
    pub(crate) transport: Arc<QuicTransport>,
    pub(crate) tables: [LmdbTable; 2],
    pub(crate) chaos: Option<Chaos>,
    pub(crate) running: Running,
}

/// What the node's own thread starts from.
struct Opened {
    storage: Storage<LogTable, LmdbTable>,
    quic: QuicConfig,
    machine: Machine,
    seams: Seams,
}

/// What the node's own thread reports: what it has assembled, or why there is nothing.
type Report = Result<Assembled, StartError>;

/// A node's parts, before its first actor.
#[derive(Clone)]
struct Assembled {
    parts: Arc<NodeParts>,
    transport: Arc<QuicTransport>,
    chaos: Option<Chaos>,
}

pub(crate) async fn start(
    config: &NodeConfig,
    identity: Identity,
    machine: Machine,
    seams: Seams,
) -> Result<Started, StartError> {
    metric_catalogue::describe();
    let cluster = ClusterName::new(config.cluster().name())?;
    let node = config.node_id();
    let options = storage_options(config);
    let storage = Storage::open(config.data_dir(), &options, config.cluster().name(), node)?;
    failpoint::pass(Step::StoresOpen);
    let tables = [storage.journal.table().table().clone(), storage.state.table().clone()];
    let DataIdentity { data, incarnation, .. } = storage.identity;
    let quic = QuicConfig::new(node, cluster, config.listen(), identity).mtu(mtu(config)).data(
        data,
        incarnation,
        Arc::new(FilePeerRegister::new(config.data_dir())),
    );
    let (ready, started) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let (config, observed_config) = (config.clone(), config.clone());
    let thread = std::thread::Builder::new()
        .name("polyraft-node".to_owned())
        .spawn(move || run(&config, Opened { storage, quic, machine, seams }, ready, stopped))
        .map_err(StartError::Thread)?;
    match started.await.unwrap_or(Err(StartError::Ended)) {
        Ok(Assembled { parts, transport, chaos }) => {
            let observed = Observed {
                parts: parts.clone(),
                transport: transport.clone(),
                tables: tables.clone(),
                runtime: Handle::current(),
                config: observed_config,
            };
            let observer = Observer::start(observed).map_err(StartError::Thread)?;
            let running = Running { stop, thread, observer };
            Ok(Started { parts, transport, tables, chaos, running })
        }
        Err(error) => {
            // Its thread holds the data directory until it ends.
            drop(tables);
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            Err(error)
        }
    }
}

/// Loopback carries large datagrams; anything else gets what every path carries.
fn mtu(config: &NodeConfig) -> Mtu {
    if config.listen().ip().is_loopback() { Mtu::Jumbo } else { Mtu::Standard }
}

/// The node's own thread, from its first actor to its last.
fn run(
    config: &NodeConfig,
    opened: Opened,
    ready: oneshot::Sender<Report>,
    stopped: oneshot::Receiver<()>,
) {
    actix::System::new().block_on(async move {
        let assembled = match assemble(config, opened) {
            Ok(assembled) => assembled,
            // An Err here and below means that nobody waits for the start.
            Err(error) => return drop(ready.send(Err(error))),
        };
        let Assembled { parts, transport, chaos } = assembled.clone();
        start_supervisor(&parts);
        // The supervisor opens the journal and enters the stored groups into the directory.
        while parts.actors().is_none() && parts.storage_failure().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if ready.send(Ok(assembled)).is_ok() {
            let _ = stopped.await;
        }
        // A commit that stands still would keep its thread from ending.
        if let Some(chaos) = &chaos {
            chaos.close();
        }
        parts.stop_supervision();
        transport.shutdown();
        // Peers that do not hear it find out by their own timeout.
        let _ = tokio::time::timeout(FAREWELL_MAX, transport.closed()).await;
        parts.spawner.stop();
        parts.workers.stop();
    });
}

/// Starts the threads, and the transport on one of them. Needs the current actix `System`.
fn assemble(config: &NodeConfig, opened: Opened) -> Report {
    let Opened { storage, quic, machine, seams } = opened;
    let threads = config.threads();
    let spawner = ArbiterSpawner::new(threads.shards()).map_err(StartError::Thread)?;
    let runtime = spawner.transport_runtime().clone();
    let directory = Arc::new(Directory::default());
    let own_clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let ports = config.has_chaos().then(|| ChaosPorts::new(own_clock.clone(), runtime.clone()));
    let clock = ports.as_ref().map_or(own_clock, ChaosPorts::clock);
    let events = Arc::new(LinkEvents::new(config.node_id(), directory.clone(), clock.clone()));
    let transport = start_transport(quic, events.clone(), ports.as_ref(), runtime);
    let transport = Arc::new(transport.inspect_err(|_| spawner.stop())?);
    failpoint::pass(Step::TransportStarted);
    let apply_threads = threads.apply_workers().max(APPLY_THREADS_MIN);
    let mut settings = settings(config);
    (seams.settings)(&mut settings);
    let wrap_log = wrap_log(seams.log, ports.clone());
    let parts = Arc::new(NodeParts {
        node: config.node_id(),
        peers: peers(config),
        settings,
        spawner: Arc::new(spawner),
        workers: Arc::new(ThreadWorkers::new(apply_threads)),
        clock,
        entropy: Arc::new(SeededEntropy::new(rand::random())),
        directory,
        transport: match &ports {
            Some(ports) => ports.transport(transport.clone(), events),
            None => transport.clone(),
        },
        state: match &ports {
            Some(ports) => ports.state(storage.state.clone()),
            None => storage.state.clone(),
        },
        open_log: open_log(storage.journal, storage_options(config).journal, wrap_log),
        machine: Box::new(move |group: GroupId, name: &str| machine(&GroupSpec::new(group, name))),
        on_storage_failed: Box::new(|reason| tracing::error!(reason, "storage failed")),
        log_progress: Arc::default(),
        traces: config.trace_sink().cloned(),
        slots: Slots::default(),
    });
    let chaos = ports.map(|ports| Chaos::new(parts.clone(), ports));
    Ok(Assembled { parts, transport, chaos })
}

/// Starts QUIC, with the faults between it and `events` if there may be any.
fn start_transport(
    quic: QuicConfig,
    events: Arc<LinkEvents>,
    ports: Option<&ChaosPorts>,
    runtime: Handle,
) -> Result<QuicTransport, polyraft_transport::StartError> {
    let events: Arc<dyn TransportEvents> = match ports {
        Some(ports) => ports.events(events),
        None => events,
    };
    QuicTransport::start(quic, events, runtime)
}

/// The faults outside of what a test puts around the journal.
fn wrap_log(inner: Arc<WrapLog>, ports: Option<ChaosPorts>) -> Arc<WrapLog> {
    match ports {
        Some(ports) => Arc::new(move |journal| ports.log(inner(journal))),
        None => inner,
    }
}

fn peers(config: &NodeConfig) -> Vec<NodeId> {
    let nodes = config.cluster().nodes().iter().map(|peer| peer.node);
    nodes.filter(|node| *node != config.node_id()).collect()
}

/// The journal that is open already, once; afterwards a new one over the same environment.
fn open_log(
    journal: Journal<LogTable>,
    options: JournalOptions,
    wrap: Arc<WrapLog>,
) -> Box<OpenLog> {
    let table = journal.table().clone();
    let first = Mutex::new(Some(journal));
    Box::new(move || {
        if let Some(journal) = first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(wrap(Box::new(journal)));
        }
        Ok(wrap(Box::new(Journal::open(table.clone(), options.clone())?)))
    })
}

fn storage_options(config: &NodeConfig) -> StorageOptions {
    let bytes = |bytes: u64| usize::try_from(bytes).expect("the config was validated");
    let storage = config.storage();
    let map = |max: u64| {
        let defaults = LmdbOptions::default();
        let map_bytes_max = bytes(max);
        LmdbOptions { map_bytes: defaults.map_bytes.min(map_bytes_max), map_bytes_max, ..defaults }
    };
    StorageOptions {
        log: map(storage.log_map_bytes),
        state: map(storage.state_map_bytes),
        journal: JournalOptions {
            journal_bytes_max: storage.journal_bytes_max,
            ..JournalOptions::default()
        },
        ..StorageOptions::default()
    }
}

fn settings(config: &NodeConfig) -> NodeSettings {
    let timing = config.cluster().effective_timing();
    let (limits, batching) = (config.limits(), config.batching());
    NodeSettings {
        tick: timing.tick,
        heartbeat_ticks: timing.heartbeat_ticks.into(),
        election_ticks: timing.election_ticks.into(),
        batch: BatchConfig {
            enabled: batching.enabled,
            commands_max: batching.commands_max,
            bytes_max: batching.bytes_max,
            linger: batching.linger,
            in_flight_max: batching.in_flight_max,
            queue_commands_max: batching.queue_commands_max,
            queue_bytes_max: batching.queue_bytes_max,
        },
        read_deadline: limits.proposal_deadline,
        retention: Retention {
            keep_entries: limits.catch_up_entries,
            keep_bytes: limits.catch_up_bytes,
            step_entries: (limits.catch_up_entries / 4).max(1),
        },
        tail_bytes_max: TAIL_BYTES_MAX,
        apply_in_flight_bytes_max: APPLY_IN_FLIGHT_BYTES_MAX,
        apply_backlog_bytes_max: APPLY_BACKLOG_BYTES_MAX,
        append_in_flight_bytes_max: APPEND_INFLIGHT_BYTES_MAX,
        outbox: OutboxLimits::default(),
        applier: ApplierConfig::default(),
        log_writer: LogWriterConfig::default(),
        state_flusher: StateFlusherConfig::default(),
        flush_interval: FLUSH_INTERVAL,
    }
}
