//! A registry that wants a client certificate: production shows its X.509-SVID, where the source of identities gives
//! some.

use anyhow::{Result, ensure};
use harness::bindings;
use harness::chart::Chart;
use harness::quay;
use harness::scene::ARGOCD;
use harness::targets::secret;
use harness::teams::PRODUCTION;

use crate::job::{LIMIT, Stage, deployed};
use crate::secrets;
use crate::story::Story;

const NAME: &str = "production-certificate";
const CHART: Chart<'_> = Chart {
    name: "certified",
    version: "1.0.0",
    message: PRODUCTION.project,
};

/// From the registry to a synced Application.
pub(crate) async fn sync(story: &mut Story, stage: &Stage<'_>) -> Result<()> {
    let Some(authorities) = stage.source.certificate_authorities() else {
        return Ok(());
    };
    let targets = stage.targets;
    let registry = targets
        .certificate_registry(stage.peers, &authorities, &CHART)
        .await?;
    let host = format!("{}:{}", quay::HOST, registry.port());
    without_certificate(stage, &host).await?;
    story.step(format!(
        "a registry at {host} ends every connection without a certificate of SPIRE's"
    ));
    let values = [
        ("type", "helm"),
        ("url", &format!("oci://{host}/charts")),
        ("project", PRODUCTION.project),
        ("useWorkloadIdentity", "true"),
        ("workloadIdentityProvider", "spiffe"),
        ("workloadIdentityCredential", "SpiffeCertificate"),
    ];
    secrets::create(stage.client, &secret(NAME, "repository", &values)).await?;
    let bound = bindings::api(stage.client.clone(), ARGOCD);
    bindings::ready(&bound, NAME, LIMIT).await?;
    let application = PRODUCTION.certified_application(stage.remote, NAME, &host, &CHART);
    stage.applications.apply(&application).await?;
    let report = stage.applications.synced_and_healthy(NAME, LIMIT).await?;
    deployed(stage.remote, PRODUCTION, CHART.name).await?;
    story.step(format!(
        "Application {NAME} is {} and {}, pulled with production's X.509-SVID",
        report.sync, report.health
    ));
    Ok(())
}

/// Somebody without a certificate gets no answer.
async fn without_certificate(stage: &Stage<'_>, host: &str) -> Result<()> {
    let client = stage.targets.http_client()?;
    let answer = client.get(format!("https://{host}/v2/")).send().await;
    ensure!(answer.is_err(), "it answers {answer:?}");
    Ok(())
}
