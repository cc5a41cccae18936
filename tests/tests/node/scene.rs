//! What every trial has around it: a node, the project, two bindings and nobody who uses them yet.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use harness::bindings::{self, CredentialBinding};
use harness::chart::Chart;
use harness::cluster::ADDRESS;
use harness::control_plane::{RemoteCluster, apply};
use harness::identities::Choice;
use harness::node_scene::{HOSTS, NodeScene, Prepared};
use harness::sandbox::Isolation;
use harness::scene::ARGOCD;
use harness::targets::Lives;
use harness::trials;
use kube::Api;

/// Short enough that every credential of a run rotates during it.
const LIVES: Lives = Lives {
    identity: Duration::from_secs(40),
    robot: Duration::from_secs(40),
};
/// The binding of a registry; repo-server's account is its consumer.
pub(crate) const REGISTRY: &str = "charts";
/// The binding of a remote cluster; the controller's account is a consumer.
pub(crate) const CLUSTER: &str = "spoke";
/// Longer than anything takes that a trial waits for.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

const CHART: Chart<'_> = Chart {
    name: "node",
    version: "1.0.0",
    message: "a chart that nobody deploys",
};

/// The running scene.
pub(crate) struct Scene {
    pub(crate) node: NodeScene,
    /// Nobody connects to it: it is what the Secret names.
    _remote: RemoteCluster,
    pub(crate) prepared: Prepared,
}

/// What is built, and the run's folder.
pub(crate) struct Ready {
    pub(crate) prepared: Prepared,
    pub(crate) folder: PathBuf,
}

impl trials::Scene for Scene {
    type Prepared = Ready;

    const ISOLATION: Isolation = Isolation::Node;
    const ADDRESS: Ipv4Addr = ADDRESS;
    const NAMES: &'static [&'static str] = &HOSTS;

    /// Trials wait far more than they compute.
    const THREADS: usize = 4;

    fn outside() -> Result<()> {
        Prepared::new().map(drop)
    }

    fn prepare(folder: &Path) -> Result<Ready> {
        Ok(Ready {
            prepared: Prepared::new()?,
            folder: folder.to_owned(),
        })
    }

    async fn start(ready: &Ready, _with_argocd: bool) -> Result<Self> {
        let folder = ready.folder.join("scene");
        let node = NodeScene::start(&folder, &ready.prepared, LIVES, &Choice::default()).await?;
        node.targets.publish(&ready.prepared.peers, &CHART)?;
        let installed = node.install(LIVES).await?;
        let remote = node.remote(&ready.prepared.peers, &installed).await?;
        let client = node.client()?;
        let accounts = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: argocd-repo-server}\n---\n\
                        apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: argocd-application-controller}\n";
        apply(&client, ARGOCD, accounts).await?;
        for secret in [
            node.targets.repository_secret(REGISTRY),
            node.targets.cluster_secret(&remote, CLUSTER)?,
        ] {
            apply(&client, ARGOCD, &secret).await?;
        }
        Ok(Self {
            node,
            _remote: remote,
            prepared: ready.prepared.clone(),
        })
    }
}

impl Scene {
    /// The bindings of Argo CD's namespace.
    pub(crate) fn bindings(&self) -> Result<Api<CredentialBinding>> {
        Ok(bindings::api(self.node.client()?, ARGOCD))
    }
}
