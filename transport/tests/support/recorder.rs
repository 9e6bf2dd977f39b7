//! A receiver that records everything and can be told to be busy.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use polyraft_core::ids::NodeId;
use polyraft_core::ports::{Lane, TransportEvents};

/// What happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Connected(NodeId),
    Disconnected(NodeId),
    Frame(NodeId, Lane, Bytes),
    Writable(NodeId, Lane),
}

#[derive(Default)]
pub struct Recorder {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    busy: BTreeSet<Lane>,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.lock().events.iter().filter(|event| wanted(event)).count()
    }

    /// The frames of one lane, in order of arrival.
    pub fn frames(&self, from: NodeId, lane: Lane) -> Vec<Bytes> {
        let of_lane = |event: &Event| match event {
            Event::Frame(node, of, frame) if (*node, *of) == (from, lane) => Some(frame.clone()),
            _ => None,
        };
        self.lock().events.iter().filter_map(of_lane).collect()
    }

    /// Whether the last word on `peer` is that it is connected.
    pub fn connected(&self, peer: NodeId) -> bool {
        let word = |event: &Event| match event {
            Event::Connected(node) if *node == peer => Some(true),
            Event::Disconnected(node) if *node == peer => Some(false),
            _ => None,
        };
        self.lock().events.iter().rev().find_map(word).unwrap_or(false)
    }

    pub fn set_busy(&self, lane: Lane, busy: bool) {
        let mut state = self.lock();
        if busy {
            state.busy.insert(lane)
        } else {
            state.busy.remove(&lane)
        };
    }

    /// Checks what every transport promises about its events, whatever happened.
    pub fn assert_consistent(&self) {
        let mut up = BTreeSet::new();
        for event in &self.lock().events {
            match event {
                Event::Connected(peer) => assert!(up.insert(*peer), "{peer} connected twice"),
                Event::Disconnected(peer) => assert!(up.remove(peer), "{peer} was not connected"),
                Event::Frame(peer, ..) => assert!(up.contains(peer), "frame while disconnected"),
                Event::Writable(..) => {}
            }
        }
    }
}

impl TransportEvents for Recorder {
    fn on_frame(&self, from: NodeId, lane: Lane, frame: Bytes) -> Result<(), Bytes> {
        let mut state = self.lock();
        if state.busy.contains(&lane) {
            return Err(frame);
        }
        state.events.push(Event::Frame(from, lane, frame));
        Ok(())
    }

    fn on_writable(&self, peer: NodeId, lane: Lane) {
        self.lock().events.push(Event::Writable(peer, lane));
    }

    fn on_connected(&self, peer: NodeId) {
        self.lock().events.push(Event::Connected(peer));
    }

    fn on_disconnected(&self, peer: NodeId) {
        self.lock().events.push(Event::Disconnected(peer));
    }
}
