//! A folder as kubelet writes it; conditions are awaited, never slept for.

use std::{fs, os::unix::fs::symlink};

use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// A Secret volume: the files are links through `..data`, which is swapped.
struct SecretVolume {
    folder: TempDir,
    version: u32,
}

struct Pair {
    certificate: String,
    key: String,
}

fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed(["argocd-identity.test".to_owned()]).unwrap();
    Pair {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    }
}

impl SecretVolume {
    fn new() -> Self {
        let volume = Self {
            folder: TempDir::new().unwrap(),
            version: 0,
        };
        for file in [CERTIFICATE_FILE, KEY_FILE] {
            symlink(format!("..data/{file}"), volume.path().join(file)).unwrap();
        }
        volume
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn publish(&mut self, certificate: &str, key: &str) {
        let old = self.path().join(format!("..{}", self.version));
        self.version += 1;
        let name = format!("..{}", self.version);
        let new = self.path().join(&name);
        fs::create_dir(&new).unwrap();
        fs::write(new.join(CERTIFICATE_FILE), certificate).unwrap();
        fs::write(new.join(KEY_FILE), key).unwrap();
        let link = self.path().join("..data_tmp");
        symlink(name, &link).unwrap();
        fs::rename(link, self.path().join("..data")).unwrap();
        let _ = fs::remove_dir_all(old);
    }
}

fn metrics() -> ServingMetrics {
    ServingMetrics::register(&mut Registry::default())
}

fn leaf(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn presented(certificates: &Certificates) -> Option<CertificateDer<'static>> {
    certificates.current().map(|pair| pair.cert[0].clone())
}

/// Waits until the certificate of `pair` is presented.
async fn becomes(certificates: &mut Certificates, pair: &Pair) {
    let expected = leaf(&pair.certificate);
    let wait = async {
        while presented(certificates).as_ref() != Some(&expected) {
            certificates.changed().await;
        }
    };
    timeout(Duration::from_secs(20), wait)
        .await
        .expect("the new certificate is presented");
}

#[tokio::test]
async fn a_swapped_link_is_followed() {
    let mut volume = SecretVolume::new();
    let (first, second, third) = (pair(), pair(), pair());
    volume.publish(&first.certificate, &first.key);
    let (mut certificates, reloader) = Reloader::open(volume.path().into(), metrics()).await;
    assert_eq!(presented(&certificates), Some(leaf(&first.certificate)));

    let reloading = tokio::spawn(reloader.run());
    volume.publish(&second.certificate, &second.key);
    becomes(&mut certificates, &second).await;
    volume.publish(&third.certificate, &third.key);
    becomes(&mut certificates, &third).await;
    reloading.abort();
}

#[tokio::test]
async fn a_pair_that_does_not_fit_is_not_taken() {
    let mut volume = SecretVolume::new();
    let (first, second) = (pair(), pair());
    volume.publish(&first.certificate, &first.key);
    let (certificates, reloader) = Reloader::open(volume.path().into(), metrics()).await;

    volume.publish(&second.certificate, &first.key);
    let error = load(volume.path()).await.err().unwrap();
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
    reloader.reload().await;
    assert_eq!(presented(&certificates), Some(leaf(&first.certificate)));

    volume.publish(&second.certificate, &second.key);
    reloader.reload().await;
    assert_eq!(presented(&certificates), Some(leaf(&second.certificate)));
}

#[tokio::test]
async fn the_last_good_pair_outlives_bad_and_missing_files() {
    let mut volume = SecretVolume::new();
    let good = pair();
    volume.publish(&good.certificate, &good.key);
    let (certificates, reloader) = Reloader::open(volume.path().into(), metrics()).await;
    for (certificate, key) in [
        ("", good.key.as_str()),
        (good.certificate.as_str(), ""),
        ("text", "text"),
        (good.key.as_str(), good.key.as_str()),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            good.key.as_str(),
        ),
    ] {
        volume.publish(certificate, key);
        assert!(load(volume.path()).await.is_err(), "{certificate:?}");
        reloader.reload().await;
        assert_eq!(presented(&certificates), Some(leaf(&good.certificate)));
    }
    fs::remove_file(volume.path().join("..data")).unwrap();
    reloader.reload().await;
    assert_eq!(presented(&certificates), Some(leaf(&good.certificate)));
}

#[tokio::test]
async fn chains_are_presented_whole() {
    let mut volume = SecretVolume::new();
    let (leaf_pair, issuer) = (pair(), pair());
    let chain = format!("{}{}", leaf_pair.certificate, issuer.certificate);
    volume.publish(&chain, &leaf_pair.key);
    let (certificates, _reloader) = Reloader::open(volume.path().into(), metrics()).await;
    let presented = certificates.current().unwrap();
    assert_eq!(
        presented.cert,
        [leaf(&leaf_pair.certificate), leaf(&issuer.certificate)]
    );
}

#[tokio::test]
async fn a_folder_that_comes_late_is_found_without_events() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("tls");
    let (mut certificates, mut reloader) = Reloader::open(folder.clone(), metrics()).await;
    assert!(certificates.current().is_none());
    reloader.reread = Duration::from_millis(20);
    let reloading = tokio::spawn(reloader.run());

    let made = pair();
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(KEY_FILE), &made.key).unwrap();
    fs::write(folder.join(CERTIFICATE_FILE), &made.certificate).unwrap();
    becomes(&mut certificates, &made).await;
    reloading.abort();
}
