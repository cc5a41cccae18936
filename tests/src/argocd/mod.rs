//! Stock Argo CD: its own install.yaml, unchanged, and its processes started from the pods that it made.
//!
//! ```text
//!   install.yaml ─▶ API server ─▶ Deployments, StatefulSet ─▶ Pods (after admission, bound by the node)
//!                                                               │ env, mounts
//!   Redis ◀── repo-server, application-controller, server ◀─────┘ sandboxed containers on loopback
//! ```
//!
//! Flows in: a namespace, a node, the peers. Flows out: running components, Applications and what became
//! of them, Argo CD's API. Only these three components run; the pods of the others exist all the same.

mod api;
mod applications;
mod rollout;
mod setup;
mod sidecars;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client};

pub use api::ArgoCdApi;
pub use applications::{Applications, Report};

use crate::control_plane::ControlPlane;
use crate::folders::create;
use crate::node::Node;
use crate::peers::Peers;
use crate::ports;
use crate::redis::Redis;
use crate::sandboxed_container::{self, Image, SandboxedContainer};

/// Until a pod of Argo CD runs, on a busy machine.
const POD: Duration = Duration::from_secs(60);
/// Until a process of Argo CD answers.
const READY: Duration = Duration::from_secs(60);

/// The processes that are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// Fetches charts and repositories.
    RepoServer,
    /// Compares and syncs.
    ApplicationController,
    /// The API.
    Server,
}

impl Component {
    /// All of them, in the order of their need of each other.
    pub const ALL: [Self; 3] = [Self::RepoServer, Self::ApplicationController, Self::Server];

    /// The workload's, the container's and the program's name, and its pods' `app.kubernetes.io/name`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RepoServer => "argocd-repo-server",
            Self::ApplicationController => "argocd-application-controller",
            Self::Server => "argocd-server",
        }
    }
}

/// What [`ArgoCd::start`] needs.
pub struct Options<'a> {
    /// The binaries and Argo CD's manifests.
    pub peers: &'a Peers,
    /// The cluster to install into.
    pub control_plane: &'a ControlPlane,
    /// The node that its pods run on.
    pub node: Arc<Node>,
    /// An existing namespace. install.yaml's cluster role bindings are for `argocd`.
    pub namespace: &'a str,
    /// A folder for volumes and logs.
    pub folder: &'a Path,
    /// For argocd-tls-certs-cm: PEM certificates to trust, by host name without port.
    pub trusted: BTreeMap<String, String>,
    /// What names resolve to for its processes, such as a registry's.
    pub hosts: Vec<(String, Ipv4Addr)>,
    /// The program that is the image of the credential proxy's container.
    pub credential_proxy: PathBuf,
}

/// A running Argo CD. Its processes stop when this is dropped; its objects stay.
pub struct ArgoCd {
    running: HashMap<Component, Running>,
    settings: Settings,
    redis: Redis,
}

/// Ends from its first field to its last: a container, then the sidecars that it used.
struct Running {
    container: SandboxedContainer,
    sidecars: Vec<SandboxedContainer>,
    pod: Pod,
}

/// All that is needed to start a component again.
struct Settings {
    client: Client,
    node: Arc<Node>,
    namespace: String,
    folder: PathBuf,
    image: Image,
    sidecar_image: Image,
    hosts: Vec<(String, Ipv4Addr)>,
    api_server_port: u16,
    ports: HashMap<Component, Ports>,
    http: reqwest::Client,
}

/// A component keeps its ports when it is started again, so that the others find it.
#[derive(Clone, Copy)]
struct Ports {
    /// Its service; the controller has none.
    service: u16,
    metrics: u16,
}

impl ArgoCd {
    /// Applies install.yaml, starts Redis and then every component from its pod; all answer when this
    /// returns.
    ///
    /// # Errors
    /// Names the object that was refused, the pod that does not run, or the process that is not ready.
    pub async fn start(options: Options<'_>) -> Result<Self> {
        let client = options.control_plane.client()?;
        let password = random()?;
        let redis = Redis::start(&create(options.folder.join("redis"))?, &password).await?;
        setup::install(&client, &options, &password).await?;

        let mut ports = HashMap::new();
        for component in Component::ALL {
            let own = Ports {
                service: ports::free()?,
                metrics: ports::free()?,
            };
            ports.insert(component, own);
        }
        let settings = Settings {
            client,
            node: options.node,
            namespace: options.namespace.to_owned(),
            folder: create(options.folder.join("pods"))?,
            image: setup::image(options.peers, options.folder)?,
            sidecar_image: sidecars::image(options.credential_proxy),
            hosts: setup::hosts(options.hosts),
            api_server_port: options.control_plane.port(),
            ports,
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .context("make an HTTP client")?,
        };
        let started = Component::ALL.map(|component| settings.start(component, redis.address()));
        let running = try_join_all(started).await?;
        Ok(Self {
            running: Component::ALL.into_iter().zip(running).collect(),
            settings,
            redis,
        })
    }

    /// The pod that a component runs from, as it was when it started.
    #[must_use]
    pub fn pod(&self, component: Component) -> Option<&Pod> {
        self.running.get(&component).map(|running| &running.pod)
    }

    /// A component's log file.
    #[must_use]
    pub fn log(&self, component: Component) -> Option<&Path> {
        self.running
            .get(&component)
            .map(|running| running.container.log())
    }

    /// A component's container.
    ///
    /// # Errors
    /// When the component does not run.
    pub fn container(&self, component: Component) -> Result<&SandboxedContainer> {
        let running = self.running.get(&component);
        let container = running.map(|running| &running.container);
        container.with_context(|| format!("{} does not run", component.name()))
    }

