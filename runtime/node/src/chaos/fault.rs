//! Fault: what can be injected, as people and programs write it, and the rules that it must keep.
//!
//! ```text
//! {"kind":"link","peer":2,"direction":"both","delay":"50ms"} ─from_json→ Fault ─check→ injected
//! ```
//!
//! Promise: a fault that cannot be read or breaks a rule is refused with the field, the value and the
//! rule. Durations are written as `50ms` or `1h 30s`. Not here: what a fault does (its own file each).

use std::time::Duration;

use polyraft_actors::actor_target::ActorTarget;
use polyraft_actors::guard::KillMode;
use polyraft_actors::mailbox::ActorKind;
use polyraft_core::ids::{GroupId, NodeId};
use polyraft_core::ports::Lane;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fault_text as text;

/// Longest delay, jitter or stall.
pub const FAULT_DURATION_MAX: Duration = Duration::from_secs(3_600);
/// Largest step of the clock, either way.
pub const CLOCK_STEP_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// One fault. Serialized, its variant is the field `kind`, in snake case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// Ends one actor's life, once.
    KillActor(KillActor),
    /// Lets one actor handle nothing for a while.
    StallActor(StallActor),
    /// Disturbs what goes between this node and a peer, until it is ended.
    Link(LinkFault),
    /// Disturbs what becomes durable, until it is ended.
    Disk(DiskFault),
    /// Steps the wall clock that this node sees, until it is ended.
    Clock(ClockFault),
}

/// Ends one actor's life; its node rebuilds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillActor {
    /// Its kind, by its name in metrics.
    #[serde(with = "text::actor")]
    pub actor: ActorKind,
    /// Whose, for the kinds that each group has: group, batcher, applier.
    #[serde(default, with = "text::group", skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// To whom, for a peer link.
    #[serde(default, with = "text::node", skip_serializing_if = "Option::is_none")]
    pub peer: Option<NodeId>,
    /// By a panic, or by a stop.
    #[serde(with = "text::kill_mode")]
    pub mode: KillMode,
}

/// Lets one actor handle nothing for a while; its siblings on the same thread go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StallActor {
    /// Its kind, by its name in metrics.
    #[serde(with = "text::actor")]
    pub actor: ActorKind,
    /// Whose, for the kinds that each group has: group, batcher, applier.
    #[serde(default, with = "text::group", skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// To whom, for a peer link.
    #[serde(default, with = "text::node", skip_serializing_if = "Option::is_none")]
    pub peer: Option<NodeId>,
    /// For how long, unless it is ended earlier; above zero, at most [`FAULT_DURATION_MAX`].
    #[serde(rename = "for", with = "humantime_serde")]
    pub length: Duration,
}

/// Disturbs frames between this node and one peer, at the port above QUIC. Chances are of each
/// thousand frames. At least one disturbance must be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFault {
    /// The peer.
    #[serde(with = "text::required_node")]
    pub peer: NodeId,
    /// Which way.
    pub direction: Direction,
    /// One lane alone; by default all of them.
    #[serde(default, with = "text::lane", skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// Every frame vanishes. Of all lanes, the peer is taken for dead after the time that the
    /// transport would take to notice a silent one (TR-8).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Every frame arrives so much later; at most [`FAULT_DURATION_MAX`].
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Duration::is_zero")]
    pub delay: Duration,
    /// And up to so much later again, each another time; order within a lane is kept.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Duration::is_zero")]
    pub jitter: Duration,
    /// Frames that vanish, 0 to 1,000.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub loss_per_mille: u64,
    /// Frames that arrive twice, 0 to 1,000; none of the request lane, whose port promises that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duplicate_per_mille: u64,
    /// Frames that are held back, so that those behind them arrive first, 0 to 1,000.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reorder_per_mille: u64,
    /// Bytes per second and direction, of all lanes together; what waits is bounded, and the rest
    /// vanishes. By default, and with 0, unlimited.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bandwidth_bytes_per_s: u64,
}

