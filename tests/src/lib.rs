//! polyraft's tests above unit level: what they share.
//!
//! ```text
//! testdata/*.txt ─→ trace ─┐
//!                          ├─→ host: the production replica over the production journal
//! one u64 seed ───→ sim ───┘        └─→ invariants
//! ```

#![forbid(unsafe_code)]

pub mod host;
pub mod invariants;
pub mod sim;
pub mod trace;
