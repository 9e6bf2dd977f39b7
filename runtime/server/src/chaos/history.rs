//! What clients saw: one record per request.

use std::time::Duration;

/// The identity of one put: no two puts of a run have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u64);

impl ValueId {
    /// The value that carries it, `bytes` long, at least 16.
    pub fn to_bytes(self, bytes: usize) -> Vec<u8> {
        let mut value = format!("{:016x}", self.0).into_bytes();
        value.resize(bytes.max(value.len()), b'v');
        value
    }

    /// The identity that `value` carries, if a client of this kind made it.
    pub fn of(value: &[u8]) -> Option<Self> {
        let digits = std::str::from_utf8(value.get(..16)?).ok()?;
        let id = u64::from_str_radix(digits, 16).ok()?;
        (Self(id).to_bytes(value.len()) == value).then_some(Self(id))
    }
}

/// One request. Times are since the load began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// The keyspace, by its place in the scenario.
    pub keyspace: usize,
    /// The key, by its number.
    pub key: u32,
    /// The node that was asked.
    pub node: u64,
    /// When it was sent.
    pub began: Duration,
    /// When its answer came, or was no longer waited for.
    pub ended: Duration,
    /// What was asked, and what came of it.
    pub call: Call,
}

/// A request with its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A put.
    Put {
        /// What was put.
        value: ValueId,
        /// What came of it.
        outcome: PutOutcome,
    },
    /// A linearizable read; `None` if it was not answered.
    Get(Option<Sight>),
}

/// What came of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// Done, at this revision.
    Acknowledged(i64),
    /// The node promised that it was not and will not be done.
    Failed,
    /// It may have been done, or may yet be.
    Unknown,
}

/// What a read answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// The keyspace's revision that was read.
    pub revision: i64,
    /// The key's value and the revision that put it, if there is one.
    pub seen: Option<(ValueId, i64)>,
}

impl Operation {
    /// The revision of an acknowledged put.
    pub fn acknowledged(&self) -> Option<i64> {
        match self.call {
            Call::Put { outcome: PutOutcome::Acknowledged(revision), .. } => Some(revision),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_carry_their_identity() {
        let id = ValueId(0xa5_0000_0007);
        assert_eq!(ValueId::of(&id.to_bytes(64)), Some(id));
        assert_eq!(ValueId::of(&id.to_bytes(0)), Some(id));
        let mut damaged = id.to_bytes(64);
        damaged[40] ^= 1;
        assert_eq!(ValueId::of(&damaged), None);
        assert_eq!(ValueId::of(b"short"), None);
    }
}
