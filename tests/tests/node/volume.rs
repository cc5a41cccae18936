//! The volume in a pod: who can read it, what is in it, and when it goes.

use anyhow::{Context as _, Result, ensure};
use harness::process::wait_until;
use harness::scene::ARGOCD;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{EvictParams, ListParams};
use serde_json::{Value, json};

use crate::case::{Case, shared};
use crate::mounts;
use crate::pods::{CONTROLLER, REPO_SERVER, consumer, spec};
use crate::scene::{CLUSTER, LIMIT, Scene};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        shared!(any_user_reads_it_and_nobody_writes),
        shared!(the_plugin_runs_from_binaries),
        shared!(a_container_that_restarts_keeps_it),
        shared!(a_deleted_pod_leaves_nothing),
        shared!(an_evicted_pod_leaves_nothing_and_its_successor_has_its_own),
    ]
}

/// As the level `restricted` of the pod security standards wants it.
fn restricted(name: &str, user: u32) -> Value {
    let mut pod = consumer(name, REPO_SERVER);
    pod["spec"]["securityContext"] = json!({
        "runAsNonRoot": true,
        "runAsUser": user,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    pod["spec"]["containers"][0]["securityContext"] = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    });
    pod
}

async fn any_user_reads_it_and_nobody_writes(scene: &Scene) -> Result<()> {
    // Argo CD's own user, and one of those that OpenShift chooses.
    for (name, user) in [("user-999", 999), ("user-arbitrary", 1_000_690_123)] {
        let pod = scene.run(&restricted(name, user)).await?;
        ensure!(scene.says(&pod, &["id", "-u"]).await?.trim() == user.to_string());
        scene.has_registry_credential(&pod).await?;
        let clusters = scene
            .says(&pod, &["ls", "/var/run/workload-identity/clusters"])
            .await?;
        ensure!(clusters.is_empty(), "repo-server has {clusters}");
        let write = scene
            .says(&pod, &["touch", "/var/run/workload-identity/docker/mine"])
            .await;
        let refusal = format!("{:#}", write.err().context("it can be written to")?);
        ensure!(refusal.contains("Read-only file system"), "{refusal}");
        let table = scene.says(&pod, &["cat", "/proc/mounts"]).await?;
        let line = table
            .lines()
            .find(|line| line.contains("/var/run/workload-identity"))
            .context("it is not mounted")?;
        ensure!(line.contains(" tmpfs ro,"), "{line}");
        scene.delete(&pod).await?;
    }
    Ok(())
}

async fn the_plugin_runs_from_binaries(scene: &Scene) -> Result<()> {
    let mut pod = consumer("binaries", CONTROLLER);
    pod["spec"]["securityContext"] = json!({ "runAsUser": 999 });
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut();
    mounts.context("no mounts")?.push(json!({
        "name": shared::layout::VOLUME_NAME,
        "mountPath": shared::layout::BINARIES_PATH,
        "subPath": shared::layout::BIN_DIR,
        "readOnly": true,
    }));
    let pod = scene.run(&pod).await?;
    for program in ["exec-auth", "k8s-spiffe-workload-jwt-exec-auth"] {
        let program = format!("/binaries/{program}");
        // It waits for the first credential by itself.
        let said = scene.says(&pod, &[&program, "--cluster", CLUSTER]).await?;
        let said: Value = serde_json::from_str(&said).context("it printed no JSON")?;
        ensure!(said["kind"] == "ExecCredential", "{}", said["kind"]);
        ensure!(said["status"]["token"].is_string(), "no token");
    }
    let config = scene.docker_config(&pod).await?;
    let host = scene.node.targets.quay.host();
    ensure!(
        config["auths"][host].is_null(),
        "the controller has the registry's credential"
    );
    scene.delete(&pod).await
}

