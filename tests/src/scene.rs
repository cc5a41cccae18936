//! Everything of the main job, running together: the cluster that Argo CD is
//! in, a remote cluster, a private registry, the project, stock Argo CD.
//!
//! The demo and the process tier start the same scene.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use kube::api::DynamicObject;

use crate::argocd::{self, ArgoCd};
use crate::binaries::Binaries;
use crate::chart::{Chart, Destination};
use crate::control_plane::{self, Authority, ControlPlane, OidcIssuer, RemoteCluster, apply};
use crate::installation::{self, Installation, Plan, TRUST_DOMAIN};
use crate::node::{self, Node};
use crate::peers::Peers;
use crate::quay::{self, Lifetimes, Quay, Robot};

/// Namespace that Argo CD runs in.
pub const ARGOCD: &str = "argocd";
/// Name of the node.
pub const NODE: &str = "node-1";
/// Audience of the remote cluster.
pub const SPOKE_AUDIENCE: &str = "spoke";
/// Another one, for a second cluster Secret that names it by another URL: no two Secrets share an audience.
pub const SECOND_SPOKE_AUDIENCE: &str = "spoke-2";
/// The robot that pulls what is below `prod/`.
pub const ROBOT: &str = "prod+argocd";
/// Names that a [`crate::sandbox::Sandbox`] has to resolve for a scene.
pub const HOSTS: [&str; 1] = [installation::ISSUER_HOST];

const PUBLISHER: &str = "prod+publisher";
const AUTHORITY_FILE: &str = "authority.pem";

/// How long credentials live in the scene.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    /// Identity tokens, from the issuer.
    pub identity: Duration,
    /// Robot tokens, from the registry.
    pub robot: Duration,
}

/// The cluster, its node, the registry and the remote cluster: all that the
/// project and Argo CD need around them.
pub struct Surroundings {
    /// Where the project listens.
    pub plan: Plan,
    /// The remote cluster. It trusts the project's issuer.
    pub remote: RemoteCluster,
    /// The private registry.
    pub quay: Quay,
    /// The node of the cluster.
    pub node: Arc<Node>,
    /// The cluster that Argo CD is in.
    pub control_plane: ControlPlane,
    /// Issues every certificate of the scene.
    pub authority: Authority,
    folder: PathBuf,
}

impl Surroundings {
    /// Starts everything around the project; all of it answers when this returns.
    ///
    /// # Errors
    /// When a component cannot be started, with the last lines of its log.
    pub async fn start(folder: &Path, peers: &Peers, lives: Lives) -> Result<Self> {
        let authority = Authority::new("argocd-workload-identity tests")?;
        let plan = Plan::new(&create(folder.join("project"))?)?;
        let options = control_plane::Options {
            nodes: vec![NODE.into()],
            ..Default::default()
        };
        let authority_file = folder.join(AUTHORITY_FILE);
        fs::write(&authority_file, authority.pem()).context("write the authority")?;
        let (control_plane, quay) = tokio::try_join!(
            ControlPlane::start(folder, peers, options),
            registry(folder.join("quay"), peers, &authority, lives.robot)
        )?;
        let issuer = OidcIssuer {
            url: plan.issuer_url(),
            ca_pem: authority.pem().to_owned(),
            audiences: vec![SPOKE_AUDIENCE.into(), SECOND_SPOKE_AUDIENCE.into()],
        };
        let node_options = node::Options {
            name: NODE.into(),
            admin: control_plane.client()?,
            kubelet: control_plane.client_with_token(control_plane.node_token(NODE)?)?,
            folder: create(folder.join("kubelet"))?,
            drivers: [(shared::layout::CSI_DRIVER.to_owned(), plan.csi_socket())].into(),
            republish: Duration::from_secs(10),
        };
        let (remote, node) = tokio::try_join!(
            RemoteCluster::start(folder, peers, control_plane.etcd(), "remote", &issuer),
            Node::start(node_options)
        )?;
        let node = Arc::new(node);
        let folder = folder.to_owned();
        Ok(Self {
            plan,
            remote,
            quay,
            node,
            control_plane,
            authority,
            folder,
        })
    }

