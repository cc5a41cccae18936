//! Who gets what from a pod-wide Docker configuration: nothing of a project,
//! one identity for each host, and nothing when the Secret is gone.

use anyhow::{Result, ensure};
use harness::bindings::condition;
use harness::targets::ROBOT;
use shared::errors::Code;

use super::LIFE;
use super::tenant::Tenant;
use crate::case::{Case, shared};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(a_projects_credential_is_never_pod_wide).with_argocd(),
        shared!(the_oldest_identity_of_a_host_wins).with_argocd(),
        shared!(one_audience_goes_to_one_exchange).with_argocd(),
    ]
}

const PROJECTS: &str = "prod+project";

async fn a_projects_credential_is_never_pod_wide(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "projects", LIFE).await?;
    // The registry would trust the project's identity.
    tenant.add_robot(PROJECTS, "argocd-project-production");
    let mut values = tenant.repository();
    values.insert("project", "production".to_owned());
    values.insert("workloadIdentityRegistryUsername", PROJECTS.to_owned());
    tenant
        .create("projects-scoped", "repository", &values)
        .await?;
    // The node has told it, so the agent has delivered it.
    tenant.ready("projects-scoped").await?;
    ensure!(tenant.login()?.is_none(), "it is in the pod-wide file");

    // What is delivered for the same host is another Secret's.
    tenant
        .create("projects-unscoped", "repository", &tenant.repository())
        .await?;
    let login = tenant.has_login(|_| true).await?;
    ensure!(login.user == ROBOT, "{}", login.user);
    tenant.ready("projects-unscoped").await?;
    tenant.ready("projects-scoped").await?;

    // It becomes a project's, whose identity the robot does not trust: what was pod-wide goes.
    let scope = [("project", Some("production"))];
    tenant.change("projects-unscoped", &scope).await?;
    tenant.has_no_login().await?;
    let scope = [("project", None)];
    tenant.change("projects-unscoped", &scope).await?;
    tenant.has_login(|login| login.user == ROBOT).await?;

    // The Secret is removed, and with it binding and credential.
    tenant.delete("projects-unscoped").await?;
    tenant.has_no_login().await?;
    tenant.delete("projects-scoped").await
}

async fn the_oldest_identity_of_a_host_wins(scene: &Scene) -> Result<()> {
    const SECOND: &str = "prod+second";
    let tenant = Tenant::start(scene, "conflict", LIFE).await?;
    tenant.add_robot(SECOND, "argocd-global");
    tenant
        .create("conflict-a", "repository", &tenant.repository())
        .await?;
    tenant.ready("conflict-a").await?;
    let mut values = tenant.repository();
    values.insert("workloadIdentityRegistryUsername", SECOND.to_owned());
    tenant.create("conflict-b", "repository", &values).await?;
    let code = Code::IdentityConflict;
    let younger = tenant.refused("conflict-b", code).await?;
    let nodes = younger.status.unwrap_or_default().nodes;
    ensure!(
        nodes.iter().all(|node| node.expires_at.is_none()),
        "{nodes:?}"
    );
    tenant.ready("conflict-a").await?;
    tenant.has_login(|login| login.user == ROBOT).await?;
    ensure!(
        tenant.exchanges(SECOND) == 0,
        "it was asked for all the same"
    );

    // When the older one is gone the younger one takes its place.
    tenant.delete("conflict-a").await?;
    tenant.has_login(|login| login.user == SECOND).await?;
    tenant.ready("conflict-b").await?;
    tenant.delete("conflict-b").await?;
    tenant.has_no_login().await
}

/// Two registries at one name are two: either could show the other's token to
/// the first.
async fn one_audience_goes_to_one_exchange(scene: &Scene) -> Result<()> {
    let first = Tenant::start(scene, "audience-a", LIFE).await?;
    let second = Tenant::start(scene, "audience-b", LIFE).await?;
    first
        .create("audience-a", "repository", &first.repository())
        .await?;
    first.ready("audience-a").await?;
    let mut values = second.repository();
    values.insert("workloadIdentityAudience", first.name.to_owned());
    second.create("audience-b", "repository", &values).await?;
    let code = Code::AudienceConflict;
    let refused = second.refused("audience-b", code).await?;
    ensure!(
        second.exchanges(ROBOT) == 0 && second.login()?.is_none(),
        "the token was shown to both: {:?}",
        condition(&refused, "Ready")
    );
    let own = [("workloadIdentityAudience", Some(second.name))];
    second.change("audience-b", &own).await?;
    second.ready("audience-b").await?;
    second.delete("audience-b").await?;
    first.delete("audience-a").await
}
