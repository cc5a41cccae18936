//! Pods at the edges: large ones, and fields of Kubernetes versions to come.

use anyhow::{Context as _, Result, ensure};
use control_plane_core::annotations::CONTAINERS;
use serde_json::{Value, json};

use super::bench::Bench;
use super::pods::{annotate, push};
use crate::additions::additions;
use crate::case::{Case, shared};
use crate::scene::Scene;
use crate::webhook::{self, PODS_NAMESPACE};

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(two_hundred_containers),
        shared!(unknown_fields_survive),
    ]
}

async fn two_hundred_containers(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "two-hundred", "restricted").await?;
    let mut pod = bench.stock.pod("argocd-server")?;
    let mut sidecar = pod["spec"]["containers"][0].clone();
    if let Some(sidecar) = sidecar.as_object_mut() {
        // Ports may not be claimed twice.
        sidecar.remove("ports");
    }
    let mut names = Vec::new();
    for index in 1..200 {
        let name = format!("sidecar-{index}");
        sidecar["name"] = json!(name);
        push(&mut pod, "/spec/containers", sidecar.clone())?;
        names.push(name);
    }
    annotate(&mut pod, &[(CONTAINERS, &names.join(","))]);
    let tried = bench.check(&pod).await?;
    ensure!(tried.warnings.is_empty(), "{:?}", tried.warnings);
    let containers = tried.pod["spec"]["containers"]
        .as_array()
        .context("no containers")?;
    ensure!(containers.len() == 200);
    for container in containers {
        let mounts = container["volumeMounts"].as_array().context("no mounts")?;
        let ours = mounts
            .iter()
            .filter(|mount| mount["name"] == "workload-identity");
        ensure!(ours.count() == 2, "{container}");
    }
    Ok(())
}

/// Straight to the webhook: this API server would drop what it does not know
/// before it asks.
async fn unknown_fields_survive(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "unknown-fields", "restricted").await?;
    let webhook = scene.webhook()?;
    for name in super::CONSUMERS {
        let mut pod = bench.stock.pod(name)?;
        pod["futureStatus"] = json!(null);
        pod["metadata"]["futureOwner"] = json!({ "a": [1, 2.50, "x", { "b": null }] });
        pod["spec"]["futureField"] = json!([[], {}, "", 1e100, u64::MAX]);
        pod["spec"]["volumes"][0]["futureMedium"] = json!("HugePages-2Gi");
        let container = &mut pod["spec"]["containers"][0];
        container["futurePolicy"] = json!({ "restart": { "on": ["x"] } });
        container["env"][0]["futureSource"] = json!({ "fileKeyRef": { "path": "a" } });
        container["volumeMounts"][0]["futureOption"] = json!(true);

        let request = webhook::request("v1/Pod", &pod, None);
        let response = webhook.ask(PODS_NAMESPACE, &request).await?;
        let patched = webhook::patched(&pod, &response)?;
        let added = additions(&pod, &patched)?;
        ensure!(!added.is_empty(), "{response}");
        ensure_only_adds(&response)?;
        let again = webhook::request("v1/Pod", &patched, None);
        let again = webhook.ask(PODS_NAMESPACE, &again).await?;
        ensure!(webhook::patch(&again)?.is_none(), "{again}");
    }
    Ok(())
}

/// No operation reads or replaces what is there: not a whole list, not a whole
/// container.
fn ensure_only_adds(response: &Value) -> Result<()> {
    let patch = webhook::patch(response)?.context("no patch")?;
    for operation in patch.iter() {
        let is_addition = matches!(operation, json_patch::PatchOperation::Add(_));
        ensure!(is_addition, "{operation}");
    }
    Ok(())
}
