//! Azure Container Registry: the agent's exchange against stand-ins of Microsoft Entra and of the registry's own token
//! endpoints, with the real registry behind them.

use std::time::Duration;

use agent::docker_config::BasicCredential;
use agent::exchange::Trade;
use agent::identity::IdentityToken;
use agent::refresh::Failure;
use axum::http::StatusCode;
use harness::azure::{Application, Azure, ENTRA, EXCHANGE, FederatedCredential, REALM};
use harness::cloud::Cloud;
use harness::peers;
use harness::upstreams::{Issuer, Upstreams};
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::json;
use shared::binding::{CloudAccount, Exchange as Parameters, ExchangeKind};
use shared::errors::Code;

use crate::clouds::{
    Bench, HOUR, SUBJECTS, basic, carry_out, endpoints, prescribed, publish, pull, trade,
};

const HOST: &str = "acme.azurecr.io";
const PUBLIC: &str = "login.microsoftonline.com";
const CLIENT: &str = "11111111-2222-3333-4444-555555555555";
const TENANT: &str = "99999999-8888-7777-6666-555555555555";
const AUDIENCE: &str = "api://AzureADTokenExchange";
/// Neither the three hours that ACR usually has, nor the life of an identity.
const LIFE: Duration = Duration::from_secs(2 * 3600 + 5);

struct Scene {
    bench: Bench,
    azure: Azure,
}

impl Scene {
    /// An application for all subjects of these tests.
    async fn at(authority: &'static str, host: &str) -> Self {
        let world = Upstreams::new().unwrap();
        let binary = peers::registry().unwrap();
        let azure = Azure::start(&binary, world.folder(), authority, host, LIFE);
        let azure = azure.await.unwrap();
        azure.add_application(application());
        let services = azure.services();
        let bench = Bench::new(world, azure.cloud(), services, (&[authority], host)).await;
        Self { bench, azure }
    }

    async fn new() -> Self {
        Self::at(PUBLIC, HOST).await
    }

    fn cloud(&self) -> &Cloud {
        self.azure.cloud()
    }

    fn token(&self, subject: &str) -> IdentityToken {
        self.bench.issuer.token(subject, AUDIENCE, HOUR).unwrap()
    }

    fn trade(&self, client: &str, tenant: &str, token_url: Option<&str>) -> Trade {
        let parameters = Parameters {
            account: Some(CloudAccount::Azure {
                client_id: client.into(),
                tenant_id: tenant.into(),
            }),
            token_url: token_url.map(str::to_owned),
            ..Parameters::of(ExchangeKind::Acr)
        };
        trade(parameters, AUDIENCE, &self.bench.host)
    }

    /// The usual trade.
    fn usual(&self) -> Trade {
        self.trade(CLIENT, TENANT, None)
    }

    /// How the usual trade with this token fails.
    async fn refusal(&self, token: IdentityToken) -> Failure {
        self.bench.refusal(self.usual(), token).await
    }
}

fn application() -> Application {
    let credential = |subject: &str| FederatedCredential {
        issuer: Issuer::url(),
        subject: subject.to_owned(),
        audience: AUDIENCE.into(),
    };
    Application {
        client_id: CLIENT.into(),
        tenant_id: TENANT.into(),
        credentials: SUBJECTS.map(|(_, subject)| credential(subject)).into(),
        pull: Some(vec!["charts/".into()]),
    }
}

#[tokio::test]
async fn both_kinds_of_identities_pull_what_the_application_may_and_nothing_else() {
    let scene = Scene::new().await;
    let Bench { world, host, .. } = &scene.bench;
    publish(scene.cloud(), "charts");
    publish(scene.cloud(), "other");
    for (kind, subject) in SUBJECTS {
        let upstream = world.upstream(&scene.bench.allowed()).unwrap();
        let asked = carry_out(&upstream, scene.usual(), kind, scene.token(subject)).await;
        let fresh = asked.unwrap();
        let left = fresh.expires_at.duration_since(Timestamp::now());
        let life = SignedDuration::try_from(LIFE).unwrap();
        assert!(
            left <= life && left > life - SignedDuration::from_secs(60),
            "{left:?}"
        );

        let login = basic(fresh);
        assert_eq!(login.username, "00000000-0000-0000-0000-000000000000");
        let outlet = upstream.outlet("argocd", ExchangeKind::Acr, host);
        assert_eq!(pull(&outlet, host, "charts/demo", &login).await, 200);
        assert_eq!(pull(&outlet, host, "other/demo", &login).await, 401);
        let stranger = BasicCredential {
            secret: scene.token(subject).token,
            ..login
        };
        assert_eq!(pull(&outlet, host, "charts/demo", &stranger).await, 401);
    }
    let each = [ENTRA, EXCHANGE, REALM, REALM, REALM];
    assert_eq!(endpoints(scene.cloud()), [each, each].concat());
}

