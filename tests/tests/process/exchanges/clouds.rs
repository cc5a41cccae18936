//! What the pages on clouds promise, the same for each: their YAML pulls with the cluster's own service account, and two
//! projects on one registry host pull with accounts of their own, of which the cloud decides what they read.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use harness::argocd::Component;
use harness::chart::Chart;
use harness::cloud::{Cloud, Grant, Services};
use harness::process::output;
use harness::scene::ARGOCD;
use harness::targets::identity;
use harness::upstreams::{Server, Trusted};
use serde_json::{Value, json};
use shared::layout;

use super::page::Page;
use crate::desk::{self, Desk, vacant};
use crate::rotation::volume;
use crate::scene::Scene;

/// A cloud that runs under its own names.
pub(super) struct Running<C> {
    pub(super) cloud: C,
    _server: Server,
}

impl<C> Running<C> {
    /// Serves a cloud at the address that its names have.
    pub(super) async fn start(
        scene: &Scene,
        cloud: C,
        services: Services,
        address: Ipv4Addr,
    ) -> Result<Self> {
        let authority = &scene.around.targets.authority;
        let at = vacant(address).await?;
        let _server = services.serve(authority, at.into()).await?;
        Ok(Self { cloud, _server })
    }
}

/// Whom a cloud gives an account, and what for.
pub(super) struct Admission<'a> {
    /// The account's short name.
    pub(super) name: &'a str,
    pub(super) issuer: &'a str,
    pub(super) subject: &'a str,
    /// The folder of the registry that it reads.
    pub(super) folder: &'a str,
}

/// An account of the cloud.
pub(super) struct Account {
    /// As the cloud calls it.
    pub(super) name: String,
    /// How a service account of the cluster says that it is this one.
    pub(super) annotations: Value,
}

/// One of the clouds.
pub(super) trait Far {
    /// Provider's name in Secrets, and the registry's host.
    const NAMES: (&'static str, &'static str);

    fn cloud(&self) -> &Cloud;

    /// Does what the page's "On the far side" says.
    fn admit(&self, admission: &Admission<'_>) -> Account;

    /// The folder of the registry in which a team has its charts.
    fn folder(team: &str) -> String;
}

const VERSION: &str = "1.0.0";

fn push(scene: &Scene, far: &impl Far, name: &str, folder: &str) -> Result<()> {
    let chart = Chart {
        name,
        version: VERSION,
        message: "from a cloud",
    };
    far.cloud().push(scene.peers.helm(), &chart, folder)
}

/// Who issues tokens of service accounts, and who JWT-SVIDs; the cloud finds the keys of both.
async fn issuers(scene: &Scene, far: &impl Far) -> Result<[Trusted; 2]> {
    let issuers = [
        desk::cluster(scene).await?,
        desk::installation(scene).await?,
    ];
    for Trusted { issuer, keys } in &issuers {
        far.cloud().add_issuer(issuer, Some(keys));
    }
    Ok(issuers)
}

/// The page as it is: a Secret without a project, which Helm has in its Docker configuration.
pub(super) async fn page<F: Far>(scene: &Scene, far: &F, page: &Page) -> Result<()> {
    let (provider, host) = F::NAMES;
    let mut desk = Desk::open(scene).await?;
    let [cluster, _] = issuers(scene, far).await?;
    let folder = F::folder("charts");
    push(scene, far, "my-chart", &folder)?;
    let service_account = page.object("ServiceAccount")?;
    let account = far.admit(&Admission {
        name: "argocd-puller",
        issuer: &cluster.issuer,
        subject: &format!("system:serviceaccount:{ARGOCD}:argocd-global"),
        folder: &folder,
    });
    let annotations = &service_account["metadata"]["annotations"];
    ensure!(*annotations == account.annotations, "{annotations}");

    desk.apply_object(&service_account).await?;
    let secret = page.object("Secret")?;
    desk.apply_object(&secret).await?;
    let name = secret["metadata"]["name"].as_str().context("no name")?;
    desk.ready(name).await?;
    let namespace = match provider {
        "gcp" => "page-gcp",
        _ => "page-azure",
    };
    desk.namespace(namespace).await?;
    let mut application = desk::application(namespace, "default", "", "", namespace);
    application["spec"]["source"] = page.source()?;
    desk.application(application).await?;
    let own = || BTreeSet::from([(account.name.clone(), folder.clone())]);
    ensure!(served(far) == own(), "{:?}", served(far));

    // Whoever has the volume pulls as well.
    let before = far.cloud().content().len();
    let work = scene.folder.join(namespace);
    std::fs::create_dir_all(&work).context("make a folder")?;
    let authority = work.join("authority.pem");
    std::fs::write(&authority, scene.around.targets.authority.pem()).context("write a root")?;
    let config = volume(scene, Component::RepoServer)?.join(layout::DOCKER_CONFIG);
    let config = config.parent().context("no folder")?;
    output(
        Command::new(scene.peers.helm())
            .env_clear()
            .env("HOME", &work)
            .env("DOCKER_CONFIG", config)
            .arg("pull")
            .arg(format!("oci://{host}/{folder}/my-chart"))
            .args(["--version", VERSION, "--ca-file"])
            .arg(&authority)
            .arg("--destination")
            .arg(&work),
    )?;
    ensure!(work.join("my-chart-1.0.0.tgz").exists());
    ensure!(far.cloud().content().len() > before && served(far) == own());
    desk.close().await
}

/// A project with an account of its own.
struct Team<'a> {
    project: &'static str,
    account: Account,
    folder: String,
    /// `workloadIdentityCredential`, where it is not the provider's own.
    credential: Option<&'a str>,
}

