//! Many connections, large bodies, and the program's memory.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use credential_proxy::serve::CONNECTIONS;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use shared::proxy_view;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::process::{DEADLINE, Program};
use crate::world::{Authority, Server, binding, text};

/// What the program may take with every place taken and every answer stalled.
const LARGEST: usize = 256 << 20;
/// What one stalled layer may add.
const LARGEST_LAYER: usize = 32 << 20;
const CHUNK: usize = 64 << 10;
const LAYER: usize = 100 << 20;

fn body(size: usize, taken: Arc<AtomicUsize>) -> credential_proxy::Body {
    let chunk = Bytes::from(vec![7; CHUNK]);
    let frames = std::iter::repeat_n(chunk, size / CHUNK).map(move |chunk| {
        taken.fetch_add(chunk.len(), Ordering::SeqCst);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Frame::data(chunk))
    });
    StreamBody::new(tokio_stream::iter(frames)).boxed()
}

async fn drain(mut stream: TlsStream<TcpStream>) -> usize {
    let (mut read, mut buffer) = (0, vec![0; CHUNK]);
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return read,
            count => read += count,
        }
    }
}

/// `/v2/a/blobs/<MiB>` is that large.
async fn registry(authority: &Authority, protocol: &str, taken: Arc<AtomicUsize>) -> Server {
    Server::serve(authority, &["localhost"], protocol, move |seen| {
        let size = seen.path.rsplit('/').next().unwrap();
        let size = size.parse::<usize>().unwrap() << 20;
        text(200, "").map(|_| body(size, taken.clone()))
    })
    .await
}

