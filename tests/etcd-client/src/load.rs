//! Concurrent clients that put keys of their own, each once, and record every outcome.

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

/// The cluster does not serve.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the load had nothing acknowledged within {PROGRESS_TIMEOUT:?}")]
pub struct NoProgress;

/// What many clients share.
pub struct Load {
    ledger: Mutex<LedgerWriter>,
    run: u64,
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
        let ledger = LedgerWriter::open(path)?;
        Ok(Arc::new(Self {
            run: ledger.run(),
            ledger: Mutex::new(ledger),
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
        addresses: Vec<String>,
    ) -> Result<(), LedgerError> {
        let mut endpoints = Endpoints::new(&addresses, number);
        let mut sequence = 0_u64;
        while !self.stopped.load(Ordering::Relaxed) {
            let key = format!("{KEY_PREFIX}r{}/c{number}/{sequence}", self.run);
            let value =
                format!("{key}:{}", "v".repeat(usize::from(value_hash(key.as_bytes()) as u8)));
            let Some(revision) = self.put(&mut endpoints, &key, &value).await else { continue };
            let counter = if revision.is_some() { &self.acknowledged } else { &self.unknown };
            let put = Put { value_hash: value_hash(value.as_bytes()), revision };
            self.ledger.lock().await.record(&key, put)?;
            counter.fetch_add(1, Ordering::Relaxed);
            sequence += 1;
        }
        Ok(())
    }

    /// The outcome of one put: `None` if nothing was sent, `Some(None)` if nobody knows.
    async fn put(&self, endpoints: &mut Endpoints, key: &str, value: &str) -> Option<Option<i64>> {
        let sent = match endpoints.client().await {
            Ok(client) => tokio::time::timeout(REQUEST_TIMEOUT, client.put(key, value, None)).await,
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                endpoints.fail_over();
                // Nobody listens there: let the other clients and the node that restarts have the core.
                tokio::time::sleep(Duration::from_millis(20)).await;
                return None;
            }
        };
        let outcome: Option<Result<_, Error>> = sent.ok();
        let revision = outcome.and_then(Result::ok).and_then(|r| Some(r.header()?.revision()));
        if revision.is_none() {
            endpoints.fail_over();
            // A refused connection shows only here, when connecting is put off until the first request.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(revision)
    }
}

/// Starts `clients` clients on `load`.
pub fn start(
    load: &Arc<Load>,
    clients: usize,
    addresses: &[String],
) -> Vec<tokio::task::JoinHandle<Result<(), LedgerError>>> {
    let spawn = |number| tokio::spawn(Arc::clone(load).client(number, addresses.to_vec()));
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
