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
//!
//! # Example
//!
//! ```no_run
//! use bytes::Bytes;
//! use polyraft::{ApplyContext, ApplyError, Node, NodeConfig, Response, State, StateMachine};
//!
//! struct Register; // A command replaces the value and answers the one before it.
//!
//! impl StateMachine for Register {
//!     fn apply(&mut self, state: &mut dyn State, _: &ApplyContext, command: &[u8])
//!         -> Result<Response, ApplyError> {
//!         let before = state.get(b"value")?.unwrap_or_default();
//!         state.put(b"value", Bytes::copy_from_slice(command))?;
//!         Ok(Response::Accepted(before))
//!     }
//!
//!     fn query(&self, state: &dyn State, _: &[u8]) -> Result<Bytes, ApplyError> {
//!         Ok(state.get(b"value")?.unwrap_or_default())
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let node = Node::start(NodeConfig::from_toml_file("node.toml")?, |_| Box::new(Register)).await?;
//!     let group = node.group("default").ok_or("not on this node")?;
//!     let applied = group.propose("hello").await?; // Ok: committed, and applied by its leader
//!     println!("{} {:?}", applied.index, group.read("").await?); // linearizable, on any node
//!     node.stop().await;
//!     Ok(())
//! }
//! ```
//!
//! The examples `counter`, `kv`, `metadata_control_plane`, `partitioned_log` and `own_storage` run as
//! they are: they make their own certificates ([`certificates`]) and build their [`NodeConfig`] in code.
//!
//! # Threads
//!
//! A node runs on threads of its own. [`Node`] and [`GroupHandle`] are called from any tokio runtime
//! that has time enabled. Blocking in [`StateMachine::apply`] delays its own group only.

#![forbid(unsafe_code)]

mod call_figures;
mod certificate_files;
pub mod certificates;
pub mod chaos;
mod config;
mod config_batching;
mod config_cluster;
mod config_error;
mod config_file;
mod config_limits;
mod group_figures;
mod group_handle;
mod node;
mod node_error;
mod node_start;
mod node_status;
mod observer;
mod process_figures;
mod profile;
#[doc(hidden)]
pub mod seams;

pub use config::{NodeConfig, NodeConfigBuilder, TlsPaths};
pub use config_batching::{BatchingConfig, BatchingPreset};
pub use config_cluster::{ClusterConfig, ClusterConfigBuilder, GroupSpec};
pub use config_error::{ConfigError, ConfigErrors};
pub use config_limits::{LimitsConfig, StorageConfig, ThreadsConfig};
pub use group_handle::{Applied, AppliedBatch, GroupHandle};
pub use node::Node;
pub use node_error::{CreateGroupError, ReloadError, StartError};
pub use node_status::{CertificateStatus, LogWriterStatus, NodeStatus};
pub use polyraft_actors::metric_catalogue::{self, Stage};
pub use polyraft_actors::proposal_trace::{ProposalTrace, StageSpan, TraceSink};
pub use polyraft_core::entry::{Configuration, Member};
pub use polyraft_core::error::{ProposeError, ReadError};
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub use polyraft_core::failpoint;
pub use polyraft_core::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
pub use polyraft_core::limits;
pub use polyraft_core::own_storage::OwnStorage;
pub use polyraft_core::ports::{CertificateFacts, LinkCertificates, LinkStatus, LinkTraffic};
pub use polyraft_core::propose_batcher::{BatcherStats, FlushReason};
pub use polyraft_core::state_machine::{
    ApplyContext, ApplyError, Response, State, StateError, StateMachine,
};
pub use polyraft_core::status::{GroupEvent, GroupStatus, Health, Role};
pub use polyraft_core::trace::TraceContext;
pub use profile::{EffectiveTiming, Profile, TimingConfig};

/// The README's example compiles too.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
