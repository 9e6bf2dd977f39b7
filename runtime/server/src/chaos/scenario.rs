//! A scenario: a cluster, a load, faults at their times, and what is expected of the whole.
//!
//! ```text
//! SCENARIO.toml ─parse→ Scenario ─occurrences()→ one Occurrence per fault and repetition, by time
//! ```
//!
//! Promise: what parses can be run; a wrong file is refused with every wrong value and its rule.
//! Not here: which nodes a word such as `leader` means at the moment ([`super::victims`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::timed_fault::{FaultKind, TimedFault};

/// Bytes of a value that are its identity.
pub const VALUE_BYTES_MIN: usize = 16;
/// Largest value, so that a page of a whole keyspace stays below what gRPC clients take.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// Keys per keyspace, all of which one transaction reads.
const KEYS_MAX: u32 = 100;
/// Repetitions of one fault.
const TIMES_MAX: u32 = 10_000;

/// A file of this kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is called in reports.
    pub name: String,
    /// What it shows, in a sentence.
    #[serde(default)]
    pub about: String,
    /// How long load and faults last.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// The cluster that is started.
    #[serde(default)]
    pub cluster: ClusterShape,
    /// The load.
    #[serde(default)]
    pub workload: WorkloadShape,
    /// The faults, in the order of the file.
    #[serde(default, rename = "fault")]
    pub faults: Vec<TimedFault>,
    /// What must come of it, beside the invariants.
    #[serde(default)]
    pub expect: Expectations,
}

/// The `[cluster]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterShape {
    /// Processes, 1 to 9.
    pub nodes: u64,
    /// Keyspaces, each a Raft group on all nodes, 1 to 256.
    pub keyspaces: usize,
    /// The heartbeat interval.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// The election timeout.
    #[serde(with = "humantime_serde")]
    pub election_timeout: Duration,
}

impl Default for ClusterShape {
    fn default() -> Self {
        let (heartbeat, election_timeout) = (Duration::from_millis(100), Duration::from_secs(1));
        Self { nodes: 3, keyspaces: 4, heartbeat, election_timeout }
    }
}

/// The `[workload]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadShape {
    /// Clients, each of one keyspace and with one request at a time.
    pub clients: usize,
    /// Requests per second that a client begins at most.
    pub rate_per_client: u32,
    /// Keys per keyspace, 1 to 100; clients of a keyspace share them.
    pub keys: u32,
    /// The share of requests that read, 0 to 1.
    pub read_share: f64,
    /// Bytes of a value, 16 to 16,384.
    pub value_bytes: usize,
}

impl Default for WorkloadShape {
    fn default() -> Self {
        Self { clients: 16, rate_per_client: 20, keys: 16, read_share: 0.25, value_bytes: 64 }
    }
}

/// The `[expect]` table. The invariants are always expected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expectations {
    /// Bound on the 99th percentile, over faults and the keyspaces they hit, of the time to the next
    /// acknowledged write.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub recovery_p99: Option<Duration>,
    /// The same bound for the keyspaces that a fault does not hit.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub others_recovery_p99: Option<Duration>,
    /// Acknowledged writes of the whole run, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_min: Option<u64>,
}

/// One fault at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    /// Which fault of the file, from 0.
    pub fault: usize,
    /// Which repetition of it, from 0.
    pub repetition: u32,
    /// When it begins, after the load did.
    pub at: Duration,
    /// When it ends; `None` for what happens in a moment.
    pub until: Option<Duration>,
}

/// A value that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: `workload.clients`, `fault 2: peer`.
    pub field: String,
    /// The value.
    pub value: String,
    /// The rule.
    pub rule: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.field, self.value, self.rule)
    }
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not a scenario.
    #[error("{path} is not a scenario")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Values break rules.
    #[error("{path}:{}", .problems.iter().map(|p| format!("\n  {p}")).collect::<String>())]
    Rules {
        /// The file.
        path: PathBuf,
        /// Every one of them.
        problems: Vec<Problem>,
    },
}

