//! Token services and registries around the agent's exchanges, without a cluster.
//!
//! ```text
//!   test ─▶ Upstreams ─▶ agent::exchange ──TLS──▶ Server (a stand-in), or a real component behind its own TLS
//!               │ names: what each host resolves to
//!               └ Issuer: identity tokens, and the documents that verify them
//! ```
//!
//! Hosts keep the names that they have in the world, at port 443; only the resolver knows the loopback port behind.

mod issuer;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use agent::exchange::http::{Outlet, Settings, Upstream};
use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::Request;
use axum::http::header::HOST;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use shared::allow_list::AllowList;
use shared::binding::ExchangeKind;
use shared::registry::RegistryHost;
use tempfile::TempDir;

pub use issuer::{Issuer, Trusted};

use crate::control_plane::Authority;

/// The surroundings of one test.
pub struct Upstreams {
    /// Issues every certificate.
    pub authority: Authority,
    names: Names,
    folder: TempDir,
}

/// What hosts resolve to; everything else is unknown.
#[derive(Debug, Clone, Default)]
struct Names(Arc<Mutex<BTreeMap<String, SocketAddr>>>);

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = names.get(name.as_str()).copied();
        Box::pin(async move {
            let address = found.ok_or("no such name in this test")?;
            Ok(Box::new(std::iter::once(address)) as Addrs)
        })
    }
}

impl Upstreams {
    /// An empty world with an authority and a folder of its own.
    ///
    /// # Errors
    /// When the authority or the folder cannot be made.
    pub fn new() -> Result<Self> {
        // Another test of the process may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().context("make a folder")?;
        let authority = Authority::new("argocd-workload-identity tests")?;
        std::fs::write(folder.path().join(AUTHORITY), authority.pem())
            .context("write the authority")?;
        Ok(Self {
            authority,
            names: Names::default(),
            folder,
        })
    }

    /// Files of the test; they go with this value.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority's certificate as a file.
    #[must_use]
    pub fn authority_file(&self) -> std::path::PathBuf {
        self.folder.path().join(AUTHORITY)
    }

    /// Lets `host` be what listens at `address`, with TLS by a certificate of [`Upstreams::authority`].
    pub fn point(&self, host: &str, address: SocketAddr) {
        let mut names = self.names.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(host.to_owned(), address);
    }

    /// Serves `routes` over TLS as each of `hosts`.
    ///
    /// # Errors
    /// When there is no port, or no certificate for the names.
    pub async fn serve(&self, hosts: &[&str], routes: Router) -> Result<Server> {
        let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
        let server = Server::start(&self.authority, hosts, anywhere, routes).await?;
        for host in hosts {
            self.point(host, server.address);
        }
        Ok(server)
    }

    /// The agent's client with this administrator's list. All hosts of this world are on loopback, so that each
    /// needs `;private` there, a registry's own host and a cloud's service, too.
    ///
    /// # Errors
    /// When the list cannot be read or the client cannot be made.
    pub fn upstream(&self, allowed: &str) -> Result<Upstream> {
        let settings = Settings {
            names: Arc::new(self.names.clone()),
            ..Settings::new(AllowList::parse(allowed)?)
        };
        Upstream::new(settings, Some(&self.authority_file()))
    }

    /// The way out of an exchange for the registry `host`.
    ///
    /// # Errors
    /// As [`Upstreams::upstream`].
    pub fn outlet(&self, kind: ExchangeKind, host: &str, allowed: &str) -> Result<Outlet> {
        let host = RegistryHost::parse(host)?;
        Ok(self.upstream(allowed)?.outlet("argocd", kind, &host))
    }
}

const AUTHORITY: &str = "authority.pem";

/// A server of this program. It stops when this is dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    handle: Handle<SocketAddr>,
}

impl Server {
    /// Serves `routes` over TLS at `address`, with a certificate of `authority` for `hosts`. Port 0 is any free one.
    ///
    /// # Errors
    /// When the address is in use, or there is no certificate for the names.
    pub async fn start(
        authority: &Authority,
        hosts: &[&str],
        address: SocketAddr,
        routes: Router,
    ) -> Result<Self> {
        let listener =
            TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
        listener
            .set_nonblocking(true)
            .context("prepare the socket")?;
        let address = listener.local_addr().context("the socket's address")?;
        let certificate = authority.issue(hosts)?;
        let tls = RustlsConfig::from_pem(certificate.certificate.into(), certificate.key.into())
            .await
            .context("read a server's certificate")?;
        let handle = Handle::new();
        let server = axum_server::from_tcp_rustls(listener, tls)
            .context("serve over TLS")?
            .handle(handle.clone())
            .serve(routes.into_make_service());
        tokio::spawn(server);
        Ok(Self { address, handle })
    }
}

/// The host name that a request is for, in lower or upper case as it came; empty without one.
pub(crate) fn host(request: &Request) -> &str {
    let header = request.headers().get(HOST).and_then(|it| it.to_str().ok());
    let host = request.uri().host().or(header).unwrap_or_default();
    host.strip_suffix(":443").unwrap_or(host)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}
