//! The bounded queue between `try_send` and the task that writes one lane.
//!
//! ```text
//! try_send ─push→ [frames, bytes] ─drain→ writer
//! ```
//!
//! Promise: `push` never waits; after it refused a frame as full, the next `drain` says so once, and
//! the writer then calls `on_writable`.
//! Shared by both adapters, so that both are full at the same point.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use polyraft_core::limits::FRAME_BYTES_MAX;
use tokio::sync::Notify;

/// Frames that wait on one lane. Small, because the batching is done above, by the link.
pub(crate) const QUEUE_FRAMES_MAX: usize = 4;
/// Bytes that wait on one lane. One frame is always taken, whatever its size.
pub(crate) const QUEUE_BYTES_MAX: usize = 2 << 20;

const _: () = assert!(QUEUE_BYTES_MAX < FRAME_BYTES_MAX * QUEUE_FRAMES_MAX);

#[derive(Debug, Default)]
pub(crate) struct LaneQueue {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Bytes>,
    bytes: usize,
    refused: bool,
}

/// Everything that waited, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Drained {
    pub(crate) frames: VecDeque<Bytes>,
    /// A frame was refused since the last drain: the sender waits to hear of room.
    pub(crate) was_full: bool,
}

impl LaneQueue {
    /// Takes the frame, or returns false if the lane is full.
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        let mut state = self.lock();
        let over_bytes = state.bytes + frame.len() > QUEUE_BYTES_MAX && !state.frames.is_empty();
        if over_bytes || state.frames.len() >= QUEUE_FRAMES_MAX {
            state.refused = true;
            return false;
        }
        state.bytes += frame.len();
        state.frames.push_back(frame);
        drop(state);
        self.ready.notify_one();
        true
    }

    /// Waits until a frame is there, then takes all.
    ///
    /// # Cancellation
    /// Safe: no frame is lost.
    pub(crate) async fn drain(&self) -> Drained {
        loop {
            if let Some(drained) = self.try_drain() {
                return drained;
            }
            self.ready.notified().await;
        }
    }

    fn try_drain(&self) -> Option<Drained> {
        let mut state = self.lock();
        if state.frames.is_empty() {
            return None;
        }
        state.bytes = 0;
        let frames = std::mem::take(&mut state.frames);
        Some(Drained { frames, was_full: std::mem::take(&mut state.refused) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_full_by_frames_and_says_so_once() {
        let queue = LaneQueue::default();
        for _ in 0..QUEUE_FRAMES_MAX {
            assert!(queue.push(Bytes::from_static(b"a")));
        }
        assert!(!queue.push(Bytes::from_static(b"b")));
        let drained = queue.try_drain().unwrap();
        assert_eq!(drained.frames.len(), QUEUE_FRAMES_MAX);
        assert!(drained.was_full);
        assert!(queue.push(Bytes::from_static(b"c")));
        assert!(!queue.try_drain().unwrap().was_full);
        assert_eq!(queue.try_drain(), None);
    }

    #[test]
    fn is_full_by_bytes_but_takes_one_frame_of_any_size() {
        let queue = LaneQueue::default();
        assert!(queue.push(Bytes::from(vec![0; QUEUE_BYTES_MAX + 1])));
        assert!(!queue.push(Bytes::from_static(b"b")));
        queue.try_drain().unwrap();
        assert!(queue.push(Bytes::from_static(b"b")));
    }

    #[tokio::test]
    async fn drain_waits_for_a_push() {
        let queue = std::sync::Arc::new(LaneQueue::default());
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.drain().await }
        });
        tokio::task::yield_now().await;
        assert!(queue.push(Bytes::from_static(b"a")));
        assert_eq!(waiting.await.unwrap().frames, [Bytes::from_static(b"a")]);
    }
}
