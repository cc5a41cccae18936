//! Proxies of the environment, by the rules of Go's
//! `golang.org/x/net/http/httpproxy`, which Argo CD follows: HTTPS_PROXY,
//! HTTP_PROXY, NO_PROXY and their lower-case names flow in; the proxy for a
//! host, or none, flows out. Pure: the caller reads the variables.
//!
//! Other than there, only `http://` proxies are known; any other kind is an
//! error of the requests that would go through it.

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::SecretString;
use shared::errors::{Code, Named};
use url::Url;
use zeroize::Zeroizing;

use crate::parse::target::Authority;

/// A proxy on the way to a host. Debug does not show its password.
#[derive(Debug, Clone)]
pub struct Hop {
    /// Where it listens.
    pub authority: Authority,
    /// The `Proxy-Authorization` that it gets.
    pub authorization: Option<SecretString>,
    /// It may be on an address of this node: its URL is the administrator's own.
    pub private: bool,
}

/// What kind of URL a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS; every CONNECT counts as this.
    Https,
}

/// The variables, read.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    http: Option<Result<Hop, Named>>,
    https: Option<Result<Hop, Named>>,
    exceptions: Vec<Exception>,
}

/// An entry of NO_PROXY.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everything,
    Network(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    Domain {
        /// With a leading dot.
        suffix: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Environment {
    /// Asks `variable` for each name; the upper-case name counts first, and an
    /// empty value is none.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&str; 2]| {
            let mut found = names.iter().filter_map(|name| variable(name));
            found.find(|value| !value.is_empty())
        };
        let proxy = |names: [&str; 2]| {
            let value = first(names).map(Zeroizing::new)?;
            Some(hop(&value).ok_or_else(|| {
                let detail = format!("{} is not http://host:port", names[0]);
                Named::new(Code::UpstreamProxyRefused, detail)
            }))
        };
        Self {
            http: proxy(["HTTP_PROXY", "http_proxy"]),
            https: proxy(["HTTPS_PROXY", "https_proxy"]),
            exceptions: first(["NO_PROXY", "no_proxy"])
                .unwrap_or_default()
                .split(',')
                .filter_map(exception)
                .collect(),
        }
    }

    /// The proxy for requests to `target`. `localhost` and loopback addresses
    /// never have one.
    ///
    /// # Errors
    /// [`Code::UpstreamProxyRefused`] where the variable is no `http://` URL.
    pub fn proxy(&self, scheme: Scheme, target: &Authority) -> Result<Option<Hop>, Named> {
        let setting = match scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        match setting {
            Some(setting) if !self.excepts(target) => setting.clone().map(Some),
            _ => Ok(None),
        }
    }

    fn excepts(&self, target: &Authority) -> bool {
        let address: Option<IpAddr> = target.host.parse().ok().map(canonical);
        if target.host == "localhost" || address.is_some_and(|it| it.is_loopback()) {
            return true;
        }
        let fits = |listed: &Option<u16>| listed.is_none_or(|listed| listed == target.port);
        self.exceptions.iter().any(|exception| match exception {
            Exception::Everything => true,
            Exception::Network(network, bits) => {
                address.is_some_and(|it| within(it, *network, *bits))
            }
            Exception::Address(listed, port) => address == Some(*listed) && fits(port),
            Exception::Domain {
                suffix,
                itself,
                port,
            } => {
                let host = target.host.as_str();
                (host.ends_with(suffix) || (*itself && host == &suffix[1..])) && fits(port)
            }
        })
    }
}

/// Go takes a URL without scheme for an http one.
fn hop(text: &str) -> Option<Hop> {
    let text = match text.contains("://") {
        true => Zeroizing::new(text.to_owned()),
        false => Zeroizing::new(format!("http://{text}")),
    };
    let url = Url::parse(&text).ok().filter(|it| it.scheme() == "http")?;
    let authority = authority(&url)?;
    let authorization = (!url.username().is_empty() || url.password().is_some()).then(|| {
        let mut pair = Zeroizing::new(decode(url.username()));
        pair.push(b':');
        pair.extend_from_slice(&Zeroizing::new(decode(url.password().unwrap_or_default())));
        format!("Basic {}", STANDARD.encode(&*pair)).into()
    });
    Some(Hop {
        authority,
        authorization,
        private: true,
    })
}

/// Host and port of an `http` URL.
pub(crate) fn authority(url: &Url) -> Option<Authority> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let port = url.port_or_known_default()?;
    Authority::parse(&format!("{host}:{port}")).ok()
}

/// Percent-encoding (RFC 3986 section 2.1); what is none stays as it is.
fn decode(text: &str) -> Vec<u8> {
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let pair = after.get(..2).filter(|_| first == b'%');
        let byte = pair
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        decoded.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    decoded
}

