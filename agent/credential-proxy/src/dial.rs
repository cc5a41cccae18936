//! TCP toward a host: the way there flows in, a connection whose bytes reach
//! the host (directly, or through a proxy's CONNECT) flows out.
//!
//! Without a proxy the name is resolved first, so that what is checked is what
//! is dialled. Through a proxy the name is resolved there: the pod often cannot
//! resolve it at all. What it resolves to is then the proxy's network, not this
//! pod's; addresses written as such are refused all the same. The proxy's own
//! address is checked as a host's is.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use agent_net::addresses;
use secrecy::ExposeSecret;
use shared::errors::{Code, Named};
use shared::proxy_view::ProxyBinding;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Host;
use zeroize::Zeroizing;

use crate::environment::{self, Environment, Hop, Scheme};
use crate::parse::target::Authority;

/// Until a connection stands, TLS included.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
/// Largest head of a proxy's answer.
const LARGEST_HEAD: usize = 8 << 10;

/// How a host is reached.
#[derive(Debug, Clone)]
pub struct Way {
    /// The host.
    pub target: Authority,
    /// It may be on an address of this node.
    pub private: bool,
    /// The proxy in between.
    pub hop: Option<Hop>,
}

impl Way {
    /// The way for `binding`: its own proxy, else the environment's, else
    /// directly; addresses as its allow-list says. Pure.
    ///
    /// # Errors
    /// [`Code::UpstreamProxyRefused`] for a proxy that is no `http://` URL.
    pub fn of(
        binding: &ProxyBinding,
        environment: &Environment,
        scheme: Scheme,
        target: &Authority,
    ) -> Result<Self, Named> {
        let hop = match &binding.upstream_proxy {
            None => environment.proxy(scheme, target)?,
            Some(url) => {
                let authority = environment::authority(url).ok_or_else(|| {
                    let detail = format!("binding {}: no host", binding.name);
                    Named::new(Code::UpstreamProxyRefused, detail)
                })?;
                Some(Hop {
                    private: private(binding, &authority),
                    authority,
                    authorization: None,
                })
            }
        };
        Ok(Self {
            target: target.clone(),
            private: private(binding, target),
            hop,
        })
    }

    /// A connection to the target.
    ///
    /// # Errors
    /// [`Code::AddressRefused`], [`Code::UpstreamUnreachable`] and
    /// [`Code::UpstreamProxyRefused`].
    pub async fn dial(&self) -> Result<TcpStream, Named> {
        let dial = async {
            let mut stream = self.first().await?;
            if let Some(hop) = &self.hop {
                open(&mut stream, hop, &self.target).await?;
            }
            Ok(stream)
        };
        in_time(&self.target, dial).await
    }

    /// A connection to the proxy, or to the target where there is none.
    ///
    /// # Errors
    /// [`Code::AddressRefused`] and [`Code::UpstreamUnreachable`].
    pub async fn first(&self) -> Result<TcpStream, Named> {
        match &self.hop {
            None => connect(&self.target, self.private).await,
            Some(hop) => {
                if !self.private && names_a_refused_address(&self.target) {
                    let detail = format!("host {}, through a proxy", self.target);
                    return Err(Named::new(Code::AddressRefused, detail));
                }
                connect(&hop.authority, hop.private).await
            }
        }
    }
}

/// Bounds `connecting`.
pub(crate) async fn in_time<T>(
    target: &Authority,
    connecting: impl Future<Output = Result<T, Named>>,
) -> Result<T, Named> {
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(unreachable(target, "no connection in time")),
    }
}

fn private(binding: &ProxyBinding, host: &Authority) -> bool {
    let permission = binding.allowed_hosts.permission(&host.host, host.port);
    permission.is_some_and(|it| it.private)
}

/// A proxy may read an address in more notations than this program resolves
/// (`0x7f.1`); the URL standard's reader knows them.
fn names_a_refused_address(target: &Authority) -> bool {
    if target.host == "localhost" || target.host.ends_with(".localhost") {
        return true;
    }
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return addresses::refused(address);
    }
    match Host::parse(&target.host) {
        Ok(Host::Ipv4(address)) => addresses::refused(address.into()),
        Ok(Host::Ipv6(address)) => addresses::refused(address.into()),
        Ok(Host::Domain(_)) => false,
        // Like an address, and none.
        Err(_) => true,
    }
}

