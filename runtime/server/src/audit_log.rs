//! Audit log: who asked the admin interface for what, and what came of it.
//!
//! ```text
//! answered request ─→ log target `polyraft::audit`
//!                  └→ the audit file, if there is one: a line of JSON, written before the answer leaves
//! ```
//!
//! A line: `{"time":"2026-01-31T12:00:00.000Z","peer":"127.0.0.1:4711","role":"destroy",
//! "method":"POST","path":"/chaos/faults","status":200,"outcome":"done"}`.
//!
//! Promise: one line per request that may change something, whether it was allowed or not, and per
//! request that was refused; it survives the process, if not a power cut. Nothing that a caller sends
//! can begin a line of its own. The file is only appended to; rotate it by copying and truncating. A
//! file that cannot be written is an error in the log and holds nobody up. Never in it: tokens, bodies.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::http::{Method, StatusCode};
use serde::{Serialize, Serializer};

use crate::access::AccessRole;

/// What of a path is kept, in characters.
const PATH_CHARS_MAX: usize = 256;
/// For its owner, and to be read by its group.
const FILE_MODE: u32 = 0o640;

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It was carried out.
    Done,
    /// The caller may not.
    Refused,
    /// It was allowed, and could not be carried out.
    Failed,
}

impl Outcome {
    fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Refused,
            status if status.is_client_error() || status.is_server_error() => Self::Failed,
            _ => Self::Done,
        }
    }
}

/// One answered request.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AuditRecord {
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    peer: Option<SocketAddr>,
    role: Option<AccessRole>,
    method: String,
    path: String,
    status: u16,
    outcome: Outcome,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

impl AuditRecord {
    /// A request for `path`, which came from `peer`, whose token had `role`, if any.
    pub(crate) fn new(
        peer: Option<SocketAddr>,
        role: Option<AccessRole>,
        (method, path): (&Method, &str),
        status: StatusCode,
    ) -> Self {
        Self {
            time: SystemTime::now(),
            peer,
            role,
            method: method.to_string(),
            path: path.chars().take(PATH_CHARS_MAX).collect(),
            status: status.as_u16(),
            outcome: Outcome::of(status),
        }
    }

    /// Whether there is to be a line: for whatever is not merely looked at.
    pub(crate) fn is_due(&self) -> bool {
        let looks = matches!(self.method.as_str(), "GET" | "HEAD");
        !looks || self.outcome == Outcome::Refused
    }

    fn line(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are always JSON") + "\n"
    }
}

/// Where records go. The default has no file.
#[derive(Debug, Default, Clone)]
pub(crate) struct AuditLog {
    file: Option<Arc<Mutex<File>>>,
}

impl AuditLog {
    /// Appends to the file at `path`, which is made if need be.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).mode(FILE_MODE).open(path)?;
        Ok(Self { file: Some(Arc::new(Mutex::new(file))) })
    }

    /// Writes a record to the log and to the file. Dropping the future may lose neither.
    pub(crate) async fn write(&self, record: AuditRecord) {
        let role = record.role.map(AccessRole::as_str);
        tracing::info!(
            target: "polyraft::audit",
            peer = record.peer.map(tracing::field::display),
            role,
            method = record.method,
            path = record.path,
            status = record.status,
            outcome = ?record.outcome,
            "admin request"
        );
        let Some(file) = self.file.clone() else { return };
        let written = tokio::task::spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(record.line().as_bytes())
        });
        if let Ok(Err(error)) = written.await {
            tracing::error!(target: "polyraft::audit", %error, "the audit file cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(method: Method, path: &str, status: StatusCode) -> AuditRecord {
        let peer = Some(SocketAddr::from(([127, 0, 0, 1], 4711)));
        let time = SystemTime::UNIX_EPOCH;
        let asked = (&method, path);
        AuditRecord { time, ..AuditRecord::new(peer, Some(AccessRole::Destroy), asked, status) }
    }

    #[test]
    fn a_line_tells_when_who_what_and_the_outcome() {
        assert_eq!(
            record(Method::POST, "/chaos/faults", StatusCode::OK).line(),
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"peer\":\"127.0.0.1:4711\",\"role\":\"destroy\",\
             \"method\":\"POST\",\"path\":\"/chaos/faults\",\"status\":200,\"outcome\":\"done\"}\n"
        );
        for (status, outcome) in [
            (StatusCode::UNAUTHORIZED, "refused"),
            (StatusCode::FORBIDDEN, "refused"),
            (StatusCode::BAD_REQUEST, "failed"),
            (StatusCode::SERVICE_UNAVAILABLE, "failed"),
            (StatusCode::NO_CONTENT, "done"),
        ] {
            let line = record(Method::DELETE, "/", status).line();
            assert!(line.contains(&format!("\"outcome\":\"{outcome}\"")), "{line}");
        }
    }

    #[test]
    fn a_path_cannot_begin_a_line_nor_fill_the_disk() {
        let path = "/\n{\"role\":\"read\"}".to_owned() + &"x".repeat(10_000);
        let line = record(Method::POST, &path, StatusCode::NOT_FOUND).line();
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.len() < 600, "{} bytes", line.len());
    }

    #[test]
    fn looking_leaves_a_line_only_when_it_is_refused() {
        let due = |method, status| record(method, "/status", status).is_due();
        assert!(!due(Method::GET, StatusCode::OK) && !due(Method::HEAD, StatusCode::OK));
        assert!(!due(Method::GET, StatusCode::SERVICE_UNAVAILABLE));
        assert!(due(Method::GET, StatusCode::UNAUTHORIZED));
        for status in [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED] {
            assert!(due(Method::POST, status) && due(Method::DELETE, status));
        }
    }
}
