//! A proxy between the credential proxy and the hosts.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::{Engine, engine::general_purpose::STANDARD};
use credential_proxy::environment::Environment;
use shared::allow_list::AllowList;
use shared::proxy_view::ProxyBinding;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{Authority, Server, World, binding, handshake, head, text};

/// A forward proxy that knows every name as this machine, and keeps the heads
/// that it got.
struct Forwarder {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Forwarder {
    /// Answers every request with `status`; opens tunnels with 200 only.
    async fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = heads.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let log = log.clone();
                tokio::spawn(async move {
                    let request = head(&mut client).await;
                    log.lock().unwrap().push(request.clone());
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nX-Echo: hunter2\r\n\r\n"
                    );
                    let tunnel = request.starts_with("CONNECT") && status.starts_with("200");
                    let upstream = match tunnel {
                        true => {
                            let port = request.split([':', ' ']).nth(2).unwrap();
                            Some(
                                TcpStream::connect(format!("127.0.0.1:{port}"))
                                    .await
                                    .unwrap(),
                            )
                        }
                        false => None,
                    };
                    let _ = client.write_all(answer.as_bytes()).await;
                    if let Some(mut upstream) = upstream {
                        let _ = copy_bidirectional(&mut client, &mut upstream).await;
                    }
                });
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn targets(&self) -> Vec<String> {
        let target = |head: String| head.split(' ').nth(1).unwrap().to_owned();
        self.heads().into_iter().map(target).collect()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As the environment's proxy for everything but `except`.
    fn environment(&self, except: &str) -> Environment {
        let proxy = format!("http://us%20er:hunter2@{}", self.address);
        Environment::read(|name| match name {
            "HTTPS_PROXY" | "HTTP_PROXY" => Some(proxy.clone()),
            "NO_PROXY" => Some(except.to_owned()),
            _ => None,
        })
    }
}

fn through(mut binding: ProxyBinding, proxy: &Forwarder) -> ProxyBinding {
    binding.upstream_proxy = Some(proxy.url().parse().unwrap());
    binding
}

/// `quay.test` and `other.test` resolve nowhere but at the proxy.
async fn server(authority: &Authority) -> Server {
    Server::serve(
        authority,
        &["quay.test", "other.test"],
        "http/1.1",
        |seen| {
            let host = seen.headers["host"].to_str().unwrap();
            match seen.authorization.as_deref() {
                _ if seen.path.starts_with("/token") => text(200, "{\"token\":\"t\"}"),
                Some("Bearer t") => text(200, "manifest"),
                _ => {
                    let mut response = text(401, "");
                    let challenge = format!("Bearer realm=\"https://{host}/token\"").parse();
                    response
                        .headers_mut()
                        .insert("www-authenticate", challenge.unwrap());
                    response
                }
            }
        },
    )
    .await
}

#[tokio::test]
async fn content_realm_and_tunnels_go_through_the_bindings_proxy() {
    let authority = Authority::new();
    let server = server(&authority).await;
    let (quay, other) = (server.at("quay.test"), server.at("other.test"));
    let (own, environments) = (
        Forwarder::start("200 OK").await,
        Forwarder::start("200 OK").await,
    );
    let bindings = [through(binding("a", &quay, "a"), &own)];
    let world = World::within(&authority, &bindings, environments.environment("*")).await;
    assert_eq!(world.get(&quay, "a", "/v2/a/manifests/1").await.status, 200);
    assert_eq!(
        own.targets(),
        std::slice::from_ref(&quay),
        "one connection for content and realm"
    );
    assert_eq!(server.seen().len(), 3);

    let (stream, answer) = world.connect(&other, "a:a-key").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    handshake(stream, "other.test", authority.der()).await;
    let key = STANDARD.encode("a:a-key");
    let plain = format!(
        "GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\nProxy-Authorization: Basic {key}\r\n\r\n"
    );
    let (_, answer) = world.raw(&plain).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(
        own.targets(),
        [quay, other, "http://plain.test/x".to_owned()]
    );
    // Neither the key nor a credential is for a proxy in between.
    for head in own.heads() {
        assert!(!head.to_lowercase().contains("authorization"), "{head}");
    }
    assert!(environments.heads().is_empty());
}

#[tokio::test]
async fn the_environments_proxy_gets_its_own_password_only() {
    let authority = Authority::new();
    let server = server(&authority).await;
    let target = server.at("quay.test");
    let proxy = Forwarder::start("200 OK").await;
    let world = World::within(
        &authority,
        &[binding("a", &target, "a")],
        proxy.environment(""),
    )
    .await;
    assert_eq!(
        world.get(&target, "a", "/v2/a/manifests/1").await.status,
        200
    );
    let key = STANDARD.encode("a:a-key");
    let plain = format!(
        "GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\nProxy-Authorization: Basic {key}\r\n\r\n"
    );
    let (_, answer) = world.raw(&plain).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let expected = format!(
        "proxy-authorization: basic {}",
        STANDARD.encode("us er:hunter2")
    );
    assert_eq!(proxy.heads().len(), 2);
    for head in proxy.heads() {
        assert_eq!(
            head.to_lowercase().matches("authorization").count(),
            1,
            "{head}"
        );
        assert!(
            head.to_lowercase().contains(&expected.to_lowercase()),
            "{head}"
        );
    }
}

#[tokio::test]
async fn localhost_and_no_proxy_go_directly() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "manifest")).await;
    let target = server.at("localhost");
    let proxy = Forwarder::start("200 OK").await;
    let world = World::within(
        &authority,
        &[binding("a", &target, "a")],
        proxy.environment(""),
    )
    .await;
    assert_eq!(
        world.get(&target, "a", "/v2/a/manifests/1").await.status,
        200
    );
    assert!(proxy.heads().is_empty());
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_and_not_quoted() {
    let authority = Authority::new();
    let target = "quay.test:443".to_owned();
    for status in [
        "407 Proxy Authentication Required",
        "403 hunter2",
        "nonsense",
    ] {
        let proxy = Forwarder::start(status).await;
        let world = World::within(
            &authority,
            &[binding("a", &target, "a")],
            proxy.environment(""),
        )
        .await;
        let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(
            answer.body.starts_with("upstream-proxy-refused"),
            "{answer:?}"
        );
        assert!(!answer.body.contains("hunter2"), "{answer:?}");
        let (_, answer) = world.connect("cdn.test:443", "a:a-key").await;
        assert!(
            answer.contains("upstream-proxy-refused") && !answer.contains("hunter2"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn addresses_of_the_node_are_refused_for_proxies_and_through_them() {
    let authority = Authority::new();
    let target = "quay.test:443".to_owned();
    let proxy = Forwarder::start("200 OK").await;
    let mut own = through(binding("a", &target, "a"), &proxy);
    own.allowed_hosts = AllowList::default();
    let mut environments = binding("b", &target, "b");
    environments.allowed_hosts = AllowList::default();
    let world = World::within(&authority, &[own, environments], proxy.environment("")).await;
    // The binding's proxy is on a loopback address that nobody allowed.
    let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
    assert!(
        answer.status == 403 && answer.body.starts_with("address-refused"),
        "{answer:?}"
    );
    for host in ["169.254.169.254:443", "0x7f.1:443", "[fd00:ec2::254]:443"] {
        let (_, answer) = world.connect(host, "b:b-key").await;
        assert!(answer.contains("address-refused"), "{host} {answer}");
    }
    assert!(proxy.heads().is_empty());
}
