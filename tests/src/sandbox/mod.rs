//! Private namespaces for a whole run, so that nothing of it outlives it.
//!
//! A main calls [`Sandbox::enter`] first, which starts the same program again, twice:
//! ```text
//! outer   the caller's; makes the run's folder, forwards signals, waits, removes the folder
//!  └ setpriv --pdeathsig KILL · unshare --mount --pid --kill-child
//!     └ init    PID 1 inside; private /etc/hosts, adopts and reaps orphans, forwards signals
//!        └ inside   here `enter` returns and the run goes on
//! ```
//! When any of them ends, also by SIGKILL, the kernel ends the ones below it, and with PID 1 every
//! process, every mount and, where the run has one, its network.

mod cgroups;
mod node;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tempfile::TempDir;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Tells a program started again which of the roles it has.
const ROLE: &str = "WORKLOAD_IDENTITY_SANDBOX";
/// The run's folder, for the roles inside.
const RUN: &str = "WORKLOAD_IDENTITY_SANDBOX_RUN";
/// When set, the run's folder with all logs is left behind.
const KEEP: &str = "WORKLOAD_IDENTITY_KEEP";
/// Variables of this program alone: who starts another one that has a sandbox of its own takes them away.
pub const VARIABLES: [&str; 2] = [ROLE, RUN];
const HOSTS: &str = "/etc/hosts";
/// Prefix of the run's folder.
const PREFIX: &str = "argocd-workload-identity-";
/// Time that the run has to end after a signal, before everything inside is killed.
const GRACE: Duration = Duration::from_secs(20);
/// Always resolves inside: the registry's name that the project's documents use.
const REGISTRY_HOST: &str = "quay.example.test";

/// What a run has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Processes and mounts. The network is the machine's: a server on loopback is reachable from outside.
    Processes,
    /// A network too, with nothing but loopback, and what a node of a cluster writes to: `/run`, `/var/log`
    /// and `/var/lib` are empty, `/var/lib/kubelet` is a folder of the run, from which mounts propagate.
    Node,
}

/// The inside of the namespaces.
#[derive(Debug)]
pub struct Sandbox {
    run: PathBuf,
}

impl Sandbox {
    /// Returns inside the namespaces, or not at all: the outer process ends with the inner one's exit
    /// code. Call it first in `main`, before any thread.
    ///
    /// Inside, `quay.example.test` and `names` resolve to `address`, and `others` to their own.
    ///
    /// # Errors
    /// When the caller is not root, or a namespace, mount or folder cannot be made.
    pub fn enter(
        isolation: Isolation,
        address: Ipv4Addr,
        names: &[&str],
        others: &[(&str, Ipv4Addr)],
    ) -> Result<Self> {
        match env::var(ROLE).as_deref() {
            Ok("inside") => Ok(Self { run: run_folder()? }),
            Ok("init") => {
                let names = [REGISTRY_HOST].iter().chain(names);
                let names = names.map(|name| (*name, address));
                let hosts: Vec<_> = names.chain(others.iter().copied()).collect();
                exit(init(isolation, &hosts)?)
            }
            _ => exit(outer(isolation)?),
        }
    }

    /// Makes sure, before anything else is done, that a sandbox can be entered.
    ///
    /// # Errors
    /// One line, when the caller is not root.
    pub fn require_root() -> Result<()> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "this needs root: it runs in mount, PID and, with a node, network namespaces of its own"
        );
        Ok(())
    }

    /// Whether this process is not inside yet: what needs the machine's network has to happen now.
    #[must_use]
    pub fn is_outside() -> bool {
        env::var_os(ROLE).is_none()
    }

    /// The run's folder, for data and logs. It is removed after the run, unless `WORKLOAD_IDENTITY_KEEP` is set.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run
    }
}

/// Makes the control group of this run and returns its name, as kubelet takes it. It is removed when the
/// run has ended.
///
/// # Errors
/// Outside a sandbox, and when the kernel refuses it.
pub fn control_group() -> Result<String> {
    let run = run_folder()?;
    cgroups::create(&run)?;
    cgroups::name(&run)
}

/// Where the control groups of the run with this folder are, or would be.
///
/// # Errors
/// When the kernel's hierarchies cannot be listed.
pub fn control_groups(run: &Path) -> Result<Vec<PathBuf>> {
    cgroups::groups(run)
}

/// Removes the control groups below this run's own, as a power cut does. No process may be in them.
///
/// # Errors
/// When a process is.
pub fn empty_control_group() -> Result<()> {
    let run = run_folder()?;
    cgroups::remove(&run)?;
    cgroups::create(&run)
}

/// Completes when the run is asked to end: Ctrl-C, SIGTERM or SIGHUP.
///
/// # Errors
/// When the signals cannot be watched.
pub async fn interrupted() -> Result<()> {
    let mut signals = Signals::new()?;
    signals.next().await;
    Ok(())
}

