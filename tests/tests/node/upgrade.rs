//! The agent is upgraded under running pods.

use anyhow::{Context as _, Result, ensure};
use harness::images::project;
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use kube::ResourceExt as _;
use serde_json::Value;
use shared::layout;

use crate::case::{Case, exclusive};
use crate::pods::{CONTROLLER, consumer};
use crate::scene::{CLUSTER, LIMIT, Scene};
use crate::volume::restarts;

pub(crate) fn cases() -> Vec<Case> {
    vec![exclusive!(running_pods_get_the_new_plugin).within(LIMIT * 4)]
}

const PROGRAM: &str = "/binaries/exec-auth";

async fn running_pods_get_the_new_plugin(scene: &mut Scene) -> Result<()> {
    let mut pod = consumer("upgraded", CONTROLLER);
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array_mut();
    mounts.context("no mounts")?.push(serde_json::json!({
        "name": layout::VOLUME_NAME,
        "mountPath": layout::BINARIES_PATH,
        "subPath": layout::BIN_DIR,
        "readOnly": true,
    }));
    let pod = scene.run(&pod).await?;
    let old = scene.says(&pod, &["sha256sum", PROGRAM]).await?;

    let mut image = project::agent(&scene.prepared.binaries)?;
    "next".clone_into(&mut image.reference.tag);
    // The next version's plugin: a program does not mind bytes behind its end.
    let folder = scene.node.cluster.folder().join("next");
    std::fs::create_dir_all(&folder).context("make a folder")?;
    let program = folder.join("exec-auth");
    let mut bytes = std::fs::read(scene.prepared.binaries.exec_auth()).context("read exec-auth")?;
    bytes.extend(b"next");
    std::fs::write(&program, bytes).context("write the next exec-auth")?;
    image.file("/usr/local/bin/exec-auth", 0o755, &program);
    scene.node.provide(&image).await?;
    set_image(scene, "argocd-identity-agent:next").await?;

    let (shared, pod_ref, old_ref) = (&*scene, &pod, &old);
    wait_until("the new plugin", LIMIT, || async move {
        let now = shared.says(pod_ref, &["sha256sum", PROGRAM]).await?;
        ensure!(now != *old_ref, "it is still the old one");
        Ok(())
    })
    .await?;
    let said = scene.says(&pod, &[PROGRAM, "--cluster", CLUSTER]).await?;
    let said: Value = serde_json::from_str(&said).context("it printed no JSON")?;
    ensure!(said["status"]["token"].is_string(), "no token");
    let now = scene
        .pods(ARGOCD)?
        .get(&pod.name_any())
        .await
        .context("read the pod")?;
    ensure!(restarts(&now) == 0, "the pod was restarted");

    set_image(scene, "argocd-identity-agent:dev").await?;
    scene.delete(&pod).await
}

/// Rolls the agents to an image.
pub(crate) async fn set_image(scene: &Scene, image: &str) -> Result<()> {
    let workload = "daemonset/argocd-identity-agent";
    let image = format!("agent={image}");
    scene
        .node
        .kubectl(&["-n", NAMESPACE, "set", "image", workload, &image])
        .await?;
    scene.node.rolled_out(NAMESPACE, workload).await
}
