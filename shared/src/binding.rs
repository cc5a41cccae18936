//! The custom resource CredentialBinding (`workload-identity.dev/v1alpha1`).
//!
//! It is the non-secret half of an Argo CD Secret with workload identity: the
//! controller derives `spec` from the Secret, every agent reports in `status`
//! what its node has. It is named like its Secret and owned by it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::errors::{Code, Named};

/// API group.
pub const GROUP: &str = "workload-identity.dev";
/// API version.
pub const VERSION: &str = "v1alpha1";
/// Kind.
pub const KIND: &str = "CredentialBinding";
/// Plural resource name.
pub const PLURAL: &str = "credentialbindings";

/// What is to be authenticated to, as whom, and how the credential travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialBindingSpec {
    /// The registry or cluster.
    pub target: Target,
    /// The Argo CD project that the Secret is scoped to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The provider as the Secret names it.
    pub provider: Provider,
    /// Who authenticates.
    pub identity: Identity,
    /// How the identity becomes a credential.
    pub exchange: Exchange,
    /// How the credential reaches Argo CD.
    pub delivery: Delivery,
    /// Service accounts of the namespace whose pods may have the credential.
    pub consumers: Vec<String>,
    /// What the credential proxy needs to know, where delivery is `proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyDelivery>,
}

/// Delivery by the credential proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyDelivery {
    /// Lower-case hex SHA-256 of every key that opens it: one, or two while the
    /// installation's key rotates.
    pub key_sha256: Vec<String>,
    /// What the target serves.
    #[serde(rename = "type")]
    pub kind: ProxyKind,
    /// Content is fetched without verifying the target's certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// The proxy on the way to the target, `http://host[:port]` without user
    /// information; without it the environment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_proxy: Option<String>,
}

/// What a host that the credential proxy reaches serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyKind {
    /// An OCI registry (distribution API).
    Oci,
    /// A Helm repository with an index.
    HelmHttp,
    /// Git over HTTPS.
    Git,
}

/// What a credential is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// Registry or cluster.
    #[serde(rename = "type")]
    pub kind: TargetKind,
    /// `host[:port]/path` of a registry, the server URL of a cluster.
    pub address: String,
}

/// Kinds of [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TargetKind {
    /// An artifact registry or a git server.
    Registry,
    /// A Kubernetes API server.
    Cluster,
}

/// Providers, by the names of the public guides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// A JWT-SVID, traded at the registry's realm where one is set.
    Spiffe,
    /// AWS STS and ECR.
    Aws,
    /// OAuth 2.0 token exchange, or a registry's realm.
    Oidc,
    /// Google Cloud STS.
    Gcp,
    /// Microsoft Entra and ACR.
    Azure,
}

impl Provider {
    /// The provider with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "spiffe" => Some(Self::Spiffe),
            "aws" => Some(Self::Aws),
            "oidc" => Some(Self::Oidc),
            "gcp" => Some(Self::Gcp),
            "azure" => Some(Self::Azure),
            _ => None,
        }
    }
}

/// Who authenticates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The exact `sub` of the token: a SPIFFE ID, or for a service account's
    /// token `system:serviceaccount:<namespace>:<name>`. A certificate has the
    /// SPIFFE ID as its URI name.
    pub subject: String,
    /// The audience, the `aud` of the token.
    pub audience: String,
    /// The service account that stands for the project.
    pub service_account: String,
    /// The kind of proof.
    pub credential: CredentialKind,
}

/// Whether the control plane may have tokens of this service account made.
/// Such accounts exist for this purpose only; a token of a component's own
/// account would be that component.
pub fn is_mintable(service_account: &str) -> bool {
    ["argocd-project-", "argocd-cluster-"].iter().any(|prefix| {
        service_account
            .strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty())
    }) || ["argocd-global", "argocd-global-cluster"].contains(&service_account)
}

/// Whether API servers usually take this audience for their own: what can be
/// told without asking one. The API server's policy has the same forms.
pub fn is_usual_api_server_audience(audience: &str) -> bool {
    let audience = audience.to_ascii_lowercase();
    let bare = ["https://", "http://"]
        .iter()
        .find_map(|scheme| audience.strip_prefix(scheme))
        .unwrap_or(&audience);
    let host = bare.split([':', '/']).next().unwrap_or_default();
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_in_cluster = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.svc.default",
        "k3s",
        "rke2",
    ]
    .contains(&host)
        || host.starts_with("kubernetes.default.svc.");
    // Issuers of managed clusters, which are the default audience, and the
    // names of their API servers.
    is_in_cluster
        || bare.starts_with("container.googleapis.com/v1/projects/")
        || host.starts_with("oidc.eks.")
        || host.ends_with(".oic.prod-aks.azure.com")
        || host.ends_with(".azmk8s.io")
}