    /// The allow-list of an administrator who knows the registry's host, at any port, and the remote cluster
    /// under both of its names.
    #[must_use]
    pub fn allowed_hosts(&self) -> String {
        let (quay, remote) = (quay::HOST, self.remote.port());
        format!("{quay};private,127.0.0.1:{remote};private,localhost:{remote};private")
    }

    /// Starts another registry under the same host name, at a port of its own, which is another host to
    /// Docker configurations. It has no robots and no content.
    ///
    /// # Errors
    /// As [`Quay::start`].
    pub async fn registry(&self, peers: &Peers, name: &str, robot_life: Duration) -> Result<Quay> {
        let folder = self.folder.join("registries").join(name);
        registry(folder, peers, &self.authority, robot_life).await
    }

    /// Installs and starts the project. The namespace `argocd` is made, with
    /// the label that opts it in.
    ///
    /// # Errors
    /// As [`Installation::start`].
    pub async fn install(&self, binaries: &Binaries, lives: Lives) -> Result<Installation> {
        let client = self.control_plane.client()?;
        apply(&client, "", &namespace(ARGOCD)).await?;
        Installation::start(installation::Options {
            binaries,
            control_plane: &self.control_plane,
            node: &self.node,
            authority: &self.authority,
            plan: self.plan.clone(),
            argocd_namespaces: &[ARGOCD],
            allowed_hosts: &self.allowed_hosts(),
            token_lifetime: lives.identity,
            kubelet: &self.folder.join("kubelet"),
            environment: &[],
        })
        .await
    }

    /// Installs stock Argo CD and runs its components as their pods say.
    ///
    /// # Errors
    /// As [`ArgoCd::start`].
    pub async fn argocd(&self, peers: &Peers) -> Result<ArgoCd> {
        ArgoCd::start(argocd::Options {
            peers,
            control_plane: &self.control_plane,
            node: Arc::clone(&self.node),
            namespace: ARGOCD,
            folder: &create(self.folder.join("argocd"))?,
            trusted: BTreeMap::from([(quay::HOST.to_owned(), self.authority.pem().to_owned())]),
            hosts: vec![quay::HOST.to_owned()],
        })
        .await
    }

    /// Publishes a chart below `prod/charts`, and lets the robot [`ROBOT`] pull
    /// what is below `prod/`: a robot that trusts the identity of Secrets
    /// without a project.
    ///
    /// # Errors
    /// With Helm's own words.
    pub fn publish(&self, peers: &Peers, chart: &Chart<'_>) -> Result<()> {
        let subject = identity("argocd-global");
        self.quay.add_robot(Robot::federated(
            ROBOT,
            self.plan.issuer_url(),
            subject,
            &["prod/"],
        ));
        self.push(peers, &self.quay, "prod/charts", chart)
    }

    /// Pushes a chart below `path` of a registry.
    ///
    /// # Errors
    /// With Helm's own words.
    pub fn push(&self, peers: &Peers, quay: &Quay, path: &str, chart: &Chart<'_>) -> Result<()> {
        let password = "publisher";
        let (top, _) = path.split_once('/').unwrap_or((path, ""));
        let below = format!("{top}/");
        quay.add_robot(Robot::publisher(PUBLISHER, password, &[&below]));
        let to = Destination {
            host: quay.host(),
            path,
            user: PUBLISHER,
            password,
            authority: &self.folder.join(AUTHORITY_FILE),
        };
        chart.push(peers.helm(), &self.folder, &to)
    }

