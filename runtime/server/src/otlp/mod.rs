//! Traces: spans of requests and of the stages of their proposals, to an OpenTelemetry collector.
//!
//! ```text
//! gRPC ─traceparent→ request_span ─TraceContext→ proposal ⇢ leader ─ProposalTrace→ stage_spans
//!                         └──────────→ batch processor ←───────────────────────────────┘
//!                                            └─OTLP over gRPC, in the background→ collector
//! ```
//!
//! Only with the feature `otlp`. The standard variables of OpenTelemetry say everything there is to say
//! (`environment.rs`); an endpoint turns it on.
//!
//! Promise: a collector that is slow or gone costs spans, never a request, and one line in the log until
//! it is back. What is queued at the end is sent if that takes no longer than `FAREWELL_MAX`.
//! Source: OpenTelemetry specification, "SDK environment variables", "OTLP exporter configuration".

mod environment;
mod export_watch;
mod request_span;
mod stage_spans;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Key, StringValue, Value};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use polyraft::{NodeId, TraceSink};

use self::environment::Environment;
use self::export_watch::ExportWatch;
use self::request_span::RequestTracer;
use self::stage_spans::StageSpans;

/// Longest that the end of the process waits for a collector to take the last spans.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// The name of the service where the environment gives none, and of the scope of every span.
const SERVICE: &str = "polyraft";

/// Why traces cannot be exported as the environment asks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// A variable says what cannot be done.
    #[error("{variable} = {value:?}: {rule}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it breaks.
        rule: &'static str,
    },
    /// The exporter finds something else to be wrong.
    #[error("traces cannot be exported as the environment asks")]
    Exporter(#[from] ExporterBuildError),
}

/// Exports what this process traces.
#[derive(Debug, Clone)]
pub struct Otlp {
    provider: SdkTracerProvider,
}

impl Otlp {
    /// An exporter as the environment asks for it; `None` if it names no endpoint. Connects only once
    /// there are spans. Call it within a tokio runtime.
    ///
    /// # Errors
    /// A variable's value cannot be followed.
    pub fn from_env() -> Result<Option<Self>, OtlpError> {
        if !Environment::of_process().check()? {
            return Ok(None);
        }
        let exporter = ExportWatch::new(SpanExporter::builder().with_tonic().build()?);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource())
            .build();
        Ok(Some(Self { provider }))
    }

    /// Takes the stages of proposals.
    pub fn sink(&self) -> Arc<dyn TraceSink> {
        Arc::new(StageSpans::new(self.tracer()))
    }

    /// Traces the requests to `routes`, which `node` serves.
    pub(crate) fn around(&self, routes: Router, node: NodeId) -> Router {
        let tracer = Arc::new(RequestTracer::new(self.tracer(), node));
        routes.layer(from_fn_with_state(tracer, request_span::trace))
    }

    /// Sends what is queued, for as long as the end may wait.
    pub async fn stop(self) {
        let farewell = move || self.provider.shutdown_with_timeout(FAREWELL_MAX);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(farewell).await {
            tracing::warn!(%error, "the last traces may not have been exported");
        }
    }

    fn tracer(&self) -> SdkTracer {
        self.provider.tracer(SERVICE)
    }
}

/// Who sends the spans: as the environment says, else by this program's name.
fn resource() -> Resource {
    let key = Key::from_static_str("service.name");
    let found = Resource::builder().build().get(&key);
    // What the SDK falls back to.
    let is_unnamed = found.is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let resource = Resource::builder();
    if is_unnamed { resource.with_service_name(SERVICE) } else { resource }.build()
}

/// A number as an attribute; OpenTelemetry has signed ones only.
fn number(value: u64) -> Value {
    Value::I64(i64::try_from(value).unwrap_or(i64::MAX))
}

fn text(value: impl Into<StringValue>) -> Value {
    Value::String(value.into())
}
