//! What gives identities besides the project itself: an issuer's documents, and SPIRE. Known projects flow in.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DynamicObject, ObjectMeta, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use shared::errors::Code;

use super::Kind;
use super::documents::Documents;
use super::spire_agent::{AGENT, SpireAgent};
use crate::binaries::Binaries;
use crate::control_plane::documents;
use crate::installation::{NAMESPACE, TRUST_DOMAIN};
use crate::process::output;
use crate::scene::ARGOCD;
use crate::spire::Entry;
use crate::targets::Targets;

/// What gives identities, running. It stops when this is dropped.
pub struct Source {
    kind: Kind,
    issuer_url: String,
    spire: Option<SpireAgent>,
    _documents: Option<Documents>,
}

/// What became of the identities that exist.
#[derive(Debug)]
pub enum Registered {
    /// Nobody has to know them.
    Nowhere,
    /// They are registered: SPIFFE IDs.
    Here(Vec<String>),
    /// Somebody else has to register them: the commands.
    Elsewhere(String),
}

impl Source {
    /// Starts it, with its files below `folder`; whoever trusts it can read the issuer's documents when
    /// this returns. `admin` has all rights in the cluster that Argo CD is in.
    ///
    /// # Errors
    /// When a part cannot be started.
    pub async fn start(folder: &Path, targets: &Targets, admin: &Client) -> Result<Self> {
        let trust = &targets.trust;
        let spire = match trust.kind() {
            Kind::SelfIssued | Kind::ServiceAccount => None,
            kind => Some(match trust.spire_socket() {
                Some(socket) => SpireAgent::real(kind, socket).await?,
                None => SpireAgent::stand_in(kind, folder, trust.issuer_url())?,
            }),
        };
        let keys = match (&spire, trust.kind()) {
            (Some(spire), _) => Some(spire.keys.clone()),
            (None, Kind::ServiceAccount) => Some(cluster_keys(admin).await?),
            (None, _) => None,
        };
        let documents = match keys {
            Some(keys) => Some(Documents::serve(targets, keys).await?),
            None => None,
        };
        Ok(Self {
            kind: trust.kind(),
            issuer_url: trust.issuer_url().to_owned(),
            spire,
            _documents: documents,
        })
    }

    /// SPIRE, where it gives them.
    pub(super) fn spire(&self) -> Option<&SpireAgent> {
        self.spire.as_ref()
    }

    /// Whether a stand-in gives them.
    #[must_use]
    pub fn is_stand_in(&self) -> bool {
        self.spire.as_ref().is_some_and(SpireAgent::is_stand_in)
    }

    /// The authorities of X.509-SVIDs, PEM; none where there are no such SVIDs.
    #[must_use]
    pub fn certificate_authorities(&self) -> Option<String> {
        let authorities = &self.spire.as_ref()?.authorities;
        let pem = |der: &Vec<u8>| {
            let der = STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")
        };
        Some(authorities.iter().map(pem).collect())
    }

    /// What an agent has to be told that runs as a process.
    #[must_use]
    pub fn agent_environment(&self) -> Vec<(&'static str, String)> {
        let Some(spire) = &self.spire else {
            return Vec::new();
        };
        let socket = spire.socket.display().to_string();
        let (source, variable, socket) = match self.kind {
            Kind::WorkloadApi => {
                let url = format!("unix://{socket}");
                ("workload-api", "SPIFFE_ENDPOINT_SOCKET", url)
            }
            _ => ("spire", "ARGOCD_IDENTITY_AGENT_SPIRE_ADMIN_SOCKET", socket),
        };
        vec![
            ("ARGOCD_IDENTITY_AGENT_IDENTITY_SOURCE", source.to_owned()),
            (variable, socket),
            (
                "ARGOCD_IDENTITY_AGENT_SPIFFE_ISSUER",
                self.issuer_url.clone(),
            ),
        ]
    }

