//! Bindings whose credential is a client certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::{SignedDuration, Timestamp};
use shared::proxy_view::{ProxyBinding, ProxyCredential};

use crate::world::{Authority, Server, World, binding, text};

fn certified(name: &str, target: &str, path: &str, clients: &Authority) -> (ProxyBinding, Vec<u8>) {
    let (leaf, key) = clients.leaf(&[name]);
    let mut binding = binding(name, target, path);
    binding.credential = Some(ProxyCredential::x509(
        leaf.pem(),
        key.serialize_pem(),
        Timestamp::now() + SignedDuration::from_hours(1),
    ));
    (binding, leaf.der().to_vec())
}

#[tokio::test]
async fn each_bindings_certificate_is_presented_for_its_own_paths() {
    let (authority, clients) = (Authority::new(), Authority::new());
    for protocol in ["http/1.1", "h2"] {
        let config = authority.demanding(&clients, protocol);
        let server = Server::with(config, |_| text(200, "manifest")).await;
        let target = server.at("localhost");
        let (a, a_leaf) = certified("a", &target, "a", &clients);
        let (b, b_leaf) = certified("b", &target, "b", &clients);
        let world = World::start(&authority, &[a, b]).await;
        for (name, leaf) in [("a", &a_leaf), ("b", &b_leaf), ("a", &a_leaf)] {
            let path = format!("/v2/{name}/manifests/1");
            assert_eq!(world.get(&target, name, &path).await.status, 200);
            let last = server.seen().pop().unwrap();
            assert_eq!(last.certificate.as_ref(), Some(leaf));
            assert_eq!(last.authorization, None);
        }
        // Outside the binding's path there is no certificate to show.
        let answer = world.get(&target, "a", "/v2/b/manifests/1").await;
        assert!(
            answer.status == 403 && answer.body.starts_with("registry-refused"),
            "{answer:?}"
        );

        // A renewed certificate takes the place of the one before.
        let (a, renewed) = certified("a", &target, "a", &clients);
        world.write(&a);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            assert_eq!(
                world.get(&target, "a", "/v2/a/manifests/1").await.status,
                200
            );
            if server.seen().pop().unwrap().certificate.as_ref() == Some(&renewed) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline);
        }
    }
}

#[tokio::test]
async fn a_certificate_answers_no_challenge_and_reaches_no_realm() {
    let authority = Authority::new();
    let bearer = Arc::new(AtomicBool::new(true));
    let asked = bearer.clone();
    let server = Server::start(&authority, move |seen| {
        let host = seen.headers["host"].to_str().unwrap();
        let challenge = if asked.load(Ordering::SeqCst) {
            format!("Bearer realm=\"https://{host}/token\"")
        } else {
            "Basic realm=\"r\"".to_owned()
        };
        let mut response = text(401, "");
        let value = challenge.parse().unwrap();
        response.headers_mut().insert("www-authenticate", value);
        response
    })
    .await;
    let target = server.at("localhost");
    let (a, _) = certified("a", &target, "a", &authority);
    let world = World::start(&authority, &[a]).await;
    for (number, kind) in [(1, true), (2, false)] {
        bearer.store(kind, Ordering::SeqCst);
        let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
        assert!(
            answer.status == 403 && answer.body.starts_with("registry-refused"),
            "{answer:?}"
        );
        assert_eq!(server.seen().len(), number);
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_can_use_is_a_named_error() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "x")).await;
    let target = server.at("localhost");
    let (mut a, _) = certified("a", &target, "a", &authority);
    let (_, other) = authority.leaf(&["other"]);
    let (leaf, _) = authority.leaf(&["a"]);
    a.credential = Some(ProxyCredential::x509(
        leaf.pem(),
        other.serialize_pem(),
        Timestamp::now() + SignedDuration::from_hours(1),
    ));
    let world = World::start(&authority, &[a]).await;
    let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
    assert!(
        answer.status == 502 && answer.body.starts_with("credential-unreadable"),
        "{answer:?}"
    );
    assert!(!answer.body.contains("PRIVATE"));
    assert_eq!(server.seen(), []);
}
