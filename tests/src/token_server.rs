//! A token server in front of the real distribution registry, which trusts identity tokens.
//!
//! Flows in: `GET /token?service&scope` with an identity as Bearer, or as the password of any account. Flows out: a
//! registry token with the scopes that the subject holds; denied ones are dropped without a word. Everything below
//! `/v2/` is the registry's, which checks those tokens itself. A subject is known by `preferred_username` where its token
//! has that, as Keycloak's have: their `sub` is a number of Keycloak's own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::relay::relay;
use crate::upstreams::Trusted;

/// The `iss` of its tokens.
pub const ISSUER: &str = "token-server";
const REALM: &str = "/token";

/// What it trusts and grants. Clones are the same server.
#[derive(Clone)]
pub struct TokenServer(Arc<Inner>);

struct Inner {
    service: String,
    key: EncodingKey,
    jwks: String,
    identities: Trusted,
    audience: String,
    /// Repositories of each subject, by prefix.
    grants: BTreeMap<String, String>,
    registry: OnceLock<String>,
    client: reqwest::Client,
    shown: Mutex<Vec<Shown>>,
}

/// What somebody authenticated with.
#[derive(Clone)]
pub struct Shown {
    /// Where: `/token`, or the registry's path.
    pub path: String,
    /// `Bearer` or `Basic`.
    pub scheme: String,
    /// The token, or the password.
    pub token: String,
    /// What the realm was asked for.
    pub scope: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    preferred_username: Option<String>,
}

impl TokenServer {
    /// One that trusts `issuer`'s identities with this audience, and lets subjects pull below a prefix each.
    ///
    /// # Errors
    /// When its key or its client cannot be made.
    pub fn new(
        issuer: Trusted,
        audience: &str,
        service: &str,
        grants: &[(&str, &str)],
    ) -> Result<Self> {
        let pair = rcgen::KeyPair::generate().context("make a key")?;
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
        public.common.key_id = Some(ISSUER.into());
        let grant = |&(subject, prefix): &(&str, &str)| (subject.to_owned(), prefix.to_owned());
        Ok(Self(Arc::new(Inner {
            service: service.to_owned(),
            key,
            jwks: serde_json::to_string(&JwkSet { keys: vec![public] })?,
            identities: issuer,
            audience: audience.to_owned(),
            grants: grants.iter().map(grant).collect(),
            registry: OnceLock::new(),
            client: reqwest::Client::builder().no_proxy().build()?,
            shown: Mutex::default(),
        })))
    }

    /// The keys that verify its tokens.
    #[must_use]
    pub fn jwks(&self) -> &str {
        &self.0.jwks
    }

    /// Lets the registry at this plain URL be what is below `/v2/`.
    pub fn front(&self, registry: String) {
        let _ = self.0.registry.set(registry);
    }

    /// What the realm was shown so far: scheme, and scope or `-`.
    #[must_use]
    pub fn shown(&self) -> Vec<String> {
        let journal = self.journal().into_iter();
        journal
            .filter(|it| it.path == REALM)
            .map(|it| format!("{} {}", it.scheme, it.scope.as_deref().unwrap_or("-")))
            .collect()
    }

    /// All that the realm and the registry were shown so far.
    #[must_use]
    pub fn journal(&self) -> Vec<Shown> {
        let shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.clone()
    }

    /// A registry token for these actions on `repository`.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, repository: &str, actions: &[&str]) -> Result<String> {
        self.0.sign(
            "tests",
            &json!([{"type": "repository", "name": repository, "actions": actions}]),
        )
    }

    /// A registry that asks for a password in place of a token; it has no content.
    pub fn basic_routes(&self) -> Router {
        Router::new()
            .route("/v2/", get(basic))
            .with_state(self.clone())
    }

    /// Its routes.
    pub fn routes(&self) -> Router {
        Router::new()
            .route(REALM, get(realm))
            .route("/v2/{*path}", any(registry))
            .route("/v2/", any(registry))
            .with_state(self.clone())
    }
}

impl Inner {
    fn note(&self, path: &str, (scheme, token): &(String, String), scope: Option<&str>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.push(Shown {
            path: path.to_owned(),
            scheme: scheme.clone(),
            token: token.clone(),
            scope: scope.map(str::to_owned),
        });
    }

