//! Pods with the credential volume, as the webhook would make them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use harness::process::wait_until;
use harness::scene::ARGOCD;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use shared::layout;

use crate::scene::{LIMIT, Scene};

/// The account that may have the registry's credential.
pub(crate) const REPO_SERVER: &str = "argocd-repo-server";
/// An account that may have the cluster's.
pub(crate) const CONTROLLER: &str = "argocd-application-controller";
/// The end of a pod may take as long as kubelet waits, at most, before it tries to unmount again.
const END: Duration = Duration::from_secs(180);
/// Where a consumer finds its Docker configuration.
pub(crate) const CONFIG: &str = "/var/run/workload-identity/docker/config.json";

/// A pod before it is created: busybox, asleep, with the volume at its place.
pub(crate) fn consumer(name: &str, service_account: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": ARGOCD },
        "spec": spec(service_account),
    })
}

/// The spec of such a pod.
pub(crate) fn spec(service_account: &str) -> Value {
    json!({
        "serviceAccountName": service_account,
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "consumer",
            "image": "busybox:test",
            "command": ["sleep", "2147483647"],
            "volumeMounts": [{
                "name": layout::VOLUME_NAME,
                "mountPath": layout::CREDENTIALS_PATH,
                "readOnly": true,
            }],
        }],
        "volumes": [{
            "name": layout::VOLUME_NAME,
            "csi": { "driver": layout::CSI_DRIVER, "readOnly": true },
        }],
    })
}

impl Scene {
    /// The pods of a namespace.
    pub(crate) fn pods(&self, namespace: &str) -> Result<Api<Pod>> {
        Ok(Api::namespaced(self.node.client()?, namespace))
    }

    /// Creates a pod, which need not start.
    pub(crate) async fn create(&self, pod: &Value) -> Result<Pod> {
        let pod: Pod = serde_json::from_value(pod.clone()).context("read the pod")?;
        let namespace = pod.namespace().unwrap_or_default();
        let name = pod.name_any();
        self.pods(&namespace)?
            .create(&PostParams::default(), &pod)
            .await
            .with_context(|| format!("create pod {name}"))
    }

    /// Creates a pod and waits until it runs.
    pub(crate) async fn run(&self, pod: &Value) -> Result<Pod> {
        let created = self.create(pod).await?;
        self.running(&created).await
    }

    /// Waits until a pod runs and is ready, and returns it as it is then.
    pub(crate) async fn running(&self, pod: &Pod) -> Result<Pod> {
        let pods = self.pods(&pod.namespace().unwrap_or_default())?;
        let (pods, name) = (&pods, pod.name_any());
        let name = name.as_str();
        wait_until(&format!("pod {name} to run"), LIMIT, || async move {
            let found = pods.get(name).await.context("read the pod")?;
            let conditions = found
                .status
                .iter()
                .flat_map(|it| it.conditions.iter().flatten());
            let mut ready = conditions.filter(|it| it.type_ == "Ready" && it.status == "True");
            match ready.next() {
                Some(_) => Ok(found),
                None => bail!("{}", reasons(&found)),
            }
        })
        .await
    }

    /// Deletes a pod and waits until it is gone.
    pub(crate) async fn delete(&self, pod: &Pod) -> Result<()> {
        let pods = self.pods(&pod.namespace().unwrap_or_default())?;
        let name = pod.name_any();
        pods.delete(&name, &DeleteParams::default())
            .await
            .with_context(|| format!("delete pod {name}"))?;
        self.gone(pod).await
    }

    /// Waits until a pod is gone, or another one has its name.
    pub(crate) async fn gone(&self, pod: &Pod) -> Result<()> {
        let pods = self.pods(&pod.namespace().unwrap_or_default())?;
        let (pods, name, uid) = (&pods, pod.name_any(), pod.uid());
        let (name, uid) = (name.as_str(), &uid);
        wait_until(&format!("the end of pod {name}"), END, || async move {
            let found = pods.get_opt(name).await.context("read the pod")?;
            let same = found.is_some_and(|found| found.uid() == *uid);
            ensure!(!same, "it is still there");
            Ok(())
        })
        .await
    }

    /// What a program in the pod says.
    pub(crate) async fn says(&self, pod: &Pod, program: &[&str]) -> Result<String> {
        self.node.cluster.exec(pod, program).await
    }

    /// Waits until the pod's Docker configuration has a credential, and returns the configuration.
    pub(crate) async fn has_registry_credential(&self, pod: &Pod) -> Result<Value> {
        let host = self.node.targets.quay.host();
        let what = format!("a credential in pod {}", pod.name_any());
        wait_until(&what, LIMIT, || async move {
            let config = self.docker_config(pod).await?;
            ensure!(config["auths"][host]["auth"].is_string(), "{config}");
            Ok(config)
        })
        .await
    }

    /// The pod's Docker configuration.
    pub(crate) async fn docker_config(&self, pod: &Pod) -> Result<Value> {
        let text = self.says(pod, &["cat", CONFIG]).await?;
        serde_json::from_str(&text).context("the Docker configuration is torn")
    }

    /// Waits for an event on a pod whose reason is `reason`, and returns its note.
    pub(crate) async fn event(&self, pod: &Pod, reason: &str) -> Result<String> {
        let namespace = pod.namespace().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.node.client()?, &namespace);
        let list = ListParams::default().fields(&format!("involvedObject.name={}", pod.name_any()));
        let (events, list) = (&events, &list);
        let what = format!("an event {reason} on pod {}", pod.name_any());
        wait_until(&what, LIMIT, || async move {
            let found = events.list(list).await.context("list events")?;
            let mut notes = Vec::new();
            for event in found {
                let note = event.message.unwrap_or_default();
                if event.reason.as_deref() == Some(reason) {
                    return Ok(note);
                }
                notes.push(format!("{:?}: {note}", event.reason));
            }
            bail!("{}", notes.join("\n"))
        })
        .await
    }
}

/// Why containers of a pod do not run.
fn reasons(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    let states = status.container_statuses.unwrap_or_default();
    let waiting = states
        .iter()
        .filter_map(|it| it.state.as_ref()?.waiting.as_ref());
    let waiting = waiting.map(|it| {
        let (reason, message) = (it.reason.as_deref(), it.message.as_deref());
        format!(
            "{} {}",
            reason.unwrap_or_default(),
            message.unwrap_or_default()
        )
    });
    format!("{phase}: {}", waiting.collect::<Vec<_>>().join(", "))
}
