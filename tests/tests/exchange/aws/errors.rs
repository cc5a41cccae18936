//! Every documented error has its name, by behaviour where the stand-in has it, else as it is told.

use harness::aws::{Api, Fault};
use shared::errors::{Code, Named};

use super::*;

impl World {
    async fn error(&self, host: &str, token: &IdentityToken) -> Failure {
        let found = self.exchange(&ecr(host, "production"), token).await;
        found.map(|_| ()).unwrap_err()
    }
}

fn shows(error: &Named, words: &[&str]) {
    for word in words {
        assert!(error.detail.contains(word), "{word}: {error}");
    }
    assert!(!error.detail.contains("eyJ"), "{error}");
}

#[tokio::test]
async fn what_is_wrong_with_an_identity_has_its_name() {
    let world = World::usual().await;
    let role = world.role("production");
    let subject = service_account("production");
    let provider = |client_ids: &[&str], keys| Provider {
        issuer: Issuer::url(),
        client_ids: client_ids.iter().map(ToString::to_string).collect(),
        keys,
    };
    let good = world.token(&subject);

    let hour = Duration::from_secs(3600);
    let foreign = world
        .issuer
        .token(&subject, "quay.example.test", hour)
        .unwrap();
    let error = world.error(REGISTRY, &foreign).await.error;
    assert_eq!(error.code, Code::IdentityTokenRejected);
    shows(
        &error,
        &["Incorrect token audience", "audience quay.example.test"],
    );

    let other = world.token(&service_account("staging"));
    let error = world.error(REGISTRY, &other).await.error;
    assert_eq!(error.code, Code::AssumeRoleDenied);
    let place = [REGISTRY, role.arn.as_str(), "us-west-2", "AccessDenied"];
    shows(&error, &place);
    shows(
        &error,
        &[
            &Issuer::url(),
            &service_account("staging"),
            "audience sts.amazonaws.com",
        ],
    );

    let past = Timestamp::now().as_second() - 60;
    let expired = world.issuer.sign(&serde_json::json!({
        "iss": Issuer::url(), "sub": subject, "aud": AUDIENCE, "exp": past,
    }));
    let expired = IdentityToken {
        token: expired.unwrap().into(),
        expires_at: Timestamp::now(),
    };
    let error = world.error(REGISTRY, &expired).await.error;
    assert_eq!(error.code, Code::IdentityTokenRejected);
    shows(&error, &["ExpiredTokenException"]);

    world.aws.trust(provider(&[AUDIENCE], None));
    let error = world.error(REGISTRY, &good).await.error;
    assert_eq!(error.code, Code::IdentityProviderUnreachable);

    let elsewhere = Upstreams::new().unwrap();
    let stranger = Issuer::start(&elsewhere).await.unwrap();
    world
        .aws
        .trust(provider(&[AUDIENCE], Some(stranger.keys().clone())));
    let error = world.error(REGISTRY, &good).await.error;
    assert_eq!(error.code, Code::IdentityTokenRejected, "{error}");

    let unknown = world.issuer.sign(&serde_json::json!({
        "iss": "https://unknown.example.test", "sub": subject, "aud": AUDIENCE, "exp": past + 3600,
    }));
    let unknown = IdentityToken {
        token: unknown.unwrap().into(),
        ..good
    };
    let error = world.error(REGISTRY, &unknown).await.error;
    assert_eq!(error.code, Code::IdentityProviderMissing);
    shows(&error, &["https://unknown.example.test"]);
}

#[tokio::test]
async fn a_role_without_the_right_to_ask_ecr_is_denied() {
    let world = World::usual().await;
    let role = world.role("production");
    world.aws.add_role(Role {
        authorizes: false,
        authorizes_public: false,
        ..role
    });
    let token = world.token(&service_account("production"));
    for host in [REGISTRY, PUBLIC] {
        let error = world.error(host, &token).await.error;
        assert_eq!(error.code, Code::EcrDenied);
        shows(
            &error,
            &["AccessDeniedException", "GetAuthorizationToken", host],
        );
    }
}

