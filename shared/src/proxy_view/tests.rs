//! Both directions of a file of the view.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

fn binding() -> ProxyBinding {
    ProxyBinding {
        name: "prod-charts".into(),
        project: Some("prod".into()),
        keys: vec![KeyHash::of(b"key")],
        target: RegistryHost::parse("quay.example.org").unwrap(),
        path: "prod/charts".into(),
        kind: ProxyKind::Oci,
        insecure: false,
        allowed_hosts: AllowList::default(),
        upstream_proxy: None,
        realm: None,
        credential: Some(ProxyCredential::basic_auth(
            "prod+argocd",
            "hunter2",
            Timestamp::UNIX_EPOCH,
        )),
    }
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";

fn basic(username: &str, password: &str) -> ProxyCredential {
    ProxyCredential::basic_auth(username, password, Timestamp::UNIX_EPOCH)
}

fn x509(certificates: &str, key: &str) -> ProxyCredential {
    ProxyCredential::x509(certificates, key, Timestamp::UNIX_EPOCH)
}

#[test]
fn a_certificate_takes_the_place_of_user_name_and_password() {
    let mut given = binding();
    given.credential = Some(x509(CERTIFICATE, KEY));
    let bytes = render(&given).unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    let expected = concat!(
        r#""credential":{"certificates":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n","#,
        r#""key":"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n","#,
        r#""expires":"1970-01-01T00:00:00Z"}}"#
    );
    assert!(text.ends_with(expected), "{text}");
    let read = parse(&bytes).unwrap();
    assert_eq!(*render(&read).unwrap(), *bytes);
    assert!(read.credential.unwrap().authorization().is_none());
    assert!(!format!("{given:?}").contains("hunter2"));
    for (from, to) in [
        (r#""key":"#, r#""password":"#),
        (r#""certificates":"#, r#""username":"#),
        (r#""key":"#, r#""username":"a","password":"b","key":"#),
    ] {
        let error = parse(text.replace(from, to).as_bytes()).unwrap_err();
        assert_eq!(error.code, Code::ProxyViewUnreadable, "{to}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

fn realm(service: Option<&str>) -> Option<Realm> {
    Realm::parse("https://auth.test/token", service.map(Into::into)).ok()
}

fn bearer(token: &str) -> ProxyCredential {
    ProxyCredential::bearer(token, Timestamp::UNIX_EPOCH)
}

#[test]
fn a_realm_stands_before_the_credential_that_is_for_it() {
    let mut given = binding();
    given.realm = realm(Some("registry"));
    given.credential = Some(bearer("hunter2"));
    let bytes = render(&given).unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    let expected = concat!(
        r#""realm":{"url":"https://auth.test/token","service":"registry"},"#,
        r#""credential":{"token":"hunter2","expires":"1970-01-01T00:00:00Z"}}"#
    );
    assert!(text.ends_with(expected), "{text}");
    let read = parse(&bytes).unwrap();
    assert_eq!(*render(&read).unwrap(), *bytes);
    let shown = read.credential.unwrap().authorization();
    assert_eq!(shown.unwrap().as_str(), "Bearer hunter2");
    assert!(!format!("{given:?}").contains("hunter2"));
    for (from, to) in [
        (r#""token":"#, r#""password":"x","token":"#),
        ("https://auth", "http://auth"),
        ("https://auth", "https://u@auth"),
        (r#""service":"#, r#""scope":"#),
        (
            r#""realm":{"url":"https://auth.test/token","service":"registry"},"#,
            "",
        ),
    ] {
        let error = parse(text.replace(from, to).as_bytes()).unwrap_err();
        assert_eq!(error.code, Code::ProxyViewUnreadable, "{to}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn the_file_is_one_json_document() {
    let bytes = render(&binding()).unwrap();
    assert_eq!(
        std::str::from_utf8(&bytes).unwrap(),
        concat!(
            r#"{"binding":"prod-charts","project":"prod","keySha256":["#,
            r#""2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"],"#,
            r#""target":"quay.example.org","path":"prod/charts","kind":"oci","insecure":false,"#,
            r#""allowedHosts":"","credential":{"username":"prod+argocd","password":"hunter2","#,
            r#""expires":"1970-01-01T00:00:00Z"}}"#
        )
    );
}

#[test]
fn neither_debug_nor_errors_show_a_secret() {
    let shown = format!("{:?}", binding());
    assert!(
        !shown.contains("hunter2") && !shown.contains("2c70"),
        "{shown}"
    );
    for text in [
        r#"{"hunter2"#,
        r#"{"hunter2":1}"#,
        r#"{"binding":"a","keySha256":["hunter2"],"target":"a","path":"","kind":"oci","insecure":false,"allowedHosts":""}"#,
    ] {
        let error = parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.code, Code::ProxyViewUnreadable);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn what_the_proxy_could_misread_is_refused() {
    let change = |change: fn(&mut ProxyBinding)| {
        let mut it = binding();
        change(&mut it);
        render(&it).unwrap_err()
    };
    for error in [
        change(|it| it.name = "a:b".into()),
        change(|it| it.name = "../a".into()),
        change(|it| it.keys.clear()),
        change(|it| it.path = "a/../b".into()),
        change(|it| it.path = "/a".into()),
        change(|it| it.path = "a%2fb".into()),
        change(|it| it.credential = Some(basic("a:b", "c"))),
        change(|it| it.credential = Some(bearer("c"))),
        change(|it| {
            it.realm = realm(None);
            it.credential = Some(bearer("b c"));
        }),
        change(|it| {
            it.realm = realm(None);
            it.credential = Some(x509(CERTIFICATE, KEY));
        }),
        change(|it| it.credential = Some(basic("a", "b\r\nc"))),
        change(|it| it.credential = Some(x509("a certificate", KEY))),
        change(|it| it.credential = Some(x509(CERTIFICATE, "a key"))),
        change(|it| it.credential = Some(x509(&format!("{CERTIFICATE}{KEY}"), KEY))),
        change(|it| it.credential = Some(x509(&format!("{CERTIFICATE}\0"), KEY))),
    ] {
        assert_eq!(error.code, Code::ProxyViewUnreadable);
    }
}

#[test]
fn an_upstream_proxy_is_scheme_host_and_port() {
    assert!(upstream_proxy("http://proxy.test:3128").is_ok());
    for text in [
        "",
        "proxy:3128",
        "https://proxy",
        "http://user@proxy",
        "http://:password@proxy",
        "http://proxy/path",
        "http://proxy?query",
        "socks5://proxy",
    ] {
        let error = upstream_proxy(text).unwrap_err();
        assert!(!error.detail.contains("password"), "{text}");
    }
}

proptest! {
    #[test]
    fn round_trip(
        name in "[a-z0-9.-]{1,20}",
        project in proptest::option::of("[a-z]{1,5}"),
        path in "([a-z]{1,4}(/[a-z.]{2,4}[a-z]){0,2})?",
        keys in proptest::collection::vec(any::<[u8; 4]>(), 1..=2),
        allowed in "([a-z]{1,9}(:8443)?(;private)?(,[a-z]{1,9};insecure)?)?",
        proxy in proptest::option::of("http://[a-z]{1,9}(:3128)?"),
        insecure: bool,
        service in proptest::option::of("\\PC{0,9}"),
        bearer: bool,
        secret in proptest::option::of(("[^:\\p{Cc}]{0,9}", "\\PC{0,20}", 0..1_000_000_000_i64)),
    ) {
        let given = ProxyBinding {
            name, project, path, insecure,
            kind: ProxyKind::Git,
            keys: keys.iter().map(|key| KeyHash::of(key)).collect(),
            target: RegistryHost::parse("git.example.org:8443").unwrap(),
            allowed_hosts: AllowList::parse(&allowed).unwrap(),
            upstream_proxy: proxy.map(|it| upstream_proxy(&it).unwrap()),
            realm: realm(service.as_deref()).filter(|_| service.is_some()),
            credential: secret.map(|(username, password, at)| {
                let expires = Timestamp::from_second(at).unwrap();
                match bearer {
                    true => ProxyCredential::bearer(password, expires),
                    false => ProxyCredential::basic_auth(username, password, expires),
                }
            }),
        };
        if let Ok(bytes) = render(&given) {
            prop_assert_eq!(&*render(&parse(&bytes).unwrap()).unwrap(), &*bytes);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
        let _ = parse(&bytes);
    }
}
