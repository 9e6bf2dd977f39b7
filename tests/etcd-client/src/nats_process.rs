//! Debian's NATS JetStream as a cluster of three processes with one replicated stream, to be judged by
//! the same ledger.
//!
//! A put is one message in the stream; its sequence number is its revision. Sync settings are those
//! that NATS ships with: every two minutes, not at every acknowledged message.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::ledger::value_hash;
use crate::load::{Outcome, Target};
use crate::member::Member;
use crate::nats_client::{NatsConnection, NatsError};
use crate::node_process::ProcessError;
use crate::ports::free_tcp_port;
use crate::verify::Held;

/// The stream, and the subject that it keeps.
const STREAM: &str = "LEDGER";
const SUBJECT: &str = "ledger";
const CREATE: &str = r#"{"name":"LEDGER","subjects":["ledger"],"num_replicas":3,"storage":"file"}"#;
/// How long the stream may take to be there with all of its replicas.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Three servers; killed when dropped.
pub struct NatsCluster {
    addresses: Vec<String>,
    data_dirs: Vec<PathBuf>,
    /// In the order of their addresses.
    pub members: Vec<Member>,
}

/// The parts of JetStream's answers that are looked at.
#[derive(Deserialize)]
struct StreamInfo {
    cluster: Option<ClusterInfo>,
    state: Option<StreamState>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ClusterInfo {
    leader: Option<String>,
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Deserialize)]
struct Replica {
    current: bool,
    #[serde(default)]
    offline: bool,
}

#[derive(Deserialize)]
struct StreamState {
    messages: u64,
    last_seq: i64,
}

#[derive(Deserialize)]
struct ApiError {
    code: u32,
}

#[derive(Deserialize)]
struct PublishAnswer {
    seq: Option<i64>,
}

impl NatsCluster {
    /// Three servers of `binary`, with their data in `dir`; starts nothing.
    ///
    /// # Errors
    /// A port or a file cannot be had.
    pub fn prepare(binary: &Path, dir: &Path) -> Result<Self, ProcessError> {
        let ports = || (0..3).map(|_| free_tcp_port()).collect::<Result<Vec<_>, _>>();
        let (clients, peers) = (ports()?, ports()?);
        let addresses = clients.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let data_dirs: Vec<_> = (1..=3).map(|id| dir.join(format!("nats-{id}"))).collect();
        let routes: Vec<_> =
            peers.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
        let mut members = Vec::new();
        for at in 0..3 {
            let file = dir.join(format!("nats-{}.conf", at + 1));
            let store = data_dirs[at].join("data");
            let text = format!(
                "server_name: n{}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: {store:?} }}\n\
                 cluster {{ name: calibrate, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                at + 1,
                clients[at],
                peers[at],
                routes.join(", ")
            );
            std::fs::write(&file, text)
                .map_err(|source| ProcessError::Io { doing: "writing a configuration", source })?;
            let arguments = vec!["--config".to_owned(), file.display().to_string()];
            let output = dir.join(format!("nats-{}.log", at + 1));
            members.push(Member::new(binary.into(), arguments, output));
        }
        Ok(Self { addresses, data_dirs, members })
    }

    /// Where clients reach the servers: `host:port`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Where server `at`, counted from 0, keeps its data; may be where a disk is mounted.
    pub fn data_dir(&self, at: usize) -> &Path {
        &self.data_dirs[at]
    }

    /// Creates the stream, and waits until it has all its replicas.
    ///
    /// # Errors
    /// It has not, for a minute.
    pub async fn create_stream(&self) -> Result<(), NatsError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let created = self.ask(0, "STREAM.CREATE", CREATE).await;
            match created {
                Ok(info) if info.error.is_none() => return self.wait_until(is_whole).await,
                Err(error) if Instant::now() > deadline => return Err(error),
                _ if Instant::now() > deadline => return Err(NatsError::NoStream),
                _ => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
    }

    /// Waits until the stream has a leader, or until all servers answer that there is no such stream: it
    /// is lost as a whole. Not for the followers: after a power cut one may stay behind for minutes.
    ///
    /// # Errors
    /// Neither, for a minute.
    pub async fn wait_until_led(&self) -> Result<(), NatsError> {
        self.wait_until(is_led).await
    }

