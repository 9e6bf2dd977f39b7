//! TLS as polyraft uses it: 1.3 only, `ring`, both sides authenticated, nothing resumed.
//!
//! A certificate is judged by its chain and its node URI, never by a host name: nodes move between
//! addresses, and an address proves nothing. Sessions are not resumed and 0-RTT is off, so that every
//! connection is judged by the roots and revocation lists of its moment.

use std::sync::{Arc, Weak};

use polyraft_core::ids::NodeId;
use quinn::Connection;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, RevocationOptionsBuilder, UnknownStatusPolicy};

use super::identity::{Identity, IdentityError, node_uri};
use super::peers::Peers;
use super::refusal::{Refusal, Refusals};
use super::wire_version::WireVersion;
use crate::node_uri::ClusterName;

/// The name that TLS demands for a dial; neither sent nor checked.
pub(super) const SERVER_NAME: &str = "polyraft";

/// Certificate material and what it is judged by; replaced as a whole on reload.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    identity: Arc<Identity>,
    /// How often this node's own certificate was replaced.
    round: u64,
    cluster: ClusterName,
    alpn: Vec<Vec<u8>>,
    refusals: Arc<Refusals>,
}

impl Tls {
    pub(super) fn new(
        identity: Identity,
        cluster: ClusterName,
        versions: &[WireVersion],
        refusals: Arc<Refusals>,
    ) -> Self {
        let alpn = versions.iter().map(|version| version.alpn()).collect();
        let provider = Arc::new(ring::default_provider());
        Self { provider, identity: Arc::new(identity), round: 0, cluster, alpn, refusals }
    }

    /// The same settings with other certificates. A new round begins only with another certificate of
    /// this node's own: connections are made anew for what the peer is to see, and for nothing else.
    pub(super) fn with_identity(&self, identity: Identity) -> Self {
        let round = self.round + u64::from(identity.chain != self.identity.chain);
        Self { identity: Arc::new(identity), round, ..self.clone() }
    }

    pub(super) fn round(&self) -> u64 {
        self.round
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Judges a peer that was authenticated before, by what is trusted now.
    ///
    /// # Errors
    /// Why it would be refused.
    pub(super) fn judge_again(
        &self,
        peer: NodeId,
        connection: &Connection,
        dialled_by_peer: bool,
    ) -> Result<(), Refusal> {
        let chain = peer_chain(connection).ok_or(Refusal::NoCertificate)?;
        let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        let usage = if dialled_by_peer { KeyUsage::client_auth() } else { KeyUsage::server_auth() };
        let verifier = self.verifier(Expected::Node(peer));
        verifier.verify_chain(leaf, intermediates, usage, UnixTime::now())?;
        verifier.verify_name(leaf)
    }

    pub(super) fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// For accepting any of `peers`.
    ///
    /// # Errors
    /// [`IdentityError::Key`] if the key does not fit the certificate.
    pub(super) fn server(&self, peers: &Arc<Peers>) -> Result<QuicServerConfig, IdentityError> {
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .with_client_cert_verifier(self.verifier(Expected::AnyOf(Arc::downgrade(peers))))
            .with_single_cert(self.identity.chain.clone(), self.identity.key.clone_key())
            .map_err(key_error)?;
        config.alpn_protocols.clone_from(&self.alpn);
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(QuicServerConfig::try_from(config).expect("ring has QUIC's initial cipher suite"))
    }

    /// For dialling `peer`.
    ///
    /// # Errors
    /// [`IdentityError::Key`] if the key does not fit the certificate.
    pub(super) fn client(&self, peer: NodeId) -> Result<QuicClientConfig, IdentityError> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(Expected::Node(peer)))
            .with_client_auth_cert(self.identity.chain.clone(), self.identity.key.clone_key())
            .map_err(key_error)?;
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(QuicClientConfig::try_from(config).expect("ring has QUIC's initial cipher suite"))
    }

    /// Judges this node's own certificate, as peers with the same roots and lists would.
    ///
    /// # Errors
    /// Why they would refuse it.
    pub(super) fn judge_own(&self) -> Result<(), Refusal> {
        let verifier = self.verifier(Expected::Node(self.identity.uri().node));
        let (leaf, rest) = self.identity.chain.split_first().ok_or(Refusal::NoCertificate)?;
        for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
            verifier.verify_chain(leaf, rest, usage, UnixTime::now())?;
        }
        Ok(())
    }

    fn verifier(&self, expected: Expected) -> Arc<PeerVerifier> {
        Arc::new(PeerVerifier {
            identity: self.identity.clone(),
            algorithms: self.provider.signature_verification_algorithms,
            cluster: self.cluster.clone(),
            expected,
            refusals: self.refusals.clone(),
        })
    }
}

