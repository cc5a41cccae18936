//! A running proxy, TLS servers to reach through it, and a client that speaks
//! as Argo CD does. Everything is in this process; `localhost` and `127.0.0.1`
//! are two hosts.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use credential_proxy::authorize::Bindings;
use credential_proxy::ca::Ca;
use credential_proxy::environment::Environment;
use credential_proxy::forward::Proxy;
use credential_proxy::serve::serve;
use credential_proxy::sync::{Folders, Follower};
use credential_proxy::upstream::Upstream;
use credential_proxy::{Body, run};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use shared::allow_list::AllowList;
use shared::binding::ProxyKind;
use shared::proxy_view::{self, KeyHash, ProxyBinding, ProxyCredential};
use shared::registry::RegistryHost;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Signs the upstreams' certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A leaf for `names` that this authority signed.
    pub(crate) fn leaf(&self, names: &[&str]) -> (Certificate, KeyPair) {
        self.leaf_until(names, 4096)
    }

    fn leaf_until(&self, names: &[&str], year: i32) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
        (parameters.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server whose certificate has ended.
    pub(crate) fn expired(&self, names: &[&str]) -> ServerConfig {
        let leaf = self.leaf_until(names, 2001);
        serving(leaf, "http/1.1", WebPkiClientVerifier::no_client_auth())
    }

    pub(crate) fn server(&self, names: &[&str], protocol: &str) -> ServerConfig {
        serving(
            self.leaf(names),
            protocol,
            WebPkiClientVerifier::no_client_auth(),
        )
    }

    /// A server whose clients need a certificate of `clients`.
    pub(crate) fn demanding(&self, clients: &Self, protocol: &str) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(clients.der()).unwrap();
        let verifier = WebPkiClientVerifier::builder(roots.into());
        serving(
            self.leaf(&["localhost"]),
            protocol,
            verifier.build().unwrap(),
        )
    }
}

fn serving(
    (leaf, key): (Certificate, KeyPair),
    protocol: &str,
    clients: Arc<dyn ClientCertVerifier>,
) -> ServerConfig {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    config
}

/// What an upstream saw: method, path with query, `Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: usize,
    /// The client's certificate.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// A TLS server in this process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

pub(crate) fn text(status: u16, text: &str) -> Response<Body> {
    let body = Full::from(text.to_owned());
    let mut response = Response::new(body.map_err(|never| match never {}).boxed());
    *response.status_mut() = status.try_into().unwrap();
    response
}

impl Server {
    /// Serves `localhost` and `127.0.0.1` with `answer`.
    pub(crate) async fn start(
        authority: &Authority,
        answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::serve(authority, &["localhost", "127.0.0.1"], "http/1.1", answer).await
    }

    pub(crate) async fn serve(
        authority: &Authority,
        names: &[&str],
        protocol: &str,
        answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::with(authority.server(names, protocol), answer).await
    }

    pub(crate) async fn with(
        config: ServerConfig,
        answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let two = config.alpn_protocols.contains(&b"h2".to_vec());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (seen.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log, answer) = (acceptor.clone(), log.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let certificates = stream.get_ref().1.peer_certificates();
                    let certificate = certificates.map(|it| it[0].to_vec());
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (log, answer) = (log.clone(), answer.clone());
                        let certificate = certificate.clone();
                        async move {
                            let (parts, body) = request.into_parts();
                            let body = body.collect().await.map_or(0, |it| it.to_bytes().len());
                            let authorization = parts.headers.get("authorization");
                            let seen = Seen {
                                method: parts.method.to_string(),
                                path: parts.uri.path_and_query().unwrap().to_string(),
                                authorization: authorization
                                    .map(|value| value.to_str().unwrap().to_owned()),
                                headers: parts.headers.clone(),
                                body,
                                certificate,
                            };
                            log.lock().unwrap().push(seen.clone());
                            Ok::<_, std::convert::Infallible>(answer(&seen))
                        }
                    });
                    let io = TokioIo::new(stream);
                    if two {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(io, service).await;
                    } else {
                        let server = hyper::server::conn::http1::Builder::new();
                        let _ = server.serve_connection(io, service).await;
                    }
                });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `host:port` of this server.
    pub(crate) fn at(&self, host: &str) -> String {
        format!("{host}:{}", self.address.port())
    }
}

/// A binding for `target` with a robot's credential; its key is `<name>-key`.
pub(crate) fn binding(name: &str, target: &str, path: &str) -> ProxyBinding {
    ProxyBinding {
        name: name.into(),
        project: Some(name.into()),
        keys: vec![KeyHash::of(format!("{name}-key").as_bytes())],
        target: RegistryHost::parse(target).unwrap(),
        path: path.into(),
        kind: ProxyKind::Oci,
        insecure: false,
        allowed_hosts: AllowList::parse("localhost;private 127.0.0.1;private").unwrap(),
        upstream_proxy: None,
        realm: None,
        credential: Some(ProxyCredential::basic_auth(
            format!("{name}+robot"),
            "secret",
            Timestamp::now() + SignedDuration::from_hours(1),
        )),
    }
}

