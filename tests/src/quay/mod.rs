//! A stand-in for Quay: robot federation and the token realm, in front of the real distribution registry.
//!
//! ```text
//!   helm, oras, agent ──TLS──▶ /oauth2/federation/robot/token   federation.rs ──▶ the issuer's keys
//!                              /v2/auth                         auth.rs
//!                              /v2/…                            content.rs ─────▶ registry (loopback)
//! ```
//!
//! Flows in: robots, lifetimes and failures from the test; requests from clients. Flows out: tokens,
//! Quay's documented refusals, the registry's content, and a journal of who asked for what. Nothing here
//! decides on content: the real registry verifies each token itself.

mod auth;
mod content;
mod federation;
mod journal;
pub(crate) mod robots;
#[cfg(test)]
mod tests;
pub(crate) mod tokens;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Query, Request as HttpRequest};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

pub use journal::{Endpoint, Failure, Request};
pub use robots::{Federation, Robot};

use crate::control_plane::ServerCertificate;
use crate::registry::{Registry, TokenAuth};
use journal::Journal;
pub(crate) use journal::lock;
use tokens::{Access, SigningKey};

/// The stand-in's host name, unless it has another. Nothing resolves it but the tests' own hosts files and clients.
pub const HOST: &str = "quay.example.test";

/// How long the two kinds of tokens live.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Of a robot's password, given by the federation endpoint.
    pub robot: Duration,
    /// Of a registry token, given by `/v2/auth`. The real registry accepts it for a minute more.
    pub registry: Duration,
}

impl Default for Lifetimes {
    /// Quay's own: one hour each.
    fn default() -> Self {
        let hour = Duration::from_secs(60 * 60);
        Self {
            robot: hour,
            registry: hour,
        }
    }
}

/// A running stand-in with its registry. Both stop when it is dropped.
pub struct Quay {
    address: SocketAddr,
    state: Arc<State>,
    handle: Handle<SocketAddr>,
    registry: Registry,
}

/// Tells robots by their passwords, for another server that trusts the registry's accounts.
#[derive(Clone)]
pub struct Accounts(Arc<State>);

impl Accounts {
    /// The robot that the request's Basic credential is of; `None` without a valid one.
    pub(crate) fn robot(&self, headers: &HeaderMap) -> Option<Robot> {
        let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let (name, password) = basic(encoded).filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
        auth::authenticate(&self.0, &name, &password).ok()
    }
}

pub(crate) struct State {
    /// `quay.example.test:<port>`, the realm's `service` and every robot token's audience.
    service: String,
    /// The real registry's loopback URL.
    registry: String,
    robots: Mutex<HashMap<String, Robot>>,
    lifetimes: Mutex<Lifetimes>,
    robot_key: Mutex<Arc<SigningKey>>,
    registry_key: SigningKey,
    journal: Journal,
    /// For issuers' documents: trusts the suite's authority.
    issuers: reqwest::Client,
    upstream: reqwest::Client,
}

/// What [`Quay::start`] needs.
pub struct Options<'a> {
    /// The distribution registry's binary.
    pub registry: &'a Path,
    /// The name that clients know it by.
    pub host: &'a str,
    /// Where it listens: loopback, or an address that pods can reach; at port 0 for a free one.
    pub address: SocketAddrV4,
    /// An empty folder of its own.
    pub folder: &'a Path,
    /// A serving certificate for its name.
    pub certificate: &'a ServerCertificate,
    /// The authority that identity issuers' certificates chain to (PEM).
    pub authority: &'a str,
    /// How long its tokens live at first.
    pub lifetimes: Lifetimes,
}

