//! Answers flow in, credentials and named errors flow out; nothing is sent.

use serde_json::Value;

use shared::binding::ExchangeKind;

use super::*;
use crate::exchange::http::answer_of;

const PROVIDER: &str =
    "projects/123456789/locations/global/workloadIdentityPools/argocd/providers/cluster";
const EMAIL: &str = "puller@acme.iam.gserviceaccount.com";

fn account(provider: Option<&str>) -> Option<CloudAccount> {
    Some(CloudAccount::Gcp {
        service_account: EMAIL.into(),
        workload_identity_provider: provider.map(str::to_owned),
    })
}

fn of(account: Option<CloudAccount>, audience: &str) -> Result<Gar, Named> {
    let parameters = Parameters {
        account,
        ..Parameters::of(ExchangeKind::Gar)
    };
    let host = RegistryHost::parse("europe-docker.pkg.dev").unwrap();
    Gar::of(&parameters, audience, &host)
}

fn gar() -> Gar {
    of(account(Some(PROVIDER)), "any").unwrap()
}

#[test]
fn the_annotation_names_the_provider_before_the_audience_does() {
    let other =
        "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/o";
    let provider = |annotation, audience: &str| of(account(annotation), audience).unwrap().provider;
    assert_eq!(provider(Some(PROVIDER), other), PROVIDER);
    for scheme in ["", "https:"] {
        let audience = format!("{scheme}//iam.googleapis.com/{PROVIDER}");
        assert_eq!(provider(None, &audience), PROVIDER, "{audience}");
    }
    let error = of(account(None), "my-audience").unwrap_err();
    assert_eq!(error.code, Code::AudienceMissing);
    assert!(
        error
            .detail
            .contains("workload identity provider audience not specified"),
        "{error}"
    );
}

#[test]
fn without_an_email_there_is_nobody_to_impersonate() {
    let strange = |email: &str| {
        let account = CloudAccount::Gcp {
            service_account: email.into(),
            workload_identity_provider: Some(PROVIDER.into()),
        };
        of(Some(account), "any")
    };
    for account in [
        of(None, "any"),
        strange(""),
        strange("../a?b"),
        strange("a/b"),
    ] {
        let code = account.map_err(|error| error.code);
        assert_eq!(code, Err(Code::ServiceAccountAnnotationMissing));
    }
}

#[test]
fn exchanges_share_the_limits_of_the_token_service() {
    assert_eq!(gar().upstream(), "sts.googleapis.com:443");
    let private = Gar {
        token_url: Some("https://sts.example.test:8443/v1/token".into()),
        ..gar()
    };
    assert_eq!(private.upstream(), "sts.example.test:8443");
}

#[test]
fn the_token_service_refuses_by_its_words() {
    use Code::*;
    let oauth =
        |error: &str, description: &str| json!({"error": error, "error_description": description});
    let cases = [
        (
            400,
            oauth(
                "invalid_request",
                "The size of mapped attribute google.subject exceeds the 127 bytes limit. Either modify your attribute mapping or the incoming assertion to produce a mapped attribute that is less than 127 bytes.",
            ),
            SubjectTooLong,
        ),
        (
            400,
            oauth(
                "invalid_target",
                "The target service indicated by the \"audience\" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn't exist.",
            ),
            PoolRejected,
        ),
        (
            400,
            oauth(
                "invalid_request",
                "Invalid value for \"audience\". This value should be the full resource name of the Identity Provider.",
            ),
            PoolRejected,
        ),
        (
            400,
            oauth(
                "invalid_grant",
                "The audience in ID Token [a] does not match the expected audience b.",
            ),
            PoolRejected,
        ),
        (
            400,
            oauth(
                "invalid_grant",
                "The issuer in ID Token https://a.test does not match the expected ones.",
            ),
            PoolRejected,
        ),
        (
            401,
            oauth(
                "unauthorized_client",
                "The given credential is rejected by the attribute condition.",
            ),
            PoolRejected,
        ),
        (
            400,
            oauth(
                "invalid_grant",
                "ID Token issued at 1713260741 is stale to sign-in.",
            ),
            IdentityTokenRejected,
        ),
        (
            400,
            oauth(
                "invalid_grant",
                "Error connecting to the given credential's issuer.",
            ),
            IdentityProviderUnreachable,
        ),
        (
            400,
            oauth("invalid_request", "Something new."),
            ExchangeRejected,
        ),
        (
            429,
            json!({"error": {"status": "RESOURCE_EXHAUSTED"}}),
            ExchangeThrottled,
        ),
        (500, json!({}), ExchangeUnreachable),
        (
            503,
            oauth("temporarily_unavailable", "stale"),
            ExchangeUnreachable,
        ),
        (200, json!({"token": "other field"}), ExchangeUnreadable),
    ];
    for (status, body, expected) in cases {
        let error = gar().federated(&answer_of(status, &body)).unwrap_err();
        assert_eq!(error.code, expected, "{status} {body}");
        assert!(error.detail.contains(EMAIL), "{error}");
    }
}

