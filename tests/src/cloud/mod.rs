//! What the stand-ins of the public clouds share.
//!
//! ```text
//!   assertion   identity tokens, verified against their issuer's keys
//!   front       the real registry behind a cloud's token realm
//!   journal     who was asked, and answers that a test prescribes
//!   services    a cloud's hosts, each with what it serves
//! ```
//!
//! A cloud has its token services besides ([`crate::gcp`], [`crate::azure`]).

pub(crate) mod assertion;
mod front;
mod journal;
mod services;

use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use aws_lc_rs::rand;
use axum::Router;
use axum::extract::{FromRequest, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use url::form_urlencoded;

use crate::chart::Chart;
use crate::quay::lock;
use assertion::Issuers;
pub(crate) use front::{Front, LIFE, login};
use journal::Journal;
pub use journal::{Content, Grant, Prescribed, Request};
pub use services::Services;

/// What a test tells and asks of any cloud: its registry, the issuers that it finds, what it was asked.
pub struct Cloud {
    pub(crate) front: Front,
    journal: Journal,
    issuers: Mutex<Issuers>,
}

impl Cloud {
    /// A cloud without issuers, with this registry.
    pub(crate) fn new(front: Front) -> Self {
        Self {
            front,
            journal: Journal::default(),
            issuers: Mutex::default(),
        }
    }

    /// Lets issuer and keys be found; without keys, the issuer's documents cannot be fetched.
    pub fn add_issuer(&self, issuer: &str, keys: Option<&JwkSet>) {
        lock(&self.issuers).insert(issuer.to_owned(), keys.cloned());
    }

    /// Puts a chart into the registry, below `path`.
    ///
    /// # Errors
    /// With Helm's own words.
    pub fn push(&self, helm: &Path, chart: &Chart<'_>, path: &str) -> Result<()> {
        self.front.push(helm, chart, path)
    }

    /// Prescribes the answers of an endpoint.
    pub fn prescribe(&self, endpoint: &'static str, answer: Prescribed) {
        self.journal.prescribe(endpoint, answer);
    }

    /// Every request to token services and realm so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.journal.requests()
    }

    /// Every request for the registry's content so far, oldest first.
    #[must_use]
    pub fn content(&self) -> Vec<Content> {
        self.journal.content()
    }

    /// Every registry token that was given so far, oldest first.
    #[must_use]
    pub fn grants(&self) -> Vec<Grant> {
        self.journal.grants()
    }

    /// A registry token of an account for those scopes of a form or a query that `pull` covers, written down.
    pub(crate) fn grant(
        &self,
        account: &str,
        pull: &[String],
        fields: &[(String, String)],
    ) -> Result<String> {
        let scopes = fields.iter().filter(|(key, _)| key == "scope");
        let scopes = scopes.map(|(_, value)| value.as_str());
        let (token, grant) = self.front.token(account, pull, scopes)?;
        self.journal.grant(grant);
        Ok(token)
    }

    /// Writes a request to a token service down, and answers it as prescribed or else by `answer`.
    pub(crate) fn observe(
        &self,
        endpoint: &'static str,
        answer: impl FnOnce() -> Response,
    ) -> Response {
        self.journal.observe(endpoint, answer)
    }

    /// Whether an identity token is its issuer's, and valid.
    pub(crate) fn verify(&self, token: &str) -> std::result::Result<(), assertion::Fault> {
        assertion::verify(token, &lock(&self.issuers))
    }

    async fn relay(&self, request: HttpRequest) -> Response {
        let path = request.uri().path().to_owned();
        let account = self.front.account(request.headers());
        let response = self.front.content(request).await;
        self.journal.read(Content {
            path,
            account,
            status: response.status().as_u16(),
        });
        response
    }
}

/// What the registry of a cloud serves besides its token realm.
pub(crate) fn content_routes<S: AsRef<Cloud> + Send + Sync + 'static>() -> Router<Arc<S>> {
    let content = any(async |State(state): State<Arc<S>>, request: HttpRequest| {
        S::as_ref(&state).relay(request).await
    });
    Router::new()
        .route("/v2/", content.clone())
        .route("/v2/{*rest}", content)
}

/// Names and values of a form or a query.
pub(crate) type Fields = Vec<(String, String)>;

/// The body of a request as a form.
pub(crate) struct Form(pub(crate) Fields);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = StatusCode;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Self, StatusCode> {
        let media_type = request.headers().get(CONTENT_TYPE);
        if media_type.is_none_or(|it| it != "application/x-www-form-urlencoded") {
            return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let body = axum::body::Bytes::from_request(request, state).await;
        let body = body.map_err(|rejection| rejection.status())?;
        Ok(Self(form_urlencoded::parse(&body).into_owned().collect()))
    }
}

/// The value of a form's field, or of a query's.
pub(crate) fn field<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields
        .iter()
        .find(|(key, _)| key == name)
        .map_or("", |(_, value)| value)
}

/// A token that nobody can read anything from, as long as real ones are.
pub(crate) fn opaque(prefix: &str) -> Result<String> {
    let mut bytes = [0; 96];
    rand::fill(&mut bytes).context("no randomness")?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}
