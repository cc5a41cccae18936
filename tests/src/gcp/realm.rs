//! `GET /v2/token` of the registry: an access token for a registry token. What the account may not pull is left out.

use std::sync::Arc;

use axum::extract::{self, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde_json::json;

use super::{REALM, ServiceAccount, State};
use crate::cloud::{Fields, LIFE, content_routes, login};
use crate::quay::lock;

pub(super) fn routes() -> Router<Arc<State>> {
    content_routes().route("/v2/token", get(by_login))
}

async fn by_login(
    extract::State(state): extract::State<Arc<State>>,
    headers: HeaderMap,
    Query(query): Query<Fields>,
) -> Response {
    let answer = || token(&state, &headers, &query);
    state.cloud.observe(REALM, answer)
}

fn token(state: &State, headers: &HeaderMap, query: &[(String, String)]) -> Response {
    let account = login(headers)
        .filter(|(user, _)| user == "oauth2accesstoken")
        .and_then(|(_, token)| state.holder(&token));
    let Some(account) = account else {
        let error = json!({ "code": "UNAUTHORIZED", "message": "authentication failed" });
        return (StatusCode::UNAUTHORIZED, Json(json!({ "errors": [error] }))).into_response();
    };
    match state.cloud.grant(&account.email, &account.pull, query) {
        Ok(token) => Json(json!({ "token": token, "expires_in": LIFE.as_secs() })).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

impl State {
    /// The account of a valid access token.
    fn holder(&self, token: &str) -> Option<ServiceAccount> {
        let (email, end) = lock(&self.access).get(token).cloned()?;
        let account = lock(&self.accounts).get(&email).cloned()?;
        (end > Timestamp::now()).then_some(account)
    }
}
