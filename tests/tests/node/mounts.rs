//! The volumes as the node has them: what is mounted, and what an earlier one left.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

const PODS: &str = "/var/lib/kubelet/pods";
/// The source that the agent's mounts name.
const SOURCE: &str = "argocd-identity";

/// Where kubelet has the volume of a pod.
pub(crate) fn of(pod: &Pod) -> Result<PathBuf> {
    let uid = pod.uid().context("a pod without a UID")?;
    Ok(Path::new(PODS)
        .join(uid)
        .join("volumes/kubernetes.io~csi/workload-identity/mount"))
}

/// Every mount of the agent below kubelet's folder, layers counted one by one.
pub(crate) fn all() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    Ok(table
        .lines()
        .filter(|line| line.contains(&format!(" - tmpfs {SOURCE} ")))
        .filter_map(|line| line.split(' ').nth(4))
        // A subPath is a mount of the same tmpfs, kubelet's own.
        .filter(|point| point.starts_with(PODS) && point.ends_with("/mount"))
        .map(PathBuf::from)
        .collect())
}

/// Makes sure that a pod's volume is mounted once: publishing it again has mounted nothing.
pub(crate) fn one_layer(pod: &Pod) -> Result<()> {
    let (mounted, volume) = (all()?, of(pod)?);
    let layers = mounted.iter().filter(|mount| **mount == volume).count();
    ensure!(layers == 1, "{layers} layers at {}", volume.display());
    Ok(())
}

/// The options of a mount, its own and its file system's.
pub(crate) fn options(volume: &Path) -> Result<String> {
    let table = fs::read_to_string("/proc/self/mounts").context("read the mount table")?;
    let volume = volume.display().to_string();
    let mut lines = table.lines().map(|line| line.split(' '));
    lines
        .find_map(|mut fields| (fields.nth(1)? == volume).then(|| fields.nth(1))?)
        .map(str::to_owned)
        .with_context(|| format!("{volume} is not mounted"))
}

/// Folders of the driver's volumes, mounted or not.
pub(crate) fn folders() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for pod in fs::read_dir(PODS).context("list the pods' folders")? {
        let volumes = pod.context("list the pods' folders")?.path();
        let volume = volumes.join("volumes/kubernetes.io~csi/workload-identity");
        if volume.is_dir() {
            found.push(volume);
        }
    }
    Ok(found)
}
