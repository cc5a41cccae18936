//! `generateAccessToken` of IAM Service Account Credentials: a federated token for an access token of a service account.
//! Flows out: a token with its `expireTime`, or Google's error object.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{self, Path};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{IAM, State};
use crate::cloud::opaque;
use crate::quay::lock;

/// Longest life of an access token, without an exception of the organisation.
const LONGEST: u64 = 3600;

struct Refusal(StatusCode, &'static str, String);

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/v1/projects/-/serviceAccounts/{call}", post(call))
}

async fn call(
    extract::State(state): extract::State<Arc<State>>,
    Path(call): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let answer = || answer(&state, &call, &headers, &body);
    state.cloud.observe(IAM, answer)
}

fn answer(state: &State, call: &str, headers: &HeaderMap, body: &Value) -> Response {
    match access_token(state, call, headers, body) {
        Ok((token, end)) => {
            Json(json!({ "accessToken": token, "expireTime": end.to_string() })).into_response()
        }
        Err(Refusal(status, name, message)) => {
            let error = json!({ "code": status.as_u16(), "message": message, "status": name });
            (status, Json(json!({ "error": error }))).into_response()
        }
    }
}

fn access_token(
    state: &State,
    call: &str,
    headers: &HeaderMap,
    body: &Value,
) -> Result<(String, Timestamp), Refusal> {
    let not_found = || {
        let message = "Not found; Gaia id not found for email";
        Refusal(StatusCode::NOT_FOUND, "NOT_FOUND", message.into())
    };
    let email = call
        .strip_suffix(":generateAccessToken")
        .ok_or_else(not_found)?;
    let principal = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .and_then(|token| lock(&state.federated).get(token).cloned())
        .ok_or_else(|| {
            let message = "Request had invalid authentication credentials.";
            Refusal(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message.into())
        })?;
    let invalid =
        |message: &str| Refusal(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message.into());
    let scopes = body["scope"].as_array().map_or(0, Vec::len);
    if scopes == 0 {
        return Err(invalid("Request contains no scope."));
    }
    let life = body["lifetime"]
        .as_str()
        .and_then(|text| text.strip_suffix('s')?.parse().ok())
        .filter(|life| (1..=LONGEST).contains(life))
        .ok_or_else(|| invalid("The lifetime is not one of 1s to 3600s."))?;
    let account = lock(&state.accounts)
        .get(email)
        .cloned()
        .ok_or_else(not_found)?;
    if !account.users.contains(&principal) {
        let message = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).";
        return Err(Refusal(
            StatusCode::FORBIDDEN,
            "PERMISSION_DENIED",
            message.into(),
        ));
    }
    let internal = |error: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", error);
    let token = opaque("ya29.c.").map_err(|error| internal(format!("{error:#}")))?;
    // Google tells whole seconds.
    let end = Timestamp::from_second((Timestamp::now() + Duration::from_secs(life)).as_second())
        .map_err(|error| internal(error.to_string()))?;
    lock(&state.access).insert(token.clone(), (account.email, end));
    Ok((token, end))
}
