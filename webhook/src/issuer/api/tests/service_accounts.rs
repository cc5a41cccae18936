//! Tokens of service accounts, by an API server that says what a test has it say.

use control_plane_core::derive::account;

use super::*;
use crate::issuer::fake::refusal;

const SUBJECT: &str = "system:serviceaccount:argocd:argocd-global";
const AUDIENCE: &str = "quay.example.org";

/// A token with these claims that nobody signed.
pub(super) fn token(subject: &str, audience: Value, expires: i64) -> String {
    let claims = json!({"sub": subject, "aud": audience, "exp": expires});
    let part = URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("e30.{part}.minted-do-not-log")
}

fn good() -> String {
    token(SUBJECT, json!([AUDIENCE]), 2_000_000_000)
}

fn reviewed(username: &str, audience: &str) -> TokenReviewStatus {
    serde_json::from_value(json!({
        "authenticated": true, "audiences": [audience], "user": {"username": username},
    }))
    .unwrap()
}

/// As [`Bench`], with a Secret whose credential is a token of
/// argocd-global, which exists.
fn bench() -> Bench {
    let bench = Bench::new();
    let mut secret = quay("minted");
    let kind = k8s_openapi::ByteString(b"ServiceAccountToken".to_vec());
    let data = secret.data.as_mut().unwrap();
    data.insert("workloadIdentityCredential".into(), kind);
    bench.cluster.put_secret(secret);
    bench
        .cluster
        .put_account("argocd", "argocd-global", json!({}));
    bench.cluster.make(Ok(&good()));
    bench
        .cluster
        .put_review(&good(), Some(AUDIENCE), reviewed(SUBJECT, AUDIENCE));
    bench
}

#[tokio::test]
async fn the_api_server_makes_the_token_and_the_secret_ends_it() {
    let mut bench = bench();
    let (status, answer) = bench.ask_raw("minted").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["token"], good());
    assert_eq!(answer["subject"], SUBJECT);
    assert_eq!(answer["audience"], AUDIENCE);
    let expires: Timestamp = answer["expiresAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires.as_second(), 2_000_000_000);
    assert_eq!(
        bench.cluster.asked().unwrap(),
        json!({
            "audiences": [AUDIENCE],
            "expirationSeconds": 600,
            "boundObjectRef": {
                "apiVersion": "v1", "kind": "Secret", "name": "minted", "uid": "uid-minted",
            },
        })
    );
}

#[tokio::test]
async fn a_caller_without_a_right_to_it_has_nothing_made() {
    let mut bench = bench();
    let server = review("argocd:argocd-server", "repo", "n1");
    bench.cluster.put_token("server", server);
    let answer = bench.ask("argocd", "minted", "server").await;
    Bench::assert_refused(&answer, 403, Code::NotAConsumer);
    let answer = bench.ask("argocd", "minted", "unknown").await;
    Bench::assert_refused(&answer, 403, Code::PodTokenRejected);
    assert_eq!(bench.cluster.asked(), None);
}

#[tokio::test]
async fn a_missing_account_is_named_before_anything_is_asked_for() {
    let mut bench = bench();
    let mut of_project = quay("of-project");
    let data = of_project.data.as_mut().unwrap();
    for (key, value) in [
        ("project", "prod"),
        ("workloadIdentityCredential", "ServiceAccountToken"),
    ] {
        data.insert(
            key.into(),
            k8s_openapi::ByteString(value.as_bytes().to_vec()),
        );
    }
    bench.cluster.put_secret(of_project);
    let answer = bench.ask("argocd", "of-project", POD).await;
    Bench::assert_refused(&answer, 404, Code::ServiceAccountMissing);
    let message = answer.1["message"].as_str().unwrap();
    assert!(message.contains("argocd/argocd-project-prod"), "{message}");
    assert_eq!(bench.cluster.asked(), None);
}

#[tokio::test]
async fn what_the_api_server_takes_itself_is_not_handed_out() {
    let mut bench = bench();
    bench
        .cluster
        .put_review(&good(), None, reviewed(SUBJECT, AUDIENCE));
    let answer = bench.ask("argocd", "minted", POD).await;
    Bench::assert_refused(&answer, 409, Code::AudienceForbidden);
    // Once known, it is not even asked for.
    let requests = |bench: &Bench| {
        let calls = bench.cluster.calls();
        calls.iter().filter(|call| call.ends_with("/token")).count()
    };
    assert_eq!(requests(&bench), 1);
    let answer = bench.ask("argocd", "minted", POD).await;
    Bench::assert_refused(&answer, 409, Code::AudienceForbidden);
    assert_eq!(requests(&bench), 1);
}

