//! Bodies stream with back-pressure, and odd connections end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Authority, Server, World, binding, get, head, text};

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
