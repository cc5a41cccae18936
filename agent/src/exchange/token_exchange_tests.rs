//! Parameters and answers of an RFC 8693 exchange.

use proptest::prelude::*;
use serde_json::{Value, json};
use shared::binding::{ExchangeKind, RESERVED_PARAMETERS};

use super::*;
use crate::exchange::http::answer_of;
use crate::jwt::tests::token as jwt;

fn read(status: u16, body: &Value) -> Result<(String, i64), Named> {
    let now = Timestamp::from_second(1_000).unwrap();
    token(&answer_of(status, body), &"registry r.test", now)
        .map(|(token, end)| (token.expose_secret().to_owned(), end.as_second()))
}

#[test]
fn the_token_ends_when_the_service_says_or_else_the_token_or_after_a_minute() {
    let token = jwt(&json!({"exp": 5_000}));
    for (body, end) in [
        (json!({"access_token": "a", "expires_in": 300}), 1_300),
        (json!({"access_token": token, "expires_in": 300}), 1_300),
        (json!({"access_token": token}), 5_000),
        (
            json!({"access_token": "a", "issued_token_type": JWT}),
            1_060,
        ),
        (
            json!({"access_token": "a", "issued_token_type": ACCESS_TOKEN}),
            1_060,
        ),
    ] {
        let (found, expires_at) = read(200, &body).unwrap();
        assert_eq!((&json!(found), expires_at), (&body["access_token"], end));
    }
}

#[test]
fn every_answer_that_is_no_token_has_its_name() {
    use Code::*;
    let error = |error: &str| json!({"error": error, "error_description": "because"});
    for (status, body, expected) in [
        (400, error("invalid_request"), ExchangeRejected),
        (400, error("invalid_target"), ExchangeRejected),
        (400, error("invalid_grant"), ExchangeRejected),
        (401, error("invalid_client"), ExchangeRejected),
        (403, error("access_denied"), ExchangeRejected),
        (404, json!({}), ExchangeUnreadable),
        (404, error("Realm does not exist"), ExchangeRejected),
        (405, json!({}), ExchangeUnreadable),
        (302, json!({}), ExchangeRejected),
        (429, json!({}), ExchangeThrottled),
        (500, json!({}), ExchangeUnreachable),
        (503, error("temporarily_unavailable"), ExchangeUnreachable),
        (200, json!({}), ExchangeUnreadable),
        (200, json!("<html>"), ExchangeUnreadable),
        (200, json!({"access_token": ""}), ExchangeUnreadable),
        (200, json!({"access_token": 1}), ExchangeUnreadable),
        (
            200,
            json!({"access_token": "a", "expires_in": 0}),
            ExchangeUnreadable,
        ),
        (
            200,
            json!({"access_token": "a", "expires_in": -1}),
            ExchangeUnreadable,
        ),
        (
            200,
            json!({"access_token": "a", "expires_in": i64::MAX}),
            ExchangeUnreadable,
        ),
        (
            200,
            json!({"access_token": "a", "expires_in": "soon"}),
            ExchangeUnreadable,
        ),
        (
            200,
            json!({"access_token": jwt(&json!({"exp": 999}))}),
            ExchangeUnreadable,
        ),
        (
            200,
            json!({"access_token": "a", "issued_token_type": "urn:ietf:params:oauth:token-type:saml2"}),
            ExchangeUnreadable,
        ),
    ] {
        let error = read(status, &body).unwrap_err();
        assert_eq!(error.code, expected, "{status} {body}");
        assert!(error.detail.starts_with("registry r.test: token exchange"));
        if let Some(words) = body.get("error").and_then(Value::as_str) {
            let words = format!("token exchange failed with status {status}: {words}; because");
            assert!(error.detail.ends_with(&words), "{error}");
        }
    }
}

fn of(
    token_url: Option<&str>,
    auth_url: Option<&str>,
    username: Option<&str>,
) -> Result<TokenExchange, Code> {
    let mut parameters = Parameters::of(ExchangeKind::TokenExchange);
    parameters.token_url = token_url.map(Into::into);
    parameters.auth_url = auth_url.map(Into::into);
    parameters.username = username.map(Into::into);
    let host = RegistryHost::parse("r.test:5000").unwrap();
    TokenExchange::of(&parameters, &host, "registry").map_err(|error| error.code)
}

#[test]
fn what_the_token_urls_query_says_goes_into_the_form() {
    let found = of(
        Some("https://sso.test/token?client_id=argocd&scope=a%20b#x"),
        None,
        None,
    )
    .unwrap();
    assert_eq!(found.token_url.as_str(), "https://sso.test/token");
    let expected = [("client_id", "argocd"), ("scope", "a b")];
    assert_eq!(
        found.parameters,
        expected.map(|(name, value)| (name.into(), value.into()))
    );
    assert_eq!(found.audience, "registry");
    for name in RESERVED_PARAMETERS {
        let url = format!(
            "https://sso.test/token?client_id=argocd&{}=x",
            name.to_uppercase()
        );
        assert_eq!(
            of(Some(&url), None, None).unwrap_err(),
            Code::InvalidSecret,
            "{name}"
        );
    }
    assert_eq!(of(None, None, None).unwrap_err(), Code::ExchangeUnspecified);
    assert_eq!(
        of(Some("/token"), None, None).unwrap_err(),
        Code::AuthUrlInvalid
    );
}

#[test]
fn the_access_token_is_a_password_or_is_for_the_realm() {
    let (token, realm) = (Some("https://sso.test/t"), Some("https://auth.test/t"));
    let shown = |realm, username| match of(token, realm, username).unwrap().credential("a".into()) {
        Credential::Basic(basic) => Some(basic.username),
        Credential::Bearer(_) => None,
        Credential::Certificate { .. } => panic!("a certificate"),
    };
    assert_eq!(shown(None, None).as_deref(), Some("token"));
    assert_eq!(shown(None, Some("bot")).as_deref(), Some("bot"));
    assert_eq!(shown(realm, None), None);
    assert_eq!(shown(realm, Some("bot")).as_deref(), Some("bot"));
    let service = of(token, realm, None).unwrap().realm.unwrap().service;
    assert_eq!(service.as_deref(), Some("r.test:5000"));
}

proptest! {
    #[test]
    fn no_answer_panics_or_gives_a_token_without_life(
        body in prop_oneof![
            "\\PC*".prop_map(Value::from),
            ("\\PC{0,9}", any::<i64>()).prop_map(|(token, life)| json!({"access_token": token, "expires_in": life})),
        ],
        status in 200_u16..599,
    ) {
        if let Ok((token, end)) = read(status, &body) {
            prop_assert!(!token.is_empty() && end > 1_000);
        }
    }

    #[test]
    fn no_query_overrides_what_the_exchange_is(query in "[a-zA-Z_&=%]{0,40}|(client_secret|audience|password)=x") {
        if let Ok((url, form)) = split(&format!("https://sso.test/t?{query}")) {
            prop_assert_eq!(url.as_str(), "https://sso.test/t");
            prop_assert!(form.iter().all(|(name, _)| !RESERVED_PARAMETERS.contains(&name.as_str())));
        }
    }
}
