//! Request figures: how many requests of which method ended with which code, and how long they took.
//!
//! ```text
//! gRPC ─→ [figures] ─→ services ─→ header `grpc-status`, or none for OK ─→ counted
//! ```
//!
//! Every method answers at once or not at all (there are no streams), so that the headers say it.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use metrics::{Counter, Histogram};
use polyraft::metric_catalogue::{GRPC_CODES as CODES, REQUEST_METHODS as METHODS};

/// The last of the methods: every one that has no series of its own.
const OTHER: &str = METHODS[METHODS.len() - 1];
/// The code of what cannot be told.
const UNKNOWN: usize = 2;

/// Where the figures go.
#[derive(Debug)]
pub(super) struct RequestFigures {
    methods: [MethodFigures; METHODS.len()],
}

#[derive(Debug)]
struct MethodFigures {
    codes: [Counter; CODES.len()],
    duration: Histogram,
}

impl RequestFigures {
    /// To the process's recorder.
    pub(super) fn new() -> Arc<Self> {
        let of = |method: &'static str| {
            MethodFigures {
            codes: CODES.map(|code| {
                metrics::counter!("polyraft_requests_total", "method" => method, "code" => code)
            }),
            duration: metrics::histogram!("polyraft_request_duration_seconds", "method" => method),
        }
        };
        Arc::new(Self { methods: METHODS.map(of) })
    }
}

/// The place in [`METHODS`] of a path such as `/etcdserverpb.KV/Put`.
fn method_of(path: &str) -> usize {
    let name = path.strip_prefix("/etcdserverpb.KV/").unwrap_or(OTHER);
    METHODS.iter().position(|method| *method == name).unwrap_or(METHODS.len() - 1)
}

/// The place in [`CODES`] of what a response says.
pub(crate) fn code_of(response: &Response) -> usize {
    let Some(status) = response.headers().get("grpc-status") else { return 0 };
    let code = status.to_str().ok().and_then(|status| status.parse().ok());
    code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN)
}

/// Counts one request.
pub(super) async fn count(
    State(figures): State<Arc<RequestFigures>>,
    request: Request,
    next: Next,
) -> Response {
    let of_method = &figures.methods[method_of(request.uri().path())];
    let started = Instant::now();
    let response = next.run(request).await;
    of_method.codes[code_of(&response)].increment(1);
    of_method.duration.record(started.elapsed());
    response
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn methods_are_found_by_their_path() {
        let names = ["/etcdserverpb.KV/Put", "/etcdserverpb.KV/Compact", "/x.KV/Put", "/"];
        assert_eq!(names.map(|path| METHODS[method_of(path)]), ["Put", "Compact", OTHER, OTHER]);
    }

    #[test]
    fn codes_are_those_of_the_status() {
        let of = |status: Status| CODES[code_of(&status.into_http())];
        assert_eq!(of(Status::unavailable("no leader")), "Unavailable");
        assert_eq!(of(Status::unauthenticated("who")), "Unauthenticated");
        assert_eq!(CODES[code_of(&Response::default())], "OK");
        let odd = Response::builder().header("grpc-status", "99").body(axum::body::Body::empty());
        assert_eq!(CODES[code_of(&odd.unwrap())], "Unknown");
    }
}
