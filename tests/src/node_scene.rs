//! Everything of the main job on a real node: the project as its users install it, stock Argo CD in pods.
//!
//! ```text
//!   images ─▶ Cluster ◀─ kubectl apply -k (the project) ◀─ manifests/overlays/self-issued
//!               │ ▲
//!               │ └───── kubectl apply (stock install.yaml)
//!               ▼
//!            Targets: registry and, when the project runs, remote cluster, on the node's address
//! ```
//!
//! The demo and the node tier start the same scene.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use serde_json::{Value, json};

use crate::argocd::Applications;
use crate::binaries::{Binaries, workspace};
use crate::cluster::{self, ADDRESS, Cluster};
use crate::control_plane::{RemoteCluster, documents};
use crate::folders::create;
use crate::identities::{Choice, OIDC_HOST, Source, Trust};
use crate::images::{self, Image, Reference};
use crate::installation::{NAMESPACE, TRUST_DOMAIN, in_force};
use crate::peers::{NodePeers, Peers};
use crate::quay;
use crate::registry::Registry;
use crate::scene::ARGOCD;
use crate::targets::{self, Lives, Targets};

/// Names that a [`crate::sandbox::Sandbox`] has to resolve for this scene.
pub const HOSTS: [&str; 1] = [OIDC_HOST];
/// The issuer is the Service itself: everybody in this network can reach it.
const ISSUER_URL: &str = "https://argocd-identity.argocd-identity.svc.cluster.local:8445";
const SERVICE_NAMES: [&str; 2] = [
    "argocd-identity.argocd-identity.svc",
    "argocd-identity.argocd-identity.svc.cluster.local",
];
/// Argo CD's workloads that are restarted to be injected.
const CONSUMERS: [&str; 3] = [
    "deployment/argocd-repo-server",
    "deployment/argocd-server",
    "statefulset/argocd-application-controller",
];
/// Those that an Application needs. The server is not waited for: when its first probe comes too early, the
/// stock manifest has the next one half a minute later.
const AWAITED: [&str; 3] = [
    "deployment/argocd-redis",
    "deployment/argocd-repo-server",
    "statefulset/argocd-application-controller",
];
/// kubectl's limit for a rollout.
const ROLLOUT: &str = "--timeout=180s";
/// How many events an error shows.
const EVENTS: usize = 20;

/// What is built before anything is started: it needs the machine's network.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Programs of a control plane, and Argo CD.
    pub peers: Peers,
    /// Programs of a node.
    pub node_peers: NodePeers,
    /// The project's own.
    pub binaries: Binaries,
}

impl Prepared {
    /// Installs and builds what is missing. Blocks; tells its progress on standard error.
    ///
    /// # Errors
    /// When something cannot be installed or built.
    pub fn new() -> Result<Self> {
        crate::packages::ensure_for_node()?;
        Ok(Self {
            peers: Peers::prepare()?,
            node_peers: NodePeers::prepare()?,
            binaries: Binaries::build()?.with_static_exec_auth()?,
        })
    }
}

/// Says that the project's pods were ready. The remote cluster needs the issuer.
#[derive(Debug)]
pub struct Installed(());

/// The cluster, and what Argo CD pulls from. Ends when dropped.
pub struct NodeScene {
    /// The registry, and the place of the remote cluster.
    pub targets: Targets,
    /// The cluster that Argo CD is in.
    pub cluster: Cluster,
    /// What gives identities besides the project.
    pub source: Source,
    folder: PathBuf,
}

impl NodeScene {
    /// Starts everything around the project; all of it answers when this returns.
    ///
    /// # Errors
    /// When a component cannot be started, with the last lines of its log.
    pub async fn start(
        folder: &Path,
        prepared: &Prepared,
        lives: Lives,
        identities: &Choice,
    ) -> Result<Self> {
        let peers = &prepared.peers;
        let trust = Trust::new(identities, ISSUER_URL.to_owned())?;
        let pause = images::busybox::pause()?;
        let options = cluster::Options {
            folder,
            peers,
            node_peers: &prepared.node_peers,
            images: Registry::open(peers.registry(), &create(folder.join("images"))?).await?,
            sandbox_image: &pause.reference.to_string(),
            names: &[quay::HOST],
            service_account_issuer: trust.of_cluster(),
        };
        let cluster = Cluster::start(options).await?;
        let around = targets::Options {
            address: ADDRESS,
            trust,
            robot_life: lives.robot,
        };
        let targets = Targets::start(folder, peers, around).await?;
        let scene = Self {
            source: Source::start(folder, &targets, &cluster.client()?).await?,
            targets,
            cluster,
            folder: folder.to_owned(),
        };
        for image in [
            pause,
            images::busybox::image()?,
            images::project::control_plane(&prepared.binaries)?,
            images::project::agent(&prepared.binaries)?,
            images::argocd::image(peers)?,
            images::redis::image(peers)?,
        ] {
            scene.provide(&image).await?;
        }
        Ok(scene)
    }

