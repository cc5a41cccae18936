//! The Debian packages that the suite runs, installed when this may be done.
//!
//! Redis comes as `redis-tools`, not as `redis-server`: that package holds the server's program too
//! (`redis-server` is only a link to its `redis-check-rdb`, plus a system service). So nothing
//! on the machine starts a daemon because somebody ran these tests.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::output;
use crate::progress;

/// Programs looked for on PATH, and the package that has each.
const NEEDED: &[(&str, &str)] = &[
    ("bwrap", "bubblewrap"),
    (REDIS_PROGRAM, "redis-tools"),
    ("git", "git"),
    ("gpg", "gpg"),
    // Argo CD's repo-server makes a keyring at its start; gpg only recommends its agent.
    ("gpg-agent", "gpg-agent"),
    ("busybox", "busybox-static"),
    // The server without its system service, which the package apache2 would start.
    ("/usr/sbin/apache2", "apache2-bin"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    // Some networks are made here: a node's, and that of a demo beside others.
    ("ip", "iproute2"),
];

/// The file behind Debian's `redis-server`; it acts by the name that it is called.
pub(crate) const REDIS_PROGRAM: &str = "redis-check-rdb";

/// What a real node needs besides.
const NEEDED_FOR_NODE: &[(&str, &str)] = &[
    ("iptables", "iptables"),
    ("runc", "runc"),
    // Not on PATH, as CNI has it.
    (BRIDGE_PLUGIN, "containernetworking-plugins"),
];

/// What runs the peers that Python has.
const NEEDED_FOR_PYTHON: &[(&str, &str)] = &[("python3", "python3")];
/// What installs them.
const PIP: &str = "python3-pip";

/// What fetches and runs Keycloak.
const NEEDED_FOR_KEYCLOAK: &[(&str, &str)] = &[
    ("java", "default-jre-headless"),
    ("mvn", "maven"),
    ("unzip", "unzip"),
];

/// One of the plugins of containernetworking-plugins.
const BRIDGE_PLUGIN: &str = "/usr/lib/cni/bridge";

/// Makes sure that every program that the suite takes from Debian is there, installing as root what is not.
///
/// # Errors
/// One line that names the missing packages, or apt-get's own words when the installation fails.
pub fn ensure() -> Result<()> {
    provide(NEEDED)
}

/// As [`ensure`], also for a real node.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_for_node() -> Result<()> {
    provide(&[NEEDED, NEEDED_FOR_NODE].concat())
}

/// As [`ensure`], for the peers that Python has and nothing else.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_for_python() -> Result<()> {
    provide(NEEDED_FOR_PYTHON)
}

/// Makes sure that `python3` has its module pip. A program `pip3` says nothing about that: it may be another Python's.
///
/// # Errors
/// As [`ensure`], and when the `python3` on PATH is not Debian's and has no pip.
pub fn ensure_pip() -> Result<()> {
    let pip = || output(Command::new("python3").args(["-m", "pip", "--version"]));
    if pip().is_ok() {
        return Ok(());
    }
    install(&[PIP])?;
    pip()
        .map(drop)
        .with_context(|| format!("{PIP} is installed, but not for the python3 on PATH"))
}

/// As [`ensure`], for Keycloak and nothing else.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_for_keycloak() -> Result<()> {
    provide(NEEDED_FOR_KEYCLOAK)
}

fn provide(programs: &[(&'static str, &'static str)]) -> Result<()> {
    let missing = missing(programs);
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)?;
    match self::missing(programs) {
        still if still.is_empty() => Ok(()),
        still => bail!(
            "installed, but their programs are not there: {}",
            still.join(" ")
        ),
    }
}

fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if !rustix::process::geteuid().is_root() || find("apt-get").is_none() {
        bail!("missing Debian packages: {names} (install them, or run as root on Debian)");
    }
    progress::step(format_args!("installing Debian packages: {names}"));
    apt(&["update", "-qq"])?;
    let arguments = ["install", "-y", "-qq", "--no-install-recommends"];
    apt(&[&arguments, packages].concat())
}

/// A command that starts Debian's Redis server; arguments and address are the caller's.
#[must_use]
pub fn redis_server() -> Command {
    let mut command = Command::new(REDIS_PROGRAM);
    command.arg0("redis-server");
    command
}

fn missing(programs: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    let mut packages: Vec<&'static str> = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    packages.dedup();
    packages
}

/// Where `program` is on PATH; an absolute path is looked for as it is.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn apt(arguments: &[&str]) -> Result<()> {
    output(
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .map(drop)
    .context("install Debian packages")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_on_path_only() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
