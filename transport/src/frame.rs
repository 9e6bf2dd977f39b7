//! Frames on a lane's stream: a length, then that many bytes.
//!
//! ```text
//! | length: u32 BE | body: length bytes |     0 <= length <= FRAME_BYTES_MAX
//! ```
//!
//! Promise: the length is checked before anything is allocated for it, and memory grows only with
//! the bytes that have arrived: eight megabytes announced and never sent cost nothing (TR-7).
//! Not here: what a body means (WIRE.md, "Frame contents").

use bytes::{Buf, BufMut, Bytes, BytesMut};
use polyraft_core::limits::FRAME_BYTES_MAX;

/// Bytes of the length before each frame.
pub(crate) const PREFIX_BYTES: usize = 4;
/// Bodies up to here are copied behind their prefix; larger ones travel as they are. One copy is
/// cheaper than one more segment in the send buffer.
const COPY_BYTES_MAX: usize = 4 << 10;
/// Reserved at most for a body before its bytes are there.
const RESERVE_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(FRAME_BYTES_MAX <= u32::MAX as usize);

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {bytes} bytes announced, at most {FRAME_BYTES_MAX} are allowed")]
    TooLarge { bytes: u32 },
}

/// Cuts a stream of chunks into frames. A frame that lies within one chunk is not copied.
#[derive(Debug, Default)]
pub(crate) struct FrameDecoder {
    chunk: Bytes,
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    /// What has arrived of a body that one chunk did not hold, and how long it will be.
    body: Option<(BytesMut, usize)>,
}

impl FrameDecoder {
    /// Adds the stream's next bytes. Every frame of the chunk before must have been taken.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        assert!(self.chunk.is_empty(), "{} bytes not taken yet", self.chunk.len());
        self.chunk = chunk;
    }

    /// The next complete frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The stream breaks the format and must be given up.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some((body, len)) = &mut self.body {
                let take = self.chunk.len().min(*len - body.len());
                body.extend_from_slice(&self.chunk[..take]);
                self.chunk.advance(take);
                if body.len() < *len {
                    return Ok(None);
                }
                return Ok(self.body.take().map(|(body, _)| body.freeze()));
            }
            let Some(len) = self.take_prefix()? else { return Ok(None) };
            if self.chunk.len() >= len {
                return Ok(Some(self.chunk.split_to(len)));
            }
            self.body = Some((BytesMut::with_capacity(len.min(RESERVE_BYTES_MAX)), len));
        }
    }

    /// Whether the stream stands within a frame: it must not end here.
    pub(crate) fn is_partial(&self) -> bool {
        self.prefix_len > 0 || self.body.is_some()
    }

    /// The checked length of the next frame.
    fn take_prefix(&mut self) -> Result<Option<usize>, FrameError> {
        let take = self.chunk.len().min(PREFIX_BYTES - self.prefix_len);
        self.prefix[self.prefix_len..self.prefix_len + take].copy_from_slice(&self.chunk[..take]);
        self.chunk.advance(take);
        self.prefix_len += take;
        if self.prefix_len < PREFIX_BYTES {
            return Ok(None);
        }
        self.prefix_len = 0;
        let bytes = u32::from_be_bytes(self.prefix);
        if bytes as usize > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes });
        }
        Ok(Some(bytes as usize))
    }
}

