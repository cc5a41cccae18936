//! An issuer's documents on a web server of their own: a key set flows in, OpenID Connect discovery over HTTPS flows
//! out.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, Result};
use axum::routing::get;
use axum::{Json, Router};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use serde_json::{Value, json};

use super::OIDC_HOST;
use crate::targets::Targets;

/// A running server. It stops when this is dropped.
pub(super) struct Documents {
    handle: Handle<SocketAddr>,
}

impl Documents {
    /// Serves what the issuer that the targets trust publishes, at the issuer's own port.
    ///
    /// # Errors
    /// When the port is taken.
    pub(super) async fn serve(targets: &Targets, keys: Value) -> Result<Self> {
        let issuer_url = targets.trust.issuer_url();
        let url = reqwest::Url::parse(issuer_url).context("the issuer's URL")?;
        let port = url.port_or_known_default().context("it has no port")?;
        let listener =
            TcpListener::bind((targets.address(), port)).context("listen at the issuer's port")?;
        listener
            .set_nonblocking(true)
            .context("prepare the socket")?;
        let certificate = targets.authority.issue(&[OIDC_HOST])?;
        let tls = RustlsConfig::from_pem(certificate.certificate.into(), certificate.key.into())
            .await
            .context("read the issuer's certificate")?;
        let discovery = json!({
            "issuer": issuer_url,
            "jwks_uri": format!("{issuer_url}/keys"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        });
        let answer = |document: Value| get(|| async move { Json(document) });
        let routes = Router::new()
            .route("/.well-known/openid-configuration", answer(discovery))
            .route("/keys", answer(keys));
        let handle = Handle::new();
        let server = axum_server::from_tcp_rustls(listener, tls)
            .context("serve the issuer's documents")?
            .handle(handle.clone())
            .serve(routes.into_make_service());
        tokio::spawn(server);
        Ok(Self { handle })
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}
