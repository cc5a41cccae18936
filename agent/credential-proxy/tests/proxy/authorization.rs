//! Who gets in, and what is refused at the door.

use crate::world::{Authority, Server, World, binding, handshake, head, text};
use shared::allow_list::AllowList;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_key_opens_its_own_binding_on_its_own_host_only() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "ok")).await;
    let (a, b) = (server.at("localhost"), server.at("127.0.0.1"));
    let world = World::start(&authority, &[binding("a", &a, "a"), binding("b", &b, "b")]).await;
    for (target, pair, code) in [
        (&a, "a:wrong", "proxy-key-rejected"),
        (&a, "a:b-key", "proxy-key-rejected"),
        (&a, "z:a-key", "proxy-binding-unknown"),
        (&b, "a:a-key", "proxy-host-mismatch"),
        (&a, "a", "proxy-authorization-invalid"),
    ] {
        let (_, head) = world.connect(target, pair).await;
        assert!(head.starts_with("HTTP/1.1 407 "), "{head}");
        assert!(head.lines().next().unwrap().contains(code), "{head}");
        assert!(head.to_lowercase().contains("proxy-authenticate: basic"));
    }
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn a_host_that_nobody_bound_is_tunnelled_untouched() {
    let authority = Authority::new();
    let bound = Server::start(&authority, |_| text(200, "bound")).await;
    let other = Server::start(&authority, |_| text(200, "other")).await;
    let world = World::start(&authority, &[binding("a", &bound.at("localhost"), "a")]).await;
    let (stream, answer) = world.connect(&other.at("localhost"), "a:a-key").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The certificate is the server's own.
    let mut stream = handshake(stream, "localhost", authority.der()).await;
    stream
        .write_all(b"GET /v2/a/manifests/1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(other.seen()[0].authorization, None);
}

#[tokio::test]
async fn addresses_of_the_node_are_refused() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "ok")).await;
    let target = server.at("localhost");
    let mut unlisted = binding("a", &target, "a");
    unlisted.allowed_hosts = AllowList::default();
    let world = World::start(&authority, &[unlisted]).await;
    let (_, head) = world.connect(&server.at("127.0.0.1"), "a:a-key").await;
    assert!(
        head.starts_with("HTTP/1.1 403 ") && head.contains("address-refused"),
        "{head}"
    );
    let answer = world.get(&target, "a", "/v2/a/manifests/1").await;
    assert!(
        answer.status == 403 && answer.body.starts_with("address-refused"),
        "{answer:?}"
    );
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_refused() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "ok")).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let key = "Proxy-Authorization: Basic YTphLWtleQ==";
    for request in [
        format!("CONNECT {target} HTTP/1.1\r\nHost: evil.test\r\n{key}\r\n\r\n"),
        format!("CONNECT u:p@{target} HTTP/1.1\r\nHost: {target}\r\n{key}\r\n\r\n"),
        format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{key}\r\nContent-Length: 3\r\n\r\nabc"
        ),
        format!("GET https://{target}/ HTTP/1.1\r\nHost: {target}\r\n{key}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: {target}\r\n{key}\r\n\r\n"),
    ] {
        let (_, head) = world.raw(&request).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{request} {head}");
    }
    for request in [
        "GET /v2/a/manifests/1 HTTP/1.1\r\nHost: evil.test\r\n\r\n".to_owned(),
        format!("GET https://{target}/v2/a/manifests/1 HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        format!("GET /v2/a/../b/manifests/1 HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        format!("GET /v2/a/%2e%2e/b/manifests/1 HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        format!("GET /v2/a/manifests/1 HTTP/1.1\r\nHost: {target}\r\nHost: {target}\r\n\r\n"),
        format!(
            "GET /v2/ HTTP/1.1\r\nHost: {target}\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"
        ),
        format!("GET /v2/ HTTP/1.1\r\nHost: {target}\r\nX-A: b\r\n c\r\n\r\n"),
        format!("GET /v2/ HTTP/1.1\r\nHost: {target}\r\nX-A: b\rX-B: c\r\n\r\n"),
        format!("GET /v2/ HTTP/1.1\r\nHost: {target}\r\nTransfer-Encoding : chunked\r\n\r\n"),
        format!("GET /v2/\tHTTP/1.1\r\nHost: {target}\r\n\r\n"),
    ] {
        let mut stream = world.tls(&target, "a").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{request} {head}");
    }
    assert_eq!(server.seen(), []);
}

#[tokio::test]
async fn a_request_hidden_in_anothers_body_never_reaches_the_server_by_itself() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "ok")).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let hidden = format!("GET /v2/a/blobs/hidden HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let mut stream = world.tls(&target, "a").await;
    let request = format!(
        "POST /x HTTP/1.1\r\nHost: {target}\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
        hidden.len() + 12,
        hidden.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    // Either refused, or framed anew with one length only.
    let seen = server.seen();
    assert!(
        seen.iter()
            .all(|it| it.path == "/x" && it.body == hidden.len()),
        "{head} {seen:?}"
    );
    assert!(seen.len() <= 1);
}