/// The certificates that the peer has shown, its own first.
pub(super) fn peer_chain(connection: &Connection) -> Option<Vec<CertificateDer<'static>>> {
    connection.peer_identity()?.downcast().ok().map(|chain| *chain)
}

fn key_error(source: rustls::Error) -> IdentityError {
    IdentityError::Key { source: Box::new(source) }
}

#[derive(Debug)]
enum Expected {
    Node(NodeId),
    /// Weak, for a connection keeps its TLS configuration, and a peer keeps its connection.
    AnyOf(Weak<Peers>),
}

/// Judges the other side's certificate, whichever side dialled.
#[derive(Debug)]
struct PeerVerifier {
    identity: Arc<Identity>,
    algorithms: WebPkiSupportedAlgorithms,
    cluster: ClusterName,
    expected: Expected,
    refusals: Arc<Refusals>,
}

impl PeerVerifier {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        self.verify_chain(certificate, intermediates, usage, now)
            .and_then(|()| self.verify_name(certificate))
            .map_err(|refusal| {
                // Counted here, where the reason is known: TLS reduces it to an alert.
                self.refusals.record(refusal, None);
                CertificateError::ApplicationVerificationFailure.into()
            })
    }

    fn verify_chain(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let certificate = EndEntityCert::try_from(certificate).map_err(chain_refusal)?;
        let crls: Vec<_> = self.identity.crls.iter().collect();
        // An authority without a list among ours is trusted as it was before there were lists.
        let revocation = RevocationOptionsBuilder::new(&crls)
            .ok()
            .map(|options| options.with_status_policy(UnknownStatusPolicy::Allow).build());
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.identity.roots,
                intermediates,
                now,
                usage,
                revocation,
                None,
            )
            .map(|_| ())
            .map_err(chain_refusal)
    }

    fn verify_name(&self, certificate: &CertificateDer<'_>) -> Result<(), Refusal> {
        let uri = node_uri(certificate).map_err(|_| Refusal::NoNodeUri)?;
        if uri.cluster != self.cluster {
            return Err(Refusal::WrongCluster);
        }
        match &self.expected {
            Expected::Node(node) if *node == uri.node => Ok(()),
            Expected::Node(_) => Err(Refusal::WrongNode),
            Expected::AnyOf(peers) if is_peer(peers, uri.node) => Ok(()),
            Expected::AnyOf(_) => Err(Refusal::UnknownPeer),
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

fn is_peer(peers: &Weak<Peers>, node: NodeId) -> bool {
    peers.upgrade().is_some_and(|peers| peers.get(node).is_some())
}

fn chain_refusal(error: webpki::Error) -> Refusal {
    match error {
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            Refusal::UntrustedIssuer
        }
        webpki::Error::CertExpired { .. } => Refusal::Expired,
        webpki::Error::CertNotValidYet { .. } => Refusal::NotYetValid,
        webpki::Error::CertRevoked => Refusal::Revoked,
        _ => Refusal::BadCertificate,
    }
}

const TLS12_REFUSED: rustls::Error =
    rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered);

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, KeyUsage::server_auth(), now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(TLS12_REFUSED)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, KeyUsage::client_auth(), now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(TLS12_REFUSED)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