/// Resolves first, so that what is checked is what is dialled.
async fn connect(host: &Authority, private: bool) -> Result<TcpStream, Named> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host.host.as_str(), host.port))
        .await
        .map_err(|error| unreachable(host, &error.to_string()))?
        .collect();
    let (refused, usable): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| !private && addresses::refused(address.ip()));
    let mut last = "it has no address".to_owned();
    for address in &usable {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error.to_string(),
        }
    }
    match refused.first() {
        Some(address) if usable.is_empty() => Err(Named::new(
            Code::AddressRefused,
            format!("host {host}: {}", address.ip()),
        )),
        _ => Err(unreachable(host, &last)),
    }
}

/// CONNECT (RFC 9110 section 9.3.6).
async fn open(stream: &mut TcpStream, hop: &Hop, target: &Authority) -> Result<(), Named> {
    let refused = |reason: String| {
        let detail = format!("proxy {}, host {target}: {reason}", hop.authority);
        Named::new(Code::UpstreamProxyRefused, detail)
    };
    let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
    if let Some(authorization) = &hop.authorization {
        request.push_str("Proxy-Authorization: ");
        request.push_str(authorization.expose_secret());
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    let written = stream.write_all(request.as_bytes()).await;
    written.map_err(|error| refused(error.to_string()))?;
    // Byte by byte: what follows the head is the host's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await;
        head.push(byte.map_err(|error| refused(error.to_string()))?);
        if head.len() > LARGEST_HEAD {
            return Err(refused("its answer is too long".into()));
        }
    }
    // Its words are not repeated: some echo what they were sent.
    match status(&head) {
        Some(200..=299) => Ok(()),
        Some(status) => Err(refused(format!("status {status}"))),
        None => Err(refused("its answer is not HTTP".into())),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let line = head.strip_prefix(b"HTTP/1.")?;
    let digits = line.get(2..5).filter(|_| line.get(1) == Some(&b' '))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

pub(crate) fn unreachable(target: &Authority, reason: &str) -> Named {
    let detail = format!("host {target}: {reason}");
    Named::new(Code::UpstreamUnreachable, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::tests::binding;

    #[test]
    fn the_bindings_own_proxy_comes_before_the_environments() {
        let environment =
            Environment::read(|name| (name == "HTTPS_PROXY").then(|| "env.test".to_owned()));
        let mut own = binding("a", "a", "quay.test", "");
        own.allowed_hosts =
            shared::allow_list::AllowList::parse("own.test;private quay.test:8443;private")
                .unwrap();
        let way = |binding: &ProxyBinding, target: &str| {
            let target = Authority::parse(target).unwrap();
            let way = Way::of(binding, &environment, Scheme::Https, &target).unwrap();
            let hop = way.hop.map(|hop| (hop.authority.to_string(), hop.private));
            (hop, way.private)
        };
        let through = |host: &str, private| Some((host.to_owned(), private));
        assert_eq!(
            way(&own, "quay.test"),
            (through("env.test:80", true), false)
        );
        assert_eq!(way(&own, "localhost"), (None, false));
        own.upstream_proxy = Some("http://own.test:3128".parse().unwrap());
        let expected = (through("own.test:3128", true), true);
        assert_eq!(way(&own, "quay.test:8443"), expected);
        own.upstream_proxy = Some("http://other.test:3128".parse().unwrap());
        let expected = (through("other.test:3128", false), false);
        assert_eq!(way(&own, "quay.test"), expected);
    }

    #[test]
    fn an_address_of_the_node_is_refused_through_a_proxy_in_every_notation() {
        for (host, refused) in [
            ("localhost", true),
            ("a.localhost", true),
            ("127.0.0.1", true),
            ("169.254.169.254", true),
            ("0x7f.1", true),
            ("2130706433", true),
            ("0251.0376.0251.0376", true),
            ("1.2.3.4.5", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("192.0.2.1", false),
            ("quay.test", false),
        ] {
            let target = Authority::parse(host).unwrap();
            assert_eq!(names_a_refused_address(&target), refused, "{host}");
        }
    }

    #[test]
    fn only_a_success_opens_the_way() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 407 \r\n\r\n"), Some(407));
        for head in [&b"HTTP/2 200"[..], b"", b"200", b"HTTP/1.1 2"] {
            assert_eq!(status(head), None);
        }
    }
}
