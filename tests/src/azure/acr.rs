//! The registry's own tokens (ACR's `AAD-OAuth.md`): `/oauth2/exchange` gives a refresh token for Entra's, and
//! `/oauth2/token` a registry token for that one, as a password or in a form. What the application may not pull is left
//! out.

use std::sync::Arc;

use anyhow::Result;
use axum::extract::{self, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::{Application, EXCHANGE, REALM, State};
use crate::cloud::{Fields, Form, content_routes, field, login};
use crate::quay::lock;

type Azure = extract::State<Arc<State>>;

pub(super) fn routes() -> Router<Arc<State>> {
    content_routes()
        .route("/oauth2/exchange", post(exchange))
        .route("/oauth2/token", get(by_login).post(by_refresh_token))
}

async fn exchange(extract::State(state): Azure, Form(form): Form) -> Response {
    state
        .cloud
        .observe(EXCHANGE, || refresh_token(&state, &form))
}

async fn by_login(
    extract::State(state): Azure,
    headers: HeaderMap,
    Query(query): Query<Fields>,
) -> Response {
    let password = login(&headers)
        .filter(|(user, _)| user == "00000000-0000-0000-0000-000000000000")
        .map_or_else(String::new, |(_, password)| password);
    let answer = || access_token(&state, &password, &query);
    state.cloud.observe(REALM, answer)
}

async fn by_refresh_token(extract::State(state): Azure, Form(form): Form) -> Response {
    let answer = || match field(&form, "grant_type") {
        "refresh_token" => access_token(&state, field(&form, "refresh_token"), &form),
        _ => refused(StatusCode::BAD_REQUEST, "invalid parameters"),
    };
    state.cloud.observe(REALM, answer)
}

fn refresh_token(state: &State, form: &[(String, String)]) -> Response {
    let front = &state.cloud.front;
    if field(form, "grant_type") != "access_token" || field(form, "service") != front.host() {
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
            let token = front.password(&it.client_id, state.life);
            given("refresh_token", token)
        }
        _ => refused(StatusCode::UNAUTHORIZED, "authentication required"),
    }
}

fn access_token(state: &State, refresh_token: &str, fields: &[(String, String)]) -> Response {
    let application = state
        .cloud
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
    let token = state.cloud.grant(&client_id, &pull, fields);
    given("access_token", token)
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
