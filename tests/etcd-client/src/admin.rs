//! A node's admin interface, as far as checks need it.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::plain_http::{self, Request};

use crate::node_process::Cluster;

const STATUS: &str = "/status";
const METRICS: &str = "/metrics";
const FAULTS: &str = "/chaos/faults";
/// The count of the histogram that has one sample per tick.
pub const TICKS: &str = "polyraft_tick_lateness_seconds_count";
const ELECTIONS_WON: &str = "polyraft_elections_won_total";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// It cannot be reached.
    #[error("no answer from {address}{path}")]
    Io {
        /// The address asked.
        address: String,
        /// The path asked for.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The answer is not what was expected.
    #[error("{address}{path} is no such answer: {text}")]
    Malformed {
        /// The address asked.
        address: String,
        /// The path asked for.
        path: &'static str,
        /// What was answered.
        text: String,
    },
}

/// One keyspace as a node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Keyspace {
    /// Its name.
    pub name: String,
    /// Its term.
    pub term: u64,
    /// The node that leads it, if known.
    pub leader: Option<u64>,
}

#[derive(Deserialize)]
struct Status {
    groups: Vec<Keyspace>,
}

/// How a node is, and its replica of its first group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Why the node acknowledges nothing any more, if a store has failed.
    pub storage_failure: Option<String>,
    /// `healthy`, or `faulted: ` and why, or another word.
    pub health: String,
    /// Its term.
    pub term: u64,
    /// The node that leads, if known.
    pub leader: Option<u64>,
    /// Whether it has applied everything that it knows to be committed.
    pub is_current: bool,
}

#[derive(Deserialize)]
struct NodeStatus {
    storage_failure: Option<String>,
    groups: Vec<ReplicaStatus>,
}

#[derive(Deserialize)]
struct ReplicaStatus {
    health: String,
    term: u64,
    leader: Option<u64>,
    commit: u64,
    applied: u64,
}

/// The keyspaces of the node at `address`, ascending by group id.
///
/// # Errors
/// The node does not answer, or not with a status.
pub async fn keyspaces(address: &str) -> Result<Vec<Keyspace>, AdminError> {
    Ok(status::<Status>(address).await?.groups)
}

/// The node at `address` and its first replica.
///
/// # Errors
/// The node does not answer, or has no replica yet.
pub async fn replica(address: &str) -> Result<Replica, AdminError> {
    let NodeStatus { storage_failure, groups } = status(address).await?;
    let missing = || malformed(address, STATUS, "no group".to_owned());
    let ReplicaStatus { health, term, leader, commit, applied } =
        groups.into_iter().next().ok_or_else(missing)?;
    Ok(Replica { storage_failure, health, term, leader, is_current: applied == commit })
}

/// How many elections the replicas of all three nodes have won since their processes started.
///
/// # Errors
/// A node does not answer, or not with figures.
pub async fn elections_won(cluster: &Cluster) -> Result<u64, AdminError> {
    let mut won = 0;
    for at in 0..3 {
        won += counter(cluster.admin(at), ELECTIONS_WON).await?.unwrap_or(0);
    }
    Ok(won)
}

/// What the node at `address` says of itself, as far as `T` asks.
///
/// # Errors
/// The node does not answer, or not with that.
pub async fn status<T: DeserializeOwned>(address: &str) -> Result<T, AdminError> {
    let text = get(address, STATUS).await?;
    serde_json::from_str(&text).map_err(|_| malformed(address, STATUS, text))
}

fn malformed(address: &str, path: &'static str, text: String) -> AdminError {
    AdminError::Malformed { address: address.to_owned(), path, text }
}

/// The counter `name`, without labels, of the node at `address`; none before its first event.
///
/// # Errors
/// The node does not answer, or not with figures.
pub async fn counter(address: &str, name: &str) -> Result<Option<u64>, AdminError> {
    let path = METRICS;
    let text = metrics(address).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let Some(count) = line else { return Ok(None) };
    count.trim().parse().map(Some).map_err(|_| malformed(address, path, format!("{name} {count}")))
}

/// Injects a fault, written as JSON, into the node at `address`; it was started with `token`.
///
/// # Errors
/// The node does not answer, or refuses it.
pub async fn inject(address: &str, token: &str, fault: &str) -> Result<(), AdminError> {
    let body = ("application/json", fault);
    expect(address, Request { method: "POST", path: FAULTS, token: Some(token), body }).await
}

/// Ends every fault of the node at `address`.
///
/// # Errors
/// The node does not answer, or refuses.
pub async fn end_faults(address: &str, token: &str) -> Result<(), AdminError> {
    let (path, token, body) = (FAULTS, Some(token), ("", ""));
    expect(address, Request { method: "DELETE", path, token, body }).await
}

async fn expect(address: &str, request: Request<'_>) -> Result<(), AdminError> {
    let io = |source| AdminError::Io { address: address.to_owned(), path: FAULTS, source };
    let answer = plain_http::send(address, request).await.map_err(io)?;
    match answer.status {
        200 => Ok(()),
        _ => Err(malformed(address, FAULTS, answer.body)),
    }
}

/// The figures of the node at `address`, as a scrape gets them.
///
/// # Errors
/// The node does not answer.
pub async fn metrics(address: &str) -> Result<String, AdminError> {
    get(address, METRICS).await
}

/// The body of a successful answer.
async fn get(address: &str, path: &'static str) -> Result<String, AdminError> {
    let io = |source| AdminError::Io { address: address.to_owned(), path, source };
    let answer = plain_http::send(address, Request::get(path)).await.map_err(io)?;
    match answer.status {
        200 => Ok(answer.body),
        _ => Err(malformed(address, path, answer.body)),
    }
}
