//! The node loses power, and everything on a tmpfs with it.

use anyhow::{Context as _, Result, ensure};
use harness::installation::NAMESPACE;
use harness::process::wait_until;
use harness::scene::ARGOCD;
use kube::ResourceExt as _;

use crate::case::{Case, exclusive};
use crate::mounts;
use crate::pods::{REPO_SERVER, consumer};
use crate::scene::{LIMIT, Scene};
use crate::volume::restarts;

pub(crate) fn cases() -> Vec<Case> {
    vec![exclusive!(after_a_power_cut_pods_find_new_volumes).within(LIMIT * 4)]
}

async fn after_a_power_cut_pods_find_new_volumes(scene: &mut Scene) -> Result<()> {
    let pod = scene.run(&consumer("reboot", REPO_SERVER)).await?;
    scene.has_registry_credential(&pod).await?;
    scene.node.cluster.reboot().await?;

    let (pods, name, uid) = (scene.pods(ARGOCD)?, pod.name_any(), pod.uid());
    let (pods, name) = (&pods, name.as_str());
    wait_until("the container's next start", LIMIT, || async move {
        let found = pods.get(name).await.context("read the pod")?;
        ensure!(restarts(&found) > 0, "{} restarts", restarts(&found));
        Ok(())
    })
    .await?;
    let pod = scene.running(&pod).await?;
    ensure!(pod.uid() == uid, "it is another pod");
    for workload in [
        "deployment/argocd-identity",
        "daemonset/argocd-identity-agent",
    ] {
        scene.node.rolled_out(NAMESPACE, workload).await?;
    }
    scene.has_registry_credential(&pod).await?;
    mounts::one_layer(&pod)?;
    scene.delete(&pod).await
}
