//! A credential that is not there yet, and a proxy that is killed.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::argocd::Component;
use harness::process::wait_until;
use harness::quay::{self, Endpoint, Failure};
use serde_json::{Value, json};
use shared::layout;

use super::side::Side;
use crate::case::{Case, exclusive, shared};
use crate::rotation::{Application, LIFE, LIMIT, Tenant, Versions};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(the_first_use_waits_for_the_first_credential).with_argocd(),
        exclusive!(a_proxy_killed_during_a_pull).with_argocd(),
    ]
}

const FIRST: Side = Side {
    project: "first",
    robot: "prod+first",
    folder: "prod",
};
const KILLED: Side = Side {
    project: "killed",
    robot: "prod+killed",
    folder: "prod",
};
/// Long enough that Argo CD asks before, shorter than the proxy waits.
const EXCHANGE: Duration = Duration::from_secs(6);
/// Long enough to be killed in.
const ANSWER: Duration = Duration::from_secs(3);

/// Argo CD remembers a failure for minutes, so a cold start must not be one.
async fn the_first_use_waits_for_the_first_credential(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "first", LIFE).await?;
    scene.namespace(tenant.name, &[]).await?;
    FIRST.open(scene, &tenant).await?;
    tenant.publish(scene, "prod/charts")?;
    let slow = Failure {
        delay: EXCHANGE,
        ..Failure::default()
    };
    tenant.quay.fail(Endpoint::Federation, slow);
    let versions = Versions::watch(scene.client()?, tenant.name);
    let values = charts(&tenant, FIRST);
    tenant.create("first-charts", "repository", &values).await?;
    let application = Application::create(scene, &application(&tenant, FIRST)).await?;
    application.is_good(0).await?;
    ensure!(versions.all_good()? > 0, "the Application was not watched");
    tenant.quay.heal(Endpoint::Federation);
    application.delete().await?;
    tenant.delete("first-charts").await
}

async fn a_proxy_killed_during_a_pull(scene: &mut Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "killed", LIFE).await?;
    scene.namespace(tenant.name, &[]).await?;
    KILLED.open(scene, &tenant).await?;
    tenant.publish(scene, "prod/charts")?;
    let values = charts(&tenant, KILLED);
    tenant
        .create("killed-charts", "repository", &values)
        .await?;
    tenant.ready("killed-charts").await?;
    let manifest = application(&tenant, KILLED);
    let application = Application::create(scene, &manifest).await?;
    application.is_good(0).await?;
    let before = trusted(scene)?;

    let slow = Failure {
        delay: ANSWER,
        ..Failure::default()
    };
    tenant.quay.fail(Endpoint::Content, slow);
    let arrived = tenant.quay.arrived();
    let (quay, argocd) = (&tenant.quay, scene.argocd_mut()?);
    let killing = async {
        wait_until("a pull", LIMIT, || async move {
            ensure!(quay.arrived() > arrived, "nothing was asked for");
            Ok(())
        })
        .await?;
        argocd.restart_sidecars(Component::RepoServer).await
    };
    // Whatever comes of this pull: it is tried again.
    let (pulled, killed) = tokio::join!(application.refresh(), killing);
    killed?;
    pulled?;
    tenant.quay.heal(Endpoint::Content);
    application.refresh().await?;
    application.is_good(1).await?;
    ensure!(
        before == trusted(scene)?,
        "the proxy has another authority than before"
    );
    application.delete().await?;
    tenant.delete("killed-charts").await
}

fn charts(tenant: &Tenant, side: Side) -> crate::rotation::Values {
    let url = format!("oci://{}/prod/charts", tenant.quay.host());
    side.repository(tenant, "helm", &url)
}

fn application(tenant: &Tenant, side: Side) -> Value {
    let source = json!({
        "repoURL": format!("{}/prod/charts", tenant.quay.host()),
        "chart": tenant.name,
        "targetRevision": "1.0.0",
    });
    side.application(tenant, tenant.name, source)
}

/// What repo-server verifies the registry with.
fn trusted(scene: &Scene) -> Result<String> {
    let root = scene.argocd()?.container(Component::RepoServer)?.root()?;
    let folder = layout::TLS_DATA_PATH.trim_start_matches('/');
    Ok(std::fs::read_to_string(root.join(folder).join(quay::HOST))?)
}
