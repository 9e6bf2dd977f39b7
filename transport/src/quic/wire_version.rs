//! Versions of the connection's bytes, negotiated by ALPN (TR-12).

use std::fmt;

/// A version of WIRE.md. A node speaks two, so that a cluster is upgraded one node at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireVersion(u8);

/// What this build speaks, newest first: N and, once there is one, N − 1.
pub const SUPPORTED_WIRE_VERSIONS: &[WireVersion] = &[WireVersion(1)];

const ALPN_PREFIX: &str = "polyraft/";

impl WireVersion {
    /// Wraps a number: 1 to 255.
    pub const fn new(number: u8) -> Self {
        assert!(number > 0, "wire versions start at 1");
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The protocol's name in the TLS handshake.
    pub(super) fn alpn(self) -> Vec<u8> {
        format!("{ALPN_PREFIX}{}", self.0).into_bytes()
    }

    /// The version that a negotiated protocol's name stands for.
    pub(super) fn from_alpn(name: &[u8]) -> Option<Self> {
        let number = std::str::from_utf8(name).ok()?.strip_prefix(ALPN_PREFIX)?.parse().ok()?;
        (number > 0).then_some(Self(number))
    }
}

impl fmt::Display for WireVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_its_version() {
        let version = WireVersion::new(12);
        assert_eq!(version.alpn(), b"polyraft/12");
        assert_eq!(WireVersion::from_alpn(b"polyraft/12"), Some(version));
        for other in [&b"h3"[..], b"polyraft/", b"polyraft/0", b"polyraft/256", b"\xff"] {
            assert_eq!(WireVersion::from_alpn(other), None);
        }
    }

    #[test]
    fn newest_comes_first() {
        assert!(SUPPORTED_WIRE_VERSIONS.is_sorted_by(|a, b| a > b));
    }
}
