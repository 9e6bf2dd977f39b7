//! Ctrl-C and SIGTERM: the first asks to stop, the second forces it.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CommandError;

/// Exit code of a forced stop: 128 and SIGINT's number, as shells count.
const FORCED: i32 = 130;

/// Signals that ask the process to stop.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
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
