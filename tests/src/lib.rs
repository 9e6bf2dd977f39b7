//! polyraft's tests above unit level: what they share.
//!
//! ```text
//! testdata/*.txt ─→ trace ─┐
//!                          ├─→ host: the production replica over the production journal
//! one u64 seed ───→ sim ───┘        └─→ invariants
//! memory_node: whole nodes, production actors, one paused thread
//! ```

#![forbid(unsafe_code)]

pub mod host;
pub mod ledger;
pub mod lossy_transport;
pub mod memory_node;
pub mod trace;
