//! Google Artifact Registry: the agent's exchange against a stand-in of Google's token services, with the real registry
//! behind it.

use agent::docker_config::BasicCredential;
use agent::exchange::Trade;
use agent::identity::IdentityToken;
use agent::refresh::Failure;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use harness::cloud::Cloud;
use harness::gcp::{Gcp, IAM, Provider, REALM, STS, ServiceAccount};
use harness::peers;
use harness::upstreams::{Issuer, Upstreams};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret as _;
use serde_json::json;
use shared::binding::{CloudAccount, Exchange as Parameters, ExchangeKind};
use shared::errors::Code;

use crate::clouds::{
    Bench, HOUR, SUBJECTS, basic, carry_out, endpoints, prescribed, publish, pull, trade,
};

const HOST: &str = "europe-docker.pkg.dev";
const SERVICES: [&str; 2] = ["sts.googleapis.com", "iamcredentials.googleapis.com"];
const POOL: &str = "projects/123456789/locations/global/workloadIdentityPools/argocd";
const EMAIL: &str = "puller@acme.iam.gserviceaccount.com";

struct Scene {
    bench: Bench,
    gcp: Gcp,
}

impl Scene {
    /// A provider and an account for all subjects of these tests, at the registry `host`.
    async fn at(host: &str) -> Self {
        let world = Upstreams::new().unwrap();
        let binary = peers::registry().unwrap();
        let gcp = Gcp::start(&binary, world.folder(), host).await.unwrap();
        let users = SUBJECTS
            .map(|(_, subject)| format!("principal://iam.googleapis.com/{POOL}/subject/{subject}"));
        gcp.add_service_account(ServiceAccount {
            email: EMAIL.into(),
            users: users.into(),
            pull: vec!["acme/charts/".into()],
        });
        gcp.add_provider(usual_provider());
        let services = gcp.services();
        let bench = Bench::new(world, gcp.cloud(), services, (&SERVICES, host)).await;
        Self { bench, gcp }
    }

    async fn new() -> Self {
        Self::at(HOST).await
    }

    fn cloud(&self) -> &Cloud {
        self.gcp.cloud()
    }

    fn token(&self, subject: &str) -> IdentityToken {
        let issuer = &self.bench.issuer;
        issuer.token(subject, &audience(), HOUR).unwrap()
    }

    fn parameters(&self, email: &str, annotation: Option<String>) -> Parameters {
        Parameters {
            account: Some(CloudAccount::Gcp {
                service_account: email.into(),
                workload_identity_provider: annotation,
            }),
            ..Parameters::of(ExchangeKind::Gar)
        }
    }

    /// The usual trade.
    fn trade(&self) -> Trade {
        let parameters = self.parameters(EMAIL, Some(provider()));
        trade(parameters, &audience(), &self.bench.host)
    }

    async fn refusal(&self, token: IdentityToken) -> Failure {
        self.bench.refusal(self.trade(), token).await
    }
}

fn usual_provider() -> Provider {
    Provider {
        name: provider(),
        issuer: Issuer::url(),
        audiences: Vec::new(),
        condition: String::new(),
        disabled: false,
    }
}

fn provider() -> String {
    format!("{POOL}/providers/cluster")
}

/// What the webhook makes of the annotation.
fn audience() -> String {
    format!("https://iam.googleapis.com/{}", provider())
}

#[tokio::test]
async fn both_kinds_of_identities_pull_what_the_account_reads_and_nothing_else() {
    let scene = Scene::new().await;
    let Bench { world, host, .. } = &scene.bench;
    publish(scene.cloud(), "acme/charts");
    publish(scene.cloud(), "other/charts");
    for (kind, subject) in SUBJECTS {
        let upstream = world.upstream(&scene.bench.allowed()).unwrap();
        let asked = carry_out(&upstream, scene.trade(), kind, scene.token(subject)).await;
        let fresh = asked.unwrap();
        assert!(scene.gcp.ends().contains(&fresh.expires_at));
        let left = fresh.expires_at.duration_since(Timestamp::now());
        assert!(
            left > SignedDuration::from_secs(3500) && left <= SignedDuration::from_secs(3600),
            "{left:?}"
        );

        let login = basic(fresh);
        assert_eq!(login.username, "oauth2accesstoken");
        let outlet = upstream.outlet("argocd", ExchangeKind::Gar, host);
        let own = "acme/charts/demo";
        assert_eq!(pull(&outlet, host, own, &login).await, 200);
        assert_eq!(pull(&outlet, host, "other/charts/demo", &login).await, 401);
        let stranger = BasicCredential {
            secret: "ya29.c.wrong".into(),
            ..login
        };
        assert_eq!(pull(&outlet, host, own, &stranger).await, 401);
    }
    let each = [STS, IAM, REALM, REALM, REALM];
    assert_eq!(endpoints(scene.cloud()), [each, each].concat());
}