impl Quay {
    /// Starts the registry and the stand-in on free ports; both answer when this returns.
    ///
    /// # Errors
    /// When a port cannot be had, the certificate cannot be read, or the registry does not get ready.
    pub async fn start(options: Options<'_>) -> Result<Self> {
        let listener =
            TcpListener::bind(options.address).context("no port for the Quay stand-in")?;
        listener
            .set_nonblocking(true)
            .context("could not prepare the Quay stand-in's socket")?;
        let address = listener
            .local_addr()
            .context("the Quay stand-in's socket has no address")?;
        let service = match address.port() {
            443 => options.host.to_owned(),
            port => format!("{}:{port}", options.host),
        };

        let registry_key = SigningKey::generate("registry")?;
        let registry = Registry::start(
            options.registry,
            options.folder,
            &TokenAuth {
                realm: format!("https://{service}/v2/auth"),
                service: service.clone(),
                issuer: tokens::ISSUER.into(),
                jwks: registry_key.jwks()?,
            },
        )
        .await?;

        let state = Arc::new(State {
            service,
            registry: registry.url(),
            robots: Mutex::default(),
            lifetimes: Mutex::new(options.lifetimes),
            robot_key: Mutex::new(Arc::new(SigningKey::generate("robots-1")?)),
            registry_key,
            journal: Journal::default(),
            issuers: issuer_client(options.authority, *options.address.ip())?,
            upstream: client()
                .build()
                .context("could not make the client of the real registry")?,
        });
        let tls = RustlsConfig::from_pem(
            options.certificate.certificate.clone().into(),
            options.certificate.key.clone().into(),
        )
        .await
        .context("could not read the Quay stand-in's certificate")?;
        let handle = Handle::new();
        let server = axum_server::from_tcp_rustls(listener, tls)
            .context("could not serve the Quay stand-in")?
            .handle(handle.clone())
            .serve(routes(Arc::clone(&state)).into_make_service());
        tokio::spawn(server);
        Ok(Self {
            address,
            state,
            handle,
            registry,
        })
    }

    /// Where it listens. Clients must reach it under the name [`HOST`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `quay.example.test:<port>`: the registry host as Secrets and Applications write it.
    pub fn host(&self) -> &str {
        &self.state.service
    }

    /// The URL of the federation endpoint, as `workloadIdentityRegistryAuthURL` takes it.
    pub fn federation_url(&self) -> String {
        format!(
            "https://{}/oauth2/federation/robot/token",
            self.state.service
        )
    }

    /// The real registry behind it.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A registry token as anybody gets one: it grants nothing, and begins as every registry token does.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn anonymous_token(&self) -> Result<String> {
        self.state.registry_token("", &[])
    }

    /// Its accounts, for another server.
    pub fn accounts(&self) -> Accounts {
        Accounts(Arc::clone(&self.state))
    }

    /// Adds a robot, or replaces the one of that name.
    pub fn add_robot(&self, robot: Robot) {
        lock(&self.state.robots).insert(robot.name.clone(), robot);
    }

    /// Removes a robot; its tokens stop working at once, registry tokens already given do not.
    pub fn remove_robot(&self, name: &str) {
        lock(&self.state.robots).remove(name);
    }

    /// Lifetimes of the tokens given from now on.
    pub fn set_lifetimes(&self, lifetimes: Lifetimes) {
        *lock(&self.state.lifetimes) = lifetimes;
    }

    /// Replaces the key that signs robots' passwords: those given before become an
    /// "Unknown service key" at `/v2/auth`.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn rotate_robot_key(&self) -> Result<()> {
        let key = SigningKey::generate(format!("robots-{}", Timestamp::now().as_nanosecond()))?;
        *lock(&self.state.robot_key) = Arc::new(key);
        Ok(())
    }

    /// Makes an endpoint fail; replaces its earlier failure.
    pub fn fail(&self, endpoint: Endpoint, failure: Failure) {
        self.state.journal.inject(endpoint, failure);
    }

    /// Ends an injected failure.
    pub fn heal(&self, endpoint: Endpoint) {
        self.state.journal.heal(endpoint);
    }

    /// Closes its port for good: every connection is refused from now on.
    pub fn close(&self) {
        self.handle.shutdown();
    }

    /// Every request answered so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.state.journal.requests()
    }

    /// How many requests have come, answered or not.
    pub fn arrived(&self) -> usize {
        self.state.journal.arrived()
    }

    /// How many answered requests match.
    pub fn count(&self, matching: impl Fn(&Request) -> bool) -> usize {
        self.state.journal.count(matching)
    }
}

