//! Kubernetes control planes as plain processes on loopback: no nodes, no containers, ready in seconds.
//!
//! [`Etcd`] ← [`ControlPlane`] (kube-apiserver and kube-controller-manager) and [`RemoteCluster`] (a
//! kube-apiserver that trusts an OIDC issuer). Each is a value that ends its processes when dropped.
//! No kubelet runs: pods stay Pending, unless a test plays the node.

mod api_server;
mod apply;
mod authority;
mod etcd;
mod proof;
mod remote;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client};

pub use self::apply::{apply, documents};
pub use self::authority::{Authority, ServerCertificate};
pub use self::etcd::Etcd;
pub use self::proof::Proof;
pub use self::remote::{OidcIssuer, RemoteCluster, Settings as RemoteSettings};

use self::api_server::{ApiServer, Settings, User};
use crate::peers::Peers;
use crate::ports;
use crate::process::Process;

/// Time that the controllers may take to make the first service account.
const LIMIT: Duration = Duration::from_secs(60);

/// What a test may want different in its control plane.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder under the run's folder, and the key prefix in etcd.
    pub name: String,
    /// Where the API server listens: loopback, or an address that pods can reach.
    pub address: Ipv4Addr,
    /// `iss` of service account tokens.
    pub service_account_issuer: String,
    /// Nodes that get a token of their own, as a kubelet's.
    pub nodes: Vec<String>,
    /// DNS names and addresses in the API server's certificate, besides the usual ones.
    pub extra_names: Vec<String>,
    /// Flags added to kube-apiserver's; a repeated one wins over ours.
    pub api_server_flags: Vec<OsString>,
    /// Flags added to kube-controller-manager's.
    pub controller_manager_flags: Vec<OsString>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "cluster".to_owned(),
            address: Ipv4Addr::LOCALHOST,
            service_account_issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            nodes: Vec::new(),
            extra_names: Vec::new(),
            api_server_flags: Vec::new(),
            controller_manager_flags: Vec::new(),
        }
    }
}

/// A control plane: API server and controllers. Ends when dropped.
#[derive(Debug)]
pub struct ControlPlane {
    // Fields are dropped in order: clients before servers, the store last.
    controller_manager: Process,
    api_server: ApiServer,
    nodes: Vec<(String, String)>,
    etcd: Arc<Etcd>,
}

impl ControlPlane {
    /// Starts etcd, kube-apiserver and kube-controller-manager under `dir`, and returns when the API
    /// server is ready and the controllers have made the first service account.
    ///
    /// # Errors
    /// When a component cannot be started or is not ready in time, with the last lines of its log.
    pub async fn start(dir: &Path, peers: &Peers, options: Options) -> Result<Self> {
        let etcd = Arc::new(Etcd::start(dir, peers)?);
        let mut users = vec![User::admin()?];
        let mut nodes = Vec::new();
        for node in &options.nodes {
            let user = User::node(node)?;
            nodes.push((node.clone(), user.token.clone()));
            users.push(user);
        }
        let mut api_server = ApiServer::start(
            dir,
            peers,
            &etcd,
            Settings {
                name: &options.name,
                address: SocketAddrV4::new(options.address, ports::free()?),
                service_account_issuer: &options.service_account_issuer,
                extra_names: &options.extra_names,
                users: &users,
                flags: options.api_server_flags,
            },
        )?;
        // The controller manager ends when it finds no API server for ten seconds, so it comes second.
        api_server.ready().await?;
        let kubeconfig = api_server.kubeconfig("admin", api_server.admin_token())?;
        let mut controller_manager = Process::start(
            "kube-controller-manager",
            Command::new(peers.kube_controller_manager())
                .arg("--kubeconfig")
                .arg(&kubeconfig)
                .arg("--root-ca-file")
                .arg(api_server.dir().join("ca.crt"))
                .arg("--service-account-private-key-file")
                .arg(api_server.dir().join("sa.key"))
                .arg("--use-service-account-credentials=true")
                .arg("--leader-elect=false")
                .arg("--profiling=false")
                // Nothing asks for its metrics; a port and a certificate less.
                .arg("--secure-port=0")
                .args(&options.controller_manager_flags),
            api_server.dir(),
        )?
        .with_grace(Duration::ZERO);
        let accounts: Api<ServiceAccount> = Api::namespaced(
            api_server.client_with_token(api_server.admin_token())?,
            "default",
        );
        let accounts = &accounts;
        controller_manager
            .ready(LIMIT, || async move {
                accounts
                    .get_opt("default")
                    .await?
                    .map(drop)
                    .ok_or_else(|| anyhow!("no service account in namespace default yet"))
            })
            .await?;
        Ok(Self {
            controller_manager,
            api_server,
            nodes,
            etcd,
        })
    }

    /// A client with all rights.
    ///
    /// # Errors
    /// When the client cannot be made, for example because no rustls crypto provider is installed.
    pub fn client(&self) -> Result<Client> {
        self.client_with_token(self.admin_token())
    }

    /// A client that shows `token`: a service account's, a node's, or a wrong one.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn client_with_token(&self, token: &str) -> Result<Client> {
        self.api_server.client_with_token(token)
    }

    /// Writes a kubeconfig with the token and returns its path; `name` is its context, user and file name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        self.api_server.kubeconfig(name, token)
    }

    /// The static token of a member of `system:masters`.
    #[must_use]
    pub fn admin_token(&self) -> &str {
        self.api_server.admin_token()
    }

    /// The static token of one of [`Options::nodes`], as its kubelet would show.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node_token(&self, node: &str) -> Result<&str> {
        self.nodes
            .iter()
            .find(|(name, _)| name == node)
            .map(|(_, token)| token.as_str())
            .with_context(|| format!("the control plane has no node {node}"))
    }

    /// The CA that the API server's certificate is from.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.api_server.ca_pem()
    }

    /// `https://<address>:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        self.api_server.url()
    }

    /// The API server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.api_server.port()
    }

    /// Folder with its logs and files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.api_server.dir()
    }

    /// The store, for a [`RemoteCluster`] beside this one.
    #[must_use]
    pub fn etcd(&self) -> Arc<Etcd> {
        Arc::clone(&self.etcd)
    }

    /// The controller manager's process, to pause or to end it.
    pub fn controller_manager(&mut self) -> &mut Process {
        &mut self.controller_manager
    }
}
