//! Link events: what arrives from peers, to the actors concerned.
//!
//! ```text
//! Transport ─frame→ decode ─→ PeerMessages → Group
//!              │           └→ Forwarded, ForwardOutcome → Batcher
//!              └ writable, connected, disconnected → PeerLink
//! ```
//!
//! This is no actor: it runs on the transport's threads, so that a message reaches its group without
//! a stop on the way. It keeps no state but when heartbeats were last seen.
//!
//! Promise: order within (peer, group, lane) is kept. A group whose mailbox is full loses messages,
//! as a network may, and Raft repeats them; a proposal that finds its batcher full, or its group
//! between two lives, is answered at once: nobody waits for what nobody has.
//! Not here: who the sender is (`polyraft-transport` has authenticated it), and whether a message is
//! acceptable (`polyraft_core::validate`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use metrics::Histogram;
use polyraft_core::error::ProposeError;
use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::log_tally::LogTally;
use polyraft_core::message::{Body, Envelope, Forward, ForwardReply};
use polyraft_core::ports::{Lane, TransportEvents};
use polyraft_core::time::Moment;
use polyraft_core::wire;

use crate::batcher::{ForwardOutcome, Forwarded};
use crate::clock::Clock;
use crate::directory::{Directory, GroupCell};
use crate::group::PeerMessages;
use crate::mailbox::{ActorKind, Offer, deliver_fact, offer};
use crate::peer_link::{Connection, SendEnvelopes, Writable};
use crate::proposal_trace::TracedUnit;

/// Receives what the transport has for this node.
pub struct LinkEvents {
    node: NodeId,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    heartbeats_seen: Mutex<BTreeMap<NodeId, SeenBeats>>,
    refused: LogTally,
}

impl LinkEvents {
    /// Events of `node`, for the groups and links in `directory`.
    pub fn new(node: NodeId, directory: Arc<Directory>, clock: Arc<dyn Clock>) -> Self {
        Self {
            node,
            directory,
            clock,
            heartbeats_seen: Mutex::default(),
            refused: LogTally::default(),
        }
    }

    fn receive(&self, from: NodeId, frame: Bytes) {
        let envelopes = match wire::decode_frame(frame, self.node) {
            Ok(envelopes) => envelopes,
            Err(error) => {
                metrics::counter!("polyraft_link_refused_frames_total").increment(1);
                if let Some(since_last_line) = self.refused.add(self.clock.now()) {
                    tracing::warn!(peer = %from, %error, since_last_line, "frame refused");
                }
                return;
            }
        };
        self.observe_heartbeats(from, &envelopes);
        let mut raft: BTreeMap<GroupId, Vec<Envelope>> = BTreeMap::new();
        let mut answers = Vec::new();
        for envelope in envelopes {
            match envelope.body {
                Body::Raft(_) => raft.entry(envelope.group).or_default().push(envelope),
                _ => answers.extend(self.deliver_request(from, envelope)),
            }
        }
        for (group, envelopes) in raft {
            answers.extend(self.deliver(from, group, envelopes));
        }
        self.answer(from, answers);
    }

    /// Hands Raft messages to their group, or says that there is no such group here.
    fn deliver(&self, from: NodeId, group: GroupId, envelopes: Vec<Envelope>) -> Option<Envelope> {
        let Some(cell) = self.directory.group(group) else {
            return envelopes.first().map(|first| reply(first, from, Body::UnknownGroup));
        };
        let addrs = cell.addrs()?; // Restarting: Raft repeats what was sent.
        let _ = offer(&addrs.group, ActorKind::Group, PeerMessages { from, envelopes });
        None
    }

    fn deliver_request(&self, from: NodeId, envelope: Envelope) -> Option<Envelope> {
        let Some(cell) = self.directory.group(envelope.group) else {
            let asked = !matches!(envelope.body, Body::UnknownGroup);
            return asked.then(|| reply(&envelope, from, Body::UnknownGroup));
        };
        match &envelope.body {
            Body::Forward(forward) => self.deliver_forward(from, &cell, &envelope, forward),
            Body::ForwardReply(ForwardReply { request_id, results }) => {
                let addrs = cell.addrs()?; // Those who asked died with their batcher.
                for outcome in results.iter().cloned() {
                    let message = ForwardOutcome { request_id: *request_id, outcome };
                    let _ = offer(&addrs.batcher, ActorKind::Batcher, message);
                }
                None
            }
            Body::UnknownGroup => {
                metrics::counter!("polyraft_link_unknown_group_total").increment(1);
                tracing::debug!(peer = %from, group = %envelope.group, "peer lacks the group");
                None
            }
            Body::Raft(_) => unreachable!("Raft messages go through `deliver`"),
        }
    }

