//! Google Artifact Registry: the agent's exchange against a stand-in of Google's token services, with the real registry
//! behind it.

use std::time::Duration;

use agent::exchange::Trade;
use agent::exchange::http::Outlet;
use agent::identity::IdentityToken;
use agent::refresh::Failure;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use harness::gcp::{Gcp, IAM, Provider, REALM, STS, ServiceAccount};
use harness::peers;
use harness::upstreams::{Issuer, Upstreams};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret as _;
use serde_json::json;
use shared::binding::{CloudAccount, CredentialKind, Exchange as Parameters, ExchangeKind};
use shared::docker_config::BasicCredential;
use shared::errors::Code;
use shared::registry::RegistryHost;

use crate::clouds::{SUBJECTS, assert_without, basic, carry_out, prescribed, pull, trade};

const HOST: &str = "europe-docker.pkg.dev";
const SERVICES: &str = "sts.googleapis.com;private,iamcredentials.googleapis.com;private";
const POOL: &str = "projects/123456789/locations/global/workloadIdentityPools/argocd";
const EMAIL: &str = "puller@acme.iam.gserviceaccount.com";
const HOUR: Duration = Duration::from_secs(3600);

struct Scene {
    world: Upstreams,
    issuer: Issuer,
    gcp: Gcp,
    host: RegistryHost,
}

/// What differs between exchanges.
struct Asked<'a> {
    annotation: Option<&'a str>,
    /// The audience of identity and token.
    audience: &'a str,
    allowed: &'a str,
    token: IdentityToken,
}

impl Scene {
    /// A provider and an account for all subjects of these tests, at the registry `host`.
    async fn at(host: &str) -> Self {
        let world = Upstreams::new().unwrap();
        let issuer = Issuer::start(&world).await.unwrap();
        let binary = peers::registry().unwrap();
        let gcp = Gcp::start(&world, &binary, host).await.unwrap();
        gcp.add_issuer(&Issuer::url(), Some(issuer.keys()));
        let users = SUBJECTS
            .map(|(_, subject)| format!("principal://iam.googleapis.com/{POOL}/subject/{subject}"));
        gcp.add_service_account(ServiceAccount {
            email: EMAIL.into(),
            users: users.into(),
            pull: vec!["acme/charts/".into()],
        });
        let scene = Self {
            world,
            issuer,
            gcp,
            host: RegistryHost::parse(host).unwrap(),
        };
        scene.gcp.add_provider(scene.provider());
        scene
    }

    async fn new() -> Self {
        Self::at(HOST).await
    }

    fn provider(&self) -> Provider {
        Provider {
            name: provider(),
            issuer: Issuer::url(),
            audiences: Vec::new(),
            condition: String::new(),
            disabled: false,
        }
    }

    fn allowed(&self) -> String {
        format!("{SERVICES},{};private", self.host)
    }

    fn outlet(&self) -> Outlet {
        let allowed = self.allowed();
        self.world
            .outlet(ExchangeKind::Gar, self.host.as_str(), &allowed)
            .unwrap()
    }

    fn token(&self, subject: &str) -> IdentityToken {
        let audience = audience();
        self.issuer.token(subject, &audience, HOUR).unwrap()
    }

    fn trade(&self, annotation: Option<&str>, audience: &str) -> Trade {
        let parameters = Parameters {
            account: Some(CloudAccount::Gcp {
                service_account: EMAIL.into(),
                workload_identity_provider: annotation.map(str::to_owned),
            }),
            ..Parameters::of(ExchangeKind::Gar)
        };
        trade(parameters, audience, &self.host)
    }

    async fn ask(&self, asked: Asked<'_>) -> Result<(BasicCredential, Timestamp), Failure> {
        let upstream = self.world.upstream(asked.allowed).unwrap();
        let trade = self.trade(asked.annotation, asked.audience);
        let (kind, _) = SUBJECTS[0];
        let fresh = carry_out(&upstream, trade, kind, asked.token).await?;
        let expires_at = fresh.expires_at;
        Ok((basic(fresh), expires_at))
    }

    /// The usual exchange with this token.
    async fn with(&self, token: IdentityToken) -> Result<(BasicCredential, Timestamp), Failure> {
        self.ask(Asked {
            annotation: Some(&provider()),
            audience: &audience(),
            allowed: &self.allowed(),
            token,
        })
        .await
    }

    async fn refusal(&self, token: IdentityToken) -> Failure {
        let shown = token.clone();
        let failure = self.with(token).await.unwrap_err();
        assert_without(&shown, &failure.error.to_string());
        assert!(!failure.error.detail.contains("ya29"), "{}", failure.error);
        failure
    }

