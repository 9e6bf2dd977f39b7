//! Event watch: looks at a node twice a second, and notes what has changed in its log.
//!
//! ```text
//! every group's events ┐
//! links, refusals      ├─look→ EventLog
//! injected faults      ┘
//! ```
//!
//! Looking costs the same whatever happens, and nobody who makes events waits for it: groups tell their
//! events to a bounded channel each, and what overruns it is counted.
//! Not here: what is remembered, and for how long ([`crate::event_log`]).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use polyraft::chaos::{FaultId, FaultRecord};
use polyraft::{GroupEvent, GroupId, LinkStatus, Node, NodeId};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use crate::event_log::{EventKind, EventLog, Happening};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Notes what happens on `node` until `stopped`.
pub async fn run(node: Node, log: EventLog, stopped: impl Future<Output = ()>) {
    let mut watch = EventWatch::new(node);
    let mut stopped = pin!(stopped);
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = &mut stopped => return,
        }
        let now = unix_ms();
        watch.look().into_iter().for_each(|happening| log.note(now, happening));
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A node, and what was seen of it at the last look.
struct EventWatch {
    node: Node,
    groups: BTreeMap<GroupId, Receiver<GroupEvent>>,
    links: BTreeMap<NodeId, LinkStatus>,
    refusals: BTreeMap<&'static str, u64>,
    /// Whether each fault had ended.
    faults: BTreeMap<FaultId, bool>,
    storage_failed: bool,
}

impl EventWatch {
    /// What happens from now on.
    fn new(node: Node) -> Self {
        let groups = node.groups().iter().map(|group| (group.id(), group.subscribe())).collect();
        let (links, refusals, faults) = Default::default();
        Self { node, groups, links, refusals, faults, storage_failed: false }
    }

    fn look(&mut self) -> Vec<Happening> {
        let mut seen = Vec::new();
        self.look_at_faults(&mut seen);
        self.look_at_node(&mut seen);
        self.look_at_groups(&mut seen);
        seen
    }

    fn look_at_groups(&mut self, seen: &mut Vec<Happening>) {
        let own = self.node.id();
        for group in self.node.groups() {
            let events = self.groups.entry(group.id()).or_insert_with(|| group.subscribe());
            loop {
                let told = match events.try_recv() {
                    Ok(event) => tell_group_event(own, &event),
                    Err(TryRecvError::Lagged(missed)) => {
                        Some((EventKind::EventsMissed, format!("{missed} events were missed")))
                    }
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                };
                seen.extend(told.map(|(kind, text)| Happening {
                    kind,
                    group: Some(group.id().get()),
                    peer: None,
                    text: format!("{}: {text}", group.name()),
                }));
            }
        }
    }

    fn look_at_node(&mut self, seen: &mut Vec<Happening>) {
        for link in self.node.links() {
            let told = tell_link(self.links.get(&link.peer), &link);
            let peer = Some(link.peer.get());
            seen.extend(told.into_iter().map(|(kind, text)| Happening {
                kind,
                group: None,
                peer,
                text,
            }));
            self.links.insert(link.peer, link);
        }
        let of_node = |kind, text| Happening { kind, group: None, peer: None, text };
        for (reason, count) in self.node.handshake_failures() {
            let before = self.refusals.insert(reason, count).unwrap_or(0);
            if count > before {
                let text = format!("{} connections refused: {reason}", count - before);
                seen.push(of_node(EventKind::LinkRefused, text));
            }
        }
        if !self.storage_failed
            && let Some(failure) = self.node.storage_failure()
        {
            self.storage_failed = true;
            seen.push(of_node(EventKind::StorageFailed, failure));
        }
    }

    fn look_at_faults(&mut self, seen: &mut Vec<Happening>) {
        let Some(chaos) = self.node.chaos() else { return };
        let records = chaos.faults();
        for record in &records {
            let ended = record.ended_ms.is_some();
            let before = self.faults.insert(record.id, ended);
            seen.extend(tell_fault(before, record));
        }
        self.faults.retain(|id, _| records.iter().any(|record| record.id == *id));
    }
}

/// What is worth a row of a group's event, as `own` sees it. That a replica follows is told by who leads.
fn tell_group_event(own: NodeId, event: &GroupEvent) -> Option<(EventKind, String)> {
    Some(match event {
        GroupEvent::BecameLeader { term } => {
            (EventKind::BecameLeader, format!("led from here in term {term}"))
        }
        GroupEvent::LeaderChanged { leader: Some(leader), .. } if *leader == own => return None,
        GroupEvent::LeaderChanged { term, leader: Some(leader) } => {
            (EventKind::LeaderChanged, format!("led by node {leader} in term {term}"))
        }
        GroupEvent::LeaderChanged { term, leader: None } => {
            (EventKind::LeaderLost, format!("no leader is known in term {term}"))
        }
        GroupEvent::ConfChanged { configuration } => {
            (EventKind::ConfChanged, format!("{} voters", configuration.voters.len()))
        }
        GroupEvent::ActorRestarted { actor, lives } => {
            (EventKind::ActorRestarted, format!("{actor} died; life {lives} has begun"))
        }
        GroupEvent::GroupFaulted { reason } => (EventKind::GroupFaulted, reason.clone()),
        _ => return None,
    })
}

