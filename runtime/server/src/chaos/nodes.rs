//! Where nodes are, and what they say: their admin interfaces, asked over and over.
//!
//! ```text
//! Poller ─/status→ every node, each at its own pace ─→ View (the newest of each) → victims, progress
//!                                                  └→ Sightings (all of them)   → verdict
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::sightings::Sightings;
use crate::admin_client::{Authorized, send};
use crate::report::NodeReport;

/// Between two questions to one node.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A node that stands still is asked again after this.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);
/// An answer older than this tells nothing about now.
const FRESH: Duration = Duration::from_secs(1);
/// For so long after an actor was killed, its groups may be rebuilt from what was durable.
const REBUILD_TIME: Duration = Duration::from_secs(3);

/// Where one node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct NodeAddresses {
    /// Its id.
    pub node: u64,
    /// The etcd API.
    pub client: SocketAddr,
    /// The admin interface.
    pub admin: SocketAddr,
}

/// What is known of the nodes now. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct View(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    newest: BTreeMap<u64, (Instant, NodeReport)>,
    sightings: Sightings,
    rebuilding: BTreeMap<u64, Instant>,
    lives: BTreeMap<u64, Arc<AtomicU64>>,
}

impl View {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of `node`'s life: what it applied may be forgotten between one and the next.
    fn life(&self, node: u64) -> Arc<AtomicU64> {
        self.lock().lives.entry(node).or_default().clone()
    }

    /// A new process of `node`.
    pub fn reborn(&self, node: u64) {
        self.life(node).fetch_add(1, Ordering::Relaxed);
        self.lock().newest.remove(&node);
    }

    /// An actor of `node` is about to die: groups are rebuilt from what is durable.
    pub fn rebuilding(&self, node: u64) {
        self.lock().rebuilding.insert(node, Instant::now() + REBUILD_TIME);
    }

    /// The nodes' newest reports, of those that answered within the last second.
    pub fn reports(&self) -> Vec<NodeReport> {
        let seen = self.lock();
        let fresh = seen.newest.values().filter(|(at, _)| at.elapsed() < FRESH);
        fresh.map(|(_, report)| report.clone()).collect()
    }

    /// Everything seen so far.
    pub fn sightings(&self) -> Sightings {
        self.lock().sightings.clone()
    }

    /// Takes in an answer to a question that was asked in `life`, at `asked`.
    fn add(&self, life: u64, asked: Instant, report: NodeReport) {
        let mut seen = self.lock();
        let is_rebuilding = seen.rebuilding.get(&report.node).is_some_and(|until| asked < *until);
        let lives = seen.lives.entry(report.node).or_default().clone();
        let now = if is_rebuilding { lives.fetch_add(1, Ordering::Relaxed) + 1 } else { life };
        if is_rebuilding || lives.load(Ordering::Relaxed) == life {
            seen.sightings.add(now, &report);
            seen.newest.insert(report.node, (Instant::now(), report));
        }
    }
}

/// Asks every node until dropped.
#[derive(Debug)]
pub struct Poller(#[allow(dead_code, reason = "ends its tasks when dropped")] JoinSet<()>);

impl Poller {
    /// Starts asking, on behalf of the bearer of `token`.
    pub fn start(nodes: &[NodeAddresses], view: &View, token: &str) -> Self {
        Self(nodes.iter().map(|node| poll(*node, view.clone(), token.to_owned())).collect())
    }
}

async fn poll(node: NodeAddresses, view: View, token: String) {
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let life = view.life(node.node);
    loop {
        interval.tick().await;
        let (asked, before) = (Instant::now(), life.load(Ordering::Relaxed));
        if let Ok(Some(report)) = timeout(POLL_TIMEOUT, report(node.admin, &token)).await {
            view.add(before, asked, report);
        }
    }
}

/// What the node at `admin` says of itself to the bearer of `token`, which is empty where looking
/// needs none; `None` if it does not answer.
pub async fn report(admin: SocketAddr, token: &str) -> Option<NodeReport> {
    let request = Authorized { method: "GET", path: "/status", token, body: "" };
    let body = send(&admin.to_string(), request).await.ok()?;
    serde_json::from_slice(&body).ok()
}

/// The group's leader: who claims the highest term.
pub fn leader_of(group: u64, reports: &[NodeReport]) -> Option<u64> {
    let claims = reports.iter().flat_map(|report| {
        let led = report.groups.iter().filter(|g| g.group == group && g.role == "leader");
        led.map(|group| (group.term, report.node))
    });
    claims.max().map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::GroupReport;

    fn report(node: u64, role: &str, term: u64, applied: u64) -> NodeReport {
        let group = GroupReport {
            group: 1,
            name: "default".into(),
            health: "healthy".into(),
            role: role.into(),
            term,
            leader: Some(node),
            commit: applied,
            applied,
            voters: 3,
        };
        NodeReport {
            node,
            cluster: "chaos".into(),
            storage_bytes: 0,
            storage_failure: None,
            certificates: None,
            refused: Default::default(),
            peers: vec![],
            groups: vec![group],
        }
    }

    #[test]
    fn a_cut_off_leader_is_not_the_leader() {
        let reports =
            [report(1, "leader", 4, 9), report(2, "leader", 5, 9), report(3, "follower", 5, 9)];
        assert_eq!(leader_of(1, &reports), Some(2));
        assert_eq!(leader_of(2, &reports), None);
    }

    #[test]
    fn an_answer_of_an_earlier_process_is_not_taken_for_the_new_ones() {
        let view = View::default();
        let now = Instant::now();
        view.add(0, now, report(1, "follower", 1, 9));
        view.reborn(1);
        view.add(0, now, report(1, "follower", 1, 11));
        view.add(1, now, report(1, "follower", 1, 3));
        assert!(view.sightings().violations().is_empty());
        view.add(1, now, report(1, "follower", 1, 2));
        assert_eq!(view.sightings().violations().len(), 1);
        // While groups are rebuilt, nothing can be said.
        view.rebuilding(1);
        view.add(1, now, report(1, "follower", 1, 1));
        assert_eq!(view.sightings().violations().len(), 1);
    }
}
