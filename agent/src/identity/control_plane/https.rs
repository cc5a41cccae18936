//! The way to the identity API: a body flows in, a status and the answer's
//! bytes flow out.
//!
//! The connection is verified against one CA and nothing else, follows no
//! redirect and uses no proxy, since two tokens travel over it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::exchange::http::{causes, read_body};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// For a whole call.
const TOTAL: Duration = Duration::from_secs(15);
/// Largest answer that is read: a hundred tokens fit.
const LARGEST: usize = 1 << 20;

/// What came back: a status and a body.
pub(super) type Reply = (StatusCode, Zeroizing<Vec<u8>>);

/// Why there is no answer. The same for all who asked with one call.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The agent's own token cannot be read.
    OwnToken {
        path: String,
        kind: std::io::ErrorKind,
    },
    /// Nobody answered, or nothing that can be read.
    Unreachable(String),
}

/// Carries a call to the identity API.
pub(super) trait Post: Send + Sync + 'static {
    /// Posts `body` to a path of the identity API.
    fn post<B: Serialize + Sync>(
        &self,
        path: &str,
        body: &B,
    ) -> impl Future<Output = Result<Reply, Failure>> + Send;
}

/// The control plane at a URL.
pub(super) struct Https {
    url: Url,
    ca_file: PathBuf,
    token_file: PathBuf,
    /// The client, and the CA file's content that it was made for.
    client: Mutex<Option<(Vec<u8>, Client)>>,
}

impl Https {
    pub(super) fn new(url: &Url, ca_file: PathBuf, token_file: PathBuf) -> Self {
        let mut url = url.clone();
        url.set_query(None);
        Self {
            url,
            ca_file,
            token_file,
            client: Mutex::new(None),
        }
    }

    fn client(&self) -> Result<Client, String> {
        let ca = std::fs::read(&self.ca_file)
            .map_err(|error| format!("CA file {}: {error}", self.ca_file.display()))?;
        let mut cached = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((content, client)) = &*cached
            && *content == ca
        {
            return Ok(client.clone());
        }
        let roots = Certificate::from_pem_bundle(&ca)
            .map_err(|error| format!("CA file {}: {}", self.ca_file.display(), causes(&error)))?;
        if roots.is_empty() {
            return Err(format!(
                "CA file {}: no certificate",
                self.ca_file.display()
            ));
        }
        let client = Client::builder()
            .https_only(true)
            .tls_certs_only(roots)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(TOTAL)
            .build()
            .map_err(|error| causes(&error))?;
        *cached = Some((ca, client.clone()));
        Ok(client)
    }
}

impl Post for Https {
    async fn post<B: Serialize + Sync>(&self, path: &str, body: &B) -> Result<Reply, Failure> {
        let mut url = self.url.clone();
        url.set_path(path);
        let unreachable = |reason: String| Failure::Unreachable(format!("{url}: {reason}"));
        let own = std::fs::read_to_string(&self.token_file)
            .map(Zeroizing::new)
            .map_err(|error| Failure::OwnToken {
                path: self.token_file.display().to_string(),
                kind: error.kind(),
            })?;
        let own = SecretString::from(own.trim());
        let response = self
            .client()
            .map_err(unreachable)?
            .post(url.clone())
            .bearer_auth(own.expose_secret())
            .json(body)
            .send()
            .await
            .map_err(|error| unreachable(causes(&error.without_url())))?;
        let status = response.status();
        let body = read_body(response, LARGEST).await.map_err(unreachable)?;
        Ok((status, body))
    }
}
