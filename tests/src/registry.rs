//! The real distribution registry, on loopback, with token authentication and a folder as its storage.
//!
//! Flows in: whose tokens it trusts. Flows out: its URL and its access log. Clients do not talk to it
//! directly: it speaks plain HTTP, and what is in front of it ([`crate::quay`]) brings TLS and a realm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};

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
        Self::run(binary, folder, Some(auth)).await
    }

    /// As [`Registry::start`], but anybody may read and write: where a node pulls its images from.
    ///
    /// # Errors
    /// As there.
    pub async fn open(binary: &Path, folder: &Path) -> Result<Self> {
        Self::run(binary, folder, None).await
    }

    async fn run(binary: &Path, folder: &Path, auth: Option<Value>) -> Result<Self> {
        let port = ports::free()?;
        let storage = folder.join("content");
        fs::create_dir_all(&storage).with_context(|| format!("create {}", storage.display()))?;
        let ready = match auth {
            Some(_) => StatusCode::UNAUTHORIZED,
            None => StatusCode::OK,
        };
        // JSON is YAML, which is what the registry reads.
        let config = json!({
            "version": "0.1",
            "log": { "level": "info", "accesslog": { "disabled": false } },
            "storage": { "filesystem": { "rootdirectory": storage }, "delete": { "enabled": true } },
            "http": { "addr": format!("127.0.0.1:{port}") },
            "auth": auth,
        });
        let config = write(folder, "config.yml", &config.to_string())?;
        let process = Process::start(
            "registry",
            Command::new(binary)
                .arg("serve")
                .arg(config)
                .env("OTEL_TRACES_EXPORTER", "none"),
            folder,
        )?
        .with_grace(Duration::ZERO);

        let mut registry = Self { process, port };
        let url = format!("{}/v2/", registry.url());
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .context("make an HTTP client")?;
        registry
            .process
            .ready(READY, || async {
                let status = client.get(&url).send().await?.status();
                ensure!(
                    status == ready,
                    "{url} answers {status} to an anonymous request"
                );
                Ok(())
            })
            .await?;
        Ok(registry)
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