#[tokio::test]
async fn every_documented_answer_has_its_name() {
    use Code::*;
    let unreachable = "Couldn't retrieve verification key from your identity provider";
    let missing = "No OpenIDConnect provider found in your account for https://a.test";
    let sts = [
        (
            400,
            "ExpiredTokenException",
            "Token expired",
            IdentityTokenRejected,
        ),
        (
            400,
            "IDPCommunicationError",
            "",
            IdentityProviderUnreachable,
        ),
        (
            400,
            "InvalidIdentityToken",
            unreachable,
            IdentityProviderUnreachable,
        ),
        (
            400,
            "InvalidIdentityToken",
            missing,
            IdentityProviderMissing,
        ),
        (
            400,
            "InvalidIdentityToken",
            "Incorrect token audience",
            IdentityTokenRejected,
        ),
        (403, "IDPRejectedClaim", "", IdentityTokenRejected),
        (403, "AccessDenied", "Not authorized", AssumeRoleDenied),
        (
            403,
            "RegionDisabledException",
            "STS is not activated",
            RegionDisabled,
        ),
        (400, "MalformedPolicyDocument", "", ExchangeRejected),
        (400, "PackedPolicyTooLarge", "", ExchangeRejected),
        (400, "ValidationError", "role ARN", ExchangeRejected),
        (400, "Throttling", "Rate exceeded", ExchangeThrottled),
        (500, "InternalFailure", "", ExchangeUnreachable),
        (503, "ServiceUnavailable", "", ExchangeUnreachable),
    ];
    let ecr = [
        (400, "AccessDeniedException", "", EcrDenied),
        (400, "InvalidParameterException", "", ExchangeRejected),
        (400, "UnrecognizedClientException", "", ExchangeRejected),
        (400, "ExpiredTokenException", "", ExchangeRejected),
        (400, "InvalidSignatureException", "", ExchangeRejected),
        (400, "ThrottlingException", "", ExchangeThrottled),
        (400, "UnsupportedCommandException", "", ExchangeRejected),
        (500, "ServerException", "", ExchangeUnreachable),
    ];
    let world = World::usual().await;
    world.role("production");
    let token = world.token(&service_account("production"));
    let cases = sts.iter().map(|it| (Api::Sts, REGISTRY, it));
    let cases = cases.chain(ecr.iter().map(|it| (Api::Ecr, REGISTRY, it)));
    let cases = cases.chain(ecr.iter().map(|it| (Api::EcrPublic, PUBLIC, it)));
    for (api, host, (status, code, message, expected)) in cases {
        world.aws.fail(api, Fault::new(*status, code, message));
        let before = world.aws.count(|it| it.api == api);
        let error = world.error(host, &token).await.error;
        assert_eq!(error.code, *expected, "{api:?} {code}: {error}");
        shows(&error, &[code, message, host, &arn("production")]);
        let asked = world.aws.count(|it| it.api == api) - before;
        assert_eq!(asked, 1, "the refresh retries, nobody else");
        world.aws.heal(api);
    }
}

#[tokio::test]
async fn a_pause_is_kept_and_another_programs_page_is_no_answer() {
    let world = World::usual().await;
    world.role("production");
    let token = world.token(&service_account("production"));
    for api in [Api::Sts, Api::Ecr] {
        let page = |status, retry_after| Fault {
            status,
            code: None,
            message: "eyJhbGciOiJub25lIn0.secret".into(),
            retry_after,
        };
        for (status, pause, expected) in [
            (429, Some(17), Code::ExchangeThrottled),
            (503, Some(9), Code::ExchangeUnreachable),
            (502, None, Code::ExchangeUnreachable),
            (404, None, Code::ExchangeUnreadable),
            (403, None, Code::ExchangeUnreadable),
            (200, None, Code::ExchangeUnreadable),
        ] {
            world.aws.fail(api, page(status, pause));
            let failure = world.error(REGISTRY, &token).await;
            assert_eq!(
                failure.error.code, expected,
                "{api:?} {status}: {}",
                failure.error
            );
            assert_eq!(failure.retry_after, pause.map(Duration::from_secs));
            shows(&failure.error, &[REGISTRY]);
        }
        world.aws.heal(api);
    }
}

#[tokio::test]
async fn an_answer_without_a_password_is_told_apart_from_an_unreadable_one() {
    let world = World::usual().await;
    world.role("production");
    let token = world.token(&service_account("production"));
    for (body, expected) in [
        (r#"{"authorizationData": []}"#, Code::NoAuthorizationData),
        (r#"{}"#, Code::NoAuthorizationData),
        (
            r#"{"authorizationData": [{"expiresAt": 4e9}]}"#,
            Code::ExchangeUnreadable,
        ),
        (
            r#"{"authorizationData": [{"authorizationToken": "QVdTOng="}]}"#,
            Code::ExchangeUnreadable,
        ),
        (
            r#"{"authorizationData": [{"authorizationToken": "eDp4", "expiresAt": 4e9}]}"#,
            Code::ExchangeUnreadable,
        ),
    ] {
        let routes = axum::Router::new().fallback(move || async move { body });
        let _server = world.upstreams.serve(&[API], routes).await.unwrap();
        let error = world.error(REGISTRY, &token).await.error;
        assert_eq!(error.code, expected, "{body}: {error}");
    }
}

#[tokio::test]
async fn nobody_there_is_an_outage() {
    let world = World::new(&[STS]).await;
    world.role("production");
    let token = world.token(&service_account("production"));
    let error = world.error(REGISTRY, &token).await.error;
    assert_eq!(error.code, Code::ExchangeUnreachable);
    shows(&error, &[REGISTRY]);
}
