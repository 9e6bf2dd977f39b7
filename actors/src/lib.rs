//! The actors around polyraft's core: each owns one thing, waits for messages and nothing else.
//!
//! ```text
//! Tick ─TickGroup→ Group ─Append→ LogWriter ─AppendPersisted→ Group
//!                    └──Apply→ Applier ─Flush→ StateFlusher
//! ```
//!
//! Threads, clocks and randomness come through ports ([`spawner::Spawner`], [`clock::Clock`],
//! [`entropy::Entropy`], [`workers::Workers`]), so that these very actors also run on one thread
//! under simulated time. No `if` about terms or quorums belongs here: the core decides.

#![forbid(unsafe_code)]

pub mod actor_target;
pub mod applier;
pub mod apply_bench;
mod apply_slice;
pub mod batcher;
pub mod clock;
pub mod directory;
mod election_watch;
pub mod entropy;
pub mod fault_desk;
pub mod gauge_share;
pub mod group;
pub mod group_life;
pub mod guard;
pub mod lent_log;
pub mod link_events;
pub mod log_writer;
pub mod log_writer_progress;
mod machine_lease;
pub mod mailbox;
pub mod metric_catalogue;
pub mod node_parts;
pub mod peer_link;
pub mod proposal;
pub mod proposal_trace;
pub mod spawner;
mod stage_clock;
pub mod stall;
pub mod state_flusher;
pub mod supervisor;
pub mod tick;
pub mod watchdog;
pub mod workers;

#[cfg(test)]
mod testing;
