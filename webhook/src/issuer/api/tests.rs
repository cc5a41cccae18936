use axum::{
    body::{self, Body},
    extract::ConnectInfo,
    http::{Method, Request as HttpRequest},
};
use std::net::SocketAddr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use control_plane_core::{
    identity::{algorithm::Algorithm, authorize::Policy},
    settings::IssuerUrl,
};
use jiff::Timestamp;
use jsonwebtoken::{DecodingKey, Validation, decode};
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use serde_json::{Value, json};
use tower::Service;

use super::*;
use crate::{
    args::{Args, Command},
    config::Config,
    issuer::{
        documents,
        fake::Cluster,
        issue::Signer,
        keys::{Keyring, SigningKey},
        metrics::Metrics,
        reviewer::Reviewer,
        token_request::Minter,
    },
    source::tests::{derivation, quay, secret},
};

mod batch;
mod service_accounts;
mod strangers;

const ISSUER: &str = "https://identity.example.org/argocd";
const AGENT: &str = "agent-token-do-not-log";
const POD: &str = "pod-token-do-not-log";

fn issuer() -> IssuerUrl {
    use clap::Parser;
    let url = format!("--issuer-url={ISSUER}");
    let cli = Args::try_parse_from([
        "argocd-identity",
        "serve",
        "--trust-domain=example.org",
        &url,
    ]);
    let Command::Serve(args) = cli.unwrap().command else {
        panic!("not serve");
    };
    Config::try_from(*args).unwrap().issuer_url.unwrap()
}

fn review(username: &str, pod: &str, node_uid: &str) -> TokenReviewStatus {
    serde_json::from_value(json!({
        "authenticated": true,
        "audiences": ["argocd-identity"],
        "user": {
            "username": format!("system:serviceaccount:{username}"),
            "extra": {
                "authentication.kubernetes.io/pod-name": [pod],
                "authentication.kubernetes.io/pod-uid": [format!("uid-{pod}")],
                "authentication.kubernetes.io/node-name": ["node"],
                "authentication.kubernetes.io/node-uid": [node_uid],
            },
        },
    }))
    .unwrap()
}

/// A cluster with an agent, a repo-server and a repository, and the API.
struct Bench {
    cluster: Cluster,
    keyring: Keyring,
    router: Router,
}

impl Bench {
    fn new() -> Self {
        let cluster = Cluster::default();
        cluster.put_token(
            AGENT,
            review("argocd-identity:argocd-identity-agent", "agent", "n1"),
        );
        cluster.put_token(POD, review("argocd:argocd-repo-server", "repo", "n1"));
        let pod = json!({"metadata": {"uid": "uid-repo"}, "status": {"phase": "Running"}});
        cluster.put_pod("argocd", "repo", pod);
        cluster.put_secret(quay("quay"));
        let keyring = Keyring::new(
            SigningKey::generate(Algorithm::Rs256).unwrap().0,
            Duration::from_secs(600),
        );
        let reviewer = Reviewer::new(cluster.client(), derivation());
        let router = router(IdentityApi {
            policy: Policy {
                namespace: "argocd-identity".into(),
                agent_service_account: "argocd-identity-agent".into(),
                argocd_namespaces: vec!["argocd".into()],
            },
            minter: Minter::new(cluster.client(), reviewer.clone()),
            reviewer,
            signer: Some(Signer {
                issuer: issuer(),
                keyring: keyring.clone(),
            }),
            lifetime: Duration::from_secs(600),
            metrics: Metrics::default(),
        });
        Self {
            cluster,
            keyring,
            router,
        }
    }

