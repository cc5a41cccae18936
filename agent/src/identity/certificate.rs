//! Whether an X.509-SVID is the one that was asked for, and its form for a TLS
//! client. PURE: an SVID, the bundles and the time flow in, PEM with its expiry
//! or a [`Flaw`] flows out.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use secrecy::SecretString;
use spiffe::{X509BundleSet, X509Svid};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::IdentityCertificate;
use super::verify::{AHEAD, Flaw};

/// Checks `svid` and writes it as PEM.
///
/// # Errors
/// The first [`Flaw`] that is found.
pub fn verify(
    subject: &str,
    svid: &X509Svid,
    bundles: &X509BundleSet,
    now: Timestamp,
) -> Result<IdentityCertificate, Flaw> {
    let found = svid.spiffe_id().to_string();
    if found != subject {
        return Err(Flaw::differs("the URI SAN", found, subject));
    }
    let (starts_at, expires_at) = validity(svid)
        .ok_or_else(|| Flaw::differs("the certificate", "unreadable", "an X.509-SVID"))?;
    let skew = |instant: String| Flaw::Skew { instant, now };
    if starts_at.duration_since(now) > AHEAD {
        return Err(skew(format!("notBefore is {starts_at}")));
    }
    if expires_at <= now {
        return Err(skew(format!("notAfter is {expires_at}")));
    }
    chain(svid, bundles, now.max(starts_at)).map_err(Flaw::Signature)?;
    let key = PrivatePkcs8KeyDer::from(svid.private_key().as_ref());
    belong_together(svid.leaf().as_bytes(), key)
        .map_err(|reason| Flaw::differs("the private key", reason, "the certificate's"))?;
    let certificates = svid.cert_chain().iter();
    Ok(IdentityCertificate {
        certificates: certificates
            .map(|certificate| pem("CERTIFICATE", certificate.as_bytes()).to_string())
            .collect(),
        key: SecretString::from(pem("PRIVATE KEY", svid.private_key().as_ref()).as_str()),
        expires_at,
    })
}

/// `notBefore` and `notAfter` of the leaf.
pub(super) fn validity(svid: &X509Svid) -> Option<(Timestamp, Timestamp)> {
    let (_, leaf) = X509Certificate::from_der(svid.leaf().as_bytes()).ok()?;
    let validity = leaf.validity();
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some((at(validity.not_before)?, at(validity.not_after)?))
}

/// Whether the chain leads to a root of the SPIFFE ID's trust domain.
fn chain(svid: &X509Svid, bundles: &X509BundleSet, at: Timestamp) -> Result<(), String> {
    let domain = svid.spiffe_id().trust_domain();
    let bundle = bundles
        .get_ref(domain)
        .ok_or_else(|| format!("there is no X.509 bundle of {domain}"))?;
    let mut roots = RootCertStore::empty();
    let authorities = bundle.authorities().iter();
    roots.add_parsable_certificates(authorities.map(|root| CertificateDer::from(root.as_bytes())));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let mut chain = svid.cert_chain().iter();
    let leaf = chain
        .next()
        .map(|leaf| CertificateDer::from(leaf.as_bytes()));
    let intermediates: Vec<_> = chain
        .map(|certificate| CertificateDer::from(certificate.as_bytes()))
        .collect();
    let at = u64::try_from(at.as_second()).map_err(|error| error.to_string())?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
    let leaf = leaf.ok_or("the chain is empty")?;
    verifier
        .verify_client_cert(&leaf, &intermediates, at)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn belong_together(leaf: &[u8], key: PrivatePkcs8KeyDer<'_>) -> Result<(), String> {
    let key = PrivateKeyDer::Pkcs8(key.clone_key());
    let provider = aws_lc_rs::default_provider();
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_reason| "unreadable".to_owned())?;
    CertifiedKey::new(vec![CertificateDer::from(leaf.to_vec())], key)
        .keys_match()
        .map_err(|_reason| "another's".to_owned())
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    // Exactly as long as it becomes, so that no copy is left behind by growth.
    let lines = der.len().div_ceil(48);
    let mut pem = Zeroizing::new(String::with_capacity(65 * lines + 2 * label.len() + 34));
    pem.push_str("-----BEGIN ");
    pem.push_str(label);
    pem.push_str("-----\n");
    for line in der.chunks(48) {
        STANDARD.encode_string(line, &mut pem);
        pem.push('\n');
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
pub(crate) mod tests;
