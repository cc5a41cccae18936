//! Credentials that live a minute, under a running Argo CD: they are renewed
//! and nobody notices, and where one cannot be renewed everybody is told.

mod application;
mod exec_auth;
mod failures;
mod files;
mod isolation;
mod outage;
mod reader;
mod restarts;
mod secrecy;
mod tenant;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::argocd::Component;
use harness::bindings::CredentialBinding;
use harness::process::wait_until;
use harness::quay::Endpoint;
use harness::targets::{ROBOT, SPOKE_AUDIENCE};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use shared::layout;

use self::reader::{Reader, Watched};
use crate::case::{Case, shared};
use crate::scene::Scene;

pub(crate) use self::application::{Application, Versions};
pub(crate) use self::restarts::keys;
pub(crate) use self::secrecy::nothing_has;
pub(crate) use self::tenant::{LIMIT, Tenant, Values, volume};

/// The trials of this module.
pub(crate) fn cases() -> Vec<Case> {
    // It takes as long as the credentials live, four times.
    let mut cases = vec![
        shared!(argo_cd_syncs_while_credentials_rotate)
            .with_argocd()
            .within(Duration::from_secs(420)),
    ];
    cases.extend(outage::cases());
    cases.extend(failures::cases());
    cases.extend(isolation::cases());
    cases.extend(exec_auth::cases());
    cases.extend(restarts::cases());
    cases
}

/// How long the scene's credentials live.
pub(crate) const LIFE: Duration = Duration::from_secs(60);
/// Credentials of each file that have to be seen: the first and three renewals.
const CREDENTIALS: usize = 4;
/// Until then.
const ROTATIONS: Duration = Duration::from_secs(300);
/// A credential of [`LIFE`] is renewed no earlier than this: 75 % of what is left when it arrives.
const PERIOD: Duration = Duration::from_secs(43);

async fn argo_cd_syncs_while_credentials_rotate(scene: &Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "rotation", LIFE).await?;
    tenant.publish(scene, "prod/charts")?;
    scene.admit(tenant.name).await?;
    let begin = Instant::now();
    tenant
        .create("rotation-charts", "repository", &tenant.repository())
        .await?;
    // The same identity, robot and host: it shares the credential.
    let mut other = tenant.repository();
    other.insert("url", format!("oci://{}/prod/other", tenant.quay.host()));
    tenant
        .create("rotation-other", "repository", &other)
        .await?;
    let server = scene.remote.url();
    let cluster = cluster(scene, &server, SPOKE_AUDIENCE)?;
    tenant.create("rotation-spoke", "cluster", &cluster).await?;
    for name in ["rotation-charts", "rotation-other", "rotation-spoke"] {
        tenant.ready(name).await?;
    }
    let mut progress = Progress::default();
    progress.note(&tenant.bindings.get("rotation-charts").await?)?;

    let file = layout::cluster_file("rotation-spoke")?;
    let spoke = |component| anyhow::Ok(Watched::Cluster(volume(scene, component)?.join(&file)));
    let docker = tenant.registries.join(layout::DOCKER_CONFIG);
    let mut reader = Reader::start([
        Watched::Docker(docker, tenant.quay.host().to_owned()),
        spoke(Component::ApplicationController)?,
        spoke(Component::Server)?,
    ])?;

    let manifest = tenant.application("prod/charts", &server);
    let application = Application::create(scene, &manifest).await?;
    application.is_good(0).await?;
    let versions = Versions::watch(scene.client()?, tenant.name);
    let deployed = Deployed::new(scene, tenant.name)?;
    let reading = Instant::now();
    let mut rounds = 0;
    while reader.credentials()? < CREDENTIALS {
        ensure!(
            reading.elapsed() < ROTATIONS,
            "not every credential was renewed within {ROTATIONS:?}"
        );
        rounds += 1;
        let pulls = pulls(&tenant);
        deployed.disturb().await?;
        let report = application.refresh().await?;
        ensure!(report.conditions.is_empty(), "round {rounds}: {report}");
        ensure!(pulls < self::pulls(&tenant), "the chart was not pulled");
        application.sync(rounds).await?;
        deployed.is_restored(tenant.name).await?;
        versions.all_good()?;
        progress.note(&tenant.bindings.get("rotation-charts").await?)?;
    }
    let seen = reader.finish()?;
    let elapsed = begin.elapsed();

    ensure!(rounds >= 10, "only {rounds} syncs within {elapsed:?}");
    ensure!(
        versions.all_good()? > rounds,
        "the Application was not watched"
    );
    ensure!(seen.reads > 10_000, "only {} reads", seen.reads);
    // Two bindings share each exchange, and each has its own count of it.
    let exchanges = tenant.exchanges(ROBOT);
    let most = 1 + elapsed.as_secs() / PERIOD.as_secs();
    ensure!(
        (CREDENTIALS as u64..=most).contains(&(exchanges as u64)),
        "{exchanges} exchanges within {elapsed:?}"
    );
    let bindings = &tenant.bindings;
    let told = wait_until("the status", LIMIT, || async move {
        let found = bindings.get("rotation-charts").await?;
        let nodes = found.status.iter().flat_map(|status| &status.nodes);
        let rotations: u64 = nodes.map(|node| node.rotations).sum();
        ensure!(
            rotations == exchanges as u64,
            "{rotations} rotations are told, {exchanges} exchanges were seen"
        );
        Ok(found)
    });
    progress.note(&told.await?)?;
    let most = most as usize;
    ensure!(
        seen.credentials.iter().all(|count| *count <= most),
        "{:?} credentials within {elapsed:?}",
        seen.credentials
    );
    secrecy::nothing_has(scene, &seen.tokens).await?;

    application.delete().await?;
    for name in ["rotation-charts", "rotation-other", "rotation-spoke"] {
        tenant.delete(name).await?;
    }
    tenant.has_no_login().await
}

