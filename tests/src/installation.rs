//! The project itself on a control plane: its manifests as they ship, its
//! programs as processes under the service accounts of the manifests.
//!
//! ```text
//!   manifests/ ─▶ API server ─▶ Deployment, DaemonSet ─▶ pods, bound by the Node
//!                                                          │ tokens bound to them
//!   argocd-identity, argocd-identity-agent ◀───────────────┘
//! ```
//!
//! Two things differ from a cluster: the webhook configuration names a URL on
//! loopback in place of the Service, and the programs' settings come as
//! environment variables from here in place of the ConfigMap.

pub(crate) mod in_force;
mod manifests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::binaries::Binaries;
use crate::control_plane::{Authority, ControlPlane};
use crate::node::{self, Node, TokenFile};
use crate::ports;
use crate::process::Process;

/// Namespace of the installation.
pub const NAMESPACE: &str = "argocd-identity";
/// Host name of the issuer; a [`crate::sandbox::Sandbox`] has to resolve it.
pub const ISSUER_HOST: &str = "identity.example.test";
/// Trust domain of every identity.
pub const TRUST_DOMAIN: &str = "example.test";

/// What the manifests name; the process tier has its programs without images.
const PROXY_IMAGE: &str = "argocd-identity-agent:dev";

const READY: Duration = Duration::from_secs(60);
/// Names of the two processes, and of their log files.
const CONTROL_PLANE: &str = "argocd-identity";
const AGENT: &str = "argocd-identity-agent";

/// Where the installation's servers are going to listen. Known before it
/// starts, because issuer and CSI driver are named to others first.
#[derive(Debug, Clone)]
pub struct Plan {
    admission: u16,
    identity: u16,
    issuer: u16,
    metrics: u16,
    agent_metrics: u16,
    folder: PathBuf,
}

impl Plan {
    /// Chooses free ports; files go below `folder`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn new(folder: &Path) -> Result<Self> {
        Ok(Self {
            admission: ports::free()?,
            identity: ports::free()?,
            issuer: ports::free()?,
            metrics: ports::free()?,
            agent_metrics: ports::free()?,
            folder: folder.to_owned(),
        })
    }

    /// The issuer's URL, the `iss` of every token.
    #[must_use]
    pub fn issuer_url(&self) -> String {
        format!("https://{ISSUER_HOST}:{}", self.issuer)
    }

    /// The CSI driver's socket.
    #[must_use]
    pub fn csi_socket(&self) -> PathBuf {
        self.folder.join("csi.sock")
    }

    /// URL of the identity API.
    #[must_use]
    pub fn identity_url(&self) -> String {
        format!("https://localhost:{}", self.identity)
    }

    /// URL of the admission webhook.
    #[must_use]
    pub fn admission_url(&self) -> String {
        format!("https://localhost:{}", self.admission)
    }

    /// URL of the control plane's probes and metrics.
    #[must_use]
    pub fn metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.metrics)
    }

    /// URL of the agent's probes and metrics.
    #[must_use]
    pub fn agent_metrics_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.agent_metrics)
    }
}

/// What [`Installation::start`] needs.
pub struct Options<'a> {
    /// The project's programs.
    pub binaries: &'a Binaries,
    /// Where it is installed.
    pub control_plane: &'a ControlPlane,
    /// The node that its pods are on.
    pub node: &'a Node,
    /// Issues the serving certificate; also trusted by the agent for exchanges.
    pub authority: &'a Authority,
    /// Where it listens.
    pub plan: Plan,
    /// Namespaces that Argo CD runs in; they have to exist.
    pub argocd_namespaces: &'a [&'a str],
    /// The allow-list.
    pub allowed_hosts: &'a str,
    /// Life of issued identity tokens.
    pub token_lifetime: Duration,
    /// Folder that the node's kubelet would have.
    pub kubelet: &'a Path,
    /// More environment for the control plane.
    pub environment: &'a [(&'a str, &'a str)],
    /// More environment for the agent.
    pub agent_environment: &'a [(&'static str, String)],
}

/// The running project. Ends when dropped.
pub struct Installation {
    /// The control plane's process.
    pub control_plane: Process,
    /// The agent's process.
    pub agent: Process,
    /// Where it listens.
    pub plan: Plan,
    start_control_plane: Command,
    start_agent: Command,
    _tokens: Vec<TokenFile>,
}

