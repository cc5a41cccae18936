//! X.509-SVIDs, as a TLS server would look at them.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;

use super::{CATCH_ALL, PROJECT, SELECTORS, Scene, soon};
use crate::spire::{Entry, Fault, Forgery, Method, Scope};

#[tokio::test]
async fn certificates_verify_and_changes_are_pushed() {
    let mut scene = Scene::new().await;
    let mut stream = scene.certificates().await;
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.svids.len(), 2);
    let roots = trusting(&scene.spire.x509_bundle());
    for with_key in &first.svids {
        let svid = with_key.svid.as_ref().unwrap();
        verify_client(&roots, &svid.cert_chain, &with_key.key).unwrap();
        let id = svid.id.as_ref().unwrap();
        let id = format!("spiffe://{}{}", id.trust_domain, id.path);
        let leaf = String::from_utf8_lossy(&svid.cert_chain[0]);
        assert!(leaf.contains(&id), "{id}");
    }

    scene.spire.renew();
    let second = soon(stream.message()).await.unwrap().unwrap();
    assert_ne!(first.svids[0].key, second.svids[0].key);
    scene.spire.remove(CATCH_ALL);
    let third = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(third.svids.len(), 1);
    let silent = Scope::Method(Method::DelegatedX509Svids);
    scene.spire.fail(silent.clone(), Fault::Silence);
    scene.spire.remove(PROJECT);
    let silence = tokio::time::timeout(Duration::from_millis(200), stream.message()).await;
    assert!(silence.is_err());
    scene.spire.heal(&silent);
    let none = soon(stream.message()).await.unwrap().unwrap();
    assert!(none.svids.is_empty(), "no match is no error");

    scene.spire.add(Entry::new(PROJECT, &SELECTORS));
    for forgery in [Forgery::Signature, Forgery::Expired, Forgery::PrivateKey] {
        scene.spire.forge(Some(forgery.clone()));
        let mut stream = scene.certificates().await;
        let forged = stream.message().await.unwrap().unwrap().svids.remove(0);
        let chain = forged.svid.unwrap().cert_chain;
        let verified = verify_client(&roots, &chain, &forged.key);
        assert!(verified.is_err(), "{forgery:?}");
    }
    scene.spire.forge(None);
    scene.spire.rotate_x509_authority().unwrap();
    let mut stream = scene.certificates().await;
    let svid = stream.message().await.unwrap().unwrap().svids.remove(0);
    let chain = svid.svid.unwrap().cert_chain;
    assert!(verify_client(&roots, &chain, &svid.key).is_err());
    let roots = trusting(&scene.spire.x509_bundle());
    verify_client(&roots, &chain, &svid.key).unwrap();
}

pub(super) fn trusting(authorities: &[Vec<u8>]) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone().into()).unwrap();
    }
    Arc::new(roots)
}

/// Verifies what a TLS client would present, and that its key is the certificate's.
pub(super) fn verify_client(
    roots: &Arc<RootCertStore>,
    chain: &[Vec<u8>],
    key: &[u8],
) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain: Vec<CertificateDer<'static>> = chain.iter().cloned().map(Into::into).collect();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider));
    let verifier = verifier.build().unwrap();
    verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now())?;
    let key = PrivatePkcs8KeyDer::from(key.to_vec()).into();
    CertifiedKey::from_der(chain, key, &provider).map(drop)
}
