use std::{net::SocketAddr, sync::Mutex, time::Duration};

use kube::{Config, api::ListParams};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::kube::client::{SILENCE, steady};

/// A server on a port of its own; what clients sent first is kept.
struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers with `answer`, and not at all without one.
    async fn start(answer: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::default());
        let kept: Arc<Mutex<Vec<String>>> = Arc::clone(&heads);
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                kept.lock().unwrap().push(head);
                if let Some(answer) = &answer {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                open.push(stream);
            }
        });
        Self { address, heads }
    }

    fn client(&self) -> Client {
        let url = format!("http://{}", self.address).parse().unwrap();
        steady(Config::new(url)).unwrap()
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_given_up() {
    let server = Server::start(None).await;
    let secrets: Api<Secret> = Api::namespaced(server.client(), "argocd");
    // From now on the clock runs to the next timer whenever all wait.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let params = ListParams::default();
    let listed = tokio::time::timeout(2 * SILENCE, secrets.list(&params)).await;
    assert!(listed.expect("the call hangs").is_err());
    assert!(started.elapsed() <= SILENCE + Duration::from_secs(40));
    assert_eq!(server.heads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn secrets_are_asked_for_without_their_values() {
    let body = r#"{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadataList",
        "metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"a","resourceVersion":"7"}}]}"#;
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json";
    let server = Server::start(Some(format!(
        "{head}\r\nContent-Length: {length}\r\n\r\n{body}"
    )))
    .await;
    let config = ControllerConfig {
        namespace: "argocd-identity".into(),
        argocd_namespaces: vec!["argocd".into()],
        derivation: crate::source::tests::derivation(),
        signature: Default::default(),
        instance: "a".into(),
    };
    let mut changes = changes(&server.client(), &config, &Metrics::default());
    let is_secret = |change: &Change| {
        matches!(change, Change::Secret(_, ListEvent::InitApply(name, version))
            if &**name == "a" && &**version == "7")
    };
    while !is_secret(&changes.next().await.unwrap()) {}
    let heads = server.heads.lock().unwrap();
    let is_metadata = |head: &&String| head.contains("as=PartialObjectMetadata");
    for what in ["/secrets?", "/serviceaccounts?", "/nodes?"] {
        let asked: Vec<_> = heads.iter().filter(|head| head.contains(what)).collect();
        assert!(!asked.is_empty() || what != "/secrets?", "{what}");
        assert!(asked.iter().all(is_metadata), "{asked:?}");
    }
}
