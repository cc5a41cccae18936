//! Two namespaces that differ in their opt-in alone: what a pod has in one of
//! them and lacks in the other is what admission did.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use control_plane_core::annotations::INJECT;
use futures::future::try_join_all;
use harness::admission::Answer;
use serde_json::{Value, json};

use super::pods::Stock;
use crate::additions::additions;
use crate::api::Rest;
use crate::scene::Scene;
use crate::webhook::{self, PODS, PODS_NAMESPACE, Webhook};

/// The label by which the API server enforces a Pod Security Standard.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// Service accounts of pods that are not stock ones.
const MORE_ACCOUNTS: [&str; 2] = [
    "openshift-gitops-argocd-server",
    "openshift-gitops-argocd-application-controller",
];

/// Where pods are tried.
pub(crate) struct Bench {
    pub(crate) stock: Stock,
    rest: Rest,
    webhook: Webhook,
    /// The namespace with the opt-in, and whether that says `enabled`.
    opted_in: (String, bool),
    plain: String,
}

/// What became of a pod.
pub(crate) struct Tried {
    /// What admission added, by JSON pointer.
    pub(crate) additions: BTreeMap<String, Value>,
    /// What the API server warned about.
    pub(crate) warnings: Vec<String>,
    /// The whole pod.
    pub(crate) pod: Value,
}

impl fmt::Debug for Tried {
    /// Without the pod, whose hundreds of lines say nothing to a reader.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.shown())
    }
}

impl Tried {
    /// For snapshots.
    pub(crate) fn shown(&self) -> Value {
        json!({ "additions": self.additions, "warnings": self.warnings })
    }
}

impl Bench {
    /// Makes the namespaces `<name>` and `<name>-plain`, which enforce the
    /// Pod Security Standard `level`.
    pub(crate) async fn new(scene: &Scene, name: &str, level: &str) -> Result<Self> {
        Self::with_opt_in(scene, name, level, (INJECT, "enabled")).await
    }

    /// As [`Bench::new`], with a label of the caller's as opt-in.
    pub(crate) async fn with_opt_in(
        scene: &Scene,
        name: &str,
        level: &str,
        opt_in: (&str, &str),
    ) -> Result<Self> {
        let stock = Stock::read(&scene.peers)?;
        let rest = scene.rest()?;
        let plain = format!("{name}-plain");
        let security = (POD_SECURITY, level);
        scene.namespace(name, &[security, opt_in]).await?;
        scene.namespace(&plain, &[security]).await?;
        for namespace in [name, &plain] {
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            // The controllers make it, a moment later.
            let accounts = stock.service_accounts().chain(MORE_ACCOUNTS);
            let accounts = accounts.map(|account| {
                let (rest, path) = (&rest, &path);
                async move {
                    let object = json!({
                        "apiVersion": "v1",
                        "kind": "ServiceAccount",
                        "metadata": { "name": account },
                    });
                    rest.create(path, &object).await
                }
            });
            try_join_all(accounts).await?;
        }
        Ok(Self {
            stock,
            rest,
            webhook: scene.webhook()?,
            opted_in: (name.to_owned(), opt_in.1 == "enabled"),
            plain,
        })
    }

    /// Has another webhook be asked a second time about what it made.
    pub(crate) fn asking(self, webhook: Webhook) -> Self {
        Self { webhook, ..self }
    }

    /// Gives the namespace that is opted in a quota.
    pub(crate) async fn limit(&self, hard: &Value) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/resourcequotas", self.opted_in.0);
        let quota = json!({
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": { "name": "compute" },
            "spec": { "hard": hard },
        });
        self.rest.create(&path, &quota).await?;
        Ok(())
    }

    /// Creates a pod in the namespace that is opted in, but for the storage.
    pub(crate) async fn create(&self, pod: &Value) -> Result<Answer<Value>> {
        self.rest.try_create(&pods(&self.opted_in.0), pod).await
    }

    /// Tries a pod: the API server has to accept it, admission may only add to
    /// it, and asked again about what it made it may not add any more.
    pub(crate) async fn check(&self, pod: &Value) -> Result<Tried> {
        let (namespace, is_opted_in) = &self.opted_in;
        self.check_in(namespace, *is_opted_in, pod).await
    }

    /// As [`Bench::check`], in the namespace that is not opted in.
    pub(crate) async fn check_outside(&self, pod: &Value) -> Result<Tried> {
        self.check_in(&self.plain, false, pod).await
    }

    async fn check_in(&self, namespace: &str, is_opted_in: bool, pod: &Value) -> Result<Tried> {
        let mut without = pod.clone();
        let annotations = without["metadata"]["annotations"].take();
        let before = self.rest.try_create(&pods(&self.plain), &without).await?;
        let answer = self.rest.try_create(&pods(namespace), pod).await?;

        let mut after = comparable(&answer.object);
        let stored = after["metadata"]["annotations"].take();
        ensure!(stored == annotations, "annotations are now {stored}");
        let mut before = comparable(&before.object);
        before["metadata"]["annotations"] = Value::Null;
        let tried = Tried {
            additions: additions(&before, &after)?,
            warnings: answer.warnings,
            pod: answer.object,
        };
        if is_opted_in {
            self.ensure_settled(PODS_NAMESPACE, &tried).await?;
        }
        if !annotations[INJECT].is_null() {
            self.ensure_settled(PODS, &tried).await?;
        }
        Ok(tried)
    }

    /// As the API server asks again after another webhook changed the pod:
    /// there is nothing to add, and nothing else to tell.
    async fn ensure_settled(&self, path: &str, tried: &Tried) -> Result<()> {
        let request = webhook::request("v1/Pod", &tried.pod, None);
        let response = self.webhook.ask(path, &request).await?;
        let is_empty = webhook::patch(&response)?.is_none();
        ensure!(response["allowed"] == true && is_empty, "{response}");
        let warnings = response["warnings"].as_array().into_iter().flatten();
        let told = |warning: &Value| tried.warnings.iter().any(|told| *warning == **told);
        for warning in warnings {
            ensure!(
                told(warning),
                "{warning} is not one of {:?}",
                tried.warnings
            );
        }
        Ok(())
    }
}

/// The collection of a namespace's pods.
pub(crate) fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// The pod without what no two creations have in common.
fn comparable(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        for volatile in [
            "creationTimestamp",
            "managedFields",
            "name",
            "namespace",
            "uid",
        ] {
            metadata.remove(volatile);
        }
    }
    rename_token_volumes(&mut pod);
    pod
}

/// The volume of the service account's token has a random name.
fn rename_token_volumes(value: &mut Value) {
    const PREFIX: &str = "kube-api-access";
    match value {
        Value::String(text) if text.starts_with(PREFIX) => PREFIX.clone_into(text),
        Value::Array(list) => list.iter_mut().for_each(rename_token_volumes),
        Value::Object(members) => members.values_mut().for_each(rename_token_volumes),
        _ => {}
    }
}

/// The container with this name.
pub(crate) fn container<'p>(pod: &'p Value, name: &str) -> Result<&'p Value> {
    let lists = ["containers", "initContainers"];
    lists
        .iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .find(|container| container["name"] == name)
        .with_context(|| format!("the pod has no container {name}"))
}