/// Kinds of proof of an identity, by the names of the Flux RFC discussion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CredentialKind {
    /// A token of the project's Kubernetes service account.
    ServiceAccountToken,
    /// A JWT-SVID.
    SpiffeJWT,
    /// An X.509-SVID.
    SpiffeCertificate,
}

impl CredentialKind {
    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "ServiceAccountToken" => Some(Self::ServiceAccountToken),
            "SpiffeJWT" => Some(Self::SpiffeJWT),
            "SpiffeCertificate" => Some(Self::SpiffeCertificate),
            _ => None,
        }
    }
}

/// How an identity becomes a credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exchange {
    /// The protocol.
    #[serde(rename = "type")]
    pub kind: ExchangeKind,
    /// The registry's token endpoint, an https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_url: Option<String>,
    /// The token service (RFC 8693, STS), an https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_url: Option<String>,
    /// The `service` parameter of a registry's token endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The account at the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Who the identity is at its cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<CloudAccount>,
}

impl Exchange {
    /// An exchange without parameters.
    pub fn of(kind: ExchangeKind) -> Self {
        Self {
            kind,
            auth_url: None,
            token_url: None,
            service: None,
            username: None,
            account: None,
        }
    }
}

/// Who the identity is at its cloud, from annotations of the service account.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum CloudAccount {
    /// At AWS.
    Aws {
        /// The role to assume.
        role_arn: String,
    },
    /// At Google Cloud.
    Gcp {
        /// The email of the service account to impersonate.
        service_account: String,
        /// The workload identity provider, `projects/…/providers/…`; without
        /// it, the audience names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        workload_identity_provider: Option<String>,
    },
    /// At Microsoft Entra.
    Azure {
        /// The application, or the managed identity.
        client_id: String,
        /// The tenant that it is in.
        tenant_id: String,
    },
}

/// Exchange protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExchangeKind {
    /// Quay robot federation.
    Quay,
    /// The token itself is the password.
    Passthrough,
    /// A distribution token realm.
    Distribution,
    /// OAuth 2.0 token exchange, RFC 8693.
    TokenExchange,
    /// AWS STS and ECR.
    Ecr,
    /// AWS STS and ECR Public.
    EcrPublic,
    /// Google Artifact Registry.
    Gar,
    /// Azure Container Registry.
    Acr,
    /// The token itself is the credential (clusters).
    None,
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quay => "quay",
            Self::Passthrough => "passthrough",
            Self::Distribution => "distribution",
            Self::TokenExchange => "token-exchange",
            Self::Ecr => "ecr",
            Self::EcrPublic => "ecr-public",
            Self::Gar => "gar",
            Self::Acr => "acr",
            Self::None => "none",
        })
    }
}

/// How a credential reaches Argo CD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// In the pod-wide `docker/config.json`: credentials of no project only.
    DockerConfig,
    /// Through the credential proxy, for one repository Secret only.
    Proxy,
    /// As an ExecCredential file for the exec plugin.
    Exec,
}

/// What agents and controller report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CredentialBindingStatus {
    /// `Ready` and `Degraded`, written by the controller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// One entry per node with a consumer, each written by that node's agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeStatus>,
    /// The earliest expiry over all nodes, written by the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What one node has of a binding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// The `metadata.generation` of the binding that this speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// Whether consumers on the node have a valid credential.
    pub state: NodeState,
    /// When the credential that is delivered now expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rotation: Option<Timestamp>,
    /// How many credentials this agent has delivered since it started.
    #[serde(default)]
    pub rotations: u64,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<NodeError>,
}

/// Whether consumers on a node have a valid credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// There is a valid credential, and the last refresh worked.
    Ready,
    /// The first credential is being obtained.
    Pending,
    /// There is no valid credential, or the last refresh failed.
    Degraded,
}

/// A named error as a status carries it. The code stays text, so that an older
/// controller can show a newer agent's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeError {
    /// A code of the catalogue.
    pub code: String,
    /// Detail and remedy.
    pub message: String,
}

impl From<&Named> for NodeError {
    fn from(error: &Named) -> Self {
        Self {
            code: error.code.as_str().to_owned(),
            message: error.to_string(),
        }
    }
}

/// A condition, in the shape of `metav1.Condition`. `reason` is a catalogue
/// code where something is wrong, so it is in kebab case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready` or `Degraded`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word; a catalogue code where something is wrong.
    pub reason: String,
    /// The whole sentence.
    #[serde(default)]
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
    /// The generation that this speaks of.
    #[serde(default)]
    pub observed_generation: i64,
}

