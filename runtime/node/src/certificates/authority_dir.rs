//! The directory of a cluster's authority: one that issues, perhaps one that is to retire, what they
//! issued and what they revoked.
//!
//! ```text
//! ca.pem     every authority that nodes trust, the issuing one first     node-<id>.pem, .key
//! ca.key     the issuing one's key                                       crl.pem  one list of each
//! ca-old.key that of the one that is to retire                           backup/  all that was replaced
//!
//! add → both are trusted, the new one issues ─rotate every node→ retire → only the new one is trusted
//! ```
//!
//! Promise: each step leaves files with which every node that has them, or still has those of the step
//! before, accepts every other; a step that would lock a node out is refused. A step that was
//! interrupted is repeated or undone by the next: the issuing authority is whichever `ca.key` belongs
//! to. Each authority has a name of its own, so that a list is never taken for another's.
//! Not here: bringing the files to the nodes.
//! Source: RFC 5280, sections 4.2.1.1 and 5.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use polyraft_core::ids::NodeId;
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate, X509Name};

use super::certificate_error::malformed;
use super::key_files::{CERTIFICATE_MODE, KEY_MODE, put_away, read, read_or_empty, replace};
use super::{
    CA_CERTIFICATE_FILE, CA_KEY_FILE, CRL_FILE, CertificateAuthority, CertificateError,
    NodeCertificate, OLD_CA_KEY_FILE, Validity, node_files,
};

const CERTIFICATE_END: &str = "-----END CERTIFICATE-----";
const LIST_END: &str = "-----END X509 CRL-----";
/// A list says until when another is due; nodes do not hold it against a list that it is late.
const LIST_VALIDITY: Duration = Duration::from_secs(3_650 * 24 * 60 * 60);

/// An authority's directory, as `polyraft certs` keeps it.
#[derive(Debug, Clone)]
pub struct AuthorityDir {
    dir: PathBuf,
}

/// One of the authorities in the bundle.
struct Trusted {
    pem: String,
    subject: Vec<u8>,
    public_key: Vec<u8>,
}

impl AuthorityDir {
    /// Makes an authority for `cluster` and writes it, with an empty revocation list, into `dir`.
    ///
    /// # Errors
    /// See [`CertificateAuthority::create`]; or there is one already.
    pub fn init(dir: &Path, cluster: &str, validity: Validity) -> Result<Self, CertificateError> {
        CertificateAuthority::create(cluster, validity)?.save(dir)?;
        Ok(Self::new(dir))
    }

    /// Names a directory; nothing is read yet.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    /// The authority that issues.
    ///
    /// # Errors
    /// A file is absent, unreadable, or not what it should be.
    pub fn authority(&self) -> Result<CertificateAuthority, CertificateError> {
        CertificateAuthority::load(&self.dir)
    }

    /// Issues the first certificate of a node; returns the paths of certificate and key.
    ///
    /// # Errors
    /// It has one, or it cannot be made or written.
    pub fn issue(&self, node: NodeId) -> Result<(PathBuf, PathBuf), CertificateError> {
        self.authority()?.issue(node)?.save(&self.dir)
    }

    /// Issues another certificate with another key for a node, in the place of the one that it has;
    /// returns the paths of certificate and key.
    ///
    /// # Errors
    /// It has none, or it cannot be made or written.
    pub fn rotate(&self, node: NodeId) -> Result<(PathBuf, PathBuf), CertificateError> {
        let (certificate, key) = node_files(&self.dir, node);
        read(&certificate)?;
        let NodeCertificate { chain_pem, key_pem, .. } = self.authority()?.issue(node)?;
        replace(&key, &key_pem, KEY_MODE)?;
        replace(&certificate, &chain_pem, CERTIFICATE_MODE)?;
        Ok((certificate, key))
    }

    /// The first step of replacing the authority: makes its successor, which issues from now on, and
    /// has both trusted. Every node needs the new `ca.pem` before any has a certificate of the
    /// successor's.
    ///
    /// # Errors
    /// There are two already, or a file cannot be read or written.
    pub fn add_authority(&self, validity: Validity) -> Result<(), CertificateError> {
        let bundle = self.bundle()?;
        if bundle.len() > 1 {
            let path = self.dir.join(CA_CERTIFICATE_FILE);
            return Err(CertificateError::Overlap { path, authorities: bundle.len() });
        }
        let old = self.authority()?;
        let new = CertificateAuthority::create(old.cluster(), validity)?;
        let old_key = self.dir.join(OLD_CA_KEY_FILE);
        replace(&old_key, &read(&self.dir.join(CA_KEY_FILE))?, KEY_MODE)?;
        self.write_lists(&[self.lists()?, vec![new.list_pem(&[], 1)?]].concat())?;
        // The key last: whoever it belongs to is the one that issues.
        self.write_bundle(&[new.certificate_pem(), old.certificate_pem()])?;
        replace(&self.dir.join(CA_KEY_FILE), &new.key_pem(), KEY_MODE)
    }

