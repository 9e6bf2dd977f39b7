//! Codes with which a connection is closed.

use quinn::{ApplicationClose, Connection, ConnectionError, VarInt};

/// Why this side closes a connection. The numbers are part of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum CloseCode {
    /// The node is stopping.
    Shutdown = 0,
    /// Another connection between the two is kept. Not a failure.
    Duplicate = 1,
    /// The peer was removed.
    Removed = 2,
    /// The certificates changed; a new connection follows. Not a failure.
    Reloaded = 3,
    /// The peer broke the wire format, or was too slow to follow it.
    Violation = 4,
    /// The peer no longer acknowledges what this side sends.
    Unheard = 5,
    /// A code of a later version.
    Unknown = u32::MAX,
}

impl CloseCode {
    pub(super) fn of(close: &ApplicationClose) -> Self {
        let known = [
            Self::Shutdown,
            Self::Duplicate,
            Self::Removed,
            Self::Reloaded,
            Self::Violation,
            Self::Unheard,
        ];
        let code = u64::from(close.error_code);
        known.into_iter().find(|known| *known as u64 == code).unwrap_or(Self::Unknown)
    }

    /// Whether the peer thereby says that this side did wrong.
    pub(super) fn is_fault(self) -> bool {
        matches!(self, Self::Violation | Self::Unknown)
    }

    /// Whether the end was agreed: another connection is in use, or follows.
    pub(super) fn is_benign(error: &ConnectionError) -> bool {
        matches!(
            error,
            ConnectionError::ApplicationClosed(close)
                if matches!(Self::of(close), Self::Duplicate | Self::Reloaded)
        )
    }

    /// Closes a connection with this code; `reason` is for the peer's log.
    pub(super) fn close(self, connection: &Connection, reason: &str) {
        connection.close(VarInt::from_u32(self as u32), reason.as_bytes());
    }
}