fn outer(isolation: Isolation) -> Result<i32> {
    Sandbox::require_root()?;
    let run = TempDir::with_prefix(PREFIX).context("make the run's folder")?;
    // Components run as users of their own and must reach their files; what is secret has a mode of its own.
    fs::set_permissions(run.path(), fs::Permissions::from_mode(0o755))
        .context("open the run's folder")?;
    let code = on_this_thread(supervise(isolation, run.path()))?;
    if isolation == Isolation::Node {
        cgroups::remove(run.path())?;
    }
    if env::var_os(KEEP).is_some() {
        crate::progress::step(format_args!("kept {}", run.keep().display()));
    } else {
        run.close().context("remove the run's folder")?;
    }
    Ok(code)
}

async fn supervise(isolation: Isolation, run: &Path) -> Result<i32> {
    let mut signals = Signals::new()?;
    let mut child = tokio::process::Command::from(again("init", isolation, run, |program| {
        let mut command = Command::new("setpriv");
        // unshare itself would outlive a killed caller, and with it everything inside.
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid"]);
        if isolation == Isolation::Node {
            command.arg("--net");
        }
        command.args(["--fork", "--kill-child", "--mount-proc"]);
        command
            .args(["--propagation", "private", "--"])
            .arg(program);
        command
    })?)
    .spawn()
    .context("start setpriv and unshare (package util-linux)")?;
    tokio::select! {
        status = child.wait() => return Ok(code(status.context("wait for the sandbox")?)),
        () = signals.next() => {}
    }
    // unshare ignores SIGTERM; PID 1 inside, its child, is who forwards it to the run.
    if let Some(init) = child.id().and_then(only_child) {
        let _ = kill_process(init, Signal::TERM);
    }
    tokio::select! {
        status = child.wait() => return Ok(code(status.context("wait for the sandbox")?)),
        () = signals.next() => {}
        () = tokio::time::sleep(GRACE) => {}
    }
    child.kill().await.context("end the sandbox")?;
    Ok(128 + Signal::KILL.as_raw())
}

fn init(isolation: Isolation, hosts: &[(&str, Ipv4Addr)]) -> Result<i32> {
    let run = run_folder()?;
    private_hosts(&run, hosts)?;
    if isolation == Isolation::Node {
        node::prepare(&run)?;
    }
    let mut command = again("inside", isolation, &run, |program| Command::new(program))?;
    on_this_thread(async move {
        // Watched before the child exists, so that no end of it is missed.
        let mut ended = signal(SignalKind::child()).context("watch for ended children")?;
        let mut signals = Signals::new()?;
        let child = command.spawn().context("start this program inside")?;
        let child = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("pid of the inner program")?;
        loop {
            tokio::select! {
                _ = ended.recv() => {
                    if let Some(code) = reap(child)? {
                        return Ok(code);
                    }
                }
                () = signals.next() => {
                    let _ = kill_process(child, Signal::TERM);
                }
            }
        }
    })
}

/// Reaps every ended child, adopted or own; the run's exit code when it is among them.
fn reap(run: Pid) -> Result<Option<i32>> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == run => return Ok(Some(wait_code(status))),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return Ok(None),
            Err(error) => return Err(error).context("reap ended processes"),
        }
    }
}

/// Binds a copy of the machine's hosts file, with the names added, over it: in this mount namespace only.
fn private_hosts(run: &Path, names: &[(&str, Ipv4Addr)]) -> Result<()> {
    let mut hosts = fs::read_to_string(HOSTS).with_context(|| format!("read {HOSTS}"))?;
    if !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for (name, address) in names {
        hosts.push_str(&format!("{address} {name}\n"));
    }
    cover(&run.join("hosts"), &hosts, Path::new(HOSTS))
}

/// Writes `content` to a file and binds it over `target`, in this mount namespace only.
fn cover(file: &Path, content: &str, target: &Path) -> Result<()> {
    fs::write(file, content).with_context(|| format!("write {}", file.display()))?;
    rustix::mount::mount_bind(file, target)
        .with_context(|| format!("mount over {}", target.display()))
}

/// This program again, with the same arguments, in another role; `start` says how to reach it.
fn again(
    role: &str,
    isolation: Isolation,
    run: &Path,
    start: impl FnOnce(&OsStr) -> Command,
) -> Result<Command> {
    let own = env::current_exe().context("find this program")?;
    let mut command = start(own.as_os_str());
    command
        .args(env::args_os().skip(1))
        .env(ROLE, role)
        .env(RUN, run);
    if isolation == Isolation::Node {
        // What needs the machine's network was done outside.
        command.env(crate::binaries::BUILT, "1");
    }
    Ok(command)
}

fn run_folder() -> Result<PathBuf> {
    env::var_os(RUN)
        .map(PathBuf::from)
        .with_context(|| format!("{RUN} is not set inside the sandbox"))
}

/// The one child of a process, as `unshare --fork` has.
fn only_child(parent: u32) -> Option<Pid> {
    fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
        .and_then(Pid::from_raw)
}

fn on_this_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?
        .block_on(work)
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    wait_code_of(status.code(), status.signal())
}

fn wait_code(status: WaitStatus) -> i32 {
    wait_code_of(status.exit_status(), status.terminating_signal())
}

/// As shells number it.
fn wait_code_of(code: Option<i32>, signal: Option<i32>) -> i32 {
    code.or(signal.map(|signal| 128 + signal)).unwrap_or(1)
}

/// The signals that ask a run to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let watch = |kind| signal(kind).context("watch for signals");
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
