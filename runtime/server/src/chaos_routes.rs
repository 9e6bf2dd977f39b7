//! The admin interface's fault injection, under `/chaos`; there only if the node was started with
//! `--chaos`, and behind a token.
//!
//! | request | answers |
//! |---|---|
//! | `POST /chaos/faults`, a fault as JSON | 200 `{"id": 7}`; it acts from now on |
//! | `GET /chaos/faults` | 200, every fault in force and those that ended last: `[{"id":7,"fault":{…},"since_ms":…,"ended_ms":null,"effects":{"frames_dropped":123,…}}]` |
//! | `DELETE /chaos/faults/7` | 200 `{"ended": 1}`, or 0 if it had ended; 404 if there is none |
//! | `DELETE /chaos/faults` | 200 `{"ended": 3}`: all that were in force |
//!
//! Every request carries `Authorization: Bearer TOKEN`, or is answered 401. A fault that cannot be
//! read, or breaks a rule, is answered 400 with a line that names the field, the value and the rule;
//! one that cannot act now (its actor is between two lives or its mailbox is full, or too many faults
//! are in force) 503: try again. Without `--chaos` every path is 404. Times are milliseconds since the
//! Unix epoch, durations are written as `50ms` or `2s`.
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
//! Promise: tokens are compared in constant time. Not here: the faults themselves.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use axum::{Json, Router};
use polyraft::chaos::{Chaos, ChaosError, Fault, FaultId, FaultRecord};
use serde_json::json;
use subtle::ConstantTimeEq;

/// More than any fault takes.
const FAULT_BYTES_MAX: usize = 16 << 10;

/// The secret that whoever injects faults must show. It is never printed.
#[derive(Clone)]
pub struct ChaosToken(Arc<str>);

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Its file cannot be read.
    #[error("the chaos token {} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is empty, or could not be sent in a header.
    #[error("a chaos token is one word of visible ASCII characters")]
    Malformed,
}

impl ChaosToken {
    /// Takes a token: one word of visible ASCII characters.
    ///
    /// # Errors
    /// [`TokenError::Malformed`].
    pub fn new(token: &str) -> Result<Self, TokenError> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Malformed);
        }
        Ok(Self(token.into()))
    }

    /// Reads a token from a file; white space around it is ignored.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn from_file(path: &FilePath) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenError::File { path: path.to_owned(), source })?;
        Self::new(text.trim())
    }

    /// Whether the value of an `Authorization` header shows this token. Takes as long for a wrong
    /// token as for the right one of the same length.
    fn is_shown_by(&self, authorization: &[u8]) -> bool {
        let shown = authorization.strip_prefix(b"Bearer ").unwrap_or_default();
        self.0.as_bytes().ct_eq(shown).into()
    }
}

/// The routes over a node's chaos, for whoever shows `token`.
pub(crate) fn routes(chaos: Chaos, token: ChaosToken) -> Router {
    Router::new()
        .route("/chaos/faults", post(inject).get(list).delete(end_all))
        .route("/chaos/faults/{id}", delete(end))
        .layer(DefaultBodyLimit::max(FAULT_BYTES_MAX))
        .layer(middleware::from_fn_with_state(token, authorize))
        .with_state(chaos)
}

async fn authorize(State(token): State<ChaosToken>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION);
    if shown.is_some_and(|value| token.is_shown_by(value.as_bytes())) {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, "this needs the chaos token\n").into_response()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_visible_word_and_shown_whole() {
        assert!(ChaosToken::new("").is_err() && ChaosToken::new("two words").is_err());
        let token = ChaosToken::new("s3cret").unwrap();
        assert!(token.is_shown_by(b"Bearer s3cret"));
        for wrong in
            ["", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crets", "bearer s3cret"]
        {
            assert!(!token.is_shown_by(wrong.as_bytes()), "{wrong:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(ChaosToken::from_file(&path), Err(TokenError::File { .. })));
        std::fs::write(&path, "s3cret\n").unwrap();
        assert!(ChaosToken::from_file(&path).unwrap().is_shown_by(b"Bearer s3cret"));
    }
}
