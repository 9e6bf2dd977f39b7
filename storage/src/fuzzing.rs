//! Decoders that the crate keeps to itself, for the fuzzer (`tests/fuzz`). No part of the API.
//! The journal and the state store are fuzzed through [`crate::table`].

use std::path::Path;

use bytes::Bytes;

use crate::redo_frame::Block;
use crate::{identity, peer_register, redo_frame};

/// A redo log's frame in whole blocks.
pub fn redo_frame(place: (u64, u64), key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut blocks: Vec<Block> = Vec::new();
    redo_frame::encode(&mut blocks, place, key, value);
    blocks.iter().flat_map(|block| block.0).collect()
}

/// Keys and values that a redo log's file gives back.
pub fn redo_rows(file: &[u8], generation: u64) -> Vec<(Box<[u8]>, Bytes)> {
    let rows = redo_frame::recover(file, generation);
    rows.into_iter().map(|row| (row.key, row.value)).collect()
}

/// An identity file, encoded again after it was decoded.
pub fn identity(bytes: &[u8]) -> Option<Vec<u8>> {
    let identity = identity::decode(bytes, Path::new("identity")).ok()?;
    Some(identity::encode(&identity))
}

/// A peer's file of the register, encoded again after it was decoded.
pub fn peer(text: &str) -> Option<String> {
    peer_register::decode(text).map(peer_register::encode)
}