impl Scenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read, is not a scenario, or has values that break rules.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let path = path.to_owned();
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, path),
            Err(source) => Err(ScenarioError::Read { path, source }),
        }
    }

    /// Checks the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn parse(text: &str, path: PathBuf) -> Result<Self, ScenarioError> {
        let scenario: Self = match toml::from_str(text) {
            Ok(scenario) => scenario,
            Err(source) => return Err(ScenarioError::Parse { path, source: Box::new(source) }),
        };
        let problems = scenario.problems();
        if problems.is_empty() {
            Ok(scenario)
        } else {
            Err(ScenarioError::Rules { path, problems })
        }
    }

    /// Every fault and repetition, by the time at which it begins.
    pub fn occurrences(&self) -> Vec<Occurrence> {
        let each = |(fault, timed): (usize, &TimedFault)| {
            let (at, lasts, every) = (timed.at, timed.lasts, timed.every.unwrap_or_default());
            (0..timed.times).map(move |repetition| {
                let at = at + every * repetition;
                Occurrence { fault, repetition, at, until: lasts.map(|lasts| at + lasts) }
            })
        };
        let mut all: Vec<_> = self.faults.iter().enumerate().flat_map(each).collect();
        all.sort_by_key(|occurrence| (occurrence.at, occurrence.fault));
        all
    }

    /// Whether nodes must accept faults through their admin interface.
    pub fn needs_injection(&self) -> bool {
        self.faults.iter().any(|timed| !matches!(timed.kind, FaultKind::Process(_)))
    }

    /// Whether it kills or stops processes, which only who started them may.
    pub fn needs_processes(&self) -> bool {
        self.faults.iter().any(|timed| matches!(timed.kind, FaultKind::Process(_)))
    }

    fn problems(&self) -> Vec<Problem> {
        let (cluster, load) = (&self.cluster, &self.workload);
        let mut rules = Rules::default();
        let bounded = |value, range: std::ops::RangeInclusive<usize>| range.contains(&value);
        rules.check("name", &self.name, !self.name.is_empty(), "must not be empty");
        rules.check("cluster.nodes", cluster.nodes, (1..=9).contains(&cluster.nodes), "1 to 9");
        let keyspaces = cluster.keyspaces;
        rules.check("cluster.keyspaces", keyspaces, bounded(keyspaces, 1..=256), "1 to 256");
        let clients = bounded(load.clients, keyspaces.max(1)..=1_024);
        rules.check("workload.clients", load.clients, clients, "one per keyspace to 1,024");
        let rate = (1..=10_000).contains(&load.rate_per_client);
        rules.check("workload.rate_per_client", load.rate_per_client, rate, "1 to 10,000");
        rules.check("workload.keys", load.keys, (1..=KEYS_MAX).contains(&load.keys), "1 to 100");
        let share = (0.0..=0.95).contains(&load.read_share);
        rules.check("workload.read_share", load.read_share, share, "0 to 0.95");
        let bytes = bounded(load.value_bytes, VALUE_BYTES_MIN..=VALUE_BYTES_MAX);
        rules.check("workload.value_bytes", load.value_bytes, bytes, "16 to 16,384");
        for (number, timed) in self.faults.iter().enumerate() {
            self.check_fault(number + 1, timed, &mut rules);
        }
        rules.broken
    }

    fn check_fault(&self, number: usize, timed: &TimedFault, rules: &mut Rules) {
        let nodes = self.cluster.nodes;
        let field = |name: &str| format!("fault {number}: {name}");
        let times = (1..=TIMES_MAX).contains(&timed.times);
        rules.check(&field("times"), timed.times, times, "1 to 10,000");
        let paired = timed.times == 1 || timed.every.is_some_and(|every| !every.is_zero());
        rules.check(&field("every"), "none", paired, "needed when `times` is more than 1");
        let repeated = timed.every.unwrap_or_default() * timed.times.saturating_sub(1);
        let ends = timed.at + repeated + timed.lasts.unwrap_or_default();
        let (text, rule) = (humantime::format_duration(ends), "must end within `duration`");
        rules.check(&field("at"), text, ends <= self.duration, rule);
        for node in timed.nodes_named() {
            rules.check(&field("node"), node, (1..=nodes).contains(&node), "a node's id");
        }
        if let Some(rule) = timed.unfit(nodes) {
            rules.check(&field("kind"), timed.kind.name(), false, rule);
        }
    }
}

