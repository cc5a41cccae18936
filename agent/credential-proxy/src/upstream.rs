//! Connections toward bound hosts and token realms: a request flows in, goes
//! out over verified TLS (HTTP/2 where the server has it, else HTTP/1.1), and
//! its answer streams back; or a named error says why not.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secrecy::{ExposeSecret, SecretString};
use shared::errors::{Code, Named};
use shared::proxy_view::{KeyHash, ProxyBinding};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Body;
use crate::dial::{Way, in_time, unreachable};
use crate::environment::{Environment, Scheme};
use crate::insecure::AcceptAny;
use crate::parse::target::Authority;
use crate::serve::{CONNECTIONS, LARGEST_HEAD};

/// Until an answer's first byte; a git server may count objects first.
const ANSWER: Duration = Duration::from_secs(120);
/// What one answer over HTTP/2 may have on the way. Answers share a connection,
/// whose window has room for all of them: clients that read nothing must not
/// stop the others.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * CONNECTIONS as u32;
/// A registry may announce many realms; with more pools than this, all go.
const MOST_POOLS: usize = 1024;

/// Dials and keeps connections, one pool per host and way to use it.
#[derive(Debug)]
pub struct Upstream {
    environment: Environment,
    system: Vec<CertificateDer<'static>>,
    pools: Mutex<HashMap<PoolKey, Pool>>,
}

/// How a host is used.
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    /// The binding that acts: its proxy, and its allow-list.
    pub binding: &'a ProxyBinding,
    /// The host.
    pub target: &'a Authority,
    /// PEM; they replace the system's roots, as in Argo CD.
    pub own_roots: Option<&'a [u8]>,
    /// Any certificate will do.
    pub insecure: bool,
    /// The client certificate: PEM chain and PEM key.
    pub certificate: Option<(&'a str, &'a SecretString)>,
}

/// What must never share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    target: Authority,
    private: bool,
    proxy: Option<Authority>,
    insecure: bool,
    /// The binding whose certificate it presents.
    identity: Option<String>,
}

#[derive(Debug, Clone)]
struct Pool {
    own_roots: Option<Vec<u8>>,
    certificate: Option<KeyHash>,
    client: Client<Dialer, Body>,
}

impl Upstream {
    /// Trusts `system` where a host has no roots of its own, and goes through
    /// the environment's proxies where a binding has none.
    pub fn new(environment: Environment, system: Vec<CertificateDer<'static>>) -> Self {
        Self {
            environment,
            system,
            pools: Mutex::default(),
        }
    }

    /// The way to `target` for `binding`.
    ///
    /// # Errors
    /// [`Code::UpstreamProxyRefused`].
    pub fn way(
        &self,
        binding: &ProxyBinding,
        scheme: Scheme,
        target: &Authority,
    ) -> Result<Way, Named> {
        Way::of(binding, &self.environment, scheme, target)
    }

    /// Sends `request`, whose URI is absolute.
    ///
    /// # Errors
    /// [`Code::AddressRefused`], [`Code::UpstreamUnreachable`],
    /// [`Code::UpstreamUntrusted`], [`Code::UpstreamProxyRefused`], and
    /// [`Code::CredentialUnreadable`] for a client certificate.
    pub async fn send(
        &self,
        reach: Reach<'_>,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Named> {
        let client = self.client(&reach)?;
        match tokio::time::timeout(ANSWER, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(named(reach.target, &error)),
            Err(_elapsed) => Err(unreachable(reach.target, "no answer in time")),
        }
    }

