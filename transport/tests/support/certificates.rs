//! Certificates made by the test, right and wrong ones.

use polyraft_transport::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

pub const CLUSTER: &str = "test";

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate says; starts out right.
pub struct Leaf {
    pub uris: Vec<String>,
    pub expired: bool,
    pub serial: u64,
}

impl Leaf {
    pub fn of(node: u64) -> Self {
        let uri = format!("polyraft://{CLUSTER}/node/{node}");
        Self { uris: vec![uri], expired: false, serial: node }
    }
}

impl Default for Authority {
    fn default() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }
}

impl Authority {
    /// The certificate's and its key's PEM.
    pub fn issue(&self, leaf: &Leaf) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let uri = |uri: &String| SanType::URI(uri.as_str().try_into().unwrap());
        params.subject_alt_names = leaf.uris.iter().map(uri).collect();
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        if leaf.expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 1);
        }
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub fn root_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A revocation list with these serial numbers.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub fn identity(&self, node: u64) -> Identity {
        self.identity_trusting(&Leaf::of(node), &self.root_pem(), "")
    }

    pub fn identity_trusting(&self, leaf: &Leaf, roots: &str, crls: &str) -> Identity {
        let (chain, key) = self.issue(leaf);
        Identity::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes(), crls.as_bytes())
            .unwrap()
    }
}
