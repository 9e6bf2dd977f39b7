//! Certificates for a cluster's nodes: an authority per cluster, a leaf per node.
//!
//! ```text
//! CertificateAuthority ─issue(node)→ leaf with the one URI SAN polyraft://<cluster>/node/<id>
//! ```
//!
//! Promise: a private key is readable by its owner alone from the moment its file exists, and nothing
//! that was written is ever lost: losing an authority's key would lock a cluster out of itself.
//! Replacing and revoking what was issued: [`AuthorityDir`].
//! Not here: checking certificates (`polyraft-transport`).

mod authority_dir;
mod certificate_error;
mod key_files;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use polyraft_core::ids::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use self::authority_dir::{certificate_of, list_pem};
use self::certificate_error::malformed;
use self::key_files::{CERTIFICATE_MODE, KEY_MODE, read, write_all_new};
use crate::config_cluster::is_name;

pub use self::authority_dir::AuthorityDir;
pub use self::certificate_error::CertificateError;

/// File that holds the authority's certificate, and that of the one before it until that is retired:
/// every node needs a copy.
pub const CA_CERTIFICATE_FILE: &str = "ca.pem";
/// File that holds the authority's private key: no node needs it.
pub const CA_KEY_FILE: &str = "ca.key";
/// File that holds the private key of an authority that is to be retired.
pub const OLD_CA_KEY_FILE: &str = "ca-old.key";
/// File that holds a revocation list of each authority: every node needs a copy.
pub const CRL_FILE: &str = "crl.pem";
/// File that holds the cluster's name.
pub const CLUSTER_FILE: &str = "cluster";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates are valid from a little before they are made: clocks differ.
const BACKDATE: Duration = Duration::from_secs(60 * 60);

/// How long certificates are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The authority's certificate. 1 h to 100 years. Default ten years: replacing it means a period
    /// of two trusted authorities on every node.
    pub authority: Duration,
    /// A node's certificate. 1 h to 100 years. Default one year: replacing it needs no restart.
    pub node: Duration,
}

impl Default for Validity {
    fn default() -> Self {
        Self { authority: DAY * 3_650, node: DAY * 365 }
    }
}

/// A node's identity, as PEM.
#[derive(Clone)]
pub struct NodeCertificate {
    /// The node.
    pub node: NodeId,
    /// Its certificate. The authority's is not in it: peers have that one.
    pub chain_pem: String,
    /// Its private key, PKCS #8.
    pub key_pem: String,
}

/// Never prints the key.
impl std::fmt::Debug for NodeCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeCertificate").field("node", &self.node).finish_non_exhaustive()
    }
}

impl NodeCertificate {
    /// Writes `node-<id>.pem` and `node-<id>.key` into `dir` and returns their paths.
    ///
    /// # Errors
    /// One of them exists, or cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(PathBuf, PathBuf), CertificateError> {
        let (cert, key) = node_files(dir, self.node);
        write_all_new(&[
            (&key, &self.key_pem, KEY_MODE),
            (&cert, &self.chain_pem, CERTIFICATE_MODE),
        ])?;
        Ok((cert, key))
    }
}

