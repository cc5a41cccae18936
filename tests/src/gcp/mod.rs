//! A stand-in for Google Cloud: the Security Token Service, IAM Service Account Credentials, and Artifact Registry in
//! front of the real distribution registry.
//!
//! ```text
//!   agent ──TLS──▶ sts.googleapis.com             sts.rs    identity token → federated token
//!                  iamcredentials.googleapis.com  iam.rs    federated token → access token of a service account
//!   clients ─────▶ <location>-docker.pkg.dev                access token → registry token, content
//! ```
//!
//! Flows in: providers of pools and service accounts from the test. Each service is a server of its own, so that a request
//! to the wrong one is refused.

mod iam;
mod sts;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use axum::extract::{Query, Request as HttpRequest};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use jsonwebtoken::jwk::JwkSet;
use serde_json::{Value, json};

use crate::cloud::assertion::Issuers;
use crate::cloud::{Fields, Form, Front, Journal, LIFE, Prescribed, Request, login};
use crate::quay::lock;
use crate::upstreams::{Server, Upstreams};

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

/// A running stand-in. It stops when this is dropped.
pub struct Gcp {
    state: Arc<State>,
    _servers: [Server; 3],
}

struct State {
    front: Front,
    journal: Journal,
    issuers: Mutex<Issuers>,
    providers: Mutex<BTreeMap<String, Provider>>,
    accounts: Mutex<BTreeMap<String, ServiceAccount>>,
    /// The principals that federated tokens stand for.
    federated: Mutex<BTreeMap<String, String>>,
    /// The accounts that access tokens stand for, and until when.
    access: Mutex<BTreeMap<String, (String, Timestamp)>>,
}

impl Gcp {
    /// Starts the two token services and the registry `host`, with the registry's `binary` behind it.
    ///
    /// # Errors
    /// When a server or the registry does not start.
    pub async fn start(world: &Upstreams, binary: &Path, host: &str) -> Result<Self> {
        let state = Arc::new(State {
            front: Front::start(binary, world.folder(), host, "/v2/token").await?,
            journal: Journal::default(),
            issuers: Mutex::default(),
            providers: Mutex::default(),
            accounts: Mutex::default(),
            federated: Mutex::default(),
            access: Mutex::default(),
        });
        let servers = [
            world
                .serve(&["sts.googleapis.com"], sts_routes(&state))
                .await?,
            world
                .serve(&["iamcredentials.googleapis.com"], iam_routes(&state))
                .await?,
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

    /// Adds a provider, or replaces the one of that name.
    pub fn add_provider(&self, provider: Provider) {
        lock(&self.state.providers).insert(provider.name.clone(), provider);
    }

    /// Adds a service account, or replaces the one of that email.
    pub fn add_service_account(&self, account: ServiceAccount) {
        lock(&self.state.accounts).insert(account.email.clone(), account);
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

    /// Every request to token services and realm so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state.journal.requests()
    }

    /// When each access token that was given ends.
    #[must_use]
    pub fn ends(&self) -> Vec<Timestamp> {
        let access = lock(&self.state.access);
        access.values().map(|(_, end)| *end).collect()
    }
}

fn sts_routes(state: &Arc<State>) -> Router {
    let state = Arc::clone(state);
    let token = post(async move |headers: HeaderMap, Form(form): Form| {
        let answer = async { sts::token(&state, &headers, &form) };
        state.journal.observe(STS, answer).await
    });
    Router::new().route("/v1/token", token)
}

fn iam_routes(state: &Arc<State>) -> Router {
    let state = Arc::clone(state);
    let call = post(
        async move |axum::extract::Path(call): axum::extract::Path<String>,
                    headers: HeaderMap,
                    Json(body): Json<Value>| {
            let answer = async { iam::call(&state, &call, &headers, &body) };
            state.journal.observe(IAM, answer).await
        },
    );
    Router::new().route("/v1/projects/-/serviceAccounts/{call}", call)
}

fn registry_routes(state: &Arc<State>) -> Router {
    let realm = {
        let state = Arc::clone(state);
        get(
            async move |headers: HeaderMap, Query(query): Query<Fields>| {
                let answer = async { realm(&state, &headers, &query) };
                state.journal.observe(REALM, answer).await
            },
        )
    };
    let state = Arc::clone(state);
    let content = any(async move |request: HttpRequest| state.front.content(request).await);
    Router::new()
        .route("/v2/token", realm)
        .route("/v2/", content.clone())
        .route("/v2/{*rest}", content)
}

/// `GET /v2/token`: an access token for a registry token. What the account may not pull is left out.
fn realm(state: &State, headers: &HeaderMap, query: &[(String, String)]) -> Response {
    let scopes = query
        .iter()
        .filter(|(key, _)| key == "scope")
        .map(|(_, value)| value.as_str());
    let account = login(headers)
        .filter(|(user, _)| user == "oauth2accesstoken")
        .and_then(|(_, token)| state.holder(&token));
    let Some(account) = account else {
        let error = json!({ "code": "UNAUTHORIZED", "message": "authentication failed" });
        return (StatusCode::UNAUTHORIZED, Json(json!({ "errors": [error] }))).into_response();
    };
    match state.front.token(&account.email, &account.pull, scopes) {
        Ok(token) => Json(json!({ "token": token, "expires_in": LIFE.as_secs() })).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

impl State {
    /// The account of a valid access token.
    fn holder(&self, token: &str) -> Option<ServiceAccount> {
        let (email, end) = lock(&self.access).get(token).cloned()?;
        let account = lock(&self.accounts).get(&email).cloned()?;
        (end > Timestamp::now()).then_some(account)
    }
}