/// Two projects on one host, one with service account tokens and one with JWT-SVIDs.
pub(super) async fn two_projects<F: Far>(scene: &Scene, far: &F, page: &Page) -> Result<()> {
    let (provider, _) = F::NAMES;
    let mut desk = Desk::open(scene).await?;
    let issuers = issuers(scene, far).await?;
    let mut teams = Vec::new();
    for (project, credential, trusted) in [
        ("production", None, &issuers[0]),
        ("staging", Some("SpiffeJWT"), &issuers[1]),
    ] {
        let service_account = format!("argocd-project-{project}");
        let subject = match credential {
            None => format!("system:serviceaccount:{ARGOCD}:{service_account}"),
            Some(_) => identity(&service_account),
        };
        let folder = F::folder(project);
        push(scene, far, project, &folder)?;
        let account = far.admit(&Admission {
            name: project,
            issuer: &trusted.issuer,
            subject: &subject,
            folder: &folder,
        });
        let mut object = page.object("ServiceAccount")?;
        object["metadata"]["name"] = json!(service_account);
        object["metadata"]["annotations"] = account.annotations.clone();
        desk.apply_object(&object).await?;
        desk.project(project).await?;
        let team = Team {
            project,
            account,
            folder,
            credential,
        };
        let name = format!("{provider}-{project}");
        let binding = secret::<F>(&mut desk, page, &name, &team, &team.folder).await?;
        ensure!(binding == subject, "{binding}");
        teams.push(team);
    }

    let namespace = match provider {
        "gcp" => "teams-gcp",
        _ => "teams-azure",
    };
    desk.namespace(namespace).await?;
    let application = |name: &str, team: &Team<'_>, owner: &Team<'_>| {
        let repository = format!("{}/{}", F::NAMES.1, owner.folder);
        let name = format!("{provider}-{name}-{}", team.project);
        desk::application(&name, team.project, &repository, owner.project, namespace)
    };
    for team in &teams {
        desk.application(application("own", team, team)).await?;
    }
    // A project whose own Secret names the other's repository has its own account there, and is refused by the cloud.
    for (team, other) in [(&teams[0], &teams[1]), (&teams[1], &teams[0])] {
        let name = format!("{provider}-strange-{}", team.project);
        secret::<F>(&mut desk, page, &name, team, &other.folder).await?;
        let before = far.cloud().grants().len();
        let manifest = application("strange", team, other);
        let error = desk.refused(manifest).await?;
        ensure!(!error.contains("eyJ") && !error.contains("ya29"), "{error}");
        let refusal = Grant {
            account: team.account.name.clone(),
            asked: vec![format!("{}/{}", other.folder, other.project)],
            granted: Vec::new(),
        };
        let grants = far.cloud().grants().split_off(before);
        ensure!(grants.contains(&refusal), "{grants:?}");
    }
    let expected = teams.into_iter().map(|it| (it.account.name, it.folder));
    let expected: BTreeSet<_> = expected.collect();
    ensure!(served(far) == expected, "{:?}", served(far));
    desk.close().await
}

/// Applies the page's Secret as one of a project, for a folder of the registry; returns the identity's subject.
async fn secret<F: Far>(
    desk: &mut Desk<'_>,
    page: &Page,
    name: &str,
    team: &Team<'_>,
    folder: &str,
) -> Result<String> {
    let mut secret = page.object("Secret")?;
    secret["metadata"]["name"] = json!(name);
    let values = &mut secret["stringData"];
    values["project"] = json!(team.project);
    values["url"] = json!(format!("oci://{}/{folder}", F::NAMES.1));
    if let Some(credential) = team.credential {
        values["workloadIdentityCredential"] = json!(credential);
    }
    desk.apply_object(&secret).await?;
    Ok(desk.ready(name).await?.spec.identity.subject)
}

/// The accounts that content was served to, and the folders that it was from.
fn served(far: &impl Far) -> BTreeSet<(String, String)> {
    let content = far.cloud().content().into_iter();
    content
        .filter(|it| it.status < 400)
        .filter_map(|it| {
            let (repository, _) = it.path.strip_prefix("/v2/")?.split_once("/manifests/")?;
            let (folder, _chart) = repository.rsplit_once('/')?;
            Some((it.account.unwrap_or_default(), folder.to_owned()))
        })
        .collect()
}