    async fn wait_until(&self, is_ready: fn(&ClusterInfo) -> bool) -> Result<(), NatsError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut gone = 0;
            for at in 0..3 {
                match self.ask(at, "STREAM.INFO", "").await {
                    Ok(StreamInfo { cluster: Some(info), .. }) if is_ready(&info) => return Ok(()),
                    Ok(StreamInfo { error: Some(ApiError { code: 404 }), .. }) => gone += 1,
                    _ => {}
                }
            }
            if Instant::now() > deadline {
                return if gone == 3 { Ok(()) } else { Err(NatsError::NoStream) };
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Everything in the stream, by key, and the last sequence number, from the first server that knows
    /// it. Nothing of a stream of which all servers say that there is none.
    ///
    /// # Errors
    /// Neither, for a minute.
    pub async fn read_all(&self) -> Result<(i64, BTreeMap<String, Held>), NatsError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut gone = 0;
            for at in 0..3 {
                match self.ask(at, "STREAM.INFO", "").await {
                    Ok(StreamInfo { state: Some(state), .. }) => {
                        return self.read(at, &state).await;
                    }
                    Ok(StreamInfo { error: Some(ApiError { code: 404 }), .. }) => gone += 1,
                    _ => {}
                }
            }
            if gone == 3 {
                return Ok((0, BTreeMap::new()));
            }
            if Instant::now() > deadline {
                return Err(NatsError::NoStream);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn read(
        &self,
        at: usize,
        state: &StreamState,
    ) -> Result<(i64, BTreeMap<String, Held>), NatsError> {
        let mut held = BTreeMap::<String, Held>::new();
        if state.messages == 0 {
            return Ok((state.last_seq, held));
        }
        let mut connection = NatsConnection::connect(&self.addresses[at]).await?;
        for (sequence, payload) in connection.consume(STREAM).await? {
            let text = String::from_utf8_lossy(&payload);
            let Some((key, value)) = text.split_once('\n') else { continue };
            let new = Held {
                value_hash: value_hash(value.as_bytes()),
                create_revision: sequence,
                mod_revision: sequence,
                version: 1,
            };
            let again = |held: &mut Held| {
                held.mod_revision = sequence;
                held.version += 1;
            };
            held.entry(key.to_owned()).and_modify(again).or_insert(new);
        }
        Ok((state.last_seq, held))
    }

    async fn ask(&self, at: usize, what: &str, body: &str) -> Result<StreamInfo, NatsError> {
        let mut connection = NatsConnection::connect(&self.addresses[at]).await?;
        let subject = format!("$JS.API.{what}.{STREAM}");
        let answer = connection.request(&subject, body.as_bytes()).await?;
        serde_json::from_slice(&answer).map_err(|_| NatsError::Malformed)
    }
}

fn is_led(info: &ClusterInfo) -> bool {
    info.leader.is_some()
}

fn is_whole(info: &ClusterInfo) -> bool {
    let is_current = |replica: &Replica| replica.current && !replica.offline;
    is_led(info) && info.replicas.len() == 2 && info.replicas.iter().all(is_current)
}

/// Publishes to one server after the other.
pub struct Publisher {
    addresses: Vec<String>,
    at: usize,
    connection: Option<NatsConnection>,
}

impl Publisher {
    /// Starts at the `start`-th of `addresses`.
    pub fn new(addresses: &[String], start: usize) -> Self {
        Self { addresses: addresses.to_vec(), at: start, connection: None }
    }

    async fn publish(&mut self, body: &[u8]) -> Outcome {
        let connection = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => NatsConnection::connect(&self.addresses[self.at % self.addresses.len()]).await,
        };
        let Ok(mut connection) = connection else { return Outcome::NotSent };
        let Ok(answer) = connection.request(SUBJECT, body).await else { return Outcome::Unknown };
        self.connection = Some(connection);
        // An error in an answer may come of a message that is stored all the same.
        match serde_json::from_slice(&answer) {
            Ok(PublishAnswer { seq: Some(sequence) }) if sequence > 0 => {
                Outcome::Acknowledged(sequence)
            }
            _ => Outcome::Unknown,
        }
    }
}

impl Target for Publisher {
    async fn put(&mut self, key: &str, value: &str) -> Outcome {
        let outcome = self.publish(format!("{key}\n{value}").as_bytes()).await;
        if !matches!(outcome, Outcome::Acknowledged(_)) {
            (self.connection, self.at) = (None, self.at + 1);
        }
        outcome
    }
}
