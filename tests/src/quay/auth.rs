//! `GET /v2/auth`: a robot's password for a registry token with the scopes that the robot holds.
//!
//! Flows in: `service`, any number of `scope` values, optional Basic credentials. Flows out: a token for
//! the real registry. Anonymous callers get one that grants nothing, so that the registry refuses them.

use axum::Json;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::json;

use super::State;
use super::robots::{Robot, parse_scopes};
use super::tokens::{Access, Rejection};

#[derive(Debug)]
pub(super) enum Refusal {
    Unauthorized(&'static str),
    /// What Quay answers to a JWT that none of its keys signed: a raw SVID, or a token from before a
    /// rotation of its signing key.
    UnknownServiceKey,
    Internal(anyhow::Error),
}

pub(super) fn token(state: &State, headers: &HeaderMap, query: &[(String, String)]) -> Response {
    let scopes = query
        .iter()
        .filter(|(key, _)| key == "scope")
        .map(|(_, value)| value.as_str());
    match grant(state, headers, &parse_scopes(scopes)) {
        Ok(token) => Json(json!({
            "token": token,
            "expires_in": state.lifetimes().registry.as_secs(),
            "issued_at": Timestamp::now().to_string(),
        }))
        .into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

fn grant(state: &State, headers: &HeaderMap, requested: &[Access]) -> Result<String, Refusal> {
    let (subject, access) = match headers.get(AUTHORIZATION) {
        None => (String::new(), Vec::new()),
        Some(header) => {
            let (name, password) = header
                .to_str()
                .ok()
                .and_then(|value| value.split_once(' '))
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
                .and_then(|(_, encoded)| super::basic(encoded))
                .ok_or(Refusal::Unauthorized("Could not parse basic auth header"))?;
            let robot = authenticate(state, &name, &password)?;
            let access = robot.grant(requested);
            (robot.name, access)
        }
    };
    state
        .registry_token(&subject, &access)
        .map_err(Refusal::Internal)
}

pub(super) fn authenticate(state: &State, name: &str, password: &str) -> Result<Robot, Refusal> {
    let rejected =
        Refusal::Unauthorized("Could not find robot with specified username and password");
    let Some(robot) = state.robot(name) else {
        return Err(rejected);
    };
    if robot.password.as_deref() == Some(password) {
        return Ok(robot);
    }
    // Three parts: it means to be a JWT. Anything else is a wrong password.
    if password.split('.').count() != 3 {
        return Err(rejected);
    }
    match state.robot_key().verify_robot_token(password) {
        Ok(claims) if claims.sub == robot.name => Ok(robot),
        Ok(_) | Err(Rejection::Invalid) => Err(rejected),
        Err(Rejection::UnknownKey) => Err(Refusal::UnknownServiceKey),
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Unauthorized(message) => (StatusCode::UNAUTHORIZED, message.to_owned()),
            Self::UnknownServiceKey => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Unknown service key".to_owned(),
            ),
            Self::Internal(cause) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{cause:#}")),
        };
        (status, Json(json!({ "message": message }))).into_response()
    }
}
