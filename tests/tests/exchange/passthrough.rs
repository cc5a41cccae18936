//! The identity as the password: what a registry makes of it is known before anything is delivered.

use std::time::Duration;

use agent::exchange::Credential;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use harness::token_server::TokenServer;
use harness::upstreams::{Issuer, Upstreams};
use harness::zot::Zot;
use secrecy::ExposeSecret as _;
use shared::binding::{ExchangeKind, ProxyKind};
use shared::errors::Code;

use crate::case::{Case, SUBJECT};

const HOST: &str = "zot.example.test";
const OTHER: &str = "auth.example.test";
const LIFE: Duration = Duration::from_secs(600);

fn zot(realm: &str) -> Zot {
    Zot {
        realm: realm.into(),
        service: "zot".into(),
        audience: "registry".into(),
        anonymous: false,
    }
}

fn own_realm() -> String {
    format!("https://{HOST}/zot/auth/token")
}

fn case() -> Case {
    Case::new(ExchangeKind::Passthrough, HOST, "zot.example.test;private")
}

#[tokio::test]
async fn zot_takes_the_identity_as_any_accounts_password() {
    let world = Upstreams::new().unwrap();
    let issuer = Issuer::start(&world).await.unwrap();
    let routes = zot(&own_realm()).routes(&issuer);
    let _server = world.serve(&[HOST], routes).await.unwrap();
    let identity = issuer.token(SUBJECT, "registry", LIFE).unwrap();
    for username in [None, Some("prod-robot")] {
        let mut case = case();
        case.spec.exchange.username = username.map(Into::into);
        let fresh = case.run(&world, &identity).await.unwrap();
        assert_eq!(fresh.expires_at, identity.expires_at);
        let Credential::Basic(basic) = fresh.credential else {
            panic!("not basic")
        };
        assert_eq!(basic.username, username.unwrap_or("jwt"));
        assert_eq!(basic.secret.expose_secret(), identity.token.expose_secret());
    }

    for (refused, words) in [
        (
            issuer.token(SUBJECT, "elsewhere", LIFE).unwrap(),
            "UNAUTHORIZED; invalid audience",
        ),
        (stranger().await, "UNAUTHORIZED; invalid token"),
    ] {
        let error = case().run(&world, &refused).await.unwrap_err().error;
        assert_eq!(error.code, Code::AudienceMismatch, "{error}");
        assert!(error.detail.contains(words), "{error}");
        assert!(!error.to_string().contains(refused.token.expose_secret()));
    }
}

/// A token that claims to be of the issuer, signed by somebody else.
async fn stranger() -> agent::identity::IdentityToken {
    let elsewhere = Upstreams::new().unwrap();
    let stranger = Issuer::start(&elsewhere).await.unwrap();
    stranger.token(SUBJECT, "registry", LIFE).unwrap()
}

#[tokio::test]
async fn a_realm_that_zot_does_not_spell_out_has_its_name() {
    for (realm, expected, words) in [
        ("", Code::BearerRealmMissing, "no realm"),
        ("zot", Code::BearerRealmMissing, "relative URL"),
        ("/zot/auth/token", Code::BearerRealmMissing, "relative URL"),
        (
            "http://zot.example.test/zot/auth/token",
            Code::BearerRealmMissing,
            "not https",
        ),
        (
            "https://auth.example.test/zot/auth/token",
            Code::HostNotAllowed,
            "auth.example.test:443",
        ),
    ] {
        let world = Upstreams::new().unwrap();
        let issuer = Issuer::start(&world).await.unwrap();
        let routes = zot(realm).routes(&issuer);
        let _server = world.serve(&[HOST, OTHER], routes).await.unwrap();
        let identity = issuer.token(SUBJECT, "registry", LIFE).unwrap();
        let error = case().run(&world, &identity).await.unwrap_err().error;
        assert_eq!(error.code, expected, "{error}");
        assert!(error.detail.contains(words), "{error}");
        if expected == Code::HostNotAllowed {
            let allowed = "zot.example.test;private,auth.example.test;private";
            let case = Case::new(ExchangeKind::Passthrough, HOST, allowed);
            assert!(case.run(&world, &identity).await.is_ok());
        }
    }
}

#[tokio::test]
async fn only_registries_are_logged_in_at() {
    let world = Upstreams::new().unwrap();
    let issuer = Issuer::start(&world).await.unwrap();
    let identity = issuer.token(SUBJECT, "registry", LIFE).unwrap();
    // There is no such host at all.
    for kind in [ProxyKind::Git, ProxyKind::HelmHttp] {
        let mut case = case();
        case.spec.proxy.as_mut().unwrap().kind = kind;
        assert!(case.run(&world, &identity).await.is_ok(), "{kind:?}");
    }
    let error = case().run(&world, &identity).await.unwrap_err().error;
    assert_eq!(error.code, Code::ExchangeUnreachable);
}

#[tokio::test]
async fn what_is_no_registry_or_not_well_has_its_name() {
    let world = Upstreams::new().unwrap();
    let issuer = Issuer::start(&world).await.unwrap();
    let identity = issuer.token(SUBJECT, "registry", LIFE).unwrap();
    for (status, expected) in [
        (StatusCode::OK, None),
        (StatusCode::NOT_FOUND, Some(Code::ExchangeUnreadable)),
        (StatusCode::TOO_MANY_REQUESTS, Some(Code::ExchangeThrottled)),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Some(Code::ExchangeUnreachable),
        ),
    ] {
        let routes = Router::new().route("/v2/", get(move || async move { status }));
        let _server = world.serve(&[HOST], routes).await.unwrap();
        let outcome = case().run(&world, &identity).await;
        assert_eq!(outcome.err().map(|it| it.error.code), expected, "{status}");
    }
}

#[tokio::test]
async fn a_registry_that_asks_for_a_password_gets_it_at_its_own_endpoint() {
    let world = Upstreams::new().unwrap();
    let issuer = Issuer::start(&world).await.unwrap();
    let server =
        TokenServer::new(issuer.trusted(), "registry", "r", &[(SUBJECT, "prod/")]).unwrap();
    let _server = world.serve(&[HOST], server.basic_routes()).await.unwrap();
    let identity = issuer.token(SUBJECT, "registry", LIFE).unwrap();
    assert!(case().run(&world, &identity).await.is_ok());
    let wrong = issuer.token(SUBJECT, "elsewhere", LIFE).unwrap();
    let error = case().run(&world, &wrong).await.unwrap_err().error;
    assert_eq!(error.code, Code::AudienceMismatch, "{error}");
    assert!(
        error.detail.contains("GET /v2/ answered with status 401"),
        "{error}"
    );
}