    /// The overlay of the manifests for it, and what a user changes there: where SPIRE's sockets are on the node.
    #[must_use]
    pub fn overlay(&self) -> (&'static str, Option<Value>) {
        let Some(spire) = &self.spire else {
            return ("self-issued", None);
        };
        let name = spire.socket.file_name().unwrap_or_default().display();
        let (overlay, volume, variable, socket) = match self.kind {
            // There is no SPIFFE CSI driver on the node.
            Kind::WorkloadApi => (
                "workload-api",
                "spiffe-workload-api",
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix:///spiffe-workload-api/{name}"),
            ),
            _ => (
                "spire",
                "spire-admin",
                "ARGOCD_IDENTITY_AGENT_SPIRE_ADMIN_SOCKET",
                format!("/spire-admin/{name}"),
            ),
        };
        let patch = json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": { "name": "argocd-identity-agent", "namespace": NAMESPACE },
            "spec": { "template": { "spec": {
                "containers": [{
                    "name": "agent",
                    "env": [{ "name": variable, "value": socket }],
                }],
                "volumes": [{
                    "name": volume,
                    "csi": null,
                    "hostPath": { "path": spire.socket.parent(), "type": "Directory" },
                }],
            } } },
        });
        (overlay, Some(patch))
    }

    /// The reason that bindings give for as long as the projects are not known. What a real SPIRE knows is its own
    /// affair.
    #[must_use]
    pub fn unknown(&self) -> Option<Code> {
        match self.kind {
            Kind::SelfIssued => None,
            _ if self.spire.is_some() && !self.is_stand_in() => None,
            Kind::Spire | Kind::WorkloadApi => Some(Code::IdentityNotRegistered),
            Kind::ServiceAccount => Some(Code::ServiceAccountMissing),
        }
    }

    /// Makes the service accounts that stand for projects where they are the identities. Returns their names.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn make_accounts(&self, client: &Client, names: &[String]) -> Result<Vec<String>> {
        if self.kind != Kind::ServiceAccount {
            return Ok(Vec::new());
        }
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), ARGOCD);
        for name in names {
            let account = ServiceAccount {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    ..ObjectMeta::default()
                },
                ..ServiceAccount::default()
            };
            api.create(&PostParams::default(), &account)
                .await
                .with_context(|| format!("make service account {name}"))?;
        }
        Ok(names.to_vec())
    }

    /// Registers what `argocd-identity generate spire` prints of the Secrets that exist.
    ///
    /// # Errors
    /// With the program's own words, and when its output is not what SPIRE's controller manager reads.
    pub fn register(
        &self,
        binaries: &Binaries,
        kubeconfig: &Path,
        allowed_hosts: &str,
    ) -> Result<Registered> {
        let Some(spire) = &self.spire else {
            return Ok(Registered::Nowhere);
        };
        let format: &[&str] = match self.kind {
            Kind::WorkloadApi => &["cluster-spiffe-ids"],
            _ if spire.is_stand_in() => &["cluster-static-entries"],
            _ => &["entry-create", "--parent", "agent"],
        };
        let printed = output(
            Command::new(binaries.control_plane())
                .args(["generate", "spire", "--namespace", ARGOCD])
                .args(["--trust-domain", TRUST_DOMAIN])
                .args(["--allowed-hosts", allowed_hosts])
                .args(["--cluster-name", "demo", "--format"])
                .args(format)
                .env("KUBECONFIG", kubeconfig),
        )?;
        if !spire.is_stand_in() {
            return Ok(Registered::Elsewhere(printed));
        }
        let mut registered = Vec::new();
        for object in documents(&printed)? {
            let entry = entry(&object).with_context(|| format!("{object:?}"))?;
            registered.push(entry.spiffe_id.clone());
            spire.register(entry);
        }
        Ok(Registered::Here(registered))
    }
}

/// The entry that SPIRE's controller manager makes of an object.
fn entry(object: &DynamicObject) -> Result<Entry> {
    let spec = &object.data["spec"];
    let text = |name: &str| spec[name].as_str().with_context(|| format!("no {name}"));
    match object.types.as_ref().map(|types| types.kind.as_str()) {
        Some("ClusterStaticEntry") => {
            let selectors = spec["selectors"].as_array().context("no selectors")?;
            let selectors: Vec<&str> = selectors.iter().filter_map(Value::as_str).collect();
            Ok(Entry::new(text("spiffeID")?, &selectors))
        }
        // For each pod that it selects, with a selector of that pod: here the agent's.
        Some("ClusterSPIFFEID") => Ok(Entry::new(text("spiffeIDTemplate")?, &AGENT)),
        other => anyhow::bail!("{other:?} is nothing of SPIRE's controller manager"),
    }
}

/// The key set of the cluster's service account tokens.
async fn cluster_keys(admin: &Client) -> Result<Value> {
    let request = http::Request::get("/openid/v1/jwks")
        .body(Vec::new())
        .context("make a request")?;
    admin
        .request(request)
        .await
        .context("the cluster's key set")
}
