//! The only way for an identity token to leave the node toward a registry.
//!
//! A URL flows in, a request that may be sent flows out, or the reason why not:
//! https with verified certificates always (a Secret's `insecure` has no say),
//! the registry's own host or one of the administrator's allow-list, never an
//! address of this node or of a cloud's metadata service, no redirect, no
//! proxy, bounded time and size.

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use shared::addresses::refused;
use shared::allow_list::AllowList;
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;
use url::Host;
use zeroize::Zeroizing;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer.
const READ: Duration = Duration::from_secs(10);
/// For a whole call.
const TOTAL: Duration = Duration::from_secs(20);
/// Largest answer that is read.
const LARGEST: usize = 1 << 20;
/// The upstream's words are cut here.
const LONGEST_WORDS: usize = 300;

/// The guarded client.
#[derive(Debug, Clone)]
pub struct Upstream {
    allowed: AllowList,
    public: Client,
    private: Client,
}

impl Upstream {
    /// A client that trusts the system's roots and those of `extra_roots`
    /// (PEM). Where that file is absent or empty there are no more of them: the
    /// manifests always name the file, and whoever needs it provides it.
    ///
    /// # Errors
    /// When the file cannot be read or is no PEM file of certificates, or the
    /// TLS client cannot be made.
    pub fn new(allowed: AllowList, extra_roots: Option<&Path>) -> anyhow::Result<Self> {
        let roots = match extra_roots {
            Some(path) => {
                roots(path).with_context(|| format!("--upstream-ca {}", path.display()))?
            }
            None => Vec::new(),
        };
        let client = |guard: Guard| {
            let builder = Client::builder()
                .https_only(true)
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT)
                .read_timeout(READ)
                .timeout(TOTAL)
                .dns_resolver(Arc::new(guard));
            match roots.clone() {
                none if none.is_empty() => builder,
                roots => builder.tls_certs_merge(roots),
            }
            .build()
        };
        Ok(Self {
            public: client(Guard { private: false })?,
            private: client(Guard { private: true })?,
            allowed,
        })
    }

    /// A GET of `url` for the registry `own`.
    ///
    /// # Errors
    /// [`Code::AuthUrlInvalid`], [`Code::HostNotAllowed`], [`Code::AddressRefused`].
    pub fn get(&self, url: &str, own: &RegistryHost) -> Result<RequestBuilder, Named> {
        let (url, private) = permit(&self.allowed, url, own)?;
        let client = if private { &self.private } else { &self.public };
        Ok(client.get(url))
    }
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

/// Decides whether an identity token may go to `url`, and whether the host may
/// have an address that is otherwise refused.
fn permit(allowed: &AllowList, url: &str, own: &RegistryHost) -> Result<(Url, bool), Named> {
    let invalid =
        |reason: &str| Named::new(Code::AuthUrlInvalid, format!("registry {own}: {reason}"));
    let url = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
    if url.scheme() != "https" {
        return Err(invalid("the scheme is not https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("it has user information"));
    }
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return Err(invalid("it has no host"));
    };
    let name = host.to_string();
    let name = name.trim_matches(['[', ']']);
    let permission = allowed.permission(name, port);
    let is_own = name.eq_ignore_ascii_case(own.name()) && port == own.port().unwrap_or(443);
    if permission.is_none() && !is_own {
        return Err(Named::new(
            Code::HostNotAllowed,
            format!("registry {own}: exchange at {name}:{port}"),
        ));
    }
    let private = permission.is_some_and(|it| it.private);
    let literal = match host {
        Host::Domain(_) => None,
        Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
    };
    if let Some(ip) = literal.filter(|ip| !private && refused(*ip)) {
        return Err(Named::new(
            Code::AddressRefused,
            format!("registry {own}: {ip}"),
        ));
    }
    Ok((url, private))
}

/// Resolves names, and leaves out refused addresses.
#[derive(Debug)]
struct Guard {
    private: bool,
}

/// A name has no other than refused addresses.
#[derive(Debug, thiserror::Error)]
#[error("{name} resolves only to {address}")]
struct OnlyRefused {
    name: String,
    address: IpAddr,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let private = self.private;
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let (refused, usable): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|address| !private && refused(address.ip()));
            match (usable.is_empty(), refused.first()) {
                (true, Some(address)) => Err(OnlyRefused {
                    name: name.as_str().to_owned(),
                    address: address.ip(),
                }
                .into()),
                _ => Ok(Box::new(usable.into_iter()) as Addrs),
            }
        })
    }
}

/// An upstream's answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body; may hold a credential.
    pub body: Zeroizing<Vec<u8>>,
}

/// The fields that registries use for their errors.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    error: Option<serde_json::Value>,
    error_description: Option<String>,
    message: Option<String>,
    detail: Option<String>,
}

impl Answer {
    /// The upstream's own words: known fields only, shortened, and without
    /// anything that looks like a token.
    pub fn words(&self) -> String {
        let body: ErrorBody = serde_json::from_slice(&self.body).unwrap_or_default();
        let error = body.error.as_ref().and_then(serde_json::Value::as_str);
        let fields = [
            error,
            body.error_description.as_deref(),
            body.message.as_deref(),
            body.detail.as_deref(),
        ];
        let words = fields.into_iter().flatten().collect::<Vec<_>>().join("; ");
        redact(&words)
    }
}

/// Words of another program: shortened, and without anything that looks like a
/// token.
pub(crate) fn redact(words: &str) -> String {
    let like_a_token = |word: &str| {
        word.contains("eyJ")
            || word
                .split(['/', '.', ':', '-'])
                .any(|run| run.len() >= 40 && run.chars().any(|c| c.is_ascii_digit()))
    };
    let words: Vec<&str> = words
        .split_whitespace()
        .map(|word| {
            if like_a_token(word) {
                "[redacted]"
            } else {
                word
            }
        })
        .collect();
    let words: String = words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_WORDS)
        .collect();
    words
}

/// Sends a request that [`Upstream`] permitted.
///
/// # Errors
/// [`Code::AddressRefused`] and [`Code::ExchangeUnreachable`].
pub async fn send(request: RequestBuilder, own: &RegistryHost) -> Result<Answer, Named> {
    let unreachable = |reason: String| {
        Named::new(
            Code::ExchangeUnreachable,
            format!("registry {own}: {reason}"),
        )
    };
    let response = request.send().await.map_err(|error| {
        let error = error.without_url();
        match only_refused(&error) {
            Some(refused) => Named::new(Code::AddressRefused, format!("registry {own}: {refused}")),
            None => unreachable(causes(&error)),
        }
    })?;
    let status = response.status();
    let body = read_body(response, LARGEST).await.map_err(unreachable)?;
    Ok(Answer { status, body })
}

fn only_refused(error: &reqwest::Error) -> Option<&OnlyRefused> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref::<OnlyRefused>() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// The reason, without any content.
pub(crate) async fn read_body(
    mut response: Response,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut body = Zeroizing::new(Vec::with_capacity(limit.min(16 << 10)));
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| causes(&error.without_url()))?
    {
        if body.len() + chunk.len() > limit {
            return Err(format!("the answer has more than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error and its causes, each once.
pub(crate) fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
