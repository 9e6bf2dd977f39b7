//! The set of peers, and for each the place where its connection is found.
//!
//! ```text
//! try_send → Peers ─node→ Link ─live→ lane queues of the connection in use
//! ```
//!
//! A link's `live` is written by its peer task alone (`peer_task.rs`); everyone else reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use polyraft_core::ids::NodeId;
use polyraft_core::ports::{CertificateFacts, Lane, LinkCertificates, LinkStatus};
use quinn::Connection;
use tokio::sync::{mpsc, watch};

use super::beats::Beats;
use super::certificate_facts::facts;
use super::establish::Candidate;
use super::tls::peer_chain;
use super::wire_version::WireVersion;
use crate::lane_queue::LaneQueue;
use crate::traffic::Traffic;

/// Connections that may wait for a peer task's verdict.
pub(super) const CANDIDATES_MAX: usize = 4;

/// Every peer by node.
#[derive(Debug, Default)]
pub(super) struct Peers {
    links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
}

impl Peers {
    pub(super) fn get(&self, node: NodeId) -> Option<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// Every link, ascending by node.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Changes the set as a whole.
    pub(super) fn change<T>(&self, f: impl FnOnce(&mut BTreeMap<NodeId, Arc<Link>>) -> T) -> T {
        f(&mut self.links.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a peer task is told; only the latest counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Orders {
    /// `host:port`, resolved on every dial.
    pub(super) address: String,
    /// The peer was removed, or this node stops.
    pub(super) stop: bool,
    /// Raised when other certificates came into force.
    pub(super) reload: u64,
}

/// One peer as seen from outside its task.
pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) orders: watch::Sender<Orders>,
    pub(super) candidates: mpsc::Sender<Candidate>,
    pub(super) live: watch::Sender<Option<Arc<Live>>>,
    pub(super) traffic: Arc<Traffic>,
    connects: AtomicU64,
    takeovers: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The connection in use.
pub(super) struct Live {
    pub(super) connection: Connection,
    pub(super) version: WireVersion,
    pub(super) queues: [Arc<LaneQueue>; Lane::ALL.len()],
    pub(super) beats: Beats,
    /// This node's round of certificates that it was made in.
    pub(super) round: u64,
    /// What the peer's certificate says.
    peer: Option<CertificateFacts>,
}

impl Live {
    pub(super) fn new(connection: Connection, version: WireVersion, round: u64) -> Self {
        let queues = std::array::from_fn(|_| Arc::default());
        // It was judged already: whoever is here has one that can be read.
        let peer = peer_chain(&connection).and_then(|chain| facts(chain.first()?).ok());
        Self { connection, version, queues, beats: Beats::new(), round, peer }
    }

    fn certificates(&self, own_round: u64) -> Option<LinkCertificates> {
        let own_is_current = self.round == own_round;
        self.peer.clone().map(|peer| LinkCertificates { own_is_current, peer })
    }
}

impl Link {
    /// A link and the receiving end of its candidates.
    pub(super) fn new(peer: NodeId, address: String) -> (Arc<Self>, mpsc::Receiver<Candidate>) {
        let (candidates, inbox) = mpsc::channel(CANDIDATES_MAX);
        let link = Self {
            peer,
            orders: watch::Sender::new(Orders { address, stop: false, reload: 0 }),
            candidates,
            live: watch::Sender::new(None),
            traffic: Arc::default(),
            connects: AtomicU64::new(0),
            takeovers: AtomicU64::new(0),
            last_error: Mutex::new(None),
        };
        (Arc::new(link), inbox)
    }

    pub(super) fn stop(&self) {
        self.orders.send_modify(|orders| orders.stop = true);
    }

    pub(super) fn set_address(&self, address: &str) {
        self.orders.send_if_modified(|orders| {
            let moved = orders.address != address;
            if moved {
                address.clone_into(&mut orders.address);
            }
            moved
        });
    }

    pub(super) fn came_up(&self, live: Arc<Live>) {
        let was_up = self.live.send_replace(Some(live)).is_some();
        let count = if was_up { &self.takeovers } else { &self.connects };
        count.fetch_add(1, Relaxed);
    }

    pub(super) fn went_down(&self) {
        self.live.send_replace(None);
    }

    pub(super) fn set_error(&self, error: String) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// As of now, when this node's own certificate is of `own_round`.
    pub(super) fn status(&self, own_round: u64) -> LinkStatus {
        let live = self.live.borrow().clone();
        let connection = live.as_ref().map(|live| &live.connection);
        LinkStatus {
            peer: self.peer,
            address: self.orders.borrow().address.clone(),
            connected: connection.is_some(),
            remote: connection.map(Connection::remote_address),
            round_trip_us: connection
                .map(|connection| u64::try_from(connection.rtt().as_micros()).unwrap_or(u64::MAX)),
            traffic: self.traffic.snapshot(),
            certificates: live.as_ref().and_then(|live| live.certificates(own_round)),
            connects: self.connects.load(Relaxed),
            takeovers: self.takeovers.load(Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
