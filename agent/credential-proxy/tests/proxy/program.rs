//! The program as kubelet runs it: the probe, and a restart.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use shared::layout;
use shared::proxy_view;
use tokio::io::AsyncWriteExt;

use crate::process::Program;
use crate::world::{Authority, Server, binding, connect_at, head, text};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_credential-proxy"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn ready(root: &Path, listen: &str) -> bool {
    let state = root.join("state");
    let probe = program()
        .args(["ready", "--listen", listen, "--state"])
        .arg(state)
        .status();
    probe.unwrap().success()
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(root: &Path, listen: &str) -> Running {
    let running = program()
        .args(["run", "--listen", listen])
        .arg("--state")
        .arg(root.join("state"))
        .arg("--view")
        .arg(root.join("view"))
        .arg("--tls-source")
        .arg(root.join("source"))
        .arg("--tls-data")
        .arg(root.join("tls"))
        .spawn()
        .unwrap();
    let running = Running(running);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready(root, listen) {
        assert!(Instant::now() < deadline, "never ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    running
}

#[test]
fn ready_means_that_argo_cds_folder_is_complete_and_a_restart_keeps_it() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["state", "view", "source", "tls"] {
        fs::create_dir(root.path().join(folder)).unwrap();
    }
    let view = proxy_view::render(&binding("a", "quay.test", "a")).unwrap();
    fs::write(root.path().join("view/a.json"), &view).unwrap();
    let listen = free_address();
    assert!(!ready(root.path(), &listen));

    let running = start(root.path(), &listen);
    let bundle = fs::read(root.path().join("tls/quay.test")).unwrap();
    drop(running);
    assert!(!ready(root.path(), &listen), "a killed proxy is not ready");
    let _running = start(root.path(), &listen);
    assert_eq!(fs::read(root.path().join("tls/quay.test")).unwrap(), bundle);
}

#[test]
fn an_empty_view_is_ready_and_an_absent_one_is_named() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["state", "source", "tls"] {
        fs::create_dir(root.path().join(folder)).unwrap();
    }
    let listen = free_address();
    let absent = program()
        .args(["run", "--listen", &listen, "--state"])
        .arg(root.path().join("state"))
        .arg("--view")
        .arg(root.path().join("view"))
        .arg("--tls-data")
        .arg(root.path().join("tls"))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let words = String::from_utf8(absent.stderr).unwrap();
    let named = format!("{}: No such file", root.path().join("view").display());
    assert!(
        !absent.status.success() && words.contains(&named),
        "{words}"
    );

    fs::create_dir(root.path().join("view")).unwrap();
    let _running = start(root.path(), &listen);
    let certificates: Vec<_> = fs::read_dir(root.path().join("tls"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(certificates, [layout::AUTHORITY_DIR]);
    // What comes later is followed.
    let view = proxy_view::render(&binding("a", "quay.test", "a")).unwrap();
    fs::write(root.path().join("view/a.json"), &view).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !root.path().join("tls/quay.test").exists() {
        assert!(Instant::now() < deadline, "the binding was not seen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn the_log_is_json_and_has_no_secret_at_any_level() {
    let authority = Authority::new();
    for protocol in ["http/1.1", "h2"] {
        let server = Server::serve(&authority, &["localhost"], protocol, |seen| {
            match seen.authorization.as_deref() {
                _ if seen.path.starts_with("/token") => text(200, "{\"token\":\"registry-token\"}"),
                Some("Bearer registry-token") => text(200, "manifest"),
                _ => {
                    let mut response = text(401, "");
                    let port = seen.headers["x-port"].to_str().unwrap();
                    let challenge = format!("Bearer realm=\"https://localhost:{port}/token\"");
                    let headers = response.headers_mut();
                    headers.insert("www-authenticate", challenge.parse().unwrap());
                    response
                }
            }
        })
        .await;
        let target = server.at("localhost");
        let program = Program::with(&authority, &target, "trace", &[]).await;
        let request = format!(
            "GET /v2/a/manifests/1 HTTP/1.1\r\nHost: {target}\r\nX-Port: {}\r\n\
             Authorization: Basic aW5oZXJpdGVk\r\nConnection: close\r\n\r\n",
            server.address.port()
        );
        let mut stream = program.tls(&target).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
        let (_, answer) = connect_at(&program.address, &target, "a:wrong-key").await;
        assert!(answer.contains("proxy-key-rejected"), "{answer}");
        let log = fs::read_to_string(program.path("log")).unwrap();
        assert!(log.contains("proxy-key-rejected"));
        for line in log.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        let encoded = |pair: &str| STANDARD.encode(pair);
        for secret in [
            "registry-token",
            "a-key",
            "wrong-key",
            &encoded("a:a-key"),
            &encoded("a:wrong-key"),
            &encoded("a+robot:secret"),
            "aW5oZXJpdGVk",
            "PRIVATE KEY",
        ] {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{protocol}: {secret}: {line:?}");
        }
    }
}

#[test]
fn it_listens_for_its_own_pod_only() {
    let refused = program()
        .args(["run", "--listen", "0.0.0.0:0", "--state", "/nonexistent"])
        .args(["--view", "/nonexistent", "--tls-data", "/nonexistent"])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(words.contains("serves its own pod only"), "{words}");
}
