//! What the tests of Google Cloud and Azure share.

use agent::demand::Key;
use agent::exchange::http::{Outlet, Upstream};
use agent::exchange::{Credential, Trade, exchange};
use agent::identity::{IdentityToken, Svid};
use agent::refresh::{Failure, Fresh};
use axum::http::StatusCode;
use harness::cloud::Prescribed;
use reqwest::Method;
use reqwest::header::WWW_AUTHENTICATE;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use shared::binding::{CredentialKind, Exchange};
use shared::docker_config::BasicCredential;
use shared::registry::RegistryHost;

use crate::case::Case;

/// The subjects of both kinds of identities.
pub(crate) const SUBJECTS: [(CredentialKind, &str); 2] = [
    (
        CredentialKind::ServiceAccountToken,
        "system:serviceaccount:argocd:argocd-global",
    ),
    (
        CredentialKind::SpiffeJWT,
        "spiffe://example.org/ns/argocd/sa/argocd-global",
    ),
];

/// The trade of a binding with these parameters, whose identity has `audience`.
pub(crate) fn trade(parameters: Exchange, audience: &str, host: &RegistryHost) -> Trade {
    let mut case = Case::new(parameters.kind, host.as_str(), "");
    case.spec.exchange = parameters;
    case.spec.identity.audience = audience.to_owned();
    Trade::of(&case.spec, host).unwrap().unwrap()
}

/// Carries out a trade as the agent does.
pub(crate) async fn carry_out(
    upstream: &Upstream,
    trade: Trade,
    credential: CredentialKind,
    identity: IdentityToken,
) -> Result<Fresh<Credential>, Failure> {
    let key = Key {
        namespace: "argocd".into(),
        project: None,
        credential,
        subject: "not looked at".into(),
        service_account: "argocd-global".into(),
        audience: "not looked at".into(),
        trade: Some(trade),
    };
    exchange(upstream, &key, Svid::Token(identity)).await
}

pub(crate) fn basic(fresh: Fresh<Credential>) -> BasicCredential {
    match fresh.credential {
        Credential::Basic(basic) => basic,
        other => panic!("not basic: {other:?}"),
    }
}

/// Logs in at the registry as clients do, by its challenge, and returns the status of a repository's manifest 1.0.0.
pub(crate) async fn pull(
    outlet: &Outlet,
    host: &RegistryHost,
    repository: &str,
    login: &BasicCredential,
) -> u16 {
    let url = format!("https://{host}/v2/{repository}/manifests/1.0.0");
    let manifest = || {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        outlet
            .request(Method::GET, &url)
            .unwrap()
            .header("accept", media_type)
    };
    let refused = outlet.send(manifest()).await.unwrap();
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let challenge = refused.headers[WWW_AUTHENTICATE].to_str().unwrap();
    let part = |name: &str| {
        let (_, rest) = challenge.split_once(&format!("{name}=\"")).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let realm = outlet
        .request(Method::GET, &part("realm"))
        .unwrap()
        .query(&[("service", part("service")), ("scope", part("scope"))])
        .basic_auth(&login.username, Some(login.secret.expose_secret()));
    let answer = outlet.send(realm).await.unwrap();
    if answer.status != StatusCode::OK {
        return answer.status.as_u16();
    }
    let body: Value = answer.json().unwrap();
    let token = [&body["token"], &body["access_token"]];
    let token = token.into_iter().find_map(Value::as_str).unwrap();
    let answer = outlet.send(manifest().bearer_auth(token)).await.unwrap();
    answer.status.as_u16()
}

pub(crate) fn prescribed(status: u16, body: &Value) -> Prescribed {
    Prescribed {
        status: StatusCode::from_u16(status).unwrap(),
        retry_after: None,
        body: body.to_string(),
    }
}

/// Panics where a text has a part of the token.
pub(crate) fn assert_without(token: &IdentityToken, text: &str) {
    for part in token.token.expose_secret().split('.') {
        assert!(!text.contains(part), "{text}");
    }
}
