//! A stand-in for Google Cloud: the Security Token Service, IAM Service Account Credentials, and Artifact Registry in
//! front of the real distribution registry.
//!
//! ```text
//!   agent ──TLS──▶ sts.googleapis.com             sts.rs    identity token → federated token
//!                  iamcredentials.googleapis.com  iam.rs    federated token → access token of a service account
//!   clients ─────▶ <location>-docker.pkg.dev      realm.rs  access token → registry token; content
//! ```
//!
//! Flows in: providers of pools and service accounts from the test.

mod iam;
mod realm;
mod sts;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use axum::Router;
use jiff::Timestamp;

use crate::cloud::{Cloud, Front, Services};
use crate::quay::lock;

/// The Security Token Service's place in the journal.
pub const STS: &str = "sts";
/// IAM Service Account Credentials' place in the journal.
pub const IAM: &str = "iam";
/// The token realm's place in the journal.
pub const REALM: &str = "realm";

/// A provider of a workload identity pool.
#[derive(Clone, Debug)]
pub struct Provider {
    /// `projects/…/locations/global/workloadIdentityPools/…/providers/…`.
    pub name: String,
    /// The `iss` that it takes.
    pub issuer: String,
    /// The audiences that it takes; without any, its own name with or without `https:`.
    pub audiences: Vec<String>,
    /// Its attribute condition: how a subject has to begin.
    pub condition: String,
    /// Whether it is disabled.
    pub disabled: bool,
}

/// A service account.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// Its email.
    pub email: String,
    /// The principals with roles/iam.workloadIdentityUser on it: `principal://…/subject/…`.
    pub users: Vec<String>,
    /// The repositories that it reads: a prefix when it ends in `/`, else one repository.
    pub pull: Vec<String>,
}

/// The stand-in. Its registry stops when the last clone and [`Services`] are dropped.
#[derive(Clone)]
pub struct Gcp(Arc<State>);

struct State {
    cloud: Cloud,
    providers: Mutex<BTreeMap<String, Provider>>,
    accounts: Mutex<BTreeMap<String, ServiceAccount>>,
    /// The principals that federated tokens stand for.
    federated: Mutex<BTreeMap<String, String>>,
    /// The accounts that access tokens stand for, and until when.
    access: Mutex<BTreeMap<String, (String, Timestamp)>>,
}

impl AsRef<Cloud> for State {
    fn as_ref(&self) -> &Cloud {
        &self.cloud
    }
}

impl Gcp {
    /// Starts the registry's `binary` below `folder`, for the host `host`. Nothing is served yet.
    ///
    /// # Errors
    /// When the registry does not start.
    pub async fn start(binary: &Path, folder: &Path, host: &str) -> Result<Self> {
        Ok(Self(Arc::new(State {
            cloud: Cloud::new(Front::start(binary, folder, host, "/v2/token").await?),
            providers: Mutex::default(),
            accounts: Mutex::default(),
            federated: Mutex::default(),
            access: Mutex::default(),
        })))
    }

    /// The two token services and the registry.
    #[must_use]
    pub fn services(&self) -> Services {
        let of = |routes: Router<Arc<State>>| routes.with_state(Arc::clone(&self.0));
        Services::new([
            ("sts.googleapis.com", of(sts::routes())),
            ("iamcredentials.googleapis.com", of(iam::routes())),
            (self.0.cloud.front.host(), of(realm::routes())),
        ])
    }

    /// What it has as every cloud.
    #[must_use]
    pub fn cloud(&self) -> &Cloud {
        &self.0.cloud
    }

    /// Adds a provider, or replaces the one of that name.
    pub fn add_provider(&self, provider: Provider) {
        lock(&self.0.providers).insert(provider.name.clone(), provider);
    }

    /// Adds a service account, or replaces the one of that email.
    pub fn add_service_account(&self, account: ServiceAccount) {
        lock(&self.0.accounts).insert(account.email.clone(), account);
    }

    /// When each access token that was given ends.
    #[must_use]
    pub fn ends(&self) -> Vec<Timestamp> {
        let access = lock(&self.0.access);
        access.values().map(|(_, end)| *end).collect()
    }
}
