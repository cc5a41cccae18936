//! A cloud's hosts behind one address, each of which serves its own and nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use tower::ServiceExt as _;

use crate::control_plane::Authority;
use crate::upstreams::{Server, Upstreams, host};

/// What each host of a cloud serves.
pub struct Services(BTreeMap<String, Router>);

impl Services {
    pub(crate) fn new<const N: usize>(services: [(&str, Router); N]) -> Self {
        let owned = services.map(|(host, routes)| (host.to_owned(), routes));
        Self(owned.into())
    }

    /// Serves them at a fixed address, with a certificate of `authority`.
    ///
    /// # Errors
    /// When the address is in use, or there is no certificate for the names.
    pub async fn serve(self, authority: &Authority, at: SocketAddr) -> Result<Server> {
        let hosts: Vec<_> = self.0.keys().map(String::as_str).collect();
        Server::start(authority, &hosts, at, self.routes()).await
    }

    /// Serves them in the surroundings of a test.
    ///
    /// # Errors
    /// As [`Upstreams::serve`].
    pub async fn join(self, world: &Upstreams) -> Result<Server> {
        let hosts: Vec<_> = self.0.keys().map(String::as_str).collect();
        world.serve(&hosts, self.routes()).await
    }

    fn routes(&self) -> Router {
        let services = Arc::new(self.0.clone());
        Router::new().fallback(async move |request: Request| {
            let service = services.get(host(&request)).cloned();
            match service {
                Some(service) => service.oneshot(request).await.into_response(),
                None => StatusCode::MISDIRECTED_REQUEST.into_response(),
            }
        })
    }
}
