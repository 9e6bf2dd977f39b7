//! The admin HTTP interface, for probes, Prometheus and `polyraft status`.
//!
//! | path | answers |
//! |---|---|
//! | `/livez` | 200 while the process serves at all; never asks a group (OB-6) |
//! | `/readyz` | 200 if the stores work and every local group is healthy and has a leader, else 503 and why |
//! | `/metrics` | Prometheus text |
//! | `/status` | the node, its links and its groups as JSON |
//! | `/chaos/…` | fault injection, if it is enabled: see [`crate::chaos_routes`] |
//!
//! Promise: nothing here waits for a group, a disk or a peer (RT-7, OB-2). It is unauthenticated, but
//! for `/chaos`: bind it to an address that only operators reach.

use std::future::Future;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use polyraft::Node;
use tokio::net::TcpListener;

use crate::chaos_routes::{self, ChaosToken};
use crate::report::{NodeReport, readiness};

/// What the routes answer from.
#[derive(Clone)]
pub struct Admin {
    /// The node.
    pub node: Node,
    /// The process's metrics.
    pub metrics: PrometheusHandle,
    /// Groups the node is configured to have; fewer is not ready.
    pub groups_expected: usize,
    /// What lets its bearer inject faults, if the node was started for that.
    pub chaos_token: Option<ChaosToken>,
}

impl Admin {
    /// Serves on `listener` until `stopped`, and then what is in progress.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn serve(
        self,
        listener: TcpListener,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        axum::serve(listener, self.routes()).with_graceful_shutdown(stopped).await
    }

    fn routes(self) -> Router {
        let chaos = self.node.chaos().cloned().zip(self.chaos_token.clone());
        let chaos = chaos.map(|(chaos, token)| chaos_routes::routes(chaos, token));
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/status", get(status))
            .with_state(self)
            .merge(chaos.unwrap_or_default())
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    match readiness(&admin.node.status().into(), admin.groups_expected) {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}

async fn metrics(State(admin): State<Admin>) -> String {
    admin.metrics.render()
}

async fn status(State(admin): State<Admin>) -> Json<NodeReport> {
    Json(admin.node.status().into())
}
