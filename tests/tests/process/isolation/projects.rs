//! Two projects with different robots on one registry host.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::argocd::Component;
use secrecy::ExposeSecret as _;
use serde_json::json;
use shared::proxy_view::ProxySecret;

use super::memory;
use super::side::{Side, viewed};
use crate::case::{Case, shared};
use crate::rotation::{Application, LIFE, Tenant, keys, nothing_has};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![shared!(two_projects_on_one_host).with_argocd()]
}

const PRODUCTION: Side = Side {
    project: "two-production",
    robot: "prod+two",
    folder: "prod",
};
const STAGING: Side = Side {
    project: "two-staging",
    robot: "staging+two",
    folder: "staging",
};
/// The registry's refusal, which reaches Helm as the proxy's: a 401 would make it ask for a login.
const DENIED: &str = "403";

/// One reads Helm charts, the other a native OCI artifact.
async fn two_projects_on_one_host(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "two", LIFE).await?;
    scene.namespace(tenant.name, &[]).await?;
    for side in [PRODUCTION, STAGING] {
        side.open(scene, &tenant).await?;
        tenant.publish(scene, &format!("{}/charts", side.folder))?;
    }
    let host = tenant.quay.host();
    let charts = |side: Side| format!("oci://{host}/{}/charts", side.folder);
    let artifact = format!("{}/{}", charts(STAGING), tenant.name);
    let secrets = [
        (
            "two-prod",
            PRODUCTION.repository(&tenant, "helm", &charts(PRODUCTION)),
        ),
        ("two-staging", STAGING.repository(&tenant, "oci", &artifact)),
        // Each one's own Secret for the other's folder: the identity stays its own.
        (
            "two-staging-prod",
            STAGING.repository(&tenant, "helm", &charts(PRODUCTION)),
        ),
        (
            "two-prod-staging",
            PRODUCTION.repository(&tenant, "oci", &artifact),
        ),
    ];
    for (name, values) in &secrets {
        tenant.create(name, "repository", values).await?;
        tenant.ready(name).await?;
    }

    let helm = json!({
        "repoURL": format!("{host}/{}/charts", PRODUCTION.folder),
        "chart": tenant.name,
        "targetRevision": "1.0.0",
    });
    let native = json!({ "repoURL": artifact, "path": ".", "targetRevision": "1.0.0" });
    let production = PRODUCTION.application(&tenant, "two-production", helm.clone());
    let production = Application::create(scene, &production).await?;
    production.is_good(0).await?;
    let staging = STAGING.application(&tenant, "two-staging", native.clone());
    let staging = Application::create(scene, &staging).await?;
    staging.is_good(0).await?;

    let mut applications = vec![production, staging];
    for (side, name, source) in [
        (STAGING, "two-refused-helm", helm),
        (PRODUCTION, "two-refused-oci", native),
    ] {
        let refused = side.application(&tenant, name, source);
        let refused = Application::create(scene, &refused).await?;
        let error = refused.fails().await?;
        ensure!(error.contains(DENIED), "{error}");
        applications.push(refused);
    }

    for side in [PRODUCTION, STAGING] {
        let served = side.served(&tenant);
        let folder = format!("/v2/{}/", side.folder);
        ensure!(
            served.iter().any(|it| it.path.starts_with(&folder)),
            "{} read nothing",
            side.robot
        );
        let foreign = served
            .iter()
            .find(|it| !it.path.starts_with(&folder) && it.path != "/v2/");
        ensure!(foreign.is_none(), "{} read {foreign:?}", side.robot);
    }
    ensure!(
        tenant.login()?.is_none(),
        "a project's credential is pod-wide"
    );

    nothing_of_it_is_elsewhere(scene, &tenant).await?;
    for application in applications {
        application.delete().await?;
    }
    for (name, _) in &secrets {
        tenant.delete(name).await?;
    }
    Ok(())
}

/// Neither objects, logs, arguments and environments nor the memory of Argo CD have a token of any kind. A
/// token is told by its first part, which is the same for every token that the same key signed.
async fn nothing_of_it_is_elsewhere(scene: &Scene, tenant: &Tenant) -> Result<()> {
    let mut robots = BTreeSet::new();
    for name in ["two-prod", "two-staging"] {
        let credential = viewed(scene, name)?.credential.context("no credential")?;
        let ProxySecret::Basic { password, .. } = credential.secret else {
            bail!("{name} has a certificate");
        };
        robots.insert(password.expose_secret().to_owned());
    }
    nothing_has(scene, &robots).await?;

    let first = |token: &str| token.split('.').next().unwrap_or_default().to_owned();
    let robot = robots.iter().next().map(|it| first(it)).context("none")?;
    let registry = first(&tenant.quay.anonymous_token()?);
    let identity = identity(scene).await?;
    let argocd = scene.argocd()?;
    let repo_server = argocd.container(Component::RepoServer)?.own_process()?;
    let sidecars = argocd.sidecars(Component::RepoServer);
    let proxy = sidecars.first().context("no sidecar")?.own_process()?;
    let agent = scene.installation.agent.id();
    for (what, token, owner) in [
        ("robot's password", &robot, proxy),
        ("registry token", &registry, proxy),
        ("identity token", &identity, agent),
    ] {
        // Or the search would prove nothing.
        ensure!(
            memory::has(owner, token)?,
            "nobody has a {what} that begins with {token}"
        );
        ensure!(
            !memory::has(repo_server, token)?,
            "repo-server has a {what} in its memory"
        );
    }
    Ok(())
}

/// How every identity token begins.
async fn identity(scene: &Scene) -> Result<String> {
    let keys = keys(scene).await?;
    let id = keys["keys"][0]["kid"].as_str().context("no key")?;
    let header = format!(r#"{{"alg":"RS256","kid":"{id}","typ":"JWT"}}"#);
    Ok(URL_SAFE_NO_PAD.encode(header))
}
