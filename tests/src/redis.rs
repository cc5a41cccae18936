//! Redis for Argo CD: Debian's server, on loopback, with a password, keeping nothing on disk.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::packages;
use crate::ports;
use crate::process::Process;

const READY: Duration = Duration::from_secs(10);

/// A running Redis. It stops when this is dropped.
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts a server that accepts `password`, with its log in `folder`, and waits until it answers.
    /// The password is one of this run only: it may be seen in the process list.
    ///
    /// # Errors
    /// When it does not get ready, with the end of its log.
    pub async fn start(folder: &Path, password: &str) -> Result<Self> {
        let port = ports::free()?;
        let process = Process::start(
            "redis",
            packages::redis_server()
                .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
                .args(["--requirepass", password])
                .args(["--save", "", "--appendonly", "no", "--daemonize", "no"]),
            folder,
        )?
        .with_grace(Duration::ZERO);
        let mut redis = Self { process, port };
        let address = redis.address();
        let greeting = format!("AUTH {password}\r\n");
        redis
            .process
            .ready(READY, || async {
                let mut stream = TcpStream::connect(&address)
                    .await
                    .context("connect to Redis")?;
                stream.write_all(greeting.as_bytes()).await?;
                let mut answer = [0; 5];
                stream.read_exact(&mut answer).await?;
                ensure!(&answer == b"+OK\r\n", "Redis refuses its password");
                Ok(())
            })
            .await?;
        Ok(redis)
    }

    /// `127.0.0.1:<port>`, as Argo CD's `--redis` takes it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
