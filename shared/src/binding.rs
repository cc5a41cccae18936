//! The custom resource CredentialBinding (`workload-identity.dev/v1alpha1`).
//!
//! It is the non-secret half of an Argo CD Secret with workload identity: the
//! controller derives `spec` from the Secret, every agent reports in `status`
//! what its node has. It is named like its Secret and owned by it.

mod exchange;
mod identity;
mod status;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::exchange::{
    CloudAccount, Exchange, ExchangeKind, RESERVED_PARAMETERS, reserved_parameter,
};
pub use self::identity::{CredentialKind, Identity, is_mintable, is_usual_api_server_audience};
pub use self::status::{Condition, CredentialBindingStatus, NodeError, NodeState, NodeStatus};
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
    /// Lower-case hex SHA-256 of every key that opens it: that of the Secret's
    /// own, and for a while that of the one before it. None while the Secret
    /// has no key that counts.
    pub key_sha256: Vec<String>,
    /// When the last of [`Self::key_sha256`] ends; without it none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_key_until: Option<Timestamp>,
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
    let is_registry = spec.target.kind == TargetKind::Registry;
    let is_certificate = spec.identity.credential == CredentialKind::SpiffeCertificate;
    let is_available = match spec.exchange.kind {
        ExchangeKind::None => !is_registry || is_certificate,
        _ => is_registry,
    };
    if !is_available {
        return refuse(
            Code::ExchangeNotAvailable,
            format!("exchange {}", spec.exchange.kind),
        );
    }
    // Which scope to ask the realm for is known with each request only.
    if spec.delivery != Delivery::Proxy && spec.exchange.has_realm() {
        return refuse(
            Code::DeliveryNotAvailable,
            format!("delivery docker-config, exchange {}", spec.exchange.kind),
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
            ("/exchange/type", json!("ecr"), None),
            ("/exchange/type", json!("passthrough"), None),
            (
                "/exchange/type",
                json!("none"),
                Some(Code::ExchangeNotAvailable),
            ),
            (
                "/exchange/type",
                json!("distribution"),
                Some(Code::DeliveryNotAvailable),
            ),
            (
                "/target/type",
                json!("Cluster"),
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
}
