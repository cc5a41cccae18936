//! Access tokens of the real Keycloak: as a password at a registry, and as the bearer that a realm of the registry's
//! takes. The identities behind them are a service account's token, as docs/providers/oidc.md has it, and the project's
//! own.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::bindings;
use harness::keycloak::{self, Issuer, Keycloak, Keys, Options, REALM};
use harness::ports;
use harness::quay;
use harness::scene::ARGOCD;
use harness::targets::{identity, secret};
use harness::teams::app_project;
use harness::token_server::{ISSUER, Shown};
use harness::upstreams::{Server, Trusted};
use serde_json::{Map, Value};

use super::page::Page;
use super::realm::{Realm, SERVICE, Settings};
use crate::api::Rest;
use crate::case::{Case, shared};
use crate::desk;
use crate::rotation::{Application, LIMIT};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(access_tokens_of_keycloak)
            .with_argocd()
            .within(Duration::from_secs(300)),
    ]
}

const PAGE: &str = include_str!("../../../../docs/providers/oidc.md");
/// Projects, and charts: each project may pull its own.
const PASSWORD: &str = "keycloak-password";
const BEARER: &str = "keycloak-bearer";

/// Keycloak, and who asks it.
struct Sso {
    /// The realm's URL.
    realm: String,
    _front: Server,
    _keys: Server,
    _keycloak: Keycloak,
}

impl Sso {
    async fn start(scene: &Scene) -> Result<Self> {
        let targets = &scene.around.targets;
        // Only who may ask the API server sees its keys there; clusters publish them elsewhere.
        let Trusted {
            issuer: cluster,
            keys: published,
        } = desk::cluster(scene).await?;
        let published = Router::new().route("/keys", get(|| async move { Json(published) }));
        let serve = async |port, routes| {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            Server::start(&targets.authority, &[quay::HOST], at, routes).await
        };
        let keys = serve(0, published).await?;

        let port = ports::free()?;
        let host = format!("{}:{port}", quay::HOST);
        let folder = scene.folder.join("sso");
        std::fs::create_dir_all(&folder)?;
        let authority = folder.join("authority.pem");
        std::fs::write(&authority, targets.authority.pem())?;
        let own = scene.around.plan.issuer_url();
        let issuers = [
            Issuer {
                url: cluster,
                keys: Keys::Url(format!(
                    "https://{}:{}/keys",
                    quay::HOST,
                    keys.address.port()
                )),
            },
            Issuer {
                keys: Keys::Url(format!("{own}/keys")),
                url: own,
            },
        ];
        let options = Options {
            host: &host,
            issuers: &issuers,
            authority: &authority,
        };
        let keycloak = Keycloak::start(&folder, options).await?;
        keycloak.permit().await?;
        Ok(Self {
            realm: format!("https://{host}/realms/{REALM}"),
            _front: serve(port, keycloak.routes()).await?,
            _keys: keys,
            _keycloak: keycloak,
        })
    }

    /// What a registry has to know to trust its tokens.
    async fn trusted(&self, scene: &Scene) -> Result<Trusted> {
        let client = scene.around.targets.http_client()?;
        let keys = format!("{}/protocol/openid-connect/certs", self.realm);
        let keys = client.get(keys).send().await?.json().await;
        Ok(Trusted {
            issuer: self.realm.clone(),
            keys: keys.context("read Keycloak's keys")?,
        })
    }
}

/// The values of the page's Secret for token exchange, for a project of ours, its hosts being ours.
fn values(sso: &Sso, registry: &str, project: &str) -> Result<Map<String, Value>> {
    let project = format!("project: {project}");
    let names = [
        ("https://sso.example.org/realms/prod", sso.realm.as_str()),
        ("registry.example.org", registry),
        ("project: production", &project),
    ];
    let values = Page::read(PAGE, &names)?.values()?;
    let url = values
        .get("workloadIdentityTokenURL")
        .and_then(Value::as_str);
    let is_ours = url.is_some_and(|it| it.starts_with(&sso.realm));
    ensure!(is_ours, "the page has another Keycloak: {url:?}");
    Ok(values)
}

