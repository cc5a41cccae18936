//! Answers flow in, credentials and named errors flow out; nothing is sent.

use serde_json::{Value, json};
use shared::binding::ExchangeKind;

use super::*;
use crate::exchange::http::answer_of;
use crate::jwt::tests::token;

const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
const TENANT_ID: &str = "99999999-8888-7777-6666-555555555555";

fn of(host: &str, tenant: &str, token_url: Option<&str>) -> Result<Acr, Named> {
    let parameters = Parameters {
        account: Some(CloudAccount::Azure {
            client_id: CLIENT.into(),
            tenant_id: tenant.into(),
        }),
        token_url: token_url.map(str::to_owned),
        ..Parameters::of(ExchangeKind::Acr)
    };
    Acr::of(&parameters, &RegistryHost::parse(host).unwrap())
}

fn acr() -> Acr {
    of("acme.azurecr.io", TENANT_ID, None).unwrap()
}

#[test]
fn the_registrys_cloud_has_the_token_service() {
    let url = |host: &str, token_url: Option<&str>| {
        let acr = of(host, TENANT_ID, token_url).unwrap();
        acr.token_url()
    };
    for (host, authority) in [
        ("acme.azurecr.io", "login.microsoftonline.com"),
        ("acme.azurecr.us", "login.microsoftonline.us"),
        ("acme.azurecr.cn", "login.chinacloudapi.cn"),
        ("listed.example.test", "login.microsoftonline.com"),
    ] {
        let expected = format!("https://{authority}/{TENANT_ID}/oauth2/v2.0/token");
        assert_eq!(url(host, None), expected);
    }
    let expected = format!("https://entra.example.test/{TENANT_ID}/token");
    for place in ["{tenantID}", "%7BtenantID%7D", TENANT_ID] {
        let written = format!("https://entra.example.test/{place}/token");
        assert_eq!(url("acme.azurecr.io", Some(&written)), expected);
    }
    assert_eq!(acr().upstream(), "login.microsoftonline.com:443");
}

#[test]
fn a_tenant_stays_in_its_place_of_the_url() {
    for tenant in ["", "..", "a/b", "a?b", "a#b", "%2e%2e"] {
        let error = of("acme.azurecr.io", tenant, None).unwrap_err();
        assert_eq!(
            error.code,
            Code::ServiceAccountAnnotationMissing,
            "{tenant}"
        );
    }
    assert!(of("acme.azurecr.io", "acme.onmicrosoft.com", None).is_ok());
}

#[test]
fn entra_refuses_by_its_numbers() {
    use Code::*;
    for (number, expected) in [
        ("70021", FederatedCredentialMismatch),
        ("700211", FederatedCredentialMismatch),
        ("700212", FederatedCredentialMismatch),
        ("700213", FederatedCredentialMismatch),
        ("7002138", FederatedCredentialMismatch),
        ("700016", ApplicationNotFound),
        ("90002", ApplicationNotFound),
        ("900023", ApplicationNotFound),
        ("7000229", ApplicationNotFound),
        ("700024", IdentityTokenRejected),
        ("700027", IdentityTokenRejected),
        ("7000272", IdentityTokenRejected),
        ("50027", IdentityTokenRejected),
        ("50166", IdentityProviderUnreachable),
        ("501661", IdentityProviderUnreachable),
        ("90061", IdentityProviderUnreachable),
        // Others that begin alike.
        ("7000215", ExchangeRejected),
        ("700222", ExchangeRejected),
        ("9000", ExchangeRejected),
    ] {
        let description =
            format!("AADSTS{number}: Something is wrong. More of it.\r\nTrace ID: 255d1aef");
        let body = json!({"error": "invalid_client", "error_description": description});
        let error = acr().logged_in(&answer_of(400, &body)).unwrap_err();
        assert_eq!(error.code, expected, "{number}");
        let words = format!("HTTP status 400: AADSTS{number}: Something is wrong");
        assert!(error.detail.ends_with(&words), "{error}");
        assert!(error.detail.contains(CLIENT), "{error}");
    }
}

#[test]
fn entras_first_sentence_ends_where_the_next_one_or_the_trace_begins() {
    for (description, expected) in [
        (
            "AADSTS700213: No matching federated identity record found for presented assertion subject 'spiffe://a.test/ns/argocd/sa/x'. Check your federated identity credential.",
            "AADSTS700213: No matching federated identity record found for presented assertion subject 'spiffe://a.test/ns/argocd/sa/x'",
        ),
        (
            "AADSTS700024: Out of its time, at 2024-04-11T09:59:34.9572716Z, now Trace ID: 1 Correlation ID: 2",
            "AADSTS700024: Out of its time, at 2024-04-11T09:59:34.9572716Z, now",
        ),
        ("AADSTS1: One.\r\nTrace ID: 1", "AADSTS1: One"),
        ("", ""),
    ] {
        assert_eq!(first_sentence(description), expected);
    }
}

#[test]
fn entra_without_a_number_is_told_in_its_own_words() {
    use Code::*;
    for (status, body, expected, words) in [
        (
            400,
            json!({"error": "invalid_request"}),
            ExchangeRejected,
            "invalid_request",
        ),
        (
            429,
            json!({"error": "slow_down"}),
            ExchangeThrottled,
            "slow_down",
        ),
        (
            503,
            json!({"error_description": "AADSTS90033: A transient error"}),
            ExchangeUnreachable,
            "AADSTS90033",
        ),
        (
            200,
            json!({"id_token": "x"}),
            ExchangeUnreadable,
            "access_token",
        ),
    ] {
        let error = acr().logged_in(&answer_of(status, &body)).unwrap_err();
        assert_eq!(error.code, expected, "{body}");
        assert!(error.detail.contains(words), "{error}");
    }
}

fn traded_in(status: u16, body: &Value) -> Result<Fresh<Credential>, Named> {
    acr().traded_in(&answer_of(status, body))
}

#[test]
fn the_refresh_token_lives_until_its_own_exp() {
    let refresh_token = token(&json!({"exp": 4_000_000_000_i64}));
    let fresh = traded_in(200, &json!({"refresh_token": refresh_token})).unwrap();
    assert_eq!(fresh.expires_at.as_second(), 4_000_000_000);
    let Credential::Basic(basic) = fresh.credential else {
        panic!("not basic")
    };
    assert_eq!(basic.username, "00000000-0000-0000-0000-000000000000");
    assert_eq!(basic.secret.expose_secret(), refresh_token);
}

#[test]
fn the_registry_refuses_by_its_status() {
    use Code::*;
    let unauthorized =
        json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]});
    for (status, body, expected, words) in [
        (
            401,
            &unauthorized,
            AcrDenied,
            "UNAUTHORIZED; authentication required",
        ),
        (403, &unauthorized, AcrDenied, "UNAUTHORIZED"),
        (400, &unauthorized, ExchangeRejected, "400"),
        (404, &json!("no"), ExchangeUnreadable, "404"),
        (429, &json!({}), ExchangeThrottled, "429"),
        (502, &json!({}), ExchangeUnreachable, "502"),
        (
            200,
            &json!({}),
            ExchangeUnreadable,
            "failed to decode ACR response",
        ),
        (
            200,
            &json!({"refresh_token": "opaque"}),
            ExchangeUnreadable,
            "failed to decode ACR response",
        ),
        (
            200,
            &json!({"refresh_token": token(&json!({}))}),
            ExchangeUnreadable,
            "no exp",
        ),
    ] {
        let error = traded_in(status, body).unwrap_err();
        assert_eq!(error.code, expected, "{status} {body}");
        assert!(error.detail.contains(words), "{error}");
    }
}