    fn endpoints(&self) -> Vec<&'static str> {
        let requests = self.gcp.requests();
        requests.iter().map(|request| request.endpoint).collect()
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
    scene
        .gcp
        .publish("acme/charts/demo", "1.0.0")
        .await
        .unwrap();
    scene
        .gcp
        .publish("other/charts/demo", "1.0.0")
        .await
        .unwrap();
    for (kind, subject) in SUBJECTS {
        let upstream = scene.world.upstream(&scene.allowed()).unwrap();
        let trade = scene.trade(Some(&provider()), &audience());
        let fresh = carry_out(&upstream, trade, kind, scene.token(subject))
            .await
            .unwrap();
        assert!(scene.gcp.ends().contains(&fresh.expires_at));
        let left = fresh.expires_at.duration_since(Timestamp::now());
        assert!(
            left > SignedDuration::from_secs(3500) && left <= SignedDuration::from_secs(3600),
            "{left:?}"
        );

        let login = basic(fresh);
        assert_eq!(login.username, "oauth2accesstoken");
        let outlet = scene.outlet();
        assert_eq!(
            pull(&outlet, &scene.host, "acme/charts/demo", &login).await,
            200
        );
        assert_eq!(
            pull(&outlet, &scene.host, "other/charts/demo", &login).await,
            401
        );
        let stranger = BasicCredential {
            secret: "ya29.c.wrong".into(),
            ..login
        };
        assert_eq!(
            pull(&outlet, &scene.host, "acme/charts/demo", &stranger).await,
            401
        );
    }
    let each = [STS, IAM, REALM, REALM, REALM];
    assert_eq!(scene.endpoints(), [each, each].concat());
}

#[tokio::test]
async fn the_end_is_the_one_that_google_tells() {
    let scene = Scene::new().await;
    let (_, subject) = SUBJECTS[0];
    let end = |expire_time: &str| {
        let body = json!({"accessToken": "ya29.c.short", "expireTime": expire_time});
        scene.gcp.prescribe(IAM, prescribed(200, &body));
    };
    let told = "2100-01-02T03:04:05Z";
    end(told);
    let (_, expires_at) = scene.with(scene.token(subject)).await.unwrap();
    assert_eq!(expires_at.to_string(), told);
    for expire_time in ["0001-01-01T00:00:00Z", "2020-01-01T00:00:00Z", ""] {
        end(expire_time);
        let failure = scene.refusal(scene.token(subject)).await;
        assert_eq!(
            failure.error.code,
            Code::ExchangeUnreadable,
            "{expire_time}"
        );
    }
}

