//! The job itself, wherever it runs: two teams publish a chart at one registry host, the Secrets of the guides
//! are created, each team's Application is synced with its own identity and refused the other's chart, a
//! credential is renewed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::argocd::Applications;
use harness::binaries::Binaries;
use harness::bindings::{self, CredentialBinding};
use harness::chart::Chart;
use harness::control_plane::RemoteCluster;
use harness::identities::{Registered, Source};
use harness::peers::Peers;
use harness::process::wait_until;
use harness::quay::Endpoint;
use harness::scene::ARGOCD;
use harness::targets::{Lives, Targets};
use harness::teams::{PRODUCTION, STAGING, Team, app_project};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use shared::errors::Code;

use crate::story::{Credential, Story};
use crate::{certificate, secrets};

/// Short enough that credentials rotate while one watches.
pub(crate) const LIVES: Lives = Lives {
    identity: Duration::from_secs(30),
    robot: Duration::from_secs(16),
};
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// Both teams call it the same; only its folder tells them apart.
const CHART: &str = "demo";
const VERSION: &str = "1.0.0";
/// Of production's chart, and never deployed by it: what Argo CD has in its cache it serves to every project.
const NEXT_VERSION: &str = "1.1.0";
const TEAMS: [Team; 2] = [PRODUCTION, STAGING];
/// The guides' Secrets, of production, staging and the remote cluster.
const SECRETS: [&str; 3] = ["prod-registry", "staging-registry", "spoke"];
/// Stands for cluster Secrets without a project.
const GLOBAL_CLUSTER: &str = "argocd-global-cluster";
/// The Application that asks for what is not its team's.
const CROSS: &str = "staging-reads-production";
/// Of an error that quotes a whole command.
const WORDS: usize = 160;

/// A team's chart, with a text by which it is known when it is deployed.
fn chart(team: Team) -> Chart<'static> {
    Chart {
        name: CHART,
        version: VERSION,
        message: team.project,
    }
}

fn next_chart(team: Team) -> Chart<'static> {
    Chart {
        version: NEXT_VERSION,
        ..chart(team)
    }
}

/// Publishes each team's chart.
pub(crate) async fn publish(story: &mut Story, targets: &Targets, peers: &Peers) -> Result<()> {
    for team in TEAMS {
        team.publish(targets, peers, &chart(team))?;
        team.publish(targets, peers, &next_chart(team))?;
        let anonymous = anonymous_pull(targets, team).await?;
        story.step(format!(
            "published {}/{}/{CHART}:{VERSION} for {}; an anonymous pull gets {anonymous}",
            targets.quay.host(),
            team.charts(),
            team.robot
        ));
    }
    Ok(())
}

/// Where the job is done, and with what.
pub(crate) struct Stage<'a> {
    pub(crate) targets: &'a Targets,
    pub(crate) remote: &'a RemoteCluster,
    pub(crate) source: &'a Source,
    pub(crate) peers: &'a Peers,
    pub(crate) binaries: &'a Binaries,
    /// With all rights in the cluster that Argo CD is in, as the one below.
    pub(crate) client: &'a Client,
    pub(crate) kubeconfig: &'a Path,
    pub(crate) applications: &'a Applications,
}

