//! What stands in the way is left alone, told, and costs only what it stands
//! in the way of.

use anyhow::{Result, ensure};
use control_plane_core::annotations::PROXY;
use serde_json::{Value, json};

use super::bench::Bench;
use super::pods::{annotate, mount, push, set_env, with_guides_volumes};
use crate::api::codes;
use crate::case::{Case, shared};
use crate::scene::Scene;
use crate::snapshot;

pub(super) fn cases() -> Vec<Case> {
    vec![
        shared!(conflicts_are_left_out_and_told),
        shared!(what_serves_the_same_purpose_is_used),
    ]
}

/// A change that puts something in the way.
type Change = fn(&mut Value) -> Result<()>;

/// Name, workload, change, code of the one warning.
const CONFLICTS: [(&str, &str, Change, &str); 10] = [
    (
        "volume-name",
        "argocd-server",
        |pod| {
            let volume = json!({ "name": "workload-identity", "emptyDir": {} });
            push(pod, "/spec/volumes", volume)
        },
        "volume-conflict",
    ),
    (
        "credentials-path",
        "argocd-repo-server",
        |pod| mount(pod, config_map(), "/var/run/workload-identity"),
        "mount-conflict",
    ),
    (
        "credentials-path-by-its-other-name",
        "argocd-server",
        |pod| mount(pod, config_map(), "/run/workload-identity/"),
        "mount-conflict",
    ),
    (
        "below-credentials",
        "argocd-repo-server",
        |pod| mount(pod, config_map(), "/var/run/workload-identity/docker"),
        "mount-conflict",
    ),
    (
        "above-credentials",
        "argocd-server",
        |pod| mount(pod, config_map(), "/var/run"),
        "mount-conflict",
    ),
    (
        "binaries-path",
        "argocd-server",
        |pod| mount(pod, config_map(), "/binaries"),
        "mount-conflict",
    ),
    (
        "below-binaries",
        "argocd-application-controller",
        |pod| mount(pod, config_map(), "/binaries/tool"),
        "mount-conflict",
    ),
    (
        "binaries-read-only",
        "argocd-server",
        |pod| {
            let volume = json!({ "name": "binaries", "emptyDir": {} });
            push(pod, "/spec/volumes", volume)?;
            let mount = json!({ "name": "binaries", "mountPath": "/binaries", "readOnly": true });
            push(pod, "/spec/containers/0/volumeMounts", mount)
        },
        "mount-conflict",
    ),
    (
        "docker-config",
        "argocd-repo-server",
        |pod| set_env(pod, "DOCKER_CONFIG", "/home/argocd/.docker"),
        "env-conflict",
    ),
    (
        "docker-config-from-elsewhere",
        "argocd-repo-server",
        |pod| {
            let from = json!({ "fieldRef": { "fieldPath": "metadata.namespace" } });
            let variable = json!({ "name": "DOCKER_CONFIG", "valueFrom": from });
            push(pod, "/spec/containers/0/env", variable)
        },
        "env-conflict",
    ),
];

fn config_map() -> Value {
    json!({ "name": "theirs", "configMap": { "name": "theirs" } })
}

async fn conflicts_are_left_out_and_told(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "conflicts", "restricted").await?;
    for (name, workload, change, code) in CONFLICTS {
        let mut pod = bench.stock.pod(workload)?;
        change(&mut pod)?;
        let tried = bench.check(&pod).await?;
        snapshot::check("conflict", name, &tried.shown());
        ensure!(
            codes(&tried.warnings) == [code],
            "{name}: {:?}",
            tried.warnings
        );
    }
    Ok(())
}

async fn what_serves_the_same_purpose_is_used(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "same-purpose", "baseline").await?;
    // Already as it would be, under names of the user's own.
    let mut pod = bench.stock.pod("argocd-repo-server")?;
    let csi = json!({ "driver": "csi.workload-identity.dev", "readOnly": true });
    let volume = json!({ "name": "their-name", "csi": csi });
    mount(&mut pod, volume, "/var/run/workload-identity")?;
    set_env(
        &mut pod,
        "DOCKER_CONFIG",
        "/var/run/workload-identity/docker",
    )?;
    annotate(&mut pod, &[(PROXY, "false")]);
    let tried = bench.check(&pod).await?;
    ensure!(tried.warnings.is_empty(), "{tried:?}");
    let label = "/metadata/labels/workload-identity.dev~1injected";
    ensure!(tried.additions.keys().eq([label]), "{tried:?}");

    // The guide's folder takes one more file.
    let pod = with_guides_volumes(bench.stock.pod("argocd-server")?)?;
    let tried = bench.check(&pod).await?;
    snapshot::check("same-purpose", "guide", &tried.shown());
    ensure!(tried.warnings.is_empty(), "{tried:?}");
    Ok(())
}
