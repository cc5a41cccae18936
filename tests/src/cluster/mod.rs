//! A real cluster of one node: pods run in containers, volumes are mounted by kubelet.
//!
//! ```text
//!   etcd ◀─ kube-apiserver ◀─ kube-controller-manager, kube-scheduler
//!                 ▲  ▲  ▲
//!        kubelet ─┘  │  └─ CoreDNS           containerd ◀─ images from a registry of its own,
//!           │        └─ kube-proxy               ▲          which stands for every registry
//!           └────────────────────────────────────┘
//! ```
//!
//! All of it runs in a [`Sandbox`](crate::sandbox::Sandbox) with a network of its own
//! ([`Isolation::Node`](crate::sandbox::Isolation::Node)), so that mounts, processes, bridges, rules and
//! control groups end with it.

mod containerd;
mod dns;
mod exec;
mod kubectl;
mod kubelet;
mod network;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

pub use self::containerd::Containerd;
pub use self::kubectl::Kubectl;
pub use self::kubelet::Kubelet;
pub use self::network::ADDRESS;

use crate::control_plane::{self, ControlPlane};
use crate::folders::create;
use crate::peers::{NodePeers, Peers};
use crate::process::Process;
use crate::registry::Registry;
use crate::sandbox;

/// The node's name.
pub const NODE: &str = "node-1";
/// First address of the range of Services: the API server's own.
const API_SERVICE: &str = "10.96.0.1";
const READY: Duration = Duration::from_secs(90);

/// A running cluster. Ends when dropped, and with the sandbox in any case.
pub struct Cluster {
    // Fields are dropped in order: users before what they use.
    _dns: Process,
    _proxy: Process,
    _scheduler: Process,
    /// What runs the pods.
    pub kubelet: Kubelet,
    /// What runs the containers.
    pub containerd: Containerd,
    /// Where every image comes from.
    pub images: Registry,
    /// API server and controllers.
    pub control_plane: ControlPlane,
    kubectl: Kubectl,
    folder: PathBuf,
}

/// What [`Cluster::start`] needs.
pub struct Options<'a> {
    /// The run's folder; the cluster's files go below it.
    pub folder: &'a Path,
    /// The control plane's programs.
    pub peers: &'a Peers,
    /// The node's programs.
    pub node_peers: &'a NodePeers,
    /// A registry with every image that a pod of this cluster may name, whatever its host.
    pub images: Registry,
    /// Reference of the image of pods' sandboxes.
    pub sandbox_image: &'a str,
    /// Names that pods resolve to the node's address.
    pub names: &'a [&'a str],
    /// `iss` of service account tokens, if not what most clusters have.
    pub service_account_issuer: Option<&'a str>,
}

impl Cluster {
    /// Starts everything; the node is Ready and Services work when this returns.
    ///
    /// # Errors
    /// When a component cannot be started or is not ready in time, with the last lines of its log.
    pub async fn start(options: Options<'_>) -> Result<Self> {
        let Options {
            folder,
            peers,
            node_peers,
            images,
            sandbox_image,
            names,
            service_account_issuer,
        } = options;
        network::set_up()?;
        let containerd =
            Containerd::start(folder, node_peers, &images.url(), sandbox_image).await?;
        let mut options = control_plane::Options {
            address: ADDRESS,
            nodes: vec![NODE.into()],
            extra_names: vec![API_SERVICE.into()],
            ..Default::default()
        };
        if let Some(issuer) = service_account_issuer {
            options.service_account_issuer = issuer.to_owned();
        }
        let control_plane = ControlPlane::start(folder, peers, options).await?;
        let config = control_plane.kubeconfig("node-components", control_plane.admin_token())?;
        let logs = create(folder.join("node"))?;
        let scheduler = component(
            "kube-scheduler",
            node_peers.kube_scheduler(),
            &config,
            &logs,
            &["--leader-elect=false", "--secure-port=0"],
        )?;
        let proxy = component(
            "kube-proxy",
            node_peers.kube_proxy(),
            &config,
            &logs,
            &[
                "--proxy-mode=iptables",
                "--hostname-override=node-1",
                // These are the whole machine's.
                "--conntrack-max-per-core=0",
            ],
        )?;
        let dns = dns::start(node_peers, &control_plane, &config, &logs, names).await?;
        let kubelet = Kubelet::start(folder, node_peers, &control_plane)?;
        let kubectl = Kubectl::new(node_peers.kubectl(), &config);
        let mut cluster = Self {
            _dns: dns,
            _proxy: proxy,
            _scheduler: scheduler,
            kubelet,
            containerd,
            images,
            control_plane,
            kubectl,
            folder: folder.to_owned(),
        };
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Waits until the node is Ready.
    ///
    /// # Errors
    /// When kubelet ends, or at a limit.
    pub async fn ready(&mut self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client()?);
        let nodes = &nodes;
        self.kubelet
            .process()
            .ready(READY, || async move {
                let node = nodes.get(NODE).await.context("read the node")?;
                let conditions = node.status.and_then(|status| status.conditions);
                let ready = conditions
                    .iter()
                    .flatten()
                    .find(|it| it.type_ == "Ready")
                    .context("the node says nothing about Ready")?;
                ensure!(ready.status == "True", "{:?}", ready.message);
                Ok(())
            })
            .await
    }

    /// A client with all rights.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn client(&self) -> Result<Client> {
        self.control_plane.client()
    }

    /// kubectl with all rights.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The cluster's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The node loses power: every container and every mount of a pod is gone, kubelet's own files stay.
    /// It is Ready again when this returns; its pods come back later.
    ///
    /// # Errors
    /// When something survives, or the node does not come back.
    pub async fn reboot(&mut self) -> Result<()> {
        self.kubelet.stop()?;
        self.containerd.lose_power().await?;
        kubelet::unmount_pods()?;
        sandbox::empty_control_group()?;
        self.containerd.start_again().await?;
        self.kubelet.start_again()?;
        self.ready().await
    }
}

fn component(
    name: &str,
    program: &Path,
    kubeconfig: &Path,
    logs: &Path,
    arguments: &[&str],
) -> Result<Process> {
    let mut command = Command::new(program);
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments.iter().map(OsString::from));
    Ok(Process::start(name, &mut command, logs)?.with_grace(Duration::ZERO))
}

/// Mount points at or below `folder`, the innermost first.
pub(crate) fn mounts_below(folder: &str) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect();
    points.reverse();
    Ok(points)
}