    /// The last step of replacing the authority: only the one that issues is trusted from now on.
    ///
    /// # Errors
    /// There is but one; a node's certificate in the directory is still the old one's; or a file cannot
    /// be read or written.
    pub fn retire_authority(&self) -> Result<(), CertificateError> {
        let bundle = self.bundle()?;
        let bundle_path = self.dir.join(CA_CERTIFICATE_FILE);
        if bundle.len() < 2 {
            return Err(CertificateError::NoOverlap { path: bundle_path });
        }
        let kept = self.authority()?;
        let kept_subject = subject_of(&bundle_path, kept.certificate_pem())?;
        for path in self.node_certificates()? {
            let (issuer, name) = issuer_of(&path, &read(&path)?)?;
            if issuer != kept_subject {
                return Err(CertificateError::StillInUse { path, issuer: name });
            }
        }
        self.write_bundle(&[kept.certificate_pem()])?;
        let mut lists = self.lists()?;
        let path = self.dir.join(CRL_FILE);
        let mut result = Ok(());
        lists.retain(|list| match parse_list(&path, list) {
            Ok(list) => list.issuer == kept_subject,
            Err(error) => {
                result = Err(error);
                true
            }
        });
        result?;
        self.write_lists(&lists)?;
        let old_key = self.dir.join(OLD_CA_KEY_FILE);
        if old_key.exists() { put_away(&old_key) } else { Ok(()) }
    }

    /// Revokes the certificate in the file `certificate`; `false` if it was revoked before. Every node
    /// needs the new `crl.pem`.
    ///
    /// # Errors
    /// It was signed by none of the authorities whose keys are here, or a file cannot be read or
    /// written.
    pub fn revoke(&self, certificate: &Path) -> Result<bool, CertificateError> {
        let pem = read(certificate)?;
        let der = certificate_der(certificate, &pem)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(malformed(certificate))?;
        let issuer = self.issuer_named(certificate, parsed.issuer())?;
        let path = self.dir.join(CRL_FILE);
        let mut lists = self.lists()?;
        let mut place = None;
        for (at, list) in lists.iter().enumerate() {
            let list = parse_list(&path, list)?;
            if list.issuer == parsed.issuer().as_raw() {
                place = Some((at, list));
            }
        }
        let (at, number, mut revoked) = match place {
            Some((at, list)) => (at, list.number + 1, list.revoked),
            None => (lists.len(), 1, Vec::new()),
        };
        if revoked.iter().any(|(serial, _)| serial == parsed.raw_serial()) {
            return Ok(false);
        }
        revoked.push((parsed.raw_serial().to_vec(), SystemTime::now()));
        let list = list_pem(&issuer, &revoked, number)?;
        if at == lists.len() {
            lists.push(list)
        } else {
            lists[at] = list
        }
        self.write_lists(&lists)?;
        Ok(true)
    }

    /// Revokes the certificate that a node has in the directory.
    ///
    /// # Errors
    /// See [`AuthorityDir::revoke`].
    pub fn revoke_node(&self, node: NodeId) -> Result<bool, CertificateError> {
        self.revoke(&node_files(&self.dir, node).0)
    }

