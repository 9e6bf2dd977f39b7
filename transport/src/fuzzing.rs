//! Decoders that the crate keeps to itself, for the fuzzer (`tests/fuzz`). No part of the API.

use bytes::Bytes;

use crate::frame::{FrameDecoder, encode};
use crate::quic::{PREAMBLE_BYTES, preamble_again};

/// The frames in a stream that arrives as `chunks`. The flag tells whether it stands within a frame
/// at the end; there is none if the stream must be given up.
pub fn frames(chunks: impl IntoIterator<Item = Bytes>) -> (Vec<Bytes>, Option<bool>) {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, None),
            }
        }
    }
    (frames, Some(decoder.is_partial()))
}

/// The stream that carries `frames`.
pub fn stream(frames: Vec<Bytes>) -> Vec<u8> {
    encode(frames).concat()
}

/// The preamble of a stream, encoded again after it was decoded.
pub fn preamble(bytes: [u8; PREAMBLE_BYTES]) -> Option<[u8; PREAMBLE_BYTES]> {
    preamble_again(bytes)
}
