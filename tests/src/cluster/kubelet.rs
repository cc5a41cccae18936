//! kubelet, with the right to one node only, as on a real one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::containerd::SOCKET;
use super::{ADDRESS, NODE, dns, mounts_below};
use crate::control_plane::ControlPlane;
use crate::folders::create;
use crate::peers::NodePeers;
use crate::process::Process;
use crate::sandbox;

/// Where pods' volumes are.
pub(super) const PODS: &str = "/var/lib/kubelet/pods";

/// A running kubelet.
pub struct Kubelet {
    process: Process,
    start: Command,
    folder: PathBuf,
}

impl Kubelet {
    pub(super) fn start(
        run: &Path,
        peers: &NodePeers,
        control_plane: &ControlPlane,
    ) -> Result<Self> {
        let folder = create(run.join("node"))?;
        let group = sandbox::control_group()?;
        let config = folder.join("kubelet.json");
        let text = configuration(&group, &folder.join("volume-plugins")).to_string();
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let kubeconfig = control_plane.kubeconfig(NODE, control_plane.node_token(NODE)?)?;
        let mut start = Command::new(peers.kubelet());
        start
            .arg("--config")
            .arg(&config)
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["--hostname-override", NODE])
            .args(["--node-ip", &ADDRESS.to_string()]);
        Ok(Self {
            process: run_it(&mut start, &folder)?,
            start,
            folder,
        })
    }

    /// The process, to look after it or to freeze it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it by SIGKILL; pods run on.
    ///
    /// # Errors
    /// When it ended already.
    pub fn stop(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Starts it again, which has ended.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = run_it(&mut self.start, &self.folder)?;
        Ok(())
    }
}

/// Takes every mount below the pods' folder away.
pub(super) fn unmount_pods() -> Result<()> {
    for mount in mounts_below(PODS)? {
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("unmount {}", mount.display()))?;
    }
    Ok(())
}

fn run_it(start: &mut Command, folder: &Path) -> Result<Process> {
    Ok(Process::start("kubelet", start, folder)?.with_grace(Duration::ZERO))
}

fn configuration(group: &str, plugins: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Nobody but this run is in its network.
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": group,
        "clusterDNS": [dns::SERVICE],
        "clusterDomain": dns::DOMAIN,
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        // Trials end processes on purpose and do not wait minutes for the next.
        "crashLoopBackOff": { "maxContainerRestartPeriod": "1s" },
        "evictionHard": { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
        "failCgroupV1": false,
        "failSwapOn": false,
        // The disk is the machine's; how full it is says nothing about this node.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 250,
        "nodeStatusUpdateFrequency": "5s",
        "protectKernelDefaults": true,
        "resolvConf": "/dev/null",
        "serializeImagePulls": false,
        "volumePluginDir": plugins,
    })
}
