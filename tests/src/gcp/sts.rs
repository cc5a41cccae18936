//! `POST /v1/token` of the Security Token Service: an identity token for a federated token. Flows in: the form of RFC
//! 8693. Flows out: a token of the pool, or Google's documented refusal (Security Token Service API, `v1.token`;
//! "Troubleshoot Workload Identity Federation").

use std::sync::Arc;

use axum::extract;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;

use super::{STS, State};
use crate::cloud::assertion::{self, Fault};
use crate::cloud::{Form, field, opaque};
use crate::quay::lock;

/// The longest `google.subject`, in bytes.
const LONGEST_SUBJECT: usize = 127;

type Refusal = (&'static str, String);

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/v1/token", post(token))
}

async fn token(
    extract::State(state): extract::State<Arc<State>>,
    headers: HeaderMap,
    Form(form): Form,
) -> Response {
    let answer = || answer(&state, &headers, &form);
    state.cloud.observe(STS, answer)
}

fn answer(state: &State, headers: &HeaderMap, form: &[(String, String)]) -> Response {
    match exchange(state, headers, form) {
        Ok(token) => Json(json!({
            "access_token": token,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 3599,
        }))
        .into_response(),
        Err((error, description)) => {
            let body = json!({ "error": error, "error_description": description });
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

fn exchange(
    state: &State,
    headers: &HeaderMap,
    form: &[(String, String)],
) -> Result<String, Refusal> {
    let refuse = |error: &'static str, text: &str| (error, text.to_owned());
    if headers.contains_key(AUTHORIZATION) {
        return Err(refuse(
            "invalid_request",
            "Client authentication is not expected.",
        ));
    }
    for (name, value) in [
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("scope", "https://www.googleapis.com/auth/cloud-platform"),
        (
            "requested_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
    ] {
        if field(form, name) != value {
            let text = format!("Invalid value for \"{name}\".");
            return Err(("invalid_request", text));
        }
    }
    let name = field(form, "audience")
        .strip_prefix("//iam.googleapis.com/")
        .ok_or_else(|| {
            refuse(
                "invalid_request",
                "Invalid value for \"audience\". This value should be the full resource name of the Identity Provider.",
            )
        })?;
    let provider = lock(&state.providers)
        .get(name)
        .filter(|provider| !provider.disabled)
        .cloned()
        .ok_or_else(|| {
            refuse(
                "invalid_target",
                "The target service indicated by the \"audience\" parameters is invalid. This might either be because \
                 the pool or provider is disabled or deleted or because it doesn't exist.",
            )
        })?;

    let token = field(form, "subject_token");
    let claims = assertion::claims(token)
        .ok_or_else(|| refuse("invalid_request", "Unable to parse the ID Token."))?;
    if claims.iss != provider.issuer {
        let text = format!(
            "The issuer in ID Token {} does not match the expected ones.",
            claims.iss
        );
        return Err(("invalid_grant", text));
    }
    let full = format!("//iam.googleapis.com/{name}");
    let accepted = match &provider.audiences[..] {
        [] => vec![full.clone(), format!("https:{full}")],
        listed => listed.to_vec(),
    };
    if !claims
        .aud
        .iter()
        .any(|audience| accepted.contains(audience))
    {
        let text = format!(
            "The audience in ID Token [{}] does not match the expected audience.",
            claims.aud.join(", ")
        );
        return Err(("invalid_grant", text));
    }
    state.cloud.verify(token).map_err(|fault| match fault {
        Fault::Unreachable => refuse(
            "invalid_grant",
            "Error connecting to the given credential's issuer.",
        ),
        Fault::Expired => (
            "invalid_grant",
            format!("ID Token issued at {} is stale to sign-in.", claims.iat),
        ),
        Fault::Signature => refuse("invalid_grant", "Invalid JWT Signature."),
    })?;
    if claims.sub.len() > LONGEST_SUBJECT {
        return Err(refuse(
            "invalid_request",
            "The size of mapped attribute google.subject exceeds the 127 bytes limit. Either modify your attribute \
             mapping or the incoming assertion to produce a mapped attribute that is less than 127 bytes.",
        ));
    }
    if !claims.sub.starts_with(&provider.condition) {
        return Err(refuse(
            "unauthorized_client",
            "The given credential is rejected by the attribute condition.",
        ));
    }
    let pool = name.split("/providers/").next().unwrap_or_default();
    let principal = format!(
        "principal://iam.googleapis.com/{pool}/subject/{}",
        claims.sub
    );
    let token = opaque("ya29.d.").map_err(|error| ("server_error", format!("{error:#}")))?;
    lock(&state.federated).insert(token.clone(), principal);
    Ok(token)
}