impl Installation {
    /// Applies the manifests, starts both programs and switches the webhooks
    /// on; all of it answers, and webhooks and policies are in force, when
    /// this returns.
    ///
    /// # Errors
    /// When the API server refuses a manifest, or a program is not ready in
    /// time, with the last lines of its log.
    pub async fn start(options: Options<'_>) -> Result<Self> {
        let admin = options.control_plane.client()?;
        let plan = options.plan.clone();
        manifests::apply_all(&admin, options.argocd_namespaces).await?;

        let tls = plan.folder.join("tls");
        let names = ["localhost", "127.0.0.1", ISSUER_HOST];
        let certificate = options.authority.issue(&names)?;
        write(&tls.join("tls.crt"), &certificate.certificate)?;
        write(&tls.join("tls.key"), &certificate.key)?;
        let authority = plan.folder.join("authority.pem");
        write(&authority, options.authority.pem())?;

        let mut tokens = Vec::new();
        let server_config = kubeconfig(
            &options,
            &plan,
            "app.kubernetes.io/component=control-plane",
            &mut tokens,
        );
        let server_config = server_config.await.context("the control plane's pod")?;
        let listen = |port: u16| format!("127.0.0.1:{port}");
        let mut start_control_plane = Command::new(options.binaries.control_plane());
        start_control_plane
            .arg("serve")
            .env("KUBECONFIG", &server_config)
            .env("ARGOCD_IDENTITY_NAMESPACE", NAMESPACE)
            .env(
                "ARGOCD_IDENTITY_ARGOCD_NAMESPACES",
                options.argocd_namespaces.join(","),
            )
            .env("ARGOCD_IDENTITY_TRUST_DOMAIN", TRUST_DOMAIN)
            .env("ARGOCD_IDENTITY_ISSUER_URL", plan.issuer_url())
            .env(
                "ARGOCD_IDENTITY_TOKEN_LIFETIME",
                options.token_lifetime.as_secs().to_string(),
            )
            .env("ARGOCD_IDENTITY_ALLOWED_HOSTS", options.allowed_hosts)
            .env("ARGOCD_IDENTITY_TLS_DIR", &tls)
            .env("ARGOCD_IDENTITY_ADMISSION_ADDRESS", listen(plan.admission))
            .env("ARGOCD_IDENTITY_IDENTITY_ADDRESS", listen(plan.identity))
            .env("ARGOCD_IDENTITY_ISSUER_ADDRESS", listen(plan.issuer))
            .env("ARGOCD_IDENTITY_METRICS_ADDRESS", listen(plan.metrics))
            .env("ARGOCD_IDENTITY_PROXY_IMAGE", PROXY_IMAGE)
            .envs(options.environment.iter().copied());
        let mut control_plane =
            Process::start(CONTROL_PLANE, &mut start_control_plane, &plan.folder)?;

        let agent_config = kubeconfig(
            &options,
            &plan,
            "app.kubernetes.io/component=agent",
            &mut tokens,
        );
        let agent_config = agent_config.await.context("the agent's pod")?;
        let agent_token = plan.folder.join("agent-identity-token");
        let pod = options
            .node
            .running_pod(NAMESPACE, "app.kubernetes.io/component=agent", READY)
            .await?;
        let audience = Some(shared::layout::TOKEN_AUDIENCE);
        tokens.push(
            options
                .node
                .token_file(&pod, audience, 3600, &agent_token)
                .await?,
        );
        let mut start_agent = Command::new(options.binaries.agent());
        start_agent
            .env("KUBECONFIG", &agent_config)
            .env("NODE_NAME", options.node.name())
            .env("ARGOCD_IDENTITY_AGENT_CSI_SOCKET", plan.csi_socket())
            .env("ARGOCD_IDENTITY_AGENT_KUBELET_DIR", options.kubelet)
            .env(
                "ARGOCD_IDENTITY_AGENT_CONTROL_PLANE_URL",
                plan.identity_url(),
            )
            .env("ARGOCD_IDENTITY_AGENT_CONTROL_PLANE_CA", &authority)
            .env("ARGOCD_IDENTITY_AGENT_TOKEN_FILE", &agent_token)
            .env(
                "ARGOCD_IDENTITY_AGENT_EXEC_AUTH",
                options.binaries.exec_auth(),
            )
            .env("ARGOCD_IDENTITY_AGENT_ALLOWED_HOSTS", options.allowed_hosts)
            .env("ARGOCD_IDENTITY_AGENT_UPSTREAM_CA", &authority)
            .env(
                "ARGOCD_IDENTITY_AGENT_METRICS_ADDRESS",
                listen(plan.agent_metrics),
            )
            .envs(
                options
                    .agent_environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            );
        // Nothing keeps them in order in a cluster either.
        let mut agent = Process::start(AGENT, &mut start_agent, &plan.folder)?;
        control_plane_is_ready(&mut control_plane, &plan).await?;
        agent_is_ready(&mut agent, &plan).await?;

        manifests::switch_on(&admin, &plan, options.authority).await?;
        if let Some(namespace) = options.argocd_namespaces.first() {
            in_force::wait(&admin, namespace).await?;
        }
        Ok(Self {
            control_plane,
            agent,
            plan,
            start_control_plane,
            start_agent,
            _tokens: tokens,
        })
    }

