//! What a trial has for itself in the scene: a registry at a port of its own,
//! which is another host to Docker configurations, and Secrets of its own in
//! Argo CD's namespace. So trials run beside each other, and one may break its
//! registry.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use harness::argocd::Component;
use harness::bindings::{self, CredentialBinding};
use harness::chart::Chart;
use harness::process::wait_until;
use harness::quay::{Endpoint, Quay, Robot};
use harness::scene::ARGOCD;
use harness::targets::{ROBOT, identity};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use shared::errors::Code;
use shared::layout;

use super::files::{self, Login};
use crate::api::Rest;
use crate::scene::Scene;

/// Until something that was caused has happened, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Where the tenants' charts are.
const CHARTS: &str = "prod/charts";

/// Keys and values of a Secret.
pub(crate) type Values = BTreeMap<&'static str, String>;

/// A registry and Secrets.
pub(crate) struct Tenant {
    /// Its own; every name that it uses begins with it.
    pub(crate) name: &'static str,
    pub(crate) quay: Quay,
    /// Argo CD's namespace.
    pub(crate) bindings: Api<CredentialBinding>,
    rest: Rest,
    issuer: String,
    /// The volume of Argo CD's repo-server.
    pub(crate) registries: PathBuf,
}

impl Tenant {
    /// Starts a registry whose robot [`ROBOT`] trusts the identity of Secrets
    /// without a project and pulls below `prod/`.
    pub(crate) async fn start(scene: &Scene, name: &'static str, life: Duration) -> Result<Self> {
        let quay = scene
            .around
            .targets
            .registry(&scene.peers, name, life)
            .await?;
        let tenant = Self {
            name,
            quay,
            bindings: bindings::api(scene.client()?, ARGOCD),
            rest: scene.rest()?,
            issuer: scene.around.plan.issuer_url(),
            registries: volume(scene, Component::RepoServer)?,
        };
        tenant.add_robot(ROBOT, "argocd-global");
        Ok(tenant)
    }

    /// Looks at the repo-server's new pod from now on.
    pub(crate) fn follow(&mut self, scene: &Scene) -> Result<()> {
        self.registries = volume(scene, Component::RepoServer)?;
        Ok(())
    }

    /// Adds a robot as [`ROBOT`] is, which trusts the identity of `account`.
    pub(crate) fn add_robot(&self, name: &str, account: &str) {
        let subject = identity(account);
        let robot = Robot::federated(name, &self.issuer, subject, &["prod/"]);
        self.quay.add_robot(robot);
    }

    /// Pushes a chart with the tenant's name and message.
    pub(crate) fn publish(&self, scene: &Scene, path: &str) -> Result<()> {
        let chart = Chart {
            name: self.name,
            version: "1.0.0",
            message: self.name,
        };
        scene
            .around
            .targets
            .push(&scene.peers, &self.quay, path, &chart)
    }

    /// A repository Secret as the Quay guide has it, without its project line.
    pub(crate) fn repository(&self) -> Values {
        let host = self.quay.host();
        [
            ("type", "helm".to_owned()),
            ("url", format!("oci://{host}/{CHARTS}")),
            ("useWorkloadIdentity", "true".to_owned()),
            ("workloadIdentityProvider", "spiffe".to_owned()),
            // No two registries may be shown the same token.
            ("workloadIdentityAudience", self.name.to_owned()),
            (
                "workloadIdentityRegistryAuthURL",
                self.quay.federation_url(),
            ),
            ("workloadIdentityRegistryService", host.to_owned()),
            ("workloadIdentityRegistryUsername", ROBOT.to_owned()),
        ]
        .into()
    }

    /// An Application with the tenant's chart and without a sync policy.
    pub(crate) fn application(&self, path: &str, server: &str) -> Value {
        json!({
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": { "name": self.name, "namespace": ARGOCD },
            "spec": {
                "project": "default",
                "source": {
                    "repoURL": format!("{}/{path}", self.quay.host()),
                    "chart": self.name,
                    "targetRevision": "1.0.0",
                },
                "destination": { "server": server, "namespace": self.name },
            },
        })
    }

    /// Creates a Secret of Argo CD's.
    pub(crate) async fn create(&self, name: &str, kind: &str, values: &Values) -> Result<()> {
        let secret = secret(name, kind, values);
        let created = self.rest.create(&collection(), &secret).await;
        created.with_context(|| format!("create Secret {name}"))?;
        Ok(())
    }

    /// Changes values of a Secret; `None` removes one.
    pub(crate) async fn change(&self, name: &str, values: &[(&str, Option<&str>)]) -> Result<()> {
        let (gone, kept): (Vec<_>, Vec<_>) = values.iter().partition(|(_, value)| value.is_none());
        let object = |values: Vec<&(&str, Option<&str>)>| -> Value {
            values
                .into_iter()
                .map(|(key, value)| ((*key).to_owned(), json!(value)))
                .collect()
        };
        let patch = json!({ "data": object(gone), "stringData": object(kept) });
        let changed = self.rest.merge(&one(name), &patch).await;
        changed.with_context(|| format!("change Secret {name}"))?;
        Ok(())
    }