    /// Hands a proposal to its batcher, or says why nothing was proposed. A group without actors
    /// leads nothing, and is asked again once it does.
    fn deliver_forward(
        &self,
        from: NodeId,
        cell: &GroupCell,
        envelope: &Envelope,
        forward: &Forward,
    ) -> Option<Envelope> {
        let group = envelope.group;
        let offered = cell.addrs().map_or(Offer::Closed, |addrs| {
            let message = Forwarded {
                peer: from,
                from: envelope.from,
                forward: forward.clone(),
                trace: forward.trace.map(|trace| TracedUnit::new(trace, self.clock.now())),
            };
            offer(&addrs.batcher, ActorKind::Batcher, message)
        });
        let refusal = match offered {
            Offer::Queued => return None,
            Offer::Dropped => ProposeError::Overloaded { group, what: "the leader's batcher" },
            Offer::Closed => {
                ProposeError::NotLeader { group, term: cell.status().term, leader: None }
            }
        };
        let results = vec![Err(refusal); forward.units.len()];
        let body = ForwardReply { request_id: forward.request_id, results };
        Some(reply(envelope, from, Body::ForwardReply(body)))
    }

    fn answer(&self, to: NodeId, envelopes: Vec<Envelope>) {
        if let Some(link) = self.directory.link(to).filter(|_| !envelopes.is_empty()) {
            let _ = offer(&link, ActorKind::PeerLink, SendEnvelopes { envelopes });
        }
    }

    /// The interval at which a peer's heartbeats arrive, for all its groups together. Those that confirm
    /// a read count: while reads wait there are no others.
    fn observe_heartbeats(&self, from: NodeId, envelopes: &[Envelope]) {
        if !envelopes.iter().any(|envelope| envelope.body.is_heartbeat()) {
            return;
        }
        let now = self.clock.now();
        let mut seen = self.heartbeats_seen.lock().unwrap_or_else(PoisonError::into_inner);
        let beats = seen.entry(from).or_insert_with(|| SeenBeats {
            last: now,
            interval: metrics::histogram!(
                "polyraft_heartbeat_interval_seconds",
                "peer" => from.to_string()
            ),
        });
        let before = std::mem::replace(&mut beats.last, now);
        if before < now {
            beats.interval.record(now.since(before));
        }
    }
}

/// The heartbeats of one peer.
struct SeenBeats {
    last: Moment,
    interval: Histogram,
}

/// An envelope back to the sender of `about`.
fn reply(about: &Envelope, to_node: NodeId, body: Body) -> Envelope {
    Envelope { group: about.group, from: about.to, to: about.from, to_node, body }
}

impl TransportEvents for LinkEvents {
    fn on_frame(&self, from: NodeId, _: Lane, frame: Bytes) -> Result<(), Bytes> {
        self.receive(from, frame);
        Ok(())
    }

    fn on_writable(&self, peer: NodeId, lane: Lane) {
        if let Some(link) = self.directory.link(peer) {
            deliver_fact(&link, Writable(lane));
        }
    }

    fn on_connected(&self, peer: NodeId) {
        if let Some(link) = self.directory.link(peer) {
            deliver_fact(&link, Connection { up: true });
        }
    }

    fn on_disconnected(&self, peer: NodeId) {
        if let Some(link) = self.directory.link(peer) {
            deliver_fact(&link, Connection { up: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use polyraft_core::entry::Configuration;
    use polyraft_core::ids::{ReplicaId, Term};
    use polyraft_core::ports::GroupIdentity;

    use super::*;
    use crate::clock::VirtualClock;
    use crate::group_life::initial_status;
    use crate::testing::unit;

    const GROUP: GroupId = GroupId::new(1);
    const PEER: NodeId = NodeId::new(2);

    /// A node with one group, which is between two lives.
    fn restarting() -> LinkEvents {
        let directory = Arc::new(Directory::default());
        let identity = GroupIdentity { name: "g".into(), replica: ReplicaId::new(101) };
        let status = initial_status(GROUP, &identity, Configuration::default());
        directory.insert_group(GROUP, status);
        LinkEvents::new(NodeId::new(1), directory, Arc::new(VirtualClock::start(0)))
    }

    fn from_peer(body: Body) -> Envelope {
        let (from, to) = (ReplicaId::new(102), ReplicaId::new(101));
        Envelope { group: GROUP, from, to, to_node: NodeId::new(1), body }
    }

    #[test]
    fn a_proposal_for_a_group_between_two_lives_is_refused_at_once() {
        let units = vec![unit(false, &["a"]), unit(false, &["b"])];
        let timeout = Duration::from_secs(1);
        let forward = Forward { request_id: 7, units, timeout, trace: None };
        let answer = restarting().deliver_request(PEER, from_peer(Body::Forward(forward)));
        let refused =
            Err(ProposeError::NotLeader { group: GROUP, term: Term::default(), leader: None });
        let results = vec![refused.clone(), refused];
        let expected = Envelope {
            group: GROUP,
            from: ReplicaId::new(101),
            to: ReplicaId::new(102),
            to_node: PEER,
            body: Body::ForwardReply(ForwardReply { request_id: 7, results }),
        };
        assert_eq!(answer, Some(expected));
    }

    #[test]
    fn an_answer_whose_asker_is_gone_is_answered_by_nothing() {
        let answer = Body::ForwardReply(ForwardReply { request_id: 7, results: Vec::new() });
        assert_eq!(restarting().deliver_request(PEER, from_peer(answer)), None);
    }
}
