//! A request streamed to another server and its answer back, both unread.

use anyhow::{Context as _, Result};
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};

/// Streams a request to the server at `to`, a URL without path. `host` is the outer address, which the server
/// uses for the locations that it answers.
pub(crate) async fn relay(
    client: &reqwest::Client,
    to: &str,
    host: &str,
    request: Request,
) -> Response {
    match forward(client, to, host, request).await {
        Ok(response) => response,
        Err(cause) => (StatusCode::BAD_GATEWAY, format!("{cause:#}")).into_response(),
    }
}

async fn forward(
    client: &reqwest::Client,
    to: &str,
    host: &str,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = parts.headers;
    headers.remove(CONNECTION);
    let host = HeaderValue::from_str(host).context("the outer address is no header")?;
    headers.insert(HOST, host);
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));

    let upstream = client
        .request(parts.method, format!("{to}{path}"))
        .headers(headers)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await
        .with_context(|| format!("{to} did not answer"))?;

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
