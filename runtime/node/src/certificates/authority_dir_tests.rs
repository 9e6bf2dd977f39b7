//! Tests of an authority's directory: every step, what it refuses, what is left when it is interrupted.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use polyraft_transport::Identity;
use tempfile::TempDir;

use super::*;

const ONE: NodeId = NodeId::new(1);
const TWO: NodeId = NodeId::new(2);

/// A cluster of two nodes with their first certificates.
fn two_nodes() -> (TempDir, AuthorityDir) {
    let dir = tempfile::tempdir().unwrap();
    let authority = AuthorityDir::init(dir.path(), "demo", Validity::default()).unwrap();
    authority.issue(ONE).unwrap();
    authority.issue(TWO).unwrap();
    (dir, authority)
}

/// What `node` would start with.
fn identity(dir: &TempDir, node: NodeId) -> Identity {
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let (chain, key) = (read(&format!("node-{node}.pem")), read(&format!("node-{node}.key")));
    Identity::from_pem(&chain, &key, &read(CA_CERTIFICATE_FILE), &read(CRL_FILE)).unwrap()
}

/// Whether `node`'s certificate is signed by the authority at this place of the bundle, by key and name.
fn is_signed_by(dir: &TempDir, node: NodeId, place: usize) -> bool {
    let bundle = read_bundle(&dir.path().join(CA_CERTIFICATE_FILE)).unwrap();
    let authority = certificate_der(dir.path(), &bundle[place].pem).unwrap();
    let (_, authority) = X509Certificate::from_der(&authority).unwrap();
    let path = node_files(dir.path(), node).0;
    let leaf = certificate_der(&path, &read(&path).unwrap()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    leaf.issuer() == authority.subject()
        && leaf.verify_signature(Some(authority.public_key())).is_ok()
}

/// The serial numbers in the lists, by the authority's place in the bundle.
fn revoked(dir: &TempDir, place: usize) -> Vec<Vec<u8>> {
    let bundle = read_bundle(&dir.path().join(CA_CERTIFICATE_FILE)).unwrap();
    let path = dir.path().join(CRL_FILE);
    let lists = blocks(&read(&path).unwrap(), LIST_END);
    let lists = lists.iter().map(|list| parse_list(&path, list).unwrap());
    let of_it = lists.filter(|list| list.issuer == bundle[place].subject);
    of_it.flat_map(|list| list.revoked).map(|(serial, _)| serial).collect()
}

fn files(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_rotated_node_has_another_key_and_the_old_one_is_kept() {
    let (dir, authority) = two_nodes();
    let before = (identity(&dir, ONE), std::fs::read(dir.path().join("node-1.key")).unwrap());
    authority.rotate(ONE).unwrap();
    let after = std::fs::read(dir.path().join("node-1.key")).unwrap();
    assert_ne!(before.1, after);
    assert_ne!(before.0.leaf().serial, identity(&dir, ONE).leaf().serial);
    assert_eq!(before.0.uri(), identity(&dir, ONE).uri());
    let backup = dir.path().join(key_files_backup());
    let kept = files(&backup);
    let key = kept.iter().find(|name| name.starts_with("node-1.key.")).unwrap();
    assert_eq!(std::fs::read(backup.join(key)).unwrap(), before.1);
    for path in [backup.join(key), dir.path().join("node-1.key")] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(matches!(
        authority.rotate(NodeId::new(3)),
        Err(CertificateError::Io { path, .. }) if path.ends_with("node-3.pem")
    ));
}

fn key_files_backup() -> &'static str {
    super::super::key_files::BACKUP_DIR
}

/// Goal: the authority is replaced in steps; at each, every node's certificate leads to one that is
/// trusted, and no step can be taken that would lock a node out.
#[test]
fn an_authority_is_replaced_step_by_step() {
    let (dir, authority) = two_nodes();
    let names = |dir| identity(dir, ONE).authorities().iter().map(|a| a.subject.clone()).collect();
    let before: Vec<String> = names(&dir);
    assert!(matches!(authority.retire_authority(), Err(CertificateError::NoOverlap { .. })));

    authority.add_authority(Validity::default()).unwrap();
    let during: Vec<String> = names(&dir);
    assert_eq!(during[1..], before, "the one that issues comes first");
    assert_ne!(during[0], during[1], "two authorities are told apart by their names");
    assert!(is_signed_by(&dir, ONE, 1) && is_signed_by(&dir, TWO, 1));
    let again = authority.add_authority(Validity::default());
    assert!(matches!(again, Err(CertificateError::Overlap { authorities: 2, .. })));

    authority.rotate(ONE).unwrap();
    assert!(is_signed_by(&dir, ONE, 0) && is_signed_by(&dir, TWO, 1));
    assert!(matches!(
        authority.retire_authority(),
        Err(CertificateError::StillInUse { path, .. }) if path.ends_with("node-2.pem")
    ));
    authority.rotate(TWO).unwrap();
    authority.retire_authority().unwrap();
    assert_eq!(names(&dir) as Vec<String>, during[..1]);
    assert!(is_signed_by(&dir, ONE, 0) && is_signed_by(&dir, TWO, 0));
    assert!(!dir.path().join(OLD_CA_KEY_FILE).exists());
    authority.add_authority(Validity::default()).unwrap();
}

/// Goal: a list per authority, signed by it; what is revoked during an overlap stays revoked until the
/// authority is gone.
#[test]
fn each_authority_has_its_own_list() {
    let (dir, authority) = two_nodes();
    assert_eq!(revoked(&dir, 0), [] as [Vec<u8>; 0]);
    authority.add_authority(Validity::default()).unwrap();
    authority.rotate(ONE).unwrap();
    assert!(authority.revoke_node(TWO).unwrap(), "the old authority's key signs");
    assert!(!authority.revoke_node(TWO).unwrap(), "once is enough");
    assert!(authority.revoke_node(ONE).unwrap());
    assert_eq!((revoked(&dir, 0).len(), revoked(&dir, 1).len()), (1, 1));
    assert_ne!(revoked(&dir, 0), revoked(&dir, 1));
    identity(&dir, ONE); // It refuses a list that is not signed by whose name it bears.

    authority.rotate(ONE).unwrap();
    authority.rotate(TWO).unwrap();
    authority.revoke_node(TWO).unwrap();
    authority.retire_authority().unwrap();
    assert_eq!(revoked(&dir, 0).len(), 2);
    assert_eq!(blocks(&read(&dir.path().join(CRL_FILE)).unwrap(), LIST_END).len(), 1);
    identity(&dir, TWO);
}

#[test]
fn a_stranger_s_certificate_is_not_revoked() {
    let ((_dir, authority), (other, _)) = (two_nodes(), two_nodes());
    let stranger = other.path().join("node-1.pem");
    assert!(matches!(
        authority.revoke(&stranger),
        Err(CertificateError::NotIssued { path, .. }) if path == stranger
    ));
}

/// Goal: a list that bears an authority's name and another's signature is refused before it is used: by
/// it, every peer would be refused.
#[test]
fn a_forged_list_is_refused() {
    let (dir, authority) = two_nodes();
    let loaded = authority.authority().unwrap();
    let forger = Issuer::from_ca_cert_pem(
        loaded.certificate_pem(),
        KeyPair::from_pem(&read(&dir.path().join("node-1.key")).unwrap()).unwrap(),
    );
    let forged = list_pem(&forger.unwrap(), &[], 9).unwrap();
    let file = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let (chain, key, roots) = (file("node-1.pem"), file("node-1.key"), file(CA_CERTIFICATE_FILE));
    let refused = Identity::from_pem(&chain, &key, &roots, forged.as_bytes());
    assert!(refused.unwrap_err().to_string().contains("number 1 is not signed"));
}

/// Goal: a step that was interrupted is undone by the next. Method: the bundle of after and the key of
/// before, which is what a crash between the two leaves.
#[test]
fn an_interrupted_step_is_undone() {
    let (dir, authority) = two_nodes();
    let key = std::fs::read(dir.path().join(CA_KEY_FILE)).unwrap();
    authority.add_authority(Validity::default()).unwrap();
    std::fs::write(dir.path().join(CA_KEY_FILE), key).unwrap();
    authority.rotate(ONE).unwrap();
    assert!(is_signed_by(&dir, ONE, 1), "whoever the key belongs to issues");
    authority.retire_authority().unwrap();
    assert!(is_signed_by(&dir, ONE, 0) && is_signed_by(&dir, TWO, 0));
}

#[test]
fn a_leaf_does_not_outlive_its_authority() {
    let (day, year) = (Duration::from_secs(86_400), Duration::from_secs(86_400 * 365));
    let dir = tempfile::tempdir().unwrap();
    let validity = Validity { authority: day, node: year };
    let authority = AuthorityDir::init(dir.path(), "demo", validity).unwrap();
    authority.issue(ONE).unwrap();
    let identity = identity(&dir, ONE);
    assert_eq!(identity.leaf().not_after, identity.authorities()[0].not_after);
}