    /// Lets the identity of unscoped cluster Secrets do everything in the
    /// remote cluster, and makes a namespace there.
    ///
    /// # Errors
    /// When the remote cluster refuses it.
    pub async fn admit_to_remote(&self, target: &str) -> Result<Vec<DynamicObject>> {
        let yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {target}}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\n\
             metadata: {{name: argocd}}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, \
             kind: ClusterRole, name: cluster-admin}}\nsubjects:\n- apiGroup: \
             rbac.authorization.k8s.io\n  kind: User\n  name: {}\n",
            identity("argocd-application-controller")
        );
        apply(&self.remote.client()?, "", &yaml).await
    }

    /// The repository Secret of the Quay guide without its project line.
    #[must_use]
    pub fn repository_secret(&self, name: &str) -> String {
        let host = self.quay.host();
        let auth = self.quay.federation_url();
        secret(
            name,
            "repository",
            &[
                ("type", "helm"),
                ("url", &format!("oci://{host}/prod/charts")),
                ("useWorkloadIdentity", "true"),
                ("workloadIdentityProvider", "spiffe"),
                ("workloadIdentityAudience", quay::HOST),
                ("workloadIdentityRegistryAuthURL", &auth),
                ("workloadIdentityRegistryService", host),
                ("workloadIdentityRegistryUsername", ROBOT),
            ],
        )
    }

    /// A cluster Secret for the remote cluster, with its CA and nothing to authenticate with.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn cluster_secret(&self, name: &str) -> Result<String> {
        use base64::Engine as _;
        let ca = base64::engine::general_purpose::STANDARD.encode(self.remote.ca_pem());
        let config = serde_json::json!({ "tlsClientConfig": { "caData": ca } }).to_string();
        Ok(secret(
            name,
            "cluster",
            &[
                ("name", name),
                ("server", &self.remote.url()),
                ("config", &config),
                ("useWorkloadIdentity", "true"),
                ("workloadIdentityAudience", SPOKE_AUDIENCE),
            ],
        ))
    }

    /// An Application that deploys a chart from the registry to the remote cluster.
    #[must_use]
    pub fn application(&self, name: &str, chart: &Chart<'_>, target: &str) -> String {
        format!(
            "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata:\n  name: {name}\n  \
             namespace: {ARGOCD}\nspec:\n  project: default\n  source:\n    repoURL: \
             {}/prod/charts\n    chart: {}\n    targetRevision: {}\n  destination:\n    server: \
             {}\n    namespace: {target}\n  syncPolicy:\n    automated: {{prune: true, selfHeal: \
             true}}\n",
            self.quay.host(),
            chart.name,
            chart.version,
            self.remote.url()
        )
    }

    /// A client with all rights in the cluster that Argo CD is in.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn client(&self) -> Result<Client> {
        self.control_plane.client()
    }
}

async fn registry(
    folder: PathBuf,
    peers: &Peers,
    authority: &Authority,
    robot_life: Duration,
) -> Result<Quay> {
    let options = quay::Options {
        registry: peers.registry(),
        folder: &create(folder)?,
        certificate: &authority.issue(&[quay::HOST])?,
        authority: authority.pem(),
        lifetimes: Lifetimes {
            robot: robot_life,
            ..Lifetimes::default()
        },
    };
    Quay::start(options).await
}

/// The SPIFFE ID of a service account's name in namespace `argocd`.
#[must_use]
pub fn identity(service_account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{ARGOCD}/sa/{service_account}")
}

/// YAML of a namespace that is opted in.
#[must_use]
pub fn namespace(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{{}: enabled}}\n",
        shared::annotations::INJECT
    )
}

/// YAML of one of Argo CD's Secrets.
#[must_use]
pub fn secret(name: &str, secret_type: &str, values: &[(&str, &str)]) -> String {
    let data: serde_json::Map<_, _> = values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).into()))
        .collect();
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": ARGOCD,
            "labels": { shared::secrets::SECRET_TYPE: secret_type },
        },
        "stringData": data,
    })
    .to_string()
}

fn create(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}