    fn sign(&self, subject: &str, access: &Value) -> Result<String> {
        let now = Timestamp::now().as_second();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(ISSUER.into());
        let claims = json!({
            "iss": ISSUER, "aud": self.service, "sub": subject,
            "iat": now, "nbf": now, "exp": now + 300, "access": access,
        });
        encode(&header, &claims, &self.key).context("sign a registry token")
    }

    fn grant(
        &self,
        headers: &HeaderMap,
        query: &[(String, String)],
    ) -> Result<Value, &'static str> {
        let value = |name| {
            query
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        let credential = shown(headers).ok_or("authentication required")?;
        let scope = value("scope");
        self.note(REALM, &credential, scope);
        if value("service") != Some(self.service.as_str()) {
            return Err("unknown service");
        }
        let subject = verify(&self.identities, &self.audience, &credential.1)?;
        let prefix = self
            .grants
            .get(&subject)
            .ok_or("the subject is not known here")?;
        let granted = scope.and_then(|scope| {
            let mut parts = scope.split(':');
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            let holds = kind == "repository" && actions == "pull" && name.starts_with(prefix);
            holds.then(|| json!({"type": kind, "name": name, "actions": ["pull"]}))
        });
        let token = self.sign(&subject, &granted.into_iter().collect());
        Ok(json!({ "token": token.map_err(|_unsigned| "no token")?, "expires_in": 300 }))
    }
}

/// The subject of a trusted issuer's token, or why it is none.
pub(crate) fn verify(
    trusted: &Trusted,
    audience: &str,
    token: &str,
) -> Result<String, &'static str> {
    let kid = decode_header(token).ok().and_then(|it| it.kid);
    let named = kid.and_then(|kid| trusted.keys.find(&kid));
    let key = named.or(trusted.keys.keys.first());
    let key = key.and_then(|key| DecodingKey::from_jwk(key).ok());
    let mut validation = Validation::new(Algorithm::RS256);
    validation.leeway = 0;
    validation.set_issuer(&[&trusted.issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let claims = decode::<Claims>(token, &key.ok_or("no key")?, &validation);
    claims
        .map(|it| it.claims.preferred_username.unwrap_or(it.claims.sub))
        .map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidAudience => "invalid audience",
            jsonwebtoken::errors::ErrorKind::ExpiredSignature => "the token has expired",
            jsonwebtoken::errors::ErrorKind::InvalidIssuer => "invalid issuer",
            _ => "invalid token",
        })
}

/// The scheme and the token of an `Authorization`: a bearer, or any account's password.
pub(crate) fn shown(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, rest) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    if scheme == "Bearer" {
        return Some((scheme.to_owned(), rest.to_owned()));
    }
    let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    let (name, password) = pair.split_once(':')?;
    (scheme == "Basic" && !name.is_empty()).then(|| (scheme.to_owned(), password.to_owned()))
}

/// An error of the distribution API.
pub(crate) fn refuse(message: &str) -> Response {
    let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": message}]});
    (StatusCode::UNAUTHORIZED, Json(body)).into_response()
}

async fn realm(
    State(server): State<TokenServer>,
    headers: HeaderMap,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    match server.0.grant(&headers, &query) {
        Ok(answer) => Json(answer).into_response(),
        Err(reason) => refuse(reason),
    }
}

async fn basic(State(server): State<TokenServer>, headers: HeaderMap) -> Response {
    let it = &server.0;
    let refused = match shown(&headers) {
        Some((_, password)) => verify(&it.identities, &it.audience, &password).err(),
        None => Some("authentication required"),
    };
    match refused {
        None => Json(json!({})).into_response(),
        Some(reason) => {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"registry\"")];
            (challenge, refuse(reason)).into_response()
        }
    }
}

async fn registry(State(server): State<TokenServer>, request: Request) -> Response {
    let Some(base) = server.0.registry.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no registry yet").into_response();
    };
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = host.to_owned();
    if let Some(credential) = shown(request.headers()) {
        server.0.note(request.uri().path(), &credential, None);
    }
    relay(&server.0.client, base, &host, request).await
}
