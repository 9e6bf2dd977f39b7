//! Who this node is and whom it trusts: certificate chain, private key, roots, revocation lists.

use polyraft_core::ids::NodeId;
use polyraft_core::ports::CertificateFacts;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, TrustAnchor};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};
use x509_parser::error::X509Error;

use super::certificate_facts::{facts, forged_list};
use super::refusal::Refusal;
use crate::node_uri::{ClusterName, NodeUri, NodeUriError};

/// A node's certificate material, parsed and checked for form. Validity in time is checked when a
/// connection is made.
pub struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) roots: Vec<TrustAnchor<'static>>,
    pub(super) crls: Vec<CertRevocationList<'static>>,
    uri: NodeUri,
    leaf: CertificateFacts,
    authorities: Vec<CertificateFacts>,
}

impl Identity {
    /// Reads PEM: `chain` starts with the node's own certificate, then its intermediates; `key` is
    /// its private key; `roots` are the authorities trusted to name nodes, at least one; `crls` may
    /// be empty.
    ///
    /// # Errors
    /// [`IdentityError`] names the part that is wrong, and how.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        roots: &[u8],
        crls: &[u8],
    ) -> Result<Self, IdentityError> {
        let chain = pem_items::<CertificateDer<'static>>(chain, IdentityPart::Chain)?;
        let roots = pem_items::<CertificateDer<'static>>(roots, IdentityPart::Roots)?;
        let crls = pem_items::<CertificateRevocationListDer<'static>>(crls, IdentityPart::Crls)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| IdentityError::Pem {
            part: IdentityPart::Key,
            source: source.into(),
        })?;
        Self::new(chain, key, roots, crls)
    }

    /// Takes DER; the parts are those of [`Identity::from_pem`].
    ///
    /// # Errors
    /// [`IdentityError`] names the part that is wrong, and how.
    pub fn from_der(
        chain: Vec<Vec<u8>>,
        key: Vec<u8>,
        roots: Vec<Vec<u8>>,
        crls: Vec<Vec<u8>>,
    ) -> Result<Self, IdentityError> {
        let certificates =
            |ders: Vec<Vec<u8>>| ders.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::try_from(key).map_err(|_| IdentityError::KeyUnknown)?;
        let crls = crls.into_iter().map(CertificateRevocationListDer::from).collect();
        Self::new(certificates(chain), key, certificates(roots), crls)
    }

    /// The identity that the node's own certificate carries.
    pub fn uri(&self) -> &NodeUri {
        &self.uri
    }

    /// What the node's own certificate says.
    pub fn leaf(&self) -> &CertificateFacts {
        &self.leaf
    }

    /// What the trusted authorities' certificates say, in their order; never empty.
    pub fn authorities(&self) -> &[CertificateFacts] {
        &self.authorities
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
        crls: Vec<CertificateRevocationListDer<'static>>,
    ) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::Empty { part: IdentityPart::Chain })?;
        let uri = node_uri(leaf)?;
        if roots.is_empty() {
            return Err(IdentityError::Empty { part: IdentityPart::Roots });
        }
        let malformed = |part| {
            move |source: webpki::Error| IdentityError::Der { part, source: Box::new(source) }
        };
        let unreadable =
            |part| move |source: X509Error| IdentityError::Der { part, source: Box::new(source) };
        let read = facts(leaf).map_err(unreadable(IdentityPart::Chain))?;
        let authorities: Result<_, _> = roots.iter().map(facts).collect();
        let authorities = authorities.map_err(unreadable(IdentityPart::Roots))?;
        let forged = forged_list(&crls, &roots).map_err(unreadable(IdentityPart::Crls))?;
        if let Some(at) = forged {
            return Err(IdentityError::ForgedList { number: at + 1 });
        }
        let anchor = |root| webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned());
        let roots: Result<_, _> = roots.iter().map(anchor).collect();
        let crls: Result<_, _> = crls
            .iter()
            .map(|crl| OwnedCertRevocationList::from_der(crl).map(CertRevocationList::from))
            .collect();
        let roots = roots.map_err(malformed(IdentityPart::Roots))?;
        let crls = crls.map_err(malformed(IdentityPart::Crls))?;
        Ok(Self { chain, key, roots, crls, uri, leaf: read, authorities })
    }

    /// Checks that the certificate is this node's.
    pub(super) fn check(&self, cluster: &ClusterName, node: NodeId) -> Result<(), IdentityError> {
        let expected = NodeUri { cluster: cluster.clone(), node };
        if self.uri == expected {
            Ok(())
        } else {
            Err(IdentityError::OtherNode { expected, found: self.uri.clone() })
        }
    }
}

