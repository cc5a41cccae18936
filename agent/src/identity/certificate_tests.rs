//! X.509-SVIDs of an authority that is made here.

use jiff::SignedDuration;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use secrecy::ExposeSecret;
use shared::errors::Code;
use spiffe::{TrustDomain, X509Bundle};

use super::*;

pub(crate) const SUBJECT: &str = "spiffe://td/a";

/// A root, and what it signs.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let params = Self::params("root");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// The bundle of `spiffe://td`.
    pub(crate) fn bundles(&self) -> X509BundleSet {
        let domain = TrustDomain::new("td").unwrap();
        let mut bundles = X509BundleSet::new();
        bundles.add_bundle(X509Bundle::parse_from_der(domain, self.0.der()).unwrap());
        bundles
    }

    /// An SVID that is signed by way of an intermediate.
    pub(crate) fn svid(&self, subject: &str, life: SignedDuration) -> X509Svid {
        let key = KeyPair::generate().unwrap();
        self.svid_with(subject, Timestamp::now(), life, &key, &key)
    }

    fn svid_with(
        &self,
        subject: &str,
        starts_at: Timestamp,
        life: SignedDuration,
        key: &KeyPair,
        given: &KeyPair,
    ) -> X509Svid {
        let at = |time: Timestamp| {
            std::time::SystemTime::UNIX_EPOCH
                + std::time::Duration::from_secs(time.as_second().unsigned_abs())
        };
        let intermediate = KeyPair::generate().unwrap();
        let intermediate =
            CertifiedIssuer::signed_by(Self::params("intermediate"), intermediate, &self.0)
                .unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(subject.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = at(starts_at).into();
        params.not_after = at(starts_at + life).into();
        let leaf = params.signed_by(key, &intermediate).unwrap();
        let chain = [leaf.der().as_ref(), intermediate.der().as_ref()].concat();
        X509Svid::parse_from_der(&chain, given.serialized_der()).unwrap()
    }
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn now() -> Timestamp {
    Timestamp::from_second(1_900_000_000).unwrap()
}

fn check(svid: &X509Svid, bundles: &X509BundleSet, now: Timestamp) -> Result<Timestamp, Code> {
    verify(SUBJECT, svid, bundles, now)
        .map(|certificate| certificate.expires_at)
        .map_err(|flaw| flaw.code())
}

#[test]
fn an_svid_of_the_trust_domain_becomes_pem() {
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    let svid = authority.svid_with(SUBJECT, now(), HOUR, &key, &key);
    let found = verify(SUBJECT, &svid, &authority.bundles(), now()).unwrap();
    assert_eq!(found.expires_at, now() + HOUR);
    // The very bytes, for a reader that did not write them.
    let certificates = pem_of(&found.certificates);
    assert_eq!(certificates.len(), 2);
    assert_eq!(certificates[0].1, svid.leaf().as_bytes());
    assert!(found.certificates.lines().all(|line| line.len() <= 64));
    let keys = pem_of(found.key.expose_secret());
    assert_eq!(
        keys,
        [("PRIVATE KEY".to_owned(), key.serialized_der().to_vec())]
    );
    assert!(!format!("{found:?}").contains("PRIVATE"));
}

fn pem_of(text: &str) -> Vec<(String, Vec<u8>)> {
    x509_parser::pem::Pem::iter_from_buffer(text.as_bytes())
        .map(|pem| pem.unwrap())
        .map(|pem| (pem.label, pem.contents))
        .collect()
}

#[test]
fn only_the_asked_identity_of_the_own_authority_is_accepted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (key, stolen) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let good = authority.svid_with(SUBJECT, now(), HOUR, &key, &key);
    assert!(check(&good, &authority.bundles(), now()).is_ok());
    let longer = authority.svid_with("spiffe://td/a/b", now(), HOUR, &key, &key);
    for (svid, bundles, code) in [
        (&longer, authority.bundles(), Code::IdentityMismatch),
        (&good, other.bundles(), Code::IdentitySignatureInvalid),
        (&good, X509BundleSet::new(), Code::IdentitySignatureInvalid),
    ] {
        assert_eq!(check(svid, &bundles, now()), Err(code), "{svid:?}");
    }
    let mismatched = authority.svid_with(SUBJECT, now(), HOUR, &key, &stolen);
    let code = check(&mismatched, &authority.bundles(), now());
    assert_eq!(code, Err(Code::IdentityMismatch));
}

#[test]
fn a_wrong_clock_is_named() {
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    let svid = authority.svid_with(SUBJECT, now(), HOUR, &key, &key);
    let bundles = authority.bundles();
    let skew = Err(Code::ClockSkew);
    let at = |seconds: i64| now() + SignedDuration::from_secs(seconds);
    assert_eq!(check(&svid, &bundles, at(-300)), Ok(at(3600)));
    assert_eq!(check(&svid, &bundles, at(-301)), skew);
    assert_eq!(check(&svid, &bundles, at(3599)), Ok(at(3600)));
    assert_eq!(check(&svid, &bundles, at(3600)), skew);
}
