//! polyraft's tests above unit level: what they share.
//!
//! ```text
//! testdata/*.txt ─→ trace ─┐
//!                          ├─→ host: the production replica over the production journal
//! one u64 seed ───→ sim ───┘        └─→ invariants
//! memory_node: whole nodes, production actors, one paused thread, behind a gate
//! one u64 seed ─→ node_sim ─→ memory_node; what clients heard ─→ linearizability
//! machines ─→ cluster: real nodes, real QUIC, real LMDB, one process ─→ tests/node_*.rs
//!             └ proxy: a link that goes silent when told to
//!             └ rows: requirement rows that are figures, measured on it (bin/rows.rs)
//! conformance: what any `StateMachine` must hold, for embedders too
//! ```

#![forbid(unsafe_code)]

pub mod actor_kill;
pub mod cluster;
pub mod conformance;
pub mod gate;
pub mod host;
pub mod invariants;
pub mod ledger;
pub mod linearizability;
pub mod lossy_transport;
pub mod machines;
pub mod memory_node;
pub mod node_sim;
pub mod proxy;
pub mod rows;
pub mod sim;
pub mod store_faults;
pub mod trace;