#[tokio::test]
async fn a_usual_audience_of_api_servers_is_never_asked_for() {
    let mut bench = bench();
    let mut secret = bench.cluster.secret("argocd", "minted").unwrap();
    let usual = k8s_openapi::ByteString(b"https://kubernetes.default.svc".to_vec());
    let data = secret.data.as_mut().unwrap();
    data.insert("workloadIdentityAudience".into(), usual);
    bench.cluster.put_secret(secret);
    let answer = bench.ask("argocd", "minted", POD).await;
    Bench::assert_refused(&answer, 409, Code::AudienceForbidden);
    assert_eq!(bench.cluster.asked(), None);
}

#[tokio::test]
async fn another_token_than_was_asked_for_is_not_handed_out() {
    let mut bench = bench();
    let good_review = || reviewed(SUBJECT, AUDIENCE);
    let other = "system:serviceaccount:argocd:argocd-server";
    for (made, review, code) in [
        (
            token(other, json!([AUDIENCE]), 2_000_000_000),
            good_review(),
            Code::IdentityMismatch,
        ),
        (
            token(SUBJECT, json!([AUDIENCE, "more"]), 2_000_000_000),
            good_review(),
            Code::IdentityMismatch,
        ),
        (
            token(SUBJECT, json!([AUDIENCE]), i64::MAX),
            good_review(),
            Code::IdentityMismatch,
        ),
        (
            "minted-do-not-log".to_owned(),
            good_review(),
            Code::IdentityMismatch,
        ),
        (good(), reviewed(other, AUDIENCE), Code::IdentityMismatch),
        (
            good(),
            reviewed(SUBJECT, "another"),
            Code::TokenRequestRefused,
        ),
        (
            good(),
            TokenReviewStatus::default(),
            Code::TokenRequestRefused,
        ),
    ] {
        bench.cluster.make(Ok(&made));
        bench.cluster.put_review(&made, Some(AUDIENCE), review);
        let answer = bench.ask("argocd", "minted", POD).await;
        Bench::assert_refused(&answer, 409, code);
    }
}

#[tokio::test]
async fn the_api_servers_refusals_have_their_codes() {
    let mut bench = bench();
    let words = format!("denied by a policy{}", " and more words".repeat(100));
    let secret = json!({"kind": "secrets", "name": "minted"});
    let account = json!({"kind": "serviceaccounts", "name": "argocd-global"});
    for (code, details, status, expected) in [
        (403, Value::Null, 409, Code::TokenRequestRefused),
        (422, Value::Null, 409, Code::TokenRequestRefused),
        (409, Value::Null, 409, Code::TokenRequestRefused),
        (404, account, 404, Code::ServiceAccountMissing),
        (404, secret, 404, Code::BindingNotFound),
        (503, Value::Null, 503, Code::IssuerUnavailable),
    ] {
        let refused = refusal(code, &words, details);
        bench.cluster.make(Err((code, refused)));
        let answer = bench.ask("argocd", "minted", POD).await;
        Bench::assert_refused(&answer, status, expected);
        let message = answer.1["message"].as_str().unwrap();
        let is_shown = message.contains("denied by a policy");
        assert_eq!(is_shown, expected == Code::TokenRequestRefused, "{message}");
        assert!(message.len() < 900, "{message}");
    }
}

#[tokio::test]
async fn a_cloud_account_that_is_not_named_is_refused_like_a_missing_one() {
    let cluster = Cluster::default();
    let aws = secret(
        "repository",
        "ecr",
        &[
            ("type", "helm"),
            (
                "url",
                "oci://123456789012.dkr.ecr.eu-west-1.amazonaws.com/c",
            ),
            ("workloadIdentityProvider", "aws"),
        ],
    );
    cluster.put_secret(aws);
    let reviewer = Reviewer::new(cluster.client(), derivation());
    let lacks = async || reviewer.binding("argocd", "ecr").await.unwrap().lacks;
    let missing = lacks().await.unwrap();
    assert_eq!(missing.code, Code::ServiceAccountMissing);
    cluster.put_account("argocd", "argocd-global", json!({}));
    let lacking = lacks().await.unwrap();
    assert_eq!(lacking.code, Code::ServiceAccountAnnotationMissing);
    let annotations = json!({account::ROLE_ARN: "arn:aws:iam::123456789012:role/argocd"});
    cluster.put_account("argocd", "argocd-global", annotations);
    assert_eq!(lacks().await, None);
}