    /// The authority called `name`, with its key, to sign a list.
    fn issuer_named(
        &self,
        certificate: &Path,
        name: &X509Name<'_>,
    ) -> Result<Issuer<'static, KeyPair>, CertificateError> {
        let bundle_path = self.dir.join(CA_CERTIFICATE_FILE);
        for file in [CA_KEY_FILE, OLD_CA_KEY_FILE].map(|file| self.dir.join(file)) {
            let text = read_or_empty(&file)?;
            if text.is_empty() {
                continue;
            }
            let key = KeyPair::from_pem(&text).map_err(malformed(&file))?;
            for trusted in self.bundle()? {
                if trusted.subject == name.as_raw() && trusted.public_key == key.public_key_raw() {
                    return Issuer::from_ca_cert_pem(&trusted.pem, key)
                        .map_err(malformed(&bundle_path));
                }
            }
        }
        let (path, dir) = (certificate.to_owned(), self.dir.clone());
        Err(CertificateError::NotIssued { path, issuer: name.to_string(), dir })
    }

    /// The authorities in `ca.pem`.
    fn bundle(&self) -> Result<Vec<Trusted>, CertificateError> {
        read_bundle(&self.dir.join(CA_CERTIFICATE_FILE))
    }

    fn write_bundle(&self, certificates: &[&str]) -> Result<(), CertificateError> {
        replace(&self.dir.join(CA_CERTIFICATE_FILE), &certificates.concat(), CERTIFICATE_MODE)
    }

    /// The lists in `crl.pem`; a directory of an earlier version has none.
    fn lists(&self) -> Result<Vec<String>, CertificateError> {
        Ok(blocks(&read_or_empty(&self.dir.join(CRL_FILE))?, LIST_END))
    }

    fn write_lists(&self, lists: &[String]) -> Result<(), CertificateError> {
        replace(&self.dir.join(CRL_FILE), &lists.concat(), CERTIFICATE_MODE)
    }

    /// The certificates of nodes in the directory.
    fn node_certificates(&self) -> Result<Vec<PathBuf>, CertificateError> {
        let io = |source| CertificateError::Io { path: self.dir.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("node-") && name.ends_with(".pem") {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// The certificate in the bundle at `path` that belongs to `key`.
pub(super) fn certificate_of(
    path: &Path,
    key: &KeyPair,
) -> Result<Option<String>, CertificateError> {
    let mut bundle = read_bundle(path)?.into_iter();
    Ok(bundle.find(|trusted| trusted.public_key == key.public_key_raw()).map(|found| found.pem))
}

fn read_bundle(path: &Path) -> Result<Vec<Trusted>, CertificateError> {
    let pems = blocks(&read(path)?, CERTIFICATE_END);
    if pems.is_empty() {
        return Err(malformed(path)("no certificate in it"));
    }
    let trusted = |pem: String| {
        let der = certificate_der(path, &pem)?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(malformed(path))?;
        let subject = parsed.subject().as_raw().to_vec();
        let public_key = parsed.public_key().subject_public_key.data.to_vec();
        Ok(Trusted { pem, subject, public_key })
    };
    pems.into_iter().map(trusted).collect()
}

/// A revocation list with these serial numbers and the times at which they were revoked.
pub(super) fn list_pem(
    issuer: &Issuer<'_, KeyPair>,
    revoked: &[(Vec<u8>, SystemTime)],
    number: u64,
) -> Result<String, CertificateError> {
    let entry = |(serial, time): &(Vec<u8>, SystemTime)| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: (*time).into(),
        reason_code: None,
        invalidity_date: None,
    };
    let now = SystemTime::now();
    let params = CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + LIST_VALIDITY).into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(issuer).map_err(CertificateError::make)?;
    list.pem().map_err(CertificateError::make)
}

/// What a list says.
struct ParsedList {
    issuer: Vec<u8>,
    number: u64,
    revoked: Vec<(Vec<u8>, SystemTime)>,
}

fn parse_list(path: &Path, pem: &str) -> Result<ParsedList, CertificateError> {
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes());
    let der = der.map_err(malformed(path))?;
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(malformed(path))?;
    let number = list.crl_number().and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    let time = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    };
    let revoked = list
        .iter_revoked_certificates()
        .map(|entry| (entry.raw_serial().to_vec(), time(entry.revocation_date.timestamp())));
    Ok(ParsedList { issuer: list.issuer().as_raw().to_vec(), number, revoked: revoked.collect() })
}

fn certificate_der(path: &Path, pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(malformed(path))
}

fn subject_of(path: &Path, pem: &str) -> Result<Vec<u8>, CertificateError> {
    let der = certificate_der(path, pem)?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(malformed(path))?;
    Ok(parsed.subject().as_raw().to_vec())
}

/// The encoded name of who signed it, and the same for a person.
fn issuer_of(path: &Path, pem: &str) -> Result<(Vec<u8>, String), CertificateError> {
    let der = certificate_der(path, pem)?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(malformed(path))?;
    Ok((parsed.issuer().as_raw().to_vec(), parsed.issuer().to_string()))
}

/// The PEM blocks of `text` that end with `end`.
fn blocks(text: &str, end: &str) -> Vec<String> {
    let pieces = text.split_inclusive(end);
    let whole = pieces.filter(|piece| piece.ends_with(end));
    whole.map(|piece| format!("{}\n", piece.trim_start())).collect()
}

#[cfg(test)]
#[path = "authority_dir_tests.rs"]
mod tests;
