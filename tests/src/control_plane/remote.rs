//! A remote cluster: an API server that takes tokens of an OIDC issuer.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use kube::Client;
use serde_json::json;

use super::api_server::{ApiServer, Settings, User, write_private};
use super::etcd::Etcd;
use crate::peers::Peers;

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

/// An API server with structured authentication; its users are the values of `sub`, unprefixed.
///
/// It has no controllers: namespaces get no service accounts. Ends when dropped.
#[derive(Debug)]
pub struct RemoteCluster {
    api_server: ApiServer,
    _etcd: Arc<Etcd>,
}

impl RemoteCluster {
    /// Starts the API server at a free port of `address`, in `<dir>/<name>`, its data in `etcd` under that prefix, and returns when
    /// it is ready. The issuer need not be reachable yet; the API server looks for it again and again.
    ///
    /// # Errors
    /// When it cannot be started or is not ready in time, with the last lines of its log.
    pub async fn start(
        dir: &Path,
        peers: &Peers,
        etcd: Arc<Etcd>,
        name: &str,
        address: Ipv4Addr,
        issuer: &OidcIssuer,
    ) -> Result<Self> {
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
            Settings {
                name,
                address,
                service_account_issuer: "https://kubernetes.default.svc.cluster.local",
                extra_names: &[],
                users: &[User::admin()?],
                flags: vec!["--authentication-config".into(), file.into()],
            },
        )?;
        api_server.ready().await?;
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
