//! The issuer's public documents: issuer URL and public keys flow in, JSON
//! flows out (OpenID Connect Discovery 1.0, RFC 7517).

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use control_plane_core::{identity::algorithm::Algorithm, settings::IssuerUrl};
use serde::Serialize;
use url::Url;

use super::keys::{Keyring, MAX_AGE, PublicJwk};

/// Path of the discovery document below the issuer.
pub const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
/// Path of the key set below the issuer.
pub const KEYS_PATH: &str = "/keys";

/// The discovery document, with what registries, clouds and API servers read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Discovery {
    issuer: String,
    jwks_uri: String,
    response_types_supported: [&'static str; 1],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: BTreeSet<Algorithm>,
}

impl Discovery {
    /// The same for an issuer that publishes these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: &[PublicJwk]) -> Self {
        let algorithms = keys.iter().map(PublicJwk::algorithm);
        self.id_token_signing_alg_values_supported = algorithms.collect();
        self
    }
}

/// The discovery document of an issuer with RSA keys; [`Discovery::with_keys`]
/// is for any.
pub fn discovery(issuer: &IssuerUrl) -> Discovery {
    Discovery {
        issuer: issuer.as_str().to_owned(),
        jwks_uri: issuer.join(KEYS_PATH),
        // Required members; nobody signs in here, so they say the least.
        response_types_supported: ["id_token"],
        subject_types_supported: ["public"],
        id_token_signing_alg_values_supported: [Algorithm::Rs256].into(),
    }
}

/// A key set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeySet {
    keys: Vec<PublicJwk>,
}

/// The key set of these keys.
pub fn key_set(keys: Vec<PublicJwk>) -> KeySet {
    KeySet { keys }
}

struct Documents {
    issuer: IssuerUrl,
    keyring: Keyring,
}

/// Serves both documents at the root and, if the issuer has a path, below that
/// path too: proxies in front may or may not strip it.
pub fn router(issuer: IssuerUrl, keyring: Keyring) -> Router {
    let path = Url::parse(issuer.as_str())
        .map(|url| url.path().trim_end_matches('/').to_owned())
        .unwrap_or_default();
    let documents = Router::new()
        .route(DISCOVERY_PATH, routing::get(serve_discovery))
        .route(KEYS_PATH, routing::get(serve_keys));
    // A path with characters that routes give a meaning to is left to the proxy.
    let router = if path.is_empty() || path.contains(['{', '}', '*', ':']) {
        documents
    } else {
        Router::new()
            .nest(&path, documents.clone())
            .merge(documents)
    };
    router.with_state(Arc::new(Documents { issuer, keyring }))
}

async fn serve_discovery(State(documents): State<Arc<Documents>>) -> Response {
    let keys = documents.keyring.public();
    match keys.is_empty() {
        true => not_yet(),
        false => cached(discovery(&documents.issuer).with_keys(&keys)),
    }
}

async fn serve_keys(State(documents): State<Arc<Documents>>) -> Response {
    let keys = documents.keyring.public();
    match keys.is_empty() {
        true => not_yet(),
        false => cached(key_set(keys)),
    }
}

/// Nobody may keep a document that has no key.
fn not_yet() -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::RETRY_AFTER, "2"),
    ];
    let words = "there is no signing key yet";
    (StatusCode::SERVICE_UNAVAILABLE, headers, words).into_response()
}

fn cached(document: impl Serialize) -> Response {
    let cache = format!("public, max-age={}", MAX_AGE.as_secs());
    ([(header::CACHE_CONTROL, cache)], Json(document)).into_response()
}
