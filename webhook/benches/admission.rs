//! Admission beside the same server that only parses: the pod of a stock
//! repo-server (Argo CD 3.6.1's), TLS with keep-alive, 16 connections, the
//! server on one core, logs on.
//!
//! `cargo bench -p webhook --bench admission`. What counts is the ratio of the
//! two: both serve in turns in one process, each in a thread of its own, whose
//! CPU time is what a request costs, however busy the machine is.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)] // a bench ends where something is missing, and prints

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, http::header::CONTENT_TYPE, routing::post};
use control_plane_core::admission::{Rules, pods::PodConfig};
use prometheus_client::registry::Registry;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
    sync::watch,
};
use tokio_rustls::TlsConnector;
use tracing_subscriber::EnvFilter;
use webhook::{
    connections::Limits,
    metrics::Metrics,
    server::{self, Drain},
    serving_metrics::ServingMetrics,
    tls::Reloader,
};

const CONNECTIONS: usize = 16;
const PATH: &str = "/mutate/pods/namespace";
const POD: &str = include_str!("repo-server.json");
/// What a request of the peer is answered with.
const ANSWER: &str = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"5e2f2b5a-0c6e-4a2b-9b0a-6f1d1c7f1d10","allowed":true}}"#;

fn main() {
    let seconds: u64 = setting("BENCH_SECONDS", 2);
    let rounds: usize = setting("BENCH_ROUNDS", 5);
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .unwrap();
    log_into_a_pipe();
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.path().join("tls.crt"), made.cert.pem()).unwrap();
    fs::write(
        folder.path().join("tls.key"),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));

    let body = review();
    println!("a body of {} bytes, {CONNECTIONS} connections", body.len());
    let servers = [
        ("admission", Server::start(folder.path(), admission)),
        ("only parses", Server::start(folder.path(), parser)),
    ];
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); servers.len()];
    for _ in 0..rounds {
        for (at, (_, server)) in servers.iter().enumerate() {
            let time = Duration::from_secs(seconds);
            runs[at].push(server.load(&connector, &body, time));
        }
    }
    let best = |runs: &[Run]| {
        let least = runs.iter().map(|run| run.cpu).min().unwrap();
        let p50 = runs.iter().map(|run| run.p50).min().unwrap();
        let p99 = runs.iter().map(|run| run.p99).min().unwrap();
        (least, p50, p99)
    };
    let mut costs = Vec::new();
    for ((name, _), runs) in servers.iter().zip(&runs) {
        let (cpu, p50, p99) = best(runs);
        let rate = 1e9 / cpu.as_nanos() as f64;
        println!(
            "{name}: {rate:.0} requests per CPU second ({cpu:?} each), p50 {p50:?}, p99 {p99:?}"
        );
        costs.push((cpu, p99));
    }
    let [(ours, p99), (least, least_p99)] = costs[..] else {
        unreachable!()
    };
    println!(
        "admission is {:.0} % of what only parses, its p99 {:.1} times as long; {} KiB resident",
        100.0 * least.as_secs_f64() / ours.as_secs_f64(),
        p99.as_secs_f64() / least_p99.as_secs_f64(),
        resident(),
    );
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The process's log, as `serve` writes it, into a pipe that somebody reads.
fn log_into_a_pipe() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        while reader.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    webhook::log::init(EnvFilter::new("info"), writer);
}

/// The AdmissionReview of the pod's creation.
fn review() -> Vec<u8> {
    let pod: Value = serde_json::from_str(POD).unwrap();
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "5e2f2b5a-0c6e-4a2b-9b0a-6f1d1c7f1d10",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "argocd",
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    });
    serde_json::to_vec(&review).unwrap()
}

fn admission() -> Router {
    let rules = Rules {
        pods: PodConfig {
            proxy_image: Some("registry.example.org/agent:v1".to_owned()),
            ..PodConfig::default()
        },
        ..Rules::default()
    };
    server::admission_routes(rules, Metrics::register(&mut Registry::default()))
}

/// Reads the body and the JSON in it, and that is all.
fn parser() -> Router {
    let parse = async |body: Bytes| {
        let _: IgnoredAny = serde_json::from_slice(&body).unwrap();
        ([(CONTENT_TYPE, "application/json")], ANSWER)
    };
    Router::new().route(PATH, post(parse))
}

struct Server {
    address: SocketAddr,
    /// Of its thread.
    statistics: String,
}

#[derive(Clone)]
struct Run {
    cpu: Duration,
    p50: Duration,
    p99: Duration,
}

impl Server {
    fn start(folder: &Path, routes: fn() -> Router) -> Self {
        let folder = folder.to_owned();
        let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let link = fs::read_link("/proc/thread-self").unwrap();
            tell.send(format!("/proc/{}/schedstat", link.display()))
                .unwrap();
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let metrics = ServingMetrics::register(&mut Registry::default());
                let (certificates, _) = Reloader::open(folder, metrics).await;
                let (_stop, stopping) = watch::channel(false);
                let tls = certificates.server_config(None).unwrap();
                let limits = Limits::ADMISSION;
                let serve =
                    server::serve_tls(listener, routes(), tls, limits, stopping, Drain::default());
                serve.await.unwrap();
            });
        });
        Self {
            address,
            statistics: told.recv().unwrap(),
        }
    }

    /// CPU time of the thread so far.
    fn cpu(&self) -> Duration {
        let text = fs::read_to_string(&self.statistics).unwrap();
        let nanoseconds = text.split(' ').next().unwrap().parse().unwrap();
        Duration::from_nanos(nanoseconds)
    }

    fn load(&self, connector: &TlsConnector, body: &[u8], time: Duration) -> Run {
        let head = format!(
            "POST {PATH}?timeout=10s HTTP/1.1\r\nhost: localhost\r\nuser-agent: kube-apiserver-admission\r\n\
             content-type: application/json\r\naccept: application/json, */*\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let connect = async || {
                let stream = TcpStream::connect(self.address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let name = ServerName::try_from("localhost").unwrap();
                let mut stream = connector.connect(name, stream).await.unwrap();
                exchange(&mut stream, &request, &mut Vec::new()).await;
                stream
            };
            let mut streams = Vec::new();
            for _ in 0..CONNECTIONS {
                streams.push(connect().await);
            }
            let (before, end) = (self.cpu(), Instant::now() + time);
            let clients = streams.into_iter().map(|mut stream| {
                let request = &request;
                async move {
                    let mut took = Vec::new();
                    let mut buffer = Vec::new();
                    while Instant::now() < end {
                        let begun = Instant::now();
                        exchange(&mut stream, request, &mut buffer).await;
                        took.push(begun.elapsed());
                    }
                    took
                }
            });
            let took = futures::future::join_all(clients).await;
            let mut took: Vec<_> = took.into_iter().flatten().collect();
            took.sort_unstable();
            Run {
                cpu: (self.cpu() - before) / u32::try_from(took.len()).unwrap(),
                p50: took[took.len() / 2],
                p99: took[took.len() * 99 / 100],
            }
        })
    }
}

/// One request, and its whole answer.
async fn exchange<S>(stream: &mut S, request: &[u8], buffer: &mut Vec<u8>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(request).await.unwrap();
    stream.flush().await.unwrap();
    buffer.clear();
    let length = loop {
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "closed");
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&buffer[..end]).unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap();
            break end + 4 + length.parse::<usize>().unwrap();
        }
    };
    while buffer.len() < length {
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "closed");
    }
}

/// Resident memory of the process in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
