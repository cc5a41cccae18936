//! The registry's own tokens (ACR's `AAD-OAuth.md`): `/oauth2/exchange` gives a refresh token for Entra's, and
//! `/oauth2/token` a registry token for that one, as a password or in a form. What the application may not pull is left
//! out.

use anyhow::Result;
use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::{Application, State};
use crate::cloud::{field, login};
use crate::quay::lock;

pub(super) fn exchange(state: &State, form: &[(String, String)]) -> Response {
    if field(form, "grant_type") != "access_token" || field(form, "service") != state.front.host() {
        return refused(StatusCode::BAD_REQUEST, "invalid parameters");
    }
    let client = lock(&state.access)
        .get(field(form, "access_token"))
        .cloned();
    let application = client
        .and_then(|client| state.application(&client))
        .filter(|it| it.tenant_id == field(form, "tenant"));
    match application {
        Some(it) if it.pull.is_some() => {
            let token = state.front.password(&it.client_id, state.life);
            given("refresh_token", token)
        }
        _ => refused(StatusCode::UNAUTHORIZED, "authentication required"),
    }
}

pub(super) fn by_login(state: &State, headers: &HeaderMap, query: &[(String, String)]) -> Response {
    let password = login(headers)
        .filter(|(user, _)| user == "00000000-0000-0000-0000-000000000000")
        .map(|(_, password)| password);
    token(state, &password.unwrap_or_default(), query)
}

pub(super) fn by_refresh_token(state: &State, form: &[(String, String)]) -> Response {
    if field(form, "grant_type") != "refresh_token" {
        return refused(StatusCode::BAD_REQUEST, "invalid parameters");
    }
    token(state, field(form, "refresh_token"), form)
}

fn token(state: &State, refresh_token: &str, fields: &[(String, String)]) -> Response {
    let application = state
        .front
        .owner(refresh_token)
        .and_then(|client| state.application(&client));
    let Some(Application {
        client_id,
        pull: Some(pull),
        ..
    }) = application
    else {
        return refused(StatusCode::UNAUTHORIZED, "authentication required");
    };
    let scopes = fields
        .iter()
        .filter(|(key, _)| key == "scope")
        .map(|(_, value)| value.as_str());
    given("access_token", state.front.token(&client_id, &pull, scopes))
}

fn given(name: &str, token: Result<String>) -> Response {
    match token {
        Ok(token) => Json(json!({ name: token })).into_response(),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}")),
    }
}

fn refused(status: StatusCode, message: &str) -> Response {
    let code = match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        _ => "UNKNOWN",
    };
    let errors = [json!({ "code": code, "message": message })];
    (status, Json(json!({ "errors": errors }))).into_response()
}

impl State {
    fn application(&self, client_id: &str) -> Option<Application> {
        lock(&self.applications).get(client_id).cloned()
    }
}
