use control_plane_core::{
    proxy_key::{self, KeyBytes, LENGTH, Subject, accepted::Former},
    secret::Place,
};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use serde_json::json;
use shared::{
    allow_list::AllowList,
    binding::{CredentialBindingSpec, undeliverable},
    errors::Code,
    proxy_view::KeyHash,
};

use super::*;

/// 32 times one byte, as random bytes.
pub(crate) fn bytes(byte: u8) -> KeyBytes {
    KeyBytes::new(zeroize::Zeroizing::new([byte; LENGTH]))
}

/// The installation of the tests.
pub(crate) fn derivation() -> Derivation {
    Derivation {
        trust_domain: "example.org".into(),
        allowed_hosts: AllowList::parse("spoke.example.org,other.example.org").unwrap(),
        registry_consumers: vec!["argocd-repo-server".into()],
        cluster_consumers: vec!["argocd-application-controller".into()],
    }
}

/// A Secret with these values.
pub(crate) fn secret(kind: &str, name: &str, values: &[(&str, &str)]) -> Secret {
    let mut secret: Secret = serde_json::from_value(json!({
        "metadata": {
            "namespace": "argocd", "name": name, "uid": format!("uid-{name}"),
            "labels": {"argocd.argoproj.io/secret-type": kind},
        },
    }))
    .unwrap();
    let value = |text: &str| ByteString(text.as_bytes().to_vec());
    secret.data = Some(
        values
            .iter()
            .map(|(key, text)| ((*key).to_owned(), value(text)))
            .collect(),
    );
    secret
}

/// The Quay repository of the guides, without a project.
pub(crate) fn quay(name: &str) -> Secret {
    secret(
        "repository",
        name,
        &[
            ("type", "helm"),
            ("url", "quay.example.org/team/charts"),
            ("enableOCI", "true"),
            ("useWorkloadIdentity", "true"),
            ("workloadIdentityProvider", "spiffe"),
            ("workloadIdentityAudience", "quay.example.org"),
            (
                "workloadIdentityRegistryAuthURL",
                "https://quay.example.org/oauth2/federation/robot/token",
            ),
            ("workloadIdentityRegistryUsername", "team+puller"),
        ],
    )
}

#[test]
fn a_secret_is_absent_unused_invalid_or_valid() {
    let derivation = derivation();
    let plain = secret("repository", "plain", &[("url", "https://a.example.org/x")]);
    let other = secret("other", "quay", &[("useWorkloadIdentity", "true")]);
    for nobodys in [&other, &Secret::default()] {
        assert!(matches!(derive(&derivation, nobodys), Derived::Unused(_)));
    }
    assert!(
        matches!(derive(&derivation, &plain), Derived::Unused(owner) if owner.uid == "uid-plain")
    );
    let broken = secret("cluster", "broken", &[("useWorkloadIdentity", "true")]);
    match derive(&derivation, &broken) {
        Derived::Invalid(_, problems) => assert!(!problems.is_empty()),
        other => panic!("{other:?}"),
    }
    match derive(&derivation, &quay("quay")) {
        Derived::Valid(owner, spec) => {
            assert_eq!(owner.name, "quay");
            assert_eq!(undeliverable("Secret argocd/quay", &spec), None);
        }
        other => panic!("{other:?}"),
    }
}

/// The Quay repository of the guides, of a project.
pub(crate) fn of_project(name: &str, proxy: Option<&str>) -> Secret {
    let mut secret = quay(name);
    let data = secret.data.as_mut().unwrap();
    data.insert("project".into(), ByteString(b"prod".to_vec()));
    if let Some(proxy) = proxy {
        data.insert("proxy".into(), ByteString(proxy.as_bytes().to_vec()));
    }
    secret
}

/// What the webhook writes into a Secret, for the random bytes `byte`.
pub(crate) fn entry(secret: &Secret, byte: u8) -> String {
    let (kind, values) = values(secret).unwrap();
    let place = Place::read(kind, &values);
    let subject = Subject {
        namespace: secret.metadata.namespace.as_deref().unwrap(),
        name: secret.metadata.name.as_deref().unwrap(),
        place: place.as_ref(),
    };
    let value = proxy_key::value(&subject, &bytes(byte)).unwrap();
    value.to_string()
}

fn set(secret: &mut Secret, name: &str, value: &str) {
    let data = secret.data.as_mut().unwrap();
    data.insert(name.into(), ByteString(value.as_bytes().to_vec()));
}

