//! The listener: connections of the pod flow in; CONNECT to a bound host is
//! terminated and its requests forwarded, CONNECT to any other host becomes a
//! blind tunnel, everything else is refused with a named error.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use shared::errors::{Code, Named};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::Body;
use crate::authorize::Route;
use crate::forward::{Proxy, Terminated};
use crate::parse::{authorization, target};
use crate::refusal;

/// More connections than this wait to be accepted.
const CONNECTIONS: usize = 1024;
/// For a request's head, and between two requests.
const HEAD: Duration = Duration::from_secs(30);
/// For a client's TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest head of a request.
const LARGEST_HEAD: usize = 64 << 10;

/// Serves until the future is dropped.
pub async fn serve(proxy: Arc<Proxy>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(connection(proxy.clone(), stream, Arc::new(place)));
            }
            Err(error) => {
                // No file descriptor, most likely; others end meanwhile.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(proxy: Arc<Proxy>, stream: TcpStream, place: Arc<OwnedSemaphorePermit>) {
    let service = service_fn(move |request| {
        let (proxy, place) = (proxy.clone(), place.clone());
        async move {
            let answered = connect(&proxy, request, place).await;
            Ok::<_, Infallible>(answered.unwrap_or_else(|error| refuse(&error)))
        }
    });
    let served = server()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection");
    }
}

fn server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LARGEST_HEAD)
        .half_close(true);
    builder
}

async fn connect(
    proxy: &Arc<Proxy>,
    mut request: Request<Incoming>,
    place: Arc<OwnedSemaphorePermit>,
) -> Result<Response<Body>, Named> {
    let target = target::connect(request.method(), request.uri(), request.headers())?;
    let presented = authorization::parse(request.headers())?;
    let bindings = proxy.followed.bindings.borrow().clone();
    let upgrade = hyper::upgrade::on(&mut request);
    match bindings.authorize(&presented, &target)? {
        Route::Terminate(_) => {
            let server = proxy
                .ca
                .server(&target.host)
                .map_err(|error| Named::new(Code::UpstreamUntrusted, format!("{error:#}")))?;
            let tunnel = Terminated { presented, target };
            let proxy = proxy.clone();
            tokio::spawn(async move {
                terminate(proxy, tunnel, server, upgrade).await;
                drop(place);
            });
        }
        Route::Tunnel => {
            let mut upstream = proxy.upstream.dial(&target).await?;
            tokio::spawn(async move {
                if let Ok(client) = upgrade.await {
                    let mut client = TokioIo::new(client);
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                }
                drop(place);
            });
        }
    }
    Ok(Response::new(
        Empty::new().map_err(|never| match never {}).boxed(),
    ))
}

async fn terminate(
    proxy: Arc<Proxy>,
    tunnel: Terminated,
    server_config: Arc<ServerConfig>,
    upgrade: OnUpgrade,
) {
    let Ok(client) = upgrade.await else { return };
    let handshake = TlsAcceptor::from(server_config).accept(TokioIo::new(client));
    let Ok(Ok(client)) = tokio::time::timeout(HANDSHAKE, handshake).await else {
        tracing::debug!(host = %tunnel.target, "no TLS handshake");
        return;
    };
    let tunnel = Arc::new(tunnel);
    let service = service_fn(move |request| {
        let (proxy, tunnel) = (proxy.clone(), tunnel.clone());
        async move {
            let answered = proxy.forward(&tunnel, request).await;
            Ok::<_, Infallible>(answered.unwrap_or_else(|error| refuse(&error)))
        }
    });
    if let Err(error) = server()
        .serve_connection(TokioIo::new(client), service)
        .await
    {
        tracing::debug!(%error, "tunnel");
    }
}

fn refuse(error: &Named) -> Response<Body> {
    tracing::warn!(code = %error.code, "{error}");
    refusal::answer(error)
}
