//! polyraft: an embeddable, actor-based multi-Raft runtime.
//!
//! ```text
//! embedder ─propose, read→ GroupHandle ─→ one Raft group of thousands ─→ your StateMachine
//! ```
//!
//! A [`Node`] is one process's part of a cluster and hosts a replica of every group that names it.
//! A [`GroupHandle`] proposes commands and reads state; `Ok` means committed **and** applied, with
//! the state machine's answer. Your [`StateMachine`] is synchronous and deterministic; the runtime
//! keeps its [`State`] durable.

#![forbid(unsafe_code)]

pub mod certificates;
mod config;
mod config_batching;
mod config_cluster;
mod config_error;
mod config_file;
mod config_limits;
mod group_handle;
mod node;
mod node_error;
mod node_start;
mod node_status;
mod profile;

pub use config::{NodeConfig, NodeConfigBuilder, TlsPaths};
pub use config_batching::{BatchingConfig, BatchingPreset};
pub use config_cluster::{ClusterConfig, ClusterConfigBuilder, GroupSpec};
pub use config_error::{ConfigError, ConfigErrors};
pub use config_limits::{LimitsConfig, StorageConfig, ThreadsConfig};
pub use group_handle::{Applied, AppliedBatch, GroupHandle};
pub use node::Node;
pub use node_error::{CreateGroupError, StartError};
pub use node_status::{LogWriterStatus, NodeStatus};
pub use polyraft_core::entry::{Configuration, Member};
pub use polyraft_core::error::{ProposeError, ReadError};
pub use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
pub use polyraft_core::limits;
pub use polyraft_core::ports::{LinkStatus, LinkTraffic};
pub use polyraft_core::propose_batcher::{BatcherStats, FlushReason};
pub use polyraft_core::state_machine::{
    ApplyContext, ApplyError, Response, State, StateError, StateMachine,
};
pub use polyraft_core::status::{GroupEvent, GroupStatus, Health, Role};
pub use profile::{EffectiveTiming, Profile, TimingConfig};