    /// Reads a Secret of Argo CD's.
    pub(crate) async fn read(&self, name: &str) -> Result<Value> {
        self.rest.read(&one(name)).await
    }

    /// Deletes a Secret and waits until its binding is gone, too.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let deleted = self.rest.delete(&one(name)).await;
        deleted.with_context(|| format!("delete Secret {name}"))?;
        self.no_binding(name).await
    }

    /// Waits until there is no binding of that name.
    pub(crate) async fn no_binding(&self, name: &str) -> Result<()> {
        let what = format!("the end of binding {name}");
        wait_until(&what, LIMIT, || async move {
            let found = self.bindings.get_opt(name).await?;
            ensure!(found.is_none(), "it is still there");
            Ok(())
        })
        .await
    }

    /// Waits until a binding is Ready and nothing is wrong with it.
    pub(crate) async fn ready(&self, name: &str) -> Result<CredentialBinding> {
        bindings::ready(&self.bindings, name, LIMIT).await?;
        let fine = ("Degraded", "False", "as-expected");
        bindings::has_condition(&self.bindings, name, fine, LIMIT).await
    }

    /// Waits until the newest generation of a binding has no credential, for the reason `code`.
    pub(crate) async fn refused(&self, name: &str, code: Code) -> Result<CredentialBinding> {
        self.refused_with(name, code, &[]).await
    }

    /// As [`Tenant::refused`], and until the message of each condition has all of `words`.
    pub(crate) async fn refused_with(
        &self,
        name: &str,
        code: Code,
        words: &[&str],
    ) -> Result<CredentialBinding> {
        let what = format!("{code} on binding {name}");
        let reason = |kind, status: &str| (kind, status.to_owned());
        let wanted = [reason("Ready", "False"), reason("Degraded", "True")];
        let wanted = &wanted;
        wait_until(&what, LIMIT, || async move {
            let found = self.bindings.get(name).await?;
            ensure!(is_current(&found), "{:?}", found.status);
            for (kind, status) in wanted {
                let is = bindings::condition(&found, kind);
                let wanted = Some((status.clone(), code.as_str().to_owned()));
                ensure!(is == wanted, "{:?}", found.status);
            }
            let conditions = found.status.iter().flat_map(|status| &status.conditions);
            for message in conditions.map(|condition| &condition.message) {
                let has_all = words.iter().all(|word| message.contains(word));
                ensure!(has_all, "{message} has not all of {words:?}");
            }
            Ok(found)
        })
        .await
    }

    /// What the repo-server has for the tenant's registry now.
    pub(crate) fn login(&self) -> Result<Option<Login>> {
        let mut all = files::docker_config(&self.registries.join(layout::DOCKER_CONFIG))?;
        Ok(all.remove(self.quay.host()))
    }

    /// Waits until the repo-server has a login for the tenant's registry that `accept`s.
    pub(crate) async fn has_login(&self, accept: impl Fn(&Login) -> bool) -> Result<Login> {
        let accept = &accept;
        let what = format!("a login at the registry {}", self.name);
        wait_until(&what, LIMIT, || async move {
            let login = self.login()?.context("there is none")?;
            ensure!(accept(&login), "it is another one");
            Ok(login)
        })
        .await
    }

    /// Waits until the repo-server has no login for the tenant's registry.
    pub(crate) async fn has_no_login(&self) -> Result<()> {
        let what = format!("no login at the registry {}", self.name);
        wait_until(&what, LIMIT, || async move {
            ensure!(self.login()?.is_none(), "there is one");
            Ok(())
        })
        .await
    }

    /// How often the registry was asked to trade an identity for that robot's password.
    pub(crate) fn exchanges(&self, robot: &str) -> usize {
        self.quay.count(|request| {
            request.endpoint == Endpoint::Federation && request.robot.as_deref() == Some(robot)
        })
    }
}

/// Whether the conditions and every node speak of the newest spec.
fn is_current(binding: &CredentialBinding) -> bool {
    let newest = binding.metadata.generation.unwrap_or_default();
    let Some(status) = &binding.status else {
        return false;
    };
    let mut conditions = status.conditions.iter().map(|it| it.observed_generation);
    let mut nodes = status.nodes.iter().map(|it| it.observed_generation);
    conditions.all(|it| it == newest) && nodes.all(|it| it == newest) && !status.nodes.is_empty()
}

/// A Secret of Argo CD's.
fn secret(name: &str, kind: &str, values: &Values) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "labels": { control_plane_core::secret::SECRET_TYPE: kind } },
        "stringData": values,
    })
}

fn collection() -> String {
    format!("/api/v1/namespaces/{ARGOCD}/secrets")
}

/// The path of a Secret in Argo CD's namespace.
fn one(name: &str) -> String {
    format!("{}/{name}", collection())
}

/// Where the node has the credential volume of a component's pod.
pub(crate) fn volume(scene: &Scene, component: Component) -> Result<PathBuf> {
    let pod = scene.argocd()?.pod(component);
    let uid = pod.context("the component does not run")?.uid();
    let uid = uid.context("a pod has no UID")?;
    Ok(scene.around.node.csi_target(&uid, layout::VOLUME_NAME))
}