#[tokio::test]
async fn the_audience_names_the_provider_where_no_annotation_does() {
    let scene = Scene::new().await;
    let (_, subject) = SUBJECTS[0];
    for audience in [audience(), format!("//iam.googleapis.com/{}", provider())] {
        let token = scene.issuer.token(subject, &audience, HOUR).unwrap();
        let asked = Asked {
            annotation: None,
            audience: &audience,
            allowed: &scene.allowed(),
            token,
        };
        scene.ask(asked).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_service_of_its_own_is_asked_in_googles_place() {
    let scene = Scene::new().await;
    let (kind, subject) = SUBJECTS[0];
    let parameters = Parameters {
        account: Some(CloudAccount::Gcp {
            service_account: EMAIL.into(),
            workload_identity_provider: Some(provider()),
        }),
        token_url: Some("https://sts.example.test/v1/token".into()),
        ..Parameters::of(ExchangeKind::Gar)
    };
    let body = json!({"error": "unsupported", "error_description": "another service"});
    let answer = (StatusCode::BAD_REQUEST, Json(body));
    let routes = Router::new().route("/v1/token", post(async || answer));
    let _server = scene
        .world
        .serve(&["sts.example.test"], routes)
        .await
        .unwrap();
    let ask = async |allowed: &str| {
        let trade = trade(parameters.clone(), &audience(), &scene.host);
        let upstream = scene.world.upstream(allowed).unwrap();
        let asked = carry_out(&upstream, trade, kind, scene.token(subject)).await;
        asked.unwrap_err().error
    };
    let error = ask(&scene.allowed()).await;
    assert_eq!(error.code, Code::HostNotAllowed);
    assert!(error.detail.contains("sts.example.test"), "{error}");
    let listed = format!("{},sts.example.test;private", scene.allowed());
    let error = ask(&listed).await;
    assert_eq!(error.code, Code::ExchangeRejected);
    assert!(error.detail.contains("another service"), "{error}");
    assert!(scene.endpoints().is_empty());
}

#[tokio::test]
async fn nothing_is_sent_for_a_registry_that_is_neither_googles_nor_listed() {
    let foreign = "registry.example.test";
    let scene = Scene::at(foreign).await;
    let ask = async |allowed: &str| {
        let token = scene.token(SUBJECTS[0].1);
        let provider = provider();
        let audience = audience();
        let asked = Asked {
            annotation: Some(&provider),
            audience: &audience,
            allowed,
            token,
        };
        scene.ask(asked).await.map_err(|failure| failure.error.code)
    };
    assert_eq!(ask(SERVICES).await.unwrap_err(), Code::HostNotAllowed);
    assert!(scene.endpoints().is_empty());
    ask(&scene.allowed()).await.unwrap();
    assert_eq!(scene.endpoints(), [STS, IAM]);
}

#[tokio::test]
async fn googles_own_hosts_need_no_list() {
    let scene = Scene::new().await;
    let provider = provider();
    let audience = audience();
    let asked = Asked {
        annotation: Some(&provider),
        audience: &audience,
        allowed: "",
        token: scene.token(SUBJECTS[0].1),
    };
    // They are on loopback here, which is the guard's reason, and the only one.
    let failure = scene.ask(asked).await.unwrap_err();
    assert_eq!(
        failure.error.code,
        Code::AddressRefused,
        "{}",
        failure.error
    );
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

    let elsewhere = scene.issuer.token(subject, "elsewhere", HOUR).unwrap();
    check(
        elsewhere,
        Code::PoolRejected,
        "does not match the expected audience",
    )
    .await;

    let now = Timestamp::now().as_second();
    let expired = json!({"iss": Issuer::url(), "sub": subject, "aud": [audience()], "iat": now - 60, "exp": now - 1});
    let expired = IdentityToken {
        token: scene.issuer.sign(&expired).unwrap().into(),
        expires_at: Timestamp::now(),
    };
    check(expired, Code::IdentityTokenRejected, "is stale to sign-in").await;

    let stranger = Issuer::start(&Upstreams::new().unwrap()).await.unwrap();
    let forged = stranger.token(subject, &audience(), HOUR).unwrap();
    check(forged, Code::IdentityTokenRejected, "Signature").await;

    let with = |change: fn(&mut Provider)| {
        let mut provider = scene.provider();
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
    scene.gcp.add_issuer(&Issuer::url(), None);
    check(token, Code::IdentityProviderUnreachable, "Error connecting").await;
    assert!(scene.endpoints().iter().all(|endpoint| *endpoint == STS));
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

    let parameters = Parameters {
        account: Some(CloudAccount::Gcp {
            service_account: "nobody@acme.iam.gserviceaccount.com".into(),
            workload_identity_provider: Some(provider()),
        }),
        ..Parameters::of(ExchangeKind::Gar)
    };
    let trade = trade(parameters.clone(), &audience(), &scene.host);
    let upstream = scene.world.upstream(&scene.allowed()).unwrap();
    let token = scene.token(SUBJECTS[0].1);
    let kind = CredentialKind::ServiceAccountToken;
    let error = carry_out(&upstream, trade, kind, token)
        .await
        .unwrap_err()
        .error;
    assert_eq!(error.code, Code::ImpersonationDenied);
    assert!(error.detail.contains("NOT_FOUND"), "{error}");
}

#[tokio::test]
async fn outages_are_told_apart_and_pauses_are_kept() {
    for endpoint in [STS, IAM] {
        let scene = Scene::new().await;
        for (status, code) in [
            (429, Code::ExchangeThrottled),
            (500, Code::ExchangeUnreachable),
            (503, Code::ExchangeUnreachable),
        ] {
            let mut answer = prescribed(status, &json!({"error": {"message": "later"}}));
            answer.retry_after = Some(17);
            scene.gcp.prescribe(endpoint, answer);
            let failure = scene.refusal(scene.token(SUBJECTS[0].1)).await;
            assert_eq!(failure.error.code, code, "{endpoint} {status}");
            assert_eq!(failure.retry_after, Some(Duration::from_secs(17)));
        }
        for body in [json!("<html>"), json!({})] {
            scene.gcp.prescribe(endpoint, prescribed(200, &body));
            let failure = scene.refusal(scene.token(SUBJECTS[0].1)).await;
            assert_eq!(
                failure.error.code,
                Code::ExchangeUnreadable,
                "{endpoint} {body}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_that_google_repeats_is_not_told() {
    let scene = Scene::new().await;
    let token = scene.token(SUBJECTS[0].1);
    let repeated = format!("Invalid token {}", token.token.expose_secret());
    let body = json!({"error": "invalid_grant", "error_description": repeated});
    scene.gcp.prescribe(STS, prescribed(400, &body));
    let failure = scene.refusal(token).await;
    assert!(
        failure.error.detail.contains("[redacted]"),
        "{}",
        failure.error
    );
}
