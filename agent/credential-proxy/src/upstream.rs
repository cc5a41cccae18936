//! Connections toward bound hosts and token realms: a request flows in, goes
//! out over verified TLS (HTTP/2 where the server has it, else HTTP/1.1), and
//! its answer streams back; or a named error says why not.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use shared::addresses;
use shared::allow_list::AllowList;
use shared::errors::{Code, Named};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Body;
use crate::insecure::AcceptAny;
use crate::parse::target::Authority;

/// Until a connection stands, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// Until an answer's first byte; a git server may count objects first.
const ANSWER: Duration = Duration::from_secs(120);

/// Dials and keeps connections, one pool per host and kind of verification.
#[derive(Debug)]
pub struct Upstream {
    allowed: AllowList,
    system: Vec<CertificateDer<'static>>,
    pools: Mutex<HashMap<(Authority, bool), Pool>>,
}

#[derive(Debug, Clone)]
struct Pool {
    own_roots: Option<Vec<u8>>,
    client: Client<Dialer, Body>,
}

impl Upstream {
    /// Trusts `system` where a host has no roots of its own. Addresses of this
    /// node are refused but for hosts that `allowed` marks private.
    pub fn new(allowed: AllowList, system: Vec<CertificateDer<'static>>) -> Self {
        Self {
            allowed,
            system,
            pools: Mutex::default(),
        }
    }

    /// Whether the administrator lets a binding's `insecure` count for
    /// exchanges with this host, too.
    pub fn insecure_exchange(&self, host: &Authority) -> bool {
        self.allowed
            .permission(&host.host, host.port)
            .is_some_and(|it| it.insecure)
    }

    /// A TCP connection to `target`.
    ///
    /// # Errors
    /// [`Code::AddressRefused`] and [`Code::UpstreamUnreachable`].
    pub async fn dial(&self, target: &Authority) -> Result<TcpStream, Named> {
        let dial = dial(target, self.private(target));
        match tokio::time::timeout(CONNECT, dial).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(unreachable(target, "no connection in time")),
        }
    }

    /// Sends `request`, whose URI is absolute, to `target`. `own_roots` (PEM)
    /// replace the system's roots, as in Argo CD.
    ///
    /// # Errors
    /// [`Code::AddressRefused`], [`Code::UpstreamUnreachable`] and
    /// [`Code::UpstreamUntrusted`].
    pub async fn send(
        &self,
        target: &Authority,
        own_roots: Option<&[u8]>,
        insecure: bool,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Named> {
        let client = self.client(target, own_roots, insecure)?;
        match tokio::time::timeout(ANSWER, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(named(target, &error)),
            Err(_elapsed) => Err(unreachable(target, "no answer in time")),
        }
    }

    fn private(&self, target: &Authority) -> bool {
        self.allowed
            .permission(&target.host, target.port)
            .is_some_and(|it| it.private)
    }

    fn client(
        &self,
        target: &Authority,
        own_roots: Option<&[u8]>,
        insecure: bool,
    ) -> Result<Client<Dialer, Body>, Named> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.clone(), insecure);
        if let Some(pool) = pools.get(&key)
            && pool.own_roots.as_deref() == own_roots
        {
            return Ok(pool.client.clone());
        }
        let dialer = Dialer {
            target: target.clone(),
            private: self.private(target),
            tls: Arc::new(self.tls(target, own_roots, insecure)?),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .pool_max_idle_per_host(16)
            .build(dialer);
        let pool = Pool {
            own_roots: own_roots.map(<[u8]>::to_vec),
            client: client.clone(),
        };
        pools.insert(key, pool);
        Ok(client)
    }

    fn tls(
        &self,
        target: &Authority,
        own_roots: Option<&[u8]>,
        insecure: bool,
    ) -> Result<ClientConfig, Named> {
        let untrusted = |reason: String| {
            Named::new(Code::UpstreamUntrusted, format!("host {target}: {reason}"))
        };
        let mut roots = RootCertStore::empty();
        match own_roots {
            None => {
                roots.add_parsable_certificates(self.system.iter().cloned());
            }
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| untrusted(error.to_string()))?;
                    roots
                        .add(certificate)
                        .map_err(|error| untrusted(error.to_string()))?;
                }
            }
        }
        let builder = ClientConfig::builder();
        let mut config = if insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAny::new()))
                .with_no_client_auth()
        } else {
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Resolves first, so that what is checked is what is dialled.
async fn dial(target: &Authority, private: bool) -> Result<TcpStream, Named> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .map_err(|error| unreachable(target, &error.to_string()))?
        .collect();
    let (refused, usable): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| !private && addresses::refused(address.ip()));
    let mut last = "it has no address".to_owned();
    for address in &usable {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error.to_string(),
        }
    }
    match refused.first() {
        Some(address) if usable.is_empty() => Err(Named::new(
            Code::AddressRefused,
            format!("host {target}: {}", address.ip()),
        )),
        _ => Err(unreachable(target, &last)),
    }
}

fn unreachable(target: &Authority, reason: &str) -> Named {
    Named::new(
        Code::UpstreamUnreachable,
        format!("host {target}: {reason}"),
    )
}

/// Finds the cause: our own error, a certificate's, or anything else.
fn named(target: &Authority, error: &(dyn StdError + 'static)) -> Named {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut words = String::new();
    while let Some(error) = cause {
        if let Some(named) = error.downcast_ref::<Named>() {
            return named.clone();
        }
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref())
            .and_then(|error| error.downcast_ref::<rustls::Error>());
        if let Some(error @ rustls::Error::InvalidCertificate(_)) =
            inner.or_else(|| error.downcast_ref())
        {
            let detail = format!("host {target}: {error}");
            return Named::new(Code::UpstreamUntrusted, detail);
        }
        words = error.to_string();
        cause = error.source();
    }
    unreachable(target, &words)
}

#[derive(Debug, Clone)]
struct Dialer {
    target: Authority,
    private: bool,
    tls: Arc<ClientConfig>,
}

type Dialing =
    Pin<Box<dyn Future<Output = Result<Stream, Box<dyn StdError + Send + Sync>>> + Send>>;

impl tower::Service<Uri> for Dialer {
    type Response = Stream;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Dialing;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Dialing {
        let this = self.clone();
        Box::pin(async move {
            let connect = async {
                let tcp = dial(&this.target, this.private).await?;
                let name = ServerName::try_from(this.target.host.clone())?;
                let tls = TlsConnector::from(this.tls).connect(name, tcp).await?;
                Ok::<_, Self::Error>(Stream(TokioIo::new(tls)))
            };
            match tokio::time::timeout(CONNECT, connect).await {
                Ok(connected) => connected,
                Err(_elapsed) => Err(unreachable(&this.target, "no connection in time").into()),
            }
        })
    }
}

/// A TLS connection that knows its protocol.
struct Stream(TokioIo<TlsStream<TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let (_, tls) = self.0.inner().get_ref();
        if tls.alpn_protocol() == Some(b"h2") {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
