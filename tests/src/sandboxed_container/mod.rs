//! One container of a real Pod, run under bubblewrap with the environment and mounts of its spec.
//!
//! ```text
//!   Pod ─┬ env, envFrom ──▶ environment.rs ─┐
//!        ├ volumes ───────▶ volumes.rs ─────┼─▶ unshare --pid, bwrap …, setpriv …, <command> <args>
//!        └ volumeMounts ──────────────────▶ mounts.rs
//! ```
//!
//! Flows in: a bound Pod as the API server has it, after all admission; what its image has in
//! /usr/local/bin. Flows out: a running process that sees what a container of that pod would see: its
//! mounts, a read-only root, its own processes, its user, its environment. It differs from a container in
//! this: /usr and the trusted roots are the machine's; the network is the run's; and [`Options::extra_args`] come after
//! the container's own arguments, because ports have to be free ones.

mod environment;
mod exec;
mod mounts;
mod objects;
mod volumes;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::node::{Node, TokenFile};
use crate::packages;
use crate::process::Process;
use objects::Objects;

/// What the container's image would bring.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Files of /usr/local/bin by name.
    pub programs: BTreeMap<String, PathBuf>,
    /// Links in /usr/local/bin by name, each to one of the programs.
    pub links: BTreeMap<String, String>,
    /// The image's own environment; the container's wins.
    pub environment: BTreeMap<String, String>,
    /// The user's home, and where a container without a workingDir starts.
    pub home: PathBuf,
    /// The numeric user and group, unless the pod names another.
    pub user: i64,
}

/// What [`SandboxedContainer::start`] needs.
pub struct Options<'a> {
    /// The node that the pod is bound to: published volumes and tokens come from it.
    pub node: &'a Node,
    /// The pod, as read from the API server after it was bound.
    pub pod: &'a Pod,
    /// The container's name; init containers count too.
    pub container: &'a str,
    /// A folder for volumes, files of its own and its log.
    pub folder: &'a Path,
    /// What its image has.
    pub image: &'a Image,
    /// The API server's port on loopback, as KUBERNETES_SERVICE_PORT.
    pub api_server_port: u16,
    /// Names that resolve to loopback inside, besides `localhost`: services, registries.
    pub hosts: &'a [(String, Ipv4Addr)],
    /// Appended to the container's own arguments. Nothing else is added to what the spec says.
    pub extra_args: &'a [String],
}

/// A running container. Dropping it kills all of its processes at once.
pub struct SandboxedContainer {
    process: Process,
    user: i64,
    _tokens: Vec<TokenFile>,
}

impl SandboxedContainer {
    /// Resolves environment and volumes through the API, as the pod's node, and starts the process.
    /// Returns before it is ready.
    ///
    /// # Errors
    /// Names the variable, the volume or the object that cannot be had, or what of the spec is not
    /// supported here.
    pub async fn start(options: Options<'_>) -> Result<Self> {
        let name = options.pod.name_any();
        Self::prepare_and_start(&options)
            .await
            .with_context(|| format!("start container {} of pod {name}", options.container))
    }

    async fn prepare_and_start(options: &Options<'_>) -> Result<Self> {
        let container = find(options.pod, options.container)?;
        let folder = options.folder.join(options.pod.name_any());
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let namespace = options.pod.namespace().context("a pod has no namespace")?;
        let mut objects = Objects::new(options.node.kubelet().clone(), namespace);

        let mut base = options.image.environment.clone();
        base.extend(environment::of_kubelet(options));
        let environment = environment::resolve(options.pod, container, base, &mut objects).await?;
        let volumes = volumes::prepare(options, container, &folder, &mut objects).await?;
        let mounts = mounts::of_container(container, &volumes.sources)?;

        // bwrap does not pass a signal on and would leave its child behind. In a PID namespace of its own,
        // nothing of the container outlives `unshare`, also not what it started itself.
        let mut command =
            Command::new(packages::find("unshare").context("unshare is not on PATH")?);
        command
            .args(["--pid", "--kill-child", "--"])
            .arg(packages::find("bwrap").context("bwrap is not on PATH")?);
        command.args(mounts::root(options, &folder)?);
        for mount in &mounts {
            command.args(mount.arguments());
        }
        command
            .args([
                "--remount-ro",
                "/",
                "--unshare-pid",
                "--unshare-uts",
                "--hostname",
            ])
            .arg(options.pod.name_any())
            .arg("--chdir")
            .arg(
                container
                    .working_dir
                    .as_ref()
                    .map_or(options.image.home.as_path(), Path::new),
            )
            // For setpriv alone, which gives them up with the rest.
            .args(["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--"])
            .args(as_user(user(options, container)))
            .args(environment::command_line(container, &environment)?)
            .args(options.extra_args)
            .env_clear()
            .envs(&environment);
        let process = Process::start(options.container, &mut command, &folder)?;
        Ok(Self {
            process,
            user: user(options, container),
            _tokens: volumes.tokens,
        })
    }

    /// The process, to wait for it or to look at its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The log with everything that the container wrote.
    #[must_use]
    pub fn log(&self) -> &Path {
        self.process.log()
    }
}

impl Drop for SandboxedContainer {
    /// Kills the first process of the container's PID namespace, and so all of them. Only when every one is
    /// gone does `unshare` end, which the drop of its [`Process`] waits for: what comes next finds ports and
    /// mounts free. (`unshare` itself ignores SIGTERM.)
    fn drop(&mut self) {
        let id = self.process.id();
        let first = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
            .ok()
            .and_then(|children| children.split_whitespace().next()?.parse().ok())
            .and_then(Pid::from_raw);
        if let Some(first) = first {
            // It may have ended by itself in the meantime, which is as good.
            let _ = kill_process(first, Signal::KILL);
        }
    }
}

/// The pod's user, without any privilege.
fn as_user(user: i64) -> [String; 6] {
    [
        "/usr/bin/setpriv".to_owned(),
        format!("--reuid={user}"),
        format!("--regid={user}"),
        "--clear-groups".to_owned(),
        "--inh-caps=-all".to_owned(),
        "--no-new-privs".to_owned(),
    ]
}

fn user(options: &Options<'_>, container: &Container) -> i64 {
    let own = container
        .security_context
        .as_ref()
        .and_then(|security| security.run_as_user);
    let pods = || {
        let spec = options.pod.spec.as_ref()?;
        spec.security_context.as_ref()?.run_as_user
    };
    own.or_else(pods).unwrap_or(options.image.user)
}

fn find<'a>(pod: &'a Pod, name: &str) -> Result<&'a Container> {
    let spec = pod.spec.as_ref().context("the pod has no spec")?;
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .find(|container| container.name == name)
        .context("the pod has no such container")
}
