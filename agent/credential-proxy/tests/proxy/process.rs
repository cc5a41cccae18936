//! The real program as a child of the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use shared::proxy_view;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::world::{Authority, binding, connect_at, handshake, head};

/// For what another process does.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The program, in a process of its own, with one binding `a`.
pub(crate) struct Program {
    child: Child,
    root: TempDir,
    pub(crate) address: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    pub(crate) async fn start(authority: &Authority, target: &str) -> Self {
        Self::with(authority, target, "warn", &[]).await
    }

    /// Its log is `log` in its folder.
    pub(crate) async fn with(
        authority: &Authority,
        target: &str,
        level: &str,
        options: &[&str],
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["state", "view", "source", "tls"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("source/localhost"), authority.pem()).unwrap();
        let view = proxy_view::render(&binding("a", target, "a")).unwrap();
        fs::write(root.path().join("view/a.json"), &view).unwrap();
        let address = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };
        let child = Command::new(env!("CARGO_BIN_EXE_credential-proxy"))
            .args(["run", "--listen", &address, "--state"])
            .arg(root.path().join("state"))
            .arg("--view")
            .arg(root.path().join("view"))
            .arg("--tls-source")
            .arg(root.path().join("source"))
            .arg("--tls-data")
            .arg(root.path().join("tls"))
            .args(options)
            .env("RUST_LOG", level)
            .stdout(Stdio::null())
            .stderr(fs::File::create(root.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let program = Self {
            child,
            root,
            address,
        };
        let deadline = Instant::now() + DEADLINE;
        while !program.root.path().join("state/ready").exists() {
            assert!(Instant::now() < deadline, "never ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        program
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `VmRSS` (now) or `VmHWM` (the most so far), in bytes.
    pub(crate) fn memory(&self, field: &str) -> usize {
        let status = Path::new("/proc")
            .join(self.child.id().to_string())
            .join("status");
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
            << 10
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
    }

    pub(crate) async fn tls(&self, target: &str) -> TlsStream<TcpStream> {
        let (stream, head) = connect_at(&self.address, target, "a:a-key").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let bundle = fs::read(self.path("tls/localhost")).unwrap();
        let own = CertificateDer::from_pem_slice(&bundle).unwrap();
        handshake(stream, "localhost", own).await
    }

    /// Asks for `path`; the connection after the answer's head.
    pub(crate) async fn ask(&self, target: &str, path: &str) -> TlsStream<TcpStream> {
        let mut stream = self.tls(target).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream
    }
}
