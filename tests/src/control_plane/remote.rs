//! A remote cluster: an API server that takes tokens of an OIDC issuer.
//!
//! ```text
//!   issuer's documents are served ─▶ kube-apiserver starts ─▶ it takes a token ─▶ RemoteCluster
//! ```
//!
//! kube-apiserver asks for its issuer once at its start and then every ten seconds, and answers 401 to the
//! issuer's tokens until it has it; Argo CD remembers that answer. So a [`RemoteCluster`], and with it the URL for
//! a cluster Secret, exists only when a token was taken.

use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use serde_json::json;

use super::api_server::{self, ApiServer, User, write_private};
use super::etcd::Etcd;
use super::proof::{Proof, documents};
use crate::peers::Peers;
use crate::process::wait_until;

/// Until an issuer that runs serves its documents, and until a token of it is taken, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Whose tokens a remote cluster accepts.
#[derive(Debug, Clone)]
pub struct OidcIssuer {
    /// `iss`, an `https` URL; discovery is at `<url>/.well-known/openid-configuration`.
    pub url: String,
    /// The CA of the issuer's own certificate.
    pub ca_pem: String,
    /// Accepted values of `aud`.
    pub audiences: Vec<String>,
}

impl OidcIssuer {
    /// A client that trusts the issuer's certificate alone, as the API server does.
    fn http_client(&self) -> Result<reqwest::Client> {
        let authority =
            reqwest::Certificate::from_pem(self.ca_pem.as_bytes()).context("the issuer's CA")?;
        reqwest::Client::builder()
            .tls_certs_only([authority])
            .no_proxy()
            .build()
            .context("make an HTTP client")
    }
}

/// How one remote cluster differs from another.
pub struct Settings<'a> {
    /// Its folder below the run's, and the key prefix in etcd.
    pub name: &'a str,
    /// Where it listens; chosen before it starts, because allow-lists name it.
    pub address: SocketAddrV4,
    /// Whose tokens it accepts. It has to run: nothing of the cluster starts before its documents are served.
    pub issuer: &'a OidcIssuer,
    /// By what the cluster shows that it accepts them.
    pub proof: &'a Proof,
}

/// An API server with structured authentication; its users are the values of `sub`, unprefixed.
///
/// It takes tokens of its issuer from the moment that this value exists.
///
/// It has no controllers: namespaces get no service accounts. Ends when dropped.
#[derive(Debug)]
pub struct RemoteCluster {
    api_server: ApiServer,
    _etcd: Arc<Etcd>,
}

impl RemoteCluster {
    /// Starts the API server in `<dir>/<name>`, its data in `etcd` under that prefix, and returns when it takes
    /// tokens of its issuer.
    ///
    /// # Errors
    /// When the issuer's documents are not served, and when it cannot be started or does not take the token in
    /// time, with the last lines of its log.
    pub async fn start(
        dir: &Path,
        peers: &Peers,
        etcd: Arc<Etcd>,
        settings: Settings<'_>,
    ) -> Result<Self> {
        let Settings {
            name,
            address,
            issuer,
            proof,
        } = settings;
        let http = issuer.http_client()?;
        let (http, url) = (&http, &issuer.url);
        // Or its first look at them would fail, and the next one come after ten seconds.
        wait_until("the issuer's documents", LIMIT, || documents(http, url)).await?;
        let authentication = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {
                    "url": issuer.url,
                    "certificateAuthority": issuer.ca_pem,
                    "audiences": issuer.audiences,
                    "audienceMatchPolicy": "MatchAny",
                },
                "claimMappings": { "username": { "claim": "sub", "prefix": "" } },
            }],
        });
        let folder = dir.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let file = folder.join("authentication.yaml");
        write_private(&file, &authentication.to_string())?;
        let mut api_server = ApiServer::start(
            dir,
            peers,
            &etcd,
            api_server::Settings {
                name,
                address,
                service_account_issuer: "https://kubernetes.default.svc.cluster.local",
                extra_names: &[],
                users: &[User::admin()?],
                flags: vec!["--authentication-config".into(), file.into()],
            },
        )?;
        api_server.ready().await?;
        let shown = api_server.client_with_token(proof.token())?;
        let admin = api_server.client_with_token(api_server.admin_token())?;
        let (shown, admin) = (&shown, &admin);
        let taken = api_server
            .process()
            .ready(LIMIT, || proof.holds(shown, admin));
        taken
            .await
            .context("it does not take its issuer's tokens")?;
        Ok(Self {
            api_server,
            _etcd: etcd,
        })
    }

    /// A client with all rights.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn client(&self) -> Result<Client> {
        self.client_with_token(self.admin_token())
    }

    /// A client that shows `token`, for example one of the OIDC issuer's.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn client_with_token(&self, token: &str) -> Result<Client> {
        self.api_server.client_with_token(token)
    }

    /// Writes a kubeconfig with the token and returns its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        self.api_server.kubeconfig(name, token)
    }

    /// The static token of a member of `system:masters`.
    #[must_use]
    pub fn admin_token(&self) -> &str {
        self.api_server.admin_token()
    }

    /// The CA that the API server's certificate is from.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.api_server.ca_pem()
    }

    /// `https://<address>:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        self.api_server.url()
    }

    /// The API server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.api_server.port()
    }
}
