//! A node's admin interface, as far as checks need it.

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The count of the histogram that has one sample per tick.
const TICKS: &str = "polyraft_tick_lateness_seconds_count ";

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

/// The keyspaces of the node at `address`, ascending by group id.
///
/// # Errors
/// The node does not answer, or not with a status.
pub async fn keyspaces(address: &str) -> Result<Vec<Keyspace>, AdminError> {
    let path = "/status";
    let text = get(address, path).await?;
    let status: Result<Status, _> = serde_json::from_str(&text);
    match status {
        Ok(status) => Ok(status.groups),
        Err(_) => Err(AdminError::Malformed { address: address.to_owned(), path, text }),
    }
}

/// How often the timer of the node at `address` has fired.
///
/// # Errors
/// The node does not answer, or not with this figure.
pub async fn ticks(address: &str) -> Result<u64, AdminError> {
    let path = "/metrics";
    let text = get(address, path).await?;
    let count = text.lines().find_map(|line| line.strip_prefix(TICKS));
    let malformed =
        || AdminError::Malformed { address: address.to_owned(), path, text: text.clone() };
    count.and_then(|count| count.trim().parse().ok()).ok_or_else(malformed)
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
        _ => Err(AdminError::Malformed { address: address.to_owned(), path, text }),
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
