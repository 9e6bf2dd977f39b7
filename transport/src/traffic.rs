//! Counters of one link, kept across its connections.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use polyraft_core::ports::LinkTraffic;

/// Grows only. Relaxed: each counter is read alone.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    frames_out: AtomicU64,
    bytes_out: AtomicU64,
    frames_in: AtomicU64,
    bytes_in: AtomicU64,
}

impl Traffic {
    /// Adds what was sent: frames, and bytes with framing.
    pub(crate) fn sent(&self, frames: usize, bytes: usize) {
        self.frames_out.fetch_add(frames as u64, Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    /// Adds what was received: frames, and bytes with framing.
    pub(crate) fn received(&self, frames: usize, bytes: usize) {
        self.frames_in.fetch_add(frames as u64, Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> LinkTraffic {
        LinkTraffic {
            frames_out: self.frames_out.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            frames_in: self.frames_in.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
        }
    }
}
