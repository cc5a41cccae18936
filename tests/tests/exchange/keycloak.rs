//! RFC 8693 at the real Keycloak, by a public client: an identity token and nothing else.

use std::time::Duration;

use agent::exchange::Credential;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use harness::keycloak::{self, AUDIENCE, CLIENT, Keycloak, Keys, Options, REALM};
use harness::upstreams::{Issuer, Upstreams};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use shared::binding::ExchangeKind;
use shared::errors::Code;

use crate::case::{Case, SUBJECT};

const SSO: &str = "sso.example.test";
const REGISTRY: &str = "registry.example.test";

#[tokio::test(flavor = "multi_thread")]
async fn keycloak_gives_a_token_of_the_realm_for_an_identity() {
    let world = Upstreams::new().unwrap();
    let issuer = Issuer::start(&world).await.unwrap();
    let known = keycloak::Issuer {
        url: Issuer::url(),
        keys: Keys::Pem(issuer.public_key_pem().to_owned()),
    };
    let options = Options {
        host: SSO,
        issuers: &[known],
        authority: &world.authority_file(),
    };
    let keycloak = Keycloak::start(world.folder(), options).await.unwrap();
    let _server = world.serve(&[SSO], keycloak.routes()).await.unwrap();
    let url = format!("https://{SSO}/realms/{REALM}/protocol/openid-connect/token");
    let identity = issuer
        .token(SUBJECT, CLIENT, Duration::from_secs(600))
        .unwrap();
    let case = |query: &str, audience: &str| {
        let mut case = Case::new(
            ExchangeKind::TokenExchange,
            REGISTRY,
            "sso.example.test;private",
        );
        case.spec.exchange.token_url = Some(format!("{url}{query}"));
        case.spec.identity.audience = audience.into();
        case
    };
    let public = format!("?client_id={CLIENT}");

    // Who asks has to be said, and has to be let.
    for (query, words) in [("", "invalid_client"), (public.as_str(), "access_denied")] {
        let error = case(query, CLIENT)
            .run(&world, &identity)
            .await
            .unwrap_err()
            .error;
        assert_eq!(error.code, Code::ExchangeRejected, "{error}");
        assert!(
            error
                .detail
                .contains("token exchange failed with status 40"),
            "{error}"
        );
        assert!(error.detail.contains(words), "{error}");
    }
    keycloak.permit().await.unwrap();
    let now = jiff::Timestamp::now();
    let fresh = case(&public, CLIENT).run(&world, &identity).await.unwrap();
    let life = fresh.expires_at.duration_since(now).as_secs();
    assert!(
        (290..=310).contains(&life),
        "the realm's five minutes: {life}"
    );
    let Credential::Basic(basic) = fresh.credential else {
        panic!("not basic")
    };
    assert_eq!(basic.username, "token");
    let payload = basic.secret.expose_secret().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    assert_eq!(claims["iss"], format!("https://{SSO}/realms/{REALM}"));
    assert_eq!(claims["preferred_username"], SUBJECT);
    // What its mapper adds, and not the audience that it was asked for.
    assert_eq!(claims["aud"], json!([AUDIENCE, "account"]));

    // It never looks at the identity's own audience (keycloak/keycloak#51000). When this fails, docs/providers/oidc.md
    // has to tell it.
    let elsewhere = issuer
        .token(SUBJECT, "elsewhere", Duration::from_secs(600))
        .unwrap();
    case(&public, CLIENT).run(&world, &elsewhere).await.unwrap();

    // Another audience needs another permission; a stranger's identity is none.
    let error = case(&public, "registry")
        .run(&world, &identity)
        .await
        .unwrap_err()
        .error;
    assert_eq!(error.code, Code::ExchangeRejected);
    assert!(
        error.detail.contains("status 403: access_denied"),
        "{error}"
    );
    let elsewhere = Upstreams::new().unwrap();
    let stranger = Issuer::start(&elsewhere).await.unwrap();
    let forged = stranger
        .token(SUBJECT, CLIENT, Duration::from_secs(600))
        .unwrap();
    let error = case(&public, CLIENT)
        .run(&world, &forged)
        .await
        .unwrap_err()
        .error;
    assert_eq!(error.code, Code::ExchangeRejected);
    assert!(error.detail.contains("invalid_token"), "{error}");
}
