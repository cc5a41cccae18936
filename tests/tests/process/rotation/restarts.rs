//! The agent and the control plane crash and come back. Volumes, folders and
//! credentials outlive both; what has expired meanwhile does not.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::argocd::Component;
use harness::process::wait_until;
use harness::quay::{self, Endpoint, Failure};
use harness::targets::identity;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;
use shared::errors::Code;
use shared::layout;

use super::files;
use super::reader::{Reader, Watched};
use super::tenant::{LIMIT, Tenant, volume};
use super::{LIFE, cluster};
use crate::case::{Case, exclusive};
use crate::scene::Scene;

pub(super) fn cases() -> Vec<Case> {
    vec![
        exclusive!(an_agent_that_was_killed_takes_its_volumes_over).with_argocd(),
        exclusive!(a_control_plane_that_was_killed_is_not_missed).with_argocd(),
    ]
}

/// Shorter than the agent is away.
const SHORT: Duration = Duration::from_secs(8);
/// Long enough for a control plane to start in the fifth that is left when a renewal is due.
const MEDIUM: Duration = Duration::from_secs(30);

const COMPONENTS: [Component; 2] = [Component::RepoServer, Component::ApplicationController];

async fn an_agent_that_was_killed_takes_its_volumes_over(scene: &mut Scene) -> Result<()> {
    let long = Tenant::start(scene, "restart-long", LIFE).await?;
    let short = Tenant::start(scene, "restart-short", SHORT).await?;
    long.create(long.name, "repository", &long.repository())
        .await?;
    short
        .create(short.name, "repository", &short.repository())
        .await?;
    // Nobody connects to it.
    let server = format!("https://{}:6444", quay::HOST);
    let values = cluster(scene, &server, "restart-spoke")?;
    long.create("restart-spoke", "cluster", &values).await?;
    for name in [long.name, short.name, "restart-spoke"] {
        long.ready(name).await?;
    }
    let spoke = volume(scene, Component::ApplicationController)?
        .join(layout::cluster_file("restart-spoke")?);
    let folders = Folders::of(scene)?;

    scene.installation.agent.kill()?;
    for tenant in [&long, &short] {
        let failure = Failure {
            status: Some(StatusCode::SERVICE_UNAVAILABLE),
            ..Failure::default()
        };
        tenant.quay.fail(Endpoint::Federation, failure);
    }
    let (kept, expiring) = (
        long.has_login(|_| true).await?,
        short.has_login(|_| true).await?,
    );
    let token = files::exec_token(&fs::read(&spoke)?)?;
    wait_until("the end of a credential's life", LIMIT, || async {
        ensure!(Timestamp::now() > expiring.expires_at, "it is not over");
        Ok(())
    })
    .await?;
    ensure!(short.login()?.is_some(), "somebody else removed it");

    scene.installation.start_agent().await?;
    // The socket answers, so what has expired is gone; what has not is as it was.
    ensure!(
        short.login()?.is_none(),
        "an expired credential is still there"
    );
    ensure!(
        long.login()?.as_ref() == Some(&kept),
        "a valid credential is not taken over"
    );
    let taken_over = files::exec_token(&fs::read(&spoke)?)?;
    ensure!(
        taken_over == token || taken_over.expires_at > token.expires_at,
        "a valid token is not taken over"
    );
    // The pods' tokens come with the next publish, and their credentials go on.
    long.refused(short.name, Code::ExchangeUnreachable).await?;
    ensure!(
        long.login()?.as_ref() == Some(&kept),
        "the last good credential is gone"
    );
    for tenant in [&long, &short] {
        tenant.quay.heal(Endpoint::Federation);
    }
    short.has_login(|login| *login != expiring).await?;
    long.has_login(|login| *login != kept).await?;
    for name in [long.name, short.name, "restart-spoke"] {
        long.ready(name).await?;
    }
    ensure!(
        Folders::of(scene)? == folders,
        "folders were made anew, which mounts of subPath do not see"
    );
    // A container sees the new token through its old mounts, once there is one.
    wait_until("a renewal of the cluster's token", LIMIT, || async {
        let current = files::exec_token(&fs::read(&spoke)?)?;
        ensure!(current.token != token.token, "it is the old one");
        Ok(())
    })
    .await?;
    let container = scene
        .argocd()?
        .container(Component::ApplicationController)?;
    let mut call = container.exec("/binaries/exec-auth")?;
    let output = call.args(["--cluster", "restart-spoke"]).output()?;
    let printed = files::exec_token(&output.stdout)?;
    ensure!(
        printed.token != token.token
            && printed.subject == identity("argocd-application-controller"),
        "the container has an old token"
    );

    long.delete("restart-spoke").await?;
    long.delete(long.name).await?;
    short.delete(short.name).await?;
    short.has_no_login().await
}