/// Gathers what is wrong.
#[derive(Default)]
struct Rules {
    broken: Vec<Problem>,
}

impl Rules {
    fn check(&mut self, field: &str, value: impl fmt::Display, holds: bool, rule: &'static str) {
        if !holds {
            let (field, value) = (field.to_owned(), value.to_string());
            self.broken.push(Problem { field, value, rule });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = \"x\"\nduration = \"30s\"\n";

    fn parse(text: &str) -> Result<Scenario, ScenarioError> {
        Scenario::parse(&format!("{HEAD}{text}"), "x.toml".into())
    }

    fn problems(text: &str) -> Vec<String> {
        match parse(text) {
            Err(ScenarioError::Rules { problems, .. }) => {
                problems.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn repetitions_are_put_in_the_order_of_time() {
        let scenario = parse(
            "[[fault]]\nat = \"9s\"\nkind = \"process\"\naction = \"restart_all\"\n\
             [[fault]]\nat = \"2s\"\nfor = \"1s\"\nevery = \"8s\"\ntimes = 2\nnode = 1\n\
             kind = \"process\"\naction = \"pause\"\n",
        )
        .unwrap();
        let order: Vec<_> = scenario
            .occurrences()
            .iter()
            .map(|o| (o.at.as_secs(), o.fault, o.repetition, o.until.map(|u| u.as_secs())))
            .collect();
        assert_eq!(order, [(2, 1, 0, Some(3)), (9, 0, 0, None), (10, 1, 1, Some(11))]);
        assert!(scenario.needs_processes() && !scenario.needs_injection());
    }

    #[test]
    fn every_wrong_value_is_told_with_its_rule() {
        let found = problems(
            "[cluster]\nnodes = 12\n[workload]\nclients = 2\nkeys = 0\nread_share = 1.5\n\
             [[fault]]\nat = \"29s\"\nfor = \"2s\"\nnode = 13\nkind = \"process\"\n\
             action = \"pause\"\ntimes = 2\n",
        );
        let expected = [
            "cluster.nodes: 12 (1 to 9)",
            "workload.clients: 2 (one per keyspace to 1,024)",
            "workload.keys: 0 (1 to 100)",
            "workload.read_share: 1.5 (0 to 0.95)",
            "fault 1: every: none (needed when `times` is more than 1)",
            "fault 1: at: 31s (must end within `duration`)",
            "fault 1: node: 13 (a node's id)",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for text in ["colour = 1", "[cluster]\nnode = 3", "[expect]\nrecovery_p98 = \"1s\""] {
            let error = parse(text).unwrap_err();
            let ScenarioError::Parse { source, .. } = &error else { panic!("{error:?}") };
            assert!(source.to_string().contains("unknown field"), "{source}");
        }
    }

    /// Goal: every scenario that is shipped can be run. Method: they are parsed.
    #[test]
    fn shipped_scenarios_are_scenarios() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/chaos/scenarios");
        let mut names = std::collections::BTreeSet::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::load(&path).unwrap_or_else(|error| panic!("{error:?}"));
            let stem = path.file_stem().unwrap().to_str().unwrap();
            assert_eq!(scenario.name, stem, "a scenario is called like its file");
            assert!(!scenario.about.is_empty(), "{stem} says what it shows");
            names.insert(scenario.name);
        }
        assert!(names.contains("smoke") && names.contains("calm"), "{names:?}");
    }
}
