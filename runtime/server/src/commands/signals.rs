//! Ctrl-C and SIGTERM: the first asks to stop, the second forces it. SIGHUP: read the certificates again.

use polyraft::Node;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CommandError;

/// Exit code of a forced stop: 128 and SIGINT's number, as shells count.
const FORCED: i32 = 130;

/// Signals that ask the process to stop.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

/// From now on each SIGHUP has `node` read its certificate files again; what becomes of it is logged
/// and in its status.
pub(super) fn reload_certificates_on_hangup(node: Node) -> Result<(), CommandError> {
    let mut hangup = signal(SignalKind::hangup()).map_err(CommandError::Signals)?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let node = node.clone();
            // Files: not on a thread that serves. A refusal is logged where it is handled.
            let _ = tokio::task::spawn_blocking(move || node.reload_certificates()).await;
        }
    });
    Ok(())
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
