//! Git over HTTPS and Helm repositories over HTTP, on one host with its own accounts.

use anyhow::{Result, ensure};
use harness::chart::Chart;
use serde_json::json;

use super::side::Side;
use crate::case::{Case, shared};
use crate::rotation::{Application, LIFE, Tenant};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![shared!(git_and_helm_over_https).with_argocd()]
}

const OWNER: Side = Side {
    project: "code-owner",
    robot: "prod+code",
    folder: "prod",
};
const STRANGER: Side = Side {
    project: "code-stranger",
    robot: "staging+code",
    folder: "staging",
};
/// What go-git makes of a 403.
const FORBIDDEN: &str = "authorization failed";

async fn git_and_helm_over_https(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "code", LIFE).await?;
    scene.namespace(tenant.name, &[]).await?;
    for side in [OWNER, STRANGER] {
        side.open(scene, &tenant).await?;
    }
    let around = &scene.around.targets;
    let code = around.code_host(tenant.name, &tenant.quay).await?;
    let chart = |name| Chart {
        name,
        version: "1.0.0",
        message: "over https",
    };
    let git = code.git_repository(OWNER.folder, "config", &chart("code-git"))?;
    let helm = code.helm_repository(scene.peers.helm(), OWNER.folder, &chart("code-helm"))?;

    let from_git = json!({ "repoURL": git, "path": ".", "targetRevision": "main" });
    let from_helm = json!({ "repoURL": helm, "chart": "code-helm", "targetRevision": "1.0.0" });
    let secrets = [
        ("code-git", OWNER.repository(&tenant, "git", &git)),
        ("code-helm", OWNER.repository(&tenant, "helm", &helm)),
        ("code-stranger", STRANGER.repository(&tenant, "git", &git)),
    ];
    for (name, values) in &secrets {
        tenant.create(name, "repository", values).await?;
        tenant.ready(name).await?;
    }
    let mut applications = Vec::new();
    for (name, source) in [("code-git", from_git.clone()), ("code-helm", from_helm)] {
        let application = OWNER.application(&tenant, name, source);
        let application = Application::create(scene, &application).await?;
        application.is_good(0).await?;
        applications.push(application);
    }
    let refused = STRANGER.application(&tenant, "code-stranger", from_git);
    let refused = Application::create(scene, &refused).await?;
    let error = refused.fails().await?;
    ensure!(error.contains(FORBIDDEN), "{error}");
    applications.push(refused);

    let requests = code.requests();
    for path in ["/git/prod/config.git/", "/charts/prod/"] {
        let read = requests
            .iter()
            .find(|it| it.path.starts_with(path) && it.status == 200);
        ensure!(read.is_some(), "nothing was read below {path}");
    }
    let foreign = requests
        .iter()
        .find(|it| it.status < 400 && it.robot.as_deref() != Some(OWNER.robot));
    ensure!(foreign.is_none(), "{foreign:?}");
    for application in applications {
        application.delete().await?;
    }
    for (name, _) in &secrets {
        tenant.delete(name).await?;
    }
    Ok(())
}
