//! Observer: what is known of a node as a whole, exported once per second.
//!
//! ```text
//! published statuses, links, stores, process ─look→ gauges, and counters that others count
//! ```
//!
//! On a thread of its own: no proposal waits for it, and a disk that stands still stops nothing but the
//! figures of the disk. A scrape reads what the last look left. Ends with its node.
//! Not here: what is recorded where it happens (actors, storage).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::Counter;
use polyraft_actors::gauge_share::GaugeShare;
use polyraft_actors::log_writer::StoreKind;
use polyraft_actors::mailbox::{capacity, take_high_water};
use polyraft_actors::metric_catalogue::TURNING;
use polyraft_actors::node_parts::NodeParts;
use polyraft_core::ids::NodeId;
use polyraft_core::ports::{LinkStatus, LinkTraffic};
use polyraft_storage::lmdb::LmdbTable;
use polyraft_transport::{QuicTransport, Refusal};
use tokio::runtime::Handle;

use crate::config::NodeConfig;
use crate::group_figures::GroupGauges;
use crate::process_figures::ProcessFigures;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks over which a mailbox's high-water mark is the highest: longer than scrapes are apart.
const HIGH_WATER_LOOKS: usize = 30;

/// What a node's figures are read from.
pub(crate) struct Observed {
    pub(crate) parts: Arc<NodeParts>,
    pub(crate) transport: Arc<QuicTransport>,
    /// Of the log and of the state.
    pub(crate) tables: [LmdbTable; 2],
    /// Where the node was started from.
    pub(crate) runtime: Handle,
    pub(crate) config: NodeConfig,
}

/// The thread that looks; dropping it ends the thread after its present look.
pub(crate) struct Observer {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Observer {
    /// Starts looking.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(observed: Observed) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let name = "polyraft-observer".to_owned();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || Looks::new(observed).run(&stopped))?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread, and waits for it. Blocks.
    pub(crate) fn join(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the observer panicked");
        }
    }
}

/// A counter of something that others count.
struct Grown {
    counter: Counter,
    last: u64,
}

impl Grown {
    fn new(counter: Counter) -> Self {
        Self { counter, last: 0 }
    }

    fn to(&mut self, now: u64) {
        self.counter.increment(now.saturating_sub(self.last));
        self.last = now;
    }
}

struct Looks {
    observed: Observed,
    groups: GroupGauges,
    links: BTreeMap<NodeId, LinkFigures>,
    refusals: Vec<Grown>,
    stores: [StoreFigures; 2],
    /// Of each kind of [`TURNING`].
    high_water: [VecDeque<u64>; TURNING.len()],
}