    async fn call(&mut self, request: HttpRequest<Body>) -> (StatusCode, Value) {
        let response = Service::call(&mut self.router, request).await.unwrap();
        let status = response.status();
        let body = body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(!text.contains("do-not-log"), "{text}");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// As [`Bench::ask`], with an answer that may have a token in it.
    async fn ask_raw(&mut self, binding: &str) -> (StatusCode, Value) {
        let body = json!({"namespace": "argocd", "binding": binding, "podToken": POD});
        let response = Service::call(&mut self.router, post(body.to_string()));
        let response = response.await.unwrap();
        let status = response.status();
        let body = body::to_bytes(response.into_body(), usize::MAX).await;
        (status, serde_json::from_slice(&body.unwrap()).unwrap())
    }

    async fn ask(
        &mut self,
        namespace: &str,
        binding: &str,
        pod_token: &str,
    ) -> (StatusCode, Value) {
        let body = json!({"namespace": namespace, "binding": binding, "podToken": pod_token});
        self.call(post(body.to_string())).await
    }

    #[track_caller]
    fn assert_refused(answer: &(StatusCode, Value), status: u16, code: Code) {
        assert_eq!(answer.1["code"], code.as_str(), "{answer:?}");
        assert_eq!(answer.0.as_u16(), status, "{answer:?}");
        assert!(
            answer.1["message"]
                .as_str()
                .unwrap()
                .contains(code.remedy())
        );
    }
}

fn post(body: impl Into<Body>) -> HttpRequest<Body> {
    HttpRequest::builder()
        .method(Method::POST)
        .uri(PATH)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {AGENT}"))
        .body(body.into())
        .unwrap()
}

#[tokio::test]
async fn the_token_is_the_bindings_identity() {
    let mut bench = Bench::new();
    let before = Timestamp::now().as_second();
    let (status, answer) = bench.ask("argocd", "quay", POD).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        answer["subject"],
        "spiffe://example.org/ns/argocd/sa/argocd-global"
    );
    assert_eq!(answer["audience"], "quay.example.org");

    let key_set = serde_json::to_string(&documents::key_set(bench.keyring.public())).unwrap();
    let key_set: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&key_set).unwrap();
    let mut validation = Validation::new(jsonwebtoken::Algorithm::RS256);
    validation.set_audience(&["quay.example.org"]);
    validation.set_issuer(&[ISSUER]);
    validation.validate_nbf = true;
    let key = DecodingKey::from_jwk(&key_set.keys[0]).unwrap();
    let token = answer["token"].as_str().unwrap();
    let claims = decode::<Value>(token, &key, &validation).unwrap().claims;
    assert_eq!(claims["sub"], answer["subject"]);
    assert_eq!(claims["aud"], json!(["quay.example.org"]));
    let (issued, expires) = (
        claims["iat"].as_i64().unwrap(),
        claims["exp"].as_i64().unwrap(),
    );
    assert!(issued >= before && expires == issued + 600);
    assert_eq!(claims["nbf"], claims["iat"]);
    let expires_at: Timestamp = answer["expiresAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires_at.as_second(), expires);

    let (_, again) = bench.ask("argocd", "quay", POD).await;
    let again = decode::<Value>(again["token"].as_str().unwrap(), &key, &validation).unwrap();
    assert_ne!(again.claims["jti"], claims["jti"]);
    // A hand-made CredentialBinding has no say: it is never read.
    assert!(
        !bench
            .cluster
            .calls()
            .iter()
            .any(|call| call.contains("credentialbindings"))
    );
}

#[tokio::test]
async fn the_log_tells_which_tokens_were_issued_here() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json();
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    // With one dispatcher alone, the first thread that comes to an event decides
    // whether anybody wants it, and that may be another test's.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut bench = Bench::new();
    let (_, answer) = bench.ask("argocd", "quay", POD).await;

    let token = answer["token"].as_str().unwrap();
    let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let claims = URL_SAFE_NO_PAD
        .decode(token.split('.').nth(1).unwrap())
        .unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = log.lines().find(|line| line.contains("issued an identity"));
    let line: Value = serde_json::from_str(line.unwrap()).unwrap();
    assert_eq!(line["fields"]["jti"], claims["jti"], "{line}");
    assert_eq!(line["fields"]["kid"], kid, "{line}");
    assert!(!log.contains("do-not-log") && !log.contains(token), "{log}");
}

