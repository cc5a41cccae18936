//! The whole program, beside an API server that answers nothing but errors.

use std::{
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Mutex,
    time::Duration,
};

use axum::{
    body::Body as Answer,
    http::{Request, Response},
};
use clap::Parser;
use kube::client::Body;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::*;
use crate::config::{Cli, Command};

type Calls = Arc<Mutex<Vec<String>>>;

/// An API server that is broken, and what it was asked.
fn broken(calls: &Calls) -> Client {
    let calls = Arc::clone(calls);
    let service = tower::service_fn(move |request: Request<Body>| {
        let call = format!("{} {}", request.method(), request.uri().path());
        calls.lock().unwrap().push(call);
        let answer = Response::builder().status(500).body(Answer::empty());
        futures::future::ready(Ok::<_, Infallible>(answer.unwrap()))
    });
    Client::new(service, "default")
}

struct Running {
    metrics: SocketAddr,
    calls: Calls,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

async fn start(flags: &[&str]) -> Running {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.path().join("tls.crt"), made.cert.pem()).unwrap();
    fs::write(
        folder.path().join("tls.key"),
        made.signing_key.serialize_pem(),
    )
    .unwrap();
    let metrics = free();
    let mut own = vec![
        "argocd-identity".to_owned(),
        "serve".to_owned(),
        "--trust-domain=example.org".to_owned(),
        format!("--tls-dir={}", folder.path().display()),
        format!("--metrics-address={metrics}"),
    ];
    for listener in ["admission", "identity", "issuer"] {
        own.push(format!("--{listener}-address={}", free()));
    }
    own.extend(flags.iter().map(ToString::to_string));
    let Command::Serve(args) = Cli::try_parse_from(own).unwrap().command else {
        panic!("not serve");
    };
    let config = Config::try_from(*args).unwrap();
    let calls = Calls::default();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(serve(config, broken(&calls), async {
        let _ = stopped.await;
    }));
    Running {
        metrics,
        calls,
        stop,
        serving,
        _folder: folder,
    }
}

impl Running {
    /// The status and words of a probe.
    async fn probe(&self, path: &str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}{path}", self.metrics);
        match client.get(url).send().await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap()),
            Err(error) => (0, error.to_string()),
        }
    }

    async fn becomes(&self, path: &str, expected: u16) -> String {
        let asked = async {
            loop {
                match self.probe(path).await {
                    (status, words) if status == expected => return words,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let asked = timeout(Duration::from_secs(10), asked).await;
        asked.unwrap_or_else(|_elapsed| panic!("{path} is never {expected}"))
    }

    fn has_asked_for(&self, what: &str) -> bool {
        let calls = self.calls.lock().unwrap();
        calls.iter().any(|call| call.contains(what))
    }

    async fn end(self) {
        assert!(!self.serving.is_finished());
        self.stop.send(()).unwrap();
        let ended = timeout(Duration::from_secs(30), self.serving).await;
        ended.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn admission_is_ready_whatever_the_api_server_says() {
    let running = start(&["--issuer-url=https://identity.example.org"]).await;
    running.becomes("/readyz", 200).await;
    assert_eq!(running.probe("/readyz/admission").await.0, 200);
    for listener in ["identity", "issuer"] {
        let path = format!("/readyz/{listener}");
        let asked = async {
            while !running
                .probe(&path)
                .await
                .1
                .contains("argocd-identity-issuer")
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), asked).await.unwrap();
        assert_eq!(running.probe(&path).await.0, 503);
    }
    running.end().await;
}

#[tokio::test]
async fn without_an_issuer_there_is_no_key_and_nothing_waits_for_one() {
    let running = start(&[]).await;
    running.becomes("/readyz", 200).await;
    running.becomes("/readyz/identity", 200).await;
    assert_eq!(running.probe("/readyz/issuer").await.0, 404);
    assert!(!running.has_asked_for("argocd-identity-issuer"));
    running.end().await;
}
