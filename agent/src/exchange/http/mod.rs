//! The only way for an identity token to leave the node toward a registry or a
//! token service.
//!
//! A URL flows in, a request that may be sent flows out, or the reason why not:
//! https with verified certificates always (a Secret's `insecure` has no say),
//! the registry's own host, its cloud's token service or a host of the
//! administrator's allow-list, never an address of this node or of a cloud's
//! metadata service, no redirect to another origin, bounded time and size.

mod answer;
mod names;
mod permit;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::dns::Resolve;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Method, RequestBuilder};
use shared::allow_list::AllowList;
use shared::binding::ExchangeKind;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;
use tokio::sync::watch;

use crate::refresh::Failure;
pub use answer::Answer;
#[cfg(test)]
pub(crate) use answer::tests::answer as answer_of;
pub(crate) use answer::{causes, read_body, redact};
use names::Guard;
pub use names::SystemNames;
use permit::permit;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer.
const READ: Duration = Duration::from_secs(10);
/// For a whole call.
const TOTAL: Duration = Duration::from_secs(20);
/// Redirects of one call, all at the same origin.
const REDIRECTS: usize = 3;
/// Clients that are kept for later calls; more roots than this make new ones.
const CLIENTS: usize = 64;

/// PEM texts of `argocd-tls-certs-cm`, by namespace and host name.
pub type Authorities = BTreeMap<(String, String), Arc<str>>;

/// What [`Upstream`] is made of.
pub struct Settings {
    /// Hosts that tokens may go to besides a registry's own.
    pub allowed: AllowList,
    /// The proxy on the way, where there is one, and its exceptions.
    pub proxy: Option<Proxy>,
    /// The roots that users gave Argo CD for single hosts.
    pub authorities: watch::Receiver<Arc<Authorities>>,
    /// Resolves host names.
    pub names: Arc<dyn Resolve>,
}

impl Settings {
    /// Neither proxy nor roots of users, and the system's names.
    pub fn new(allowed: AllowList) -> Self {
        let (_, authorities) = watch::channel(Arc::default());
        Self {
            allowed,
            proxy: None,
            authorities,
            names: Arc::new(SystemNames),
        }
    }
}

/// A proxy on the way to token services and registries.
#[derive(Debug, Clone)]
pub struct Proxy {
    proxy: reqwest::Proxy,
    host: String,
}

impl Proxy {
    /// Reads the values of `HTTPS_PROXY` and `NO_PROXY`.
    ///
    /// # Errors
    /// When the first is no `http://` or `https://` URL; the value is not
    /// repeated, since it may have a password.
    pub fn new(url: &str, exceptions: &str) -> anyhow::Result<Self> {
        let parsed = url::Url::parse(url).ok();
        let host = parsed
            .as_ref()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .and_then(|url| url.host_str());
        let host = host.context("not an http:// or https:// URL")?.to_owned();
        let proxy = reqwest::Proxy::https(url)
            .map_err(reqwest::Error::without_url)
            .context("not the URL of a proxy")?
            .no_proxy(reqwest::NoProxy::from_string(exceptions));
        Ok(Self { proxy, host })
    }
}

/// The guarded client. Clones share their connections.
#[derive(Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    roots: Vec<Certificate>,
    clients: Mutex<BTreeMap<Kind, Client>>,
}

/// What clients differ in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    private: bool,
    roots: Option<Arc<str>>,
}

impl Upstream {
    /// A client that trusts the system's roots and those of `extra_roots`
    /// (PEM). Where that file is absent or empty there are no more of them: the
    /// manifests always name the file, and whoever needs it provides it.
    ///
    /// # Errors
    /// When the file cannot be read or is no PEM file of certificates, or the
    /// TLS client cannot be made.
    pub fn new(settings: Settings, extra_roots: Option<&Path>) -> anyhow::Result<Self> {
        let roots = match extra_roots {
            Some(path) => {
                roots(path).with_context(|| format!("--upstream-ca {}", path.display()))?
            }
            None => Vec::new(),
        };
        let upstream = Self {
            inner: Arc::new(Inner {
                settings,
                roots,
                clients: Mutex::default(),
            }),
        };
        let plain = Kind {
            private: false,
            roots: None,
        };
        upstream.client(&plain).context("make an HTTP client")?;
        Ok(upstream)
    }

    /// The way out for an exchange of `kind` for the registry `own`, by the
    /// roots of `namespace`.
    pub fn outlet(&self, namespace: &str, kind: ExchangeKind, own: &RegistryHost) -> Outlet {
        Outlet {
            upstream: self.clone(),
            namespace: namespace.to_owned(),
            kind,
            own: own.clone(),
        }
    }

