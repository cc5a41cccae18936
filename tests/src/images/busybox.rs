//! Debian's static busybox under all its names, and a container that does nothing.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Image;
use crate::packages;
use crate::process::output;

const PROGRAM: &str = "/bin/busybox";

/// `busybox:test`, a shell and the usual small programs.
///
/// # Errors
/// When busybox is not installed.
pub fn image() -> Result<Image> {
    let mut image = Image::new("busybox:test".parse()?);
    add(&mut image)?;
    image.users(&[("root", 0, "/root"), ("nobody", 65534, "/")]);
    image.folder("/tmp", 0o1777);
    image.config.command = vec!["sh".to_owned()];
    Ok(image)
}

/// `pause:test`, for containerd's `sandbox` image: it holds a pod's namespaces and does nothing.
///
/// # Errors
/// When busybox is not installed.
pub fn pause() -> Result<Image> {
    let mut image = Image::new("pause:test".parse()?);
    image.program(PROGRAM, &find()?)?;
    image.config.entrypoint = [PROGRAM, "sleep", "2147483647"].map(str::to_owned).into();
    Ok(image)
}

/// Busybox and a link for each of its applets.
pub(super) fn add(image: &mut Image) -> Result<()> {
    let busybox = find()?;
    let applets = output(Command::new(&busybox).arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        image.link(format!("/bin/{applet}"), "busybox");
    }
    image.program(PROGRAM, &busybox)
}

fn find() -> Result<PathBuf> {
    packages::find("busybox").context("busybox is not on this machine's PATH")
}
