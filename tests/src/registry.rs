//! The real distribution registry, with a folder as its storage.
//!
//! Flows in: whose tokens or client certificates it trusts. Flows out: its URL and its access log. With tokens, clients
//! do not talk to it directly: it speaks plain HTTP on loopback, and what is in front of it ([`crate::quay`]) brings TLS
//! and a realm. With certificates it speaks TLS itself.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::control_plane::ServerCertificate;
use crate::ports;
use crate::process::Process;

const READY: Duration = Duration::from_secs(20);

/// Whose registry tokens the registry accepts
/// (distribution's `auth.token`: bearer JWTs whose `access` claim it enforces).
pub struct TokenAuth {
    /// URL that its challenges send clients to.
    pub realm: String,
    /// The `service` of its challenges, and the audience that a token must have.
    pub service: String,
    /// The issuer that a token must have.
    pub issuer: String,
    /// The JWKS document with the keys that may sign a token.
    pub jwks: String,
}

/// Whose client certificates the registry accepts (distribution's `http.tls.clientcas`): it ends every other handshake.
pub struct CertificateAuth<'a> {
    /// Where it listens.
    pub address: Ipv4Addr,
    /// Its own certificate.
    pub certificate: &'a ServerCertificate,
    /// The authorities of its clients' certificates, PEM.
    pub client_authorities: &'a str,
}

/// A running registry. It stops when this is dropped; its folder stays.
pub struct Registry {
    process: Process,
    port: u16,
}

impl Registry {
    /// Starts the registry with its configuration, content and log below `folder`, and waits until it
    /// answers its challenge.
    ///
    /// # Errors
    /// When its files cannot be written or it does not get ready, with the end of its log.
    pub async fn start(binary: &Path, folder: &Path, auth: &TokenAuth) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let jwks = write(folder, "jwks.json", &auth.jwks)?;
        let auth = json!({ "token": {
            "realm": auth.realm,
            "service": auth.service,
            "issuer": auth.issuer,
            "jwks": jwks,
        } });
        let registry = Self::run(binary, folder, json!({ "auth": auth })).await?;
        registry.answers(StatusCode::UNAUTHORIZED).await
    }

    /// As [`Registry::start`], but anybody may read and write: where a node pulls its images from.
    ///
    /// # Errors
    /// As there.
    pub async fn open(binary: &Path, folder: &Path) -> Result<Self> {
        let registry = Self::run(binary, folder, json!({})).await?;
        registry.answers(StatusCode::OK).await
    }

    /// As [`Registry::start`], but for whoever has a client certificate.
    ///
    /// # Errors
    /// As there.
    pub async fn with_certificates(
        binary: &Path,
        folder: &Path,
        auth: &CertificateAuth<'_>,
    ) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let http = json!({ "http": {
            "tls": {
                "certificate": write(folder, "tls.crt", &auth.certificate.certificate)?,
                "key": write(folder, "tls.key", &auth.certificate.key)?,
                "clientcas": [write(folder, "clients.pem", auth.client_authorities)?],
            },
        } });
        let mut registry = Self::run_at(auth.address, binary, folder, http).await?;
        let address = (auth.address, registry.port);
        registry
            .process
            .ready(READY, || async move {
                tokio::net::TcpStream::connect(address).await?;
                Ok(())
            })
            .await?;
        Ok(registry)
    }

    async fn run(binary: &Path, folder: &Path, settings: Value) -> Result<Self> {
        Self::run_at(Ipv4Addr::LOCALHOST, binary, folder, settings).await
    }

    /// Starts it with `settings` over those that every registry has.
    async fn run_at(
        address: Ipv4Addr,
        binary: &Path,
        folder: &Path,
        mut settings: Value,
    ) -> Result<Self> {
        let port = ports::free()?;
        let storage = folder.join("content");
        fs::create_dir_all(&storage).with_context(|| format!("create {}", storage.display()))?;
        settings["version"] = json!("0.1");
        settings["log"] = json!({ "level": "info", "accesslog": { "disabled": false } });
        settings["storage"] = json!({
            "filesystem": { "rootdirectory": storage },
            "delete": { "enabled": true },
        });
        settings["http"]["addr"] = json!(format!("{address}:{port}"));
        // JSON is YAML, which is what the registry reads.
        let config = write(folder, "config.yml", &settings.to_string())?;
        let process = Process::start(
            "registry",
            Command::new(binary)
                .arg("serve")
                .arg(config)
                .env("OTEL_TRACES_EXPORTER", "none"),
            folder,
        )?
        .with_grace(Duration::ZERO);

        Ok(Self { process, port })
    }

    /// Waits until it answers an anonymous request with this.
    async fn answers(mut self, ready: StatusCode) -> Result<Self> {
        let url = format!("{}/v2/", self.url());
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .context("make an HTTP client")?;
        self.process
            .ready(READY, || async {
                let status = client.get(&url).send().await?.status();
                ensure!(
                    status == ready,
                    "{url} answers {status} to an anonymous request"
                );
                Ok(())
            })
            .await?;
        Ok(self)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its plain loopback URL, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The log with both its own messages and one line per request.
    #[must_use]
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// The access log's lines (combined format) that mention `what`: a path, a user agent.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn accesses(&self, what: &str) -> Result<Vec<String>> {
        let log = fs::read_to_string(self.log())
            .with_context(|| format!("read {}", self.log().display()))?;
        Ok(log
            .lines()
            .filter(|line| line.contains("\" ") && line.contains(" HTTP/") && line.contains(what))
            .map(str::to_owned)
            .collect())
    }
}

fn write(folder: &Path, name: &str, content: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
