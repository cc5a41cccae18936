//! etcd, the store of one or more API servers.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::peers::Peers;
use crate::ports;
use crate::process::Process;

/// A single etcd member on loopback, its data in the run's folder. Ends when dropped.
///
/// Several API servers may share it, each with a key prefix of its own.
#[derive(Debug)]
pub struct Etcd {
    url: String,
    _process: Process,
}

impl Etcd {
    /// Starts etcd without waiting for it: an API server waits for its store anyway.
    ///
    /// # Errors
    /// When no port is free or the program cannot be started.
    pub fn start(dir: &Path, peers: &Peers) -> Result<Self> {
        let url = format!("http://127.0.0.1:{}", ports::free()?);
        let peer_url = format!("http://127.0.0.1:{}", ports::free()?);
        let process = Process::start(
            "etcd",
            Command::new(peers.etcd())
                .arg("--data-dir")
                .arg(dir.join("etcd"))
                .args([
                    "--listen-client-urls",
                    &url,
                    "--advertise-client-urls",
                    &url,
                ])
                .args(["--listen-peer-urls", &peer_url])
                .args(["--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &format!("default={peer_url}")])
                // A lone member elects itself; the default would have it wait a second before.
                .args(["--heartbeat-interval", "20", "--election-timeout", "100"])
                // The data is thrown away, so it may be lost in a power cut.
                .arg("--unsafe-no-fsync")
                .args(["--log-level", "warn"]),
            dir,
        )?
        .with_grace(Duration::ZERO);
        Ok(Self {
            url,
            _process: process,
        })
    }

    /// Where API servers find it: plain HTTP, loopback.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}
