//! New pods of Argo CD: their volumes are published, and the old ones' are
//! gone.

use anyhow::{Result, ensure};
use harness::argocd::Component;
use harness::targets::SECOND_SPOKE_AUDIENCE;
use shared::layout;

use crate::case::{Case, exclusive};
use crate::rotation::{Application, LIFE, Tenant, cluster, volume};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![exclusive!(new_pods_find_their_credentials).with_argocd()]
}

async fn new_pods_find_their_credentials(scene: &mut Scene) -> Result<()> {
    let mut tenant = Tenant::start(scene, "new-pods", LIFE).await?;
    tenant.publish(scene, "prod/charts")?;
    scene.admit(tenant.name).await?;
    tenant
        .create("new-pods-charts", "repository", &tenant.repository())
        .await?;
    let server = format!("https://localhost:{}", scene.remote.port());
    let values = cluster(scene, &server, SECOND_SPOKE_AUDIENCE)?;
    tenant.create("new-pods-spoke", "cluster", &values).await?;
    tenant.ready("new-pods-charts").await?;
    tenant.ready("new-pods-spoke").await?;
    let manifest = tenant.application("prod/charts", &server);
    let application = Application::create(scene, &manifest).await?;
    application.is_good(0).await?;

    for component in [
        Component::RepoServer,
        Component::ApplicationController,
        Component::Server,
    ] {
        let old = volume(scene, component)?;
        scene.argocd_mut()?.restart(component).await?;
        let new = volume(scene, component)?;
        ensure!(
            old != new && !old.exists(),
            "{} is still there",
            old.display()
        );
        let file = match component {
            Component::RepoServer => layout::DOCKER_CONFIG.into(),
            _ => layout::cluster_file("new-pods-spoke")?,
        };
        ensure!(new.join(&file).exists(), "{} is not there", file.display());
    }
    tenant.follow(scene)?;
    ensure!(tenant.login()?.is_some(), "there is no login");
    application.refresh().await?;
    application.is_good(1).await?;
    application.delete().await?;
    for name in ["new-pods-charts", "new-pods-spoke"] {
        tenant.delete(name).await?;
    }
    tenant.has_no_login().await
}
