//! Namespaces with a quota, where a container without a limit refuses its pod.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::process::wait_until;
use serde_json::json;

use super::bench::Bench;
use crate::api::refusal;
use crate::case::{Case, shared};
use crate::scene::Scene;

/// Time that the controllers may take to count what is there.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn cases() -> Vec<Case> {
    vec![shared!(a_quota_on_every_limit_admits_the_injected_pod)]
}

async fn a_quota_on_every_limit_admits_the_injected_pod(scene: &Scene) -> Result<()> {
    let bench = Bench::new(scene, "quota", "restricted").await?;
    let resources = json!({
        "requests": { "cpu": "10m", "memory": "32Mi" },
        "limits": { "cpu": "1", "memory": "64Mi" },
    });
    let stock = bench.stock.pod("argocd-repo-server")?;
    let mut pod = stock.clone();
    for list in ["containers", "initContainers"] {
        let containers = pod["spec"][list].as_array_mut();
        for container in containers.into_iter().flatten() {
            container["resources"] = resources.clone();
        }
    }
    bench
        .limit(&json!({
            "requests.cpu": "8", "requests.memory": "16Gi",
            "limits.cpu": "16", "limits.memory": "32Gi",
        }))
        .await?;
    // It is in force as soon as it refuses what has no limits.
    let (bench, stock) = (&bench, &stock);
    wait_until("the quota", LIMIT, || async move {
        match bench.create(stock).await {
            Ok(_) => bail!("a pod without limits is still admitted"),
            refused => {
                let message = refusal(refused)?.message;
                ensure!(message.contains("quota"), "{message}");
                Ok(())
            }
        }
    })
    .await?;
    let tried = bench.check(&pod).await?;
    ensure!(tried.warnings.is_empty(), "{tried:?}");
    let sidecar = &tried.pod["spec"]["initContainers"];
    ensure!(
        sidecar.to_string().contains("credential-proxy"),
        "{tried:?}"
    );
    Ok(())
}
