//! Status page: one node, live, in a browser.
//!
//! | path | answers |
//! |---|---|
//! | `/` | the page: one file that needs nothing else, readable without a token because it holds no data |
//! | `/summary` | what the page shows, as JSON: see [`crate::summary`] |
//! | `/events?after=SEQ` | rows of the event log after a number, ascending: see [`crate::event_log`] |
//!
//! ```text
//! browser ─GET /→ page.html ─every second: GET /summary→ Summary
//!                     └ with chaos enabled: POST, DELETE /chaos/faults
//! ```
//!
//! Promise: the page runs only the script that it came with, talks only to the address that it came
//! from, and cannot be framed. What the node says gets onto it as text, never as markup. A token that it
//! is given stays in its memory.
//! Not here: who may ask ([`crate::access`]), and what faults do ([`crate::chaos_routes`]).

use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

use crate::admin::Admin;
use crate::event_log::Event;
use crate::summary::Summary;

const PAGE: &str = include_str!("page.html");
/// What stands in the page for the nonce of one answer.
const NONCE: &str = "{nonce}";
/// Rows in one answer.
const EVENTS_MAX: usize = 200;

/// The page itself.
pub(crate) fn open_routes() -> Router<Admin> {
    Router::new().route("/", get(page))
}

/// What it shows.
pub(crate) fn read_routes() -> Router<Admin> {
    Router::new().route("/summary", get(summary)).route("/events", get(events))
}

async fn page() -> Response {
    // What was not there when the page was written cannot know it.
    let nonce = format!("{:032x}", rand::random::<u128>());
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy(&nonce)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (headers, PAGE.replace(NONCE, &nonce)).into_response()
}

fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}

async fn summary(State(admin): State<Admin>) -> Json<Summary> {
    Json(admin.summary.look(&admin.node, &admin.metrics, admin.groups_expected))
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn events(
    State(admin): State<Admin>,
    Query(After { after }): Query<After>,
) -> Json<Vec<Event>> {
    Json(admin.summary.events().after(after, EVENTS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the page works under its own policy, with nothing from elsewhere. Method: look for what
    /// the policy would block, and for ways from text to markup.
    #[test]
    fn the_page_needs_nothing_else_and_makes_no_markup_of_text() {
        for tag in ["<script", "<style"] {
            let tags: Vec<_> = PAGE.split(tag).skip(1).collect();
            assert_eq!(tags.len(), 1, "{tag}");
            assert!(tags[0].starts_with(" nonce=\"{nonce}\">"), "{tag}");
        }
        let forbidden = [
            "http://",
            "https://",
            "src=",
            "style=\"",
            "onclick=",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "localStorage",
            "sessionStorage",
        ];
        for word in forbidden {
            assert!(!PAGE.contains(word), "{word}");
        }
        assert!(PAGE.len() < 64 << 10, "{} bytes", PAGE.len());
    }

    #[test]
    fn the_policy_lets_one_script_run_and_nothing_in_from_elsewhere() {
        let policy = policy("abc");
        assert!(policy.starts_with("default-src 'none'; script-src 'nonce-abc'; "), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    }
}
