//! The Node object and its Lease: what makes the cluster's controllers believe in the node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::Shared;

/// As kubelet: a quarter of the Lease's 40 s.
const INTERVAL: Duration = Duration::from_secs(10);
const LEASES: &str = "kube-node-lease";

/// Creates the Node, Ready and without taints, and its Lease.
pub(super) async fn register(shared: &Shared) -> Result<()> {
    let name = &shared.name;
    let now = k8s_openapi::jiff::Timestamp::now()
        .strftime("%FT%TZ")
        .to_string();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let resources =
        json!({ "cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "1Ti" });
    let node: Node = serde_json::from_value(json!({
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
            },
        },
        "status": {
            "addresses": [
                { "type": "InternalIP", "address": "127.0.0.1" },
                { "type": "Hostname", "address": name },
            ],
            "capacity": resources,
            "allocatable": resources,
            "conditions": [
                condition("Ready", "True", "KubeletReady"),
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            ],
        },
    }))
    .context("describe the node")?;
    Api::<Node>::all(shared.kubelet.clone())
        .create(&PostParams::default(), &node)
        .await
        .with_context(|| format!("register node {name}"))?;
    // Admission taints every new node as not ready; the node lifecycle controller takes that away only
    // at its next look.
    Api::<Node>::all(shared.admin.clone())
        .patch(
            name,
            &PatchParams::default(),
            &Patch::Merge(json!({ "spec": { "taints": null } })),
        )
        .await
        .with_context(|| format!("remove the taints of node {name}"))?;
    let lease: Lease = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewal() },
    }))
    .context("describe the node's lease")?;
    Api::<Lease>::namespaced(shared.kubelet.clone(), LEASES)
        .create(&PostParams::default(), &lease)
        .await
        .with_context(|| format!("create the lease of node {name}"))?;
    Ok(())
}

/// Renews the Lease for as long as the node lives.
pub(super) async fn run(shared: Arc<Shared>) {
    let leases: Api<Lease> = Api::namespaced(shared.kubelet.clone(), LEASES);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let renewed = json!({ "spec": { "renewTime": renewal() } });
        // A missed beat is repaired by the next one; the cluster forgives three.
        let _ = leases
            .patch(
                &shared.name,
                &PatchParams::default(),
                &Patch::Merge(renewed),
            )
            .await;
    }
}

fn renewal() -> String {
    k8s_openapi::jiff::Timestamp::now()
        .strftime("%FT%T.%6fZ")
        .to_string()
}
