//! A node without an agent: pods wait and say for what, and there is a way round.

use anyhow::{Context as _, Result, ensure};
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use shared::layout;

use crate::case::{Case, exclusive};
use crate::mounts;
use crate::pods::{REPO_SERVER, consumer};
use crate::scene::{LIMIT, Scene};

pub(crate) fn cases() -> Vec<Case> {
    vec![exclusive!(pods_wait_and_break_glass_works).within(LIMIT * 4)]
}

/// A pod of Argo CD's repo-server without any volume: what it gets, the webhook gives it.
fn plain(name: &str) -> Result<Value> {
    let mut pod = consumer(name, REPO_SERVER);
    let spec = pod["spec"].as_object_mut().context("no spec")?;
    spec.remove("volumes");
    pod["spec"]["containers"][0]["volumeMounts"] = json!([]);
    pod["spec"]["containers"][0]["name"] = REPO_SERVER.into();
    pod["metadata"]["labels"] = json!({ "app.kubernetes.io/name": REPO_SERVER });
    Ok(pod)
}

/// Waits until a pod that is only tried gets the volume: an API server learns of a label a moment later.
async fn admission_injects(scene: &Scene) -> Result<()> {
    let pods = scene.pods(ARGOCD)?;
    let pod: Pod = serde_json::from_value(plain("tried")?).context("read the pod")?;
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let (pods, pod, parameters) = (&pods, &pod, &parameters);
    wait_until("the webhook", LIMIT, || async move {
        let tried = pods.create(parameters, pod).await.context("try the pod")?;
        let volumes = tried.spec.and_then(|spec| spec.volumes);
        ensure!(volumes.is_some_and(|it| !it.is_empty()), "it got no volume");
        Ok(())
    })
    .await
}

async fn pods_wait_and_break_glass_works(scene: &mut Scene) -> Result<()> {
    let label = |value: &str| format!("{}{value}", control_plane_core::annotations::INJECT);
    scene
        .node
        .kubectl(&["label", "namespace", ARGOCD, &label("=enabled")])
        .await?;
    admission_injects(scene).await?;
    let served = scene.run(&plain("served")?).await?;
    scene.has_registry_credential(&served).await?;

    let agents = "daemonset/argocd-identity-agent";
    let nowhere =
        json!({ "spec": { "template": { "spec": { "nodeSelector": { "nowhere": "yes" } } } } });
    scene
        .node
        .kubectl(&["-n", NAMESPACE, "patch", agents, "-p", &nowhere.to_string()])
        .await?;
    scene
        .node
        .kubectl(&[
            "-n",
            NAMESPACE,
            "wait",
            "--for=delete",
            "pod",
            "-l",
            "app.kubernetes.io/component=agent",
            "--timeout=90s",
        ])
        .await?;

    // A pod that runs goes on with what it has.
    scene.docker_config(&served).await?;
    let waits = scene.create(&plain("waits")?).await?;
    let note = scene.event(&waits, "FailedMount").await?;
    ensure!(note.contains(layout::CSI_DRIVER), "{note}");
    ensure!(
        note.contains("not found in the list of registered CSI drivers"),
        "{note}"
    );

    let mut broken_glass = plain("broken-glass")?;
    broken_glass["metadata"]["annotations"] =
        json!({ control_plane_core::annotations::INJECT: "disabled" });
    let broken_glass = scene.run(&broken_glass).await?;
    let volumes = broken_glass
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_ref());
    ensure!(
        volumes.is_none_or(Vec::is_empty),
        "it was injected: {volumes:?}"
    );
    scene.delete(&broken_glass).await?;

    // The end of a pod waits too: nobody else may unmount its volume.
    let pods = scene.pods(ARGOCD)?;
    pods.delete(&served.name_any(), &DeleteParams::default())
        .await
        .context("delete a pod")?;

    let anywhere = json!([{ "op": "remove", "path": "/spec/template/spec/nodeSelector/nowhere" }]);
    scene
        .node
        .kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            agents,
            "--type=json",
            "-p",
            &anywhere.to_string(),
        ])
        .await?;
    scene.node.rolled_out(NAMESPACE, agents).await?;
    let waited = scene.running(&waits).await?;
    scene.has_registry_credential(&waited).await?;
    scene.gone(&served).await?;
    scene.delete(&waited).await?;
    let volume = mounts::of(&served)?;
    let volume = &volume;
    wait_until("the end of the volume", LIMIT, || async move {
        ensure!(!mounts::all()?.contains(volume), "it is still mounted");
        Ok(())
    })
    .await?;
    scene
        .node
        .kubectl(&["label", "namespace", ARGOCD, &label("-")])
        .await
        .map(drop)
}
