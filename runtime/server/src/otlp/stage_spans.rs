//! Stage spans: what a leader tells of a sampled proposal, as spans below the request's.
//!
//! ```text
//! request      ├──────────────────────────────────┤
//!   proposed    ├┤
//!   submitted     ├──┤   persisted ├────┤ committed ├──┤ applied ├──┤
//! ```
//!
//! Each is named by the stage that it leads to, as in `polyraft_proposal_stage_duration_seconds`. They
//! are made after the fact, with explicit times, because no actor holds a span while it works. A
//! proposal that failed ends with a span `failed`, from the last stage that it is known to have reached.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span, SpanContext, Status, TraceContextExt, TraceFlags, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use polyraft::{ProposalTrace, TraceContext, TraceSink};

use super::number;

/// How the span of a proposal's end is called that was no stage.
const FAILED: &str = "failed";

/// Makes the spans of stages.
#[derive(Debug)]
pub(super) struct StageSpans(SdkTracer);

impl StageSpans {
    pub(super) fn new(tracer: SdkTracer) -> Self {
        Self(tracer)
    }

    /// A span that began so long ago.
    fn begin(
        &self,
        name: &'static str,
        trace: &ProposalTrace,
        start: SystemTime,
    ) -> impl Span + use<> {
        let mut attributes = vec![
            KeyValue::new("polyraft.group", number(trace.group.get())),
            KeyValue::new("polyraft.node", number(trace.node.get())),
        ];
        if let Ok(index) = trace.outcome {
            attributes.push(KeyValue::new("polyraft.index", number(index.get())));
        }
        let span = self.0.span_builder(name).with_start_time(start).with_attributes(attributes);
        span.start_with_context(&self.0, &parent(trace.context))
    }
}

impl TraceSink for StageSpans {
    fn ended(&self, trace: &ProposalTrace) {
        let now = SystemTime::now();
        let ago = |ago: Duration| now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut reached = now;
        for stage in &trace.stages {
            let start = ago(stage.ago);
            reached = ago(stage.ago.saturating_sub(stage.took));
            self.begin(stage.stage.as_str(), trace, start).end_with_timestamp(reached);
        }
        if let Err(error) = &trace.outcome {
            let mut span = self.begin(FAILED, trace, reached);
            span.set_status(Status::error(error.to_string()));
            span.end_with_timestamp(now);
        }
    }
}

/// The request's span, on whichever node it is.
fn parent(context: TraceContext) -> Context {
    let TraceContext { trace_id, span_id } = context;
    let (trace_id, span_id) = (trace_id.get().into(), span_id.get().into());
    let flags = TraceFlags::SAMPLED;
    let span = SpanContext::new(trace_id, span_id, flags, true, TraceState::default());
    Context::new().with_remote_span_context(span)
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU64, NonZeroU128};
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::{SpanId, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use polyraft::{GroupId, NodeId, ProposeError, Stage, StageSpan};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(spans);
            Ok(())
        }
    }

    fn millis(span: &SpanData) -> u128 {
        span.end_time.duration_since(span.start_time).unwrap().as_millis()
    }

    /// Goal: a proposal that came to nothing is seen to, and where it was. Method: one that lost its
    /// leader after it was submitted.
    #[test]
    fn a_failed_proposal_ends_with_its_error() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let ms = Duration::from_millis;
        let stage = |stage, ago, took| StageSpan { stage, ago: ms(ago), took: ms(took) };
        let group = GroupId::new(4);
        let span_id = NonZeroU64::new(9).unwrap();
        StageSpans::new(provider.tracer("test")).ended(&ProposalTrace {
            context: TraceContext { trace_id: NonZeroU128::MIN, span_id },
            node: NodeId::new(2),
            group,
            outcome: Err(ProposeError::Superseded { group }),
            stages: vec![stage(Stage::Proposed, 30, 10), stage(Stage::Submitted, 20, 5)],
        });
        let spans = kept.0.lock().unwrap();
        let told: Vec<_> = spans.iter().map(|span| (&*span.name, millis(span))).collect();
        assert_eq!(told, [("proposed", 10), ("submitted", 5), ("failed", 15)]);
        assert!(spans.windows(2).all(|pair| pair[0].end_time == pair[1].start_time));
        assert!(spans.iter().all(|span| span.parent_span_id == SpanId::from(9)));
        let error = ProposeError::Superseded { group }.to_string();
        assert_eq!(spans[2].status, Status::error(error));
        assert_eq!(spans[0].status, Status::Unset);
    }
}
