//! Peer link: everything that leaves this node for one peer, for all groups.
//!
//! ```text
//! groups, batchers ─SendEnvelopes→ [outbox] ─frames→ Transport
//! Tick ─HeartbeatInterval→ one frame with the heartbeats of all groups (TK-5)
//! ```
//!
//! Promise: sending never blocks a group; what cannot be sent is dropped, counted, and reported to
//! the groups concerned as unreachable (TR-4). Order within (group, lane) is kept.
//! Not here: what arrives (`link_events`), connections and identity (`polyraft-transport`), merging
//! (`polyraft_core::outbox`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use metrics::Histogram;
use polyraft_core::error::ProposeError;
use polyraft_core::ids::{GroupId, NodeId, Term};
use polyraft_core::message::{Body, Envelope};
use polyraft_core::outbox::{Outbox, OutboxLimits};
use polyraft_core::ports::{Lane, SendError, Transport};
use polyraft_core::time::Moment;

use crate::batcher::{ForwardOutcome, ForwardsLost};
use crate::clock::Clock;
use crate::directory::{Directory, GroupAddrs};
use crate::gauge_share::GaugeShare;
use crate::group::PeerUnreachable;
use crate::guard::{DownGuard, killable};
use crate::mailbox::{ActorKind, Offer, Turn, messages, offer};
use crate::tick::HeartbeatInterval;

messages!(SendEnvelopes, Writable, Connection, Flush, ReleaseHeartbeats);

/// Command from groups and batchers: send these to the peer. Offered; dropped when the mailbox is
/// full, and the sender reports the peer unreachable.
#[derive(Debug)]
pub struct SendEnvelopes {
    /// The messages, in order.
    pub envelopes: Vec<Envelope>,
}

/// Fact from the transport: a full lane has room again.
#[derive(Debug)]
pub(crate) struct Writable(pub(crate) Lane);

/// Fact from the transport: the connection is up, or gone.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) up: bool,
}

/// To itself: send what is queued, behind everything that is already in the mailbox.
struct Flush;

/// To itself: the heartbeats of this interval have had time to arrive.
struct ReleaseHeartbeats;

/// From an interval's boundary to its frame. The tick tells groups and links at once, on different
/// threads: without it, heartbeats that lose that race would wait for a whole interval.
const HEARTBEAT_GATHER: Duration = Duration::from_millis(5);

/// The actor.
pub struct PeerLink {
    peer: NodeId,
    outbox: Outbox,
    transport: Arc<dyn Transport>,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    /// Lanes that are full, each with the frame that it gave back.
    blocked: BTreeMap<Lane, Bytes>,
    connected: bool,
    flush_notified: bool,
    /// An interval has passed for which no heartbeat has arrived yet.
    heartbeats_due: bool,
    /// When the last frame with heartbeats was handed to the transport.
    beaten: Option<Moment>,
    figures: Figures,
    turn: Turn,
    _guard: DownGuard,
}

/// Where a link's figures go.
struct Figures {
    beat_interval: Histogram,
    queue_bytes: GaugeShare,
}

impl Figures {
    fn of(peer: NodeId) -> Self {
        let peer = peer.to_string();
        // There from the start, though a peer that leads nothing sends none.
        drop(metrics::histogram!("polyraft_heartbeat_interval_seconds", "peer" => peer.clone()));
        Self {
            beat_interval: metrics::histogram!(
                "polyraft_heartbeat_sent_interval_seconds",
                "peer" => peer.clone()
            ),
            queue_bytes: GaugeShare::new(
                metrics::gauge!("polyraft_link_queue_bytes", "peer" => peer),
            ),
        }
    }
}

impl PeerLink {
    /// A link to `peer`.
    pub fn new(
        peer: NodeId,
        limits: OutboxLimits,
        transport: Arc<dyn Transport>,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
        guard: DownGuard,
    ) -> Self {
        let links = transport.link_status();
        let connected = links.iter().any(|link| link.peer == peer && link.connected);
        Self {
            peer,
            outbox: Outbox::new(limits),
            transport,
            directory,
            clock,
            blocked: BTreeMap::new(),
            connected,
            flush_notified: false,
            heartbeats_due: false,
            beaten: None,
            figures: Figures::of(peer),
            turn: Turn::of(ActorKind::PeerLink),
            _guard: guard,
        }
    }

    fn touched(&mut self, ctx: &mut Context<Self>) {
        self.turn.message();
        if !self.flush_notified {
            self.flush_notified = true;
            ctx.notify(Flush);
        }
    }

    fn queue(&mut self, envelopes: Vec<Envelope>) {
        let mut unreachable = BTreeSet::new();
        for envelope in envelopes {
            let group = envelope.group;
            if !self.connected && self.refuse_forward(&envelope) {
                continue;
            }
            if self.outbox.push(envelope).is_err() {
                metrics::counter!("polyraft_link_dropped_total", "reason" => "outbox").increment(1);
                unreachable.insert(group);
            }
        }
        self.report_unreachable(unreachable);
    }

