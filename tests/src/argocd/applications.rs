//! Applications, and what Argo CD says of them.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::json;

use crate::control_plane::apply;
use crate::process::wait_until;

const REFRESH: &str = "argocd.argoproj.io/refresh";

/// The Applications of one namespace.
pub struct Applications {
    client: Client,
    namespace: String,
}

/// An Application's state, in Argo CD's own words.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// `Synced`, `OutOfSync`, `Unknown`; empty before the first comparison.
    pub sync: String,
    /// `Healthy`, `Progressing`, `Degraded`, …
    pub health: String,
    /// The revision (chart version, digest) of the last comparison.
    pub revision: String,
    /// `<type>: <message>` of every condition, such as ComparisonError.
    pub conditions: Vec<String>,
    /// `<phase>: <message>` of the last sync.
    pub operation: Option<String>,
}

impl Report {
    /// Synced, Healthy, and without an error that Argo CD would show beside it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.sync == "Synced" && self.health == "Healthy" && self.conditions.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: &str| {
            if text.is_empty() {
                "none yet".to_owned()
            } else {
                text.to_owned()
            }
        };
        write!(
            f,
            "sync {}, health {}",
            or_none(&self.sync),
            or_none(&self.health)
        )?;
        if let Some(operation) = &self.operation {
            write!(f, "; last sync {operation}")?;
        }
        for condition in &self.conditions {
            write!(f, "; {condition}")?;
        }
        Ok(())
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    sync: Sync,
    health: Health,
    conditions: Vec<Condition>,
    operation_state: Option<Operation>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Sync {
    status: String,
    revision: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Health {
    status: String,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Operation {
    phase: String,
    #[serde(default)]
    message: String,
}

impl Applications {
    /// Those of `namespace`, as `client` sees them.
    #[must_use]
    pub fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace }
    }

    /// Applies Application (or AppProject) YAML into the namespace.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        apply(&self.client, &self.namespace, yaml).await.map(drop)
    }

    /// An Application's state now.
    ///
    /// # Errors
    /// When there is no such Application.
    pub async fn report(&self, name: &str) -> Result<Report> {
        let application = self.read(name).await?;
        report(&application)
    }

    /// Waits until the Application is Synced and Healthy.
    ///
    /// # Errors
    /// At the limit: the Application's state with its conditions and the last sync's message.
    pub async fn synced_and_healthy(&self, name: &str, limit: Duration) -> Result<Report> {
        wait_until(
            &format!("Application {name} to be Synced and Healthy"),
            limit,
            || async move {
                let report = self.report(name).await?;
                ensure!(report.is_good(), "{report}");
                Ok(report)
            },
        )
        .await
    }

    /// Has Argo CD compare the Application anew, its manifests fetched and made anew, and waits for the
    /// outcome. Whether that is good is the caller's to judge.
    ///
    /// # Errors
    /// When there is no such Application, or at the limit.
    pub async fn hard_refresh(&self, name: &str, limit: Duration) -> Result<Report> {
        let wish = json!({ "metadata": { "annotations": { REFRESH: "hard" } } });
        self.api()
            .patch(name, &PatchParams::default(), &Patch::Merge(wish))
            .await
            .with_context(|| format!("ask for a refresh of Application {name}"))?;
        // Argo CD takes the annotation away in the write that has the outcome.
        wait_until(
            &format!("the refresh of Application {name}"),
            limit,
            || async move {
                let application = self.read(name).await?;
                if application.annotations().contains_key(REFRESH) {
                    bail!("not compared yet: {}", report(&application)?);
                }
                report(&application)
            },
        )
        .await
    }

    async fn read(&self, name: &str) -> Result<DynamicObject> {
        self.api()
            .get(name)
            .await
            .with_context(|| format!("read Application {name}"))
    }

    fn api(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Application");
        let resource = ApiResource::from_gvk_with_plural(&kind, "applications");
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }
}

fn report(application: &DynamicObject) -> Result<Report> {
    let status = application
        .data
        .get("status")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let status: Status = serde_json::from_value(status).context("read an Application's status")?;
    Ok(Report {
        sync: status.sync.status,
        health: status.health.status,
        revision: status.sync.revision,
        conditions: status
            .conditions
            .into_iter()
            .map(|condition| format!("{}: {}", condition.kind, condition.message))
            .collect(),
        operation: status
            .operation_state
            .map(|operation| format!("{}: {}", operation.phase, operation.message)),
    })
}
