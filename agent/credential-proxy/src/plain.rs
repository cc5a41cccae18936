//! Plain HTTP to hosts that nobody bound: a request in absolute form flows in
//! and goes on as it is, without a credential of ours and without what concerns
//! one connection only; the answer streams back.

use std::time::Duration;

use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use shared::errors::{Code, Named};
use shared::proxy_view::ProxyBinding;

use crate::environment::Scheme;
use crate::parse::target::Authority;
use crate::serve::LARGEST_HEAD;
use crate::upstream::Upstream;
use crate::{Body, dial, headers};

/// Until an answer's head.
const ANSWER: Duration = Duration::from_secs(120);

/// Forwards `request` on behalf of `binding`. Each has a connection of its own.
pub(crate) async fn forward(
    upstream: &Upstream,
    binding: &ProxyBinding,
    target: &Authority,
    request: Request<Incoming>,
) -> Result<Response<Body>, Named> {
    let way = upstream.way(binding, Scheme::Http, target)?;
    let unreachable = |error: hyper::Error| dial::unreachable(target, &error.to_string());
    let odd =
        |error: &dyn std::error::Error| Named::new(Code::ProxyRequestRefused, error.to_string());
    let (parts, body) = request.into_parts();
    let host = parts.uri.authority().map_or("", |it| it.as_str());
    let host = HeaderValue::from_str(host).map_err(|error| odd(&error))?;
    let mut request: Request<Body> = Request::new(body.map_err(Into::into).boxed());
    *request.method_mut() = parts.method;
    *request.headers_mut() = parts.headers;
    headers::prepare(request.headers_mut(), None, true);
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = match &way.hop {
        Some(_) => parts.uri,
        None => {
            let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
            path.parse::<Uri>().map_err(|error| odd(&error))?
        }
    };
    if let Some(authorization) = way.hop.as_ref().and_then(|it| it.authorization.as_ref()) {
        let mut value =
            HeaderValue::from_str(authorization.expose_secret()).map_err(|error| odd(&error))?;
        value.set_sensitive(true);
        request.headers_mut().insert(PROXY_AUTHORIZATION, value);
    }
    let stream = dial::in_time(target, way.first()).await?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(unreachable)?;
    tokio::spawn(connection);
    let response = match tokio::time::timeout(ANSWER, sender.send_request(request)).await {
        Ok(response) => response.map_err(unreachable)?,
        Err(_elapsed) => return Err(dial::unreachable(target, "no answer in time")),
    };
    if let Some(hop) = &way.hop
        && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED
    {
        let detail = format!("proxy {}, host {target}: status 407", hop.authority);
        return Err(Named::new(Code::UpstreamProxyRefused, detail));
    }
    let (mut parts, body) = response.into_parts();
    headers::answer(&mut parts.headers, false);
    parts.extensions.clear();
    parts.version = http::Version::HTTP_11;
    Ok(Response::from_parts(
        parts,
        body.map_err(Into::into).boxed(),
    ))
}
