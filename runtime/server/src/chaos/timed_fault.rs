//! One `[[fault]]` table: when, how long, where, and what.
//!
//! ```text
//! at for every times node │ kind …
//!          when and where │ what: process, partition, or a fault that nodes inject themselves
//! ```
//!
//! The two halves are told apart by name, because a fault of the product has fields of its own. A
//! `for` belongs to both: the runner ends what nodes would keep up.

use std::fmt;
use std::time::Duration;

use polyraft::chaos::Fault;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// Actors that each group has its own of.
pub const GROUP_ACTORS: [&str; 3] = ["group", "batcher", "applier"];
/// Keys that say when and where.
const TIMING_KEYS: [&str; 5] = ["at", "for", "every", "times", "node"];

/// A fault with its times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Table")]
pub struct TimedFault {
    /// When it begins, after the load did.
    #[serde(with = "humantime_serde")]
    pub at: Duration,
    /// How long it lasts, if it does not happen in a moment.
    #[serde(rename = "for", with = "humantime_serde")]
    pub lasts: Option<Duration>,
    /// From one beginning to the next.
    #[serde(with = "humantime_serde")]
    pub every: Option<Duration>,
    /// How often it happens.
    pub times: u32,
    /// On which nodes; none: where its kind usually is.
    pub node: Option<NodePick>,
    /// What happens.
    pub kind: FaultKind,
}

/// Nodes, by name or by what they are at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodePick {
    /// Who leads the fault's group, or else the most groups.
    Leader,
    /// One that does not.
    Follower,
    /// Every node.
    All,
    /// The leader, and followers up to a majority.
    Majority,
    /// As many followers as the others can do without.
    Minority,
    /// These.
    Named(Vec<u64>),
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// To whole processes.
    Process(ProcessAction),
    /// To the links between nodes, in a shape.
    Partition(Shape),
    /// What nodes inject themselves, as their admin interface takes it.
    Injected(serde_json::Map<String, serde_json::Value>),
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessAction {
    /// SIGKILL; started again at the end.
    Kill9,
    /// SIGSTOP; SIGCONT at the end.
    Pause,
    /// SIGKILL for every node, then all are started.
    RestartAll,
    /// SIGKILL, its data is removed, and it is started with none: its peers must refuse it.
    Wipe,
}

/// Who cannot speak with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// One follower is alone.
    Single,
    /// The leader is on the smaller side.
    MajorityMinority,
    /// Two halves that share one node.
    Bridge,
    /// Each node reaches its two neighbours.
    Ring,
    /// The leader hears nobody.
    OneWayIn,
    /// Nobody hears the leader.
    OneWayOut,
    /// The leader is alone.
    LeaderOnly,
}

/// Why a table is no fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultTableError {
    /// A value is missing, unknown or of another type.
    #[error(transparent)]
    Value(#[from] toml::de::Error),
    /// The kind does not exist.
    #[error(
        "unknown kind {0:?}, expected process, partition, kill_actor, stall_actor, link, disk or clock"
    )]
    Kind(String),
    /// The nodes cannot be understood.
    #[error(
        "node = {0}: expected leader, follower, all, majority, minority, an id or a list of ids"
    )]
    Node(Value),
    /// It cannot be written as nodes read it.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Nodes would refuse it.
    #[error(transparent)]
    Injected(#[from] polyraft::chaos::FaultError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Timing {
    #[serde(with = "humantime_serde")]
    at: Duration,
    #[serde(rename = "for", default, with = "humantime_serde")]
    lasts: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    every: Option<Duration>,
    #[serde(default = "once")]
    times: u32,
    node: Option<Value>,
}

