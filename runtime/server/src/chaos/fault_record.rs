//! What became of a fault: where it was, when, and what proves it.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// One observation that a fault was, or was not, where it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// What was looked at, and what was seen.
    pub seen: String,
    /// Whether it shows the fault.
    pub holds: bool,
}

/// One fault at one time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultRecord {
    /// What it was.
    pub what: String,
    /// When it was to begin, in seconds after the load did.
    #[serde(serialize_with = "seconds")]
    pub planned: Duration,
    /// When it was in force.
    #[serde(serialize_with = "maybe_seconds")]
    pub began: Option<Duration>,
    /// When it was over; for what happens in a moment, at once.
    #[serde(serialize_with = "maybe_seconds")]
    pub ended: Option<Duration>,
    /// The nodes it was done to.
    pub nodes: Vec<u64>,
    /// The keyspaces that it hit: their leader, or their majority, was there.
    pub hit: Vec<usize>,
    /// Whether no majority was left, so that recovery counts from its end.
    pub takes_majority: bool,
    /// What shows that it was there.
    pub proofs: Vec<Proof>,
    /// Why it could not be done, if so.
    pub problem: Option<String>,
}

impl FaultRecord {
    /// A fault that has not begun.
    pub fn planned(what: String, planned: Duration) -> Self {
        Self {
            what,
            planned,
            began: None,
            ended: None,
            nodes: Vec::new(),
            hit: Vec::new(),
            takes_majority: false,
            proofs: Vec::new(),
            problem: None,
        }
    }

    /// Adds an observation.
    pub fn prove(&mut self, holds: bool, seen: String) {
        self.proofs.push(Proof { seen, holds });
    }

    /// Whether it was done, and every observation shows it. One that nothing shows is not proven.
    pub fn is_proven(&self) -> bool {
        self.problem.is_none() && !self.proofs.is_empty() && self.proofs.iter().all(|p| p.holds)
    }

    /// From when on its recovery counts.
    pub fn recovers_from(&self) -> Option<Duration> {
        if self.takes_majority { self.ended } else { self.began }
    }

    /// Why it does not count, for a person.
    pub fn doubt(&self) -> Option<String> {
        if self.is_proven() {
            return None;
        }
        let unseen = self.proofs.iter().filter(|p| !p.holds).map(|p| p.seen.clone());
        let reasons: Vec<_> = self.problem.iter().cloned().chain(unseen).collect();
        let why =
            if reasons.is_empty() { "nothing shows it".to_owned() } else { reasons.join("; ") };
        Some(format!("{} at {:.1} s: {why}", self.what, self.planned.as_secs_f64()))
    }
}

/// A duration in seconds, as reports have it.
pub fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e6)
}

/// A duration in seconds, or nothing.
pub fn maybe_seconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a fault that had no effect counts for nothing.
    #[test]
    fn a_fault_without_effect_is_not_proven() {
        let mut record = FaultRecord::planned("link cut=true".into(), Duration::from_secs(5));
        let doubt = record.doubt().unwrap();
        assert_eq!(doubt, "link cut=true at 5.0 s: nothing shows it");
        record.prove(true, "node 1: 7 frames_dropped".into());
        assert!(record.is_proven());
        record.prove(false, "node 2: no effect counted".into());
        assert_eq!(record.doubt().unwrap(), "link cut=true at 5.0 s: node 2: no effect counted");
        record.proofs.pop();
        record.problem = Some("refused".into());
        assert!(!record.is_proven());
    }
}
