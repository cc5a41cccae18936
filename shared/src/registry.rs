//! Registry hosts and repository references as Argo CD's Secrets write them.
//!
//! Docker's reference grammar (distribution/reference) is followed for hosts;
//! paths are kept as they are, since git and Helm repositories share the type.

use std::{fmt, net::Ipv6Addr};

use crate::bounds;
use crate::errors::{Code, Named};

/// Names under which Docker Hub is known.
const DOCKER_HUB: [&str; 4] = [
    "docker.io",
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
];
/// Docker Hub's key in a Docker configuration file.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A host with an optional port, in lower case: `registry.example.org:5000`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryHost(String);

impl RegistryHost {
    /// Reads `host[:port]`; IPv6 addresses are in brackets.
    ///
    /// # Errors
    /// [`Code::InvalidUrl`] when it is no host.
    pub fn parse(text: &str) -> Result<Self, Named> {
        let refuse = |reason: &str| {
            let shown: String = text.chars().take(80).collect();
            Named::new(
                Code::InvalidUrl,
                format!("host `{}`: {reason}", shown.escape_debug()),
            )
        };
        let (host, port) = if text.starts_with('[') {
            let end = text.find(']').ok_or_else(|| refuse("`]` is missing"))?;
            let (host, rest) = text.split_at(end + 1);
            let inner = &host[1..host.len() - 1];
            if inner.parse::<Ipv6Addr>().is_err() {
                return Err(refuse("not an IPv6 address"));
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(refuse("something follows `]`")),
            }
        } else {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let label = |label: &str| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            if host.len() > 253 || !host.split('.').all(label) {
                return Err(refuse("not a host name"));
            }
            (host, port)
        };
        if let Some(port) = port {
            let number = port
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| port.parse::<u16>());
            if !matches!(number, Some(Ok(1..))) {
                return Err(refuse("not a port"));
            }
        }
        let mut name = host.to_ascii_lowercase();
        if let Some(port) = port {
            name.push(':');
            name.push_str(port);
        }
        Ok(Self(name))
    }

    /// `host[:port]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without its port, IPv6 addresses without brackets.
    pub fn name(&self) -> &str {
        if let Some(rest) = self.0.strip_prefix('[') {
            return rest.split(']').next().unwrap_or_default();
        }
        self.0.split(':').next().unwrap_or_default()
    }

    /// The port, if one is written.
    pub fn port(&self) -> Option<u16> {
        let after = self
            .0
            .rsplit_once(']')
            .map_or(self.0.as_str(), |(_, rest)| rest);
        after
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
    }

    /// Whether `host`, an IPv6 address with or without brackets, is this one:
    /// an address has many spellings, of which a parsed URL keeps only one.
    pub fn has_name(&self, host: &str) -> bool {
        let (own, host) = (self.name(), host.trim_matches(['[', ']']));
        match (own.parse::<Ipv6Addr>(), host.parse::<Ipv6Addr>()) {
            (Ok(own), Ok(host)) => own == host,
            _ => own.eq_ignore_ascii_case(host),
        }
    }

    /// `host:port`, the port of TLS where none is written, and the host as a
    /// parsed URL has it: one text for one place.
    pub fn authority(&self) -> String {
        let port = self.port().unwrap_or(443);
        match self.name().parse::<Ipv6Addr>() {
            Ok(address) => format!("{}:{port}", url::Host::<String>::Ipv6(address)),
            Err(_) => format!("{}:{port}", self.name()),
        }
    }

    /// The key of this host in a Docker configuration file. oras-go and Helm
    /// look up hosts only; Docker Hub has a key of its own.
    pub fn docker_config_key(&self) -> &str {
        if DOCKER_HUB.contains(&self.0.as_str()) {
            DOCKER_HUB_KEY
        } else {
            &self.0
        }
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a repository URL is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `oci://host/path`.
    Oci,
    /// `https://host/path`.
    Https,
    /// `host/path`, as Argo CD wants it for Helm charts in OCI registries.
    Bare,
}

/// Host and path of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryReference {
    /// How it was written.
    pub scheme: Scheme,
    /// The host.
    pub host: RegistryHost,
    /// The path without leading and trailing slash; may be empty.
    pub path: String,
}