/// Which way frames go, as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the peer.
    Out,
    /// From the peer.
    In,
    /// Both ways.
    Both,
}

/// Disturbs commits of a store. At least one disturbance must be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskFault {
    /// Which store.
    pub store: Store,
    /// Every commit takes so much longer; at most [`FAULT_DURATION_MAX`].
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Duration::is_zero")]
    pub delay: Duration,
    /// Commits wait until the fault is ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stall: bool,
    /// The next commit fails, and the store with it, for as long as the process lives (ST-12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<DiskError>,
    /// Commits find no room until the fault is ended (ST-5).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

/// What is on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// The journal of every group's log.
    Log,
    /// The state machines' state.
    State,
    /// Both.
    Both,
}

/// How a commit fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskError {
    /// The device reports an error.
    Eio,
}

/// Steps the wall clock. Ticks and deadlines run on the monotonic clock, which is left alone; the time
/// that state machines see never falls (AP-3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockFault {
    /// Milliseconds, not 0, at most [`CLOCK_STEP_MAX`] either way. Serialized as `+1h` or `-30s`, the
    /// field being `step`.
    #[serde(rename = "step", with = "text::step")]
    pub step_ms: i64,
}

/// Why a fault is refused. Nothing was injected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// It is not JSON, or a field is unknown, missing or of another type.
    #[error("{field}: {source}")]
    Malformed {
        /// Where; `fault` for the whole.
        field: String,
        /// What was found there, and what was expected.
        source: serde_json::Error,
    },
    /// A value breaks a rule.
    #[error("{field} = {value}: {rule}")]
    Rule {
        /// The field.
        field: &'static str,
        /// Its value; `none` if it is absent.
        value: String,
        /// The rule.
        rule: &'static str,
    },
}

impl Fault {
    /// Reads one fault.
    ///
    /// # Errors
    /// See [`FaultError`]; the rules of [`Fault::check`] are not among them.
    pub fn from_json(json: &[u8]) -> Result<Self, FaultError> {
        let whole = |source| FaultError::Malformed { field: "fault".to_owned(), source };
        let mut fields: serde_json::Map<_, _> = serde_json::from_slice(json).map_err(whole)?;
        let kind = fields.remove("kind").unwrap_or_default();
        let fields = serde_json::Value::Object(fields);
        match kind.as_str() {
            Some("kill_actor") => read(fields).map(Self::KillActor),
            Some("stall_actor") => read(fields).map(Self::StallActor),
            Some("link") => read(fields).map(Self::Link),
            Some("disk") => read(fields).map(Self::Disk),
            Some("clock") => read(fields).map(Self::Clock),
            _ => Err(rule("kind", kind, "must be kill_actor, stall_actor, link, disk or clock")),
        }
    }

    /// Its name in metrics and in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::KillActor(_) => "kill_actor",
            Self::StallActor(_) => "stall_actor",
            Self::Link(_) => "link",
            Self::Disk(_) => "disk",
            Self::Clock(_) => "clock",
        }
    }

    /// Checks what does not depend on the node.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), FaultError> {
        match self {
            Self::KillActor(kill) => kill.target().map(drop),
            Self::StallActor(stall) => stall.check(),
            Self::Link(link) => link.check(),
            Self::Disk(disk) => disk.check(),
            Self::Clock(clock) => clock.check(),
        }
    }
}

impl KillActor {
    /// The actor.
    pub(super) fn target(&self) -> Result<ActorTarget, FaultError> {
        target(self.actor, self.group, self.peer)
    }
}

impl StallActor {
    /// The actor.
    pub(super) fn target(&self) -> Result<ActorTarget, FaultError> {
        target(self.actor, self.group, self.peer)
    }

    fn check(&self) -> Result<(), FaultError> {
        if self.length.is_zero() {
            return Err(rule("for", "0s", "must be longer than nothing"));
        }
        short("for", self.length)?;
        self.target().map(drop)
    }
}

