//! A project of Argo CD's with a robot and a folder of its own at a tenant's registry.

use anyhow::{Context as _, Result};
use harness::argocd::Component;
use harness::quay::{Endpoint, Request, Robot};
use harness::scene::ARGOCD;
use harness::targets::identity;
use harness::teams::app_project;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use shared::layout;
use shared::proxy_view::{self, ProxyBinding};

use crate::rotation::{Tenant, Values};
use crate::scene::Scene;

/// A project and what is its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side {
    pub(crate) project: &'static str,
    pub(crate) robot: &'static str,
    pub(crate) folder: &'static str,
}

impl Side {
    /// Makes the project, and lets its robot read its folder.
    pub(crate) async fn open(&self, scene: &Scene, tenant: &Tenant) -> Result<()> {
        let subject = identity(&format!("argocd-project-{}", self.project));
        let issuer = scene.around.plan.issuer_url();
        let folder = format!("{}/", self.folder);
        let robot = Robot::federated(self.robot, issuer, subject, &[&folder]);
        tenant.quay.add_robot(robot);
        let path = format!("/apis/argoproj.io/v1alpha1/namespaces/{ARGOCD}/appprojects");
        let created = scene
            .rest()?
            .create(&path, &app_project(self.project))
            .await;
        created.with_context(|| format!("make project {}", self.project))?;
        Ok(())
    }

    /// A repository Secret of the project.
    pub(crate) fn repository(&self, tenant: &Tenant, kind: &str, url: &str) -> Values {
        let mut values = tenant.repository();
        values.insert("type", kind.to_owned());
        values.insert("url", url.to_owned());
        values.insert("project", self.project.to_owned());
        values.insert("workloadIdentityRegistryUsername", self.robot.to_owned());
        values
    }

    /// An Application of the project into the tenant's namespace of Argo CD's own cluster.
    pub(crate) fn application(&self, tenant: &Tenant, name: &str, source: Value) -> Value {
        json!({
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": { "name": name, "namespace": ARGOCD },
            "spec": {
                "project": self.project,
                "source": source,
                "destination": {
                    "server": "https://kubernetes.default.svc",
                    "namespace": tenant.name,
                },
            },
        })
    }

    /// What the registry served to the project's robot.
    pub(crate) fn served(&self, tenant: &Tenant) -> Vec<Request> {
        let requests = tenant.quay.requests().into_iter();
        requests
            .filter(|it| it.endpoint == Endpoint::Content && it.status < 400)
            .filter(|it| it.robot.as_deref() == Some(self.robot))
            .collect()
    }
}

/// What the credential proxy has of a binding now.
pub(crate) fn viewed(scene: &Scene, name: &str) -> Result<ProxyBinding> {
    let pod = scene.argocd()?.pod(Component::RepoServer);
    let uid = pod.context("repo-server does not run")?.uid();
    let uid = uid.context("a pod has no UID")?;
    let view = scene
        .around
        .node
        .csi_target(&uid, layout::PROXY_VOLUME_NAME);
    let path = view.join(format!("{name}.json"));
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(proxy_view::parse(&bytes)?)
}