impl RepositoryReference {
    /// Reads the `url` of a repository Secret.
    ///
    /// # Errors
    /// [`Code::InvalidUrl`] for other schemes (an identity never travels over
    /// plain HTTP or SSH), user information, queries and fragments, and for more
    /// than [`bounds::ADDRESS`] bytes.
    pub fn parse(url: &str) -> Result<Self, Named> {
        let shown = || {
            url.chars()
                .take(120)
                .collect::<String>()
                .escape_debug()
                .to_string()
        };
        let refuse =
            |reason: &str| Named::new(Code::InvalidUrl, format!("`{}`: {reason}", shown()));
        let (scheme, rest) = if let Some(rest) = url.strip_prefix("oci://") {
            (Scheme::Oci, rest)
        } else if let Some(rest) = url.strip_prefix("https://") {
            (Scheme::Https, rest)
        } else if let Some((scheme, _)) = url.split_once("://") {
            return Err(refuse(&format!(
                "scheme `{}` is not supported",
                scheme.escape_debug()
            )));
        } else {
            (Scheme::Bare, url)
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            // The part before it may be a password: it is not repeated.
            return Err(Named::new(Code::InvalidUrl, "the URL has user information"));
        }
        if path.contains(['?', '#']) || path.chars().any(|c| c.is_control() || c == ' ') {
            return Err(refuse("query, fragment or blank in the path"));
        }
        let host = RegistryHost::parse(host)
            .map_err(|error| Named::new(error.code, format!("`{}`: {}", shown(), error.detail)))?;
        let path = path.trim_matches('/').to_owned();
        let reference = Self { scheme, host, path };
        let length = reference.address().len();
        if length > bounds::ADDRESS {
            let reason = format!(
                "has {length} bytes, and at most {} are allowed",
                bounds::ADDRESS
            );
            return Err(refuse(&reason));
        }
        Ok(reference)
    }

    /// `host/path`, without a scheme.
    pub fn address(&self) -> String {
        if self.path.is_empty() {
            self.host.to_string()
        } else {
            format!("{}/{}", self.host, self.path)
        }
    }
}

impl fmt::Display for RepositoryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Oci => "oci://",
            Scheme::Https => "https://",
            Scheme::Bare => "",
        };
        write!(f, "{scheme}{}", self.address())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts() {
        for (text, name, port) in [
            ("quay.example.org", "quay.example.org", None),
            ("Quay.Example.Org:8443", "quay.example.org", Some(8443)),
            ("localhost", "localhost", None),
            ("[::1]:5000", "::1", Some(5000)),
        ] {
            let host = RegistryHost::parse(text).unwrap();
            assert_eq!((host.name(), host.port()), (name, port));
        }
        for text in [
            "", ":80", "a:", "a:0", "a:70000", "a:+1", "a b", "-a", "a..b", "[::1", "[x]",
            "[::1]x", "a:1:2",
        ] {
            assert_eq!(
                RegistryHost::parse(text).unwrap_err().code,
                Code::InvalidUrl,
                "{text}"
            );
        }
    }

    #[test]
    fn docker_hub_has_a_key_of_its_own() {
        let key = |host| {
            RegistryHost::parse(host)
                .unwrap()
                .docker_config_key()
                .to_owned()
        };
        assert_eq!(key("docker.io"), "https://index.docker.io/v1/");
        assert_eq!(key("quay.io"), "quay.io");
    }

    #[test]
    fn references() {
        let parse = |url| RepositoryReference::parse(url).unwrap();
        assert_eq!(
            parse("oci://quay.example.org/myorg/charts").address(),
            "quay.example.org/myorg/charts"
        );
        assert_eq!(parse("quay.example.org/myorg/charts/").path, "myorg/charts");
        assert_eq!(parse("https://github.com/org/repo").scheme, Scheme::Https);
        for url in [
            "http://a/b",
            "ssh://git@a/b",
            "git@github.com:a/b",
            "https://u:p@a/b",
            "oci://",
            "https://a/b?c",
            "a/b c",
        ] {
            assert_eq!(
                RepositoryReference::parse(url).unwrap_err().code,
                Code::InvalidUrl,
                "{url}"
            );
        }
    }

    #[test]
    fn a_password_in_a_url_is_never_repeated() {
        for url in [
            "https://user:hunter2@host/x",
            "oci://user:hunter2@host",
            "user:hunter2@host/x",
        ] {
            let error = RepositoryReference::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_round_trips(url in "\\PC*") {
            if let Ok(reference) = RepositoryReference::parse(&url) {
                prop_assert_eq!(RepositoryReference::parse(&reference.to_string()).unwrap(), reference);
            }
        }

        #[test]
        fn plausible_urls_round_trip(url in "(oci://|https://)?[A-Za-z0-9.-]{1,12}(:[0-9]{1,5})?(/[a-z0-9/]{0,12})?") {
            if let Ok(reference) = RepositoryReference::parse(&url) {
                prop_assert_eq!(RepositoryReference::parse(&reference.to_string()).unwrap(), reference);
            }
        }
    }
}
