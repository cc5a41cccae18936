//! Plain HTTP in absolute form.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::world::{Authority, Server, World, binding, head, text};

const KEY: &str = "Proxy-Authorization: Basic YTphLWtleQ==";

/// A server that keeps what it got, to the byte, and answers each request once.
async fn plain_server() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let log = log.clone();
            tokio::spawn(async move {
                let mut request = head(&mut client).await;
                if request.contains("content-length: 4") {
                    let mut body = [0; 4];
                    client.read_exact(&mut body).await.unwrap();
                    request.push_str(std::str::from_utf8(&body).unwrap());
                }
                log.lock().unwrap().push(request);
                let answer = b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\nContent-Length: 5\r\n\r\nplain";
                let _ = client.write_all(answer).await;
            });
        }
    });
    (format!("127.0.0.1:{port}"), seen)
}

#[tokio::test]
async fn a_host_that_nobody_bound_gets_the_request_as_it_is() {
    let authority = Authority::new();
    let (other, seen) = plain_server().await;
    let world = World::start(&authority, &[binding("a", "quay.test", "a")]).await;
    let request = format!(
        "POST http://{other}/a//b?c=%2e HTTP/1.1\r\nHost: {other}\r\n{KEY}\r\nConnection: X-One\r\n\
         X-One: 1\r\nX-Two: 2\r\nAuthorization: Basic own\r\nContent-Length: 4\r\n\r\nbody"
    );
    let (mut stream, answer) = world.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("x-end: 2") && !answer.contains("x-hop"),
        "{answer}"
    );
    let mut body = [0; 5];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"plain");
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    let got = &seen[0];
    assert!(
        got.starts_with("POST /a//b?c=%2e HTTP/1.1\r\n") && got.ends_with("\r\n\r\nbody"),
        "{got}"
    );
    assert!(got.contains(&format!("host: {other}\r\n")), "{got}");
    assert!(
        got.contains("x-two: 2") && got.contains("authorization: Basic own"),
        "{got}"
    );
    assert!(!got.contains("x-one") && !got.contains("proxy-"), "{got}");
}

#[tokio::test]
async fn a_bound_host_is_never_asked_over_plain_http() {
    let authority = Authority::new();
    let server = Server::start(&authority, |_| text(200, "x")).await;
    let (other, seen) = plain_server().await;
    let bound = [binding("a", &server.at("localhost"), "a")];
    let world = World::start(&authority, &bound).await;
    let port = other.rsplit_once(':').unwrap().1;
    for host in ["localhost".to_owned(), format!("localhost:{port}")] {
        let request = format!("GET http://{host}/v2/a HTTP/1.1\r\nHost: {host}\r\n{KEY}\r\n\r\n");
        let (_, answer) = world.raw(&request).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("plain-http-refused"),
            "{answer}"
        );
    }
    for (key, code) in [
        ("X: y", "proxy-authorization-invalid"),
        (
            "Proxy-Authorization: Basic YTp3cm9uZw==",
            "proxy-key-rejected",
        ),
    ] {
        let request = format!("GET http://{other}/ HTTP/1.1\r\nHost: {other}\r\n{key}\r\n\r\n");
        let (_, answer) = world.raw(&request).await;
        assert!(
            answer.starts_with("HTTP/1.1 407 ") && answer.contains(code),
            "{answer}"
        );
    }
    assert!(seen.lock().unwrap().is_empty() && server.seen().is_empty());
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_refused() {
    let authority = Authority::new();
    let (other, seen) = plain_server().await;
    let world = World::start(&authority, &[binding("a", "quay.test", "a")]).await;
    for rest in [
        "Host: quay.test\r\n\r\n".to_owned(),
        "\r\n".to_owned(),
        format!("Host: {other}\r\nHost: {other}\r\n\r\n"),
        format!("Host: {other}\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody"),
        format!("Host: {other}\r\nContent-Length: +4\r\n\r\nbody"),
        format!("Host: {other}\r\nContent-Length: 4, 4\r\n\r\nbody"),
        format!("Host: {other}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("Host: {other}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        // Folded lines, and line ends that only some readers know.
        format!("Host: {other}\r\nX-A: b\r\n c\r\n\r\n"),
        format!("Host: {other}\r\nX-A: b\rX-B: c\r\n\r\n"),
        format!("Host: {other}\r\nX-A: b\0\r\n\r\n"),
    ] {
        let request = format!("GET http://{other}/ HTTP/1.1\r\n{KEY}\r\n{rest}");
        let (_, answer) = world.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?} {answer}");
    }
    assert!(seen.lock().unwrap().is_empty());
    // Of two equal lengths one goes on (section 6.3).
    let request = format!(
        "POST http://{other}/ HTTP/1.1\r\n{KEY}\r\nHost: {other}\r\nContent-Length: 4\r\n\
         Content-Length: 4\r\n\r\nbody"
    );
    let (_, answer) = world.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let got = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(got[0].matches("content-length").count(), 1, "{got:?}");
    // Of a length and an encoding one goes on, and the connection ends (RFC 9112
    // section 6.1).
    let request = format!(
        "POST http://{other}/ HTTP/1.1\r\n{KEY}\r\nHost: {other}\r\nContent-Length: 4\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n"
    );
    let (_, answer) = world.raw(&request).await;
    assert!(answer.contains("connection: close"), "{answer}");
    let got = std::mem::take(&mut *seen.lock().unwrap());
    assert!(
        got.len() == 1 && !got[0].contains("content-length"),
        "{got:?}"
    );
    // A bare LF ends a line (RFC 9112 section 2.2), and goes on as CR LF.
    let request = format!("GET http://{other}/ HTTP/1.1\r\nHost: {other}\r\n{KEY}\nX-A: b\n\r\n");
    let (_, answer) = world.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let got = seen.lock().unwrap().remove(0);
    assert!(!got.replace("\r\n", "").contains(['\r', '\n']), "{got:?}");
}
