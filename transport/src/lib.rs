//! polyraft's transports: QUIC between processes, memory within one.
//!
//! ```text
//! PeerLink ─try_send→ [lane queue] ─writer→ stream ⇄ stream ─reader→ on_frame → groups
//! ```
//!
//! Both adapters implement [`polyraft_core::ports::Transport`] and pass one contract suite
//! (`tests/contract.rs`). Promise: `try_send` never waits; order is kept within a lane of one
//! connection; a blocked lane does not delay the others. Frames may be lost when a connection is.
//! Not here: what frames contain, batching messages into frames, and what to do about a lost one.
//! The bytes on the wire are described in `WIRE.md`.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may fail where it stands"))]

mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod lane_queue;
mod memory;
mod node_uri;
mod quic;
mod traffic;

pub use memory::{MemoryNetwork, MemoryTransport};
pub use node_uri::{ClusterName, NodeUri, NodeUriError};
pub use quic::{
    ConfigError, Identity, IdentityError, IdentityPart, Mtu, QuicConfig, QuicTransport, Refusal,
    SUPPORTED_WIRE_VERSIONS, StartError, WireVersion,
};