impl std::fmt::Debug for Identity {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// Exactly one URI name, which is a node's.
pub(super) fn node_uri(certificate: &CertificateDer<'_>) -> Result<NodeUri, IdentityError> {
    let certificate = EndEntityCert::try_from(certificate).map_err(|source| {
        IdentityError::Der { part: IdentityPart::Chain, source: source.into() }
    })?;
    let mut names = certificate.valid_uri_names();
    match (names.next(), names.next()) {
        (Some(name), None) => name.parse().map_err(|source| IdentityError::Name { source }),
        _ => Err(IdentityError::NameCount),
    }
}

fn pem_items<T: PemObject>(pem: &[u8], part: IdentityPart) -> Result<Vec<T>, IdentityError> {
    let items: Result<Vec<T>, PemError> = T::pem_slice_iter(pem).collect();
    items.map_err(|source| IdentityError::Pem { part, source: source.into() })
}

/// Which part of an [`Identity`] is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityPart {
    /// The node's certificate and its intermediates.
    Chain,
    /// The private key.
    Key,
    /// The trusted authorities.
    Roots,
    /// The revocation lists.
    Crls,
}

impl std::fmt::Display for IdentityPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Chain => "certificate chain",
            Self::Key => "private key",
            Self::Roots => "trusted roots",
            Self::Crls => "revocation lists",
        })
    }
}

impl IdentityError {
    /// The part to look at.
    pub fn part(&self) -> IdentityPart {
        match self {
            Self::Pem { part, .. } | Self::Der { part, .. } | Self::Empty { part } => *part,
            Self::KeyUnknown | Self::Key { .. } => IdentityPart::Key,
            Self::ForgedList { .. } => IdentityPart::Crls,
            _ => IdentityPart::Chain,
        }
    }
}

/// Why certificate material cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The text is not PEM, or holds nothing of the right kind.
    #[error("{part}: not readable as PEM")]
    Pem {
        /// The part.
        part: IdentityPart,
        /// What the reader said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It is PEM, but the bytes within are malformed.
    #[error("{part}: malformed")]
    Der {
        /// The part.
        part: IdentityPart,
        /// What the reader said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no certificate in it.
    #[error("{part}: no certificate in it")]
    Empty {
        /// The part.
        part: IdentityPart,
    },
    /// The key is in none of the forms PKCS#8, PKCS#1 and SEC1.
    #[error("private key: neither PKCS#8, PKCS#1 nor SEC1")]
    KeyUnknown,
    /// The key is not the certificate's, or of a kind that is not supported.
    #[error("private key: not usable with the certificate")]
    Key {
        /// What TLS said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A revocation list bears the name of a trusted authority and not its signature.
    #[error(
        "revocation lists: number {number} is not signed by the trusted authority whose name it bears"
    )]
    ForgedList {
        /// Which one, from 1.
        number: usize,
    },
    /// This node itself would refuse the certificate: peers that trust the same do.
    #[error("certificate chain: {refusal}, by the roots and revocation lists beside it")]
    Unacceptable {
        /// Why.
        refusal: Refusal,
    },
    /// The certificate carries no URI name, or several.
    #[error("certificate chain: the first certificate must carry exactly one URI name")]
    NameCount,
    /// The certificate's URI name is not a node's.
    #[error("certificate chain: the first certificate's URI name is not a node's")]
    Name {
        /// The rule that it breaks.
        #[source]
        source: NodeUriError,
    },
    /// The certificate is another node's, or another cluster's.
    #[error("the certificate is that of {found}, this node is {expected}")]
    OtherNode {
        /// This node.
        expected: NodeUri,
        /// The certificate's.
        found: NodeUri,
    },
}