impl LinkFault {
    /// A fault that disturbs nothing yet.
    pub fn new(peer: NodeId, direction: Direction) -> Self {
        Self {
            peer,
            direction,
            lane: None,
            cut: false,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            reorder_per_mille: 0,
            bandwidth_bytes_per_s: 0,
        }
    }

    fn check(&self) -> Result<(), FaultError> {
        short("delay", self.delay)?;
        short("jitter", self.jitter)?;
        let chances = [
            ("loss_per_mille", self.loss_per_mille),
            ("duplicate_per_mille", self.duplicate_per_mille),
            ("reorder_per_mille", self.reorder_per_mille),
        ];
        if let Some((field, chance)) = chances.into_iter().find(|(_, chance)| *chance > 1_000) {
            return Err(rule(field, chance, "must be 0 to 1000"));
        }
        if self.lane == Some(Lane::Request) && self.duplicate_per_mille > 0 {
            let what = "must not be on the request lane: no transport may repeat a request";
            return Err(rule("duplicate_per_mille", self.duplicate_per_mille, what));
        }
        if *self == (Self { lane: self.lane, ..Self::new(self.peer, self.direction) }) {
            let what = "must disturb: cut, delay, jitter, loss_per_mille, duplicate_per_mille, \
                        reorder_per_mille or bandwidth_bytes_per_s";
            return Err(rule("link", "none", what));
        }
        Ok(())
    }
}

impl DiskFault {
    /// A fault that disturbs nothing yet.
    pub fn new(store: Store) -> Self {
        Self { store, delay: Duration::ZERO, stall: false, error: None, full: false }
    }

    fn check(&self) -> Result<(), FaultError> {
        short("delay", self.delay)?;
        if *self == Self::new(self.store) {
            return Err(rule("disk", "none", "must disturb: delay, stall, error or full"));
        }
        Ok(())
    }
}

impl ClockFault {
    fn check(&self) -> Result<(), FaultError> {
        let max = CLOCK_STEP_MAX.as_millis();
        let value = || text::step_text(self.step_ms);
        match self.step_ms {
            0 => Err(rule("step", value(), "must not be zero")),
            ms if u128::from(ms.unsigned_abs()) > max => {
                Err(rule("step", value(), "must be at most a year, either way"))
            }
            _ => Ok(()),
        }
    }
}

/// A rule that a field's value breaks.
pub(super) fn rule(
    field: &'static str,
    value: impl std::fmt::Display,
    rule: &'static str,
) -> FaultError {
    FaultError::Rule { field, value: value.to_string(), rule }
}

fn read<T: DeserializeOwned>(fields: serde_json::Value) -> Result<T, FaultError> {
    serde_path_to_error::deserialize(fields).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "fault".to_owned() } else { path };
        FaultError::Malformed { field, source: error.into_inner() }
    })
}

fn short(field: &'static str, duration: Duration) -> Result<(), FaultError> {
    if duration <= FAULT_DURATION_MAX {
        return Ok(());
    }
    Err(rule(field, humantime::format_duration(duration), "must be at most 1h"))
}

/// The actor that the three fields name together.
fn target(
    actor: ActorKind,
    group: Option<GroupId>,
    peer: Option<NodeId>,
) -> Result<ActorTarget, FaultError> {
    match (actor, group, peer) {
        (kind, Some(group), None) if kind.is_of_group() => Ok(ActorTarget::OfGroup(kind, group)),
        (kind, None, _) if kind.is_of_group() => {
            Err(rule("group", "none", "must say whose actor it is"))
        }
        (ActorKind::PeerLink, None, Some(peer)) => Ok(ActorTarget::LinkTo(peer)),
        (ActorKind::PeerLink, _, None) => Err(rule("peer", "none", "must say whose link it is")),
        (_, Some(group), _) => Err(rule("group", group, "is for group, batcher and applier")),
        (_, None, Some(peer)) => Err(rule("peer", peer, "is for peer_link")),
        (kind, None, None) => Ok(ActorTarget::OfNode(kind)),
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
