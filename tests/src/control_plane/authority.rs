//! A certificate authority for one test run.

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// A CA whose key lives only in this process; whoever trusts [`Authority::pem`] trusts what it issues.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: Vec<u8>,
}

/// A server certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    /// The certificate, without the CA's.
    pub certificate: String,
    /// PKCS #8.
    pub key: String,
}

impl Authority {
    /// Makes a CA that calls itself `name`.
    ///
    /// # Errors
    /// When key generation or signing fails.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("generate a CA key")?;
        let certificate = params
            .self_signed(&key)
            .context("sign the CA's certificate")?;
        Ok(Self {
            pem: certificate.pem(),
            der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The CA's certificate in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Issues a server certificate for DNS names and IP addresses, each written as text.
    ///
    /// # Errors
    /// When a name is not valid in a certificate, or key generation or signing fails.
    pub fn issue<S: AsRef<str>>(&self, names: &[S]) -> Result<ServerCertificate> {
        let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        let subject = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names).context("names of a certificate")?;
        params.distinguished_name = common_name(&subject);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().context("generate a server key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("sign the certificate of {subject}"))?;
        Ok(ServerCertificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
