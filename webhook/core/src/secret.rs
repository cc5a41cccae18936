//! The keys of Argo CD's repository, repo-creds and cluster Secrets that
//! workload identity reads (Argo CD's declarative setup documentation, and the
//! public guides to its workload identity proof of concept).
//!
//! Raw values flow in as [`SecretValues`], a typed [`WorkloadIdentity`] or
//! every problem at once flows out. Nothing here rewrites anything.

mod cluster;
pub mod no_proxy;
mod place;
mod repository;
mod spelling;
mod values;

pub use cluster::{ClusterConfig, ClusterSecret, ExecConfig, IN_CLUSTER_SERVER};
pub use place::{Place, PlacePrint};
pub use repository::{DeliveryChoice, RepositorySecret, RepositoryType};
pub use values::{SecretValues, key};

use shared::errors::Named;

/// The label that makes a Secret one of Argo CD's.
pub const SECRET_TYPE: &str = "argocd.argoproj.io/secret-type";

/// The kinds of Secret that can have workload identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// One repository.
    Repository,
    /// Credentials for every repository under a URL prefix.
    RepoCreds,
    /// A destination cluster.
    Cluster,
}

impl SecretKind {
    /// Reads a value of the label [`SECRET_TYPE`].
    pub fn from_label(value: &str) -> Option<Self> {
        match value {
            "repository" => Some(Self::Repository),
            "repo-creds" => Some(Self::RepoCreds),
            "cluster" => Some(Self::Cluster),
            _ => None,
        }
    }
}

/// A Secret that uses workload identity.
#[derive(Debug)]
pub enum WorkloadIdentity {
    /// For a registry or git server.
    Repository(RepositorySecret),
    /// For a cluster.
    Cluster(ClusterSecret),
}

/// Reads a Secret. `object` names it in errors, as `Secret namespace/name`.
///
/// Returns `None` for a Secret that does not use workload identity.
///
/// # Errors
/// Every problem that the Secret has, each naming object and key.
pub fn parse(
    kind: SecretKind,
    object: &str,
    values: &SecretValues,
) -> Result<Option<WorkloadIdentity>, Vec<Named>> {
    match kind {
        SecretKind::Repository | SecretKind::RepoCreds => repository::parse(kind, object, values)
            .map(|found| found.map(WorkloadIdentity::Repository)),
        SecretKind::Cluster => {
            cluster::parse(object, values).map(|found| found.map(WorkloadIdentity::Cluster))
        }
    }
}

/// Whether the Secret asks for workload identity: `useWorkloadIdentity`, or
/// `workloadIdentityProvider` alone. No other key is looked at, whatever it
/// holds: a Secret that does not ask is none of ours.
fn opted_in(reader: &mut values::Reader<'_>) -> bool {
    reader.check(key::USE_WORKLOAD_IDENTITY);
    match reader.boolean(key::USE_WORKLOAD_IDENTITY) {
        Some(asked) => asked,
        None => {
            reader.check(key::PROVIDER);
            reader.text(key::PROVIDER).is_some()
        }
    }
}

#[cfg(test)]
mod tests;
