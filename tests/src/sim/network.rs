//! A network that loses, repeats, delays and reorders, and can be cut in any direction.

use std::collections::{BTreeMap, BTreeSet};

use polyraft_core::ids::NodeId;
use polyraft_core::message::Envelope;

use super::Dice;

/// How bad a network is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Messages lost, in a thousand.
    pub lost: u64,
    /// Messages that arrive twice, in a thousand.
    pub repeated: u64,
    /// Longest delay, in ticks; messages overtake each other.
    pub delay_max: u64,
}

/// Messages under way, by the tick at which they arrive.
#[derive(Debug, Default)]
pub(super) struct Network {
    flights: BTreeMap<(u64, u64), (NodeId, Envelope)>,
    next_flight: u64,
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    /// Sends a message. Returns whether it goes out at all.
    pub fn send(
        &mut self,
        dice: &mut Dice,
        weather: Weather,
        now: u64,
        from: NodeId,
        envelope: Envelope,
    ) -> bool {
        if dice.per_mille(weather.lost) || self.cut.contains(&(from, envelope.to_node)) {
            return false;
        }
        if dice.per_mille(weather.repeated) {
            self.launch(now + dice.below(weather.delay_max + 1), from, envelope.clone());
        }
        self.launch(now + dice.below(weather.delay_max + 1), from, envelope);
        true
    }

    /// Brings a message to its addressee at `due`.
    pub fn launch(&mut self, due: u64, from: NodeId, envelope: Envelope) {
        self.next_flight += 1;
        self.flights.insert((due, self.next_flight), (from, envelope));
    }

    /// The next message that arrives by `now`.
    pub fn arrival(&mut self, now: u64) -> Option<(NodeId, Envelope)> {
        let first = self.flights.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Cuts one direction between two nodes.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// Heals every cut.
    pub fn heal(&mut self) {
        self.cut.clear();
    }
}