async fn access_tokens_of_keycloak(scene: &Scene) -> Result<()> {
    let sso = Sso::start(scene).await?;
    let accounts = [PASSWORD, BEARER].map(|project| format!("argocd-project-{project}"));
    let names = [
        format!("system:serviceaccount:{ARGOCD}:{}", accounts[0]),
        identity(&accounts[1]),
    ];
    let folders = [PASSWORD, BEARER].map(|chart| format!("prod/charts/{chart}"));
    let registry = Realm::start(
        scene,
        Settings {
            folder: "keycloak-realm",
            trusted: sso.trusted(scene).await?,
            audience: keycloak::AUDIENCE,
            charts: &[PASSWORD, BEARER],
            grants: &[
                (names[0].as_str(), folders[0].as_str()),
                (names[1].as_str(), folders[1].as_str()),
            ],
        },
    )
    .await?;
    scene.namespace("keycloak", &[]).await?;
    let rest = scene.rest()?;
    let account = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": accounts[0] },
    });
    let service_accounts = format!("/api/v1/namespaces/{ARGOCD}/serviceaccounts");
    rest.create(&service_accounts, &account).await?;

    store(scene, &rest, &values(&sso, &registry.host, PASSWORD)?).await?;
    let mut bearer = values(&sso, &registry.host, BEARER)?;
    bearer.remove("workloadIdentityRegistryUsername");
    for (key, value) in [
        ("workloadIdentityProvider", "spiffe"),
        ("workloadIdentityRegistryAuthURL", registry.url().as_str()),
        ("workloadIdentityRegistryService", SERVICE),
    ] {
        bearer.insert(key.to_owned(), value.into());
    }
    store(scene, &rest, &bearer).await?;

    // The same URL, and each has its own access token for it. Nobody has pulled yet: there is no copy to be had.
    let stranger = registry.application("keycloak-stranger", BEARER, PASSWORD, "keycloak");
    let stranger = Application::create(scene, &stranger).await?;
    let error = stranger.fails().await?;
    ensure!(!error.contains("eyJ"), "{error}");
    stranger.delete().await?;
    let refused = pulls(&registry, PASSWORD)?;
    ensure!(
        !refused.is_empty() && refused.iter().all(|it| it.name == names[1]),
        "{refused:?}: {error}"
    );
    for (project, name, scheme) in [
        (PASSWORD, &names[0], "Basic"),
        (BEARER, &names[1], "Bearer"),
    ] {
        let before = registry.server.journal().len();
        let application = registry.application(project, project, project, "keycloak");
        let application = Application::create(scene, &application).await?;
        application.is_good(0).await?;
        application.delete().await?;
        let pulls = pulls(&registry, project)?;
        let pulls: Vec<_> = pulls.iter().filter(|it| it.at >= before).collect();
        ensure!(
            !pulls.is_empty()
                && pulls
                    .iter()
                    .all(|it| it.name == *name && it.scheme == scheme),
            "{project}: {pulls:?}"
        );
    }

    // Neither identity came as far as the registry or its realm, in no request.
    for it in registry.server.journal() {
        let issuer = claims(&it.token)?["iss"].take();
        let expected = match it.path.as_str() {
            "/token" => sso.realm.as_str(),
            _ => ISSUER,
        };
        ensure!(issuer == expected, "{}: a token of {issuer}", it.path);
    }
    let secrets = format!("/api/v1/namespaces/{ARGOCD}/secrets");
    for project in [PASSWORD, BEARER] {
        rest.delete(&format!("{secrets}/{project}")).await?;
    }
    Ok(())
}

/// Makes a project and its Secret, which are called alike, and waits until there is a credential.
async fn store(scene: &Scene, rest: &Rest, values: &Map<String, Value>) -> Result<()> {
    let values: Option<Vec<_>> = values
        .iter()
        .map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .collect();
    let values = values.context("the page's Secret has a value that is no text")?;
    let project = values.iter().find(|it| it.0 == "project");
    let name = project.context("no project")?.1;
    let projects = format!("/apis/argoproj.io/v1alpha1/namespaces/{ARGOCD}/appprojects");
    rest.create(&projects, &app_project(name)).await?;
    let secret = serde_json::from_str(&secret(name, "repository", &values))?;
    let secrets = format!("/api/v1/namespaces/{ARGOCD}/secrets");
    rest.create(&secrets, &secret).await?;
    let all = bindings::api(scene.client()?, ARGOCD);
    bindings::ready(&all, name, LIMIT).await.map(drop)
}

/// Somebody asked the realm for a chart.
#[derive(Debug)]
struct Pull {
    /// In the journal.
    at: usize,
    scheme: String,
    /// As Keycloak calls who it was.
    name: String,
}

/// Who asked the realm for a chart so far.
fn pulls(registry: &Realm, chart: &str) -> Result<Vec<Pull>> {
    let scope = format!("repository:prod/charts/{chart}:pull");
    let journal = registry.server.journal().into_iter().enumerate();
    let pulls = journal.filter(|(_, it)| it.scope.as_deref() == Some(&scope));
    pulls
        .map(|(at, Shown { scheme, token, .. })| {
            let name = claims(&token)?["preferred_username"].take();
            let name = name.as_str().unwrap_or_default().to_owned();
            Ok(Pull { at, scheme, name })
        })
        .collect()
}

fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("not a token")?;
    let payload = URL_SAFE_NO_PAD.decode(payload).context("not a token")?;
    serde_json::from_slice(&payload).context("not a token")
}