#[tokio::test]
async fn the_end_is_the_one_that_google_tells() {
    let scene = Scene::new().await;
    let (_, subject) = SUBJECTS[0];
    let answer =
        |expire_time: &str| json!({"accessToken": "ya29.c.short", "expireTime": expire_time});
    let told = "2100-01-02T03:04:05Z";
    let cloud = scene.cloud();
    cloud.prescribe(IAM, prescribed(200, &answer(told)));
    let (bench, token) = (&scene.bench, scene.token(subject));
    let asked = bench
        .ask(&bench.allowed(), scene.trade(), token.clone())
        .await;
    let (_, expires_at) = asked.unwrap();
    assert_eq!(expires_at.to_string(), told);
    let bodies = ["0001-01-01T00:00:00Z", "2020-01-01T00:00:00Z", ""].map(answer);
    let asked = (scene.trade(), token);
    bench.unreadable(cloud, IAM, asked, &bodies).await;
}

#[tokio::test]
async fn the_audience_names_the_provider_where_no_annotation_does() {
    let scene = Scene::new().await;
    let Bench { issuer, host, .. } = &scene.bench;
    for audience in [audience(), format!("//iam.googleapis.com/{}", provider())] {
        let token = issuer.token(SUBJECTS[0].1, &audience, HOUR).unwrap();
        let trade = trade(scene.parameters(EMAIL, None), &audience, host);
        let asked = scene.bench.ask(&scene.bench.allowed(), trade, token).await;
        asked.unwrap();
    }
}

#[tokio::test]
async fn a_token_service_of_its_own_is_asked_in_googles_place() {
    let scene = Scene::new().await;
    let bench = &scene.bench;
    let parameters = Parameters {
        token_url: Some("https://sts.example.test/v1/token".into()),
        ..scene.parameters(EMAIL, Some(provider()))
    };
    let body = json!({"error": "unsupported", "error_description": "another service"});
    let answer = (StatusCode::BAD_REQUEST, Json(body));
    let routes = Router::new().route("/v1/token", post(async || answer));
    let served = bench.world.serve(&["sts.example.test"], routes);
    let _server = served.await.unwrap();
    let ask = async |allowed: &str| {
        let trade = trade(parameters.clone(), &audience(), &bench.host);
        let asked = bench.ask(allowed, trade, scene.token(SUBJECTS[0].1)).await;
        asked.unwrap_err().error
    };
    let error = ask(&bench.allowed()).await;
    assert_eq!(error.code, Code::HostNotAllowed);
    assert!(error.detail.contains("sts.example.test"), "{error}");
    let listed = format!("{},sts.example.test;private", bench.allowed());
    let error = ask(&listed).await;
    assert_eq!(error.code, Code::ExchangeRejected);
    assert!(error.detail.contains("another service"), "{error}");
    assert!(endpoints(scene.cloud()).is_empty());
}

#[tokio::test]
async fn nothing_is_sent_for_a_registry_that_is_neither_googles_nor_listed() {
    let scene = Scene::at("registry.example.test").await;
    let ask = async |allowed: &str| {
        let token = scene.token(SUBJECTS[0].1);
        let asked = scene.bench.ask(allowed, scene.trade(), token).await;
        asked.map_err(|failure| failure.error.code)
    };
    let refused = ask(&scene.bench.services()).await;
    assert_eq!(refused.unwrap_err(), Code::HostNotAllowed);
    assert!(endpoints(scene.cloud()).is_empty());
    ask(&scene.bench.allowed()).await.unwrap();
    assert_eq!(endpoints(scene.cloud()), [STS, IAM]);
}

#[tokio::test]
async fn googles_own_hosts_need_no_list() {
    let scene = Scene::new().await;
    let token = scene.token(SUBJECTS[0].1);
    // They are on loopback here, which is the guard's reason, and the only one.
    let asked = scene.bench.ask("", scene.trade(), token).await;
    let error = asked.unwrap_err().error;
    assert_eq!(error.code, Code::AddressRefused, "{error}");
}

