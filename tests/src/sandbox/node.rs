//! What is the machine's and a node would change, covered inside a sandbox: folders, network, kernel settings.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::cover;
use crate::cluster::mounts_below;
use crate::folders::create;
use crate::process::output;

/// Empty inside. Pods' manifests name folders below them, so a node cannot have its own elsewhere.
const EMPTY: [&str; 3] = ["/run", "/var/log", "/var/lib"];
const KUBELET: &str = "/var/lib/kubelet";
const RESOLVER: &str = "/etc/resolv.conf";

/// Kernel settings that kubelet insists on, and that are the whole machine's. Inside they read as kubelet
/// wants them (`protectKernelDefaults` has it fail rather than write), outside nothing changes.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Prepares a new mount and network namespace for a node whose files are in `run`.
pub(super) fn prepare(run: &Path) -> Result<()> {
    output(Command::new("ip").args(["link", "set", "lo", "up"])).context("start loopback")?;
    for folder in EMPTY {
        // What a mount only hides stays in the mount table, and who looks a path up there finds it first: a
        // kubelet's of this machine, or of a sandbox around this one.
        for mount in mounts_below(folder)? {
            rustix::mount::unmount(&mount, UnmountFlags::DETACH)
                .with_context(|| format!("leave {} outside", mount.display()))?;
        }
        rustix::mount::mount("tmpfs", folder, "tmpfs", MountFlags::empty(), None)
            .with_context(|| format!("mount a tmpfs over {folder}"))?;
    }
    // On a disk, as a real node has it: nothing there is a tmpfs unless somebody mounts one.
    let kubelet = create(run.join("kubelet"))?;
    create(KUBELET.into())?;
    rustix::mount::mount_bind(&kubelet, KUBELET)
        .with_context(|| format!("mount over {KUBELET}"))?;
    rustix::mount::mount_change(KUBELET, MountPropagationFlags::SHARED)
        .with_context(|| format!("share the mounts below {KUBELET}"))?;
    let resolver = format!("nameserver {}\n", crate::cluster::ADDRESS);
    cover(&run.join("resolv.conf"), &resolver, Path::new(RESOLVER))?;
    let settings = create(run.join("settings"))?;
    for (name, value) in SETTINGS {
        let file = settings.join(name.replace('/', "."));
        cover(
            &file,
            &format!("{value}\n"),
            &Path::new("/proc/sys").join(name),
        )?;
    }
    Ok(())
}