    fn client(&self, reach: &Reach<'_>) -> Result<Client<Dialer, Body>, Named> {
        let way = self.way(reach.binding, Scheme::Https, reach.target)?;
        let identity = reach.certificate.map(|_| reach.binding.name.clone());
        let certificate = reach
            .certificate
            .map(|(certificates, _)| KeyHash::of(certificates.as_bytes()));
        let key = PoolKey {
            target: way.target.clone(),
            private: way.private,
            proxy: way.hop.as_ref().map(|hop| hop.authority.clone()),
            insecure: reach.insecure,
            identity,
        };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&key)
            && pool.own_roots.as_deref() == reach.own_roots
            && pool.certificate == certificate
        {
            return Ok(pool.client.clone());
        }
        let dialer = Dialer {
            way,
            tls: Arc::new(self.tls(reach)?),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .pool_max_idle_per_host(16)
            .http1_max_buf_size(LARGEST_HEAD)
            .http2_max_header_list_size(LARGEST_HEAD as u32)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .build(dialer);
        let pool = Pool {
            own_roots: reach.own_roots.map(<[u8]>::to_vec),
            certificate,
            client: client.clone(),
        };
        if pools.len() >= MOST_POOLS {
            pools.clear();
        }
        pools.insert(key, pool);
        Ok(client)
    }

    fn tls(&self, reach: &Reach<'_>) -> Result<ClientConfig, Named> {
        let untrusted = |reason: String| {
            let detail = format!("host {}: {reason}", reach.target);
            Named::new(Code::UpstreamUntrusted, detail)
        };
        let mut roots = RootCertStore::empty();
        match reach.own_roots {
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
        let builder = if reach.insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAny::new()))
        } else {
            builder.with_root_certificates(roots)
        };
        let mut config = match reach.certificate {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => {
                // What is wrong is said without the key's text.
                let unreadable = |reason: &str| {
                    let detail = format!("binding {}: {reason}", reach.binding.name);
                    Named::new(Code::CredentialUnreadable, detail)
                };
                let chain: Vec<_> = CertificateDer::pem_slice_iter(certificates.as_bytes())
                    .collect::<Result<_, _>>()
                    .map_err(|_not_repeated| unreadable("the certificates are not PEM"))?;
                let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
                    .map_err(|_not_repeated| unreadable("the key is not PEM"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|_not_repeated| unreadable("certificate and key do not fit"))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The TLS error that `error` is, or wraps: `source` of an IO error leaves out
/// the error that it holds.
fn tls_error<'a>(mut error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    while let Some(io) = error.downcast_ref::<std::io::Error>() {
        error = io.get_ref()?;
    }
    error.downcast_ref()
}

/// Alerts about the client's certificate (RFC 8446 section 6.2).
const ABOUT_US: [AlertDescription; 8] = [
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::CertificateRequired,
];

/// Finds the cause: our own error, a certificate's, or anything else.
fn named(target: &Authority, error: &(dyn StdError + 'static)) -> Named {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut words = String::new();
    while let Some(error) = cause {
        if let Some(named) = error.downcast_ref::<Named>() {
            return named.clone();
        }
        if let Some(error @ rustls::Error::InvalidCertificate(_)) = tls_error(error) {
            let detail = format!("host {target}: {error}");
            return Named::new(Code::UpstreamUntrusted, detail);
        }
        words = error.to_string();
        cause = error.source();
    }
    // Of an alert over HTTP/2 only the words are left.
    let alert = |alert| rustls::Error::AlertReceived(alert).to_string();
    if ABOUT_US.into_iter().map(alert).any(|it| it == words) {
        let detail = format!("host {target}, about the client's certificate: {words}");
        return Named::new(Code::RegistryRefused, detail);
    }
    unreachable(target, &words)
}

#[derive(Debug, Clone)]
struct Dialer {
    way: Way,
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
            let host = this.way.target.host.clone();
            let connect = async {
                let tcp = this.way.dial().await?;
                let name = ServerName::try_from(host)
                    .map_err(|error| unreachable(&this.way.target, &error.to_string()))?;
                let tls = TlsConnector::from(this.tls).connect(name, tcp).await;
                tls.map_err(|error| named(&this.way.target, &error))
            };
            let tls = in_time(&this.way.target, connect).await?;
            Ok(Stream(TokioIo::new(tls)))
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
