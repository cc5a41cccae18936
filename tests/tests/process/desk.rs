//! Where a reader of a guide, or of a page of the documentation, sits: applies its YAML in Argo CD's namespace, and looks at what became of it.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::bindings::{self, CredentialBinding};
use harness::control_plane::documents;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use harness::teams::app_project;
use harness::upstreams::Trusted;
use kube::Api;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use shared::errors::Code;
use tokio::sync::{Mutex, MutexGuard};

use crate::api::Rest;
use crate::rotation::Application;
use crate::scene::Scene;

/// Until something that was caused has happened, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A reader, and what has to go when the guide has been played.
pub(crate) struct Desk<'s> {
    scene: &'s Scene,
    rest: Rest,
    bindings: Api<CredentialBinding>,
    applications: Vec<Application>,
    applied: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

/// An Application of a project with a chart of a registry's, deployed into a namespace of Argo CD's own cluster.
pub(crate) fn application(
    name: &str,
    project: &str,
    repository: &str,
    chart: &str,
    namespace: &str,
) -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": { "name": name, "namespace": ARGOCD },
        "spec": {
            "project": project,
            "source": { "repoURL": repository, "chart": chart, "targetRevision": "1.0.0" },
            "destination": { "server": "https://kubernetes.default.svc", "namespace": namespace },
        },
    })
}

/// Waits until nobody listens any more where a host of the guides has its server.
pub(crate) async fn vacant(address: Ipv4Addr) -> Result<SocketAddrV4> {
    let address = SocketAddrV4::new(address, 443);
    let what = format!("{address} is vacant");
    wait_until(&what, LIMIT, || async move {
        TcpListener::bind(address).map(drop).context("listen there")
    })
    .await?;
    Ok(address)
}

/// Who issues tokens of the cluster's service accounts, as its documents say.
pub(crate) async fn cluster(scene: &Scene) -> Result<Trusted> {
    let rest = scene.rest()?;
    let discovery = rest.read("/.well-known/openid-configuration").await?;
    let issuer = discovery["issuer"].as_str().context("no issuer")?;
    Ok(Trusted {
        issuer: issuer.to_owned(),
        keys: serde_json::from_value(rest.read("/openid/v1/jwks").await?)?,
    })
}

/// Who issues the installation's JWT-SVIDs.
pub(crate) async fn installation(scene: &Scene) -> Result<Trusted> {
    let issuer = scene.around.plan.issuer_url();
    let client = scene.around.targets.http_client()?;
    let keys = client.get(format!("{issuer}/keys")).send().await?;
    Ok(Trusted {
        keys: keys.json().await.context("read the keys")?,
        issuer,
    })
}

/// The guides share names of projects, and each host has one address.
static TURN: Mutex<()> = Mutex::const_new(());

impl<'s> Desk<'s> {
    /// Waits until no other guide is being played.
    pub(crate) async fn open(scene: &'s Scene) -> Result<Self> {
        Ok(Self {
            _turn: TURN.lock().await,
            scene,
            rest: scene.rest()?,
            bindings: bindings::api(scene.client()?, ARGOCD),
            applications: Vec::new(),
            applied: Vec::new(),
        })
    }

    /// Makes a project of Argo CD's, which the guides take for granted.
    pub(crate) async fn project(&mut self, name: &str) -> Result<()> {
        let path = format!("/apis/argoproj.io/v1alpha1/namespaces/{ARGOCD}/appprojects");
        self.create(&path, &app_project(name)).await
    }

    /// Applies those documents of a guide that are called one of `names`; Applications are for
    /// [`Desk::application`].
    pub(crate) async fn apply(&mut self, yaml: &str, names: &[&str]) -> Result<()> {
        for name in names {
            let object = serde_json::to_value(document(yaml, name)?)?;
            self.apply_object(&object).await?;
        }
        Ok(())
    }

    /// Applies a ServiceAccount or Secret.
    pub(crate) async fn apply_object(&mut self, object: &Value) -> Result<()> {
        let collection = match object["kind"].as_str() {
            Some("ServiceAccount") => "serviceaccounts",
            Some("Secret") => "secrets",
            kind => anyhow::bail!("a {kind:?}"),
        };
        let path = format!("/api/v1/namespaces/{ARGOCD}/{collection}");
        self.create(&path, object).await
    }

    /// Makes a namespace for what Applications deploy.
    pub(crate) async fn namespace(&self, name: &'static str) -> Result<()> {
        self.scene.namespace(name, &[]).await.map(drop)
    }

    async fn create(&mut self, collection: &str, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str();
        let path = format!("{collection}/{}", name.context("an object without a name")?);
        let created = self.rest.create(collection, object).await;
        created.with_context(|| format!("create {path}"))?;
        self.applied.push(path);
        Ok(())
    }

    /// Applies an Application of a guide, into a namespace of its own, and waits until it is good.
    pub(crate) async fn application(&mut self, manifest: Value) -> Result<()> {
        let application = self.create_application(manifest).await?;
        application.is_good(0).await?;
        self.applications.push(application);
        Ok(())
    }

    /// The same with one that must not get its chart; returns what Argo CD says.
    pub(crate) async fn refused(&mut self, manifest: Value) -> Result<String> {
        let application = self.create_application(manifest).await?;
        let error = application.fails().await?;
        self.applications.push(application);
        Ok(error)
    }

    async fn create_application(&self, mut manifest: Value) -> Result<Application> {
        manifest["metadata"]["namespace"] = json!(ARGOCD);
        Application::create(self.scene, &manifest).await
    }

    /// Waits until a Secret's binding is Ready.
    pub(crate) async fn ready(&self, name: &str) -> Result<CredentialBinding> {
        bindings::ready(&self.bindings, name, LIMIT).await
    }

    /// Waits until a Secret's binding has no credential for this reason, and returns the words.
    pub(crate) async fn degraded(&self, name: &str, code: Code) -> Result<String> {
        let wanted = ("Degraded", "True", code.as_str());
        let found = bindings::has_condition(&self.bindings, name, wanted, LIMIT).await?;
        let conditions = found.status.into_iter().flat_map(|it| it.conditions);
        let mut degraded = conditions.filter(|it| it.kind == "Degraded");
        Ok(degraded.next().context("no condition")?.message)
    }

    /// Takes everything away again; no binding is left.
    pub(crate) async fn close(self) -> Result<()> {
        for application in self.applications {
            application.delete().await?;
        }
        for path in self.applied.iter().rev() {
            self.rest.delete(path).await?;
        }
        for path in &self.applied {
            let Some((_, name)) = path.split_once("/secrets/") else {
                continue;
            };
            let (bindings, what) = (&self.bindings, format!("the end of binding {name}"));
            wait_until(&what, LIMIT, || async move {
                let found = bindings.get_opt(name).await?;
                anyhow::ensure!(found.is_none(), "it is still there");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// The document of a guide with this name.
pub(crate) fn document(yaml: &str, name: &str) -> Result<DynamicObject> {
    let mut all = documents(yaml)?.into_iter();
    let found = all.find(|it| it.metadata.name.as_deref() == Some(name));
    found.with_context(|| format!("the guide has no {name}"))
}
