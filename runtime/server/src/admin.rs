//! The admin HTTP interface, for probes, Prometheus and `polyraft status`.
//!
//! | path | role | answers |
//! |---|---|---|
//! | `/livez` | none | 200 while requests are served and every thread that must never block answers, else 503; never asks a group (OB-6) |
//! | `/readyz` | none | 200 if the stores work and every local group is healthy and has a leader, else 503 and why |
//! | `/` | none | the status page: see [`crate::page`] |
//! | `/summary`, `/events` | read | what it shows |
//! | `/metrics` | read | Prometheus text |
//! | `/status` | read | the node, its links and its groups as JSON |
//! | `/groups?top=20&by=hottest` | read | the first groups, at most 1000, by `hottest`, `lag`, `term` or `name`: see [`crate::group_ranking`]; 400 and why if it is asked otherwise |
//! | `POST /certificates/reload` | operate | 200 once the configured files are in force, 409 and why if they cannot be |
//! | `/chaos/…` | destroy | fault injection, if it is enabled: see [`crate::chaos_routes`] |
//!
//! Roles, their tokens and the audit log are told by [`crate::access`].
//!
//! Promise: nothing that only looks waits for a group, a disk or a peer (RT-7, OB-2).

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use polyraft::Node;
use tokio::net::TcpListener;

use crate::access::{Access, AccessRole};
use crate::chaos_routes;
use crate::group_ranking::{RankedGroup, RankedGroups, Ranking};
use crate::group_rates::GroupRates;
use crate::page;
use crate::report::{GroupReport, NodeReport, readiness};
use crate::summary::SummarySource;

/// A node whose threads have been silent for this long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What the routes answer from.
#[derive(Clone)]
pub struct Admin {
    /// The node.
    pub node: Node,
    /// The process's metrics.
    pub metrics: PrometheusHandle,
    /// Groups the node is configured to have; fewer is not ready.
    pub groups_expected: usize,
    /// Who may do what.
    pub access: Access,
    /// What the status page shows.
    pub summary: SummarySource,
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
        let rates = GroupRates::default();
        let watch = rates.clone().watch(self.node.clone());
        let service = self.routes(rates).into_make_service_with_connect_info::<SocketAddr>();
        tokio::select! {
            served = axum::serve(listener, service).with_graceful_shutdown(stopped) => served,
            never = watch => match never {},
        }
    }

    fn routes(self, rates: GroupRates) -> Router {
        let access = self.access.clone();
        let open = Router::new().route("/livez", get(livez)).route("/readyz", get(readyz));
        let read = Router::new().route("/metrics", get(metrics)).route("/status", get(status));
        let groups =
            Router::new().route("/groups", get(groups)).with_state((self.node.clone(), rates));
        let operate = Router::new().route("/certificates/reload", post(reload_certificates));
        let destroy = self.node.chaos().map(|c| chaos_routes::routes(c.clone(), &access));
        let routes = open
            .merge(page::open_routes())
            .merge(access.guard(AccessRole::Read, read.merge(page::read_routes())))
            .merge(access.guard(AccessRole::Operate, operate))
            .with_state(self)
            .merge(access.guard(AccessRole::Read, groups))
            .merge(destroy.unwrap_or_default());
        access.audited(routes)
    }
}

async fn livez(State(admin): State<Admin>) -> (StatusCode, String) {
    liveness(admin.node.silent_for())
}

/// Whether a node lives whose slowest thread last answered so long ago. What a restart does not heal,
/// such as a lost quorum or a slow disk, is no part of it.
fn liveness(silent_for: Duration) -> (StatusCode, String) {
    if silent_for < SILENCE_MAX {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let reason = format!("a thread has not answered for {} s\n", silent_for.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, reason)
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

async fn groups(
    State((node, rates)): State<(Node, GroupRates)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Json<RankedGroups>, (StatusCode, String)> {
    let ranking = Ranking::from_query(&query);
    let ranking = ranking.map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?;
    let ranked = node.groups().into_iter().map(|group| {
        let report = GroupReport::from(&group.status());
        let rate = rates.of(report.group);
        RankedGroup::new(report, rate)
    });
    Ok(Json(ranking.pick(node.id().get(), ranked.collect())))
}

async fn reload_certificates(State(admin): State<Admin>) -> (StatusCode, String) {
    // Files are read.
    let reloaded = tokio::task::spawn_blocking(move || admin.node.reload_certificates()).await;
    match reloaded {
        Ok(Ok(())) => (StatusCode::OK, "reloaded\n".to_owned()),
        Ok(Err(error)) => {
            let why = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            (StatusCode::CONFLICT, format!("{error}{why}; the old ones stay in force\n"))
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the reload was interrupted\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_until_a_thread_has_been_silent_for_too_long() {
        let just = SILENCE_MAX - Duration::from_millis(1);
        assert_eq!(liveness(just), (StatusCode::OK, "ok\n".to_owned()));
        let (code, reason) = liveness(SILENCE_MAX);
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reason, "a thread has not answered for 15 s\n");
    }
}
