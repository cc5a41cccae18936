//! HTTP: connections flow in, answers flow out. Listeners with TLS for
//! admission (and, through the same function, for identity API and issuer),
//! one without for probes and metrics.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::rand;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::{
    Handle,
    accept::NoDelayAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto::Builder,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{
    admission::{self, Path, Rules},
    metrics::{Metrics, Refused},
    proxy_key::{KeyBytes, LENGTH},
    readiness::Readiness,
    tls::Certificates,
};

/// `object` and `oldObject` of an UPDATE, each up to the API server's 3 MiB,
/// with room for the rest.
const BODY_LIMIT: usize = 8 * 1024 * 1024;
/// For a request from its head to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For a request's head. hyper counts the pause before it, too, so this is
/// longer than the 90 s that kube-apiserver keeps an idle connection: the
/// client closes first, and no request races the server's closing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// HTTP/2 requests at once on one connection.
const STREAMS: u32 = 256;

/// How a listener stops.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Connections are still taken for this long, until every API server has
    /// seen that the pod is not ready.
    pub linger: Duration,
    /// Then requests in flight have this long to end.
    pub limit: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(3),
            limit: Duration::from_secs(17),
        }
    }
}

/// Binds an address.
///
/// # Errors
/// When it is taken, or not one of this machine.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves `routes` over TLS until `stopping` is true, then drains. How long a
/// request may take is up to the routes.
///
/// # Errors
/// When TLS cannot be configured, or the listener fails.
pub async fn serve_tls(
    listener: TcpListener,
    routes: Router,
    certificates: Certificates,
    mut stopping: watch::Receiver<bool>,
    drain: Drain,
) -> io::Result<()> {
    let config = certificates.server_config().map_err(io::Error::other)?;
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(Arc::new(config)))
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .acceptor(NoDelayAcceptor::new());
    let handle = Handle::new();
    let mut server = axum_server::from_tcp(listener)?
        .acceptor(acceptor)
        .handle(handle.clone());
    limit(server.http_builder());
    let serve = server.serve(routes.into_make_service());
    tokio::pin!(serve);
    tokio::select! {
        served = &mut serve => return served,
        // An error means that the program is going down without a word.
        _ = stopping.wait_for(|is_stopping| *is_stopping) => {}
    }
    tokio::select! {
        served = &mut serve => return served,
        () = sleep(drain.linger) => {}
    }
    handle.graceful_shutdown(Some(drain.limit));
    serve.await
}

/// Serves `routes` without TLS until dropped.
///
/// # Errors
/// When the listener fails.
pub async fn serve_plain(listener: TcpListener, routes: Router) -> io::Result<()> {
    let mut server = axum_server::from_tcp(listener)?;
    limit(server.http_builder());
    server.serve(routes.into_make_service()).await
}

fn limit(builder: &mut Builder<TokioExecutor>) {
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Duration::from_secs(30));
}

async fn time_out(request: Request, next: Next) -> Response {
    match timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => plain(
            StatusCode::REQUEST_TIMEOUT,
            "the request did not arrive in time",
        ),
    }
}

fn plain(status: StatusCode, message: impl Into<String>) -> Response {
    (status, message.into()).into_response()
}

#[derive(Debug)]
struct Admission {
    rules: Rules,
    metrics: Metrics,
}

/// The four paths of admission.
pub fn admission_routes(rules: Rules, metrics: Metrics) -> Router {
    let admission = Arc::new(Admission { rules, metrics });
    let mut routes = Router::new();
    for path in Path::ALL {
        let handler =
            move |State(admission): State<Arc<Admission>>, request| admit(admission, path, request);
        routes = routes.route(path.as_str(), post(handler));
    }
    routes
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(time_out))
        .with_state(admission)
}

async fn admit(admission: Arc<Admission>, path: Path, request: Request) -> Response {
    let refuse = |reason, status, message: String| {
        tracing::warn!(path = path.as_str(), %status, message, "admission request refused");
        admission.metrics.refused(path, reason);
        plain(status, message)
    };
    if !is_json(request.headers()) {
        return refuse(
            Refused::ContentType,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the content type has to be application/json".to_owned(),
        );
    }
    let body = match Bytes::from_request(request, &()).await {
        Ok(body) => body,
        Err(rejection) => {
            let status = rejection.status();
            let reason = match status {
                StatusCode::PAYLOAD_TOO_LARGE => Refused::TooLarge,
                _ => Refused::Incomplete,
            };
            return refuse(reason, status, rejection.body_text());
        }
    };
    let start = Instant::now();
    match admission::review(path, &body, &admission.rules, &mut random) {
        Ok(review) => {
            admission
                .metrics
                .answered(path, &review.verdict, start.elapsed());
            log(path, &review);
            ([(CONTENT_TYPE, "application/json")], review.body).into_response()
        }
        Err(refusal) => {
            let (reason, status) = match refusal {
                admission::Refusal::Request(_) => (Refused::Unreadable, StatusCode::BAD_REQUEST),
                // As if nobody were there: what then is up to the failure policy.
                admission::Refusal::Response(_) | admission::Refusal::Randomness => {
                    (Refused::Internal, StatusCode::INTERNAL_SERVER_ERROR)
                }
            };
            refuse(reason, status, refusal.to_string())
        }
    }
}

/// The random bytes of a new key.
fn random() -> Option<KeyBytes> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    rand::fill(bytes.as_mut_slice()).ok()?;
    Some(KeyBytes::new(bytes))
}

fn log(path: Path, review: &admission::Review) {
    use admission::{Label, Outcome, Skip};
    let verdict = &review.verdict;
    let detail = match &verdict.outcome {
        Outcome::Skip(reason) => reason.as_str(),
        Outcome::Deny(error) => error.code.as_str(),
        Outcome::Patch(_) => "",
    };
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                uid = review.uid,
                object = review.reference,
                path = path.as_str(),
                verdict = verdict.label().as_str(),
                detail,
                warnings = verdict.warnings.len(),
                "admission"
            )
        };
    }
    match (verdict.label(), &verdict.outcome) {
        (_, Outcome::Skip(Skip::Unreadable)) => event!(warn),
        (Label::Patch | Label::Deny, _) => event!(info),
        (Label::Skip | Label::Keep, _) => event!(debug),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(value)) = headers.get(CONTENT_TYPE).map(|value| value.to_str()) else {
        return false;
    };
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// `/healthz`, `/readyz` and `/metrics`.
pub fn observability_routes(registry: Arc<Registry>, readiness: Readiness) -> Router {
    let ready = move || async move {
        match readiness.check() {
            Ok(()) => plain(StatusCode::OK, "ok"),
            Err(reasons) => plain(StatusCode::SERVICE_UNAVAILABLE, reasons),
        }
    };
    let metrics = move || async move {
        let mut body = String::new();
        match text::encode(&mut body, &registry) {
            Ok(()) => {
                let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(CONTENT_TYPE, media_type)], body).into_response()
            }
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    };
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn(time_out))
}

#[cfg(test)]
mod tests;
