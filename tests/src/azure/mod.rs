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
use axum::extract::{Query, Request as HttpRequest};
use axum::http::HeaderMap;
use axum::routing::{any, get, post};
use jsonwebtoken::jwk::JwkSet;

use crate::cloud::assertion::Issuers;
use crate::cloud::{Fields, Form, Front, Journal, Prescribed, Request};
use crate::quay::lock;
use crate::upstreams::{Server, Upstreams};

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

/// A running stand-in. It stops when this is dropped.
pub struct Azure {
    state: Arc<State>,
    _servers: [Server; 2],
}

struct State {
    front: Front,
    journal: Journal,
    issuers: Mutex<Issuers>,
    applications: Mutex<BTreeMap<String, Application>>,
    /// The client IDs that access tokens stand for.
    access: Mutex<BTreeMap<String, String>>,
    /// How long refresh tokens live.
    life: Duration,
}

impl Azure {
    /// Starts the token endpoint of `authority` and the registry `host`, whose refresh tokens have this life, with the
    /// registry's `binary` behind it.
    ///
    /// # Errors
    /// When a server or the registry does not start.
    pub async fn start(
        world: &Upstreams,
        binary: &Path,
        authority: &str,
        host: &str,
        life: Duration,
    ) -> Result<Self> {
        let state = Arc::new(State {
            front: Front::start(binary, world.folder(), host, "/oauth2/token").await?,
            journal: Journal::default(),
            issuers: Mutex::default(),
            applications: Mutex::default(),
            access: Mutex::default(),
            life,
        });
        let servers = [
            world.serve(&[authority], entra_routes(&state)).await?,
            world.serve(&[host], registry_routes(&state)).await?,
        ];
        Ok(Self {
            state,
            _servers: servers,
        })
    }

    /// Lets issuer and keys be found; without keys, the issuer's documents cannot be fetched.
    pub fn add_issuer(&self, issuer: &str, keys: Option<&JwkSet>) {
        lock(&self.state.issuers).insert(issuer.to_owned(), keys.cloned());
    }

    /// Adds an application, or replaces the one of that client ID.
    pub fn add_application(&self, application: Application) {
        lock(&self.state.applications).insert(application.client_id.clone(), application);
    }

    /// Puts an image into the registry.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn publish(&self, repository: &str, tag: &str) -> Result<()> {
        self.state.front.publish(repository, tag).await
    }

    /// Prescribes the answers of an endpoint.
    pub fn prescribe(&self, endpoint: &'static str, answer: Prescribed) {
        self.state.journal.prescribe(endpoint, answer);
    }

    /// Every request to Entra, exchange and realm so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state.journal.requests()
    }
}

fn entra_routes(state: &Arc<State>) -> Router {
    let state = Arc::clone(state);
    let token = post(
        async move |axum::extract::Path(tenant): axum::extract::Path<String>, Form(form): Form| {
            let answer = async { entra::token(&state, &tenant, &form) };
            state.journal.observe(ENTRA, answer).await
        },
    );
    Router::new().route("/{tenant}/oauth2/v2.0/token", token)
}

fn registry_routes(state: &Arc<State>) -> Router {
    let exchange = {
        let state = Arc::clone(state);
        post(async move |Form(form): Form| {
            let answer = async { acr::exchange(&state, &form) };
            state.journal.observe(EXCHANGE, answer).await
        })
    };
    let by_login = {
        let state = Arc::clone(state);
        get(
            async move |headers: HeaderMap, Query(query): Query<Fields>| {
                let answer = async { acr::by_login(&state, &headers, &query) };
                state.journal.observe(REALM, answer).await
            },
        )
    };
    let by_refresh_token = {
        let state = Arc::clone(state);
        async move |Form(form): Form| {
            let answer = async { acr::by_refresh_token(&state, &form) };
            state.journal.observe(REALM, answer).await
        }
    };
    let state = Arc::clone(state);
    let content = any(async move |request: HttpRequest| state.front.content(request).await);
    Router::new()
        .route("/oauth2/exchange", exchange)
        .route("/oauth2/token", by_login.post(by_refresh_token))
        .route("/v2/", content.clone())
        .route("/v2/{*rest}", content)
}
