//! The admin interface's fault injection, under `/chaos`; there only if the node was started with
//! `--chaos`, and for the destroy role alone ([`crate::access`]).
//!
//! | request | answers |
//! |---|---|
//! | `POST /chaos/faults`, a fault as JSON | 200 `{"id": 7}`; it acts from now on |
//! | `GET /chaos/faults` | 200, every fault in force and those that ended last: `[{"id":7,"fault":{…},"since_ms":…,"ended_ms":null,"effects":{"frames_dropped":123,…}}]` |
//! | `DELETE /chaos/faults/7` | 200 `{"ended": 1}`, or 0 if it had ended; 404 if there is none |
//! | `DELETE /chaos/faults` | 200 `{"ended": 3}`: all that were in force |
//!
//! Every request carries `Authorization: Bearer TOKEN`, or is answered 401; the token is that of
//! `--chaos-token-file` or of `server.admin_access.destroy_token_file`. A fault that cannot be read, or
//! breaks a rule, is answered 400 with a line that names the field, the value and the rule; one that
//! cannot act now (its actor is between two lives or its mailbox is full, or too many faults are in
//! force) 503: try again. Without `--chaos` every path is 404. Times are milliseconds since the Unix
//! epoch, durations are written as `50ms` or `2s`.
//!
//! Faults, of which a `?` marks what may be absent:
//!
//! ```text
//! {"kind":"kill_actor","actor":A,"group":3?,"peer":2?,"mode":"panic"|"stop"}      ended at once
//! {"kind":"stall_actor","actor":A,"group":3?,"peer":2?,"for":"2s"}                ends by itself
//! {"kind":"link","peer":2,"direction":"out"|"in"|"both","lane":"control"|"append"|"request"?,
//!  "cut":true?,"delay":"50ms"?,"jitter":"10ms"?,"loss_per_mille":100?,"duplicate_per_mille":100?,
//!  "reorder_per_mille":100?,"bandwidth_bytes_per_s":100000?}
//! {"kind":"disk","store":"log"|"state"|"both","delay":"100ms"?,"stall":true?,"error":"eio"?,"full":true?}
//! {"kind":"clock","step":"+1h"|"-30s"}                                            until it is ended
//! ```
//!
//! `A` is `group`, `batcher` or `applier`, with `group`; `peer_link`, with `peer`; or `log_writer`,
//! `state_flusher`, `tick`, `supervisor` or `watchdog`. What each fault does, and its effects, are told
//! by [`polyraft::chaos`].
//!
//! Not here: the faults themselves.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use axum::{Json, Router};
use polyraft::chaos::{Chaos, ChaosError, Fault, FaultId, FaultRecord};
use serde_json::json;

use crate::access::{Access, AccessRole};

/// More than any fault takes.
const FAULT_BYTES_MAX: usize = 16 << 10;

/// The routes over a node's chaos, for whoever may destroy.
pub(crate) fn routes(chaos: Chaos, access: &Access) -> Router {
    let routes = Router::new()
        .route("/chaos/faults", post(inject).get(list).delete(end_all))
        .route("/chaos/faults/{id}", delete(end))
        .layer(DefaultBodyLimit::max(FAULT_BYTES_MAX))
        .with_state(chaos);
    access.guard(AccessRole::Destroy, routes)
}

async fn inject(State(chaos): State<Chaos>, body: Bytes) -> Response {
    let injected = Fault::from_json(&body).map_err(ChaosError::from).and_then(|f| chaos.inject(f));
    match injected {
        Ok(id) => Json(json!({ "id": id })).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn list(State(chaos): State<Chaos>) -> Json<Vec<FaultRecord>> {
    Json(chaos.faults())
}

async fn end(State(chaos): State<Chaos>, Path(id): Path<String>) -> Response {
    let unknown = || (StatusCode::NOT_FOUND, format!("there is no fault {id}\n")).into_response();
    let Ok(raw) = id.parse() else { return unknown() };
    match chaos.end(FaultId::new(raw)) {
        Ok(was_in_force) => Json(json!({ "ended": u32::from(was_in_force) })).into_response(),
        Err(_) => unknown(),
    }
}

async fn end_all(State(chaos): State<Chaos>) -> Response {
    Json(json!({ "ended": chaos.end_all() })).into_response()
}

fn refusal(error: &ChaosError) -> Response {
    let status = match error {
        ChaosError::Fault(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{error}\n")).into_response()
}
