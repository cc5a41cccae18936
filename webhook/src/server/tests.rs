//! Real listeners on loopback, with certificates made here.

use std::{fs, net::Ipv4Addr, sync::Once};

use axum::body::{Body, Bytes};
use futures::{StreamExt, channel::mpsc, stream};
use reqwest::{Certificate, Client, Version};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower::Service;

use super::*;
use crate::{
    probe::{HandshakeError, handshake, probe},
    serving_metrics::ServingMetrics,
    tls::{Certificates, Reloader},
};

mod budgets;

const QUICK: Drain = Drain {
    linger: Duration::ZERO,
    limit: Duration::from_secs(10),
};

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// reqwest takes the process's crypto provider.
fn install_provider() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

struct Running {
    address: SocketAddr,
    certificates: Certificates,
    pem: String,
    stop: watch::Sender<bool>,
    serving: JoinHandle<io::Result<()>>,
    folder: TempDir,
}

/// A certificate for localhost, valid from `start` on.
fn write_pair(folder: &TempDir, start: i32) -> String {
    let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(start, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(start + 100, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = parameters.self_signed(&key).unwrap().pem();
    fs::write(folder.path().join("tls.key"), key.serialize_pem()).unwrap();
    fs::write(folder.path().join("tls.crt"), &pem).unwrap();
    pem
}

async fn certificates(folder: &TempDir) -> (Certificates, Reloader) {
    let metrics = ServingMetrics::register(&mut Registry::default());
    Reloader::open(folder.path().to_owned(), metrics).await
}

async fn start() -> Running {
    install_provider();
    let folder = TempDir::new().unwrap();
    let pem = write_pair(&folder, 2000);
    let (certificates, _) = certificates(&folder).await;
    let listener = bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let metrics = Metrics::register(&mut Registry::default());
    let routes = admission_routes(Rules::default(), metrics);
    let serving = tokio::spawn(serve_tls(
        listener,
        routes,
        certificates.server_config(None).unwrap(),
        Limits::ADMISSION,
        stopping,
        QUICK,
    ));
    Running {
        address,
        certificates,
        pem,
        stop,
        serving,
        folder,
    }
}

impl Running {
    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    fn client(&self, only_http1: bool) -> Client {
        let root = Certificate::from_pem(self.pem.as_bytes()).unwrap();
        let builder = Client::builder().tls_certs_only([root]).no_proxy();
        match only_http1 {
            true => builder.http1_only(),
            false => builder,
        }
        .build()
        .unwrap()
    }
}

fn review_body() -> Vec<u8> {
    serde_json::to_vec(&json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "the-uid",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "object": {
                "metadata": {"labels": {"app.kubernetes.io/name": "argocd-server"}},
                "spec": {"containers": [{"name": "argocd-server"}]},
            },
        },
    }))
    .unwrap()
}

#[tokio::test]
async fn reviews_are_answered_over_http_1_and_2() {
    let running = start().await;
    for (only_http1, version) in [(true, Version::HTTP_11), (false, Version::HTTP_2)] {
        let client = running.client(only_http1);
        for path in Path::ALL {
            let answer = client
                .post(running.url(&format!("{}?timeout=10s", path.as_str())))
                .header("content-type", "application/json; charset=utf-8")
                .body(review_body())
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.version(), version);
            assert_eq!(answer.headers()["content-type"], "application/json");
            let answer: Value = answer.json().await.unwrap();
            assert_eq!(answer["response"]["uid"], "the-uid");
            let is_patched = answer["response"]["patch"].is_string();
            assert_eq!(is_patched, path == Path::PodsNamespace, "{path:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_a_review_gets_an_http_error() {
    let running = start().await;
    let client = running.client(true);
    let pods = Path::Pods.as_str();
    let post = |content_type: Option<&str>, body: Vec<u8>| {
        let request = client.post(running.url(pods)).body(body);
        match content_type {
            Some(content_type) => request.header("content-type", content_type),
            None => request,
        }
        .send()
    };
    let json = Some("application/json");
    for (content_type, body, status) in [
        (None, review_body(), 415),
        (Some("application/yaml"), review_body(), 415),
        (Some("application/jsonx"), review_body(), 415),
        (json, b"{}".to_vec(), 400),
        (json, b"\xff\0".to_vec(), 400),
        (json, Vec::new(), 400),
        (json, vec![b' '; BODY_LIMIT], 400),
        (json, vec![b' '; BODY_LIMIT + 1], 413),
    ] {
        let answer = post(content_type, body).await.unwrap();
        assert_eq!(answer.status(), status);
        assert!(!answer.text().await.unwrap().is_empty());
    }
    let get = client.get(running.url(pods)).send().await.unwrap();
    assert_eq!(get.status(), 405);
    let other = client.post(running.url("/mutate/x")).send().await.unwrap();
    assert_eq!(other.status(), 404);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_times_out() {
    let metrics = Metrics::register(&mut Registry::default());
    let mut routes = admission_routes(Rules::default(), metrics);
    let body = stream::pending::<Result<Bytes, io::Error>>();
    let request = Request::post(Path::Pods.as_str())
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from_stream(body))
        .unwrap();
    let answer = routes.call(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test]
async fn requests_in_flight_end_before_the_listener_does() {
    let running = start().await;
    let client = running.client(true);
    let (body, chunks) = mpsc::unbounded::<Result<Bytes, io::Error>>();
    let review = Bytes::from(review_body());
    body.unbounded_send(Ok(review.slice(..10))).unwrap();
    let arrived = Arc::new(tokio::sync::Notify::new());
    let noticed = Arc::clone(&arrived);
    let chunks = chunks.inspect(move |_| noticed.notify_one());
    let request = client
        .post(running.url(Path::PodsNamespace.as_str()))
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(chunks));
    let answer = tokio::spawn(request.send());
    arrived.notified().await;

    running.stop.send_replace(true);
    // The listener closes while the request is still under way.
    let refused = async {
        while tokio::net::TcpStream::connect(running.address)
            .await
            .is_ok()
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), refused).await.unwrap();
    assert!(!running.serving.is_finished());

    body.unbounded_send(Ok(review.slice(10..))).unwrap();
    drop(body);
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    running.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handshake_with_itself_tells_what_is_wrong() {
    let running = start().await;
    let try_with =
        async |certificates: &Certificates| handshake(running.address, certificates).await;
    try_with(&running.certificates).await.unwrap();

    // The listener presents another certificate than the one in the folder.
    let other = TempDir::new().unwrap();
    write_pair(&other, 2000);
    let (foreign, _) = certificates(&other).await;
    let error = try_with(&foreign).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Failed(_)), "{error}");

    let empty = TempDir::new().unwrap();
    let (none, _) = certificates(&empty).await;
    let error = try_with(&none).await.unwrap_err();
    assert!(matches!(error, HandshakeError::NoCertificate), "{error}");
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_is_not_ready() {
    for (start, expected) in [(1900, "Expired"), (2900, "NotValidYet")] {
        let folder = TempDir::new().unwrap();
        write_pair(&folder, start);
        let (certificates, _) = certificates(&folder).await;
        let listener = bind(loopback()).unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopping) = watch::channel(false);
        let serving = serve_tls(
            listener,
            Router::new(),
            certificates.server_config(None).unwrap(),
            Limits::ADMISSION,
            stopping,
            QUICK,
        );
        let serving = tokio::spawn(serving);
        let error = handshake(address, &certificates).await.unwrap_err();
        assert!(format!("{error:?}").contains(expected), "{error:?}");
        serving.abort();
    }
}

