//! Why connections are refused: typed, counted, and logged by sample (TR-6, TR-7, OB-5).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use polyraft_core::log_tally::LogTally;
use polyraft_core::time::Moment;
use quinn::{ConnectionError, TransportErrorCode};

/// TLS alerts that name their cause (RFC 8446, section 6).
const ALERT_ACCESS_DENIED: u8 = 49;
const ALERT_CERTIFICATE_REQUIRED: u8 = 116;
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a connection was refused or given up. The first group is decided during the
        /// handshake, the second on an authenticated connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// Every reason, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason as a label for metrics and logs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

refusals! {
    /// The peer showed no certificate.
    NoCertificate = "no_certificate",
    /// The certificate leads to no trusted root.
    UntrustedIssuer = "untrusted_issuer",
    /// The certificate, or one above it, has expired.
    Expired = "expired",
    /// The certificate, or one above it, is not valid yet.
    NotYetValid = "not_yet_valid",
    /// The certificate, or one above it, was revoked.
    Revoked = "revoked",
    /// The certificate is malformed, not meant for this use, or its chain is.
    BadCertificate = "bad_certificate",
    /// The certificate does not carry exactly one URI name which is a node's.
    NoNodeUri = "no_node_uri",
    /// The certificate names another cluster.
    WrongCluster = "wrong_cluster",
    /// The node dialled is another one than expected.
    WrongNode = "wrong_node",
    /// The node dialling is not a peer.
    UnknownPeer = "unknown_peer",
    /// No wire version in common.
    WrongAlpn = "wrong_alpn",
    /// Any other failure of the handshake.
    Handshake = "handshake",
    /// The handshake or the preambles took too long.
    HandshakeTimeout = "handshake_timeout",
    /// Too many handshakes at once.
    Busy = "busy",
    /// The peer refused this node; its log says why.
    RefusedByPeer = "refused_by_peer",
    /// The peer comes with other data than it had: its directory was wiped or exchanged.
    ReplacedData = "replaced_data",
    /// The peer comes with an older copy of its data, or with a second one.
    OlderData = "older_data",
    /// What is known of the peer's data cannot be read or written here.
    DataUnknown = "data_unknown",
    /// A lane's stream did not start as it must.
    BadPreamble = "bad_preamble",
    /// A frame longer than allowed was announced.
    FrameTooLarge = "frame_too_large",
    /// A lane's stream ended within a frame.
    FrameTruncated = "frame_truncated",
    /// A frame did not arrive in full in time.
    FrameStalled = "frame_stalled",
    /// A lane's stream ended while the connection lived.
    LaneClosed = "lane_closed",
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

impl Refusal {
    /// What a connection's end says of a refusal. `None` if it was none, or if the verifier, which
    /// knows more, has counted it.
    pub(super) fn of(error: &ConnectionError) -> Option<Self> {
        match error {
            ConnectionError::TransportError(error) => Self::of_local(error.code),
            ConnectionError::ConnectionClosed(close) => {
                let tls = (0x100..0x200).contains(&u64::from(close.error_code));
                let refused = close.error_code == TransportErrorCode::CONNECTION_REFUSED;
                (tls || refused).then_some(Self::RefusedByPeer)
            }
            ConnectionError::ApplicationClosed(close) => {
                super::close::CloseCode::of(close).is_fault().then_some(Self::RefusedByPeer)
            }
            _ => None,
        }
    }

    fn of_local(code: TransportErrorCode) -> Option<Self> {
        if code == TransportErrorCode::crypto(ALERT_ACCESS_DENIED) {
            None
        } else if code == TransportErrorCode::crypto(ALERT_CERTIFICATE_REQUIRED) {
            Some(Self::NoCertificate)
        } else if code == TransportErrorCode::crypto(ALERT_NO_APPLICATION_PROTOCOL) {
            Some(Self::WrongAlpn)
        } else {
            Some(Self::Handshake)
        }
    }
}

/// Counts refusals and logs a sample of them.
#[derive(Debug)]
pub(super) struct Refusals {
    began: Instant,
    counts: Vec<AtomicU64>,
    tallies: Vec<LogTally>,
}

impl Default for Refusals {
    fn default() -> Self {
        let (mut counts, mut tallies) = (Vec::new(), Vec::new());
        counts.resize_with(Refusal::ALL.len(), AtomicU64::default);
        tallies.resize_with(Refusal::ALL.len(), LogTally::default);
        Self { began: Instant::now(), counts, tallies }
    }
}

impl Refusals {
    pub(super) fn record(&self, refusal: Refusal, remote: Option<SocketAddr>) {
        self.counts[refusal as usize].fetch_add(1, Relaxed);
        let now = Moment::new(self.began.elapsed());
        if let Some(since_last_line) = self.tallies[refusal as usize].add(now) {
            let remote = remote.map(tracing::field::display);
            tracing::warn!(reason = refusal.label(), remote, since_last_line, "connection refused");
        }
    }

    /// Every reason with its count, in order of declaration.
    pub(super) fn counts(&self) -> Vec<(Refusal, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        Refusal::ALL.iter().copied().zip(counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_count_and_label() {
        let refusals = Refusals::default();
        refusals.record(Refusal::Expired, None);
        refusals.record(Refusal::Expired, None);
        for (why, count) in refusals.counts() {
            assert_eq!(count, if why == Refusal::Expired { 2 } else { 0 });
        }
        let mut labels: Vec<_> = Refusal::ALL.iter().map(|why| why.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Refusal::ALL.len());
    }
}
