//! containerd: images from the registry of the run, containers by Debian's runc, a network by Debian's CNI plugins.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::mounts_below;
use super::network::{BRIDGE, PODS};
use crate::folders::create;
use crate::images::mirror;
use crate::peers::NodePeers;
use crate::process::{Process, output, wait_until};

/// Where kubelet finds it.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";
/// containerd's own namespace for what kubelet asked for.
const NAMESPACE: &str = "k8s.io";
const PLUGINS: &str = "/usr/lib/cni";
const SHIM: &str = "containerd-shim-runc-v2";
const READY: Duration = Duration::from_secs(30);

/// A running containerd. Its containers outlive it, as on any node; the sandbox ends them.
pub struct Containerd {
    process: Process,
    start: Command,
    ctr: PathBuf,
    logs: PathBuf,
}

impl Containerd {
    /// Starts it with its data below `folder`. Images of every host come from the registry at `mirror`.
    pub(super) async fn start(
        folder: &Path,
        peers: &NodePeers,
        registry: &str,
        sandbox_image: &str,
    ) -> Result<Self> {
        let files = create(folder.join("containerd"))?;
        mirror::write(&files.join("hosts"), registry)?;
        let networks = create(files.join("networks"))?;
        write(&networks.join("10-pods.conflist"), &network().to_string())?;
        let config = files.join("config.toml");
        let text = configuration(
            &create(files.join("data"))?,
            &files.join("hosts"),
            &networks,
            sandbox_image,
        );
        write(&config, &text)?;
        let mut start = Command::new(peers.containerd());
        start
            .arg("--config")
            .arg(&config)
            .env("PATH", path_with(peers.containerd_shim())?);
        let mut containerd = Self {
            process: Process::start("containerd", &mut start, &files)?.with_grace(Duration::ZERO),
            start,
            ctr: peers.ctr().to_owned(),
            logs: files,
        };
        containerd.answers().await?;
        Ok(containerd)
    }

    /// Starts it again, which has ended.
    pub(super) async fn start_again(&mut self) -> Result<()> {
        self.process =
            Process::start("containerd", &mut self.start, &self.logs)?.with_grace(Duration::ZERO);
        self.answers().await
    }

    /// Ends it and every container, as a power cut does.
    pub(super) async fn lose_power(&mut self) -> Result<()> {
        // The containers first: a shim that is gone cannot end its own.
        let containers = self.tasks()?;
        self.process.kill()?;
        for pid in containers.into_iter().chain(shims()?) {
            let _already_gone = kill_process(pid, Signal::KILL);
        }
        wait_until("the end of every container", READY, || async {
            let left = shims()?;
            ensure!(left.is_empty(), "{} shims are left", left.len());
            Ok(())
        })
        .await?;
        // What a reboot empties: sockets and mounts of containers.
        for mount in mounts_below("/run/containerd")? {
            rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH)
                .with_context(|| format!("unmount {}", mount.display()))?;
        }
        fs::remove_dir_all("/run/containerd").context("empty /run/containerd")
    }

    /// A `ctr` command for kubelet's containers.
    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new(&self.ctr);
        command.args(["--address", SOCKET, "--namespace", NAMESPACE]);
        command
    }

    async fn answers(&mut self) -> Result<()> {
        let ctr = self.ctr.clone();
        let ctr = &ctr;
        self.process
            .ready(READY, || async move {
                output(Command::new(ctr).args(["--address", SOCKET, "version"])).map(drop)
            })
            .await
    }

    /// First processes of the running containers.
    fn tasks(&self) -> Result<Vec<Pid>> {
        let listed = output(self.ctr().args(["task", "list"]))?;
        // TASK PID STATUS
        Ok(listed
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
            .filter_map(Pid::from_raw)
            .collect())
    }
}

fn shims() -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")? {
        let entry = entry.context("list processes")?;
        let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        if program.ends_with(SHIM.as_bytes()) {
            found.extend(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// A configuration of version 3; what is not named keeps containerd's default.
fn configuration(data: &Path, hosts: &Path, networks: &Path, sandbox_image: &str) -> String {
    let (data, hosts, networks) = (data.display(), hosts.display(), networks.display());
    format!(
        r#"version = 3
root = "{data}"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{sandbox_image}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{hosts}"

[plugins."io.containerd.cri.v1.runtime"]
# The sandbox may not be allowed to make a process less likely to be ended.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{PLUGINS}"]
conf_dir = "{networks}"
"#
    )
}

fn network() -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": BRIDGE,
            "isGateway": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-addresses",
                "ranges": [[{ "subnet": PODS, "gateway": super::ADDRESS.to_string() }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
}

/// PATH with the folder of `program` in front.
fn path_with(program: &Path) -> Result<OsString> {
    let folder = program.parent().context("a program without a folder")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_owned()]
        .into_iter()
        .chain(env::split_paths(&path));
    env::join_paths(folders).context("PATH")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
