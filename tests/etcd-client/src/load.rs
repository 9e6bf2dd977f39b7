//! Concurrent clients that put keys of their own, each once, and record every outcome.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::Error;
use tokio::sync::Mutex;

use crate::endpoints::{Endpoints, REQUEST_TIMEOUT};
use crate::ledger::{KEY_PREFIX, LedgerError, LedgerWriter, Put, value_hash};

/// How long the load may take to have something acknowledged.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// After a put that was not acknowledged: others and the node that restarts have the core.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// The cluster does not serve.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the load had nothing acknowledged within {PROGRESS_TIMEOUT:?}")]
pub struct NoProgress;

/// What became of one put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was sent.
    NotSent,
    /// Sent, and nobody told what became of it.
    Unknown,
    /// Acknowledged at this revision.
    Acknowledged(i64),
}

/// One client's way to a system that is judged.
pub trait Target: Send + 'static {
    /// Puts one key, once, and learns what it can. Whatever was not acknowledged, the next put goes
    /// elsewhere.
    fn put(&mut self, key: &str, value: &str) -> impl Future<Output = Outcome> + Send;
}

/// What many clients share.
pub struct Load {
    ledger: Mutex<LedgerWriter>,
    run: u64,
    value_bytes_min: usize,
    stopped: AtomicBool,
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    refused: AtomicU64,
}

impl Load {
    /// Prepares a run that records into the ledger at `path`.
    ///
    /// # Errors
    /// The ledger cannot be used.
    pub fn open(path: &Path) -> Result<Arc<Self>, LedgerError> {
        Self::of_values(path, 0)
    }

    /// As [`Load::open`], with values of at least so many bytes.
    ///
    /// # Errors
    /// The ledger cannot be used.
    pub fn of_values(path: &Path, value_bytes_min: usize) -> Result<Arc<Self>, LedgerError> {
        let ledger = LedgerWriter::open(path)?;
        Ok(Arc::new(Self {
            run: ledger.run(),
            ledger: Mutex::new(ledger),
            value_bytes_min,
            stopped: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Lets every client finish the put that it is at.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Puts acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Puts whose outcome nobody told.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Connections that could not be made: nothing was sent.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until something was acknowledged after this moment.
    ///
    /// # Errors
    /// Nothing was, for a minute.
    pub async fn wait_for_progress(&self) -> Result<(), NoProgress> {
        let (before, deadline) = (self.acknowledged(), Instant::now() + PROGRESS_TIMEOUT);
        while self.acknowledged() == before {
            if Instant::now() > deadline {
                return Err(NoProgress);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Puts one key after another until [`Load::stop`].
    ///
    /// # Errors
    /// The ledger cannot be written: the run proves nothing any more.
    pub async fn client(
        self: Arc<Self>,
        number: usize,
        mut target: impl Target,
    ) -> Result<(), LedgerError> {
        let mut sequence = 0_u64;
        while !self.stopped.load(Ordering::Relaxed) {
            let key = format!("{KEY_PREFIX}r{}/c{number}/{sequence}", self.run);
            let more = self.value_bytes_min + usize::from(value_hash(key.as_bytes()) as u8);
            let value = format!("{key}:{}", "v".repeat(more));
            let (revision, counter) = match target.put(&key, &value).await {
                Outcome::NotSent => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(REFUSED_PAUSE).await;
                    continue;
                }
                Outcome::Unknown => (None, &self.unknown),
                Outcome::Acknowledged(revision) => (Some(revision), &self.acknowledged),
            };
            let put = Put { value_hash: value_hash(value.as_bytes()), revision };
            self.ledger.lock().await.record(&key, put)?;
            counter.fetch_add(1, Ordering::Relaxed);
            sequence += 1;
            if revision.is_none() {
                // A refused connection may show only here, when connecting is put off until then.
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
        Ok(())
    }
}

impl Target for Endpoints {
    async fn put(&mut self, key: &str, value: &str) -> Outcome {
        let sent = match self.client().await {
            Ok(client) => tokio::time::timeout(REQUEST_TIMEOUT, client.put(key, value, None)).await,
            Err(_) => {
                self.fail_over();
                return Outcome::NotSent;
            }
        };
        let outcome: Option<Result<_, Error>> = sent.ok();
        match outcome.and_then(Result::ok).and_then(|r| Some(r.header()?.revision())) {
            Some(revision) => Outcome::Acknowledged(revision),
            None => {
                self.fail_over();
                Outcome::Unknown
            }
        }
    }
}

/// Starts `clients` clients on `load`.
pub fn start(
    load: &Arc<Load>,
    clients: usize,
    addresses: &[String],
) -> Vec<tokio::task::JoinHandle<Result<(), LedgerError>>> {
    start_on(load, clients, |number| Endpoints::new(addresses, number))
}

/// As [`start`], on targets that `target` makes, one for each client.
pub fn start_on<T: Target>(
    load: &Arc<Load>,
    clients: usize,
    target: impl Fn(usize) -> T,
) -> Vec<tokio::task::JoinHandle<Result<(), LedgerError>>> {
    let spawn = |number| tokio::spawn(Arc::clone(load).client(number, target(number)));
    (0..clients).map(spawn).collect()
}

/// Waits for every client to end after [`Load::stop`].
///
/// # Errors
/// The ledger could not be written.
///
/// # Panics
/// A client panicked.
pub async fn finish(
    load: &Load,
    clients: Vec<tokio::task::JoinHandle<Result<(), LedgerError>>>,
) -> Result<(), LedgerError> {
    load.stop();
    for client in clients {
        client.await.expect("a client never panics")?;
    }
    Ok(())
}