    /// Makes an image available to the node.
    ///
    /// # Errors
    /// When it cannot be built or pushed.
    pub async fn provide(&self, image: &Image) -> Result<Reference> {
        let built = image.build(&create(self.folder.join("layers"))?)?;
        built.push(&self.cluster.images.url()).await?;
        Ok(image.reference.clone())
    }

    /// Installs the project as docs/operations.md has it: an overlay of `self-issued` with this scene's
    /// names, applied by kubectl. Its pods are ready, and webhooks and policies in force, when this
    /// returns.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub async fn install(&self, lives: Lives) -> Result<Installed> {
        self.kubectl(&["create", "namespace", ARGOCD]).await?;
        let overlay = create(self.folder.join("overlay"))?;
        let write = |name: &str, text: &str| {
            let path = overlay.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        let certificate = self.targets.authority.issue(&SERVICE_NAMES)?;
        write("tls.crt", &certificate.certificate)?;
        write("tls.key", &certificate.key)?;
        write("ca.crt", self.targets.authority.pem())?;
        write(
            "kustomization.yaml",
            &self.kustomization(&overlay, lives)?.to_string(),
        )?;
        self.apply(&[
            "-k",
            overlay.to_str().context("the overlay's path is no text")?,
        ])
        .await?;
        for workload in [
            "deployment/argocd-identity",
            "daemonset/argocd-identity-agent",
        ] {
            self.rolled_out(NAMESPACE, workload).await?;
        }
        in_force::wait(&self.client()?, ARGOCD).await?;
        Ok(Installed(()))
    }

    /// Starts the remote cluster. It trusts the installation's issuer, or who gives identities in its place, and
    /// takes their tokens when this returns.
    ///
    /// # Errors
    /// As [`Targets::remote`].
    pub async fn remote(&self, peers: &Peers, _issuer: &Installed) -> Result<RemoteCluster> {
        let admin = self.client()?;
        let proof = self.source.proof(&self.targets.trust, &admin).await?;
        let etcd = self.cluster.control_plane.etcd();
        self.targets.remote(peers, etcd, &proof).await
    }

