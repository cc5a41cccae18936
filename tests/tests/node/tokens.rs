//! The pod's own token: when it is worth nothing any more, kubelet's next call brings another.

use anyhow::{Context as _, Result, ensure};
use harness::bindings;
use harness::process::wait_until;
use harness::scene::ARGOCD;

use crate::case::{Case, exclusive};
use crate::mounts;
use crate::pods::{REPO_SERVER, consumer};
use crate::scene::{LIMIT, REGISTRY, Scene};

pub(crate) fn cases() -> Vec<Case> {
    vec![exclusive!(a_token_that_ended_is_replaced_without_a_remount).within(LIMIT * 4)]
}

/// A token cannot live less than ten minutes, so its end is brought about: it is bound to its service account,
/// and that is made anew. Kubelet keeps the old token until 80 % of its life; a kubelet that was restarted has
/// forgotten it.
async fn a_token_that_ended_is_replaced_without_a_remount(scene: &mut Scene) -> Result<()> {
    let pod = scene.run(&consumer("token", REPO_SERVER)).await?;
    let before = scene.has_registry_credential(&pod).await?;
    let place = ["stat", "-c", "%d %i", "/var/run/workload-identity/docker"];
    let device = scene.says(&pod, &place).await?;

    scene
        .node
        .kubectl(&["-n", ARGOCD, "delete", "serviceaccount", REPO_SERVER])
        .await?;
    scene
        .node
        .kubectl(&["-n", ARGOCD, "create", "serviceaccount", REPO_SERVER])
        .await?;
    let api = scene.bindings()?;
    let is_degraded = ("Degraded", "True", "");
    bindings::has_condition(&api, REGISTRY, is_degraded, LIMIT).await?;

    scene.node.cluster.kubelet.stop()?;
    scene.node.cluster.kubelet.start_again()?;
    scene.node.cluster.ready().await?;
    let (scene, pod, before) = (&*scene, &pod, &before);
    wait_until("the next credential", LIMIT, || async move {
        let now = scene.docker_config(pod).await?;
        let host = scene.node.targets.quay.host();
        ensure!(now["auths"][host]["auth"].is_string(), "{now}");
        ensure!(now != *before, "it is still the old one");
        Ok(())
    })
    .await?;
    let binding = bindings::ready(&api, REGISTRY, LIMIT).await?;
    binding.status.context("no status")?;
    let after = scene.says(pod, &place).await?;
    ensure!(device == after, "it was mounted anew: {device} {after}");
    mounts::one_layer(pod)?;
    scene.delete(pod).await
}
