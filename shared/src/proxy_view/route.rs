//! Where the credential proxy leads: a binding's spec flows in, what every
//! document of it says flows out, or the reason why the proxy could not serve
//! it.
//!
//! Admission asks this before it accepts a Secret, the agents before they write
//! a document, and the reader of documents by the same rule for paths, so that
//! nothing is bound that no node would serve.

use url::Url;

use super::{Realm, upstream_proxy};
use crate::{
    binding::{CredentialBindingSpec, ProxyDelivery, ProxyKind},
    errors::{Code, Named},
    registry::{RegistryHost, RepositoryReference},
};

/// The way of a binding's requests through the credential proxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where the credential goes.
    pub target: RegistryHost,
    /// The repository prefix without leading and trailing slash; may be empty.
    pub path: String,
    /// What is served there.
    pub kind: ProxyKind,
    /// Content is fetched without verifying the target's certificate.
    pub insecure: bool,
    /// The proxy on the way to the target, if not the environment's.
    pub upstream_proxy: Option<Url>,
    /// The token realm that the credential is for.
    pub realm: Option<Realm>,
}

impl Route {
    /// The route of a binding; `proxy` is its `spec.proxy`.
    ///
    /// # Errors
    /// [`Code::InvalidUrl`] and [`Code::PathRefused`], with the field of the spec.
    pub fn of(spec: &CredentialBindingSpec, proxy: &ProxyDelivery) -> Result<Self, Named> {
        let at = |field: &str, error: Named| {
            Named::new(error.code, format!("{field}: {}", error.detail))
        };
        let target = RepositoryReference::parse(&spec.target.address)
            .map_err(|error| at("target.address", error))?;
        if !is_served(&target.path) {
            let shown: String = target.path.chars().take(120).collect();
            let detail = format!("target.address: `{}`", shown.escape_debug());
            return Err(Named::new(Code::PathRefused, detail));
        }
        let upstream_proxy = proxy
            .upstream_proxy
            .as_deref()
            .map(upstream_proxy)
            .transpose()
            .map_err(|error| at("proxy.upstreamProxy", error))?;
        let exchange = &spec.exchange;
        let realm = exchange
            .auth_url
            .as_deref()
            .filter(|_| exchange.has_realm())
            .map(|url| Realm::parse(url, exchange.service.clone()))
            .transpose()
            .map_err(|error| at("exchange.authUrl", error))?;
        Ok(Self {
            target: target.host,
            path: target.path,
            kind: proxy.kind,
            insecure: proxy.insecure,
            upstream_proxy,
            realm,
        })
    }
}

/// Whether requests below a repository path are forwarded. A path that servers
/// and proxies read in different ways would be judged as one and served as
/// another.
pub(super) fn is_served(path: &str) -> bool {
    let segment = |segment: &str| !matches!(segment, "" | "." | "..");
    let odd = |c: char| c.is_control() || matches!(c, ' ' | '?' | '#' | '\\' | '%');
    path.is_empty() || (path.split('/').all(segment) && !path.contains(odd))
}
