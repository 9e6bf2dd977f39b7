//! Fault text: how a fault's fields are written.
//!
//! Kinds, modes and lanes go by the names that metrics and logs use; ids are numbers from 1; a step of
//! the clock is a duration behind its sign.

use std::time::Duration;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serializer};

/// Reads and writes a type by its names.
macro_rules! named {
    ($module:ident, $type:ty, $all:expr, $name:path) => {
        pub(super) mod $module {
            use super::*;

            pub fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str($name(*value))
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                let text = String::deserialize(from)?;
                let names = || $all.into_iter().map($name).collect::<Vec<_>>().join(", ");
                let found = $all.into_iter().find(|value| $name(*value) == text);
                found.ok_or_else(|| D::Error::custom(format!("{text:?} is none of {}", names())))
            }
        }
    };
}

/// Reads and writes an id as a number.
macro_rules! numbered {
    ($module:ident, $type:ty) => {
        pub(super) mod $module {
            use super::*;

            pub fn serialize<S: Serializer>(
                value: &Option<$type>,
                to: S,
            ) -> Result<S::Ok, S::Error> {
                match value {
                    Some(id) => to.serialize_u64(id.get()),
                    None => to.serialize_none(),
                }
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(
                from: D,
            ) -> Result<Option<$type>, D::Error> {
                match Option::<u64>::deserialize(from)? {
                    Some(0) => Err(D::Error::custom("0 is no id; they count from 1")),
                    id => Ok(id.map(<$type>::new)),
                }
            }
        }
    };
}

named!(
    actor,
    polyraft_actors::mailbox::ActorKind,
    polyraft_actors::mailbox::ActorKind::all(),
    polyraft_actors::mailbox::ActorKind::as_str
);
named!(kill_mode, polyraft_actors::guard::KillMode, KILL_MODES, kill_mode_name);
named!(
    some_lane,
    polyraft_core::ports::Lane,
    polyraft_core::ports::Lane::ALL,
    polyraft_core::ports::Lane::as_str
);
numbered!(group, polyraft_core::ids::GroupId);
numbered!(node, polyraft_core::ids::NodeId);

use polyraft_actors::guard::KillMode;

const KILL_MODES: [KillMode; 2] = [KillMode::Panic, KillMode::Stop];

const fn kill_mode_name(mode: KillMode) -> &'static str {
    match mode {
        KillMode::Panic => "panic",
        KillMode::Stop => "stop",
    }
}

/// A node that must be named.
pub(super) mod required_node {
    use polyraft_core::ids::NodeId;

    use super::*;

    pub fn serialize<S: Serializer>(node: &NodeId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(node.get())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeId, D::Error> {
        node::deserialize(from)?.ok_or_else(|| D::Error::custom("null is no id"))
    }
}

/// A lane, or all of them.
pub(super) mod lane {
    use polyraft_core::ports::Lane;

    use super::*;

    pub fn serialize<S: Serializer>(lane: &Option<Lane>, to: S) -> Result<S::Ok, S::Error> {
        match lane {
            Some(lane) => some_lane::serialize(lane, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lane>, D::Error> {
        some_lane::deserialize(from).map(Some)
    }
}

/// A step of the clock in milliseconds.
pub(super) mod step {
    use super::*;

    pub fn serialize<S: Serializer>(step_ms: &i64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&step_text(*step_ms))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        let text = String::deserialize(from)?;
        parse_step(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is no step: a sign and a duration, as in +1h or -30s"
            ))
        })
    }
}

/// A step as it is written.
pub(super) fn step_text(step_ms: i64) -> String {
    let sign = if step_ms < 0 { '-' } else { '+' };
    let size = Duration::from_millis(step_ms.unsigned_abs());
    format!("{sign}{}", humantime::format_duration(size))
}

fn parse_step(text: &str) -> Option<i64> {
    let (sign, size) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(size), _) => (1, size),
        (_, Some(size)) => (-1, size),
        _ => return None,
    };
    let size = humantime::parse_duration(size).ok()?.as_millis();
    Some(sign * i64::try_from(size).ok()?)
}
