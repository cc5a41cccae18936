//! Token realms that a Secret names, and what a realm's tokens and refusals mean.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::header::WWW_AUTHENTICATE;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::allow_list::AllowList;
use shared::proxy_view::{ProxyBinding, ProxyCredential, Realm};

use crate::world::{Authority, Seen, Server, World, basic, binding, text};

const PATH: &str = "/v2/a/x/manifests/1";

fn unauthorized(challenge: &str) -> http::Response<credential_proxy::Body> {
    let mut response = text(401, "challenge");
    let value = challenge.parse().unwrap();
    response.headers_mut().insert(WWW_AUTHENTICATE, value);
    response
}

/// A registry that asks for `challenge` and takes the token `granted`.
async fn registry(authority: &Authority, challenge: String) -> Server {
    Server::start(authority, move |seen| match seen.authorization.as_deref() {
        Some("Bearer granted") => text(200, "manifest"),
        _ => unauthorized(&challenge),
    })
    .await
}

/// The binding `a`, whose credential is the identity for `realm` alone.
fn for_realm(target: &str, realm: &Server, service: Option<&str>) -> ProxyBinding {
    let url = format!("https://{}/token", realm.at("localhost"));
    let mut binding = binding("a", target, "a");
    binding.realm = Some(Realm::parse(&url, service.map(Into::into)).unwrap());
    let expires = Timestamp::now() + SignedDuration::from_hours(1);
    binding.credential = Some(ProxyCredential::bearer("identity", expires));
    binding
}

fn shown(server: &Server) -> Vec<(String, Option<String>)> {
    let seen = server.seen().into_iter();
    seen.map(|it| (it.path, it.authorization)).collect()
}

#[tokio::test]
async fn the_identity_goes_to_the_named_realm_and_never_to_the_registry() {
    let authority = Authority::new();
    let realm = Server::start(&authority, |_| text(200, "{\"token\":\"granted\"}")).await;
    let announced = "Bearer realm=\"https://elsewhere.test/token\",service=\"announced\"";
    let server = registry(&authority, announced.into()).await;
    let target = server.at("127.0.0.1");
    for (own, service) in [(Some("own"), "own"), (None, "announced")] {
        let world = World::start(&authority, &[for_realm(&target, &realm, own)]).await;
        let answer = world.get(&target, "a", PATH).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "manifest"));
        let path = format!("/token?service={service}&scope=repository%3Aa%2Fx%3Apull");
        let expected = (path, Some("Bearer identity".to_owned()));
        assert_eq!(shown(&realm).pop(), Some(expected));
    }
    let to_registry = shown(&server);
    assert_eq!(to_registry.len(), 4);
    for (_, authorization) in to_registry {
        assert!(matches!(
            authorization.as_deref(),
            None | Some("Bearer granted")
        ));
    }
}

#[tokio::test]
async fn a_password_for_a_realm_is_not_shown_to_a_registry_that_asks_for_one() {
    let authority = Authority::new();
    let realm = Server::start(&authority, |_| text(200, "{\"token\":\"granted\"}")).await;
    let server = registry(&authority, "Basic realm=\"r\"".into()).await;
    let target = server.at("127.0.0.1");
    let mut with_password = for_realm(&target, &realm, None);
    with_password.credential = binding("a", &target, "a").credential;
    for binding in [for_realm(&target, &realm, None), with_password] {
        let world = World::start(&authority, &[binding]).await;
        let answer = world.get(&target, "a", PATH).await;
        assert_eq!(answer.status, 403);
        assert!(answer.body.contains("token realm alone"), "{answer:?}");
    }
    let nothing = (PATH.to_owned(), None);
    assert_eq!(shown(&server), [nothing.clone(), nothing]);
    assert_eq!(realm.seen(), []);
}

#[tokio::test]
async fn a_named_realm_needs_permission_like_an_announced_one() {
    let authority = Authority::new();
    let realm = Server::start(&authority, |_| text(200, "{\"token\":\"granted\"}")).await;
    let server = registry(&authority, "Bearer service=\"r\"".into()).await;
    let target = server.at("127.0.0.1");
    let mut refused = for_realm(&target, &realm, None);
    refused.allowed_hosts = AllowList::parse("127.0.0.1;private").unwrap();
    let world = World::start(&authority, &[refused]).await;
    let answer = world.get(&target, "a", PATH).await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.starts_with("realm-refused"), "{answer:?}");
    assert_eq!(realm.seen(), []);

    // Without a named one, there is none at all.
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let answer = world.get(&target, "a", PATH).await;
    assert!(
        answer.body.starts_with("bearer-realm-missing"),
        "{answer:?}"
    );
}

/// A server that is its own realm, which answers with this.
async fn own_realm(authority: &Authority, status: u16, body: String) -> Server {
    Server::start(authority, move |seen: &Seen| {
        let host = seen.headers["host"].to_str().unwrap();
        match seen.path.starts_with("/token") {
            true => text(status, &body),
            false => unauthorized(&format!("Bearer realm=\"https://{host}/token\"")),
        }
    })
    .await
}

#[tokio::test]
async fn what_a_realm_answers_in_place_of_the_right_to_pull_has_its_name() {
    let authority = Authority::new();
    let token = |access: serde_json::Value| {
        let claims = URL_SAFE_NO_PAD.encode(json!({ "access": access }).to_string());
        json!({ "token": format!("e30.{claims}.sig") }).to_string()
    };
    let other = json!([{"type": "repository", "name": "a/y", "actions": ["pull"]}]);
    let key = json!({"message": "Unknown service key"}).to_string();
    for (status, body, expected, words, to_client) in [
        (200, token(json!([])), "scope-empty", "repository a/x", 403),
        (200, token(other), "scope-empty", "repository a/x", 403),
        (500, key, "exchange-skipped", "Unknown service key", 502),
        (500, "{}".into(), "registry-refused", "status 500", 403),
        (401, "{}".into(), "registry-refused", "status 401", 403),
    ] {
        let server = own_realm(&authority, status, body).await;
        let target = server.at("localhost");
        let world = World::start(&authority, &[binding("a", &target, "a")]).await;
        let answer = world.get(&target, "a", PATH).await;
        assert_eq!(answer.status, to_client, "{answer:?}");
        assert!(answer.body.starts_with(expected), "{answer:?}");
        assert!(answer.body.contains(words), "{answer:?}");
        let asked: Vec<_> = shown(&server).into_iter().map(|(_, it)| it).collect();
        assert_eq!(asked, [None, Some(basic("a"))], "it is not asked again");
    }
}
