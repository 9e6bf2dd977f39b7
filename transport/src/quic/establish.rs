//! From an authenticated QUIC connection to a link with every lane.
//!
//! ```text
//! each side: open 4 unidirectional streams, each starting | version u8 | stream u8 | boot u64 BE |
//!              the first goes on | data u64 BE | incarnation u64 BE | round of certificates u64 BE |
//!            accept 4, one of each kind, all of one boot: beats and a lane each
//! ```
//!
//! A dialler learns only here that its own certificate was accepted: with TLS 1.3 its handshake is
//! complete before the other side has judged it.

use std::sync::Arc;

use polyraft_core::ids::NodeId;
use polyraft_core::peer_data::{DataMark, ForeignData, PeerRegister};
use polyraft_core::ports::Lane;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, ReadExactError, RecvStream, SendStream, WriteError};

use super::refusal::Refusal;
use super::tie_break::Origin;
use super::wire_version::WireVersion;

pub(crate) const PREAMBLE_BYTES: usize = 10;
/// What follows the preamble of the beats.
const HELLO_BYTES: usize = 24;
/// Streams each side opens: beats first, then a stream per lane in the lanes' order.
pub(super) const STREAMS: usize = 1 + Lane::ALL.len();

/// A connection that is ready to take a peer's place.
pub(super) struct Candidate {
    pub(super) connection: Connection,
    pub(super) origin: Origin,
    /// The data that the peer shows.
    pub(super) mark: DataMark,
    pub(super) version: WireVersion,
    /// Beats first, then by lane.
    pub(super) sends: Vec<SendStream>,
    /// Beats first, then by lane.
    pub(super) receives: Vec<RecvStream>,
}

/// Opens and accepts the lanes of a connection dialled by `dialler`, on which this node showed its
/// certificate of `round`. Callers bound the time.
///
/// # Errors
/// The connection was lost or the peer broke the wire format.
pub(super) async fn establish(
    connection: Connection,
    dialler: NodeId,
    mark: DataMark,
    round: u64,
) -> Result<Candidate, EstablishError> {
    let version = wire_version(&connection)?;
    let mut sends = Vec::with_capacity(STREAMS);
    for stream in 0..STREAMS as u8 {
        let mut send = connection.open_uni().await?;
        let mut hello = Preamble { version, stream, boot: mark.boot }.encode().to_vec();
        if stream == 0 {
            hello.extend_from_slice(&mark.data.to_be_bytes());
            hello.extend_from_slice(&mark.incarnation.to_be_bytes());
            hello.extend_from_slice(&round.to_be_bytes());
        }
        send.write_all(&hello).await.map_err(|error| match error {
            WriteError::ConnectionLost(lost) => lost.into(),
            _ => EstablishError::Refused(Refusal::LaneClosed),
        })?;
        sends.push(send);
    }
    let mut receives: [Option<RecvStream>; STREAMS] = Default::default();
    let (mut peer_boot, mut hello) = (None, [0; 3]);
    for _ in 0..STREAMS {
        let mut receive = connection.accept_uni().await?;
        let mut bytes = [0; PREAMBLE_BYTES];
        receive.read_exact(&mut bytes).await.map_err(|error| read_error(&connection, error))?;
        let preamble = Preamble::decode(bytes).ok_or(BAD_PREAMBLE)?;
        let expected = *peer_boot.get_or_insert(preamble.boot);
        let slot = &mut receives[usize::from(preamble.stream)];
        if preamble.version != version || preamble.boot != expected || slot.is_some() {
            return Err(BAD_PREAMBLE);
        }
        if preamble.stream == 0 {
            hello = read_hello(&connection, &mut receive).await?;
        }
        *slot = Some(receive);
    }
    let receives = receives.into_iter().flatten().collect();
    let boot = peer_boot.expect("there is more than one stream");
    let [data, incarnation, peer_round] = hello;
    let mark = DataMark { data, incarnation, boot };
    let origin = Origin { dialler, peer_boot: boot, round, peer_round };
    Ok(Candidate { connection, origin, mark, version, sends, receives })
}