    /// Installs stock Argo CD, its install.yaml unchanged, in a namespace that is not opted in. What an
    /// Application needs of it is ready when this returns.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub async fn argocd(&self, peers: &Peers) -> Result<Applications> {
        let install = peers.argocd_module().join("manifests/install.yaml");
        let install = install.to_str().context("a path that is no text")?;
        self.apply(&["-n", ARGOCD, "-f", install]).await?;
        // What every user with a private CA does.
        let trusted = json!({ "data": { quay::HOST: self.targets.authority.pem() } }).to_string();
        self.kubectl(&[
            "-n",
            ARGOCD,
            "patch",
            "configmap",
            "argocd-tls-certs-cm",
            "--type=merge",
            "-p",
            &trusted,
        ])
        .await?;
        self.argocd_rolled_out().await?;
        Ok(Applications::new(self.client()?, ARGOCD.to_owned()))
    }

    /// Opts Argo CD's namespace in, and restarts its workloads. What an Application needs of them is ready when
    /// this returns.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub async fn opt_in(&self) -> Result<()> {
        let label = format!("{}=enabled", control_plane_core::annotations::INJECT);
        self.kubectl(&["label", "namespace", ARGOCD, &label, "--overwrite"])
            .await?;
        in_force::wait_for_opt_in(&self.client()?, ARGOCD).await?;
        let mut restart = vec!["-n", ARGOCD, "rollout", "restart"];
        restart.extend(CONSUMERS);
        self.kubectl(&restart).await?;
        self.argocd_rolled_out().await
    }

    /// Waits until what an Application needs is of the newest template and ready.
    ///
    /// # Errors
    /// With kubectl's own words.
    async fn argocd_rolled_out(&self) -> Result<()> {
        for workload in AWAITED {
            self.rolled_out(ARGOCD, workload).await?;
        }
        Ok(())
    }

    /// Waits until a workload's pods are of the newest template and ready.
    ///
    /// # Errors
    /// With kubectl's own words.
    pub async fn rolled_out(&self, namespace: &str, workload: &str) -> Result<()> {
        let rollout = ["-n", namespace, "rollout", "status", workload, ROLLOUT];
        let Err(error) = self.kubectl(&rollout).await else {
            return Ok(());
        };
        // kubectl only says that it waited.
        let mut told = self.kubectl(&["-n", namespace, "get", "pods"]).await?;
        let events = self.kubectl(&["-n", namespace, "get", "events"]).await?;
        let last: Vec<&str> = events.lines().rev().take(EVENTS).collect();
        told.extend(last.into_iter().rev().map(|line| format!("\n{line}")));
        Err(error.context(told))
    }

    /// Runs kubectl and returns what it printed.
    ///
    /// # Errors
    /// With its own words.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl().run(arguments).await
    }

    /// A client with all rights in the cluster that Argo CD is in.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn client(&self) -> Result<Client> {
        self.cluster.client()
    }

    async fn apply(&self, what: &[&str]) -> Result<()> {
        let mut arguments = vec!["apply", "--server-side", "--force-conflicts"];
        arguments.extend(what);
        self.kubectl(&arguments).await.map(drop)
    }

    /// The overlay that a user writes: names, certificates, and their CA where it is to be trusted.
    fn kustomization(&self, overlay: &Path, lives: Lives) -> Result<Value> {
        let (copied, change) = self.source.overlay();
        let mut settings = vec![
            format!("ARGOCD_IDENTITY_TRUST_DOMAIN={TRUST_DOMAIN}"),
            format!(
                "ARGOCD_IDENTITY_TOKEN_LIFETIME={}",
                lives.identity.as_secs()
            ),
            format!(
                "ARGOCD_IDENTITY_ALLOWED_HOSTS={}",
                self.targets.allowed_hosts()
            ),
        ];
        // Where SPIRE signs, the control plane does not.
        if copied == "self-issued" {
            settings.push(format!("ARGOCD_IDENTITY_ISSUER_URL={ISSUER_URL}"));
        }
        let ca = ["ca.crt"];
        let bundle = STANDARD.encode(self.targets.authority.pem());
        let trusts: Vec<Value> = (0..webhooks()?)
            .map(|index| {
                let path = format!("/webhooks/{index}/clientConfig/caBundle");
                json!({ "op": "add", "path": path, "value": bundle })
            })
            .collect();
        let copied = workspace().join("manifests/overlays").join(copied);
        let mut patches = vec![json!({
            "target": { "kind": "MutatingWebhookConfiguration", "name": "argocd-identity" },
            "patch": json!(trusts).to_string(),
        })];
        patches.extend(change.map(|change| json!({ "patch": change.to_string() })));
        Ok(json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [relative(overlay, &copied)?],
            "generatorOptions": { "disableNameSuffixHash": true },
            "configMapGenerator": [
                { "name": "argocd-identity", "namespace": NAMESPACE, "behavior": "merge", "literals": settings },
                { "name": "argocd-identity-ca", "namespace": NAMESPACE, "files": ca },
                { "name": "argocd-identity-upstream-ca", "namespace": NAMESPACE, "files": ca },
            ],
            "secretGenerator": [{
                "name": "argocd-identity-tls",
                "namespace": NAMESPACE,
                "type": "kubernetes.io/tls",
                "files": ["tls.crt", "tls.key"],
            }],
            "patches": patches,
        }))
    }
}

/// How many webhooks there are to give a CA to.
fn webhooks() -> Result<usize> {
    let path = workspace().join("manifests/base/webhooks.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let objects = documents(&text)?;
    let object = objects.first().context("webhooks.yaml is empty")?;
    let webhooks = object.data["webhooks"].as_array();
    Ok(webhooks.context("webhooks.yaml has no webhooks")?.len())
}

/// The way from one absolute path to another; kustomize takes no absolute ones.
fn relative(from: &Path, to: &Path) -> Result<PathBuf> {
    let from = from.canonicalize().context("resolve the overlay's path")?;
    let up = from.components().skip(1).map(|_| Path::new(".."));
    let down = to
        .strip_prefix("/")
        .context("a path that is not absolute")?;
    Ok(up.chain([down]).collect())
}
