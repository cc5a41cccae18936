//! The SDK's HTTP client: every request of the SDK leaves by the outlet, whose
//! list, guard, roots, proxy and limits hold for it too.

use std::fmt;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;

use crate::exchange::http::Outlet;
use crate::refresh::Failure;

/// A client whose only way out is `outlet`. Timeouts are the outlet's own.
pub(super) fn client(outlet: &Outlet) -> SharedHttpClient {
    let connector = SharedHttpConnector::new(ByOutlet(outlet.clone()));
    http_client_fn(move |_, _| connector.clone())
}

struct ByOutlet(Outlet);

impl fmt::Debug for ByOutlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByOutlet({})", self.0)
    }
}

impl HttpConnector for ByOutlet {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let outlet = self.0.clone();
        HttpConnectorFuture::new(async move { send(&outlet, request).await })
    }
}

async fn send(outlet: &Outlet, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let own = |error: Failure| ConnectorError::other(NotSent(error).into(), None);
    let user = |error| ConnectorError::user(error);
    let request = request
        .try_into_http1x()
        .map_err(|error| user(error.into()))?;
    let (parts, body) = request.into_parts();
    let body = body
        .bytes()
        .ok_or_else(|| user("a streamed request".into()))?;
    let request = outlet
        .request(parts.method, &parts.uri.to_string())
        .map_err(|error| own(error.into()))?
        .headers(parts.headers)
        .body(body.to_vec());
    let answer = outlet.send(request).await.map_err(own)?;
    let status = answer.status.into();
    let mut response = HttpResponse::new(status, answer.body.to_vec().into());
    for (name, value) in &answer.headers {
        // The SDK reads text only.
        if let Ok(value) = value.to_str() {
            response
                .headers_mut()
                .append(name.as_str().to_owned(), value.to_owned());
        }
    }
    response.add_extension(Pause(answer.retry_after()));
    Ok(response)
}

/// The outlet's own failure, on its way through the SDK.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.error)]
pub(super) struct NotSent(pub(super) Failure);

/// How long the upstream of an answer wants to be left alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause(pub(super) Option<Duration>);