/// Answers with a megabyte, and holds the end back until the gate opens.
async fn holding(authority: &Authority, gate: watch::Receiver<bool>) -> Server {
    Server::start(authority, move |_| {
        let (sender, receiver) = mpsc::channel(1);
        let mut gate = gate.clone();
        tokio::spawn(async move {
            for _ in 0..(1 << 20) / CHUNK {
                let frame = Frame::data(Bytes::from(vec![7; CHUNK]));
                if sender.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
            let _ = gate.wait_for(|open| *open).await;
        });
        text(200, "").map(|_| StreamBody::new(ReceiverStream::new(receiver)).boxed())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_place_taken_and_more_waiting_in_bounded_memory() {
    let authority = Authority::new();
    let (open, gate) = watch::channel(false);
    let server = holding(&authority, gate).await;
    let target = server.at("localhost");
    let program = Arc::new(Program::start(&authority, &target).await);
    let before = program.memory("VmRSS");
    let mut asking = tokio::task::JoinSet::new();
    let mut stalled = Vec::new();
    for _ in 0..CONNECTIONS {
        let (program, target) = (program.clone(), target.clone());
        asking.spawn(async move { program.ask(&target, "/v2/a/blobs/1").await });
        // A burst as large as a listener's backlog.
        if asking.len() >= 64 {
            stalled.push(asking.join_next().await.unwrap().unwrap());
        }
    }
    while let Some(asked) = asking.join_next().await {
        stalled.push(asked.unwrap());
    }
    assert_eq!(stalled.len(), CONNECTIONS);
    let full = program.memory("VmHWM");

    // Whoever comes now waits for a place, and gets it.
    let (waiting_program, waiting_target) = (program.clone(), target.clone());
    let mut waiting =
        tokio::spawn(async move { waiting_program.ask(&waiting_target, "/v2/a/blobs/1").await });
    let held = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(held.is_err(), "there was a place");
    open.send_replace(true);
    let mut draining = tokio::task::JoinSet::new();
    for stream in stalled {
        draining.spawn(drain(stream));
    }
    while let Some(drained) = draining.join_next().await {
        assert!(drained.unwrap() > 1 << 20);
    }
    let served = tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap()
        .unwrap();
    assert!(drain(served).await > 1 << 20);
    let most = program.memory("VmHWM");
    println!("resident: {before} at first, {full} with {CONNECTIONS} stalled, {most} at most");
    assert!(most < LARGEST, "{most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_layer_takes_no_memory() {
    let authority = Authority::new();
    for protocol in ["http/1.1", "h2"] {
        let taken = Arc::new(AtomicUsize::new(0));
        let server = registry(&authority, protocol, taken.clone()).await;
        let target = server.at("localhost");
        let program = Program::start(&authority, &target).await;
        // What the first request of all takes is not the layer's.
        assert!(drain(program.ask(&target, "/v2/a/blobs/1").await).await > 1 << 20);
        let before = program.memory("VmRSS");
        taken.store(0, Ordering::SeqCst);
        let stream = program
            .ask(&target, &format!("/v2/a/blobs/{}", LAYER >> 20))
            .await;
        let mut seen = usize::MAX;
        while seen != taken.load(Ordering::SeqCst) {
            seen = taken.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(
            seen < LAYER / 2,
            "{protocol}: {seen} taken while nobody read"
        );
        assert!(drain(stream).await >= LAYER);
        let most = program.memory("VmHWM");
        println!("{protocol}: resident {before} before, {most} at most");
        assert!(most - before < LARGEST_LAYER, "{protocol}: {before} {most}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_nothing_do_not_stop_others_over_http_2() {
    let authority = Authority::new();
    let server = registry(&authority, "h2", Arc::default()).await;
    let target = server.at("localhost");
    let program = Program::start(&authority, &target).await;
    let mut stalled = Vec::new();
    for _ in 0..60 {
        stalled.push(program.ask(&target, "/v2/a/blobs/10").await);
    }
    let served = async { drain(program.ask(&target, "/v2/a/blobs/4").await).await };
    let read = tokio::time::timeout(DEADLINE, served).await.unwrap();
    assert!(read > 4 << 20);
    println!(
        "60 stalled over one connection: {} at most",
        program.memory("VmHWM")
    );
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_bindings_change_under_load_and_no_request_fails() {
    let authority = Authority::new();
    let server = registry(&authority, "http/1.1", Arc::default()).await;
    let target = server.at("localhost");
    let program = Arc::new(Program::start(&authority, &target).await);
    let asked = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (program, target, asked) = (program.clone(), target.clone(), asked.clone());
        clients.spawn(async move {
            loop {
                assert!(drain(program.ask(&target, "/v2/a/blobs/1").await).await > 1 << 20);
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let replace = |name: &str, bytes: &[u8]| {
        fs::write(program.path(".new"), bytes).unwrap();
        fs::rename(program.path(".new"), program.path(name)).unwrap();
    };
    let bundle = || fs::read(program.path("tls/localhost")).unwrap();
    for round in 0..6 {
        let (before, other) = (bundle(), Authority::new());
        let count = asked.load(Ordering::SeqCst);
        replace(
            "source/localhost",
            (authority.pem() + &other.pem()).as_bytes(),
        );
        let mut renewed = binding("a", &target, "a");
        renewed.insecure = round % 2 == 1;
        replace("view/a.json", &proxy_view::render(&renewed).unwrap());
        let added = binding(&format!("n{round}"), &format!("n{round}.test"), "n");
        let added_file = format!("view/n{round}.json");
        replace(&added_file, &proxy_view::render(&added).unwrap());
        let deadline = Instant::now() + DEADLINE;
        let bundle_of_added = format!("tls/n{round}.test");
        let follows = || bundle() != before && program.path(&bundle_of_added).exists();
        while !follows() || asked.load(Ordering::SeqCst) < count + 8 {
            assert!(Instant::now() < deadline, "nothing followed");
            if let Some(ended) = clients.try_join_next() {
                ended.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(clients.try_join_next().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_sigterm_a_running_transfer_ends_and_nobody_else_comes_in() {
    let authority = Authority::new();
    let server = registry(&authority, "http/1.1", Arc::default()).await;
    let target = server.at("localhost");
    let mut program = Program::start(&authority, &target).await;
    let running = program.ask(&target, "/v2/a/blobs/20").await;
    let idle = program.tls(&target).await;
    program.terminate();
    let deadline = Instant::now() + DEADLINE;
    while TcpStream::connect(&program.address).await.is_ok() {
        assert!(Instant::now() < deadline, "it still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!program.path("state/ready").exists());
    assert!(program.ended().is_none(), "a transfer runs");
    assert!(drain(running).await >= 20 << 20);
    // The connection without a request does not keep it.
    let ended = loop {
        if let Some(ended) = program.ended() {
            break ended;
        }
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(ended.success());
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_sigterm_a_transfer_that_does_not_end_is_cut() {
    let authority = Authority::new();
    let server = registry(&authority, "http/1.1", Arc::default()).await;
    let target = server.at("localhost");
    let mut program = Program::with(&authority, &target, "warn", &["--grace", "1"]).await;
    let stalled = program.ask(&target, "/v2/a/blobs/100").await;
    program.terminate();
    let deadline = Instant::now() + DEADLINE;
    while program.ended().is_none() {
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = fs::read_to_string(program.path("log")).unwrap();
    assert!(log.contains("still running, and cut"), "{log}");
    drop(stalled);
}
