//! The gRPC routes: what is served, and a plain refusal of everything else.

use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;

use super::cluster::ClusterService;
use super::keyspaces::Keyspaces;
use super::kv::KvService;
use super::maintenance::MaintenanceService;
use super::request_figures::{self, RequestFigures};
use crate::otlp::Otlp;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;

/// Frames above this are refused unread. Above etcd's request limit, so that a request somewhat too
/// large still gets etcd's answer.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// Ranges have no limit of their own, as in etcd.
const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;

/// The etcd v3 API over `keyspaces`, for a tonic server, traced if there is somewhere to trace to.
pub fn routes(keyspaces: Keyspaces, otlp: Option<&Otlp>) -> Routes {
    let node = keyspaces.node().id();
    let kv = KvServer::new(KvService(keyspaces.clone()))
        .max_decoding_message_size(FRAME_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let served = Routes::new(kv)
        .add_service(ClusterServer::new(ClusterService(keyspaces.clone())))
        .add_service(MaintenanceServer::new(MaintenanceService(keyspaces)));
    let counted = from_fn_with_state(RequestFigures::new(), request_figures::count);
    let served = served.into_axum_router().fallback(not_served).layer(counted);
    Routes::from(match otlp {
        Some(otlp) => otlp.around(served, node),
        None => served,
    })
}

async fn not_served(uri: Uri) -> impl IntoResponse {
    let method = uri.path().trim_start_matches('/');
    Status::unimplemented(format!("polyraft: {method} is not served")).into_http::<Body>()
}
