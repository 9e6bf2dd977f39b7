//! The certificate files of a running node: looked at again and again, used when they have changed.
//!
//! ```text
//! files ─every interval→ content ─twice the same, and new→ Identity ─→ transport
//!                                                └ refused: said, counted, the old stay in force
//! ```
//!
//! Promise: a half-written set of files is not used: a change counts once two looks agree on it, and a
//! key that is not its certificate's is refused. The same refused content is tried once. Content
//! counts, not times: whatever replaces a file, also a link or a mount, is seen.
//! Not here: judging certificates (`polyraft-transport`); making them ([`crate::certificates`]).

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use polyraft_transport::{Identity, QuicTransport};

use crate::config::TlsPaths;
use crate::node_error::ReloadError;
use crate::node_status::CertificateStatus;

/// What the files hold.
#[derive(Clone, PartialEq, Eq)]
struct Content {
    chain: Vec<u8>,
    key: Vec<u8>,
    roots: Vec<u8>,
    crls: Vec<u8>,
}

impl Content {
    fn read(paths: &TlsPaths) -> Result<Self, ReloadError> {
        let read = |path: &Path| {
            let failed = |source| ReloadError::ReadFile { path: path.to_owned(), source };
            std::fs::read(path).map_err(failed)
        };
        let crls = paths.crl.as_deref().map_or(Ok(Vec::new()), read)?;
        let (chain, key, roots) = (read(&paths.cert)?, read(&paths.key)?, read(&paths.ca)?);
        Ok(Self { chain, key, roots, crls })
    }

    fn identity(&self, paths: &TlsPaths) -> Result<Identity, ReloadError> {
        Identity::from_pem(&self.chain, &self.key, &self.roots, &self.crls)
            .map_err(|source| ReloadError::identity(paths, source))
    }
}

/// A node's certificate files, and what was last made of them.
pub(crate) struct CertificateFiles {
    paths: TlsPaths,
    state: Mutex<State>,
}

struct State {
    /// What was used or refused last.
    tried: Content,
    /// What the look before this one saw, if it was another.
    seen: Option<Content>,
    reloads: u64,
    failed: u64,
    last_error: Option<String>,
}

impl CertificateFiles {
    /// Reads the files for a node's start.
    ///
    /// # Errors
    /// One cannot be read, or they are not what they should be.
    pub(crate) fn open(paths: &TlsPaths) -> Result<(Self, Identity), ReloadError> {
        let content = Content::read(paths)?;
        let identity = content.identity(paths)?;
        let state = State { tried: content, seen: None, reloads: 0, failed: 0, last_error: None };
        Ok((Self { paths: paths.clone(), state: Mutex::new(state) }, identity))
    }

    /// Reads the files and uses what they hold.
    ///
    /// # Errors
    /// Why they are not used; what was in force stays.
    pub(crate) fn reload(&self, transport: &QuicTransport) -> Result<(), ReloadError> {
        // Before the lock: a status does not wait for a disk.
        let content = Content::read(&self.paths);
        self.apply(&mut self.lock(), content, transport)
    }

    /// A look: uses what the files hold if it is new, and no longer changes.
    fn look(&self, transport: &QuicTransport) {
        let content = Content::read(&self.paths);
        let mut state = self.lock();
        match content {
            Ok(content) if content == state.tried => state.seen = None,
            Ok(content) if state.seen.as_ref() == Some(&content) => {
                // Said and counted there; whoever replaced the files is not here to be told.
                let _ = self.apply(&mut state, Ok(content), transport);
            }
            Ok(content) => state.seen = Some(content),
            Err(error) => {
                state.seen = None;
                // Absent for a moment, perhaps: said in the status, and logged once.
                let text = chain(&error);
                if state.last_error.as_ref() != Some(&text) {
                    tracing::warn!(
                        error = text,
                        "certificate files; the old certificates stay in force"
                    );
                    state.last_error = Some(text);
                }
            }
        }
    }

    fn apply(
        &self,
        state: &mut State,
        content: Result<Content, ReloadError>,
        transport: &QuicTransport,
    ) -> Result<(), ReloadError> {
        let used = content.and_then(|content| {
            state.tried = content.clone();
            let identity = content.identity(&self.paths)?;
            transport.reload(identity).map_err(|source| ReloadError::identity(&self.paths, source))
        });
        state.seen = None;
        match &used {
            Ok(()) => {
                let identity = transport.identity();
                let (serial, expires) = (&identity.leaf().serial, identity.leaf().not_after);
                state.reloads += 1;
                state.last_error = None;
                tracing::info!(serial, expires, "certificates reloaded");
            }
            Err(error) => {
                let text = chain(error);
                state.failed += 1;
                tracing::error!(error = text, "certificates refused; the old ones stay in force");
                state.last_error = Some(text);
            }
        }
        let outcome = if used.is_ok() { "ok" } else { "failed" };
        metrics::counter!("polyraft_certificate_reloads_total", "outcome" => outcome).increment(1);
        used
    }

    /// As of now.
    pub(crate) fn status(&self, transport: &QuicTransport) -> CertificateStatus {
        let (state, identity) = (self.lock(), transport.identity());
        CertificateStatus {
            leaf: identity.leaf().clone(),
            authorities: identity.authorities().to_vec(),
            reloads: state.reloads,
            reloads_failed: state.failed,
            last_error: state.last_error.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at `files` every `interval`, as long as the node is there.
pub(crate) async fn watch(
    files: Weak<CertificateFiles>,
    transport: Weak<QuicTransport>,
    interval: Duration,
) {
    loop {
        tokio::time::sleep(interval).await;
        let (Some(files), Some(transport)) = (files.upgrade(), transport.upgrade()) else { return };
        // Files: not on a thread that serves.
        let look = tokio::task::spawn_blocking(move || files.look(&transport)).await;
        if look.is_err() {
            return;
        }
    }
}

/// An error and its causes: a status is read without them.
fn chain(error: &ReloadError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
