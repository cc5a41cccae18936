//! The settings of the installation: text flows in, validated values or an
//! error that names flag, value and remedy flow out. A leaf: nothing behind it
//! parses a setting again.

use std::{fmt, net::SocketAddr, time::Duration};

use shared::{allow_list::AllowList, selectors::SelectorTemplate};
use url::Url;

/// A setting cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} `{}`: {reason}. {fix}", .value.escape_debug())]
pub struct SettingError {
    flag: &'static str,
    value: String,
    reason: String,
    fix: &'static str,
}

impl SettingError {
    /// The text of `--flag` cannot be used.
    pub fn new<T: Setting>(flag: &'static str, text: &str, reason: &str) -> Self {
        Self {
            flag,
            value: text.chars().take(256).collect(),
            reason: reason.to_owned(),
            fix: T::FIX,
        }
    }
}

/// A type of setting: how its text is read, and what to do about a bad one.
pub trait Setting: Sized {
    /// What to do about a text that cannot be used.
    const FIX: &'static str;

    /// # Errors
    /// Why the text cannot be used.
    fn parse(text: &str) -> Result<Self, String>;
}

/// Reads the text of the flag `--flag`.
///
/// # Errors
/// When it cannot be used.
pub fn one<T: Setting>(flag: &'static str, text: &str) -> Result<T, SettingError> {
    T::parse(text).map_err(|reason| SettingError::new::<T>(flag, text, &reason))
}

/// Reads entries that commas separate; the same one twice counts once.
///
/// # Errors
/// When an entry cannot be used.
pub fn list<T: Setting + PartialEq>(
    flag: &'static str,
    text: &str,
) -> Result<Vec<T>, SettingError> {
    let mut values = Vec::new();
    for entry in text.split(',') {
        let value = one(flag, entry.trim())?;
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(values)
}

/// A namespace: a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(String);

impl Setting for Namespace {
    const FIX: &'static str = "Use the name of a namespace, such as argocd";

    fn parse(text: &str) -> Result<Self, String> {
        match is_dns_label(text) {
            true => Ok(Self(text.to_owned())),
            false => Err("it is no DNS label of at most 63 characters".to_owned()),
        }
    }
}

/// The name of a service account: a DNS subdomain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceAccountName(String);

impl Setting for ServiceAccountName {
    const FIX: &'static str = "Use the name of a service account, such as argocd-server";

    fn parse(text: &str) -> Result<Self, String> {
        if text == "default" {
            // Every pod that names no service account runs as this one.
            return Err("any pod of the namespace can run as `default`".to_owned());
        }
        match is_dns_subdomain(text) {
            true => Ok(Self(text.to_owned())),
            false => Err("it is no DNS subdomain".to_owned()),
        }
    }
}

/// Whether an object such as a Secret can have this name.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether a namespace can have this name.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_label(text)
}

/// A label, however long: within a subdomain only the whole is bounded.
fn is_label(text: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let mut bytes = text.bytes();
    ends(text.bytes().next())
        && ends(text.bytes().next_back())
        && bytes.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

/// A reference to a container image, as kubelet takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image(String);

impl Setting for Image {
    const FIX: &'static str = "Use the agents' image, such as registry.example.org/agent:v1";

    fn parse(text: &str) -> Result<Self, String> {
        match text.chars().all(|c| c.is_ascii_graphic()) {
            true if !text.is_empty() => Ok(Self(text.to_owned())),
            _ => Err("it has a blank or a character that no image has".to_owned()),
        }
    }
}

/// A SPIFFE trust domain, without `spiffe://`. Syntax:
/// <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#21-trust-domain>.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustDomain(String);

impl Setting for TrustDomain {
    const FIX: &'static str = "Use a name such as example.org, without spiffe://";

    fn parse(text: &str) -> Result<Self, String> {
        let allowed =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 {
            return Err("it needs 1 to 255 characters".to_owned());
        }
        match text.bytes().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err("only a-z, 0-9, `.`, `-` and `_` are allowed".to_owned()),
        }
    }
}

/// The `iss` of the tokens. Kept as it was typed, because verifiers compare it
/// character for character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerUrl(String);

impl IssuerUrl {
    /// The URL of a document below the issuer; `path` starts with `/`.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl Setting for IssuerUrl {
    const FIX: &'static str = "Use a URL such as https://identity.example.org";

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let reason = if url.scheme() != "https" || !text.starts_with("https://") {
            "verifiers take https only"
        } else if !url.username().is_empty() || url.password().is_some() {
            "it has user information"
        } else if url.query().is_some() || url.fragment().is_some() {
            "it has a query or a fragment"
        } else if text.ends_with('/') {
            "it ends with a slash, which the path of the discovery document would double"
        } else if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            "it has a blank or a control character"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(reason.to_owned())
    }
}

/// The life of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenLifetime(pub Duration);

impl Setting for TokenLifetime {
    const FIX: &'static str = "Use 30 to 86400 seconds";

    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(seconds @ 30..=86_400) => Ok(Self(Duration::from_secs(seconds))),
            Ok(_) => Err("it is out of range".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Setting for AllowList {
    const FIX: &'static str = "Use host[:port][;private][;insecure], separated by commas";

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|error| error.detail)
    }
}

impl Setting for SelectorTemplate {
    const FIX: &'static str = "Use type:value, separated by commas, as the agents have it";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: shared::selectors::TemplateError| error.to_string())
    }
}

impl Setting for SocketAddr {
    const FIX: &'static str = "Use an address and a port, such as 0.0.0.0:8443";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: std::net::AddrParseError| error.to_string())
    }
}

macro_rules! text {
    ($($name:ident)*) => {$(
        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text! { Namespace ServiceAccountName Image TrustDomain IssuerUrl }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_of_an_objects_name_is_bounded() {
        // As the API server has it (RFC 1123): a namespace is one label.
        assert!(is_dns_subdomain(&"a".repeat(253)));
        assert!(!is_dns_subdomain(&"a".repeat(254)));
        assert!(is_dns_label(&"a".repeat(63)) && !is_dns_label(&"a".repeat(64)));
        for name in ["a", "a.b-c.1"] {
            assert!(is_dns_subdomain(name), "{name}");
        }
        for name in [
            "", ".", "a..b", "-a", "a-", "a.-b", "A", "a_b", "a/b", "\u{e4}",
        ] {
            assert!(!is_dns_subdomain(name) && !is_dns_label(name), "{name}");
        }
    }
}
