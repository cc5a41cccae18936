//! Many consumers at once.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use harness::process::wait_until;
use harness::quay::Endpoint;
use harness::scene::ARGOCD;
use harness::targets::ROBOT;
use kube::api::ListParams;
use serde_json::json;

use crate::case::{Case, exclusive};
use crate::mounts;
use crate::pods::{REPO_SERVER, spec};
use crate::scene::{LIMIT, Scene};

const PODS: usize = 50;
const NAME: &str = "crowd";

pub(crate) fn cases() -> Vec<Case> {
    // Kubelet and the container runtime take most of it.
    vec![exclusive!(fifty_pods_share_one_exchange).within(LIMIT * 4)]
}

async fn fifty_pods_share_one_exchange(scene: &mut Scene) -> Result<()> {
    let before: BTreeSet<_> = mounts::all()?.into_iter().collect();
    let exchanges =
        |scene: &Scene| {
            scene.node.targets.quay.count(|it| {
                it.endpoint == Endpoint::Federation && it.robot.as_deref() == Some(ROBOT)
            })
        };
    let (exchanged, begin) = (exchanges(scene), Instant::now());
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": NAME },
        "spec": {
            "replicas": PODS,
            "selector": { "matchLabels": { "trial": NAME } },
            "template": { "metadata": { "labels": { "trial": NAME } }, "spec": spec(REPO_SERVER) },
        },
    });
    let client = scene.node.client()?;
    harness::control_plane::apply(&client, ARGOCD, &deployment.to_string()).await?;
    scene
        .node
        .rolled_out(ARGOCD, &format!("deployment/{NAME}"))
        .await?;
    let running = begin.elapsed();

    let list = ListParams::default().labels(&format!("trial={NAME}"));
    let pods = scene
        .pods(ARGOCD)?
        .list(&list)
        .await
        .context("list pods")?
        .items;
    ensure!(pods.len() == PODS, "{} pods", pods.len());
    for pod in &pods {
        scene.has_registry_credential(pod).await?;
    }
    let ready = begin.elapsed();
    // One for the first pod, and one for each time that the credential was due while they started.
    let took = exchanges(scene) - exchanged;
    let renewals = usize::try_from(ready.as_secs() / 30)? + 2;
    ensure!(
        took <= renewals,
        "{took} exchanges for one identity in {ready:?}"
    );
    eprintln!(
        "{PODS} pods: running after {:.1} s, all with a credential after {:.1} s, {took} exchanges",
        running.as_secs_f64(),
        ready.as_secs_f64()
    );

    scene
        .node
        .kubectl(&["-n", ARGOCD, "delete", "deployment", NAME])
        .await?;
    for pod in &pods {
        scene.gone(pod).await?;
    }
    let before = &before;
    wait_until("the end of every volume", LIMIT, || async move {
        let left: BTreeSet<_> = mounts::all()?.into_iter().collect();
        ensure!(
            left.is_subset(before),
            "{} mounts, {} before",
            left.len(),
            before.len()
        );
        Ok(())
    })
    .await
}
