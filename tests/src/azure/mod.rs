//! A stand-in for Azure: the token endpoint of Microsoft Entra, and Azure Container Registry in front of the real
//! distribution registry.
//!
//! ```text
//!   agent ──TLS──▶ login.microsoftonline.com  entra.rs   identity token → access token of an application
//!                  <name>.azurecr.io          acr.rs     /oauth2/exchange: access token → refresh token
//!   clients ─────▶                                       /oauth2/token: refresh token → registry token; content
//! ```
//!
//! Flows in: applications with their federated credentials and roles from the test.

mod acr;
mod entra;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use axum::Router;

use crate::cloud::{Cloud, Front, Services};
use crate::quay::lock;

/// Entra's place in the journal.
pub const ENTRA: &str = "entra";
/// The place of the registry's `/oauth2/exchange` in the journal.
pub const EXCHANGE: &str = "exchange";
/// The place of the registry's `/oauth2/token` in the journal.
pub const REALM: &str = "realm";

/// An application or managed identity.
#[derive(Clone, Debug)]
pub struct Application {
    /// Its client ID.
    pub client_id: String,
    /// Its tenant.
    pub tenant_id: String,
    /// Whose tokens are assertions of it.
    pub credentials: Vec<FederatedCredential>,
    /// The repositories that AcrPull lets it read: a prefix when it ends in `/`, else one repository. `None` is an
    /// application without the role.
    pub pull: Option<Vec<String>>,
}

/// A federated credential: all three are compared as they are.
#[derive(Clone, Debug)]
pub struct FederatedCredential {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `aud`.
    pub audience: String,
}

/// The stand-in. Its registry stops when the last clone and [`Services`] are dropped.
#[derive(Clone)]
pub struct Azure(Arc<State>);

struct State {
    cloud: Cloud,
    authority: String,
    applications: Mutex<BTreeMap<String, Application>>,
    /// The client IDs that access tokens stand for.
    access: Mutex<BTreeMap<String, String>>,
    /// How long refresh tokens live.
    life: Duration,
}

impl AsRef<Cloud> for State {
    fn as_ref(&self) -> &Cloud {
        &self.cloud
    }
}

impl Azure {
    /// Starts the registry's `binary` below `folder`, for the host `host` in the cloud whose token endpoint is at
    /// `authority`. Refresh tokens have this life. Nothing is served yet.
    ///
    /// # Errors
    /// When the registry does not start.
    pub async fn start(
        binary: &Path,
        folder: &Path,
        authority: &str,
        host: &str,
        life: Duration,
    ) -> Result<Self> {
        Ok(Self(Arc::new(State {
            cloud: Cloud::new(Front::start(binary, folder, host, "/oauth2/token").await?),
            authority: authority.to_owned(),
            applications: Mutex::default(),
            access: Mutex::default(),
            life,
        })))
    }

    /// The token endpoint and the registry.
    #[must_use]
    pub fn services(&self) -> Services {
        let of = |routes: Router<Arc<State>>| routes.with_state(Arc::clone(&self.0));
        Services::new([
            (self.0.authority.as_str(), of(entra::routes())),
            (self.0.cloud.front.host(), of(acr::routes())),
        ])
    }

    /// What it has as every cloud.
    #[must_use]
    pub fn cloud(&self) -> &Cloud {
        &self.0.cloud
    }

    /// Adds an application, or replaces the one of that client ID.
    pub fn add_application(&self, application: Application) {
        lock(&self.0.applications).insert(application.client_id.clone(), application);
    }
}
