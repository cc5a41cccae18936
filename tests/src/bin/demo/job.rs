//! The job itself, wherever it runs: a chart is published, two Secrets are created, an Application is synced,
//! a credential is renewed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::argocd::{Applications, Report};
use harness::bindings::{self, CredentialBinding};
use harness::chart::Chart;
use harness::peers::Peers;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use harness::targets::{Lives, ROBOT, Targets};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt as _};

use crate::secrets;
use crate::story::{Credential, Story};

/// Short enough that credentials rotate while one watches.
pub(crate) const LIVES: Lives = Lives {
    identity: Duration::from_secs(30),
    robot: Duration::from_secs(20),
};
const LIMIT: Duration = Duration::from_secs(120);
/// A sync takes seconds, unless the first comparison failed.
const FIRST_LOOK: Duration = Duration::from_secs(30);
const TARGET: &str = "demo";
const CHART: Chart<'_> = Chart {
    name: "demo",
    version: "1.0.0",
    message: "hello from a private chart",
};

/// Publishes the chart, and lets Argo CD's identity into the remote cluster.
pub(crate) async fn publish(story: &mut Story, targets: &Targets, peers: &Peers) -> Result<()> {
    targets.publish(peers, &CHART)?;
    targets.admit_to_remote(TARGET).await?;
    let anonymous = anonymous_pull(targets).await?;
    story.step(format!(
        "published {}/prod/charts/{}:{}; an anonymous pull gets {anonymous}",
        targets.quay.host(),
        CHART.name,
        CHART.version
    ));
    Ok(())
}

/// From the Secrets of the guides to a synced Application, and on to the next credential.
pub(crate) async fn sync(
    story: &mut Story,
    targets: &Targets,
    client: &Client,
    applications: &Applications,
) -> Result<Vec<Credential>> {
    for (what, secret) in [
        ("repository", targets.repository_secret("charts")),
        ("cluster", targets.cluster_secret("spoke")?),
    ] {
        let lines = secrets::create(client, &secret).await?;
        story.step(format!(
            "created the {what} Secret of the guide; it became:"
        ));
        for line in lines {
            story.detail(line);
        }
    }
    let bound = bindings::api(client.clone(), ARGOCD);
    for name in ["charts", "spoke"] {
        let binding = bindings::ready(&bound, name, LIMIT).await?;
        story.step(format!(
            "binding {name} is Ready as {}",
            binding.spec.identity.spiffe_id
        ));
    }

    applications
        .apply(&targets.application("demo", &CHART, TARGET))
        .await?;
    let report = synced(applications).await?;
    let message = deployed(targets).await?;
    story.step(format!(
        "Application demo is {} and {}; the remote cluster has \"{message}\"",
        report.sync, report.health
    ));
    let pulls = targets
        .quay
        .count(|request| request.robot.as_deref() == Some(ROBOT));
    ensure!(
        pulls > 0,
        "the registry saw no request of the robot {ROBOT}"
    );
    story.step(format!(
        "the registry saw {pulls} requests, authenticated as {ROBOT}"
    ));

    rotated(&bound, "charts").await?;
    let report = applications.hard_refresh("demo", LIMIT).await?;
    ensure!(
        report.is_good(),
        "after the rotation the Application is {report:?}"
    );
    story
        .step("the registry credential was renewed under the running Argo CD, and it synced again");
    credentials(client.clone()).await
}

/// The remote cluster looks for its issuer's keys every ten seconds, and that issuer has just been installed: a
/// first comparison may come too early. Argo CD's next one comes after minutes, unless it is asked for one, as
/// a user does who sees the error.
async fn synced(applications: &Applications) -> Result<Report> {
    if let Ok(report) = applications.synced_and_healthy("demo", FIRST_LOOK).await {
        return Ok(report);
    }
    applications.hard_refresh("demo", LIMIT).await?;
    applications.synced_and_healthy("demo", LIMIT).await
}

/// Waits until the agent has replaced the first credential.
async fn rotated(bound: &Api<CredentialBinding>, name: &str) -> Result<()> {
    wait_until(&format!("a rotation of {name}"), LIMIT, || async move {
        let found = bound.get(name).await.context("read the binding")?;
        ensure!(rotations(&found) > 0, "{:?}", found.status);
        Ok(())
    })
    .await
}

/// Agents count the first credential too, which replaced nothing.
fn rotations(binding: &CredentialBinding) -> u64 {
    let nodes = binding.status.iter().flat_map(|status| &status.nodes);
    nodes.map(|node| node.rotations.saturating_sub(1)).sum()
}

/// What the registry answers to somebody without a credential.
async fn anonymous_pull(targets: &Targets) -> Result<String> {
    let authority = reqwest::Certificate::from_pem(targets.authority.pem().as_bytes())
        .context("the authority's certificate")?;
    let client = reqwest::Client::builder()
        .tls_certs_only([authority])
        .no_proxy()
        .build()
        .context("make an HTTP client")?;
    let (host, chart) = (targets.quay.host(), CHART.name);
    let url = format!(
        "https://{host}/v2/prod/charts/{chart}/manifests/{}",
        CHART.version
    );
    let status = client
        .get(url)
        .send()
        .await
        .context("pull without a credential")?
        .status();
    ensure!(!status.is_success(), "anonymous pulls can read the chart");
    Ok(status.to_string())
}

async fn credentials(client: Client) -> Result<Vec<Credential>> {
    let found = bindings::api(client, ARGOCD)
        .list(&Default::default())
        .await
        .context("list bindings")?;
    Ok(found
        .items
        .into_iter()
        .map(|it| {
            let rotations = rotations(&it);
            let status = it.status.unwrap_or_default();
            Credential {
                target: it.spec.target.address,
                identity: it.spec.identity.spiffe_id,
                expires: status
                    .nodes
                    .iter()
                    .find_map(|node| node.expires_at)
                    .map_or_else(
                        || "-".to_owned(),
                        |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                    ),
                rotations,
            }
        })
        .collect())
}

async fn deployed(targets: &Targets) -> Result<String> {
    let api: Api<ConfigMap> = Api::namespaced(targets.remote.client()?, TARGET);
    let api = &api;
    let found = wait_until("the chart's ConfigMap", LIMIT, || async move {
        api.get(CHART.name).await.context("read it")
    })
    .await?;
    let name = found.name_any();
    let message = found.data.and_then(|mut data| data.remove("message"));
    message.with_context(|| format!("ConfigMap {name} has no message"))
}
