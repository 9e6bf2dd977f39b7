//! What stands in for `otlp` in a build without that feature: there is never an exporter, and who
//! configures one is told.

use std::sync::Arc;

use axum::Router;
use polyraft::{NodeId, TraceSink};

/// Variables that ask for traces.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Nothing goes wrong here.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {}

/// There is none.
#[derive(Debug, Clone)]
pub enum Otlp {}

impl Otlp {
    /// `None`, and a warning if the environment asks for more.
    ///
    /// # Errors
    /// None.
    pub fn from_env() -> Result<Option<Self>, OtlpError> {
        let asked =
            ENDPOINTS.iter().find(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()));
        if let Some(variable) = asked {
            tracing::warn!(variable, "traces are not exported: built without the feature `otlp`");
        }
        Ok(None)
    }

    /// Takes the stages of proposals.
    pub fn sink(&self) -> Arc<dyn TraceSink> {
        match *self {}
    }

    /// Traces the requests to `routes`, which `node` serves.
    pub(crate) fn around(&self, _: Router, _: NodeId) -> Router {
        match *self {}
    }

    /// Sends what is queued.
    pub async fn stop(self) {
        match self {}
    }
}
