//! `POST /<tenant>/oauth2/v2.0/token` of Microsoft Entra: client credentials with an identity token as the client's
//! assertion. Flows out: the application's access token, or one of Entra's errors by its number ("AADSTS error codes").

use std::sync::Arc;

use axum::extract::{self, Path};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;

use super::{ENTRA, State};
use crate::cloud::assertion::{self, Fault};
use crate::cloud::{Form, field, opaque};
use crate::quay::lock;

struct Refusal {
    error: &'static str,
    number: u32,
    text: String,
}

impl Refusal {
    fn new(error: &'static str, number: u32, text: impl Into<String>) -> Self {
        Self {
            error,
            number,
            text: text.into(),
        }
    }
}

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/{tenant}/oauth2/v2.0/token", post(token))
}

async fn token(
    extract::State(state): extract::State<Arc<State>>,
    Path(tenant): Path<String>,
    Form(form): Form,
) -> Response {
    let answer = || answer(&state, &tenant, &form);
    state.cloud.observe(ENTRA, answer)
}

fn answer(state: &State, tenant: &str, form: &[(String, String)]) -> Response {
    match log_in(state, tenant, form) {
        Ok(token) => Json(json!({
            "token_type": "Bearer",
            "expires_in": 3599,
            "ext_expires_in": 3599,
            "access_token": token,
        }))
        .into_response(),
        Err(refusal) => {
            let status = match refusal.error {
                "invalid_client" => StatusCode::UNAUTHORIZED,
                _ => StatusCode::BAD_REQUEST,
            };
            let trace = "Trace ID: 255d1aef-8c98-452f-ac51-23d051240864\r\n\
                         Correlation ID: fb3d2015-bc17-4bb9-bb85-30c5cf1aaaa7\r\n\
                         Timestamp: 2026-01-09 02:02:12Z";
            let Refusal {
                error,
                number,
                text,
            } = refusal;
            let body = json!({
                "error": error,
                "error_description": format!("AADSTS{number}: {text}\r\n{trace}"),
                "error_codes": [number],
            });
            (status, Json(body)).into_response()
        }
    }
}

fn log_in(state: &State, tenant: &str, form: &[(String, String)]) -> Result<String, Refusal> {
    let client = field(form, "client_id");
    let applications = lock(&state.applications).clone();
    if !applications.values().any(|it| it.tenant_id == tenant) {
        let text = format!(
            "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID."
        );
        return Err(Refusal::new("invalid_request", 90002, text));
    }
    for (name, value) in [
        ("grant_type", "client_credentials"),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        ),
        ("scope", "https://containerregistry.azure.net/.default"),
    ] {
        if field(form, name) != value {
            let text = format!("The request body has an unexpected value of '{name}'.");
            return Err(Refusal::new("invalid_request", 900_144, text));
        }
    }
    let application = applications
        .get(client)
        .filter(|it| it.tenant_id == tenant)
        .ok_or_else(|| {
            let text = format!("Application with identifier '{client}' was not found in the directory '{tenant}'. This can happen if the application has not been installed.");
            Refusal::new("unauthorized_client", 700_016, text)
        })?;

    let token = field(form, "client_assertion");
    let claims = assertion::claims(token).ok_or_else(|| {
        Refusal::new(
            "invalid_request",
            50027,
            "JWT token is invalid or malformed.",
        )
    })?;
    let unmatched = |number, claim: &str, value: &str| {
        let text = format!(
            "No matching federated identity record found for presented assertion {claim} '{value}'. Check your federated identity credential Subject, Audience and Issuer against the presented assertion."
        );
        Refusal::new("invalid_request", number, text)
    };
    let mut credentials = application.credentials.clone();
    if credentials.is_empty() {
        let text = "No matching federated identity record found for presented assertion. The application has none.";
        return Err(Refusal::new("invalid_request", 70021, text));
    }
    credentials.retain(|it| it.issuer == claims.iss);
    if credentials.is_empty() {
        return Err(unmatched(700_211, "issuer", &claims.iss));
    }
    credentials.retain(|it| it.subject == claims.sub);
    if credentials.is_empty() {
        return Err(unmatched(700_213, "subject", &claims.sub));
    }
    credentials.retain(|it| claims.aud.contains(&it.audience));
    if credentials.is_empty() {
        return Err(unmatched(700_212, "audience", &claims.aud.join(" ")));
    }
    state.cloud.verify(token).map_err(|fault| match fault {
        Fault::Unreachable => {
            let text = "Request to External OIDC endpoint failed.";
            Refusal::new("invalid_request", 50166, text)
        }
        Fault::Expired => {
            let text = "Client assertion is not within its valid time range. Current time: later.";
            Refusal::new("invalid_client", 700_024, text)
        }
        Fault::Signature => {
            let text = "Client assertion failed signature validation.";
            Refusal::new("invalid_client", 700_027, text)
        }
    })?;
    let token =
        opaque("entra.").map_err(|error| Refusal::new("server_error", 90033, error.to_string()))?;
    lock(&state.access).insert(token.clone(), application.client_id.clone());
    Ok(token)
}
