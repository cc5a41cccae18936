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
    extract::{self, Request, State},
    http::{
        StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::{
    Handle,
    accept::NoDelayAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use control_plane_core::{
    admission::{self, Path, Rules},
    proxy_key::{KeyBytes, LENGTH},
};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto::Builder,
};
use prometheus_client::{encoding::text, registry::Registry};
use rustls::ServerConfig;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{
    body::{self, BodyError, is_json},
    connections::{Bounded, Limits, peer},
    limits::{Peer, Shares},
    metrics::{Metrics, Refused},
    readiness::Readiness,
};

/// `object` and `oldObject` of an UPDATE, each up to the API server's 3 MiB,
/// with room for the rest.
const BODY_LIMIT: usize = 8 * 1024 * 1024;
/// Bytes of bodies that are held at once, and those of one address. Putting a
/// body together may take as much again, and the pod has 128 MiB.
const BODIES: (usize, usize) = (32 << 20, 16 << 20);
/// Admission requests that are under way, and those of one address. A decision
/// takes no time; these are bodies on their way.
const REQUESTS: (usize, usize) = (512, 128);
/// In seconds. An API server that is told so asks again by itself, as long as
/// the webhook's timeout allows.
const LATER: &str = "1";
/// For a request from its head to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 requests at once on one connection.
const STREAMS: u32 = 256;

/// The gate of admission, whose readiness is the pod's.
pub const ADMISSION: &str = "admission";
/// The gate of the identity API.
pub const IDENTITY: &str = "identity";
/// The gate of the issuer's documents.
pub const ISSUER: &str = "issuer";

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
/// When the listener fails.
pub async fn serve_tls(
    listener: TcpListener,
    routes: Router,
    tls: ServerConfig,
    limits: Limits,
    mut stopping: watch::Receiver<bool>,
    drain: Drain,
) -> io::Result<()> {
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(Arc::new(tls)))
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .acceptor(NoDelayAcceptor::new());
    let handle = Handle::new();
    let mut server = axum_server::from_tcp(listener)?
        .acceptor(Bounded::new(acceptor, limits.places()))
        .handle(handle.clone());
    limit(server.http_builder(), limits);
    let serve = server.serve(routes.into_make_service_with_connect_info::<SocketAddr>());
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
    let limits = Limits::OBSERVABILITY;
    let acceptor = Bounded::new(NoDelayAcceptor::new(), limits.places());
    let mut server = axum_server::from_tcp(listener)?.acceptor(acceptor);
    limit(server.http_builder(), limits);
    server.serve(routes.into_make_service()).await
}

fn limit(builder: &mut Builder<TokioExecutor>, limits: Limits) {
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(limits.buffer)
        .header_read_timeout(limits.head);
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
    requests: Shares<Peer>,
    bodies: Shares<Peer>,
}

/// The four paths of admission.
pub fn admission_routes(rules: Rules, metrics: Metrics) -> Router {
    let admission = Arc::new(Admission {
        rules,
        metrics,
        requests: Shares::new(REQUESTS.0, REQUESTS.1),
        bodies: Shares::new(BODIES.0, BODIES.1),
    });
    let mut routes = Router::new();
    for path in Path::ALL {
        let handler =
            move |State(admission): State<Arc<Admission>>, request| admit(admission, path, request);
        routes = routes.route(path.as_str(), post(handler));
    }
    routes.with_state(admission)
}

async fn admit(admission: Arc<Admission>, path: Path, request: Request) -> Response {
    let refuse = |reason, status, message: String| {
        tracing::warn!(path = path.as_str(), %status, message, "admission request refused");
        admission.metrics.refused(path, reason);
        let refusal = plain(status, message);
        match reason {
            Refused::Busy => ([(RETRY_AFTER, LATER)], refusal).into_response(),
            _ => refusal,
        }
    };
    if !is_json(request.headers()) {
        return refuse(
            Refused::ContentType,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the content type has to be application/json".to_owned(),
        );
    }
    let peer = peer(&request);
    let place = admission.requests.try_take(&peer, 1);
    let held = admission.bodies.try_take(&peer, 0);
    let (Some(_place), Some(mut held)) = (place, held) else {
        let message = "too many requests are under way".to_owned();
        return refuse(Refused::Busy, StatusCode::SERVICE_UNAVAILABLE, message);
    };
    let read = body::read(request.into_body(), BODY_LIMIT, &mut held);
    let body = match timeout(REQUEST_TIMEOUT, read).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => {
            let (reason, status) = match error {
                BodyError::TooLarge(_) => (Refused::TooLarge, StatusCode::PAYLOAD_TOO_LARGE),
                BodyError::Incomplete => (Refused::Incomplete, StatusCode::BAD_REQUEST),
                BodyError::Busy => (Refused::Busy, StatusCode::SERVICE_UNAVAILABLE),
            };
            return refuse(reason, status, error.to_string());
        }
        Err(_elapsed) => {
            let message = "the request did not arrive in time".to_owned();
            return refuse(Refused::Incomplete, StatusCode::REQUEST_TIMEOUT, message);
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

/// `/healthz`, `/readyz` (that of admission), `/readyz/…` of each listener, and
/// `/metrics`.
pub fn observability_routes(registry: Arc<Registry>, readiness: Readiness) -> Router {
    let say = move |name: &str| match readiness.check(name) {
        Some(Ok(())) => plain(StatusCode::OK, "ok"),
        Some(Err(reason)) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{name}: {reason}")),
        None => plain(StatusCode::NOT_FOUND, "there is no such listener"),
    };
    let pod = say.clone();
    let ready = move || async move { pod(ADMISSION) };
    let part = move |extract::Path(name): extract::Path<String>| async move { say(&name) };
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
        .route("/readyz/{listener}", get(part))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn(time_out))
}

#[cfg(test)]
mod tests;
