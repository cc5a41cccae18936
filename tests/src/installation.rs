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

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::binaries::{Binaries, workspace};
use crate::control_plane::{self, Authority, ControlPlane};
use crate::node::{self, Node, TokenFile};
use crate::ports;
use crate::process::Process;

/// Namespace of the installation.
pub const NAMESPACE: &str = "argocd-identity";
/// Host name of the issuer; a [`crate::sandbox::Sandbox`] has to resolve it.
pub const ISSUER_HOST: &str = "identity.example.test";
/// Trust domain of every identity.
pub const TRUST_DOMAIN: &str = "example.test";

const READY: Duration = Duration::from_secs(60);

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
}

/// The running project. Ends when dropped.
pub struct Installation {
    /// The control plane's process.
    pub control_plane: Process,
    /// The agent's process.
    pub agent: Process,
    /// Where it listens.
    pub plan: Plan,
    _tokens: Vec<TokenFile>,
}

impl Installation {
    /// Applies the manifests, starts both programs and switches the webhooks
    /// on; all of it answers when this returns.
    ///
    /// # Errors
    /// When the API server refuses a manifest, or a program is not ready in
    /// time, with the last lines of its log.
    pub async fn start(options: Options<'_>) -> Result<Self> {
        let admin = options.control_plane.client()?;
        let plan = options.plan.clone();
        apply_manifests(&admin, options.argocd_namespaces).await?;

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
        let mut command = Command::new(options.binaries.control_plane());
        command
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
            .envs(options.environment.iter().copied());
        let mut control_plane = Process::start("argocd-identity", &mut command, &plan.folder)?;

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
        let ready_url = format!("{}/readyz", plan.metrics_url());
        let ready_url = ready_url.as_str();
        control_plane
            .ready(READY, || async move {
                let answer = reqwest::get(ready_url).await?;
                let status = answer.status();
                ensure!(status.is_success(), "{status}: {}", answer.text().await?);
                Ok(())
            })
            .await?;

        let mut command = Command::new(options.binaries.agent());
        command
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
            );
        let mut agent = Process::start("argocd-identity-agent", &mut command, &plan.folder)?;
        let socket = plan.csi_socket();
        let socket = socket.as_path();
        agent
            .ready(READY, || async move {
                tokio::net::UnixStream::connect(socket)
                    .await
                    .context("connect to the CSI socket")?;
                Ok(())
            })
            .await?;

        switch_on(&admin, &plan, options.authority).await?;
        Ok(Self {
            control_plane,
            agent,
            plan,
            _tokens: tokens,
        })
    }
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

/// The files that a kustomization lists, in its order.
fn manifests(kustomization: &str) -> Result<Vec<(String, String)>> {
    let folder = workspace().join("manifests").join(kustomization);
    let path = folder.join("kustomization.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let list: Value = serde_saphyr::from_str(&text).context("parse kustomization.yaml")?;
    let files = list["resources"]
        .as_array()
        .context("kustomization.yaml has no resources")?;
    files
        .iter()
        .filter_map(Value::as_str)
        .map(|file| {
            let path = folder.join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok((file.to_owned(), text))
        })
        .collect()
}

/// Everything but the webhooks, which would answer before there is a server.
async fn apply_manifests(admin: &Client, argocd_namespaces: &[&str]) -> Result<()> {
    for (file, yaml) in manifests("base")? {
        if file.contains("webhook") {
            continue;
        }
        control_plane::apply(admin, NAMESPACE, &yaml)
            .await
            .with_context(|| format!("apply manifests/base/{file}"))?;
    }
    for namespace in argocd_namespaces {
        for (file, yaml) in manifests("components/argocd-namespace")? {
            control_plane::apply(admin, namespace, &yaml)
                .await
                .with_context(|| format!("apply {file} in namespace {namespace}"))?;
        }
    }
    Ok(())
}

/// Applies the webhook configuration with the loopback URL in place of the Service.
async fn switch_on(admin: &Client, plan: &Plan, authority: &Authority) -> Result<()> {
    for (file, yaml) in manifests("base")? {
        if !file.contains("webhook") {
            continue;
        }
        for mut object in control_plane::documents(&yaml)? {
            point_to(&mut object, &plan.admission_url(), authority.pem())?;
            let text = serde_json::to_string(&object).context("write the webhook configuration")?;
            control_plane::apply(admin, NAMESPACE, &text)
                .await
                .with_context(|| format!("apply manifests/base/{file}"))?;
        }
    }
    Ok(())
}

fn point_to(object: &mut DynamicObject, url: &str, authority: &str) -> Result<()> {
    let webhooks = object.data["webhooks"]
        .as_array_mut()
        .context("no webhooks")?;
    for webhook in webhooks {
        let path = webhook["clientConfig"]["service"]["path"]
            .as_str()
            .context("a webhook without service.path")?;
        let url = format!("{url}{path}");
        webhook["clientConfig"] = json!({ "url": url, "caBundle": STANDARD.encode(authority) });
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a path without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