/// Signs the certificates of one cluster's nodes.
pub struct CertificateAuthority {
    cluster: String,
    validity: Validity,
    certificate_pem: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// Never prints the key.
impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("cluster", &self.cluster)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Makes a new authority for `cluster`, in memory.
    ///
    /// # Errors
    /// The name is not 1 to 63 of `a-z`, `0-9` and `-`; a validity is out of range; or the keys
    /// cannot be made.
    pub fn create(cluster: &str, validity: Validity) -> Result<Self, CertificateError> {
        if !is_name(cluster) {
            return Err(CertificateError::ClusterName { name: cluster.to_owned() });
        }
        let key = new_key()?;
        let params = authority_params(cluster, validity, &key)?;
        let not_after = params.not_after.into();
        let certificate = params.self_signed(&key).map_err(CertificateError::make)?;
        Ok(Self {
            cluster: cluster.to_owned(),
            validity,
            certificate_pem: certificate.pem(),
            not_after,
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads an authority that [`CertificateAuthority::save`] wrote, with the default validity for
    /// what it issues; see [`CertificateAuthority::with_validity`].
    ///
    /// # Errors
    /// A file is absent, unreadable, or not what it should be.
    pub fn load(dir: &Path) -> Result<Self, CertificateError> {
        let cluster = read(&dir.join(CLUSTER_FILE))?.trim().to_owned();
        if !is_name(&cluster) {
            return Err(CertificateError::ClusterName { name: cluster });
        }
        let (bundle, key_path) = (dir.join(CA_CERTIFICATE_FILE), dir.join(CA_KEY_FILE));
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(malformed(&key_path))?;
        let certificate_pem = certificate_of(&bundle, &key)?;
        let other_key = || CertificateError::OtherKey { bundle: bundle.clone(), key: key_path };
        let certificate_pem = certificate_pem.ok_or_else(other_key)?;
        let not_after = end_of(&bundle, &certificate_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(malformed(&bundle))?;
        Ok(Self { cluster, validity: Validity::default(), certificate_pem, not_after, issuer })
    }

    /// Replaces the validity of what is issued from now on.
    #[must_use]
    pub fn with_validity(mut self, validity: Validity) -> Self {
        self.validity = validity;
        self
    }

    /// The cluster whose nodes it certifies.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its certificate, which every node must trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The URI that names `node` of this cluster in its certificate.
    pub fn node_uri(&self, node: NodeId) -> String {
        format!("polyraft://{}/node/{node}", self.cluster)
    }

    /// Makes a key and a certificate for `node`, good for both directions of a connection.
    ///
    /// # Errors
    /// The id is 0, the validity is out of range, or the keys cannot be made.
    pub fn issue(&self, node: NodeId) -> Result<NodeCertificate, CertificateError> {
        if node.get() == 0 {
            return Err(CertificateError::NodeIdZero);
        }
        let name = format!("polyraft {} node {node}", self.cluster);
        let mut params = params(&name, self.validity.node)?;
        // Nobody trusts it any longer than its authority.
        params.not_after = params.not_after.min(self.not_after.into());
        let uri = self.node_uri(node).try_into().map_err(CertificateError::make)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(CertificateError::make)?;
        Ok(NodeCertificate { node, chain_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A revocation list of this authority.
    pub(crate) fn list_pem(
        &self,
        revoked: &[(Vec<u8>, SystemTime)],
        number: u64,
    ) -> Result<String, CertificateError> {
        list_pem(&self.issuer, revoked, number)
    }

    fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Writes `ca.pem`, `ca.key`, an empty `crl.pem` and `cluster` into `dir`, which is made if it is
    /// absent.
    ///
    /// # Errors
    /// One of them exists, or cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), CertificateError> {
        std::fs::create_dir_all(dir)
            .map_err(|source| CertificateError::Io { path: dir.into(), source })?;
        write_all_new(&[
            (&dir.join(CA_KEY_FILE), &self.key_pem(), KEY_MODE),
            (&dir.join(CRL_FILE), &self.list_pem(&[], 1)?, CERTIFICATE_MODE),
            (&dir.join(CA_CERTIFICATE_FILE), &self.certificate_pem, CERTIFICATE_MODE),
            (&dir.join(CLUSTER_FILE), &format!("{}\n", self.cluster), CERTIFICATE_MODE),
        ])
    }
}

/// A fresh ECDSA P-256 key.
fn new_key() -> Result<KeyPair, CertificateError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertificateError::make)
}

/// What every certificate has: a name and a validity.
fn params(name: &str, validity: Duration) -> Result<CertificateParams, CertificateError> {
    if !(DAY / 24..=DAY * 36_525).contains(&validity) {
        return Err(CertificateError::Validity { validity });
    }
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + validity).into();
    Ok(params)
}

/// What the authority's own certificate says. Its name ends with the beginning of its key's identifier:
/// two authorities of one cluster are told apart by their names alone, also in revocation lists.
fn authority_params(
    cluster: &str,
    validity: Validity,
    key: &KeyPair,
) -> Result<CertificateParams, CertificateError> {
    let mut params = params("", validity.authority)?;
    let id: String =
        params.key_identifier(key).iter().map(|b| format!("{b:02x}")).take(4).collect();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("polyraft {cluster} authority {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The names of a node's certificate and key.
fn node_files(dir: &Path, node: NodeId) -> (PathBuf, PathBuf) {
    (dir.join(format!("node-{node}.pem")), dir.join(format!("node-{node}.key")))
}

/// When a certificate ends.
fn end_of(path: &Path, pem: &str) -> Result<SystemTime, CertificateError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(malformed(path))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(malformed(path))?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn authority() -> CertificateAuthority {
        CertificateAuthority::create("demo", Validity::default()).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_saved_authority_issues_for_the_same_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let made = authority();
        made.save(dir.path()).unwrap();
        let loaded = CertificateAuthority::load(dir.path()).unwrap();
        assert_eq!(loaded.cluster(), "demo");
        assert_eq!(loaded.certificate_pem(), made.certificate_pem());
        assert_eq!(loaded.node_uri(NodeId::new(3)), "polyraft://demo/node/3");
        let issued = loaded.issue(NodeId::new(3)).unwrap();
        assert!(KeyPair::from_pem(&issued.key_pem).is_ok());
        assert!(issued.chain_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    }

    #[test]
    fn keys_are_private_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let made = authority();
        made.save(dir.path()).unwrap();
        let (cert, key) = made.issue(NodeId::new(1)).unwrap().save(dir.path()).unwrap();
        assert_eq!(mode(&dir.path().join(CA_KEY_FILE)), 0o600);
        assert_eq!(mode(&key), 0o600);
        let before = std::fs::read(&key).unwrap();
        let again = made.issue(NodeId::new(1)).unwrap().save(dir.path());
        assert!(matches!(again, Err(CertificateError::Exists { .. })));
        assert_eq!(std::fs::read(&key).unwrap(), before);
        std::fs::remove_file(&key).unwrap();
        let half = made.issue(NodeId::new(1)).unwrap().save(dir.path());
        assert!(matches!(half, Err(CertificateError::Exists { path }) if path == cert));
        assert!(!key.exists(), "nothing may be written when one file exists");
        assert!(matches!(made.save(dir.path()), Err(CertificateError::Exists { .. })));
    }

    #[test]
    fn what_cannot_be_certified_is_refused() {
        let day = Duration::from_secs(86_400);
        let long = Validity { authority: day * 36_526, node: day };
        assert!(matches!(
            CertificateAuthority::create("Demo/x", Validity::default()),
            Err(CertificateError::ClusterName { .. })
        ));
        assert!(matches!(
            CertificateAuthority::create("demo", long),
            Err(CertificateError::Validity { .. })
        ));
        assert!(matches!(authority().issue(NodeId::new(0)), Err(CertificateError::NodeIdZero)));
        let brief = authority().with_validity(Validity { node: Duration::ZERO, authority: day });
        assert!(matches!(brief.issue(NodeId::new(1)), Err(CertificateError::Validity { .. })));
    }

    #[test]
    fn a_damaged_authority_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(CertificateAuthority::load(dir.path()), Err(CertificateError::Io { .. })));
        authority().save(dir.path()).unwrap();
        std::fs::write(dir.path().join(CA_KEY_FILE), "not a key").unwrap();
        let load = || CertificateAuthority::load(dir.path()).unwrap_err();
        assert!(matches!(load(), CertificateError::Malformed { path, .. }
            if path.ends_with(CA_KEY_FILE)));
        let other = new_key().unwrap().serialize_pem();
        std::fs::write(dir.path().join(CA_KEY_FILE), other).unwrap();
        assert!(matches!(load(), CertificateError::OtherKey { bundle, .. }
            if bundle.ends_with(CA_CERTIFICATE_FILE)));
    }

    #[test]
    fn keys_are_never_printed() {
        let issued = authority().issue(NodeId::new(1)).unwrap();
        assert!(!format!("{issued:?} {:?}", authority()).contains("PRIVATE"));
    }
}