fn exception(entry: &str) -> Option<Exception> {
    let entry = entry.trim().to_ascii_lowercase();
    if entry == "*" {
        return Some(Exception::Everything);
    }
    if let Some((network, bits)) = entry.split_once('/') {
        let network: IpAddr = network.parse().ok()?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse().ok().filter(|bits| *bits <= most)?;
        return Some(Exception::Network(network, bits));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, Some(port.parse().ok()?))
        }
        _ => (entry.as_str(), None),
    };
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(host).parse() {
        return Some(Exception::Address(canonical(address), port));
    }
    let host = host
        .strip_prefix('*')
        .filter(|it| it.starts_with('.'))
        .unwrap_or(host);
    if host.is_empty() {
        return None;
    }
    let itself = !host.starts_with('.');
    Some(Exception::Domain {
        suffix: format!("{}{host}", if itself { "." } else { "" }),
        itself,
        port,
    })
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let bits = u32::from(bits);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (a.to_bits() ^ n.to_bits())
            .checked_shr(32 - bits)
            .is_none_or(|rest| rest == 0),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits() ^ n.to_bits())
            .checked_shr(128 - bits)
            .is_none_or(|rest| rest == 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::read(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn ask(pairs: &[(&str, &str)], scheme: Scheme, target: &str) -> Option<String> {
        let target = Authority::parse(target).unwrap();
        let found = environment(pairs).proxy(scheme, &target).unwrap();
        found.map(|hop| hop.authority.to_string())
    }

    #[test]
    fn each_scheme_has_its_variable_and_upper_case_comes_first() {
        let pairs = [
            ("HTTPS_PROXY", "http://tls.test:3128"),
            ("https_proxy", "http://lower.test"),
            ("HTTP_PROXY", ""),
            ("http_proxy", "plain.test"),
        ];
        let found = ask(&pairs, Scheme::Https, "quay.test");
        assert_eq!(found.as_deref(), Some("tls.test:3128"));
        let found = ask(&pairs, Scheme::Http, "quay.test");
        assert_eq!(found.as_deref(), Some("plain.test:80"));
        assert_eq!(ask(&[], Scheme::Https, "quay.test"), None);
        for own in ["localhost", "127.0.0.1", "127.8.8.8:1", "[::1]"] {
            assert_eq!(ask(&pairs, Scheme::Https, own), None, "{own}");
        }
    }

    // The cases are those of httpproxy's own tests.
    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        for (no_proxy, target, direct) in [
            ("example.com", "example.com", true),
            ("example.com", "foo.example.com", true),
            ("example.com", "fooexample.com", false),
            (".example.com", "example.com", false),
            (".example.com", "foo.example.com", true),
            ("*.example.com", "foo.example.com", true),
            ("*.example.com", "example.com", false),
            ("EXAMPLE.com:443", "example.com:443", true),
            ("example.com:443", "example.com:8443", false),
            ("*", "example.com", true),
            ("other.com, example.com ,", "example.com", true),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("10.0.0.0/8", "ten.example.com", false),
            ("192.0.2.1", "192.0.2.1:8443", true),
            ("192.0.2.1:443", "192.0.2.1:8443", false),
            ("2001:db8::1", "[2001:db8::1]:443", true),
            ("[2001:db8::1]:443", "[2001:db8::1]:443", true),
            ("[2001:db8::1]:443", "[2001:db8::1]:8443", false),
            ("2001:db8::/32", "[2001:db8:1::1]", true),
            ("2001:db8::/32", "[2001:db9::1]", false),
            (":443", "example.com", false),
            ("", "example.com", false),
        ] {
            let pairs = [("HTTPS_PROXY", "http://p.test"), ("NO_PROXY", no_proxy)];
            let found = ask(&pairs, Scheme::Https, target);
            assert_eq!(found.is_none(), direct, "{no_proxy} {target}");
        }
    }

    #[test]
    fn user_information_is_sent_and_never_shown() {
        let read = environment(&[("HTTPS_PROXY", "http://us%20er:hunter%322@p.test:3128")]);
        let target = Authority::parse("quay.test").unwrap();
        let hop = read.proxy(Scheme::Https, &target).unwrap().unwrap();
        let encoded = STANDARD.encode("us er:hunter22");
        assert_eq!(
            hop.authorization.unwrap().expose_secret(),
            format!("Basic {encoded}")
        );
        let shown = format!("{read:?}");
        assert!(
            !shown.contains("hunter") && !shown.contains(&encoded),
            "{shown}"
        );
    }

    #[test]
    fn another_kind_of_proxy_is_an_error_of_its_requests() {
        for text in ["socks5://u:hunter2@p.test", "https://p.test", "http://"] {
            let read = environment(&[("HTTPS_PROXY", text), ("NO_PROXY", "direct.test")]);
            let ask = |host| read.proxy(Scheme::Https, &Authority::parse(host).unwrap());
            let error = ask("quay.test").unwrap_err();
            assert_eq!(error.code, Code::UpstreamProxyRefused, "{text}");
            assert!(!error.to_string().contains("hunter2"));
            assert!(ask("direct.test").unwrap().is_none());
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(proxy in "\\PC{0,30}|http://[a-z%@:/\\[\\]0-9.]{0,20}", no_proxy in "\\PC{0,40}|[a-z0-9.:*,/\\[\\]]{0,40}", host in "[a-z0-9.]{1,20}") {
            let read = environment(&[("HTTPS_PROXY", &proxy), ("NO_PROXY", &no_proxy)]);
            if let Ok(target) = Authority::parse(&host) {
                let _ = read.proxy(Scheme::Https, &target);
            }
        }

        #[test]
        fn a_domain_covers_itself_and_what_is_below_it(domain in "[a-z]{1,8}[.][a-z]{2,3}", below in "[a-z]{1,8}") {
            let pairs = [("HTTPS_PROXY", "http://p.test"), ("NO_PROXY", domain.as_str())];
            prop_assert!(ask(&pairs, Scheme::Https, &domain).is_none());
            let (inside, beside) = (format!("{below}.{domain}"), format!("{below}{domain}"));
            prop_assert!(ask(&pairs, Scheme::Https, &inside).is_none());
            prop_assert!(ask(&pairs, Scheme::Https, &beside).is_some());
        }

        #[test]
        fn a_network_covers_what_shares_its_bits(address: u32, other: u32, bits in 0_u8..=32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let (a, n) = (std::net::Ipv4Addr::from_bits(address), std::net::Ipv4Addr::from_bits(other));
            prop_assert_eq!(within(a.into(), n.into(), bits), address & mask == other & mask);
        }

        #[test]
        fn encoded_user_information_comes_back(bytes in any::<Vec<u8>>()) {
            let encoded: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decode(&encoded), bytes);
        }
    }
}