#[tokio::test]
async fn the_registry_takes_its_token_as_a_clients_refresh_token_too() {
    let scene = Scene::new().await;
    let (bench, token) = (&scene.bench, scene.token(SUBJECTS[0].1));
    let asked = bench.ask(&bench.allowed(), scene.usual(), token).await;
    let (login, _) = asked.unwrap();
    let upstream = bench.world.upstream(&bench.allowed()).unwrap();
    let outlet = upstream.outlet("argocd", ExchangeKind::Acr, &bench.host);
    let url = format!("https://{HOST}/oauth2/token");
    let request = outlet.request(Method::POST, &url).unwrap().form(&[
        ("grant_type", "refresh_token"),
        ("service", HOST),
        ("scope", "repository:charts/demo:pull"),
        ("refresh_token", login.secret.expose_secret()),
    ]);
    assert_eq!(outlet.send(request).await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn every_cloud_has_its_own_token_service() {
    for (authority, host) in [
        ("login.microsoftonline.us", "acme.azurecr.us"),
        ("login.chinacloudapi.cn", "acme.azurecr.cn"),
        (PUBLIC, "registry.example.test"),
    ] {
        let scene = Scene::at(authority, host).await;
        let (bench, token) = (&scene.bench, scene.token(SUBJECTS[0].1));
        let asked = bench.ask(&bench.allowed(), scene.usual(), token).await;
        asked.unwrap();
        assert_eq!(endpoints(scene.cloud()), [ENTRA, EXCHANGE], "{host}");
    }
}

#[tokio::test]
async fn a_token_service_of_its_own_has_the_tenant_in_its_place() {
    let scene = Scene::at("entra.example.test", HOST).await;
    let bench = &scene.bench;
    for place in ["{tenantID}", "%7BtenantID%7D"] {
        let url = format!("https://entra.example.test/{place}/oauth2/v2.0/token");
        let trade = scene.trade(CLIENT, TENANT, Some(&url));
        let token = scene.token(SUBJECTS[0].1);
        let unlisted = format!("{HOST};private");
        let refused = bench.ask(&unlisted, trade.clone(), token.clone()).await;
        assert_eq!(refused.unwrap_err().error.code, Code::HostNotAllowed);
        bench.ask(&bench.allowed(), trade, token).await.unwrap();
    }
    let each = [ENTRA, EXCHANGE];
    assert_eq!(endpoints(scene.cloud()), [each, each].concat());
}

#[tokio::test]
async fn nothing_is_sent_for_a_registry_that_is_neither_azures_nor_listed() {
    let scene = Scene::at(PUBLIC, "registry.example.test").await;
    let (bench, token) = (&scene.bench, scene.token(SUBJECTS[0].1));
    let asked = bench.ask(&bench.services(), scene.usual(), token).await;
    assert_eq!(asked.unwrap_err().error.code, Code::HostNotAllowed);
    assert!(endpoints(scene.cloud()).is_empty());
}

#[tokio::test]
async fn azures_own_hosts_need_no_list() {
    let scene = Scene::new().await;
    let token = scene.token(SUBJECTS[0].1);
    let asked = scene.bench.ask("", scene.usual(), token).await;
    // They are on loopback here, which is the guard's reason, and the only one.
    assert_eq!(asked.unwrap_err().error.code, Code::AddressRefused);
}

#[tokio::test]
async fn what_entra_says_has_a_name() {
    let scene = Scene::new().await;
    let (_, subject) = SUBJECTS[1];
    let check = async |trade: Trade, token: IdentityToken, code: Code, number: &str| {
        let error = scene.bench.refusal(trade, token).await.error;
        assert_eq!(error.code, code, "{error}");
        assert!(
            error.detail.contains(&format!("AADSTS{number}: ")),
            "{error}"
        );
        assert!(!error.detail.contains("Trace ID"), "{error}");
        assert!(!error.detail.contains("Check your"), "{error}");
        assert!(error.detail.contains(HOST), "{error}");
    };
    let ours = || scene.usual();
    let good = || scene.token(subject);
    let mismatch = Code::FederatedCredentialMismatch;
    let with = |change: fn(&mut Application)| {
        let mut application = application();
        change(&mut application);
        scene.azure.add_application(application);
        good()
    };

    check(
        ours(),
        scene.token("spiffe://example.org/other"),
        mismatch,
        "700213",
    )
    .await;
    let elsewhere = scene
        .bench
        .issuer
        .token(subject, "elsewhere", HOUR)
        .unwrap();
    check(ours(), elsewhere, mismatch, "700212").await;
    let token = with(|it| it.credentials.clear());
    check(ours(), token, mismatch, "70021").await;
    let token = with(|it| {
        for credential in &mut it.credentials {
            credential.issuer.push('/');
        }
    });
    check(ours(), token, mismatch, "700211").await;
    let token = with(|_| {});

    let stranger = "00000000-1111-2222-3333-444444444444";
    let unknown = Code::ApplicationNotFound;
    check(
        scene.trade(stranger, TENANT, None),
        token,
        unknown,
        "700016",
    )
    .await;
    check(
        scene.trade(CLIENT, stranger, None),
        good(),
        unknown,
        "90002",
    )
    .await;

    let rejected = Code::IdentityTokenRejected;
    let expired = scene.bench.expired(subject, AUDIENCE);
    check(ours(), expired, rejected, "700024").await;
    let other = Issuer::start(&Upstreams::new().unwrap()).await.unwrap();
    let forged = other.token(subject, AUDIENCE, HOUR).unwrap();
    check(ours(), forged, rejected, "700027").await;
    let malformed = IdentityToken {
        token: "not-a-token".into(),
        expires_at: Timestamp::now(),
    };
    check(ours(), malformed, rejected, "50027").await;

    scene.cloud().add_issuer(&Issuer::url(), None);
    check(ours(), good(), Code::IdentityProviderUnreachable, "50166").await;
    assert!(
        endpoints(scene.cloud())
            .iter()
            .all(|endpoint| *endpoint == ENTRA)
    );
}

#[tokio::test]
async fn an_application_without_the_role_is_told_so() {
    let scene = Scene::new().await;
    scene.azure.add_application(Application {
        pull: None,
        ..application()
    });
    let error = scene.refusal(scene.token(SUBJECTS[0].1)).await.error;
    assert_eq!(error.code, Code::AcrDenied);
    assert!(
        error
            .detail
            .contains("UNAUTHORIZED; authentication required"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("ACR exchange failed: unauthorized")
    );
    let forbidden =
        json!({"errors": [{"code": "DENIED", "message": "client with IP is not allowed access"}]});
    scene
        .cloud()
        .prescribe(EXCHANGE, prescribed(403, &forbidden));
    let error = scene.refusal(scene.token(SUBJECTS[0].1)).await.error;
    assert_eq!(error.code, Code::AcrDenied);
    assert!(error.detail.contains("is not allowed access"), "{error}");
}

#[tokio::test]
async fn outages_are_told_apart_and_pauses_are_kept() {
    for endpoint in [ENTRA, EXCHANGE] {
        let scene = Scene::new().await;
        let (bench, cloud) = (&scene.bench, scene.cloud());
        let asked = || (scene.usual(), scene.token(SUBJECTS[0].1));
        bench.outages(cloud, endpoint, asked()).await;
        let bodies = [json!("<html>"), json!({"refresh_token": "opaque"})];
        for error in bench.unreadable(cloud, endpoint, asked(), &bodies).await {
            let is_told = error.detail.contains("failed to decode ACR response");
            assert_eq!(is_told, endpoint == EXCHANGE, "{error}");
        }
    }
}

#[tokio::test]
async fn a_token_that_entra_repeats_is_not_told() {
    let scene = Scene::new().await;
    let token = scene.token(SUBJECTS[0].1);
    let repeated = format!(
        "AADSTS50027: JWT token {} is bad",
        token.token.expose_secret()
    );
    let body = json!({"error": "invalid_request", "error_description": repeated});
    scene.cloud().prescribe(ENTRA, prescribed(400, &body));
    let failure = scene.refusal(token).await;
    assert!(
        failure.error.detail.contains("[redacted]"),
        "{}",
        failure.error
    );
}
