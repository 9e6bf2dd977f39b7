//! What a person or an alert wants to know of a certificate: whose, by whom, until when.
//!
//! ```text
//! DER ─→ CertificateFacts { serial, subject, issuer, not_before, not_after }
//! ```
//!
//! Promise: nothing is trusted because of what is read here; that is decided in `tls.rs` alone.
//! Source: RFC 5280, section 4.1.

use polyraft_core::ports::CertificateFacts;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{
    CertificateRevocationList, FromDer as _, X509Certificate, X509Error, X509Name,
};

/// Reads a certificate's facts.
///
/// # Errors
/// It is malformed.
pub(super) fn facts(certificate: &CertificateDer<'_>) -> Result<CertificateFacts, X509Error> {
    let certificate = parse(certificate)?;
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    Ok(CertificateFacts {
        serial: certificate.raw_serial_as_string().replace(':', ""),
        subject: name(certificate.subject()),
        issuer: name(certificate.issuer()),
        not_before: seconds(certificate.validity().not_before.timestamp()),
        not_after: seconds(certificate.validity().not_after.timestamp()),
    })
}

/// The position of the first list that says it is of one of `roots` and is signed by none that bears
/// this name: every peer of that authority would be refused for it.
///
/// # Errors
/// A list or a root is malformed.
pub(super) fn forged_list(
    lists: &[CertificateRevocationListDer<'_>],
    roots: &[CertificateDer<'_>],
) -> Result<Option<usize>, X509Error> {
    let roots: Vec<_> = roots.iter().map(parse).collect::<Result<_, _>>()?;
    for (at, list) in lists.iter().enumerate() {
        let (_, list) = CertificateRevocationList::from_der(list)?;
        let issuer = list.issuer().as_raw();
        let mut named = roots.iter().filter(|root| root.subject().as_raw() == issuer).peekable();
        let is_known = named.peek().is_some();
        if is_known && !named.any(|root| list.verify_signature(root.public_key()).is_ok()) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, X509Error> {
    Ok(X509Certificate::from_der(certificate)?.1)
}

/// The common name if there is one: authorities are told apart by it.
fn name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|common| common.as_str().ok());
    common.map_or_else(|| name.to_string(), str::to_owned)
}
