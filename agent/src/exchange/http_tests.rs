//! The guard is asked; nothing leaves this machine.

use proptest::prelude::*;

use super::*;

fn own() -> RegistryHost {
    RegistryHost::parse("quay.test:8443").unwrap()
}

fn code(allowed: &str, url: &str) -> Option<Code> {
    let allowed = AllowList::parse(allowed).unwrap();
    permit(&allowed, url, &own()).err().map(|error| error.code)
}

#[test]
fn tokens_go_to_the_registrys_own_host_or_an_allowed_one() {
    assert_eq!(code("", "https://quay.test:8443/oauth2"), None);
    assert_eq!(code("", "https://QUAY.test:8443/oauth2"), None);
    assert_eq!(
        code("", "https://quay.test/oauth2"),
        Some(Code::HostNotAllowed),
        "another port may be another's"
    );
    assert_eq!(
        code("", "https://evil.test/oauth2"),
        Some(Code::HostNotAllowed)
    );
    assert_eq!(
        code("", "https://quay.test.evil.test/"),
        Some(Code::HostNotAllowed)
    );
    assert_eq!(code("sts.test", "https://sts.test/x"), None);
    assert_eq!(
        code("sts.test:8443", "https://sts.test/x"),
        Some(Code::HostNotAllowed)
    );
}

#[test]
fn only_https_without_user_information() {
    for url in [
        "http://quay.test/",
        "ftp://quay.test/",
        "quay.test",
        "https://u@quay.test/",
        "https://u:p@quay.test/",
    ] {
        assert_eq!(
            code("quay.test;private;insecure", url),
            Some(Code::AuthUrlInvalid),
            "{url}"
        );
    }
}

#[test]
fn addresses_of_the_node_are_refused_in_every_notation() {
    for address in [
        "127.0.0.1",
        "127.8.9.10",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "100.100.100.200",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[::127.0.0.1]",
        "[64:ff9b::169.254.169.254]",
        "[fd00:ec2::254]",
    ] {
        let url = format!("https://{address}/");
        let host = Url::parse(&url).unwrap().host().unwrap().to_string();
        assert_eq!(code(&host, &url), Some(Code::AddressRefused), "{address}");
        assert_eq!(code(&format!("{host};private"), &url), None, "{address}");
    }
    for address in [
        "10.0.0.1",
        "192.168.1.1",
        "8.8.8.8",
        "[2001:db8::1]",
        "[fd00::1]",
    ] {
        let url = format!("https://{address}/");
        assert_eq!(code(address, &url), None, "{address}");
    }
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
        let upstream = Upstream::new(AllowList::parse(allowed).unwrap(), None).unwrap();
        let request = upstream.get("https://localhost:9/", &own).unwrap();
        let error = send(request, &own).await.unwrap_err();
        assert_eq!(error.code, expected, "{allowed}: {error}");
    }
}

#[test]
fn the_upstreams_words_are_known_fields_without_tokens() {
    let answer = |body: &str| Answer {
        status: StatusCode::BAD_REQUEST,
        body: Zeroizing::new(body.as_bytes().to_vec()),
    };
    let words = answer(r#"{"message": "issuer https://a.test/long-path not configured for this robot", "token": "x"}"#).words();
    assert_eq!(
        words,
        "issuer https://a.test/long-path not configured for this robot"
    );
    let words = answer(r#"{"error": "Invalid token: eyJhbGciOiJub25lIn0.e30. is bad"}"#).words();
    assert_eq!(words, "Invalid token: [redacted] is bad");
    assert_eq!(answer("<html>secret</html>").words(), "");
    assert_eq!(answer(r#"{"error": {"secret": 1}}"#).words(), "");
}

proptest! {
    #[test]
    fn no_url_panics_and_nothing_but_https_is_permitted(url in "\\PC*|[a-z]{1,6}://[a-z0-9.@:\\[\\]/]{0,20}") {
        let allowed = AllowList::parse("a;private").unwrap();
        if let Ok((url, _)) = permit(&allowed, &url, &own()) {
            prop_assert_eq!(url.scheme(), "https");
            prop_assert!(matches!(url.host_str(), Some("a" | "quay.test")));
        }
    }
}

#[test]
fn more_roots_are_optional_but_never_nonsense() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    let new = || Upstream::new(AllowList::default(), Some(&file));
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
