//! A node's admin interface, as far as checks need it.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node_process::Cluster;

const STATUS: &str = "/status";
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

async fn status<T: DeserializeOwned>(address: &str) -> Result<T, AdminError> {
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
    let path = "/metrics";
    let text = get(address, path).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let Some(count) = line else { return Ok(None) };
    count.trim().parse().map(Some).map_err(|_| malformed(address, path, format!("{name} {count}")))
}

/// The body of a successful answer.
async fn get(address: &str, path: &'static str) -> Result<String, AdminError> {
    let text = exchange(address, path).await.map_err(|source| AdminError::Io {
        address: address.to_owned(),
        path,
        source,
    })?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(malformed(address, path, text)),
    }
}

async fn exchange(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: the server neither chunks nor keeps the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