/// As [`of_project`], with a key of its own.
pub(crate) fn complete(name: &str, byte: u8) -> Secret {
    let secret = of_project(name, None);
    let proxy = entry(&secret, byte);
    of_project(name, Some(&proxy))
}

fn codes(found: &Found) -> Vec<Code> {
    found.notices.iter().map(|notice| notice.code).collect()
}

fn spec(found: &Found) -> &CredentialBindingSpec {
    match &found.derived {
        Derived::Valid(_, spec) => spec,
        other => panic!("{other:?}"),
    }
}

fn keys(found: &Found) -> &[String] {
    &spec(found).proxy.as_ref().unwrap().key_sha256
}

/// The hash of what follows the name.
fn hash(entry: &str) -> String {
    let (user, _) = entry.rsplit_once('@').unwrap();
    let (_, key) = user.rsplit_once(':').unwrap();
    KeyHash::of(key.as_bytes()).to_hex()
}

const OLD: &str = "http://quay:qR7vBu5eBBw63oZGgsQkSVxWwA1Y8kE4xXbzEosGwjg@127.0.0.1:15080";

#[test]
fn a_proxy_that_is_not_as_it_should_be_is_noticed() {
    let derivation = derivation();
    let look = |secret: &Secret| look(&derivation, secret);
    let own = entry(&of_project("quay", None), 2);
    let mut elsewhere = of_project("quay", None);
    set(&mut elsewhere, "project", "dev");
    for (proxy, expected) in [
        (Some(own.clone()), None),
        (Some(OLD.to_owned()), None),
        (Some(entry(&elsewhere, 2)), Some(Code::ProxyKeyStale)),
        (None, Some(Code::ProxyNotWritten)),
        (Some(String::new()), Some(Code::ProxyNotWritten)),
        (
            Some("http://proxy:3128".into()),
            Some(Code::ProxyNotWritten),
        ),
        (
            Some("http://quay:mine@127.0.0.1:15080".into()),
            Some(Code::ProxyNotWritten),
        ),
        (
            Some(entry(&of_project("other", None), 2)),
            Some(Code::ProxyForeign),
        ),
    ] {
        let found = look(&of_project("quay", proxy.as_deref()));
        assert_eq!(
            codes(&found),
            expected.into_iter().collect::<Vec<_>>(),
            "{proxy:?}"
        );
        // What counts opens the binding, and nothing else does.
        let opens = proxy.filter(|_| expected.is_none());
        assert_eq!(keys(&found), opens.as_deref().map(hash).as_slice());
        assert_eq!(undeliverable("Secret argocd/quay", spec(&found)), None);
    }

    let plain = |name: &str, kind: &str, proxy: &str| {
        let values = [("url", "https://a.example.org/x"), ("proxy", proxy)];
        codes(&look(&secret(kind, name, &values)))
    };
    assert_eq!(plain("mine", "repository", &own), [Code::ProxyForeign]);
    assert_eq!(plain("mine", "repo-creds", &own), [Code::ProxyForeign]);
    assert_eq!(plain("quay", "repository", &own), [Code::ProxyNotWritten]);
    assert_eq!(plain("mine", "repository", "http://proxy:3128"), []);
    assert_eq!(plain("mine", "cluster", &own), []);
    let mut bypassed = of_project("quay", Some(&own));
    set(&mut bypassed, "noProxy", ".example.org");
    assert_eq!(codes(&look(&bypassed)), [Code::ProxyBypassed]);
}

fn settled(secret: &Secret, before: Option<&CredentialBindingSpec>, second: i64) -> Found {
    let mut found = look(&derivation(), secret);
    let now = Timestamp::from_second(second).unwrap();
    let former = before.map(Former::of);
    found.settle("Secret argocd/quay", former.as_ref(), now);
    found
}

#[test]
fn a_key_is_replaced_with_overlap_and_then_alone() {
    let first = spec(&settled(&complete("quay", 1), None, 0)).clone();
    let rotated = settled(&complete("quay", 2), Some(&first), 0);
    let hashes = |byte| hash(&entry(&of_project("quay", None), byte));
    assert_eq!(keys(&rotated), [hashes(2), hashes(1)]);
    let before = spec(&rotated).clone();
    let during = settled(&complete("quay", 2), Some(&before), 600);
    assert_eq!(spec(&during), &before, "nothing to write");
    let after = settled(&complete("quay", 2), Some(&before), 601);
    assert_eq!(keys(&after), [hashes(2)]);
    assert_eq!(
        spec(&after).proxy.as_ref().unwrap().previous_key_until,
        None
    );
}