    /// The native sidecars that run beside a component.
    #[must_use]
    pub fn sidecars(&self, component: Component) -> &[SandboxedContainer] {
        self.running
            .get(&component)
            .map_or(&[], |running| &running.sidecars)
    }

    /// Ends a component and starts it from a new pod: the one of a rollout that is under way, else one that
    /// its controller makes for the pod that is deleted here.
    ///
    /// # Errors
    /// As [`ArgoCd::start`]; the component is then not running.
    pub async fn restart(&mut self, component: Component) -> Result<()> {
        if let Some(before) = self.running.remove(&component) {
            drop((before.container, before.sidecars));
            let settings = &self.settings;
            rollout::complete(&settings.client, &settings.namespace, component).await?;
            settings.node.delete_pod(&before.pod, POD).await?;
        }
        let running = self.settings.start(component, self.redis.address()).await?;
        self.running.insert(component, running);
        Ok(())
    }

    /// Kills the sidecars of a component and starts them again, as kubelet does: in the same pod, with what
    /// their volumes hold.
    ///
    /// # Errors
    /// When the component does not run, or a sidecar does not get ready.
    pub async fn restart_sidecars(&mut self, component: Component) -> Result<()> {
        let running = self.running.get_mut(&component);
        let running = running.with_context(|| format!("{} does not run", component.name()))?;
        running.sidecars.clear();
        running.sidecars = sidecars::start(&self.settings, &running.pod).await?;
        Ok(())
    }

    /// Makes sure that no component has ended.
    ///
    /// # Errors
    /// Names the one that has, with the end of its log.
    pub fn ensure_running(&mut self) -> Result<()> {
        self.running
            .values_mut()
            .flat_map(|running| running.sidecars.iter_mut().chain([&mut running.container]))
            .try_for_each(|container| container.process().ensure_running())
    }

    /// The Applications of the installation's namespace.
    #[must_use]
    pub fn applications(&self) -> Applications {
        Applications::new(
            self.settings.client.clone(),
            self.settings.namespace.clone(),
        )
    }

    /// Argo CD's own API, logged in as `admin` with the password that Argo CD made.
    ///
    /// # Errors
    /// When the password is not there or the login is refused.
    pub async fn api(&self) -> Result<ArgoCdApi> {
        let secrets: Api<Secret> =
            Api::namespaced(self.settings.client.clone(), &self.settings.namespace);
        let secret = secrets
            .get("argocd-initial-admin-secret")
            .await
            .context("read the admin password that Argo CD made")?;
        let password = secret
            .data
            .and_then(|mut data| data.remove("password"))
            .and_then(|password| String::from_utf8(password.0).ok())
            .context("argocd-initial-admin-secret has no password")?;
        let url = format!(
            "http://127.0.0.1:{}",
            self.settings.ports(Component::Server)?.service
        );
        ArgoCdApi::login(self.settings.http.clone(), url, &password).await
    }
}

impl Settings {
    fn ports(&self, component: Component) -> Result<Ports> {
        self.ports
            .get(&component)
            .copied()
            .with_context(|| format!("{} has no ports", component.name()))
    }

    async fn start(&self, component: Component, redis: String) -> Result<Running> {
        let selector = format!("app.kubernetes.io/name={}", component.name());
        rollout::complete(&self.client, &self.namespace, component).await?;
        let pod = self
            .node
            .running_pod(&self.namespace, &selector, POD)
            .await?;
        let sidecars = sidecars::start(self, &pod).await?;
        let arguments = self.arguments(component, redis)?;
        let mut container = self
            .container(&pod, component.name(), &self.image, &arguments)
            .await?;
        let ports = self.ports(component)?;
        let port = match component {
            Component::Server => ports.service,
            Component::RepoServer | Component::ApplicationController => ports.metrics,
        };
        let health = format!("http://127.0.0.1:{port}/healthz");
        let (http, health) = (&self.http, &health);
        container
            .process()
            .ready(READY, || async move {
                http.get(health).send().await?.error_for_status()?;
                Ok(())
            })
            .await?;
        Ok(Running {
            container,
            sidecars,
            pod,
        })
    }

    async fn container(
        &self,
        pod: &Pod,
        name: &str,
        image: &Image,
        extra_args: &[String],
    ) -> Result<SandboxedContainer> {
        SandboxedContainer::start(sandboxed_container::Options {
            node: &self.node,
            pod,
            container: name,
            folder: &self.folder,
            image,
            api_server_port: self.api_server_port,
            hosts: &self.hosts,
            extra_args,
        })
        .await
    }

    /// Only addresses: free ports on loopback instead of a pod's own address and cluster services.
    fn arguments(&self, component: Component, redis: String) -> Result<Vec<String>> {
        let own = self.ports(component)?;
        let repo_server = self.ports(Component::RepoServer)?.service;
        let loopback = "127.0.0.1".to_owned();
        let mut arguments = vec![
            ("--redis", redis),
            ("--metrics-port", own.metrics.to_string()),
        ];
        if component != Component::ApplicationController {
            arguments.push(("--port", own.service.to_string()));
            arguments.push(("--address", loopback.clone()));
            arguments.push(("--metrics-address", loopback));
        }
        let mut switches = Vec::new();
        match component {
            Component::RepoServer => switches.push("--disable-tls"),
            Component::ApplicationController | Component::Server => {
                arguments.push(("--repo-server", format!("127.0.0.1:{repo_server}")));
                switches.push("--repo-server-plaintext");
            }
        }
        if component == Component::Server {
            switches.push("--insecure");
        }
        Ok(arguments
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .chain(switches.into_iter().map(str::to_owned))
            .collect())
    }
}

fn random() -> Result<String> {
    let mut bytes = [0; 24];
    aws_lc_rs::rand::fill(&mut bytes).context("draw a password")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
