//! Bodies stream with back-pressure, and odd connections end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use shared::binding::ProxyKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Authority, Server, World, basic, binding, get, head, text};

const CHUNK: usize = 64 << 10;
const LAYER: usize = 100 << 20;
/// What may lie in buffers between server and client: hyper's and the kernel's
/// of four sockets.
const IN_FLIGHT: usize = 24 << 20;

/// A body of [`LAYER`] bytes that counts what was taken from it.
fn layer(taken: Arc<AtomicUsize>) -> credential_proxy::Body {
    let chunk = Bytes::from(vec![7; CHUNK]);
    let frames = std::iter::repeat_n(chunk, LAYER / CHUNK).map(move |chunk| {
        taken.fetch_add(chunk.len(), Ordering::SeqCst);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Frame::data(chunk))
    });
    StreamBody::new(tokio_stream::iter(frames)).boxed()
}

#[tokio::test]
async fn a_layer_streams_no_faster_than_the_client_reads() {
    let authority = Authority::new();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let server = Server::start(&authority, move |_| {
        text(200, "").map(|_| layer(counted.clone()))
    })
    .await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let mut stream = world.tls(&target, "a").await;
    let request =
        format!("GET /v2/a/blobs/x HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    // Nothing is read: the server stops at what the buffers hold.
    let mut before = usize::MAX;
    while before != taken.load(Ordering::SeqCst) {
        before = taken.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < IN_FLIGHT, "{before} bytes in flight");
    let (mut read, mut buffer) = (0, vec![0; CHUNK]);
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            count => read += count,
        }
        let ahead = taken.load(Ordering::SeqCst).saturating_sub(read);
        assert!(ahead < IN_FLIGHT, "{ahead} bytes in flight");
    }
    assert!(
        read >= LAYER && taken.load(Ordering::SeqCst) == LAYER,
        "{read}"
    );
}

#[tokio::test]
async fn a_client_that_closes_its_half_still_gets_the_answer() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "manifest")).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let mut stream = world.tls(&target, "a").await;
    let request = format!("GET /v2/a/manifests/1 HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.ends_with("manifest"), "{answer}");
}

#[tokio::test]
async fn each_half_of_a_blind_tunnel_ends_by_itself() {
    let authority = Authority::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("localhost:{}", listener.local_addr().unwrap().port());
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sent = String::new();
        stream.read_to_string(&mut sent).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
    });
    let world = World::start(&authority, &[binding("a", "quay.test", "a")]).await;
    let (mut stream, answer) = world.connect(&target, "a:a-key").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    stream.write_all(b"not even TLS").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "not even TLS");
    echo.await.unwrap();
}

#[tokio::test]
async fn slow_and_silent_connections_do_not_stop_others() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "manifest")).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let mut kept = Vec::new();
    for half in [
        "",
        "CONNECT ",
        &format!("CONNECT {target} HTTP/1.1\r\nHost: "),
    ] {
        for _ in 0..50 {
            let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
            stream.write_all(half.as_bytes()).await.unwrap();
            kept.push(stream);
        }
        // A tunnel without a handshake.
        kept.push(world.connect(&target, "a:a-key").await.0);
    }
    let mut slow = world.tls(&target, "a").await;
    for byte in format!("GET /v2/a/manifests/1 HTTP/1.1\r\nHost: {target}\r\n\r\n").bytes() {
        slow.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(head(&mut slow).await.starts_with("HTTP/1.1 200"));
    let answer = world
        .ask(&target, "a", get(&target, "/v2/a/manifests/1"))
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_upload_streams_with_the_credential_from_its_first_byte() {
    let authority = Authority::new();
    for protocol in ["http/1.1", "h2"] {
        let server =
            Server::serve(&authority, &["localhost"], protocol, |_| text(200, "pack")).await;
        let target = server.at("localhost");
        let mut git = binding("git", &target, "org/repo");
        git.kind = ProxyKind::Git;
        let world = World::start(&authority, &[git]).await;
        let refs = "/org/repo/info/refs?service=git-upload-pack";
        assert_eq!(world.get(&target, "git", refs).await.status, 200);
        // A body without length, as git sends a large one.
        let mut post = get(&target, "/org/repo/git-upload-pack");
        *post.method_mut() = http::Method::POST;
        *post.body_mut() = layer(Arc::default());
        let answer = world.ask(&target, "git", post).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "pack"));
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|it| it.authorization == Some(basic("git"))));
        assert_eq!(seen[1].body, LAYER);
    }
}

#[tokio::test]
async fn a_body_that_has_gone_is_not_sent_twice() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| {
        let mut response = text(401, "");
        let challenge = "Basic realm=\"r\"".parse().unwrap();
        response.headers_mut().insert("www-authenticate", challenge);
        response
    })
    .await;
    let target = server.at("localhost");
    let mut git = binding("git", &target, "org/repo");
    git.kind = ProxyKind::Git;
    let world = World::start(&authority, &[git]).await;
    let mut post = get(&target, "/org/repo/git-upload-pack");
    *post.method_mut() = http::Method::POST;
    *post.body_mut() = http_body_util::Full::from("0000")
        .map_err(|it| match it {})
        .boxed();
    let answer = world.ask(&target, "git", post).await;
    assert!(
        answer.status == 403 && answer.body.starts_with("registry-refused"),
        "{answer:?}"
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_proxy_told_to_stop_ends_when_its_requests_have() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "manifest")).await;
    let target = server.at("localhost");
    let world = World::start(&authority, &[binding("a", &target, "a")]).await;
    let mut stream = world.tls(&target, "a").await;
    world.stop.send_replace(true);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), world.served);
    ended.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(world.address).await.is_err());
}