#[tokio::test]
async fn what_the_token_service_says_has_a_name() {
    let scene = Scene::new().await;
    let (_, subject) = SUBJECTS[1];
    let check = async |token: IdentityToken, code: Code, words: &str| {
        let error = scene.refusal(token).await.error;
        assert_eq!(error.code, code, "{error}");
        assert!(error.detail.contains(words), "{error}");
        assert!(
            error.detail.contains(HOST) && error.detail.contains(EMAIL),
            "{error}"
        );
    };

    let long = format!(
        "spiffe://example.org/ns/argocd/sa/argocd-project-{}",
        "x".repeat(80)
    );
    check(scene.token(&long), Code::SubjectTooLong, "127 bytes").await;

    let elsewhere = scene
        .bench
        .issuer
        .token(subject, "elsewhere", HOUR)
        .unwrap();
    check(
        elsewhere,
        Code::PoolRejected,
        "does not match the expected audience",
    )
    .await;

    let expired = scene.bench.expired(subject, &audience());
    check(expired, Code::IdentityTokenRejected, "is stale to sign-in").await;

    let stranger = Issuer::start(&Upstreams::new().unwrap()).await.unwrap();
    let forged = stranger.token(subject, &audience(), HOUR).unwrap();
    check(forged, Code::IdentityTokenRejected, "Signature").await;

    let with = |change: fn(&mut Provider)| {
        let mut provider = usual_provider();
        change(&mut provider);
        scene.gcp.add_provider(provider);
        scene.token(subject)
    };
    let token = with(|it| it.condition = "spiffe://other.org/".into());
    check(token, Code::PoolRejected, "attribute condition").await;
    let token = with(|it| it.issuer = "https://other.example.test".into());
    check(token, Code::PoolRejected, "The issuer in ID Token").await;
    let token = with(|it| it.disabled = true);
    check(token, Code::PoolRejected, "invalid_target").await;

    let token = with(|_| {});
    scene.cloud().add_issuer(&Issuer::url(), None);
    check(token, Code::IdentityProviderUnreachable, "Error connecting").await;
    assert!(
        endpoints(scene.cloud())
            .iter()
            .all(|endpoint| *endpoint == STS)
    );
}

#[tokio::test]
async fn whoever_may_not_impersonate_is_told_so() {
    let scene = Scene::new().await;
    let account = |users: Vec<String>, email: &str| {
        scene.gcp.add_service_account(ServiceAccount {
            email: email.into(),
            users,
            pull: Vec::new(),
        });
    };
    account(Vec::new(), EMAIL);
    let error = scene.refusal(scene.token(SUBJECTS[0].1)).await.error;
    assert_eq!(error.code, Code::ImpersonationDenied);
    assert!(
        error.detail.contains("iam.serviceAccounts.getAccessToken"),
        "{error}"
    );

    let nobody = "nobody@acme.iam.gserviceaccount.com";
    let parameters = scene.parameters(nobody, Some(provider()));
    let trade = trade(parameters, &audience(), &scene.bench.host);
    let token = scene.token(SUBJECTS[0].1);
    let error = scene.bench.refusal(trade, token).await.error;
    assert_eq!(error.code, Code::ImpersonationDenied);
    assert!(error.detail.contains("NOT_FOUND"), "{error}");
}

#[tokio::test]
async fn outages_are_told_apart_and_pauses_are_kept() {
    for endpoint in [STS, IAM] {
        let scene = Scene::new().await;
        let (bench, cloud) = (&scene.bench, scene.cloud());
        let asked = || (scene.trade(), scene.token(SUBJECTS[0].1));
        bench.outages(cloud, endpoint, asked()).await;
        let bodies = [json!("<html>"), json!({})];
        bench.unreadable(cloud, endpoint, asked(), &bodies).await;
    }
}

#[tokio::test]
async fn a_token_that_google_repeats_is_not_told() {
    let scene = Scene::new().await;
    let token = scene.token(SUBJECTS[0].1);
    let repeated = format!("Invalid token {}", token.token.expose_secret());
    let body = json!({"error": "invalid_grant", "error_description": repeated});
    scene.cloud().prescribe(STS, prescribed(400, &body));
    let failure = scene.refusal(token).await;
    assert!(
        failure.error.detail.contains("[redacted]"),
        "{}",
        failure.error
    );
}
