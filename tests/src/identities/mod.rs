//! Who gives identities to the projects of a scene, and whom registry and remote cluster trust for it.
//!
//! | | tokens are of | their issuer is |
//! |---|---|---|
//! | self-issued | the control plane | the control plane |
//! | SPIRE, Workload API | SPIRE | [`OIDC_HOST`] |
//! | service account | the cluster's API server | [`OIDC_HOST`] |
//!
//! Clusters and SPIRE publish their issuer's documents apart from themselves, where registries reach them; so does
//! [`OIDC_HOST`].

mod documents;
mod proof;
mod source;
mod spire_agent;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};

pub use self::source::{Registered, Source};

use crate::ports;
use crate::scene::ARGOCD;
use crate::targets::identity;

/// Host name of issuers that are not the installation's own; a [`crate::sandbox::Sandbox`] has to resolve it.
pub const OIDC_HOST: &str = "oidc.example.test";

/// Who gives identities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The control plane of this project.
    #[default]
    SelfIssued,
    /// SPIRE, by its Delegated Identity API.
    Spire,
    /// The SPIFFE Workload API of the agent's own pod.
    WorkloadApi,
    /// The cluster, by tokens of service accounts.
    ServiceAccount,
}

/// What gives identities, as the command line says it.
#[derive(Debug, Clone, Default, Args)]
pub struct Choice {
    /// Who proves the projects' identities.
    #[arg(long = "identity", value_enum, default_value_t, value_name = "SOURCE")]
    pub kind: Kind,
    /// With spire or workload-api: the socket of a real SPIRE agent (admin or Workload API) in place of the test
    /// server's. Its trust domain has to be example.test.
    #[arg(long, value_name = "PATH")]
    pub spire_socket: Option<PathBuf>,
    /// The jwt_issuer of that SPIRE; the demo serves its documents there.
    #[arg(
        long,
        value_name = "URL",
        requires = "spire_socket",
        default_value = "https://oidc.example.test:8443"
    )]
    pub spire_issuer: String,
}

/// Whom a scene trusts: known before anything of it runs.
#[derive(Debug, Clone)]
pub struct Trust {
    kind: Kind,
    issuer_url: String,
    spire_socket: Option<PathBuf>,
}

impl Trust {
    /// Trust in what is chosen; `own` is the URL of the installation's issuer.
    ///
    /// # Errors
    /// When there is no port for another issuer.
    pub fn new(choice: &Choice, own: String) -> Result<Self> {
        let kind = choice.kind;
        let spire_socket = match kind {
            Kind::Spire | Kind::WorkloadApi => choice.spire_socket.clone(),
            Kind::SelfIssued | Kind::ServiceAccount => None,
        };
        let issuer_url = match kind {
            Kind::SelfIssued => own,
            _ if spire_socket.is_some() => choice.spire_issuer.clone(),
            _ => format!("https://{OIDC_HOST}:{}", ports::free()?),
        };
        Ok(Self {
            kind,
            issuer_url,
            spire_socket,
        })
    }

    /// Who gives identities.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The socket of a real SPIRE agent, if there is one.
    #[must_use]
    pub fn spire_socket(&self) -> Option<&Path> {
        self.spire_socket.as_deref()
    }

    /// The `iss` of every token.
    #[must_use]
    pub fn issuer_url(&self) -> &str {
        &self.issuer_url
    }

    /// The `iss` of the cluster's own service account tokens, if they are the identities.
    #[must_use]
    pub fn of_cluster(&self) -> Option<&str> {
        (self.kind == Kind::ServiceAccount).then_some(&self.issuer_url)
    }

    /// The `sub` of repository Secrets' tokens, for the service account that stands for the project.
    #[must_use]
    pub fn subject(&self, service_account: &str) -> String {
        match self.kind {
            Kind::SelfIssued | Kind::Spire | Kind::WorkloadApi => identity(service_account),
            Kind::ServiceAccount => format!("system:serviceaccount:{ARGOCD}:{service_account}"),
        }
    }

    /// The same for cluster Secrets without a project.
    #[must_use]
    pub fn cluster_subject(&self) -> String {
        self.subject(match self.kind {
            Kind::ServiceAccount => "argocd-global-cluster",
            Kind::SelfIssued | Kind::Spire | Kind::WorkloadApi => "argocd-application-controller",
        })
    }

    /// What Secrets say besides the guides' keys.
    #[must_use]
    pub fn secret_values(&self) -> &'static [(&'static str, &'static str)] {
        match self.kind {
            Kind::SelfIssued | Kind::Spire | Kind::WorkloadApi => &[],
            Kind::ServiceAccount => &[("workloadIdentityCredential", "ServiceAccountToken")],
        }
    }
}