async fn a_container_that_restarts_keeps_it(scene: &Scene) -> Result<()> {
    let mut pod = consumer("restarts", REPO_SERVER);
    // Ends when it is asked to, from inside.
    pod["spec"]["containers"][0]["command"] = json!([
        "sh",
        "-c",
        "trap 'exit 1' USR1; while :; do sleep 0.1; done"
    ]);
    let pod = scene.run(&pod).await?;
    let before = scene.has_registry_credential(&pod).await?;
    let device = scene
        .says(&pod, &["stat", "-c", "%d", "/var/run/workload-identity"])
        .await?;
    scene.says(&pod, &["kill", "-USR1", "1"]).await?;
    let (pods, name) = (scene.pods(ARGOCD)?, pod.name_any());
    let (pods, name) = (&pods, name.as_str());
    wait_until("the restart", LIMIT, || async move {
        let found = pods.get(name).await.context("read the pod")?;
        ensure!(restarts(&found) == 1, "{} restarts", restarts(&found));
        Ok(())
    })
    .await?;
    let pod = scene.running(&pod).await?;
    let after = scene
        .says(&pod, &["stat", "-c", "%d", "/var/run/workload-identity"])
        .await?;
    ensure!(device == after, "it was mounted anew: {device} {after}");
    let config = scene.docker_config(&pod).await?;
    let has_one = |config: &Value| config["auths"].as_object().is_some_and(|it| it.len() == 1);
    ensure!(has_one(&before) && has_one(&config), "{config}");
    scene.delete(&pod).await
}

/// Of the first container.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|it| it.container_statuses.iter().flatten());
    statuses
        .map(|it| it.restart_count)
        .next()
        .unwrap_or_default()
}

async fn a_deleted_pod_leaves_nothing(scene: &Scene) -> Result<()> {
    let pod = scene.run(&consumer("deleted", REPO_SERVER)).await?;
    scene.has_registry_credential(&pod).await?;
    let volume = mounts::of(&pod)?;
    ensure!(
        mounts::all()?.contains(&volume),
        "{} is not mounted",
        volume.display()
    );
    let options = mounts::options(&volume)?;
    for option in ["nosuid", "nodev", "noswap", "mode=755"] {
        ensure!(options.contains(option), "{option}: {options}");
    }
    scene.delete(&pod).await?;
    left_nothing(&pod).await
}

/// Kubelet takes a pod's volumes away a moment before or after the object is gone.
async fn left_nothing(pod: &Pod) -> Result<()> {
    let volume = mounts::of(pod)?;
    let volume = &volume;
    wait_until("the end of the volume", LIMIT, || async move {
        ensure!(!mounts::all()?.contains(volume), "it is still mounted");
        let folder = volume.parent().context("no parent")?;
        ensure!(!folder.exists(), "{} is still there", folder.display());
        Ok(())
    })
    .await
}

async fn an_evicted_pod_leaves_nothing_and_its_successor_has_its_own(scene: &Scene) -> Result<()> {
    let name = "evicted";
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "trial": name } },
            "template": { "metadata": { "labels": { "trial": name } }, "spec": spec(REPO_SERVER) },
        },
    });
    let client = scene.node.client()?;
    harness::control_plane::apply(&client, ARGOCD, &deployment.to_string()).await?;
    let first = the_pod_of(scene, name, None).await?;
    scene.has_registry_credential(&first).await?;
    let pods = scene.pods(ARGOCD)?;
    pods.evict(&first.name_any(), &EvictParams::default())
        .await
        .context("evict the pod")?;
    scene.gone(&first).await?;
    left_nothing(&first).await?;
    let second = the_pod_of(scene, name, first.uid()).await?;
    scene.has_registry_credential(&second).await?;
    scene
        .node
        .kubectl(&["-n", ARGOCD, "delete", "deployment", name])
        .await?;
    scene.gone(&second).await?;
    left_nothing(&second).await
}

/// The running pod of a Deployment, other than `not`.
async fn the_pod_of(scene: &Scene, name: &str, not: Option<String>) -> Result<Pod> {
    let (pods, not) = (scene.pods(ARGOCD)?, &not);
    let list = ListParams::default().labels(&format!("trial={name}"));
    let (pods, list) = (&pods, &list);
    let pod = wait_until("the Deployment's pod", LIMIT, || async move {
        let found = pods.list(list).await.context("list pods")?;
        let mut others = found.items.into_iter().filter(|pod| pod.uid() != *not);
        others.next().context("there is none")
    })
    .await?;
    scene.running(&pod).await
}
