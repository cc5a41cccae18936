//! The ways out that an administrator or user gives: a proxy, and roots of their own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use agent::exchange::http::{Proxy, Settings, Upstream};
use axum::Router;
use axum::routing::get;
use harness::upstreams::Upstreams;
use reqwest::Method;
use shared::allow_list::AllowList;
use shared::binding::ExchangeKind;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const REGISTRY: &str = "registry.example.test";

/// A proxy that reaches one server, whatever it is asked for.
struct Forwarder {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Forwarder {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(head);
                let ok = b"HTTP/1.1 200 OK\r\n\r\n";
                client.write_all(ok).await.unwrap();
                let mut server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.clone()
    }
}

async fn ask(upstream: &Upstream, namespace: &str, host: &str) -> Result<u16, Named> {
    let own = RegistryHost::parse(host).unwrap();
    let outlet = upstream.outlet(namespace, ExchangeKind::Quay, &own);
    let request = outlet.request(Method::GET, &format!("https://{host}/"))?;
    let answer = outlet.send(request).await.map_err(|it| it.error)?;
    Ok(answer.status.as_u16())
}

fn routes() -> Router {
    Router::new().route("/", get(|| async { "here" }))
}

#[tokio::test]
async fn a_proxy_resolves_names_and_gets_its_own_password_only() {
    let world = Upstreams::new().unwrap();
    let server = world.serve(&[REGISTRY], routes()).await.unwrap();
    let proxy = Forwarder::start(server.address).await;
    let through = |exceptions: &str| {
        let url = format!("http://me:hunter2@{}", proxy.address);
        let settings = Settings {
            proxy: Some(Proxy::new(&url, exceptions).unwrap()),
            ..Settings::new(AllowList::parse("169.254.169.254").unwrap())
        };
        Upstream::new(settings, Some(&world.authority_file())).unwrap()
    };
    // Nothing here knows the name: the system's names are asked for it only where the proxy is not.
    assert_eq!(ask(&through(""), "argocd", REGISTRY).await.unwrap(), 200);
    let heads = proxy.heads();
    let [head] = &heads[..] else {
        panic!("{heads:?}")
    };
    assert!(
        head.starts_with(&format!("CONNECT {REGISTRY}:443 ")),
        "{head}"
    );
    assert!(head.contains("Basic bWU6aHVudGVyMg=="), "{head}");

    for exceptions in [REGISTRY, "other.test,.example.test", "*"] {
        let error = ask(&through(exceptions), "argocd", REGISTRY).await;
        assert_eq!(error.unwrap_err().code, Code::ExchangeUnreachable);
    }
    // Who listed the metadata service without `private` has not said that it may be reached.
    let refused = ask(&through(""), "argocd", "169.254.169.254").await;
    assert_eq!(refused.unwrap_err().code, Code::AddressRefused);
    assert_eq!(proxy.heads().len(), 1);
}

#[tokio::test]
async fn roots_for_a_host_count_in_their_namespace_only() {
    let world = Upstreams::new().unwrap();
    let stranger = Upstreams::new().unwrap();
    let server = stranger.serve(&[REGISTRY], routes()).await.unwrap();
    let (sender, authorities) = watch::channel(Arc::default());
    let forwarder = Forwarder::start(server.address).await;
    let settings = Settings {
        proxy: Some(Proxy::new(&format!("http://{}", forwarder.address), "").unwrap()),
        authorities,
        ..Settings::new(AllowList::default())
    };
    let upstream = Upstream::new(settings, Some(&world.authority_file())).unwrap();
    let untrusted = |result: Result<u16, Named>| {
        let error = result.unwrap_err();
        assert_eq!(error.code, Code::ExchangeUnreachable);
        error.detail
    };
    untrusted(ask(&upstream, "argocd", REGISTRY).await);

    let entry = |pem: &str| {
        let place = ("argocd".to_owned(), REGISTRY.to_owned());
        Arc::new([(place, pem.into())].into())
    };
    sender.send_replace(entry(stranger.authority.pem()));
    assert_eq!(ask(&upstream, "argocd", REGISTRY).await.unwrap(), 200);
    untrusted(ask(&upstream, "other", REGISTRY).await);

    // A change counts at once, and nonsense is told with its place.
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    sender.send_replace(entry(broken));
    let detail = untrusted(ask(&upstream, "argocd", REGISTRY).await);
    assert!(
        detail.contains("ConfigMap argocd/argocd-tls-certs-cm, key registry.example.test"),
        "{detail}"
    );
    sender.send_replace(Arc::default());
    untrusted(ask(&upstream, "argocd", REGISTRY).await);
}

#[test]
fn a_proxy_that_is_none_is_not_repeated() {
    for url in ["socks5://me:hunter2@p:1080", "hunter2", "http://"] {
        let error = format!("{:#}", Proxy::new(url, "").unwrap_err());
        assert!(!error.contains("hunter2"), "{error}");
    }
}