fn once() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessTable {
    action: ProcessAction,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartitionTable {
    shape: Shape,
}

impl TryFrom<Table> for TimedFault {
    type Error = FaultTableError;

    fn try_from(table: Table) -> Result<Self, FaultTableError> {
        let (timing, mut what): (Table, Table) =
            table.into_iter().partition(|(key, _)| TIMING_KEYS.contains(&key.as_str()));
        let timing: Timing = read(timing)?;
        let kind = match what.remove("kind") {
            Some(Value::String(kind)) => kind,
            other => {
                return Err(FaultTableError::Kind(
                    other.map_or_else(String::new, |v| v.to_string()),
                ));
            }
        };
        let Timing { at, lasts, every, times, node } = timing;
        let kind = FaultKind::from_table(&kind, what, lasts)?;
        Ok(Self {
            at,
            lasts,
            every,
            times,
            node: node.map(NodePick::from_value).transpose()?,
            kind,
        })
    }
}

fn read<T: DeserializeOwned>(table: Table) -> Result<T, FaultTableError> {
    Ok(table.try_into()?)
}

impl NodePick {
    fn from_value(value: Value) -> Result<Self, FaultTableError> {
        let id = |value: &Value| value.as_integer().and_then(|id| u64::try_from(id).ok());
        let pick = match &value {
            Value::String(word) => match word.as_str() {
                "leader" => Some(Self::Leader),
                "follower" => Some(Self::Follower),
                "all" => Some(Self::All),
                "majority" => Some(Self::Majority),
                "minority" => Some(Self::Minority),
                _ => None,
            },
            Value::Array(ids) => ids.iter().map(id).collect::<Option<Vec<_>>>().map(Self::Named),
            other => id(other).map(|id| Self::Named(vec![id])),
        };
        pick.ok_or(FaultTableError::Node(value))
    }
}

impl FaultKind {
    fn from_table(
        kind: &str,
        table: Table,
        lasts: Option<Duration>,
    ) -> Result<Self, FaultTableError> {
        match kind {
            "process" => Ok(Self::Process(read::<ProcessTable>(table)?.action)),
            "partition" => Ok(Self::Partition(read::<PartitionTable>(table)?.shape)),
            "kill_actor" | "stall_actor" | "link" | "disk" | "clock" => {
                injected(kind, table, lasts)
            }
            other => Err(FaultTableError::Kind(other.to_owned())),
        }
    }

    /// Its name in scenarios.
    pub fn name(&self) -> &str {
        match self {
            Self::Process(_) => "process",
            Self::Partition(_) => "partition",
            Self::Injected(fault) => fault.get("kind").and_then(|k| k.as_str()).unwrap_or_default(),
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(action) => write!(f, "process {}", word(action)),
            Self::Partition(shape) => write!(f, "partition {}", word(shape)),
            Self::Injected(fault) => {
                write!(f, "{}", self.name())?;
                for (key, value) in fault.iter().filter(|(key, _)| *key != "kind") {
                    match value.as_str() {
                        Some(text) => write!(f, " {key}={text}")?,
                        None => write!(f, " {key}={value}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// A unit variant's name in files.
fn word(value: &impl Serialize) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}

/// The fault as nodes take it, checked by their own rules.
fn injected(
    kind: &str,
    table: Table,
    lasts: Option<Duration>,
) -> Result<FaultKind, FaultTableError> {
    let mut fault: serde_json::Map<_, _> = serde_json::from_value(serde_json::to_value(table)?)?;
    fault.insert("kind".to_owned(), kind.into());
    if let (true, Some(lasts)) = (kind == "stall_actor", lasts) {
        fault.insert("for".to_owned(), humantime::format_duration(lasts).to_string().into());
    }
    // Groups and peers that are chosen when it begins are stood in for by the first.
    let mut sample = fault.clone();
    let actor = sample.get("actor").and_then(|actor| actor.as_str()).unwrap_or_default().to_owned();
    if GROUP_ACTORS.contains(&actor.as_str()) {
        sample.entry("group").or_insert(1.into());
    }
    if kind == "link" || actor == "peer_link" {
        sample.entry("peer").or_insert(1.into());
    }
    Fault::from_json(serde_json::Value::from(sample).to_string().as_bytes())?.check()?;
    Ok(FaultKind::Injected(fault))
}

impl TimedFault {
    /// The group that an injected fault names.
    pub fn group(&self) -> Option<u64> {
        self.injected_field("group").and_then(serde_json::Value::as_u64)
    }

    /// The actor that an injected fault names.
    pub fn actor(&self) -> Option<&str> {
        self.injected_field("actor").and_then(serde_json::Value::as_str)
    }

    /// A field of an injected fault.
    pub fn injected_field(&self, field: &str) -> Option<&serde_json::Value> {
        match &self.kind {
            FaultKind::Injected(fault) => fault.get(field),
            _ => None,
        }
    }

    /// Nodes that it names by their ids.
    pub fn nodes_named(&self) -> impl Iterator<Item = u64> {
        let named = match &self.node {
            Some(NodePick::Named(nodes)) => nodes.as_slice(),
            _ => &[],
        };
        let peer = self.injected_field("peer").and_then(serde_json::Value::as_u64);
        named.iter().copied().chain(peer)
    }

    /// The rule that it breaks in a cluster of `nodes`, if it does.
    pub fn unfit(&self, nodes: u64) -> Option<&'static str> {
        let lasts = self.lasts.is_some();
        match (&self.kind, self.node.as_ref()) {
            (FaultKind::Process(ProcessAction::RestartAll), Some(_)) => {
                Some("`restart_all` takes no `node`")
            }
            (FaultKind::Process(ProcessAction::Pause), _) if !lasts => Some("needs `for`"),
            (FaultKind::Process(ProcessAction::Wipe | ProcessAction::RestartAll), _) if lasts => {
                Some("takes no `for`")
            }
            (FaultKind::Process(ProcessAction::Wipe), pick) if self.times > 1 || !is_one(pick) => {
                Some("one node can be wiped, once")
            }
            (FaultKind::Partition(_), _) if !lasts => Some("needs `for`"),
            (FaultKind::Partition(_), Some(_)) => Some("its shape says which nodes: no `node`"),
            (FaultKind::Partition(Shape::Ring | Shape::Bridge), _) if nodes < 4 => {
                Some("this shape needs at least 4 nodes")
            }
            (FaultKind::Partition(_), _) if nodes < 3 => Some("needs at least 3 nodes"),
            (FaultKind::Injected(_), _)
                if self.name_is(&["link", "disk", "stall_actor"]) && !lasts =>
            {
                Some("needs `for`")
            }
            (FaultKind::Injected(_), _) if self.name_is(&["kill_actor"]) && lasts => {
                Some("takes no `for`")
            }
            _ => None,
        }
    }

    fn name_is(&self, names: &[&str]) -> bool {
        names.contains(&self.kind.name())
    }
}

fn is_one(pick: Option<&NodePick>) -> bool {
    match pick {
        Some(NodePick::Leader | NodePick::Follower) => true,
        Some(NodePick::Named(nodes)) => nodes.len() == 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TimedFault, String> {
        let table: Table = text.parse().unwrap();
        TimedFault::try_from(table).map_err(|error| error.to_string())
    }

    #[test]
    fn the_runners_keys_are_not_the_nodes() {
        let fault = parse(
            "at = \"5s\"\nfor = \"4s\"\nnode = [1, 2]\nkind = \"link\"\npeer = 3\n\
             direction = \"out\"\ncut = true",
        )
        .unwrap();
        assert_eq!(fault.kind.to_string(), "link cut=true direction=out peer=3");
        assert_eq!(fault.nodes_named().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((fault.at, fault.lasts), (Duration::from_secs(5), Some(Duration::from_secs(4))));
        let stall = parse("at = \"1s\"\nfor = \"2s\"\nkind = \"stall_actor\"\nactor = \"tick\"");
        assert_eq!(stall.unwrap().kind.to_string(), "stall_actor actor=tick for=2s");
    }

    #[test]
    fn nodes_are_words_or_ids() {
        let pick = |node: &str| {
            let text =
                format!("at = \"1s\"\nkind = \"process\"\naction = \"kill9\"\nnode = {node}");
            parse(&text).map(|fault| fault.node.unwrap())
        };
        assert_eq!(pick("\"leader\""), Ok(NodePick::Leader));
        assert_eq!(pick("2"), Ok(NodePick::Named(vec![2])));
        assert_eq!(pick("[3, 1]"), Ok(NodePick::Named(vec![3, 1])));
        for wrong in ["\"boss\"", "-1", "[1, \"all\"]", "true"] {
            assert!(pick(wrong).unwrap_err().contains("expected leader"), "{wrong}");
        }
    }

    #[test]
    fn kinds_and_their_fields_are_checked() {
        for (text, expected) in [
            ("kind = \"meteor\"", "unknown kind \"meteor\""),
            ("node = 1", "unknown kind"),
            ("kind = \"process\"\naction = \"kill8\"", "unknown variant `kill8`"),
            ("kind = \"partition\"\nshape = \"ring\"\nsize = 2", "unknown field `size`"),
            ("kind = \"partition\"", "missing field `shape`"),
            ("kind = \"disk\"\nstore = \"log\"\nslow = true", "unknown field `slow`"),
            ("kind = \"link\"\ndirection = \"out\"\nloss_per_mille = 1001", "must be 0 to 1000"),
        ] {
            let error = parse(&format!("at = \"1s\"\n{text}")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(parse("kind = \"disk\"").unwrap_err().contains("missing field `at`"));
    }

    #[test]
    fn what_cannot_be_done_to_so_few_nodes_is_refused() {
        let unfit =
            |text: &str, nodes| parse(&format!("at = \"1s\"\n{text}")).unwrap().unfit(nodes);
        let ring = "for = \"1s\"\nkind = \"partition\"\nshape = \"ring\"";
        assert_eq!(unfit(ring, 3), Some("this shape needs at least 4 nodes"));
        assert_eq!(unfit(ring, 5), None);
        let wipe = |node| format!("kind = \"process\"\naction = \"wipe\"\nnode = {node}");
        assert_eq!(unfit(&wipe("\"all\""), 3), Some("one node can be wiped, once"));
        assert_eq!(unfit(&wipe("2"), 3), None);
        assert_eq!(unfit("kind = \"process\"\naction = \"pause\"", 3), Some("needs `for`"));
        let stalled = "kind = \"disk\"\nstore = \"log\"\nstall = true";
        assert_eq!(unfit(stalled, 3), Some("needs `for`"));
    }
}