/// Turns frames into as few chunks as are worth it, for one write.
pub(crate) fn encode(frames: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut small = BytesMut::new();
    for frame in frames {
        debug_assert!(frame.len() <= FRAME_BYTES_MAX, "{} bytes", frame.len());
        small.put_u32(frame.len() as u32);
        if frame.len() <= COPY_BYTES_MAX {
            small.put(frame);
        } else {
            chunks.push(small.split().freeze());
            chunks.push(frame);
        }
    }
    if !small.is_empty() {
        chunks.push(small.freeze());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(stream: &[u8], cuts: &[usize]) -> Result<(Vec<Bytes>, bool), FrameError> {
        let mut decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        let mut rest = Bytes::copy_from_slice(stream);
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let cut = (*cuts.next().unwrap()).clamp(1, rest.len());
            decoder.push(rest.split_to(cut));
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        Ok((frames, decoder.is_partial()))
    }

    proptest! {
        /// Goal: what was encoded comes out, however the stream is cut. Method: random frames of
        /// sizes around the copy limit, random chunk sizes.
        #[test]
        fn any_cut_of_any_stream_gives_the_frames_back(
            lens in prop::collection::vec(prop_oneof![0..20usize, 4090..4100usize, 9000..9010usize], 0..8),
            cuts in prop::collection::vec(1..5000usize, 1..6),
        ) {
            let sent: Vec<Bytes> =
                lens.iter().enumerate().map(|(i, len)| Bytes::from(vec![i as u8; *len])).collect();
            let mut stream = Vec::new();
            for chunk in encode(sent.clone()) {
                stream.extend_from_slice(&chunk);
            }
            prop_assert_eq!(decode(&stream, &cuts).unwrap(), (sent, false));
        }

        /// Goal: no bytes make the decoder panic, deliver more than it got, or reserve more than
        /// arrived. Method: garbage, cut at random.
        #[test]
        fn garbage_is_harmless(
            stream in prop::collection::vec(any::<u8>(), 0..4096),
            cuts in prop::collection::vec(1..64usize, 1..6),
        ) {
            if let Ok((frames, _)) = decode(&stream, &cuts) {
                let delivered: usize = frames.iter().map(|f| f.len() + PREFIX_BYTES).sum();
                prop_assert!(delivered <= stream.len());
            }
        }

        /// Goal: every length over the limit is refused as soon as the prefix is there.
        #[test]
        fn every_oversized_length_is_refused(bytes in FRAME_BYTES_MAX as u32 + 1..=u32::MAX) {
            let refused = decode(&bytes.to_be_bytes(), &[1]);
            prop_assert_eq!(refused, Err(FrameError::TooLarge { bytes }));
        }
    }

    #[test]
    fn an_announced_frame_reserves_little() {
        let mut decoder = FrameDecoder::default();
        decoder.push(Bytes::copy_from_slice(&(FRAME_BYTES_MAX as u32).to_be_bytes()));
        assert_eq!(decoder.next_frame(), Ok(None));
        let (body, len) = decoder.body.as_ref().unwrap();
        assert_eq!(*len, FRAME_BYTES_MAX);
        assert!(body.capacity() <= RESERVE_BYTES_MAX);
        assert!(decoder.is_partial());
    }

    /// Goal: TR-7, memory grows with what has arrived, not with what was announced. Method: the largest
    /// frame, a byte at a time.
    #[test]
    fn a_dribbled_frame_takes_what_has_arrived() {
        const ARRIVED: usize = 300_000;
        let mut decoder = FrameDecoder::default();
        let prefix = (FRAME_BYTES_MAX as u32).to_be_bytes();
        for byte in prefix.into_iter().chain(std::iter::repeat_n(7, ARRIVED)) {
            decoder.push(Bytes::copy_from_slice(&[byte]));
            assert_eq!(decoder.next_frame(), Ok(None));
            let body = decoder.body.as_ref().map(|(body, _)| (body.len(), body.capacity()));
            let (len, capacity) = body.unwrap_or_default();
            assert!(capacity <= RESERVE_BYTES_MAX.max(2 * len), "{capacity} for {len} bytes");
        }
        assert_eq!(decoder.body.map(|(body, _)| body.len()), Some(ARRIVED));
    }

    #[test]
    fn a_frame_within_one_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"\0\0\0\x03abc\0\0\0\x01d");
        let mut decoder = FrameDecoder::default();
        decoder.push(chunk.clone());
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(frame.as_ptr(), chunk[4..].as_ptr());
        assert_eq!(decoder.next_frame().unwrap().unwrap(), "d");
        assert!(!decoder.is_partial());
    }

    #[test]
    fn small_frames_become_one_chunk_and_large_ones_travel_as_they_are() {
        let large = Bytes::from(vec![7; COPY_BYTES_MAX + 1]);
        let small = Bytes::from_static(b"x");
        let chunks = encode([small.clone(), small.clone(), large.clone(), small]);
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks[0].len(), 5 + 5 + 4);
        assert_eq!(chunks[1].as_ptr(), large.as_ptr());
    }
}