    /// A proposal that cannot leave goes back to its batcher, which knows then that it was not
    /// proposed.
    fn refuse_forward(&self, envelope: &Envelope) -> bool {
        let Body::Forward(forward) = &envelope.body else { return false };
        let group = envelope.group;
        let addrs = self.directory.group(group).and_then(|cell| cell.addrs());
        let request_id = forward.request_id;
        let outcome = Err(ProposeError::NotLeader { group, term: Term::default(), leader: None });
        addrs.is_some_and(|addrs| {
            let message = ForwardOutcome { request_id, outcome };
            offer(&addrs.batcher, ActorKind::Batcher, message) == Offer::Queued
        })
    }

    fn flush(&mut self) {
        for lane in Lane::ALL {
            while !self.blocked.contains_key(&lane) {
                let beats = self.outbox.stats().heartbeat_frames;
                let Some(frame) = self.outbox.next_frame(lane) else { break };
                self.send(lane, frame);
                if self.outbox.stats().heartbeat_frames > beats {
                    self.observe_beat();
                }
            }
        }
        let waiting = self.outbox.stats().lanes.iter().map(|lane| lane.queued_bytes as u64).sum();
        self.figures.queue_bytes.set(waiting);
    }

    /// The interval at which heartbeats leave for the peer, those of all groups together.
    fn observe_beat(&mut self) {
        let now = self.clock.now();
        if let Some(before) = self.beaten.replace(now) {
            self.figures.beat_interval.record(now.since(before));
        }
    }

    fn send(&mut self, lane: Lane, frame: Bytes) {
        let bytes = frame.len();
        match self.transport.try_send(self.peer, lane, frame.clone()) {
            Ok(()) => {
                self.connected = true;
                metrics::counter!("polyraft_link_frames_total", "lane" => lane.as_str())
                    .increment(1);
                metrics::histogram!("polyraft_link_frame_bytes").record(bytes as f64);
            }
            Err(SendError::Full) => {
                self.blocked.insert(lane, frame);
            }
            Err(_) => {
                self.connected = false;
                metrics::counter!("polyraft_link_dropped_total", "reason" => "disconnected")
                    .increment(1);
                // The groups were told when the connection went; Raft repeats what matters.
            }
        }
    }

    fn report_unreachable(&self, groups: impl IntoIterator<Item = GroupId>) {
        let node = self.peer;
        for group in groups {
            if let Some(addrs) = self.directory.group(group).and_then(|cell| cell.addrs()) {
                let _ = offer(&addrs.group, ActorKind::Group, PeerUnreachable { node });
            }
        }
    }

    fn for_each_group(&self, mut visit: impl FnMut(&GroupAddrs)) {
        for (_, cell) in self.directory.groups() {
            if let Some(addrs) = cell.addrs() {
                visit(&addrs);
            }
        }
    }
}

impl Actor for PeerLink {
    type Context = Context<Self>;
}

killable!(PeerLink);

impl Handler<SendEnvelopes> for PeerLink {
    type Result = ();

    fn handle(&mut self, message: SendEnvelopes, ctx: &mut Self::Context) {
        self.queue(message.envelopes);
        if self.heartbeats_due && self.outbox.stats().heartbeats_held > 0 {
            self.heartbeats_due = false;
            ctx.notify_later(ReleaseHeartbeats, HEARTBEAT_GATHER);
        }
        self.touched(ctx);
    }
}

impl Handler<HeartbeatInterval> for PeerLink {
    type Result = ();

    fn handle(&mut self, _: HeartbeatInterval, ctx: &mut Self::Context) {
        ctx.notify_later(ReleaseHeartbeats, HEARTBEAT_GATHER);
    }
}

impl Handler<ReleaseHeartbeats> for PeerLink {
    type Result = ();

    fn handle(&mut self, _: ReleaseHeartbeats, ctx: &mut Self::Context) {
        self.heartbeats_due = self.outbox.stats().heartbeats_held == 0;
        self.outbox.release_heartbeats();
        self.touched(ctx);
    }
}

impl Handler<Writable> for PeerLink {
    type Result = ();

    fn handle(&mut self, Writable(lane): Writable, ctx: &mut Self::Context) {
        if let Some(frame) = self.blocked.remove(&lane) {
            self.send(lane, frame);
        }
        self.touched(ctx);
    }
}

impl Handler<Connection> for PeerLink {
    type Result = ();

    fn handle(&mut self, Connection { up }: Connection, ctx: &mut Self::Context) {
        self.blocked.clear();
        self.connected = up;
        if up {
            return self.touched(ctx);
        }
        let (node, peer) = (self.peer, self.peer);
        self.for_each_group(|addrs| {
            let _ = offer(&addrs.group, ActorKind::Group, PeerUnreachable { node });
            let _ = offer(&addrs.batcher, ActorKind::Batcher, ForwardsLost { peer });
        });
    }
}

impl Handler<Flush> for PeerLink {
    type Result = ();

    fn handle(&mut self, _: Flush, _: &mut Self::Context) {
        self.flush_notified = false;
        self.turn.end();
        self.flush();
    }
}