impl State {
    fn robot(&self, name: &str) -> Option<Robot> {
        lock(&self.robots).get(name).cloned()
    }

    fn lifetimes(&self) -> Lifetimes {
        *lock(&self.lifetimes)
    }

    fn robot_key(&self) -> Arc<SigningKey> {
        Arc::clone(&lock(&self.robot_key))
    }

    fn robot_token(&self, robot: &str) -> Result<String> {
        self.robot_key()
            .robot_token(&self.service, robot, self.lifetimes().robot)
    }

    fn registry_token(&self, subject: &str, access: &[Access]) -> Result<String> {
        self.registry_key
            .registry_token(&self.service, subject, access, self.lifetimes().registry)
    }

    /// Answers one request: the injected failure if there is one, else `answer`; and writes it down.
    async fn observe(
        &self,
        endpoint: Endpoint,
        request: HttpRequest,
        answer: impl AsyncFnOnce(HttpRequest) -> Response,
    ) -> Response {
        let method = request.method().to_string();
        let path = request.uri().path().to_owned();
        let robot = named_robot(request.headers());
        self.journal.arrive();
        let failure = self.journal.take_failure(endpoint).unwrap_or_default();
        tokio::time::sleep(failure.delay).await;
        let response = match failure.status {
            Some(status) => (status, "failure injected by a test").into_response(),
            None => answer(request).await,
        };
        self.journal.record(Request {
            at: Timestamp::now(),
            endpoint,
            method,
            path,
            robot,
            status: response.status().as_u16(),
        });
        response
    }
}

fn routes(state: Arc<State>) -> Router {
    let federation = {
        let state = Arc::clone(&state);
        get(async move |request: HttpRequest| {
            state
                .observe(Endpoint::Federation, request, async |request| {
                    federation::token(&state, request.headers()).await
                })
                .await
        })
    };
    let auth = {
        let state = Arc::clone(&state);
        get(
            async move |Query(query): Query<Vec<(String, String)>>, request: HttpRequest| {
                state
                    .observe(Endpoint::Auth, request, async |request| {
                        auth::token(&state, request.headers(), &query)
                    })
                    .await
            },
        )
    };
    let content = any(async move |request: HttpRequest| {
        state
            .observe(Endpoint::Content, request, async |request| {
                content::relay(&state, request).await
            })
            .await
    });
    Router::new()
        .route("/oauth2/federation/robot/token", federation)
        .route("/v2/auth", auth)
        .route("/v2/", content.clone())
        .route("/v2/{*rest}", content)
        .fallback(async || StatusCode::NOT_FOUND)
}

/// The user and password of a Basic credential.
pub(crate) fn basic(encoded: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Who a request says it comes from; for the journal only.
fn named_robot(headers: &HeaderMap) -> Option<String> {
    let (scheme, credential) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => basic(credential).map(|(user, _)| user),
        "bearer" => tokens::claimed_subject(credential),
        _ => None,
    }
}

fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
}

fn issuer_client(authority: &str, address: Ipv4Addr) -> Result<reqwest::Client> {
    let roots = reqwest::Certificate::from_pem_bundle(authority.as_bytes())
        .context("could not read the suite's certificate authority")?;
    let client = client()
        .tls_certs_only(roots)
        .timeout(Duration::from_secs(5));
    let client = if address.is_loopback() {
        client.dns_resolver(Loopback)
    } else {
        client
    };
    client
        .build()
        .context("could not make the client of identity issuers")
}

/// Resolves every name to loopback: issuers have names, and beside a registry on loopback all of them run here.
struct Loopback;

impl reqwest::dns::Resolve for Loopback {
    fn resolve(&self, _name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let addresses: reqwest::dns::Addrs =
            Box::new(std::iter::once(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

impl Drop for Quay {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}
