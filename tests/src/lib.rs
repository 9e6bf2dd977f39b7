//! What polyraft's tests above unit level are made of.
//!
//! ```text
//! machines ─→ cluster: real nodes, real QUIC, real LMDB, one process ─→ tests/node_*.rs
//!             └ proxy: a link that goes silent when told to
//! conformance: what any `StateMachine` must hold, for embedders too
//! ```

pub mod cluster;
pub mod conformance;
pub mod machines;
pub mod proxy;
