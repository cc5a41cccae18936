//! SPIRE's OIDC Discovery Provider: the trust domain's keys as an OpenID Connect issuer, for those who verify
//! JWT-SVIDs without SPIRE. Flows in: a listener's address and certificate. Flows out: two documents over HTTPS.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::routing::get;
use axum::{Json, Router};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use serde_json::{Value, json};

use super::Spire;
use crate::control_plane::ServerCertificate;

/// A running provider. It stops when it is dropped.
pub struct OidcProvider {
    issuer: String,
    handle: Handle<SocketAddr>,
}

impl OidcProvider {
    /// Serves the keys of `spire` at a free port of `address`, under the name `host` that the certificate is for;
    /// it answers when this returns, and goes on when SPIRE's agent is stopped. [`Spire::set_issuer`] makes tokens
    /// name it.
    ///
    /// # Errors
    /// When there is no port or the certificate cannot be read.
    pub async fn start(
        spire: &Spire,
        address: Ipv4Addr,
        host: &str,
        certificate: &ServerCertificate,
    ) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).context("no port for the provider")?;
        listener
            .set_nonblocking(true)
            .context("prepare the provider's socket")?;
        let port = listener.local_addr().context("no address")?.port();
        let issuer = format!("https://{host}:{port}");
        let tls = RustlsConfig::from_pem(
            certificate.certificate.clone().into(),
            certificate.key.clone().into(),
        )
        .await
        .context("read the provider's certificate")?;
        let document = discovery(&issuer);
        let agent = Arc::clone(&spire.agent);
        let routes = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(async move || Json(document)),
            )
            .route(
                "/keys",
                get(async move || Json(agent.world().authority.jwks())),
            );
        let handle = Handle::new();
        let server = axum_server::from_tcp_rustls(listener, tls)
            .context("serve the provider")?
            .handle(handle.clone())
            .serve(routes.into_make_service());
        tokio::spawn(server);
        Ok(Self { issuer, handle })
    }

    /// The issuer's URL.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

/// The discovery document of an issuer whose keys are at `/keys`, with the members that SPIRE's provider writes.
pub(super) fn discovery(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/keys"),
        "authorization_endpoint": "",
        "response_types_supported": ["id_token"],
        "subject_types_supported": [],
        "id_token_signing_alg_values_supported": ["RS256", "ES256", "ES384"],
    })
}
