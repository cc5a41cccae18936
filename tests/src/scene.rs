//! Everything of the main job, running together: the cluster that Argo CD is
//! in, a remote cluster, a private registry, the project, stock Argo CD.
//!
//! The demo and the process tier start the same scene.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kube::Client;

use crate::argocd::{self, ArgoCd};
use crate::binaries::Binaries;
use crate::code;
use crate::control_plane::{self, ControlPlane, RemoteCluster, apply};
use crate::folders::create;
use crate::hosts;
use crate::identities::{Choice, OIDC_HOST, Source, Trust};
use crate::installation::{self, Installation, Plan};
use crate::node::{self, Node};
use crate::peers::Peers;
use crate::quay;
use crate::targets::{self, Lives, Targets};

/// Namespace that Argo CD runs in.
pub const ARGOCD: &str = "argocd";
/// Name of the node.
pub const NODE: &str = "node-1";
/// Names that a [`crate::sandbox::Sandbox`] has to resolve for a scene.
pub const HOSTS: [&str; 2] = [installation::ISSUER_HOST, OIDC_HOST];
/// An audience that the scene's API server takes for its own, and whose form does not show it.
pub const OWN_AUDIENCE: &str = "this-cluster.example.test";
/// Name of kubelet's folder in the scene's.
const KUBELET: &str = "kubelet";

/// The cluster, its node and the registry: what the project and Argo CD need around them. The remote cluster
/// comes after the project, whose issuer it may trust.
pub struct Surroundings {
    /// Where the project listens.
    pub plan: Plan,
    /// What Argo CD pulls from and deploys to.
    pub targets: Targets,
    /// The node of the cluster.
    pub node: Arc<Node>,
    /// The cluster that Argo CD is in.
    pub control_plane: ControlPlane,
    /// What gives identities besides the project.
    pub source: Source,
    folder: PathBuf,
}

impl Surroundings {
    /// Starts everything around the project; all of it answers when this returns.
    ///
    /// # Errors
    /// When a component cannot be started, with the last lines of its log.
    pub async fn start(
        folder: &Path,
        peers: &Peers,
        lives: Lives,
        identities: &Choice,
    ) -> Result<Self> {
        let plan = Plan::new(&create(folder.join("project"))?)?;
        let trust = Trust::new(identities, plan.issuer_url())?;
        let mut options = control_plane::Options {
            nodes: vec![NODE.into()],
            ..Default::default()
        };
        if let Some(issuer) = trust.of_cluster() {
            options.service_account_issuer = issuer.to_owned();
        }
        let issuer = &options.service_account_issuer;
        let audiences = format!("--api-audiences={issuer},{OWN_AUDIENCE}");
        options.api_server_flags.push(audiences.into());
        let control_plane = ControlPlane::start(folder, peers, options).await?;
        let node_options = node::Options {
            name: NODE.into(),
            admin: control_plane.client()?,
            kubelet: control_plane.client_with_token(control_plane.node_token(NODE)?)?,
            folder: create(folder.join(KUBELET))?,
            drivers: [(shared::layout::CSI_DRIVER.to_owned(), plan.csi_socket())].into(),
            republish: Duration::from_secs(10),
        };
        let around = targets::Options {
            address: Ipv4Addr::LOCALHOST,
            trust,
            robot_life: lives.robot,
        };
        let (targets, node) = tokio::try_join!(
            Targets::start(folder, peers, around),
            Node::start(node_options)
        )?;
        let client = control_plane.client()?;
        let source = Source::start(folder, &targets, &client).await?;
        Ok(Self {
            plan,
            source,
            targets,
            node: Arc::new(node),
            control_plane,
            folder: folder.to_owned(),
        })
    }

    /// Installs and starts the project. The namespace `argocd` is made, with
    /// the label that opts it in.
    ///
    /// # Errors
    /// As [`Installation::start`].
    pub async fn install(&self, binaries: &Binaries, lives: Lives) -> Result<Installation> {
        self.install_serving(binaries, lives, &[]).await
    }

    /// As [`Surroundings::install`], for an installation that serves more
    /// namespaces, which are made, too.
    ///
    /// # Errors
    /// As [`Installation::start`].
    pub async fn install_serving(
        &self,
        binaries: &Binaries,
        lives: Lives,
        more: &[&str],
    ) -> Result<Installation> {
        let client = self.control_plane.client()?;
        apply(&client, "", &namespace(ARGOCD)).await?;
        for name in more {
            let plain = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
            apply(&client, "", &plain).await?;
        }
        let served: Vec<_> = [ARGOCD].iter().chain(more).copied().collect();
        Installation::start(installation::Options {
            binaries,
            control_plane: &self.control_plane,
            node: &self.node,
            authority: &self.targets.authority,
            plan: self.plan.clone(),
            argocd_namespaces: &served,
            allowed_hosts: &(self.targets.allowed_hosts() + &hosts::allowed()),
            token_lifetime: lives.identity,
            kubelet: &self.kubelet(),
            environment: &[],
            agent_environment: &self.source.agent_environment(),
        })
        .await
    }

    /// Starts the remote cluster. It trusts the installation's issuer, or who gives identities in its place, and
    /// takes their tokens when this returns.
    ///
    /// # Errors
    /// As [`Targets::remote`].
    pub async fn remote(&self, peers: &Peers, _issuer: &Installation) -> Result<RemoteCluster> {
        let admin = self.client()?;
        let proof = self.source.proof(&self.targets.trust, &admin).await?;
        let etcd = self.control_plane.etcd();
        self.targets.remote(peers, etcd, &proof).await
    }

    /// Installs stock Argo CD and runs its components as their pods say.
    ///
    /// # Errors
    /// As [`ArgoCd::start`].
    pub async fn argocd(&self, peers: &Peers, binaries: &Binaries) -> Result<ArgoCd> {
        let own = [quay::HOST, code::HOST].map(|host| (host, Ipv4Addr::LOCALHOST));
        let hosts = own.into_iter().chain(hosts::ALL);
        let hosts: Vec<_> = hosts
            .map(|(host, address)| (host.to_owned(), address))
            .collect();
        ArgoCd::start(argocd::Options {
            peers,
            control_plane: &self.control_plane,
            node: Arc::clone(&self.node),
            namespace: ARGOCD,
            folder: &create(self.folder.join("argocd"))?,
            trusted: hosts
                .iter()
                .map(|(host, _)| (host.clone(), self.targets.authority.pem().to_owned()))
                .collect(),
            hosts,
            credential_proxy: binaries.credential_proxy(),
        })
        .await
    }

    /// Folder that the node's kubelet would have: volumes lie below it.
    #[must_use]
    pub fn kubelet(&self) -> PathBuf {
        self.folder.join(KUBELET)
    }

    /// A client with all rights in the cluster that Argo CD is in.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn client(&self) -> Result<Client> {
        self.control_plane.client()
    }
}

/// YAML of a namespace that is opted in.
#[must_use]
pub fn namespace(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{{}: enabled}}\n",
        control_plane_core::annotations::INJECT
    )
}
