//! Ctrl-C and SIGTERM: the first asks to stop, the second forces it. SIGHUP: read certificates and tokens again.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CommandError;
use crate::access::Access;
use crate::instance::Instance;

/// Exit code of a forced stop: 128 and SIGINT's number, as shells count.
const FORCED: i32 = 130;

/// Signals that ask the process to stop.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

/// Signals that ask the process to read files again.
pub(super) struct ReloadSignals {
    hangup: Signal,
}

impl StopSignals {
    pub fn new() -> Result<Self, CommandError> {
        let listen = |kind| signal(kind).map_err(CommandError::Signals);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Resolves at the next signal. Dropping it loses none.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// From now on a signal ends the process at once.
    pub fn force_from_now_on(mut self) {
        tokio::spawn(async move {
            self.next().await;
            eprintln!("stopping by force");
            std::process::exit(FORCED);
        });
    }
}

impl ReloadSignals {
    /// From now on they no longer end the process.
    pub fn new() -> Result<Self, CommandError> {
        Ok(Self { hangup: signal(SignalKind::hangup()).map_err(CommandError::Signals)? })
    }

    /// Has `instance` read the files of its tokens and certificates again, now if it was asked before,
    /// and whenever it is. What becomes of it is logged, and of certificates in its status.
    pub fn reload(mut self, instance: &Instance) {
        let (node, access) = (instance.node().clone(), instance.access().clone());
        tokio::spawn(async move {
            while self.hangup.recv().await.is_some() {
                let (node, access) = (node.clone(), access.clone());
                let reload = move || {
                    reload_tokens(&access);
                    // A refusal is logged where it is handled.
                    let _ = node.reload_certificates();
                };
                // Files: not on a thread that serves.
                let _ = tokio::task::spawn_blocking(reload).await;
            }
        });
    }
}

fn reload_tokens(access: &Access) {
    match access.reload() {
        Ok(()) => tracing::info!("tokens reloaded"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "tokens refused; the old ones stay in force");
        }
    }
}