/// The `Authorization` that a binding's credential makes.
pub(crate) fn basic(name: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}+robot:secret")))
}

/// A running proxy and its folders.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) folders: Folders,
    ca: String,
    pub(crate) bindings: watch::Receiver<Arc<Bindings>>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) served: JoinHandle<()>,
    _root: TempDir,
}

impl World {
    pub(crate) async fn start(authority: &Authority, bindings: &[ProxyBinding]) -> Self {
        Self::within(authority, bindings, Environment::default()).await
    }

    /// With these proxies in the environment.
    pub(crate) async fn within(
        authority: &Authority,
        bindings: &[ProxyBinding],
        environment: Environment,
    ) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let folders = Folders {
            view: folder("view"),
            source: folder("source"),
            tls_data: folder("tls"),
        };
        for binding in bindings {
            write(&folders, binding);
        }
        let ca = Ca::open(&folder("state")).unwrap();
        let pem = ca.pem().to_owned();
        let (mut follower, followed) = Follower::new(folders.clone(), &pem, String::new());
        follower.round().unwrap();
        let upstream = Upstream::new(environment, vec![authority.der()]);
        let bindings = followed.bindings.clone();
        let proxy = Proxy::new(followed, ca, upstream, Duration::from_secs(3));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let grace = Duration::from_secs(30);
        let served = tokio::spawn(serve(Arc::new(proxy), listener, stopping, grace));
        tokio::spawn(run::follow(follower));
        Self {
            address,
            folders,
            ca: pem,
            bindings,
            stop,
            served,
            _root: root,
        }
    }

    pub(crate) fn write(&self, binding: &ProxyBinding) {
        write(&self.folders, binding);
    }

    /// Opens a CONNECT; the proxy's answer up to the end of its head.
    pub(crate) async fn connect(&self, target: &str, pair: &str) -> (TcpStream, String) {
        connect_at(self.address, target, pair).await
    }

    /// Sends `request` as it is; the head of the answer.
    pub(crate) async fn raw(&self, request: &str) -> (TcpStream, String) {
        raw_at(self.address, request).await
    }

    /// A TLS connection through the proxy for `name`'s own key, which trusts
    /// what Argo CD would.
    pub(crate) async fn tls(&self, target: &str, name: &str) -> TlsStream<TcpStream> {
        let (stream, head) = self.connect(target, &format!("{name}:{name}-key")).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let host = target.split(':').next().unwrap().to_owned();
        let bundle = fs::read(self.folders.tls_data.join(&host)).unwrap();
        let trusted: BTreeSet<_> = CertificateDer::pem_slice_iter(&bundle)
            .map(|it| it.unwrap().to_vec())
            .collect();
        let own = CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap();
        assert!(trusted.contains(own.as_ref()));
        handshake(stream, &host, own).await
    }

    /// One request through the proxy: status, headers, body.
    pub(crate) async fn ask(&self, target: &str, name: &str, request: Request<Body>) -> Answer {
        let stream = self.tls(target, name).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub(crate) async fn get(&self, target: &str, name: &str, path: &str) -> Answer {
        self.ask(target, name, get(target, path)).await
    }
}

/// Opens a CONNECT at a proxy's address.
pub(crate) async fn connect_at(
    proxy: impl ToSocketAddrs,
    target: &str,
    pair: &str,
) -> (TcpStream, String) {
    let encoded = STANDARD.encode(pair);
    let request = format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Basic {encoded}\r\n\r\n"
    );
    raw_at(proxy, &request).await
}

async fn raw_at(proxy: impl ToSocketAddrs, request: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    (stream, head)
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

pub(crate) fn get(target: &str, path: &str) -> Request<Body> {
    let body = Full::default().map_err(|never| match never {}).boxed();
    Request::get(path)
        .header("host", target)
        .header("authorization", "Basic inherited")
        .body(body)
        .unwrap()
}

pub(crate) async fn handshake(
    stream: TcpStream,
    host: &str,
    root: CertificateDer<'static>,
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

pub(crate) async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn write(folders: &Folders, binding: &ProxyBinding) {
    let bytes = proxy_view::render(binding).unwrap();
    let temporary = folders.view.join(".tmp");
    fs::write(&temporary, &bytes).unwrap();
    fs::rename(
        temporary,
        folders.view.join(format!("{}.json", binding.name)),
    )
    .unwrap();
}