/// The peer's data, the number of its life, and its round of certificates.
async fn read_hello(
    connection: &Connection,
    receive: &mut RecvStream,
) -> Result<[u64; 3], EstablishError> {
    let mut parts = [[0; HELLO_BYTES / 3]; 3];
    for part in &mut parts {
        receive.read_exact(part).await.map_err(|error| read_error(connection, error))?;
    }
    Ok(parts.map(u64::from_be_bytes))
}

/// Whether the peer still has the data that it had: until then nothing that it says is used.
///
/// # Errors
/// It has not, or nobody can tell.
pub(super) async fn admit(
    register: Option<Arc<dyn PeerRegister>>,
    peer: NodeId,
    shown: DataMark,
) -> Result<(), Refusal> {
    let Some(register) = register else { return Ok(()) };
    // It may sync a file: not on a thread that moves frames.
    let admitted = tokio::task::spawn_blocking(move || register.admit(peer, shown)).await;
    match admitted {
        Ok(Ok(())) => Ok(()),
        Ok(Err(foreign)) => {
            tracing::debug!(%peer, %foreign, "a peer's data is refused");
            Err(match foreign {
                ForeignData::Replaced { .. } => Refusal::ReplacedData,
                ForeignData::Older { .. } => Refusal::OlderData,
                _ => Refusal::DataUnknown,
            })
        }
        // The runtime is going away, or a bug panicked.
        Err(_) => Err(Refusal::DataUnknown),
    }
}

const BAD_PREAMBLE: EstablishError = EstablishError::Refused(Refusal::BadPreamble);

fn wire_version(connection: &Connection) -> Result<WireVersion, EstablishError> {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let protocol = data.and_then(|data| data.protocol);
    protocol
        .and_then(|name| WireVersion::from_alpn(&name))
        .ok_or(EstablishError::Refused(Refusal::WrongAlpn))
}

fn read_error(connection: &Connection, error: ReadExactError) -> EstablishError {
    match (error, connection.close_reason()) {
        (ReadExactError::ReadError(quinn::ReadError::ConnectionLost(lost)), _) => lost.into(),
        (_, Some(lost)) => lost.into(),
        _ => BAD_PREAMBLE,
    }
}

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub(super) enum EstablishError {
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error(transparent)]
    Lost(#[from] ConnectionError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Preamble {
    version: WireVersion,
    /// 0 for beats, then the lanes.
    stream: u8,
    boot: u64,
}

impl Preamble {
    fn encode(self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[0] = self.version.get();
        bytes[1] = self.stream;
        bytes[2..].copy_from_slice(&self.boot.to_be_bytes());
        bytes
    }

    fn decode(bytes: [u8; PREAMBLE_BYTES]) -> Option<Self> {
        let [version, stream, boot @ ..] = bytes;
        let version = (version > 0).then(|| WireVersion::new(version))?;
        let known = usize::from(stream) < STREAMS;
        known.then_some(Self { version, stream, boot: u64::from_be_bytes(boot) })
    }
}

/// A preamble encoded again after it was decoded: for the fuzzer.
#[cfg(feature = "fuzzing")]
pub(crate) fn preamble_again(bytes: [u8; PREAMBLE_BYTES]) -> Option<[u8; PREAMBLE_BYTES]> {
    Preamble::decode(bytes).map(Preamble::encode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_is_what_wire_md_says() {
        let preamble =
            Preamble { version: WireVersion::new(1), stream: 1 + Lane::Append as u8, boot: 0x0102 };
        let bytes = [1, 2, 0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(preamble.encode(), bytes);
        assert_eq!(Preamble::decode(bytes), Some(preamble));
    }

    #[test]
    fn unknown_streams_and_versions_are_refused() {
        for (version, lane) in [(0, 1), (1, 4), (1, 255)] {
            assert_eq!(Preamble::decode([version, lane, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        }
    }
}