impl Looks {
    fn new(observed: Observed) -> Self {
        let refusals = Refusal::ALL.iter().map(|why| {
            Grown::new(metrics::counter!(
                "polyraft_handshake_failures_total",
                "reason" => why.label()
            ))
        });
        let looks = Self {
            refusals: refusals.collect(),
            observed,
            groups: GroupGauges::new(),
            links: BTreeMap::new(),
            stores: [StoreKind::Log, StoreKind::State].map(StoreFigures::of),
            high_water: Default::default(),
        };
        looks.record_settings();
        looks
    }

    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            self.look();
            if stopped.recv_timeout(LOOK_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// What does not change while the node runs.
    fn record_settings(&self) {
        metrics::gauge!("polyraft_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let timing = self.observed.config.cluster().effective_timing();
        metrics::gauge!("polyraft_config_heartbeat_interval_seconds")
            .set(timing.heartbeat_interval);
        metrics::gauge!("polyraft_config_election_timeout_seconds").set(timing.election_timeout);
        for kind in TURNING {
            metrics::gauge!("polyraft_mailbox_capacity_messages", "actor" => kind.as_str())
                .set(capacity(kind) as f64);
        }
    }

    fn look(&mut self) {
        let groups = self.observed.parts.directory.groups();
        self.groups.record(&groups.iter().map(|(_, cell)| cell.status()).collect());
        self.look_at_links();
        self.look_at_mailboxes();
        self.look_at_runtime();
        if let Some(process) = ProcessFigures::read() {
            process.record();
        }
        let parts = &self.observed.parts;
        let age = parts.log_progress.in_commit_for(parts.clock.now()).unwrap_or_default();
        metrics::gauge!("polyraft_log_commit_age_seconds").set(age);
        // Last: they may wait for a disk.
        for (figures, table) in self.stores.iter_mut().zip(&self.observed.tables) {
            figures.look(table, &self.observed.config);
        }
    }

    fn look_at_links(&mut self) {
        let (parts, transport) = (&self.observed.parts, &self.observed.transport);
        for link in parts.transport.link_status() {
            let figures = self.links.entry(link.peer).or_insert_with(|| LinkFigures::of(link.peer));
            figures.record(&link);
        }
        for (grown, (_, count)) in self.refusals.iter_mut().zip(transport.handshake_failures()) {
            grown.to(count);
        }
        let identity = transport.identity();
        let ca = identity.authorities().iter().map(|authority| authority.not_after).min();
        for (certificate, seconds) in
            [("leaf", identity.leaf().not_after), ("ca", ca.expect("never empty"))]
        {
            metrics::gauge!(
                "polyraft_certificate_expiry_timestamp_seconds",
                "certificate" => certificate
            )
            .set(seconds as f64);
        }
    }

    fn look_at_mailboxes(&mut self) {
        for (kind, marks) in TURNING.into_iter().zip(&mut self.high_water) {
            marks.push_back(take_high_water(kind));
            if marks.len() > HIGH_WATER_LOOKS {
                marks.pop_front();
            }
            let highest = marks.iter().max().copied().unwrap_or(0);
            metrics::gauge!("polyraft_mailbox_high_water_messages", "actor" => kind.as_str())
                .set(highest as f64);
        }
    }

    fn look_at_runtime(&self) {
        let runtime = self.observed.runtime.metrics();
        metrics::gauge!("polyraft_runtime_workers").set(runtime.num_workers() as f64);
        metrics::gauge!("polyraft_runtime_alive_tasks").set(runtime.num_alive_tasks() as f64);
        metrics::gauge!("polyraft_runtime_queued_tasks").set(runtime.global_queue_depth() as f64);
    }
}

/// Where the figures of one link go.
struct LinkFigures {
    up: GaugeShare,
    peer: String,
    connects: Grown,
    sent_bytes: Grown,
    sent_frames: Grown,
    received_bytes: Grown,
    received_frames: Grown,
}

impl LinkFigures {
    fn of(peer: NodeId) -> Self {
        let peer = peer.to_string();
        let label = || [("peer", peer.clone())];
        Self {
            up: GaugeShare::new(metrics::gauge!("polyraft_link_up", &label())),
            connects: Grown::new(metrics::counter!("polyraft_link_connects_total", &label())),
            sent_bytes: Grown::new(metrics::counter!("polyraft_link_sent_bytes_total", &label())),
            sent_frames: Grown::new(metrics::counter!("polyraft_link_sent_frames_total", &label())),
            received_bytes: Grown::new(metrics::counter!(
                "polyraft_link_received_bytes_total",
                &label()
            )),
            received_frames: Grown::new(metrics::counter!(
                "polyraft_link_received_frames_total",
                &label()
            )),
            peer,
        }
    }

    fn record(&mut self, link: &LinkStatus) {
        let LinkTraffic { frames_out, bytes_out, frames_in, bytes_in } = link.traffic;
        self.up.set(u64::from(link.connected));
        self.connects.to(link.connects);
        self.sent_bytes.to(bytes_out);
        self.sent_frames.to(frames_out);
        self.received_bytes.to(bytes_in);
        self.received_frames.to(frames_in);
        let round_trip = Duration::from_micros(link.round_trip_us.unwrap_or(0));
        metrics::gauge!("polyraft_link_round_trip_seconds", "peer" => self.peer.clone())
            .set(round_trip);
    }
}

/// Where the figures of one store's files go.
struct StoreFigures {
    store: StoreKind,
    file_bytes: GaugeShare,
    used_bytes: GaugeShare,
    map_bytes: GaugeShare,
    map_limit_bytes: GaugeShare,
}

impl StoreFigures {
    fn of(store: StoreKind) -> Self {
        let label = || [("store", store.as_str())];
        let share = GaugeShare::new;
        Self {
            store,
            file_bytes: share(metrics::gauge!("polyraft_storage_file_bytes", &label())),
            used_bytes: share(metrics::gauge!("polyraft_storage_used_bytes", &label())),
            map_bytes: share(metrics::gauge!("polyraft_storage_map_bytes", &label())),
            map_limit_bytes: share(metrics::gauge!("polyraft_storage_map_limit_bytes", &label())),
        }
    }

    fn look(&mut self, table: &LmdbTable, config: &NodeConfig) {
        let storage = config.storage();
        self.map_limit_bytes.set(match self.store {
            StoreKind::Log => storage.log_map_bytes,
            StoreKind::State => storage.state_map_bytes,
        });
        self.map_bytes.set(table.map_bytes() as u64);
        // What cannot be asked keeps its last figure; the store itself says why.
        if let Ok(bytes) = table.file_bytes() {
            self.file_bytes.set(bytes);
        }
        if let Ok(bytes) = table.used_bytes() {
            self.used_bytes.set(bytes);
        }
    }
}