    fn client(&self, kind: &Kind) -> anyhow::Result<Client> {
        let clients = || {
            let clients = self.inner.clients.lock();
            clients.unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(client) = clients().get(kind) {
            return Ok(client.clone());
        }
        let client = self.build(kind)?;
        let mut clients = clients();
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        clients.insert(kind.clone(), client.clone());
        Ok(client)
    }

    fn build(&self, kind: &Kind) -> anyhow::Result<Client> {
        let settings = &self.inner.settings;
        let mut roots = self.inner.roots.clone();
        if let Some(pem) = &kind.roots {
            roots.extend(Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        let guard = Guard {
            private: kind.private,
            proxy: settings.proxy.as_ref().map(|proxy| proxy.host.clone()),
            names: Arc::clone(&settings.names),
        };
        let mut builder = Client::builder()
            .https_only(true)
            .no_proxy()
            .redirect(same_origin())
            .connect_timeout(CONNECT)
            .read_timeout(READ)
            .timeout(TOTAL)
            .dns_resolver(Arc::new(guard));
        if !roots.is_empty() {
            builder = builder.tls_certs_merge(roots);
        }
        if let Some(proxy) = &settings.proxy {
            builder = builder.proxy(proxy.proxy.clone());
        }
        Ok(builder.build()?)
    }
}

/// The way out of one exchange.
#[derive(Clone)]
pub struct Outlet {
    upstream: Upstream,
    namespace: String,
    kind: ExchangeKind,
    own: RegistryHost,
}

impl Outlet {
    /// A request for `url`, if one may be sent there.
    ///
    /// # Errors
    /// [`Code::AuthUrlInvalid`], [`Code::HostNotAllowed`],
    /// [`Code::AddressRefused`], and [`Code::ExchangeUnreachable`] where the
    /// user's roots for the host cannot be read.
    pub fn request(&self, method: Method, url: &str) -> Result<RequestBuilder, Named> {
        let settings = &self.upstream.inner.settings;
        let (url, private) = permit(&settings.allowed, url, &self.own, self.kind)?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let place = (self.namespace.clone(), host);
        let roots = settings.authorities.borrow().get(&place).cloned();
        let client = self
            .upstream
            .client(&Kind { private, roots })
            .map_err(|error| {
                let (namespace, host) = place;
                let detail = format!(
                    "{}: ConfigMap {namespace}/argocd-tls-certs-cm, key {host}: {error:#}",
                    self
                );
                Named::new(Code::ExchangeUnreachable, detail)
            })?;
        Ok(client.request(method, url))
    }

    /// Sends a request that this outlet gave.
    ///
    /// # Errors
    /// [`Code::AddressRefused`] and [`Code::ExchangeUnreachable`].
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer, Failure> {
        let response = request.send().await.map_err(|error| {
            let error = error.without_url();
            match names::only_refused(&error) {
                Some(refused) => Named::new(Code::AddressRefused, format!("{self}: {refused}")),
                None => Named::new(
                    Code::ExchangeUnreachable,
                    format!("{self}: {}", causes(&error)),
                ),
            }
        })?;
        Answer::read(response).await.map_err(|reason| {
            Named::new(Code::ExchangeUnreachable, format!("{self}: {reason}")).into()
        })
    }

    /// Whether the administrator lists the registry itself.
    pub fn lists_registry(&self) -> bool {
        let port = self.own.port().unwrap_or(443);
        let allowed = &self.upstream.inner.settings.allowed;
        allowed.permission(self.own.name(), port).is_some()
    }
}

impl std::fmt::Display for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "registry {}", self.own)
    }
}

/// Follows redirects where they stay: a credential goes to no other origin.
fn same_origin() -> Policy {
    Policy::custom(|attempt| {
        let from = attempt.previous().last().map(url::Url::origin);
        let stays = from.is_some_and(|from| from == attempt.url().origin());
        if stays && attempt.previous().len() <= REDIRECTS {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

fn roots(path: &Path) -> anyhow::Result<Vec<Certificate>> {
    let pem = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    let roots = match pem.trim_ascii() {
        [] => Vec::new(),
        pem => Certificate::from_pem_bundle(pem)?,
    };
    ensure!(
        !roots.is_empty() || pem.trim_ascii().is_empty(),
        "there is no certificate in it"
    );
    tracing::info!(file = %path.display(), roots = roots.len(), "roots besides the system's");
    Ok(roots)
}

#[cfg(test)]
pub(crate) mod tests;
