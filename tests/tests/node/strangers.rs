//! Pods that are nobody's consumers: their volume is empty, and they are told why.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::case::{Case, shared};
use crate::pods::{REPO_SERVER, consumer};
use crate::scene::Scene;

/// What the event on such a pod is called.
const REASON: &str = "volume-empty";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        shared!(an_account_that_is_no_consumer),
        shared!(the_same_account_in_another_namespace),
        shared!(a_pod_that_lies),
    ]
}

async fn an_account_that_is_no_consumer(scene: &Scene) -> Result<()> {
    let pod = scene.run(&consumer("stranger", "default")).await?;
    let note = scene.event(&pod, REASON).await?;
    for part in ["default", "stranger", REPO_SERVER] {
        ensure!(note.contains(part), "{part} is not in: {note}");
    }
    is_empty(scene, &pod).await?;
    scene.delete(&pod).await
}

async fn the_same_account_in_another_namespace(scene: &Scene) -> Result<()> {
    let namespace = "elsewhere";
    let client = scene.node.client()?;
    let account = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\napiVersion: v1\n\
         kind: ServiceAccount\nmetadata: {{name: {REPO_SERVER}, namespace: {namespace}}}\n"
    );
    harness::control_plane::apply(&client, namespace, &account).await?;
    let mut pod = consumer("foreigner", REPO_SERVER);
    pod["metadata"]["namespace"] = namespace.into();
    let pod = scene.run(&pod).await?;
    let note = scene.event(&pod, REASON).await?;
    ensure!(note.contains(namespace), "{note}");
    is_empty(scene, &pod).await?;
    scene.delete(&pod).await
}

/// Labels like Argo CD's, and attributes that say what kubelet says.
async fn a_pod_that_lies(scene: &Scene) -> Result<()> {
    let honest = scene.run(&consumer("honest", REPO_SERVER)).await?;
    scene.has_registry_credential(&honest).await?;
    let mut pod = consumer("liar", "default");
    pod["metadata"]["labels"] = json!({
        "app.kubernetes.io/name": REPO_SERVER,
        "app.kubernetes.io/part-of": "argocd",
        "workload-identity.dev/injected": "v1alpha1",
    });
    pod["metadata"]["annotations"] = json!({ "workload-identity.dev/component": "repo-server" });
    pod["spec"]["volumes"][0]["csi"]["volumeAttributes"] = attributes(&honest)?;
    let pod = scene.run(&pod).await?;
    let note = scene.event(&pod, REASON).await?;
    ensure!(note.contains("default"), "it was believed: {note}");
    is_empty(scene, &pod).await?;
    scene.delete(&pod).await?;
    scene.delete(&honest).await
}

/// Everything that kubelet tells a driver about the pod `honest`.
fn attributes(honest: &Pod) -> Result<Value> {
    let uid = honest.uid().context("a pod without a UID")?;
    let token = json!({ "argocd-identity": {
        "token": "eyJhbGciOiJub25lIn0.e30.",
        "expirationTimestamp": "2999-01-01T00:00:00Z",
    } });
    Ok(json!({
        "csi.storage.k8s.io/pod.name": honest.name_any(),
        "csi.storage.k8s.io/pod.namespace": honest.namespace(),
        "csi.storage.k8s.io/pod.uid": uid,
        "csi.storage.k8s.io/serviceAccount.name": REPO_SERVER,
        "csi.storage.k8s.io/serviceAccount.tokens": token.to_string(),
        "csi.storage.k8s.io/ephemeral": "true",
    }))
}

/// No credential: neither in the Docker configuration nor for a cluster. The plugin is there: it is no secret.
async fn is_empty(scene: &Scene, pod: &Pod) -> Result<()> {
    let config = scene.docker_config(pod).await?;
    let auths = config["auths"].as_object();
    ensure!(auths.is_none_or(|it| it.is_empty()), "{config}");
    let folder = "/var/run/workload-identity";
    let files = scene.says(pod, &["find", folder, "-type", "f"]).await?;
    let mut files: Vec<&str> = files.lines().collect();
    files.sort_unstable();
    let expected = [
        format!("{folder}/bin/exec-auth"),
        format!("{folder}/docker/config.json"),
    ];
    ensure!(files == expected, "{files:?}");
    Ok(())
}