/// Asks until `path` gives this status, and returns the answer's body.
async fn wait_for(address: SocketAddr, path: &str, status: u16) -> String {
    let client = Client::builder().no_proxy().build().unwrap();
    let asked = async {
        loop {
            let url = format!("http://{address}{path}");
            let answer = client.get(url).send().await.unwrap();
            if answer.status() == status {
                return answer.text().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), asked).await.unwrap()
}

#[tokio::test]
async fn ready_only_after_a_handshake_with_the_own_certificate() {
    install_provider();
    let folder = TempDir::new().unwrap();
    let (certificates, reloader) = certificates(&folder).await;
    let reloading = tokio::spawn(reloader.run());
    let admission = bind(loopback()).unwrap();
    let address = admission.local_addr().unwrap();
    let readiness = Readiness::default();
    let gate = readiness.gate(ADMISSION);
    let probing = tokio::spawn(probe(address, certificates.clone(), gate));
    let (_stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve_tls(
        admission,
        Router::new(),
        certificates.server_config(None).unwrap(),
        Limits::ADMISSION,
        stopping,
        QUICK,
    ));
    let plain = bind(loopback()).unwrap();
    let address = plain.local_addr().unwrap();
    let registry = Arc::new(Registry::default());
    let routes = observability_routes(registry, readiness.clone());
    let observing = tokio::spawn(serve_plain(plain, routes));

    assert_eq!(wait_for(address, "/healthz", 200).await, "ok");
    assert!(wait_for(address, "/metrics", 200).await.contains("# EOF"));
    let reason = wait_for(address, "/readyz", 503).await;
    assert!(reason.starts_with("admission: "), "{reason}");
    write_pair(&folder, 2000);
    assert_eq!(wait_for(address, "/readyz", 200).await, "ok");
    readiness.drain();
    assert_eq!(
        wait_for(address, "/readyz/admission", 503).await,
        "admission: draining"
    );
    assert_eq!(
        wait_for(address, "/readyz", 503).await,
        "admission: draining"
    );
    wait_for(address, "/readyz/other", 404).await;
    for task in [reloading, probing] {
        task.abort();
    }
    serving.abort();
    observing.abort();
}

#[tokio::test]
async fn a_new_certificate_is_presented_to_new_connections() {
    let mut running = start().await;
    let (certificates, reloader) = certificates(&running.folder).await;
    running.certificates = certificates.clone();
    running.serving.abort();
    let listener = bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve_tls(
        listener,
        Router::new(),
        certificates.server_config(None).unwrap(),
        Limits::ADMISSION,
        stopping,
        QUICK,
    ));
    handshake(address, &certificates).await.unwrap();
    let reloading = tokio::spawn(reloader.run());
    let before = certificates.current().unwrap();
    write_pair(&running.folder, 2001);
    let mut following = certificates.clone();
    let changed = async {
        while following.current().unwrap().cert == before.cert {
            following.changed().await;
        }
    };
    timeout(Duration::from_secs(20), changed).await.unwrap();
    handshake(address, &certificates).await.unwrap();
    reloading.abort();
    serving.abort();
}
