//! What every trial has around it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::argocd::ArgoCd;
use harness::binaries::Binaries;
use harness::control_plane::RemoteCluster;
use harness::hosts;
use harness::identities::Choice;
use harness::installation::Installation;
use harness::packages;
use harness::peers::{self, Peers};
use harness::sandbox::Isolation;
use harness::scene::{HOSTS, Surroundings};
use harness::targets::Lives;
use harness::trials;
use kube::Client;
use serde_json::json;

use crate::api::Rest;
use crate::webhook::Webhook;

/// Namespaces beside Argo CD's in which trials see what admission changes: it
/// leaves alone what is in others.
pub(crate) const SERVED: [&str; 47] = [
    "as-data",
    "as-string-data",
    "bad-cluster",
    "bad-repository",
    "becomes-bad",
    "cluster-auth",
    "cluster-config",
    "cluster-copy",
    "dropped-keys",
    "generated-name",
    "guide-cluster",
    "guides",
    "no-text",
    "outage",
    "plain-secrets",
    "policies-proxy-webhook",
    "proxy-keys",
    "repositories",
    "static-credentials",
    "argocd-resource",
    "bad-annotation",
    "operator-owned",
    "own-template",
    "rollout",
    "workloads",
    "conflicts",
    "conflicts-plain",
    "helm-chart",
    "helm-chart-plain",
    "host-network",
    "left-out",
    "left-out-plain",
    "operator",
    "operator-plain",
    "opt-in",
    "opt-in-plain",
    "opt-out",
    "opt-out-plain",
    "plugins",
    "plugins-plain",
    "quota",
    "quota-plain",
    "same-purpose",
    "spiffe-absent",
    "stock",
    "two-hundred",
    "unknown-fields",
];

/// Short enough that every credential of a run rotates during it.
pub(crate) const LIVES: Lives = Lives {
    identity: Duration::from_secs(60),
    robot: Duration::from_secs(60),
};

const NO_ARGOCD: &str = "this case was made without `with_argocd`";

/// What is built and installed before anything is started.
pub(crate) struct Prepared {
    pub(crate) peers: Peers,
    pub(crate) csi_sanity: PathBuf,
    pub(crate) binaries: Binaries,
    /// The run's folder.
    pub(crate) folder: PathBuf,
}

/// The running scene, and Argo CD where a trial needs it.
pub(crate) struct Scene {
    // Dropped in this order: users before what they use.
    argocd: Option<ArgoCd>,
    pub(crate) remote: RemoteCluster,
    pub(crate) installation: Installation,
    pub(crate) around: Surroundings,
    pub(crate) binaries: Binaries,
    pub(crate) peers: Peers,
    /// The CSI project's conformance test.
    pub(crate) csi_sanity: PathBuf,
    /// A folder for the trials' own files.
    pub(crate) folder: PathBuf,
}

impl trials::Scene for Scene {
    type Prepared = Prepared;

    const ISOLATION: Isolation = Isolation::Processes;
    const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const NAMES: &'static [&'static str] = &HOSTS;
    const OTHERS: &'static [hosts::Host] = &hosts::ALL;

    /// Trials wait far more than they compute.
    const THREADS: usize = 4;

    fn prepare(folder: &Path) -> Result<Prepared> {
        packages::ensure()?;
        Ok(Prepared {
            peers: Peers::prepare()?,
            csi_sanity: peers::csi_sanity()?,
            binaries: Binaries::build()?,
            folder: folder.to_owned(),
        })
    }

    async fn start(prepared: &Prepared, with_argocd: bool) -> Result<Self> {
        let folder = prepared.folder.join("scene");
        let around =
            Surroundings::start(&folder, &prepared.peers, LIVES, &Choice::default()).await?;
        let installation = around
            .install_serving(&prepared.binaries, LIVES, &SERVED)
            .await?;
        let argocd = async {
            if !with_argocd {
                return Ok(None);
            }
            let started = around.argocd(&prepared.peers, &prepared.binaries).await;
            started.map(Some)
        };
        let remote = around.remote(&prepared.peers, &installation);
        let (argocd, remote) = tokio::try_join!(argocd, remote)?;
        Ok(Self {
            argocd,
            remote,
            installation,
            around,
            binaries: prepared.binaries.clone(),
            peers: prepared.peers.clone(),
            csi_sanity: prepared.csi_sanity.clone(),
            folder,
        })
    }
}

impl Scene {
    /// Argo CD, for cases that were made with it.
    pub(crate) fn argocd(&self) -> Result<&ArgoCd> {
        self.argocd.as_ref().context(NO_ARGOCD)
    }

    /// As [`Scene::argocd`], to start components again.
    pub(crate) fn argocd_mut(&mut self) -> Result<&mut ArgoCd> {
        self.argocd.as_mut().context(NO_ARGOCD)
    }

    /// A client with all rights.
    pub(crate) fn client(&self) -> Result<Client> {
        self.around.client()
    }

    /// The API server as bytes on the wire, with all rights.
    pub(crate) fn rest(&self) -> Result<Rest> {
        Ok(Rest::new(self.client()?))
    }

    /// Lets Argo CD's identity into the remote cluster, and makes a namespace there.
    pub(crate) async fn admit(&self, namespace: &str) -> Result<()> {
        let targets = &self.around.targets;
        targets.admit_to(&self.remote, namespace).await
    }

    /// The admission webhook itself.
    pub(crate) fn webhook(&self) -> Result<Webhook> {
        let url = self.installation.plan.admission_url();
        Webhook::new(url, self.around.targets.authority.pem())
    }

    /// Makes a namespace for a trial and returns its name.
    pub(crate) async fn namespace<'n>(
        &self,
        name: &'n str,
        labels: &[(&str, &str)],
    ) -> Result<&'n str> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": labels },
        });
        // Those that are served are there already.
        self.rest()?
            .apply(&format!("/api/v1/namespaces/{name}"), &namespace)
            .await
            .with_context(|| format!("make namespace {name}"))?;
        Ok(name)
    }
}