    /// Starts the agent again, which has ended: with the same settings, and as the same pod. It answers when
    /// this returns.
    ///
    /// # Errors
    /// When it is not ready in time, with the last lines of its log.
    pub async fn start_agent(&mut self) -> Result<()> {
        self.agent = Process::start(AGENT, &mut self.start_agent, &self.plan.folder)?;
        agent_is_ready(&mut self.agent, &self.plan).await
    }

    /// Starts the control plane again, as [`Installation::start_agent`] does the agent.
    ///
    /// # Errors
    /// When it is not ready in time, with the last lines of its log.
    pub async fn start_control_plane(&mut self) -> Result<()> {
        let start = &mut self.start_control_plane;
        self.control_plane = Process::start(CONTROL_PLANE, start, &self.plan.folder)?;
        control_plane_is_ready(&mut self.control_plane, &self.plan).await
    }
}

async fn control_plane_is_ready(process: &mut Process, plan: &Plan) -> Result<()> {
    let url = plan.metrics_url();
    let url = url.as_str();
    process
        .ready(READY, || async move {
            // The pod is ready with the first; a scene uses both.
            for listener in ["admission", "identity"] {
                let answer = reqwest::get(format!("{url}/readyz/{listener}")).await?;
                let status = answer.status();
                ensure!(status.is_success(), "{status}: {}", answer.text().await?);
            }
            Ok(())
        })
        .await
}

async fn agent_is_ready(process: &mut Process, plan: &Plan) -> Result<()> {
    let socket = plan.csi_socket();
    let socket = socket.as_path();
    process
        .ready(READY, || async move {
            tokio::net::UnixStream::connect(socket)
                .await
                .context("connect to the CSI socket")?;
            Ok(())
        })
        .await
}

/// A kubeconfig whose user is the service account of the pod that `selector` finds.
async fn kubeconfig(
    options: &Options<'_>,
    plan: &Plan,
    selector: &str,
    tokens: &mut Vec<TokenFile>,
) -> Result<PathBuf> {
    let pod = first_pod(options, selector).await?;
    let name = selector.rsplit('=').next().unwrap_or(selector);
    let token = plan.folder.join(format!("{name}-token"));
    tokens.push(options.node.token_file(&pod, None, 3600, &token).await?);
    let path = plan.folder.join(format!("{name}-kubeconfig"));
    let cluster = options.control_plane;
    node::write_kubeconfig(&path, &cluster.url(), cluster.ca_pem(), &token)?;
    Ok(path)
}

/// The Deployment has two replicas; one of their tokens serves the one process.
async fn first_pod(
    options: &Options<'_>,
    selector: &str,
) -> Result<k8s_openapi::api::core::v1::Pod> {
    use k8s_openapi::api::core::v1::Pod;
    use kube::{Api, api::ListParams};
    let pods: Api<Pod> = Api::namespaced(options.control_plane.client()?, NAMESPACE);
    let list = ListParams::default().labels(selector);
    let (pods, list) = (&pods, &list);
    crate::process::wait_until(&format!("a pod {selector}"), READY, || async move {
        let found = pods.list(list).await?;
        let running = |pod: &Pod| {
            pod.status
                .as_ref()
                .and_then(|status| status.phase.as_deref())
                == Some("Running")
        };
        found
            .items
            .into_iter()
            .find(running)
            .context("none is Running")
    })
    .await
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a path without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