fn impersonated(status: u16, body: &Value) -> Result<Fresh<Credential>, Named> {
    let now = "2026-01-02T03:04:05Z".parse().unwrap();
    gar().impersonated(&answer_of(status, body), now)
}

#[test]
fn the_access_token_lives_until_its_expire_time() {
    let body = json!({"accessToken": "ya29.token", "expireTime": "2026-01-02T04:04:05Z"});
    let fresh = impersonated(200, &body).unwrap();
    assert_eq!(fresh.expires_at.to_string(), "2026-01-02T04:04:05Z");
    let Credential::Basic(basic) = fresh.credential else {
        panic!("not basic")
    };
    assert_eq!(basic.username, "oauth2accesstoken");
    assert_eq!(basic.secret.expose_secret(), "ya29.token");
}

#[test]
fn a_token_without_a_future_end_is_not_used() {
    for expire_time in [
        json!("0001-01-01T00:00:00Z"),
        json!("2026-01-02T03:04:05Z"),
        json!(""),
        json!("soon"),
        Value::Null,
    ] {
        let body = json!({"accessToken": "ya29.token", "expireTime": expire_time});
        let error = impersonated(200, &body).unwrap_err();
        assert_eq!(error.code, Code::ExchangeUnreadable, "{expire_time}");
        assert!(!error.detail.contains("ya29"), "{error}");
    }
    let without = impersonated(200, &json!({"accessToken": "ya29.token"}));
    assert_eq!(without.unwrap_err().code, Code::ExchangeUnreadable);
}

#[test]
fn impersonation_is_refused_with_googles_words() {
    use Code::*;
    let google = |code: u16, status: &str, message: &str| {
        (
            code,
            json!({"error": {"code": code, "status": status, "message": message}}),
        )
    };
    let denied =
        "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).";
    for ((status, body), expected, words) in [
        (
            google(403, "PERMISSION_DENIED", denied),
            ImpersonationDenied,
            "getAccessToken",
        ),
        (
            google(404, "NOT_FOUND", "Not found; Gaia id not found for email"),
            ImpersonationDenied,
            "Gaia",
        ),
        (
            google(401, "UNAUTHENTICATED", "invalid credentials"),
            ExchangeRejected,
            "UNAUTHENTICATED",
        ),
        (
            google(429, "RESOURCE_EXHAUSTED", "Quota exceeded"),
            ExchangeThrottled,
            "Quota",
        ),
        (
            google(503, "UNAVAILABLE", "try later"),
            ExchangeUnreachable,
            "later",
        ),
    ] {
        let error = impersonated(status, &body).unwrap_err();
        assert_eq!(error.code, expected, "{status} {body}");
        assert!(error.detail.contains(words), "{error}");
    }
}
