//! The guard is asked; nothing leaves this machine.

use super::*;

/// Settings of an agent that resolves names as the system does.
pub(crate) fn settings(allowed: &str) -> Settings {
    Settings::new(AllowList::parse(allowed).unwrap())
}

#[tokio::test]
async fn a_name_that_resolves_to_loopback_is_refused_unless_private() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Nothing listens there: what counts is which error comes.
    let own = RegistryHost::parse("localhost:9").unwrap();
    for (allowed, expected) in [
        ("", Code::AddressRefused),
        ("localhost", Code::AddressRefused),
        ("localhost;private", Code::ExchangeUnreachable),
    ] {
        let upstream = Upstream::new(settings(allowed), None).unwrap();
        let outlet = upstream.outlet("argocd", ExchangeKind::Quay, &own);
        let request = outlet.request(Method::GET, "https://localhost:9/").unwrap();
        let error = outlet.send(request).await.unwrap_err().error;
        assert_eq!(error.code, expected, "{allowed}: {error}");
    }
}

#[test]
fn more_roots_are_optional_but_never_nonsense() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    let new = || Upstream::new(settings(""), Some(&file)).map(drop);
    assert!(new().is_ok(), "an optional ConfigMap that is not there");
    for (content, fits) in [
        ("", true),
        (" \n", true),
        ("nonsense", false),
        (
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            false,
        ),
    ] {
        std::fs::write(&file, content).unwrap();
        assert_eq!(new().is_ok(), fits, "{content}");
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let error = format!("{:#}", new().unwrap_err());
    assert!(error.starts_with("--upstream-ca"), "{error}");
}