#[test]
fn a_secret_that_moves_takes_no_key_along() {
    for old in [entry(&of_project("quay", None), 1), OLD.to_owned()] {
        let first = spec(&settled(&of_project("quay", Some(&old)), None, 0)).clone();
        assert_eq!(first.proxy.as_ref().unwrap().key_sha256, [hash(&old)]);
        for (name, value) in [
            ("project", "dev"),
            ("url", "quay.example.org/other/charts"),
            ("url", "https://quay.example.org/team/charts"),
        ] {
            // The webhook was down.
            let mut moved = of_project("quay", Some(&old));
            set(&mut moved, name, value);
            let mut before = first.clone();
            // However often somebody looks, and whatever the binding is by then.
            for _ in 0..3 {
                let found = settled(&moved, Some(&before), 0);
                assert_eq!(codes(&found), [Code::ProxyKeyStale], "{name}: {value}");
                assert_eq!(keys(&found), [""; 0]);
                before = spec(&found).clone();
            }
            // The webhook is back, and draws another; the old one is gone at once.
            let fresh = entry(&moved, 2);
            set(&mut moved, "proxy", &fresh);
            let found = settled(&moved, Some(&first), 0);
            assert_eq!((codes(&found), keys(&found)), (vec![], &[hash(&fresh)][..]));
        }
    }
}

#[test]
fn a_key_says_what_it_was_made_for_also_where_no_binding_remembers() {
    let old = entry(&of_project("quay", None), 1);
    let mut moved = of_project("quay", Some(&old));
    set(&mut moved, "project", "dev");
    let found = settled(&moved, None, 0);
    assert_eq!(
        (codes(&found), keys(&found)),
        (vec![Code::ProxyKeyStale], &[][..])
    );
}

#[test]
fn a_broken_secret_keeps_its_binding_only_where_it_was() {
    let first = spec(&settled(&complete("quay", 1), None, 0)).clone();
    let mut broken = complete("quay", 1);
    set(&mut broken, "workloadIdentityProvider", "vault");
    let is_elsewhere = |secret: &Secret| {
        let found = settled(secret, Some(&first), 0);
        match found.derived {
            Derived::Invalid(_, problems) | Derived::Elsewhere(_, problems)
                if problems.is_empty() =>
            {
                panic!("no problems")
            }
            Derived::Invalid(..) => false,
            Derived::Elsewhere(..) => true,
            other => panic!("{other:?}"),
        }
    };
    assert!(!is_elsewhere(&broken));
    for (name, value) in [
        ("project", "dev"),
        ("project", "Not A Project"),
        ("url", "oci://quay.example.org/other/charts"),
        ("url", "http://quay.example.org/team/charts"),
        ("type", "git"),
        ("type", "svn"),
    ] {
        let mut moved = broken.clone();
        set(&mut moved, name, value);
        assert!(is_elsewhere(&moved), "{name}: {value}");
    }
    // The guides' spelling of the same.
    set(&mut broken, "url", "oci://quay.example.org/team/charts");
    assert!(!is_elsewhere(&broken));
}

#[test]
fn wiping_leaves_no_value() {
    let mut secret = quay("quay");
    wipe(&mut secret);
    assert!(
        secret
            .data
            .unwrap()
            .values()
            .all(|value| value.0.is_empty())
    );
}

#[test]
fn a_broken_cluster_keeps_its_binding_at_its_server_only() {
    let values = |server| {
        let config = r#"{"tlsClientConfig":{"caData":"Y2E="}}"#;
        [
            ("server", server),
            ("config", config),
            ("useWorkloadIdentity", "true"),
            ("workloadIdentityAudience", "spoke"),
        ]
    };
    let good = secret("cluster", "spoke", &values("https://spoke.example.org"));
    let before = spec(&look(&derivation(), &good)).clone();
    for (server, is_elsewhere) in [
        ("https://spoke.example.org/", false),
        ("https://evil.example.org", true),
        ("no url", true),
    ] {
        let mut broken = secret("cluster", "spoke", &values(server));
        set(&mut broken, "workloadIdentityProvider", "vault");
        let found = settled(&broken, Some(&before), 0);
        let found = matches!(found.derived, Derived::Elsewhere(..));
        assert_eq!(found, is_elsewhere, "{server}");
    }
}
