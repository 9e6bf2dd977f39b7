//! A node's own faults, through its admin interface: begin, look at their effects, end.
//!
//! ```text
//! POST /chaos/faults → id      GET → effects counted so far      DELETE /chaos/faults/{id}
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::admin_client::{AdminError, Authorized, send};

const PATH: &str = "/chaos/faults";
/// How long a node may be unable to take a fault.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Why a fault could not be begun or asked after.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InjectionError {
    /// The node did not take the request.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Its answer cannot be read.
    #[error("the answer of {admin} is not about faults")]
    Answer {
        /// The node's admin interface.
        admin: SocketAddr,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It knows nothing of a fault that it took.
    #[error("{admin} has forgotten fault {id}")]
    Forgotten {
        /// The node's admin interface.
        admin: SocketAddr,
        /// The fault.
        id: u64,
    },
}

/// A fault that a node has taken.
#[derive(Debug, Clone)]
pub struct Injection {
    /// The node.
    pub node: u64,
    admin: SocketAddr,
    id: u64,
    token: String,
    fault: serde_json::Value,
}

/// What a node says of a fault that it has taken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Effects {
    id: u64,
    ended_ms: Option<u64>,
    effects: BTreeMap<String, i64>,
}

#[derive(Deserialize)]
struct Taken {
    id: u64,
}

impl Injection {
    /// Whether the node must give up because of it: its disk fails.
    pub fn fails_the_disk(&self) -> bool {
        self.fault.get("error").is_some_and(|error| !error.is_null())
    }

    /// Begins `fault` on the node at `admin`.
    ///
    /// # Errors
    /// The node refuses it, or cannot be reached.
    pub async fn begin(
        (node, admin): (u64, SocketAddr),
        token: &str,
        fault: &serde_json::Value,
    ) -> Result<Self, InjectionError> {
        let (body, deadline) = (fault.to_string(), Instant::now() + PATIENCE);
        let request = Authorized { method: "POST", path: PATH, token, body: &body };
        let answer = loop {
            match send(&admin.to_string(), request).await {
                // Its actor is between two lives.
                Err(error) if error.is_passing() && Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                answered => break answered?,
            }
        };
        let Taken { id } = serde_json::from_slice(&answer)
            .map_err(|source| InjectionError::Answer { admin, source })?;
        Ok(Self { node, admin, id, token: token.to_owned(), fault: fault.clone() })
    }

    /// What it has done so far, by the node's own count.
    ///
    /// # Errors
    /// The node cannot be asked, or does not know it.
    pub async fn effects(&self) -> Result<Effects, InjectionError> {
        let (admin, id) = (self.admin, self.id);
        let request = Authorized { method: "GET", path: PATH, token: &self.token, body: "" };
        let answer = send(&admin.to_string(), request).await?;
        let listed: Vec<Effects> = serde_json::from_slice(&answer)
            .map_err(|source| InjectionError::Answer { admin, source })?;
        let listed = listed.into_iter().find(|listed| listed.id == id);
        listed.ok_or(InjectionError::Forgotten { admin, id })
    }

    /// Each effect that the fault must have, as the counters of which one at least tells of it.
    pub fn expected(&self) -> Vec<&'static [&'static str]> {
        expected(&self.fault)
    }

    /// Ends it.
    ///
    /// # Errors
    /// The node cannot be reached, or does not know it.
    pub async fn end(&self) -> Result<(), InjectionError> {
        let path = format!("{PATH}/{}", self.id);
        let request = Authorized { method: "DELETE", path: &path, token: &self.token, body: "" };
        send(&self.admin.to_string(), request).await?;
        Ok(())
    }
}

impl Effects {
    /// How often one of `counters` was counted.
    pub fn count(&self, counters: &[&str]) -> i64 {
        counters.iter().filter_map(|counter| self.effects.get(*counter)).sum()
    }

    /// Those of `counters` that such a fault has, for a person.
    pub fn names(&self, counters: &[&str]) -> String {
        let known = counters.iter().filter(|counter| self.effects.contains_key(**counter));
        known.copied().collect::<Vec<_>>().join(" and ")
    }

    /// Whether the fault has not ended.
    pub fn is_in_force(&self) -> bool {
        self.ended_ms.is_none()
    }
}

/// A field of a fault, and the counters of which one at least must tell of its effect.
const COUNTERS: [(&str, &[&str]); 13] = [
    ("cut", &["frames_dropped", "disconnects"]),
    ("loss_per_mille", &["frames_dropped"]),
    ("delay", &["frames_delayed", "commits_delayed"]),
    ("jitter", &["frames_delayed"]),
    ("duplicate_per_mille", &["frames_duplicated"]),
    ("reorder_per_mille", &["frames_reordered"]),
    ("bandwidth_bytes_per_s", &["frames_throttled"]),
    ("stall", &["commits_stalled"]),
    ("error", &["commits_failed"]),
    ("full", &["commits_refused"]),
    ("step", &["clock_readings"]),
    ("mode", &["actor_deaths"]),
    ("for", &["ms_stalled"]),
];

fn expected(fault: &serde_json::Value) -> Vec<&'static [&'static str]> {
    let asked = |field: &str| fault.get(field).is_some_and(|value| *value != false && *value != 0);
    COUNTERS.into_iter().filter(|(field, _)| asked(field)).map(|(_, counters)| counters).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_field_of_a_fault_has_counters_of_its_own() {
        let link =
            json!({ "kind": "link", "peer": 2, "cut": false, "delay": "5ms", "loss_per_mille": 9 });
        let expected_of = |fault| expected(&fault).concat();
        assert_eq!(expected_of(link), ["frames_dropped", "frames_delayed", "commits_delayed"]);
        let kill = json!({ "kind": "kill_actor", "actor": "tick", "mode": "panic" });
        assert_eq!(expected_of(kill), ["actor_deaths"]);
        let disk = json!({ "kind": "disk", "store": "log", "full": true, "stall": true });
        assert_eq!(expected_of(disk), ["commits_stalled", "commits_refused"]);
    }

    #[test]
    fn a_count_of_something_else_is_no_effect() {
        let json = r#"{"id": 7, "fault": {}, "since_ms": 1, "ended_ms": null,
            "effects": {"frames_dropped": 0, "frames_delayed": 3}}"#;
        let effects: Effects = serde_json::from_str(json).unwrap();
        assert_eq!(effects.count(&["frames_dropped", "disconnects"]), 0);
        assert_eq!(effects.count(&["frames_delayed", "commits_delayed"]), 3);
        assert_eq!(effects.names(&["frames_delayed", "commits_delayed"]), "frames_delayed");
        assert!(effects.is_in_force());
    }
}
