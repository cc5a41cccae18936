//! `GET /oauth2/federation/robot/token`: an identity token for a robot's short-lived password.
//!
//! Flows in: `Authorization: Basic base64(robot:JWT)`. Flows out: `{"token": …}` or one of Quay's
//! documented refusals. The order of the checks is what Quay's answers imply: the caller's form first,
//! then the robot, then the token against the robot's issuer, its signature, and at last its subject.

use anyhow::{Context, Result, bail};
use axum::Json;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, dangerous::insecure_decode_claims, decode};
use serde::Deserialize;
use serde_json::json;

use super::State;

/// Every way Quay refuses here, with the status and body that it answers.
enum Refusal {
    NoAuthHeader,
    InvalidBasicHeader,
    UnparsableBasicHeader,
    InvalidRobot,
    UnknownRobot,
    NoFederation,
    NoIssuer,
    IssuerNotConfigured(String),
    InvalidToken(jsonwebtoken::errors::Error),
    SubjectMismatch,
    /// Quay answers 500 for a malformed JWT, for keys it cannot fetch and for anything but RSA.
    Internal(anyhow::Error),
}

/// What of an identity token is read before its signature is checked.
#[derive(Deserialize)]
struct Claimed {
    iss: Option<String>,
}

#[derive(Deserialize)]
struct Verified {
    sub: Option<String>,
}

#[derive(Deserialize)]
struct JwtHeader {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Discovery {
    jwks_uri: String,
}

pub(super) async fn token(state: &State, headers: &HeaderMap) -> Response {
    match exchange(state, headers).await {
        Ok(token) => Json(json!({ "token": token })).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn exchange(state: &State, headers: &HeaderMap) -> Result<String, Refusal> {
    let (name, jwt) = credentials(headers)?;
    if !name.contains('+') {
        return Err(Refusal::InvalidRobot);
    }
    let robot = state.robot(&name).ok_or(Refusal::UnknownRobot)?;
    let trusted = robot.federation.ok_or(Refusal::NoFederation)?;

    let header = unverified_header(&jwt).map_err(Refusal::Internal)?;
    let claimed: Claimed = insecure_decode_claims(&jwt)
        .context("malformed JWT")
        .map_err(Refusal::Internal)?;
    let issuer = claimed.iss.ok_or(Refusal::NoIssuer)?;
    if issuer != trusted.issuer {
        return Err(Refusal::IssuerNotConfigured(issuer));
    }
    let algorithm = match header.alg.as_str() {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        other => {
            return Err(Refusal::Internal(anyhow::anyhow!(
                "algorithm {other} is not supported"
            )));
        }
    };
    let key = issuer_key(state, &issuer, header.kid.as_deref())
        .await
        .map_err(Refusal::Internal)?;

    let mut validation = Validation::new(algorithm);
    validation.leeway = 0;
    validation.reject_tokens_expiring_in_less_than = 1;
    // Quay up to 3.17 does not look at the audience.
    validation.validate_aud = false;
    let verified = decode::<Verified>(&jwt, &key, &validation).map_err(Refusal::InvalidToken)?;
    if verified.claims.sub.as_deref() != Some(trusted.subject.as_str()) {
        return Err(Refusal::SubjectMismatch);
    }
    state.robot_token(&name).map_err(Refusal::Internal)
}

fn credentials(headers: &HeaderMap) -> Result<(String, String), Refusal> {
    let header = headers.get(AUTHORIZATION).ok_or(Refusal::NoAuthHeader)?;
    let (scheme, encoded) = header
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .ok_or(Refusal::InvalidBasicHeader)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Refusal::InvalidBasicHeader);
    }
    super::basic(encoded).ok_or(Refusal::UnparsableBasicHeader)
}

/// Read apart from jsonwebtoken's own header type, which knows no `none` and would hide the name.
fn unverified_header(jwt: &str) -> Result<JwtHeader> {
    let (header, _) = jwt
        .split_once('.')
        .context("malformed JWT: it has no parts")?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(header)
        .or_else(|_| STANDARD.decode(header))
        .context("malformed JWT: its header is not base64")?;
    serde_json::from_slice(&bytes).context("malformed JWT: its header is not JSON")
}

/// The issuer's key for `kid`, fetched anew every time so that tests see rotations and failures at once.
async fn issuer_key(state: &State, issuer: &str, kid: Option<&str>) -> Result<DecodingKey> {
    let discovery = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let discovery: Discovery = fetch(state, &discovery).await?;
    let keys: JwkSet = fetch(state, &discovery.jwks_uri).await?;
    let key: &Jwk = match kid {
        Some(kid) => keys
            .find(kid)
            .with_context(|| format!("the issuer has no key {kid}"))?,
        None => keys.keys.first().context("the issuer has no key")?,
    };
    match &key.algorithm {
        AlgorithmParameters::RSA(rsa) => DecodingKey::from_rsa_components(&rsa.n, &rsa.e)
            .context("the issuer's key cannot be read"),
        _ => bail!("the issuer's key is not RSA"),
    }
}

async fn fetch<T: serde::de::DeserializeOwned>(state: &State, url: &str) -> Result<T> {
    let answer = state
        .issuers
        .get(url)
        .send()
        .await
        .with_context(|| format!("could not reach {url}"))?;
    answer
        .error_for_status()
        .with_context(|| format!("{url} answered with an error"))?
        .json()
        .await
        .with_context(|| format!("{url} did not answer with the expected JSON"))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let unauthorized = |text: &str| (StatusCode::UNAUTHORIZED, Json(json!({ "error": text })));
        let bad_request = |text: &str| (StatusCode::BAD_REQUEST, Json(json!({ "message": text })));
        match self {
            Self::NoAuthHeader => unauthorized("No auth header"),
            Self::InvalidBasicHeader => unauthorized("Invalid basic auth header"),
            Self::UnparsableBasicHeader => unauthorized("Could not parse basic auth header"),
            Self::InvalidRobot => unauthorized("Invalid robot"),
            Self::UnknownRobot => bad_request("Could not find robot with specified username"),
            Self::NoFederation => bad_request("Robot does not have federated login configured"),
            Self::NoIssuer => bad_request("Token does not contain issuer"),
            Self::IssuerNotConfigured(issuer) => {
                bad_request(&format!("issuer {issuer} not configured for this robot"))
            }
            Self::InvalidToken(cause) => bad_request(&format!("Invalid token: {cause}")),
            Self::SubjectMismatch => bad_request("Token does not match robot"),
            // The body says why, which Quay's does not: tests that fail need it, and no client reads it.
            Self::Internal(cause) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                Json(json!({ "message": "Internal Server Error", "cause": format!("{cause:#}") })),
            ),
        }
        .into_response()
    }
}
