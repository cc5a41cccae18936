//! An umbrella chart in git whose dependencies are private: Argo CD builds them with the proxy of the git
//! repository.

use anyhow::{Result, ensure};
use harness::chart::Chart;
use serde_json::json;

use super::side::Side;
use crate::case::{Case, shared};
use crate::rotation::{Application, LIFE, Tenant};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![shared!(dependencies_of_an_umbrella_chart).with_argocd()]
}

const OWNER: Side = Side {
    project: "umbrella-owner",
    robot: "prod+umbrella",
    folder: "prod",
};
const OTHER: Side = Side {
    project: "umbrella-other",
    robot: "staging+umbrella",
    folder: "staging",
};

async fn dependencies_of_an_umbrella_chart(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "umbrella", LIFE).await?;
    scene.namespace(tenant.name, &[]).await?;
    for side in [OWNER, OTHER] {
        side.open(scene, &tenant).await?;
        tenant.publish(scene, &format!("{}/charts", side.folder))?;
    }
    let around = &scene.around.targets;
    let code = around.code_host(tenant.name, &tenant.quay).await?;
    let chart = |name| Chart {
        name,
        version: "1.0.0",
        message: "a dependency",
    };
    let http = chart("umbrella-http");
    let helm = code.helm_repository(scene.peers.helm(), OWNER.folder, &http)?;
    let charts = |side: Side| format!("oci://{}/{}/charts", tenant.quay.host(), side.folder);
    let oci = chart(tenant.name);
    let (own, foreign) = (charts(OWNER), charts(OTHER));
    let of_own = [(&oci, own.as_str()), (&http, helm.as_str())];
    let git = code.umbrella(OWNER.folder, &chart("umbrella-own"), &of_own)?;
    let of_other = [(&oci, foreign.as_str())];
    let refused = code.umbrella(OWNER.folder, &chart("umbrella-foreign"), &of_other)?;

    let secrets = [
        ("umbrella-git", OWNER.repository(&tenant, "git", &git)),
        (
            "umbrella-refused",
            OWNER.repository(&tenant, "git", &refused),
        ),
        ("umbrella-helm", OWNER.repository(&tenant, "helm", &helm)),
        ("umbrella-oci", OWNER.repository(&tenant, "helm", &own)),
        (
            "umbrella-other",
            OTHER.repository(&tenant, "helm", &foreign),
        ),
    ];
    for (name, values) in &secrets {
        tenant.create(name, "repository", values).await?;
        tenant.ready(name).await?;
    }
    let source = |url: &str| json!({ "repoURL": url, "path": ".", "targetRevision": "main" });
    let built = OWNER.application(&tenant, "umbrella-own", source(&git));
    let built = Application::create(scene, &built).await?;
    built.is_good(0).await?;
    let served = OWNER.served(&tenant);
    ensure!(!served.is_empty(), "no dependency was pulled");

    let stays_out = OWNER.application(&tenant, "umbrella-foreign", source(&refused));
    let stays_out = Application::create(scene, &stays_out).await?;
    stays_out.fails().await?;
    let other = OTHER.served(&tenant);
    ensure!(other.is_empty(), "{} was used: {other:?}", OTHER.robot);

    for application in [built, stays_out] {
        application.delete().await?;
    }
    for (name, _) in &secrets {
        tenant.delete(name).await?;
    }
    Ok(())
}