/// What has become of a link since `before`.
fn tell_link(before: Option<&LinkStatus>, now: &LinkStatus) -> Vec<(EventKind, String)> {
    let was_up = before.is_some_and(|link| link.connected);
    let connects = now.connects - before.map_or(0, |link| link.connects);
    let up = || (EventKind::LinkUp, format!("connected to node {} at {}", now.peer, now.address));
    let why = now.last_error.as_deref();
    let lost = || {
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        (EventKind::LinkLost, format!("lost the connection to node {}{why}", now.peer))
    };
    match (was_up, now.connected) {
        (false, true) => vec![up()],
        (true, true) if connects > 0 => vec![lost(), up()],
        (true, false) => vec![lost()],
        // It was up between two looks.
        (false, false) if connects > 0 => vec![up(), lost()],
        (false, false) if why != before.and_then(|link| link.last_error.as_deref()) => {
            let why = why.unwrap_or("unknown");
            vec![(EventKind::LinkRefused, format!("no connection to node {}: {why}", now.peer))]
        }
        _ => Vec::new(),
    }
}

/// What has become of a fault that was seen `before`, ended or not.
fn tell_fault(before: Option<bool>, record: &FaultRecord) -> Vec<Happening> {
    let fault = serde_json::to_value(&record.fault).unwrap_or_default();
    let number = |field: &str| fault.get(field).and_then(serde_json::Value::as_u64);
    let tell = |kind, what| Happening {
        kind,
        group: number("group"),
        peer: number("peer"),
        text: format!("fault {} {what}: {fault}", record.id),
    };
    let mut told = Vec::new();
    if before.is_none() {
        told.push(tell(EventKind::FaultInjected, "injected"));
    }
    // A kill is over at once, which is no news.
    if record.ended_ms.is_some() && before != Some(true) && record.fault.kind() != "kill_actor" {
        told.push(tell(EventKind::FaultEnded, "ended"));
    }
    told
}

#[cfg(test)]
mod tests {
    use polyraft::{LinkTraffic, Term};

    use super::*;

    fn link(connected: bool, connects: u64, last_error: Option<&str>) -> LinkStatus {
        LinkStatus {
            peer: NodeId::new(2),
            address: "b:1".into(),
            connected,
            remote: None,
            round_trip_us: None,
            certificates: None,
            traffic: LinkTraffic::default(),
            connects,
            takeovers: 0,
            last_error: last_error.map(str::to_owned),
        }
    }

    /// Goal: each change of a link is told once. Method: pairs of looks.
    #[test]
    fn a_link_is_told_of_when_it_changes() {
        let kinds = |before: Option<&LinkStatus>, now: &LinkStatus| {
            tell_link(before, now).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
        };
        let (down, up) = (link(false, 0, None), link(true, 1, None));
        let (refused, lost) = (link(false, 0, Some("no route")), link(false, 1, Some("timed out")));
        let cases = [
            (None, &down, vec![]),
            (None, &up, vec![EventKind::LinkUp]),
            (Some(&down), &refused, vec![EventKind::LinkRefused]),
            (Some(&refused), &refused, vec![]),
            (Some(&refused), &up, vec![EventKind::LinkUp]),
            (Some(&up), &up, vec![]),
            (Some(&up), &lost, vec![EventKind::LinkLost]),
            (Some(&up), &link(true, 2, None), vec![EventKind::LinkLost, EventKind::LinkUp]),
            (Some(&down), &lost, vec![EventKind::LinkUp, EventKind::LinkLost]),
        ];
        for (before, now, expected) in cases {
            assert_eq!(kinds(before, now), expected, "{before:?} {now:?}");
        }
        let text = &tell_link(Some(&up), &lost)[0].1;
        assert_eq!(text, "lost the connection to node 2: timed out");
    }

    #[test]
    fn who_leads_is_told_once() {
        let own = NodeId::new(1);
        let tell = |leader| {
            let event = GroupEvent::LeaderChanged { term: Term::new(3), leader };
            tell_group_event(own, &event).map(|(_, text)| text)
        };
        assert_eq!(tell(Some(own)), None, "that it leads is an event of its own");
        assert_eq!(tell(Some(NodeId::new(2))).as_deref(), Some("led by node 2 in term 3"));
        assert_eq!(tell(None).as_deref(), Some("no leader is known in term 3"));
    }

    #[test]
    fn a_fault_is_told_when_it_begins_and_when_it_ends() {
        let record = |fault: &str, ended: Option<u64>| FaultRecord {
            id: FaultId::new(7),
            fault: serde_json::from_str(fault).unwrap(),
            since_ms: 1,
            ended_ms: ended,
            effects: BTreeMap::new(),
        };
        let cut = r#"{"kind":"link","peer":2,"direction":"both","cut":true}"#;
        let told = tell_fault(None, &record(cut, None));
        assert_eq!((told.len(), told[0].kind), (1, EventKind::FaultInjected));
        assert_eq!((told[0].peer, told[0].group), (Some(2), None));
        assert!(told[0].text.starts_with("fault 7 injected: {"), "{}", told[0].text);
        assert_eq!(tell_fault(Some(false), &record(cut, None)), []);
        assert_eq!(tell_fault(Some(false), &record(cut, Some(2)))[0].kind, EventKind::FaultEnded);
        assert_eq!(tell_fault(Some(true), &record(cut, Some(2))), []);
        let kill = r#"{"kind":"kill_actor","actor":"applier","group":3,"mode":"stop"}"#;
        let told = tell_fault(None, &record(kill, Some(1)));
        assert_eq!((told.len(), told[0].group), (1, Some(3)));
    }
}
