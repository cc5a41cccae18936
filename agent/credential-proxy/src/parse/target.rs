//! Where a request goes: the authority of a CONNECT (RFC 9112 section 3.2.3),
//! and the origin-form inside a terminated tunnel.

use std::fmt;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri};
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

/// A host, in lower case and without brackets, and its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Authority {
    /// Reads `host[:port]`; without a port it is that of https.
    ///
    /// # Errors
    /// [`Code::ProxyRequestRefused`] for anything else, user information too.
    pub fn parse(text: &str) -> Result<Self, Named> {
        // The part before an `@` may be a password: nothing is repeated.
        RegistryHost::parse(text)
            .map(|host| Self::from(&host))
            .map_err(|_not_repeated| refuse("the authority is not host:port"))
    }
}

impl From<&RegistryHost> for Authority {
    fn from(host: &RegistryHost) -> Self {
        Self {
            host: host.name().to_owned(),
            port: host.port().unwrap_or(443),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The target of a request to the proxy itself.
///
/// # Errors
/// [`Code::ProxyRequestRefused`] for other methods, an authority without port or with user information, a `Host` of another host, or a body.
pub fn connect(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Authority, Named> {
    if method != Method::CONNECT {
        return Err(refuse("not a CONNECT"));
    }
    let text = uri.authority().map_or("", |authority| authority.as_str());
    if uri.scheme().is_some() || uri.path_and_query().is_some() {
        return Err(refuse("CONNECT takes an authority"));
    }
    let target = Authority::parse(text)?;
    if uri.port_u16().is_none() {
        return Err(refuse("CONNECT takes a port"));
    }
    if let Some(host) = host(headers)?
        && Authority::parse(host)?.host != target.host
    {
        return Err(refuse("Host names another host than CONNECT"));
    }
    framing(headers)?;
    if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING) {
        return Err(refuse("CONNECT has a body"));
    }
    Ok(target)
}

/// The target of a plain HTTP request to the proxy itself, in absolute form
/// (RFC 9112 section 3.2.2); its port is 80 where none is written.
///
/// # Errors
/// [`Code::ProxyRequestRefused`] for other forms and schemes, user information,
/// a `Host` that is absent or another, and ambiguous framing.
pub fn absolute(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Authority, Named> {
    if method == Method::CONNECT || uri.scheme() != Some(&http::uri::Scheme::HTTP) {
        return Err(refuse("neither a CONNECT nor an http URL"));
    }
    let plain = |text: &str| {
        let host = RegistryHost::parse(text)
            .map_err(|_not_repeated| refuse("the authority is not host:port"))?;
        Ok::<_, Named>(Authority {
            host: host.name().to_owned(),
            port: host.port().unwrap_or(80),
        })
    };
    let target = plain(uri.authority().map_or("", |authority| authority.as_str()))?;
    let host = host(headers)?.ok_or_else(|| refuse("Host is missing"))?;
    if plain(host)? != target {
        return Err(refuse("Host names another host than the URL"));
    }
    framing(headers)?;
    Ok(target)
}

/// The path of a request inside the tunnel to `target`, checked so that no
/// two readers of it can disagree.
///
/// # Errors
/// [`Code::ProxyRequestRefused`] for CONNECT, absolute-form, a `Host` that is
/// absent or another, ambiguous framing, and paths with empty, dotted or
/// encoded segments that some server would normalise.
pub fn origin<'a>(
    method: &Method,
    uri: &'a Uri,
    headers: &HeaderMap,
    target: &Authority,
) -> Result<&'a str, Named> {
    if method == Method::CONNECT || uri.authority().is_some() || uri.scheme().is_some() {
        return Err(refuse("not in origin-form"));
    }
    let host = host(headers)?.ok_or_else(|| refuse("Host is missing"))?;
    if Authority::parse(host)? != *target {
        return Err(refuse("Host names another host than CONNECT"));
    }
    framing(headers)?;
    let path = uri.path();
    if !path.starts_with('/') || path.contains("//") || path.contains('\\') {
        return Err(refuse("the path has an empty segment"));
    }
    if path
        .split('/')
        .any(|segment| matches!(segment, "." | "..") || segment.starts_with("..;"))
    {
        return Err(refuse("the path has a dotted segment"));
    }
    let lower = path.to_ascii_lowercase();
    if ["%2e", "%2f", "%5c", "%25", "%00"]
        .iter()
        .any(|encoded| lower.contains(encoded))
    {
        return Err(refuse("the path has an encoded separator"));
    }
    Ok(path)
}

/// Two readers of one message must agree on where it ends (RFC 9112 section 6).
fn framing(headers: &HeaderMap) -> Result<(), Named> {
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    let encodings = headers.get_all(TRANSFER_ENCODING).iter().count();
    if lengths + encodings > 1 {
        return Err(refuse("the end of the message is ambiguous"));
    }
    let chunked = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !headers.get_all(TRANSFER_ENCODING).iter().all(chunked) {
        return Err(refuse("unknown Transfer-Encoding"));
    }
    Ok(())
}

fn host(headers: &HeaderMap) -> Result<Option<&str>, Named> {
    let mut values = headers.get_all(HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(refuse("there are several Host"));
    }
    first
        .map(|value| {
            value
                .to_str()
                .ok()
                .ok_or_else(|| refuse("Host is not text"))
        })
        .transpose()
}

fn refuse(reason: &str) -> Named {
    Named::new(Code::ProxyRequestRefused, reason)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    value.parse::<HeaderValue>().unwrap(),
                )
            })
            .collect()
    }

    fn ask(uri: &str, pairs: &[(&str, &str)]) -> Result<Authority, Named> {
        let uri: Uri = uri.parse().unwrap();
        connect(&Method::CONNECT, &uri, &headers(pairs))
    }

    #[test]
    fn a_connect_names_host_and_port() {
        let target = |host: &str, port| Authority {
            host: host.into(),
            port,
        };
        assert_eq!(ask("Quay.Test:443", &[]).unwrap(), target("quay.test", 443));
        assert_eq!(
            ask("quay.test:8443", &[("host", "quay.test:8443")]).unwrap(),
            target("quay.test", 8443)
        );
        let six = ask("[2001:db8::1]:443", &[]).unwrap();
        assert_eq!(six, target("2001:db8::1", 443));
        assert_eq!(six.to_string(), "[2001:db8::1]:443");
    }

    #[test]
    fn other_connects_are_refused() {
        for (uri, pairs) in [
            ("quay.test", &[][..]),
            ("u:hunter2@quay.test:443", &[]),
            ("https://quay.test:443/", &[]),
            ("/v2/", &[]),
            ("quay.test:443", &[("host", "other.test")]),
            (
                "quay.test:443",
                &[("host", "quay.test"), ("host", "quay.test")],
            ),
            ("quay.test:443", &[("content-length", "5")]),
            ("quay.test:443", &[("transfer-encoding", "chunked")]),
        ] {
            let error = ask(uri, pairs).unwrap_err();
            assert_eq!(error.code, Code::ProxyRequestRefused, "{uri} {pairs:?}");
            assert!(!error.to_string().contains("hunter2"));
        }
        let uri = "http://quay.test/".parse().unwrap();
        assert!(connect(&Method::GET, &uri, &HeaderMap::new()).is_err());
    }

    #[test]
    fn an_absolute_form_names_its_host_twice_and_alike() {
        let ask = |uri: &str, pairs: &[(&str, &str)]| {
            let uri: Uri = uri.parse().unwrap();
            absolute(&Method::GET, &uri, &headers(pairs)).map(|it| it.to_string())
        };
        for (uri, host, target) in [
            ("http://Quay.test/a?b", "quay.test", "quay.test:80"),
            ("http://quay.test:80/", "quay.test", "quay.test:80"),
            ("http://quay.test:8080", "quay.test:8080", "quay.test:8080"),
        ] {
            assert_eq!(ask(uri, &[("host", host)]).unwrap(), target);
        }
        let smuggled = [
            ("host", "quay.test"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
        ];
        let twice = [("host", "quay.test"), ("host", "quay.test")];
        for (uri, pairs) in [
            ("http://quay.test/", &[][..]),
            ("http://quay.test/", &[("host", "other.test")]),
            ("http://quay.test/", &[("host", "quay.test:8080")]),
            ("http://quay.test/", &twice),
            ("http://quay.test/", &smuggled),
            ("https://quay.test/", &[("host", "quay.test")]),
            ("ftp://quay.test/", &[("host", "quay.test")]),
            ("http://u:hunter2@quay.test/", &[("host", "quay.test")]),
            ("/a", &[("host", "quay.test")]),
            ("quay.test:80", &[("host", "quay.test")]),
        ] {
            let error = ask(uri, pairs).unwrap_err();
            assert_eq!(error.code, Code::ProxyRequestRefused, "{uri} {pairs:?}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    fn inner(uri: &str, pairs: &[(&str, &str)]) -> Result<String, Named> {
        let uri: Uri = uri.parse().unwrap();
        let target = Authority::parse("quay.test").unwrap();
        origin(&Method::GET, &uri, &headers(pairs), &target).map(str::to_owned)
    }

    #[test]
    fn inside_the_tunnel_the_host_is_the_tunnels() {
        assert_eq!(inner("/v2/?a=b", &[("host", "quay.test")]).unwrap(), "/v2/");
        assert_eq!(inner("/a", &[("host", "QUAY.test:443")]).unwrap(), "/a");
        let smuggled = [
            ("host", "quay.test"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
        ];
        for (uri, pairs) in [
            ("/", &[][..]),
            ("/", &[("host", "other.test")]),
            ("/", &[("host", "quay.test:8443")]),
            ("/", &[("host", "quay.test"), ("host", "other.test")]),
            ("https://quay.test/", &[("host", "quay.test")]),
            ("/", &smuggled),
            ("/", &[("host", "quay.test"), ("transfer-encoding", "gzip")]),
            ("/a/../b", &[("host", "quay.test")]),
            ("/a//b", &[("host", "quay.test")]),
            ("/a/%2E%2e/b", &[("host", "quay.test")]),
            ("/a%2Fb", &[("host", "quay.test")]),
            ("/a%252fb", &[("host", "quay.test")]),
        ] {
            let error = inner(uri, pairs).unwrap_err();
            assert_eq!(error.code, Code::ProxyRequestRefused, "{uri} {pairs:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_round_trips(text in "\\PC{0,30}|[a-z.:\\[\\]0-9@]{0,20}") {
            if let Ok(authority) = Authority::parse(&text) {
                prop_assert!(!text.contains('@'));
                prop_assert_eq!(Authority::parse(&authority.to_string()).unwrap(), authority);
            }
        }

        #[test]
        fn an_accepted_path_has_plain_segments_only(path in "(/[a-z.%2fFeE;\\\\]{0,5}){1,4}") {
            if let Ok(uri) = path.parse::<Uri>() {
                let target = Authority::parse("quay.test").unwrap();
                let headers = headers(&[("host", "quay.test")]);
                if let Ok(path) = origin(&Method::GET, &uri, &headers, &target) {
                    prop_assert!(!path.contains("/../") && !path.ends_with("/..") && !path.contains("//"));
                    prop_assert!(!path.to_lowercase().contains("%2f"));
                }
            }
        }
    }
}
