//! What strangers may have of the listeners, and what API servers have beside
//! them.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::ConnectInfo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa};
use reqwest::Identity;
use tokio::net::TcpStream;

use super::*;
use crate::tls::ClientAuthority;

const PIECE: usize = 64 << 10;
/// As long as a body may be, but for one piece.
const PIECES: usize = BODY_LIMIT / PIECE - 1;

/// Bytes of bodies that are under way, and the most that ever were.
#[derive(Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// What one body adds to it, as long as somebody reads that body.
struct Share(Arc<Held>, usize);

impl Share {
    fn grow(&mut self) {
        self.1 += PIECE;
        let before = self.0.now.fetch_add(PIECE, Ordering::Relaxed);
        self.0.most.fetch_max(before + PIECE, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.now.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A review whose body is `pieces` long and then never ends.
fn endless(address: [u8; 4], pieces: usize, held: &Arc<Held>) -> Request {
    let mut share = Share(Arc::clone(held), 0);
    let pieces = stream::iter(0..pieces)
        .map(Some)
        .chain(stream::repeat(None));
    let body = pieces.then(move |piece| {
        let piece = piece.map(|_| {
            share.grow();
            Bytes::from(vec![b' '; PIECE])
        });
        async move {
            match piece {
                Some(piece) => Ok::<_, io::Error>(piece),
                None => std::future::pending().await,
            }
        }
    });
    from(address, Body::from_stream(body))
}

fn from(address: [u8; 4], body: Body) -> Request {
    Request::post(Path::PodsNamespace.as_str())
        .header(CONTENT_TYPE, "application/json")
        .extension(ConnectInfo(SocketAddr::from((address, 1))))
        .body(body)
        .unwrap()
}

fn routes() -> Router {
    let metrics = Metrics::register(&mut Registry::default());
    admission_routes(Rules::default(), metrics)
}

fn send(routes: &Router, request: Request) -> JoinHandle<Response> {
    let mut routes = routes.clone();
    tokio::spawn(async move { routes.call(request).await.unwrap() })
}

#[tokio::test(start_paused = true)]
async fn many_big_bodies_are_not_all_held() {
    let routes = routes();
    let held = Arc::new(Held::default());
    let senders = [[192, 0, 2, 66], [192, 0, 2, 67]];
    let big: Vec<_> = (0..64)
        .map(|number| send(&routes, endless(senders[number % 2], PIECES, &held)))
        .collect();
    for _ in 0..64 * PIECES {
        tokio::task::yield_now().await;
    }
    // Each may have taken one piece that there was no room for.
    let bound = BODIES.0 + big.len() * PIECE;
    let most = held.most.load(Ordering::Relaxed);
    assert!(most <= bound, "{} MiB of {}", most >> 20, bound >> 20);
    assert!(most > BODIES.0 / 2, "{} MiB", most >> 20);
    let mut refused = 0;
    for answer in big {
        let answer = answer.await.unwrap();
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(answer.headers()[RETRY_AFTER], LATER);
            refused += 1;
        }
    }
    assert!(refused > 50, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_leaves_room_for_the_api_server() {
    let routes = routes();
    let held = Arc::new(Held::default());
    // All that one address may have, in requests and in bytes.
    let greedy = [192, 0, 2, 66];
    let big = (0..8).map(|_| endless(greedy, PIECES, &held));
    let many = (0..2 * REQUESTS.1).map(|_| endless(greedy, 1, &held));
    let waiting: Vec<_> = big
        .chain(many)
        .map(|request| send(&routes, request))
        .collect();
    for _ in 0..PIECES * 8 {
        tokio::task::yield_now().await;
    }
    let review = from([192, 0, 2, 1], review_body().into());
    let answer = timeout(Duration::from_secs(1), send(&routes, review)).await;
    assert_eq!(answer.unwrap().unwrap().status(), StatusCode::OK);
    // And it gives all of it back.
    for waiting in waiting {
        waiting.await.unwrap();
    }
    let review = from(greedy, review_body().into());
    let answer = send(&routes, review).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    install_provider();
    let folder = TempDir::new().unwrap();
    write_pair(&folder, 2000);
    let (certificates, _) = certificates(&folder).await;
    let listener = bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopping) = watch::channel(false);
    let limits = Limits {
        of_one_address: 3,
        ..Limits::ADMISSION
    };
    let tls = certificates.server_config(None).unwrap();
    let serving = tokio::spawn(serve_tls(
        listener,
        Router::new(),
        tls,
        limits,
        stopping,
        QUICK,
    ));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    // The fourth is accepted by the kernel and then closed.
    let closed = timeout(Duration::from_secs(10), async {
        while handshake(address, &certificates).await.is_ok() {}
    });
    closed.await.unwrap();
    held.clear();
    let open = timeout(Duration::from_secs(10), async {
        while handshake(address, &certificates).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    open.await.unwrap();
    serving.abort();
}

/// An authority, and a client whose certificate it has signed.
fn authority() -> (String, Identity) {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(parameters, rcgen::KeyPair::generate().unwrap());
    let issuer = issuer.unwrap();
    let mut parameters = CertificateParams::default();
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let client = parameters.signed_by(&key, &issuer).unwrap();
    let pem = format!("{}{}", client.pem(), key.serialize_pem());
    (issuer.pem(), Identity::from_pem(pem.as_bytes()).unwrap())
}

#[tokio::test]
async fn with_a_client_authority_nobody_else_is_answered() {
    install_provider();
    let folder = TempDir::new().unwrap();
    let root = Certificate::from_pem(write_pair(&folder, 2000).as_bytes()).unwrap();
    let (certificates, _) = certificates(&folder).await;
    let ((ca, api_server), (_, stranger)) = (authority(), authority());
    let path = folder.path().join("clients.crt");
    fs::write(&path, ca).unwrap();
    let clients = ClientAuthority::open(&path).unwrap();
    let listener = bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve_tls(
        listener,
        routes(),
        certificates.server_config(Some(&clients)).unwrap(),
        Limits::ADMISSION,
        stopping,
        QUICK,
    ));
    let url = format!(
        "https://localhost:{}{}",
        address.port(),
        Path::Pods.as_str()
    );
    let ask = async |identity: Option<Identity>| {
        let builder = Client::builder().tls_certs_only([root.clone()]).no_proxy();
        let builder = match identity {
            Some(identity) => builder.identity(identity),
            None => builder,
        };
        let request = builder.build().unwrap().post(&url).body(review_body());
        request
            .header("content-type", "application/json")
            .send()
            .await
    };
    assert_eq!(ask(Some(api_server)).await.unwrap().status(), 200);
    assert!(ask(Some(stranger)).await.is_err());
    assert!(ask(None).await.is_err());
    // The program still sees itself: it is not asked for more than it shows.
    handshake(address, &certificates).await.unwrap();
    serving.abort();
}

#[test]
fn an_authority_that_cannot_be_one_is_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("clients.crt");
    let open = || ClientAuthority::open(&path).unwrap_err().to_string();
    assert!(open().contains("cannot read"));
    fs::write(&path, "nonsense").unwrap();
    assert!(open().contains("clients.crt"));
}