/// A cluster Secret without anything to authenticate with.
pub(crate) fn cluster(scene: &Scene, server: &str, audience: &str) -> Result<Values> {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(scene.remote.ca_pem());
    let config = json!({ "tlsClientConfig": { "caData": ca } });
    Ok([
        ("name", server.to_owned()),
        ("server", server.to_owned()),
        ("config", config.to_string()),
        ("useWorkloadIdentity", "true".to_owned()),
        ("workloadIdentityAudience", audience.to_owned()),
    ]
    .into())
}

/// Requests for content that the robot's credential was used for.
fn pulls(tenant: &Tenant) -> usize {
    tenant.quay.count(|request| {
        request.endpoint == Endpoint::Content && request.robot.as_deref() == Some(ROBOT)
    })
}

/// What a binding's status told so far.
#[derive(Default)]
struct Progress {
    rotations: u64,
    expires_at: Option<Timestamp>,
}

impl Progress {
    /// Takes in what it tells now: nothing of it may ever go back.
    fn note(&mut self, binding: &CredentialBinding) -> Result<()> {
        let status = binding.status.clone().unwrap_or_default();
        let [node] = status.nodes.as_slice() else {
            anyhow::bail!("{status:?}");
        };
        ensure!(node.error.is_none(), "{status:?}");
        let moved = node.rotations > self.rotations;
        let later = node.expires_at > self.expires_at;
        ensure!(
            moved == later && node.rotations >= self.rotations,
            "{status:?} after {} rotations and {:?}",
            self.rotations,
            self.expires_at
        );
        ensure!(node.last_rotation.is_some(), "{status:?}");
        self.rotations = node.rotations;
        self.expires_at = node.expires_at;
        Ok(())
    }
}

/// The ConfigMap that the chart makes in the remote cluster.
struct Deployed {
    maps: Api<ConfigMap>,
    name: &'static str,
}

impl Deployed {
    fn new(scene: &Scene, name: &'static str) -> Result<Self> {
        let maps = Api::namespaced(scene.remote.client()?, name);
        Ok(Self { maps, name })
    }

    /// Changes it, so that a sync has something to do.
    async fn disturb(&self) -> Result<()> {
        let patch = Patch::Merge(json!({ "data": { "message": "disturbed" } }));
        let how = PatchParams::default();
        self.maps.patch(self.name, &how, &patch).await?;
        Ok(())
    }

    /// Waits until it is as the chart has it, by the identity of the cluster Secret.
    async fn is_restored(&self, message: &str) -> Result<()> {
        wait_until("the restored ConfigMap", LIMIT, || async move {
            let found = self.maps.get(self.name).await.context("read it")?;
            let data = found.data.unwrap_or_default();
            ensure!(
                data.get("message").map(String::as_str) == Some(message),
                "{data:?}"
            );
            Ok(())
        })
        .await
    }
}
