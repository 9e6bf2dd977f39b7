//! Request span: one per gRPC request that is sampled, child of the client's if it sent one.
//!
//! ```text
//! traceparent ─→ [sampler] ─yes→ span ─→ TraceContext in the request's extensions ─→ keyspace
//! ```
//!
//! A client's own decision holds unless the sampler is one that ignores parents.
//! Source: OpenTelemetry semantic conventions for RPC; W3C Trace Context.

use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanContext, SpanKind, Status, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use polyraft::{NodeId, TraceContext};

use super::{number, text};
use crate::etcd::{DEFAULT_KEYSPACE, KEYSPACE_METADATA, code_of};

/// Requests outside of what is served share a name: clients choose paths.
const OTHER: &str = "other";
const SERVED: &str = "etcdserverpb.";
/// gRPC codes that are the server's fault: unknown, deadline exceeded, unimplemented, internal,
/// unavailable, data loss.
const FAULTS: [usize; 6] = [2, 4, 12, 13, 14, 15];

/// Begins the spans of one node's requests.
#[derive(Debug)]
pub(super) struct RequestTracer {
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    node: NodeId,
}

impl RequestTracer {
    pub(super) fn new(tracer: SdkTracer, node: NodeId) -> Self {
        Self { tracer, propagator: TraceContextPropagator::new(), node }
    }

    fn begin(&self, request: &Request) -> impl Span + use<> {
        let headers = Headers(request.headers());
        let parent = self.propagator.extract_with_context(&Context::new(), &headers);
        let keyspace = headers.get(KEYSPACE_METADATA).unwrap_or(DEFAULT_KEYSPACE);
        let attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("polyraft.keyspace", text(keyspace.to_owned())),
            KeyValue::new("polyraft.node", number(self.node.get())),
        ];
        let name = name_of(request.uri().path()).to_owned();
        let span = self.tracer.span_builder(name).with_kind(SpanKind::Server);
        span.with_attributes(attributes).start_with_context(&self.tracer, &parent)
    }
}

/// Traces one request.
pub(super) async fn trace(
    State(tracer): State<Arc<RequestTracer>>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut span = tracer.begin(&request);
    if let Some(context) = sampled(span.span_context()) {
        request.extensions_mut().insert(context);
    }
    // A request that is given up drops the span, which ends it.
    let response = next.run(request).await;
    let code = code_of(&response);
    span.set_attribute(KeyValue::new("rpc.grpc.status_code", number(code as u64)));
    if FAULTS.contains(&code) {
        span.set_status(Status::error(""));
    }
    span.end();
    response
}

/// The method of a path such as `/etcdserverpb.KV/Put`.
fn name_of(path: &str) -> &str {
    let method = path.strip_prefix('/').filter(|method| method.starts_with(SERVED));
    method.unwrap_or(OTHER)
}

/// The context for proposals, if the span is to be exported.
fn sampled(span: &SpanContext) -> Option<TraceContext> {
    let trace_id = NonZeroU128::new(u128::from_be_bytes(span.trace_id().to_bytes()))?;
    let span_id = NonZeroU64::new(u64::from_be_bytes(span.span_id().to_bytes()))?;
    span.is_sampled().then_some(TraceContext { trace_id, span_id })
}

/// Where the client's context is.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceFlags, TraceState};

    use super::*;

    #[test]
    fn paths_that_clients_choose_share_a_name() {
        let names = ["/etcdserverpb.KV/Put", "/x/etcdserverpb.KV/Put", "", "/"].map(name_of);
        assert_eq!(names, ["etcdserverpb.KV/Put", OTHER, OTHER, OTHER]);
    }

    #[test]
    fn only_what_is_sampled_goes_with_a_proposal() {
        let context = |flags| {
            let (trace, span) = (7_u128.into(), 9_u64.into());
            sampled(&SpanContext::new(trace, span, flags, false, TraceState::default()))
        };
        let expected = "00-00000000000000000000000000000007-0000000000000009-01";
        let found = context(TraceFlags::SAMPLED).map(|context| context.to_string());
        assert_eq!(found.as_deref(), Some(expected));
        assert_eq!(context(TraceFlags::NOT_SAMPLED), None);
        assert_eq!(sampled(&SpanContext::NONE), None);
    }
}