async fn a_control_plane_that_was_killed_is_not_missed(scene: &mut Scene) -> Result<()> {
    let tenant = Tenant::start(scene, "restart-control", MEDIUM).await?;
    tenant
        .create(tenant.name, "repository", &tenant.repository())
        .await?;
    tenant.ready(tenant.name).await?;
    let keys = keys(scene).await?;
    let host = tenant.quay.host().to_owned();
    let docker = tenant.registries.join(layout::DOCKER_CONFIG);
    let mut reader = Reader::start([Watched::Docker(docker, host)])?;
    let before = tenant.has_login(|_| true).await?;

    scene.installation.control_plane.kill()?;
    // The renewal is due, and there is nobody to ask for an identity.
    let bindings = &tenant.bindings;
    wait_until("a renewal that fails", LIMIT, || async {
        let found = bindings.get(tenant.name).await?;
        let nodes = found.status.unwrap_or_default().nodes;
        let error = nodes.first().and_then(|node| node.error.as_ref());
        let code = error.map(|error| error.code.as_str());
        ensure!(
            code == Some(Code::ControlPlaneUnreachable.as_str()),
            "{nodes:?}"
        );
        Ok(())
    })
    .await?;
    reader.credentials()?;
    ensure!(
        tenant.login()?.as_ref() == Some(&before),
        "the last good credential is gone"
    );

    scene.installation.start_control_plane().await?;
    tenant.has_login(|login| *login != before).await?;
    let seen = reader.finish()?;
    ensure!(seen.credentials == [2], "{seen:?}");
    ensure!(
        self::keys(scene).await? == keys,
        "the new process signs with another key"
    );
    // It leads when the lease of the one that was killed has lapsed, and then tells how things are.
    tenant.ready(tenant.name).await?;
    // And takes in what is new.
    let more = "restart-control-more";
    let mut values = tenant.repository();
    values.insert("url", format!("oci://{}/prod/more", tenant.quay.host()));
    tenant.create(more, "repository", &values).await?;
    tenant.ready(more).await?;
    tenant.delete(more).await?;
    tenant.delete(tenant.name).await?;
    tenant.has_no_login().await
}

/// The issuer's published keys.
pub(crate) async fn keys(scene: &Scene) -> Result<Value> {
    let authority = scene.around.targets.authority.pem();
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(authority.as_bytes())?])
        .no_proxy()
        .build()?;
    let read = async |url: String| -> Result<Value> {
        let answer = http.get(&url).send().await?.error_for_status()?;
        answer.json().await.with_context(|| format!("read {url}"))
    };
    let issuer = scene.around.plan.issuer_url();
    let discovery = read(format!("{issuer}/.well-known/openid-configuration")).await?;
    let url = discovery["jwks_uri"].as_str().context("no jwks_uri")?;
    read(url.to_owned()).await
}

/// Device and inode of each folder of the components' volumes.
#[derive(Debug, PartialEq, Eq)]
struct Folders(Vec<(PathBuf, u64, u64)>);

impl Folders {
    fn of(scene: &Scene) -> Result<Self> {
        let mut folders = Vec::new();
        for component in COMPONENTS {
            let volume = volume(scene, component)?;
            for name in [
                "",
                layout::DOCKER_DIR,
                layout::CLUSTERS_DIR,
                layout::BIN_DIR,
            ] {
                folders.push(Self::one(&volume.join(name))?);
            }
        }
        Ok(Self(folders))
    }

    fn one(path: &Path) -> Result<(PathBuf, u64, u64)> {
        let found = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
        Ok((path.to_owned(), found.dev(), found.ino()))
    }
}
