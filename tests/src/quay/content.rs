//! Everything else below `/v2/`: streamed to the real registry and back, unread.
//!
//! The real registry names the stand-in as its token realm and decides on every token itself. Only the
//! outer address is told to it, so that the upload locations it answers lead back here.

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::State;

pub(super) async fn relay(state: &State, request: Request) -> Response {
    match forward(state, request).await {
        Ok(response) => response,
        Err(cause) => (StatusCode::BAD_GATEWAY, format!("{cause:#}")).into_response(),
    }
}

async fn forward(state: &State, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let path = parts
        .uri
        .path_and_query()
        .map_or("/v2/", |path| path.as_str());
    let mut headers = parts.headers;
    headers.remove(CONNECTION);
    headers.insert(
        HOST,
        HeaderValue::from_str(&state.service).context("the registry's name is no header")?,
    );
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));

    let upstream = state
        .upstream
        .request(parts.method, format!("{}{path}", state.registry))
        .headers(headers)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await
        .context("the registry did not answer")?;

    let mut response = Response::builder().status(upstream.status());
    if let Some(headers) = response.headers_mut() {
        *headers = upstream.headers().clone();
        // These belong to the inner connection; the outer one frames the body itself.
        headers.remove(CONNECTION);
        headers.remove(TRANSFER_ENCODING);
    }
    response
        .body(Body::from_stream(upstream.bytes_stream()))
        .context("could not pass the answer on")
}
