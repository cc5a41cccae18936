//! Who authenticates, by which proof, and of whom a proof may be made at all.

use serde::{Deserialize, Serialize};

/// Who authenticates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

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
