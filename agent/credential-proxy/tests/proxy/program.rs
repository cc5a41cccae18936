//! The program as kubelet runs it: the probe, and a restart.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shared::proxy_view;

use crate::world::binding;

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
    let listen = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    assert!(!ready(root.path(), &listen));

    let running = start(root.path(), &listen);
    let bundle = fs::read(root.path().join("tls/quay.test")).unwrap();
    drop(running);
    assert!(!ready(root.path(), &listen), "a killed proxy is not ready");
    let _running = start(root.path(), &listen);
    assert_eq!(fs::read(root.path().join("tls/quay.test")).unwrap(), bundle);
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
