//! Programs inside a running container, as its own user.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::Cluster;
use crate::process::output;

impl Cluster {
    /// Runs `program` in the first container of a pod and returns its output: with the container's user, file
    /// view and limits, as `kubectl exec` does.
    ///
    /// # Errors
    /// When the container does not run, or with the program's own words.
    pub async fn exec(&self, pod: &Pod, program: &[&str]) -> Result<String> {
        let id = container(pod)?;
        let name = format!("exec-{}", next_number());
        let mut command = self.containerd.ctr();
        command
            .args(["task", "exec", "--exec-id", &name, id])
            .args(program);
        let what = format!("`{}` in pod {}", program.join(" "), pod.name_any());
        tokio::task::spawn_blocking(move || output(&mut command))
            .await
            .context("run ctr")?
            .context(what)
    }
}

/// containerd's id of the first container.
fn container(pod: &Pod) -> Result<&str> {
    pod.status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .next()
        .and_then(|it| it.container_id.as_deref())
        .and_then(|id| id.strip_prefix("containerd://"))
        .with_context(|| format!("pod {} has no running container", pod.name_any()))
}

/// A number that no other exec of this run has.
fn next_number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