/// What a test has logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_refusal_has_its_status() {
    let mut bench = Bench::new();
    let cluster = bench.cluster.clone();
    cluster.put_token(
        "elsewhere",
        review("argocd:argocd-repo-server", "repo", "n2"),
    );
    cluster.put_token("server", review("argocd:argocd-server", "repo", "n1"));
    cluster.put_token("stale", review("argocd:argocd-repo-server", "gone", "n1"));
    cluster.put_secret(secret(
        "repository",
        "plain",
        &[("url", "https://a.example.org/x")],
    ));
    cluster.put_secret(secret(
        "cluster",
        "broken",
        &[("useWorkloadIdentity", "true")],
    ));
    for (namespace, binding, token, status, code) in [
        ("argocd", "quay", "unknown", 403, Code::PodTokenRejected),
        ("argocd", "quay", "elsewhere", 403, Code::NodeMismatch),
        ("argocd", "quay", "server", 403, Code::NotAConsumer),
        ("argocd", "quay", "stale", 409, Code::PodNotRunning),
        ("argocd", "absent", POD, 404, Code::BindingNotFound),
        ("argocd", "plain", POD, 404, Code::BindingNotFound),
        ("argocd", "broken", POD, 409, Code::InvalidUrl),
        ("kube-system", "quay", POD, 404, Code::BindingNotFound),
        ("argocd", "../secrets/quay", POD, 400, Code::BadRequest),
        ("argocd", "", POD, 400, Code::BadRequest),
    ] {
        let answer = bench.ask(namespace, binding, token).await;
        Bench::assert_refused(&answer, status, code);
    }
    cluster.put_token(AGENT, review("argocd:argocd-repo-server", "repo", "n1"));
    Bench::assert_refused(
        &bench.ask("argocd", "quay", POD).await,
        403,
        Code::AgentNotAuthorized,
    );
    cluster.put_token(AGENT, TokenReviewStatus::default());
    Bench::assert_refused(
        &bench.ask("argocd", "quay", POD).await,
        401,
        Code::AgentTokenRejected,
    );
    cluster.down();
    Bench::assert_refused(
        &bench.ask("argocd", "quay", POD).await,
        503,
        Code::IssuerUnavailable,
    );
}

#[tokio::test]
async fn nothing_is_read_for_a_caller_that_is_no_agent() {
    let mut bench = Bench::new();
    bench.cluster.put_token(AGENT, TokenReviewStatus::default());
    bench.ask("argocd", "quay", POD).await;
    let calls = bench.cluster.calls();
    assert_eq!(calls, ["POST /apis/authentication.k8s.io/v1/tokenreviews"]);
}

#[tokio::test]
async fn broken_requests_are_refused_without_repeating_them() {
    let mut bench = Bench::new();
    let valid = json!({"namespace": "argocd", "binding": "quay", "podToken": POD}).to_string();
    let big = format!("{valid}{}", " ".repeat(BODY_LIMIT));
    let extra = json!({"namespace": "argocd", "binding": "quay", "podToken": POD, "do-not-log": 1});
    for body in [
        "",
        "{",
        "null",
        "[]",
        r#"{"namespace":"do-not-log"}"#,
        &big,
        &extra.to_string(),
    ] {
        let answer = bench.call(post(body.to_owned())).await;
        Bench::assert_refused(&answer, 400, Code::BadRequest);
    }
    let mut request = post(valid.clone());
    request.headers_mut().remove(header::CONTENT_TYPE);
    Bench::assert_refused(&bench.call(request).await, 400, Code::BadRequest);
    for value in ["", "Bearer", "Bearer ", "Basic YTpi", AGENT] {
        let mut request = post(valid.clone());
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, value.parse().unwrap());
        Bench::assert_refused(&bench.call(request).await, 401, Code::AgentTokenRejected);
    }
    let mut request = post(valid);
    request.headers_mut().remove(header::AUTHORIZATION);
    Bench::assert_refused(&bench.call(request).await, 401, Code::AgentTokenRejected);
    assert!(bench.cluster.calls().is_empty());
}

#[tokio::test]
async fn the_documents_are_served_with_and_without_the_issuers_path() {
    let bench = Bench::new();
    let mut router = documents::router(issuer(), bench.keyring.clone());
    for prefix in ["", "/argocd"] {
        for (path, field) in [
            (documents::DISCOVERY_PATH, "issuer"),
            (documents::KEYS_PATH, "keys"),
        ] {
            let request = HttpRequest::builder()
                .uri(format!("{prefix}{path}"))
                .body(Body::empty())
                .unwrap();
            let response = Service::call(&mut router, request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{prefix}{path}");
            let body = body::to_bytes(response.into_body(), usize::MAX)
                .await
                .unwrap();
            let document: Value = serde_json::from_slice(&body).unwrap();
            assert!(document[field].is_string() || document[field].is_array());
        }
    }
    let discovery = serde_json::to_value(documents::discovery(&issuer())).unwrap();
    assert_eq!(
        discovery,
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("{ISSUER}/keys"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    );
    let both = [Algorithm::Es256, Algorithm::Rs256].map(|algorithm| {
        let (key, _) = SigningKey::generate(algorithm).unwrap();
        key.public().clone()
    });
    let discovery = documents::discovery(&issuer()).with_keys(&both);
    let discovery = serde_json::to_value(discovery).unwrap();
    let algorithms = &discovery["id_token_signing_alg_values_supported"];
    assert_eq!(*algorithms, json!(["RS256", "ES256"]));
}
