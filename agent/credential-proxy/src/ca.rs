//! The pod's own certificate authority: a folder that only the sidecar has
//! flows in, server configurations for bound hosts flow out.
//!
//! The key never leaves that folder and this process; it outlives a restart of
//! the sidecar, so that bundles which Argo CD has read stay right.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// The authority and the leaves that it has signed.
pub struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    leaves: Mutex<HashMap<String, Arc<ServerConfig>>>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

impl Ca {
    /// Reads `ca.key` and `ca.pem` in `folder`, or makes both.
    ///
    /// # Errors
    /// When the folder cannot be written, or holds something else.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let (key_file, certificate_file) = (folder.join("ca.key"), folder.join("ca.pem"));
        // The certificate is written last: with it, both are whole.
        let (key, pem) = if certificate_file.exists() {
            let key = Zeroizing::new(fs::read_to_string(&key_file).context("ca.key")?);
            let key = KeyPair::from_pem(&key).context("ca.key")?;
            (
                key,
                fs::read_to_string(&certificate_file).context("ca.pem")?,
            )
        } else {
            let key = KeyPair::generate()?;
            let pem = authority()?.self_signed(&key)?.pem();
            let private = Zeroizing::new(key.serialize_pem());
            write_private(&key_file, private.as_bytes()).context("ca.key")?;
            write_private(&certificate_file, pem.as_bytes()).context("ca.pem")?;
            (key, pem)
        };
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&pem, key).context("ca.pem")?,
            pem,
            leaves: Mutex::default(),
        })
    }

    /// The authority's certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// How to serve TLS as `host`, with HTTP/1.1 only. Asked for bound hosts
    /// only, so the number of leaves is bounded.
    ///
    /// # Errors
    /// When `host` cannot be in a certificate.
    pub fn server(&self, host: &str) -> anyhow::Result<Arc<ServerConfig>> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = leaves.get(host) {
            return Ok(found.clone());
        }
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new([host.to_owned()])?;
        parameters
            .distinguished_name
            .push(DnType::CommonName, "credential-proxy");
        parameters.use_authority_key_identifier_extension = true;
        let leaf = parameters.signed_by(&key, &self.issuer)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        leaves.insert(host.to_owned(), config.clone());
        Ok(config)
    }
}

fn authority() -> anyhow::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(
        DnType::CommonName,
        "argocd-workload-identity credential-proxy",
    );
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    Ok(parameters)
}

/// Temporary file, then rename; readable by this user only.
fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_authority_outlives_a_restart() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let first = Ca::open(folder.path()).unwrap();
        let second = Ca::open(folder.path()).unwrap();
        assert_eq!(first.pem(), second.pem());
        let mode = fs::metadata(folder.path().join("ca.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let leaf = second.server("quay.test").unwrap();
        assert!(Arc::ptr_eq(&leaf, &second.server("quay.test").unwrap()));
        second.server("192.0.2.1").unwrap();
    }
}
