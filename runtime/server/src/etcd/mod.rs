//! The etcd v3 API, one keyspace per Raft group.
//!
//! ```text
//! gRPC ─→ validate ─→ KeyspaceHandle ─propose / read→ group ─→ answer ─→ header, status
//! ```
//!
//! A client picks its keyspace with the metadata `polyraft-keyspace`; none means `default`. Requests
//! may go to any node that holds a replica: the runtime forwards them to the leader.
//!
//! Promise: codes and messages of refusals are etcd's. A write whose outcome is unknown says so.
//! Not served: Watch, Lease, Auth, Lock, Election, membership changes; all answer `Unimplemented`.

mod cluster;
mod keyspaces;
mod kv;
mod maintenance;
mod request_figures;
mod routes;
mod statuses;
mod validate;

pub use keyspaces::{DEFAULT_KEYSPACE, KEYSPACE_METADATA, Keyspaces};
#[cfg(feature = "otlp")]
pub(crate) use request_figures::code_of;
pub use routes::routes;
#[cfg(test)]
pub(crate) use statuses::of_refusal;
pub(crate) use statuses::was_not_done;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use validate::{check_delete_range, check_put, check_range, check_txn, is_read_only};