/// Why this version obtains no credential for a binding, if it does not.
/// `object` names it in the error.
///
/// Admission, controller, identity API and every agent ask this, so that all
/// refuse alike whatever another does.
pub fn undeliverable(object: &str, spec: &CredentialBindingSpec) -> Option<Named> {
    let refuse = |code, what: String| Some(Named::new(code, format!("{object}: {what}")));
    match spec.delivery {
        Delivery::Proxy if spec.proxy.is_none() => {
            return refuse(
                Code::InvalidSecret,
                "delivery proxy without spec.proxy".to_owned(),
            );
        }
        // A pod-wide file answers any project's pull from that host.
        Delivery::DockerConfig if spec.project.is_some() => {
            return refuse(
                Code::DeliveryNotAvailable,
                "delivery docker-config with a project".to_owned(),
            );
        }
        Delivery::DockerConfig | Delivery::Proxy | Delivery::Exec => {}
    }
    let is_available = match spec.exchange.kind {
        ExchangeKind::Quay => true,
        ExchangeKind::None => {
            spec.target.kind == TargetKind::Cluster
                || spec.identity.credential == CredentialKind::SpiffeCertificate
        }
        _ => false,
    };
    if !is_available {
        return refuse(
            Code::ExchangeNotAvailable,
            format!("exchange {}", spec.exchange.kind),
        );
    }
    match spec.identity.credential {
        CredentialKind::SpiffeJWT => None,
        CredentialKind::ServiceAccountToken => {
            let account = &spec.identity.service_account;
            let audience = &spec.identity.audience;
            if !is_mintable(account) {
                refuse(
                    Code::ServiceAccountForbidden,
                    format!("service account {account}"),
                )
            } else if is_usual_api_server_audience(audience) {
                refuse(Code::AudienceForbidden, format!("audience `{audience}`"))
            } else {
                None
            }
        }
        // Only the credential proxy shows a certificate to a registry, and
        // there is nothing to trade it for.
        CredentialKind::SpiffeCertificate => {
            let is_shown = spec.delivery == Delivery::Proxy;
            if is_shown && spec.exchange.kind == ExchangeKind::None {
                None
            } else {
                let (delivery, exchange) = (spec.delivery, spec.exchange.kind);
                let words = format!("delivery {delivery:?}, exchange {exchange}");
                refuse(Code::CertificateNotUsable, words)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn code(pointer: &str, value: Value) -> Option<Code> {
        let mut spec = json!({
            "target": {"type": "Registry", "address": "quay.example.org/a"},
            "project": null,
            "provider": "spiffe",
            "identity": {
                "subject": "spiffe://example.org/x", "audience": "a",
                "serviceAccount": "x", "credential": "SpiffeJWT",
            },
            "exchange": {"type": "quay"},
            "delivery": "docker-config",
            "consumers": [],
        });
        *spec.pointer_mut(pointer).unwrap() = value;
        let spec = serde_json::from_value(spec).unwrap();
        undeliverable("Secret a/b", &spec).map(|error| error.code)
    }

    #[test]
    fn what_this_version_delivers_and_what_not() {
        for (pointer, value, expected) in [
            ("/delivery", json!("docker-config"), None),
            ("/delivery", json!("proxy"), Some(Code::InvalidSecret)),
            ("/project", json!("a"), Some(Code::DeliveryNotAvailable)),
            (
                "/exchange/type",
                json!("none"),
                Some(Code::ExchangeNotAvailable),
            ),
            (
                "/exchange/type",
                json!("ecr"),
                Some(Code::ExchangeNotAvailable),
            ),
            (
                "/identity/credential",
                json!("ServiceAccountToken"),
                Some(Code::ServiceAccountForbidden),
            ),
            (
                "/identity/credential",
                json!("SpiffeCertificate"),
                Some(Code::CertificateNotUsable),
            ),
        ] {
            assert_eq!(code(pointer, value.clone()), expected, "{pointer}: {value}");
        }
    }

    #[test]
    fn the_audiences_of_api_servers_are_told_by_their_form() {
        for audience in [
            "https://kubernetes.default.svc",
            "https://kubernetes.default.svc.cluster.local",
            "https://kubernetes.default.svc:443/",
            "HTTPS://Kubernetes.Default.SVC.",
            "kubernetes.default",
            "kubernetes.svc.default",
            "k3s",
            "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c",
            "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC",
            "https://a-b.hcp.westeurope.azmk8s.io:443",
            "https://westeurope.oic.prod-aks.azure.com/t/i/",
        ] {
            assert!(is_usual_api_server_audience(audience), "{audience}");
        }
        for audience in [
            "quay.example.org",
            "sts.amazonaws.com",
            "api://AzureADTokenExchange",
            "https://iam.googleapis.com/projects/1/locations/global",
            "kubernetes.example.org",
            "https://example.org/kubernetes.default.svc",
            "",
        ] {
            assert!(!is_usual_api_server_audience(audience), "{audience}");
        }
    }

    #[test]
    fn tokens_are_made_of_accounts_for_that_purpose_only() {
        for name in [
            "argocd-project-a",
            "argocd-cluster-a",
            "argocd-global",
            "argocd-global-cluster",
        ] {
            assert!(is_mintable(name), "{name}");
        }
        for name in [
            "argocd-project-",
            "argocd-application-controller",
            "argocd-global-other",
            "default",
            "",
        ] {
            assert!(!is_mintable(name), "{name}");
        }
    }
}
