//! The tasks that move frames on a connection: one writer and one reader per lane.
//!
//! ```text
//! [queue] ─drain→ encode ─one write→ stream          stream ─chunk→ decode → on_frame
//! ```
//!
//! A receiver that gives a frame back stops its reader; QUIC's flow control then stops the peer's
//! writer, its queue fills, and its `try_send` answers `Full`. Other lanes do not notice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polyraft_core::ids::NodeId;
use polyraft_core::ports::{Lane, TransportEvents};
use quinn::{Chunk, ReadError, RecvStream, SendStream, WriteError};
use tokio::time::{Instant, sleep, timeout_at};

use super::refusal::Refusal;
use crate::frame::{FrameDecoder, PREFIX_BYTES, encode};
use crate::lane_queue::LaneQueue;
use crate::traffic::Traffic;

/// Pause before a frame that the receiver gave back is offered again.
const BUSY_PAUSE: Duration = Duration::from_millis(1);
/// Most that is taken from a stream at once.
const READ_BYTES_MAX: usize = 256 << 10;

/// Why a lane's task ended, and with it the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneEnd {
    /// The connection is gone; it knows why.
    Lost,
    /// The peer broke the wire format.
    Violation(Refusal),
}

/// Moves the frames of one lane, in either direction.
#[derive(Clone)]
pub(super) struct LaneTask {
    pub(super) peer: NodeId,
    pub(super) lane: Lane,
    pub(super) events: Arc<dyn TransportEvents>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) frame_timeout: Duration,
}

impl LaneTask {
    /// Writes what is queued, all at once each time, for as long as the connection lasts.
    pub(super) async fn write(self, queue: Arc<LaneQueue>, mut stream: SendStream) -> LaneEnd {
        loop {
            let drained = queue.drain().await;
            if drained.was_full {
                self.events.on_writable(self.peer, self.lane);
            }
            let frames = drained.frames.len();
            let mut chunks = encode(drained.frames);
            self.traffic.sent(frames, chunks.iter().map(Bytes::len).sum());
            match stream.write_all_chunks(&mut chunks).await {
                Ok(()) => {}
                Err(WriteError::Stopped(_)) => return LaneEnd::Violation(Refusal::LaneClosed),
                Err(_) => return LaneEnd::Lost,
            }
        }
    }

    /// Delivers the peer's frames, for as long as the connection lasts.
    pub(super) async fn read(self, mut stream: RecvStream) -> LaneEnd {
        let mut decoder = FrameDecoder::default();
        let mut deadline = None;
        loop {
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => self.deliver(frame).await,
                    Ok(None) => break,
                    Err(_) => return LaneEnd::Violation(Refusal::FrameTooLarge),
                }
                // The next frame's time starts now: until here the receiver may have been busy.
                deadline = None;
            }
            if !decoder.is_partial() {
                deadline = None;
            } else if deadline.is_none() {
                deadline = Some(Instant::now() + self.frame_timeout);
            }
            match self.next_chunk(&mut stream, deadline).await {
                Ok(Some(chunk)) => decoder.push(chunk.bytes),
                Ok(None) if decoder.is_partial() => {
                    return LaneEnd::Violation(Refusal::FrameTruncated);
                }
                Ok(None) => return LaneEnd::Violation(Refusal::LaneClosed),
                Err(end) => return end,
            }
            tokio::task::consume_budget().await;
        }
    }

    async fn next_chunk(
        &self,
        stream: &mut RecvStream,
        deadline: Option<Instant>,
    ) -> Result<Option<Chunk>, LaneEnd> {
        let read = stream.read_chunk(READ_BYTES_MAX, true);
        let result = match deadline {
            None => read.await,
            Some(deadline) => timeout_at(deadline, read)
                .await
                .map_err(|_| LaneEnd::Violation(Refusal::FrameStalled))?,
        };
        result.map_err(|error| match error {
            ReadError::Reset(_) => LaneEnd::Violation(Refusal::LaneClosed),
            _ => LaneEnd::Lost,
        })
    }

    async fn deliver(&self, mut frame: Bytes) {
        self.traffic.received(1, frame.len() + PREFIX_BYTES);
        while let Err(busy) = self.events.on_frame(self.peer, self.lane, frame) {
            frame = busy;
            sleep(BUSY_PAUSE).await;
        }
    }
}
