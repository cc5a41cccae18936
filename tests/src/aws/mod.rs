//! A stand-in for AWS: STS, ECR's API, ECR Public's API, and the registries in front of a real one.
//!
//! ```text
//!   agent, SDK ──TLS──▶ sts.<region>…               sts.rs       ◀── providers, roles
//!                       api.ecr.<region>…           ecr.rs       ◀── sessions of roles
//!                       api.ecr-public.us-east-1…
//!   helm, oras ──TLS──▶ <account>.dkr.ecr.<region>… registry.rs ──▶ registry (loopback)
//! ```
//!
//! Flows in: the account's identity providers, roles and what they may do, faults, requests under AWS' own host names.
//! Flows out: sessions, an individual password for each, AWS' documented refusals, the registry's content, and a journal
//! of who asked for what. Signatures of requests are not verified here; moto does that ([`crate::moto`]).

mod account;
mod ecr;
mod journal;
mod registry;
mod sts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request as HttpRequest;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use shared::clouds::aws::{EcrHost, is_ecr_api};
use shared::registry::RegistryHost;

pub use account::{Provider, Role, Trust};
pub use journal::{Api, Fault, Request};

use crate::control_plane::Authority;
use crate::upstreams::{self, Server};
use account::Account;
use journal::Journal;

/// Largest request to an API that is read.
const LARGEST: usize = 1 << 20;

/// The stand-in. Clones are the same AWS; [`Server`]s of it stop on their own.
#[derive(Clone)]
pub struct Aws(Arc<State>);

struct State {
    account: Account,
    journal: Journal,
    /// The real registry's loopback URL.
    registry: Option<String>,
    upstream: reqwest::Client,
}

impl Aws {
    /// An AWS without providers and roles. `registry` is the loopback URL of a real registry that anybody may read and
    /// write ([`crate::registry::Registry::open`]), for tests that pull.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(registry: Option<String>) -> Result<Self> {
        let upstream = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self(Arc::new(State {
            account: Account::default(),
            journal: Journal::default(),
            registry,
            upstream,
        })))
    }

    /// Serves all of it as each of `hosts` at a fixed address, with a certificate of `authority`. In a world of
    /// [`crate::upstreams::Upstreams`] serve [`Aws::routes`] there.
    ///
    /// # Errors
    /// When the address is in use, or there is no certificate for the names.
    pub async fn serve(
        &self,
        authority: &Authority,
        hosts: &[&str],
        at: SocketAddr,
    ) -> Result<Server> {
        Server::start(authority, hosts, at, self.routes()).await
    }

    /// Every service and registry; a request's host tells which it is for. A host that is none of AWS' is a token
    /// service under another name, as a VPC endpoint's.
    pub fn routes(&self) -> Router {
        let state = Arc::clone(&self.0);
        Router::new().fallback(move |request: HttpRequest| {
            let state = Arc::clone(&state);
            async move { answer(&state, request).await }
        })
    }

    /// Adds an IAM OIDC identity provider, or replaces the one of its issuer.
    pub fn trust(&self, provider: Provider) {
        self.0.account.trust(provider);
    }

    /// Adds a role, or replaces the one of its ARN; its sessions stay.
    pub fn add_role(&self, role: Role) {
        self.0.account.add_role(role);
    }

    /// How long passwords live that are given from now on; 12 h at first.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.0.account.set_lifetime(lifetime);
    }

    /// Lets ECR answer `GetAuthorizationToken` without any authorization data, or as usual again.
    pub fn set_empty_handed(&self, is_empty_handed: bool) {
        self.0.account.set_empty_handed(is_empty_handed);
    }

    /// From now on nobody's password is good any more.
    pub fn expire_passwords(&self) {
        self.0.account.expire_passwords();
    }

    /// Lets `api` answer with this until it is healed.
    pub fn fail(&self, api: Api, fault: Fault) {
        self.0.journal.inject(api, fault);
    }

    /// Lets `api` work again.
    pub fn heal(&self, api: Api) {
        self.0.journal.heal(api);
    }

    /// Every answered request, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.0.journal.requests()
    }

    /// How many requests fit.
    #[must_use]
    pub fn count(&self, fits: impl Fn(&Request) -> bool) -> usize {
        self.requests().iter().filter(|it| fits(it)).count()
    }
}

/// What a service answers, and whom it took the caller for: a role's ARN and its session's name.
type Answered = (Response, Option<(String, String)>);

async fn answer(state: &State, request: HttpRequest) -> Response {
    let host = upstreams::host(&request).to_owned();
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let place = RegistryHost::parse(&host)
        .ok()
        .and_then(|it| EcrHost::parse(&it));
    let api = match (&place, is_ecr_api(&host)) {
        (Some(_), _) => Api::Registry,
        (None, true) if host.contains("ecr-public") => Api::EcrPublic,
        (None, true) => Api::Ecr,
        (None, false) => Api::Sts,
    };
    let (response, caller) = match (state.journal.fault(api), place) {
        (Some(fault), _) => (fault.response(api), None),
        (None, Some(place)) => registry::answer(state, &host, &place, request).await,
        (None, None) => {
            let (parts, body) = request.into_parts();
            match to_bytes(body, LARGEST).await {
                Err(cause) => (
                    (StatusCode::BAD_REQUEST, cause.to_string()).into_response(),
                    None,
                ),
                Ok(body) if api == Api::Sts => sts::answer(state, &body),
                Ok(_) => ecr::answer(state, api, &host, &parts.headers),
            }
        }
    };
    let (role, session) = caller.unzip();
    state.journal.record(Request {
        api,
        host,
        method,
        path,
        role,
        session,
        status: response.status().as_u16(),
    });
    response
}
