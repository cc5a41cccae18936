//! A stand-in for Zot with OIDC bearer authentication (`http.auth.bearer` with `realm`, `service` and `oidc`).
//!
//! Flows in: `/v2/` with and without a token, and the realm with any account whose password is an identity. Flows out:
//! challenges, tokens and errors in the form of the distribution API. It has no content: whether an identity gets in is
//! all that an exchange asks of a registry.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::token_server::{refuse, shown, verify};
use crate::upstreams::{Issuer, Trusted};

/// Its configuration.
pub struct Zot {
    /// `http.auth.bearer.realm`, as written.
    pub realm: String,
    /// `http.auth.bearer.service`.
    pub service: String,
    /// `http.auth.bearer.oidc[0].audiences`, of which there is one.
    pub audience: String,
    /// Anybody may look at it.
    pub anonymous: bool,
}

struct Running {
    zot: Zot,
    identities: Trusted,
}

impl Zot {
    /// Its routes, trusting `issuer`. The realm is at `/zot/auth/token`.
    pub fn routes(self, issuer: &Issuer) -> Router {
        let identities = issuer.trusted();
        Router::new()
            .route("/v2/", get(base))
            .route("/zot/auth/token", get(token))
            .with_state(Arc::new(Running {
                zot: self,
                identities,
            }))
    }
}

async fn base(State(it): State<Arc<Running>>, headers: HeaderMap) -> Response {
    let accepted = shown(&headers)
        .is_some_and(|(_, token)| verify(&it.identities, &it.zot.audience, &token).is_ok());
    if it.zot.anonymous || accepted {
        return Json(json!({})).into_response();
    }
    let Zot { realm, service, .. } = &it.zot;
    let challenge = match realm.as_str() {
        "" => format!("Bearer service=\"{service}\",scope=\"\""),
        realm => format!("Bearer realm=\"{realm}\",service=\"{service}\",scope=\"\""),
    };
    let mut response = refuse("authentication required");
    if let Ok(challenge) = challenge.parse() {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

async fn token(State(it): State<Arc<Running>>, headers: HeaderMap) -> Response {
    let Some((scheme, token)) = shown(&headers) else {
        return refuse("authentication required");
    };
    if scheme != "Basic" {
        return (StatusCode::BAD_REQUEST, Json(json!({"errors": []}))).into_response();
    }
    match verify(&it.identities, &it.zot.audience, &token) {
        // The identity is what Zot's API takes as a bearer.
        Ok(_) => Json(json!({ "token": token, "access_token": token })).into_response(),
        Err(reason) => refuse(reason),
    }
}