/// From the Secrets of the guides to synced Applications, and on to the next credential.
pub(crate) async fn sync(story: &mut Story, stage: &Stage<'_>) -> Result<Vec<Credential>> {
    let (targets, client, applications) = (stage.targets, stage.client, stage.applications);
    let remote = stage.remote;
    for team in TEAMS {
        targets.admit_to(remote, team.project).await?;
    }
    story.step(format!(
        "the remote cluster ({}) takes tokens of {}",
        remote.url(),
        targets.trust.issuer_url()
    ));
    if stage.source.is_stand_in() {
        story.step(
            "identities come from a test server that stands in for SPIRE (docs/stand-ins.md)",
        );
    }
    for (what, secret) in [
        (
            "Helm repository",
            PRODUCTION.charts_secret(targets, SECRETS[0]),
        ),
        (
            "native OCI repository",
            STAGING.artifact_secret(targets, SECRETS[1], &chart(STAGING)),
        ),
        ("cluster", targets.cluster_secret(remote, SECRETS[2])?),
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
    if let Some(code) = stage.source.unknown() {
        let reason = unknown(&bound, code).await?;
        story.step(format!("binding {} is not Ready yet: {reason}", SECRETS[0]));
    }
    let accounts = TEAMS.map(|team| team.service_account());
    let accounts: Vec<_> = accounts
        .into_iter()
        .chain([GLOBAL_CLUSTER.into()])
        .collect();
    let made = stage.source.make_accounts(client, &accounts).await?;
    if !made.is_empty() {
        story.step(format!("created the service accounts {}", made.join(", ")));
    }
    let allowed = targets.allowed_hosts();
    let registered = stage
        .source
        .register(stage.binaries, stage.kubeconfig, &allowed)?;
    match registered {
        Registered::Nowhere => {}
        Registered::Here(identities) => {
            story.step("registered with SPIRE what argocd-identity generate spire prints:");
            for spiffe_id in identities {
                story.detail(spiffe_id);
            }
        }
        Registered::Elsewhere(commands) => {
            story.step(
                "argocd-identity generate spire prints what is to be registered with SPIRE now:",
            );
            for line in commands.lines() {
                story.detail(line);
            }
        }
    }
    for name in SECRETS {
        let binding = bindings::ready(&bound, name, LIMIT).await?;
        story.step(format!(
            "binding {name} is Ready as {}",
            binding.spec.identity.subject
        ));
    }

    for team in TEAMS {
        let project = app_project(team.project).to_string();
        applications.apply(&project).await?;
    }
    applications
        .apply(&PRODUCTION.helm_application(
            targets,
            remote,
            "production",
            PRODUCTION,
            &chart(PRODUCTION),
        ))
        .await?;
    applications
        .apply(&STAGING.artifact_application(targets, remote, "staging", &chart(STAGING)))
        .await?;
    for team in TEAMS {
        let report = applications.synced_and_healthy(team.project, LIMIT).await?;
        deployed(remote, team, CHART).await?;
        story.step(format!(
            "Application {0} is {1} and {2}; the remote cluster has {0}'s chart",
            team.project, report.sync, report.health
        ));
    }
    applications
        .apply(&STAGING.helm_application(
            targets,
            remote,
            CROSS,
            PRODUCTION,
            &next_chart(PRODUCTION),
        ))
        .await?;
    let refusal = refused(applications).await?;
    story.step(format!("Application {CROSS} is refused: {refusal}"));
    certificate::sync(story, stage).await?;
    for team in TEAMS {
        let pulls = pulls(targets, team)?;
        story.step(format!(
            "the registry saw {pulls} requests as {}, all of them below {}/",
            team.robot, team.folder
        ));
    }

    rotated(&bound, SECRETS[0]).await?;
    let report = applications.hard_refresh("production", LIMIT).await?;
    ensure!(
        report.is_good(),
        "after the rotation the Application is {report:?}"
    );
    story
        .step("the registry credential was renewed under the running Argo CD, and it synced again");
    credentials(client.clone()).await
}

/// Waits until the first binding says with this code why it has no identity, and returns the whole sentence.
async fn unknown(bound: &Api<CredentialBinding>, code: Code) -> Result<String> {
    let wanted = ("Degraded", "True", code.as_str());
    let [name, ..] = SECRETS;
    let found = bindings::has_condition(bound, name, wanted, LIMIT).await?;
    let conditions = found.status.iter().flat_map(|status| &status.conditions);
    let mut degraded = conditions.filter(|it| it.kind == "Degraded");
    Ok(degraded.next().context("no condition")?.message.clone())
}

/// How often the registry served a team's robot. What it served lies in the team's folder.
fn pulls(targets: &Targets, team: Team) -> Result<usize> {
    let folder = format!("/v2/{}/", team.folder);
    let requests = targets.quay.requests().into_iter().filter(|request| {
        request.endpoint == Endpoint::Content && request.robot.as_deref() == Some(team.robot)
    });
    let (own, foreign): (Vec<_>, Vec<_>) =
        requests.partition(|it| it.path.starts_with(&folder) || it.path == "/v2/");
    ensure!(foreign.is_empty(), "{} asked for {foreign:?}", team.robot);
    ensure!(
        !own.is_empty(),
        "the registry saw nothing of {}",
        team.robot
    );
    Ok(own.len())
}

/// Waits until Argo CD says why it cannot compare the Application that asks for another team's chart.
async fn refused(applications: &Applications) -> Result<String> {
    wait_until("the refusal", LIMIT, || async move {
        let report = applications.report(CROSS).await?;
        let error = report
            .conditions
            .iter()
            .find(|it| it.starts_with("ComparisonError"));
        let error = error.with_context(|| format!("{report}"))?.trim();
        ensure!(
            ["401", "403", "unauthorized", "denied"]
                .iter()
                .any(|word| error.to_ascii_lowercase().contains(word)),
            "{error}"
        );
        let end = error.chars().count().saturating_sub(WORDS);
        Ok(format!("…{}", error.chars().skip(end).collect::<String>()))
    })
    .await
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
async fn anonymous_pull(targets: &Targets, team: Team) -> Result<String> {
    let (host, charts) = (targets.quay.host(), team.charts());
    let url = format!("https://{host}/v2/{charts}/{CHART}/manifests/{VERSION}");
    let status = targets
        .http_client()?
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
                identity: it.spec.identity.subject,
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

/// Waits until the team's own chart is in the team's namespace.
pub(crate) async fn deployed(remote: &RemoteCluster, team: Team, chart: &str) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(remote.client()?, team.project);
    let api = &api;
    wait_until("the chart's ConfigMap", LIMIT, || async move {
        let found = api.get(chart).await.context("read it")?;
        let message = found.data.and_then(|mut data| data.remove("message"));
        ensure!(message.as_deref() == Some(team.project), "{message:?}");
        Ok(())
    })
    .await
}
