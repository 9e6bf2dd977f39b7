//! Beats: proof of life at application level, on a stream of their own (TR-8).
//!
//! ```text
//! each interval: | beats received so far: u64 BE |  →  the peer learns that it is heard
//! ```
//!
//! A stream apart from the lanes, so that a receiver which is merely busy is not taken for dead.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::lanes::LaneEnd;
use super::liveness::Sample;
use super::refusal::Refusal;

/// One connection's beats.
#[derive(Debug)]
pub(super) struct Beats {
    sent: AtomicU64,
    received: AtomicU64,
    /// How many of ours the peer says it received.
    echoed: AtomicU64,
    heard_at: Mutex<Instant>,
}

impl Beats {
    pub(super) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let heard_at = Mutex::new(Instant::now());
        Self { sent: zero(), received: zero(), echoed: zero(), heard_at }
    }

    /// What is known of being heard.
    pub(super) fn sample(&self) -> Sample {
        Sample { asked: self.sent.load(Relaxed), acknowledged: self.echoed.load(Relaxed) }
    }

    /// When the last beat arrived; when the connection was made, before the first.
    pub(super) fn heard_at(&self) -> Instant {
        *self.heard_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sends a beat each `every`, for as long as the connection lasts.
    pub(super) async fn write(&self, mut stream: SendStream, every: Duration) -> LaneEnd {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let beat = self.received.load(Relaxed).to_be_bytes();
            self.sent.fetch_add(1, Relaxed);
            match stream.write_all(&beat).await {
                Ok(()) => {}
                Err(WriteError::Stopped(_)) => return LaneEnd::Violation(Refusal::LaneClosed),
                Err(_) => return LaneEnd::Lost,
            }
        }
    }

    /// Takes the peer's beats, for as long as the connection lasts.
    pub(super) async fn read(&self, mut stream: RecvStream) -> LaneEnd {
        let mut beat = [0; 8];
        loop {
            match stream.read_exact(&mut beat).await {
                Ok(()) => self.hear(u64::from_be_bytes(beat)),
                Err(ReadExactError::FinishedEarly(_))
                | Err(ReadExactError::ReadError(quinn::ReadError::Reset(_))) => {
                    return LaneEnd::Violation(Refusal::LaneClosed);
                }
                Err(_) => return LaneEnd::Lost,
            }
        }
    }

    fn hear(&self, echoed: u64) {
        self.received.fetch_add(1, Relaxed);
        self.echoed.fetch_max(echoed, Relaxed);
        let mut heard_at = self.heard_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *heard_at = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_counts_once_and_never_goes_back() {
        let beats = Beats::new();
        for (echoed, acknowledged) in [(0, 0), (2, 2), (2, 2), (1, 2), (5, 5)] {
            beats.hear(echoed);
            assert_eq!(beats.sample().acknowledged, acknowledged);
        }
        assert_eq!(beats.received.load(Relaxed), 5);
    }
}
