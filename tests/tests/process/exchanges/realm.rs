//! The real registry behind a realm that trusts identities: they are shown to a realm that the Secret names, taken as a
//! password by the credential proxy's hand, and by Helm's own from the Docker configuration.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use harness::bindings;
use harness::chart::Chart;
use harness::quay;
use harness::registry::{Registry, TokenAuth};
use harness::scene::ARGOCD;
use harness::targets::{identity, secret};
use harness::teams::app_project;
use harness::token_server::{ISSUER, TokenServer};
use harness::upstreams::{Server, Trusted};
use serde_json::Value;

use crate::case::{Case, shared};
use crate::desk;
use crate::rotation::{Application, LIMIT};
use crate::scene::Scene;

pub(crate) fn cases() -> Vec<Case> {
    vec![shared!(realms_and_tokens_as_passwords).with_argocd()]
}

/// What every registry here is to its realm.
pub(super) const SERVICE: &str = "registry-with-a-realm";
const AUDIENCE: &str = "registry-with-a-realm";
/// A chart for each way: Argo CD keeps what it has pulled once.
const CHARTS: [&str; 3] = ["realm-realm", "realm-passed", "realm-shared"];
const VERSION: &str = "1.0.0";

/// A registry and its realm.
pub(super) struct Realm {
    pub(super) host: String,
    pub(super) server: TokenServer,
    _front: Server,
    _registry: Registry,
}

/// How the two are set up.
pub(super) struct Settings<'a> {
    /// The folder of the scene's that their files go to.
    pub(super) folder: &'a str,
    /// Whose tokens the realm trusts.
    pub(super) trusted: Trusted,
    /// The audience that these must have.
    pub(super) audience: &'a str,
    /// What there is below `prod/charts`.
    pub(super) charts: &'a [&'a str],
    /// Subjects, and the prefix of the repositories that each may pull.
    pub(super) grants: &'a [(&'a str, &'a str)],
}

impl Realm {
    /// Starts them.
    pub(super) async fn start(scene: &Scene, settings: Settings<'_>) -> Result<Self> {
        let targets = &scene.around.targets;
        let Settings {
            folder,
            trusted,
            audience,
            charts,
            grants,
        } = settings;
        let server = TokenServer::new(trusted, audience, SERVICE, grants)?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let front = Server::start(&targets.authority, &[quay::HOST], at, server.routes()).await?;
        let host = format!("{}:{}", quay::HOST, front.address.port());

        let (program, folder) = (scene.peers.registry(), scene.folder.join(folder));
        let open = Registry::open(program, &folder).await?;
        for &name in charts {
            let chart = Chart {
                name,
                version: VERSION,
                message: "behind a realm",
            };
            chart.push_in_the_open(scene.peers.helm(), &folder, &open.url(), "prod/charts")?;
        }
        drop(open);
        let auth = TokenAuth {
            realm: format!("https://{host}/token"),
            service: SERVICE.into(),
            issuer: ISSUER.into(),
            jwks: server.jwks().into(),
        };
        let registry = Registry::start(program, &folder, &auth).await?;
        server.front(registry.url());
        Ok(Self {
            host,
            server,
            _front: front,
            _registry: registry,
        })
    }

    /// Where the realm is.
    pub(super) fn url(&self) -> String {
        format!("https://{}/token", self.host)
    }

    /// An Application of a project with one of the charts, deployed into a namespace of Argo CD's own cluster.
    pub(super) fn application(
        &self,
        name: &str,
        project: &str,
        chart: &str,
        namespace: &str,
    ) -> Value {
        let repository = format!("{}/prod/charts", self.host);
        desk::application(name, project, &repository, chart, namespace)
    }
}

async fn realms_and_tokens_as_passwords(scene: &Scene) -> Result<()> {
    let accounts = [
        "argocd-project-realm",
        "argocd-project-passed",
        "argocd-global",
    ];
    let subjects = accounts.map(identity);
    let settings = Settings {
        folder: "realm",
        trusted: desk::installation(scene).await?,
        audience: AUDIENCE,
        charts: &CHARTS,
        grants: &subjects.each_ref().map(|it| (it.as_str(), "prod/")),
    };
    let realm = Realm::start(scene, settings).await?;
    scene.namespace("realm", &[]).await?;
    let rest = scene.rest()?;
    let (secrets, realm_url) = (format!("/api/v1/namespaces/{ARGOCD}/secrets"), realm.url());
    let projects = format!("/apis/argoproj.io/v1alpha1/namespaces/{ARGOCD}/appprojects");
    let all = bindings::api(scene.client()?, ARGOCD);
    // Project, auth URL, and how the realm is asked: a bearer, or any name with the token as its password.
    for (project, auth_url, scheme) in [
        (Some("realm"), Some(realm_url.as_str()), "bearer"),
        (Some("passed"), None, "basic"),
        (None, None, "basic"),
    ] {
        let name = format!("realm-{}", project.unwrap_or("shared"));
        let url = format!("oci://{}/prod/charts", realm.host);
        let mut values = vec![
            ("type", "helm"),
            ("url", &url),
            ("workloadIdentityProvider", "spiffe"),
            ("workloadIdentityAudience", AUDIENCE),
            ("workloadIdentityRegistryService", SERVICE),
        ];
        if let Some(project) = project {
            values.push(("project", project));
            rest.create(&projects, &app_project(project)).await?;
        }
        values.extend(auth_url.map(|url| ("workloadIdentityRegistryAuthURL", url)));
        let secret = serde_json::from_str(&secret(&name, "repository", &values))?;
        rest.create(&secrets, &secret).await?;
        bindings::ready(&all, &name, LIMIT).await?;
        let before = realm.server.shown().len();
        let manifest = realm.application(&name, project.unwrap_or("default"), &name, "realm");
        let application = Application::create(scene, &manifest).await?;
        application.is_good(0).await?;
        let shown = realm.server.shown().split_off(before);
        let scope = format!("repository:prod/charts/{name}:pull");
        let pull = shown.iter().find(|it| it.contains(&scope));
        let pull = pull.with_context(|| format!("{name}: {shown:?}"))?;
        let is_shown = pull.to_ascii_lowercase().starts_with(scheme);
        ensure!(is_shown, "{name}: {shown:?}");
        application.delete().await?;
        rest.delete(&format!("{secrets}/{name}")).await?;
    }
    Ok(())
}
