//! polyraft's core: everything that decides, nothing that waits.
//!
//! Inputs and the time go in, outputs come out. There is no clock, no randomness, no disk, no
//! network and no thread here; the shells in `polyraft-actors` bring those, through [`ports`].

#![forbid(unsafe_code)]

mod admission;
mod append_window;
pub mod apply_queue;
pub mod batch;
pub mod batch_config;
pub mod compaction;
pub mod conf_change;
mod disk_stall;
pub mod election_timer;
pub mod entry;
pub mod error;
pub mod failpoint;
pub mod ids;
pub mod limits;
pub mod log_tail;
pub mod log_tally;
pub mod message;
pub mod outbox;
pub mod output;
pub mod own_storage;
pub mod peer_data;
pub mod pending;
pub mod ports;
pub mod propose_batcher;
mod quorum_contact;
pub mod raft_bridge;
mod raft_log;
pub mod read_queue;
pub mod replica;
pub mod split_mix;
pub mod state_machine;
pub mod status;
pub mod time;
pub mod trace;
pub mod validate;
pub mod wire;
