//! Why certificates were not made, read, replaced or revoked.

use std::path::PathBuf;
use std::time::Duration;

/// Why a certificate was not made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The cluster's name does not fit a certificate.
    #[error("cluster name {name:?}: must be 1 to 63 of a-z, 0-9 and -")]
    ClusterName {
        /// The name as given.
        name: String,
    },
    /// No node has the id 0.
    #[error("node id 0: must be at least 1")]
    NodeIdZero,
    /// A validity is too short to be used or too long to be written down.
    #[error("validity of {validity:?}: must be 1 hour to 100 years")]
    Validity {
        /// The validity as given.
        validity: Duration,
    },
    /// The file exists, and nothing was written. A node's certificate is replaced by rotation, which
    /// keeps the old one; anything else is yours to move away.
    #[error("{}: exists already, and is not overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{}: cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not the key or certificate that it should be.
    #[error("{}: not a usable key or certificate", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No certificate in the bundle belongs to the issuing key: what it signs, nobody would trust.
    #[error("{}: no certificate in it belongs to the key in {}", bundle.display(), key.display())]
    OtherKey {
        /// The bundle.
        bundle: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// There are two authorities already: the older must be retired first.
    #[error("{}: holds {authorities} authorities already; retire the old one first", path.display())]
    Overlap {
        /// The bundle.
        path: PathBuf,
        /// How many there are.
        authorities: usize,
    },
    /// There is but one authority: nothing can be retired.
    #[error("{}: holds one authority only; add its successor first", path.display())]
    NoOverlap {
        /// The bundle.
        path: PathBuf,
    },
    /// A node's certificate is signed by the authority that is to be retired: it would be locked out.
    #[error("{}: signed by {issuer:?}, which is to be retired: rotate it first", path.display())]
    StillInUse {
        /// The node's certificate.
        path: PathBuf,
        /// The authority.
        issuer: String,
    },
    /// The certificate was signed by none of the authorities, or by one whose key is not there.
    #[error("{}: signed by {issuer:?}, whose key is not in {}", path.display(), dir.display())]
    NotIssued {
        /// The certificate.
        path: PathBuf,
        /// Who signed it.
        issuer: String,
        /// The authority's directory.
        dir: PathBuf,
    },
    /// The key or the certificate cannot be made.
    #[error("a key or certificate cannot be made")]
    Make(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl CertificateError {
    /// Wraps a failure of the certificate library.
    pub(super) fn make(source: rcgen::Error) -> Self {
        Self::Make(Box::new(source))
    }
}

/// A file that is not the key, certificate or list that it should be.
pub(super) fn malformed<E>(path: &std::path::Path) -> impl FnOnce(E) -> CertificateError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = path.to_owned();
    move |source| CertificateError::Malformed { path, source: source.into() }
}
