//! The listener: connections of the pod flow in; CONNECT to a bound host is
//! terminated and its requests forwarded, CONNECT to any other host becomes a
//! blind tunnel, plain HTTP to any other host is forwarded, everything else is
//! refused with a named error. Told to stop, it takes no more connections and
//! lets those that it has end, for a while.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use shared::errors::{Code, Named};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::Body;
use crate::authorize::Route;
use crate::environment::Scheme;
use crate::forward::{Proxy, Terminated};
use crate::parse::{authorization, target};
use crate::{plain, refusal};

/// More connections than this wait to be accepted.
pub const CONNECTIONS: usize = 1024;
/// For a request's head, and between two requests.
const HEAD: Duration = Duration::from_secs(30);
/// For a client's TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest head of a request or an answer, and so what a connection may buffer
/// of a body in each direction.
pub(crate) const LARGEST_HEAD: usize = 64 << 10;

/// Set once, when the proxy shall end.
type Stopping = watch::Receiver<bool>;

/// Serves until `stopping` is true, and then for `grace` at most until every
/// connection has ended.
pub async fn serve(proxy: Arc<Proxy>, listener: TcpListener, stopping: Stopping, grace: Duration) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::select! {
        () = accept(proxy, listener, &places, &stopping) => return,
        () = stopped(stopping.clone()) => {}
    }
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    if tokio::time::timeout(grace, places.acquire_many(all))
        .await
        .is_err()
    {
        let cut = CONNECTIONS - places.available_permits();
        tracing::warn!(connections = cut, "still running, and cut");
    }
}

async fn accept(
    proxy: Arc<Proxy>,
    listener: TcpListener,
    places: &Arc<Semaphore>,
    stopping: &Stopping,
) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let place = Arc::new(place);
                tokio::spawn(connection(proxy.clone(), stream, place, stopping.clone()));
            }
            Err(error) => {
                // No file descriptor, most likely; others end meanwhile.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Ends when the proxy shall; whoever set it may be gone.
async fn stopped(mut stopping: Stopping) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn connection<S>(
    proxy: Arc<Proxy>,
    stream: S,
    place: Arc<OwnedSemaphorePermit>,
    stopping: Stopping,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stop = stopping.clone();
    let service = service_fn(move |request| {
        let (proxy, place, stopping) = (proxy.clone(), place.clone(), stopping.clone());
        async move {
            let answered = answer(&proxy, request, place, stopping).await;
            Ok::<_, Infallible>(answered.unwrap_or_else(|error| refuse(&error)))
        }
    });
    let served = server()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped(stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
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

async fn answer(
    proxy: &Arc<Proxy>,
    request: Request<Incoming>,
    place: Arc<OwnedSemaphorePermit>,
    stopping: Stopping,
) -> Result<Response<Body>, Named> {
    if request.method() == Method::CONNECT {
        return connect(proxy, request, place, stopping).await;
    }
    let target = target::absolute(request.method(), request.uri(), request.headers())?;
    let presented = authorization::parse(request.headers())?;
    let bindings = proxy.bindings_for(&presented).await;
    let binding = bindings.authorize_plain(&presented, &target)?;
    plain::forward(&proxy.upstream, binding, &target, request).await
}

async fn connect(
    proxy: &Arc<Proxy>,
    mut request: Request<Incoming>,
    place: Arc<OwnedSemaphorePermit>,
    stopping: Stopping,
) -> Result<Response<Body>, Named> {
    let target = target::connect(request.method(), request.uri(), request.headers())?;
    let presented = authorization::parse(request.headers())?;
    let bindings = proxy.bindings_for(&presented).await;
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
                terminate(proxy, tunnel, server, upgrade, stopping).await;
                drop(place);
            });
        }
        Route::Tunnel(binding) => {
            let way = proxy.upstream.way(binding, Scheme::Https, &target)?;
            let mut upstream = way.dial().await?;
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
    stopping: Stopping,
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
    let served = server().serve_connection(TokioIo::new(client), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped(stopping) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "tunnel");
    }
}

fn refuse(error: &Named) -> Response<Body> {
    tracing::warn!(code = %error.code, "{error}");
    refusal::answer(error)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;
    use crate::ca::Ca;
    use crate::environment::Environment;
    use crate::sync::{Folders, Follower};
    use crate::upstream::Upstream;

    /// A connection to a proxy without bindings, and the places there are.
    fn open() -> (DuplexStream, Arc<Semaphore>, watch::Sender<bool>) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| root.path().join(name);
        let folders = Folders {
            view: folder("view"),
            source: folder("source"),
            tls_data: folder("tls"),
        };
        let ca = Ca::open(root.path()).unwrap();
        let (_, followed) = Follower::new(folders, ca.pem(), String::new());
        let upstream = Upstream::new(Environment::default(), vec![]);
        let proxy = Proxy::new(followed, ca, upstream, Duration::ZERO);
        let (client, server) = tokio::io::duplex(1 << 10);
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(connection(
            Arc::new(proxy),
            server,
            Arc::new(place),
            stopping,
        ));
        (client, places, stop)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_half_a_minute_for_a_head() {
        for sent in ["", "CONNECT ", "CONNECT a.test:443 HTTP/1.1\r\nHost: "] {
            let (mut client, places, _stop) = open();
            let start = Instant::now();
            client.write_all(sent.as_bytes()).await.unwrap();
            // One more byte does not give it another half minute.
            tokio::time::sleep(HEAD / 2).await;
            let _ = client.write_all(b"a").await;
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            let waited = start.elapsed();
            assert!(
                waited >= HEAD && waited < HEAD + HEAD / 4,
                "{sent:?} {waited:?}"
            );
            let _free = places.acquire().await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_at_once_when_the_proxy_does() {
        let (mut client, places, stop) = open();
        let request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut byte = [0];
        client.read_exact(&mut byte).await.unwrap();
        let start = Instant::now();
        stop.send_replace(true);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        let _free = places.acquire().await.unwrap();
        assert!(start.elapsed() < HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_too_large_is_refused() {
        let (mut client, places, _stop) = open();
        let filler = vec![b'a'; 4 << 10];
        let mut sent = client.write_all(b"GET / HTTP/1.1\r\nX: ").await;
        let mut count = 0;
        while sent.is_ok() && count < 4 * LARGEST_HEAD {
            sent = client.write_all(&filler).await;
            count += filler.len();
        }
        assert!(count <= 2 * LARGEST_HEAD, "{count}");
        drop(client);
        let _free = places.acquire().await.unwrap();
    }
}
