//! What a peer's stream begins with, and the frames on it (WIRE.md).
//!
//! Properties: how a stream is cut into chunks changes nothing; frames encode to the bytes that they
//! came from; a preamble and a node's name have one encoding.

use bytes::Bytes;
use polyraft_transport::{NodeUri, fuzzing};

use crate::script::Script;

pub fn frame(data: &[u8]) {
    let mut script = Script(data);
    let Some(cut) = script.byte() else { return };
    let stream = Bytes::copy_from_slice(script.0);
    let (frames, end) = fuzzing::frames([stream.clone()]);
    let mut rest = stream.clone();
    let chunks = std::iter::from_fn(|| {
        let len = (usize::from(cut) + 1).min(rest.len());
        (len > 0).then(|| rest.split_to(len))
    });
    assert_eq!(fuzzing::frames(chunks), (frames.clone(), end));
    let again = fuzzing::stream(frames);
    assert!(stream.starts_with(&again), "frames that were not in the stream");
    assert_eq!(end == Some(false), again.len() == stream.len(), "{end:?}");
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    let frames = |lens: &[usize]| {
        let frames = lens.iter().map(|len| Bytes::from(vec![7; *len])).collect();
        [&[2][..], &fuzzing::stream(frames)].concat()
    };
    vec![
        frames(&[]),
        frames(&[0, 1, 2]),
        frames(&[300]),
        vec![0, 0, 0x80, 0, 0, 1],
        vec![0, 0, 0x80, 0, 1],
        vec![3, 0xFF, 0xFF, 0xFF, 0xFF],
    ]
}

pub fn hello(data: &[u8]) {
    if let Some(bytes) = data.first_chunk()
        && let Some(again) = fuzzing::preamble(*bytes)
    {
        assert_eq!(again, *bytes);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(uri) = text.parse::<NodeUri>()
    {
        assert_eq!(uri.to_string(), text);
        assert_ne!(uri.node.get(), 0);
    }
}

pub fn hello_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = (0..5).map(|stream| vec![1, stream, 0, 0, 0, 0, 0, 0, 1, 2]).collect();
    seeds.push(b"polyraft://orders-1/node/18446744073709551615".to_vec());
    seeds
}
