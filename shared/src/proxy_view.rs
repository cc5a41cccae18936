//! One file of the volume view that only the credential proxy mounts.
//!
//! There is one JSON document for each binding: whose it is, which key opens
//! it, where its credential may go, and the credential once there is one.
//! Unknown fields are refused: a proxy that does not know a restriction must
//! not act as if there were none.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;
use zeroize::Zeroizing;

use crate::allow_list::AllowList;
use crate::binding::ProxyKind;
use crate::errors::{Code, Named};
use crate::layout::FileStem;
use crate::registry::RegistryHost;

mod credential;

use credential::Written;
pub use credential::{ProxyCredential, ProxySecret};

/// A binding as the credential proxy sees it.
#[derive(Debug, Clone)]
pub struct ProxyBinding {
    /// Name of the binding, and of its Secret.
    pub name: String,
    /// The Argo CD project that it belongs to; none for every project.
    pub project: Option<String>,
    /// Hashes of the keys that open it: one, or two while keys rotate.
    pub keys: Vec<KeyHash>,
    /// Where the credential goes.
    pub target: RegistryHost,
    /// The repository prefix without leading and trailing slash; may be empty.
    pub path: String,
    /// What is served there.
    pub kind: ProxyKind,
    /// Content is fetched without verifying the target's certificate.
    pub insecure: bool,
    /// The administrator's list: where a token realm besides the target may be,
    /// and what is relaxed for each host.
    pub allowed_hosts: AllowList,
    /// The proxy on the way to the target, if not the environment's.
    pub upstream_proxy: Option<Url>,
    /// The credential, once the agent has one.
    pub credential: Option<ProxyCredential>,
}

/// SHA-256 of a proxy key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Hashes a key.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Reads lower-case hex; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let text = text.as_bytes();
        if text.len() != 64 {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(hash))
    }

    /// Lower-case hex.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes, for a comparison in constant time.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    binding: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    key_sha256: Vec<String>,
    target: String,
    path: String,
    kind: ProxyKind,
    insecure: bool,
    allowed_hosts: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upstream_proxy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<Written>,
}

/// Renders a file's content.
///
/// # Errors
/// [`Code::ProxyViewUnreadable`] for a binding that [`parse`] would refuse.
pub fn render(binding: &ProxyBinding) -> Result<Zeroizing<Vec<u8>>, Named> {
    check(binding)?;
    let document = Document {
        binding: binding.name.clone(),
        project: binding.project.clone(),
        key_sha256: binding.keys.iter().map(KeyHash::to_hex).collect(),
        target: binding.target.to_string(),
        path: binding.path.clone(),
        kind: binding.kind,
        insecure: binding.insecure,
        allowed_hosts: binding.allowed_hosts.to_string(),
        upstream_proxy: binding.upstream_proxy.as_ref().map(Url::to_string),
        credential: binding.credential.as_ref().map(Written::from),
    };
    serde_json::to_vec(&document)
        .map(Zeroizing::new)
        .map_err(|error| syntax(&error))
}

/// Reads a file's content.
///
/// # Errors
/// [`Code::ProxyViewUnreadable`], with the field or the position and never
/// the content.
pub fn parse(bytes: &[u8]) -> Result<ProxyBinding, Named> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| syntax(&error))?;
    let binding = ProxyBinding {
        keys: document
            .key_sha256
            .iter()
            .map(|hex| {
                KeyHash::from_hex(hex).ok_or_else(|| unreadable("keySha256: not 64 hex digits"))
            })
            .collect::<Result<_, _>>()?,
        target: RegistryHost::parse(&document.target)
            .map_err(|error| unreadable(&format!("target: {}", error.detail)))?,
        allowed_hosts: AllowList::parse(&document.allowed_hosts)
            .map_err(|error| unreadable(&format!("allowedHosts: {}", error.detail)))?,
        upstream_proxy: document
            .upstream_proxy
            .as_deref()
            .map(upstream_proxy)
            .transpose()
            .map_err(|error| unreadable(&format!("upstreamProxy: {}", error.detail)))?,
        name: document.binding,
        project: document.project,
        path: document.path,
        kind: document.kind,
        insecure: document.insecure,
        credential: document.credential.map(Written::read).transpose()?,
    };
    check(&binding)?;
    Ok(binding)
}

/// Reads the URL of an upstream proxy: `http://host[:port]`, nothing else. User
/// information would be one more password in a Secret.
///
/// # Errors
/// [`Code::InvalidUrl`], with what is wrong.
pub fn upstream_proxy(text: &str) -> Result<Url, Named> {
    let refuse = |reason: &str| Err(Named::new(Code::InvalidUrl, reason));
    let Ok(url) = Url::parse(text) else {
        return refuse("not http://host:port");
    };
    if url.scheme() != "http" || url.host_str().is_none_or(str::is_empty) {
        return refuse("not http://host:port");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse("has user information");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return refuse("has a path");
    }
    Ok(url)
}

fn check(binding: &ProxyBinding) -> Result<(), Named> {
    if FileStem::new(&binding.name).is_err() || binding.name.contains(':') {
        return Err(unreadable("binding: not the name of a Secret"));
    }
    if !(1..=2).contains(&binding.keys.len()) {
        return Err(unreadable("keySha256: not one or two keys"));
    }
    let segment = |segment: &str| !matches!(segment, "" | "." | "..");
    let odd = |c: char| c.is_control() || matches!(c, ' ' | '?' | '#' | '\\' | '%');
    let path = &binding.path;
    if !path.is_empty() && (!path.split('/').all(segment) || path.contains(odd)) {
        return Err(unreadable("path: not a repository path"));
    }
    binding
        .credential
        .as_ref()
        .map_or(Ok(()), ProxyCredential::check)
}

fn unreadable(reason: &str) -> Named {
    Named::new(Code::ProxyViewUnreadable, reason)
}

/// serde_json's own words may repeat a value.
fn syntax(error: &serde_json::Error) -> Named {
    unreadable(&format!("line {}, column {}", error.line(), error.column()))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn binding() -> ProxyBinding {
        ProxyBinding {
            name: "prod-charts".into(),
            project: Some("prod".into()),
            keys: vec![KeyHash::of(b"key")],
            target: RegistryHost::parse("quay.example.org").unwrap(),
            path: "prod/charts".into(),
            kind: ProxyKind::Oci,
            insecure: false,
            allowed_hosts: AllowList::default(),
            upstream_proxy: None,
            credential: Some(ProxyCredential::basic_auth(
                "prod+argocd",
                "hunter2",
                Timestamp::UNIX_EPOCH,
            )),
        }
    }

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";

    fn basic(username: &str, password: &str) -> ProxyCredential {
        ProxyCredential::basic_auth(username, password, Timestamp::UNIX_EPOCH)
    }

    fn x509(certificates: &str, key: &str) -> ProxyCredential {
        ProxyCredential::x509(certificates, key, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_certificate_takes_the_place_of_user_name_and_password() {
        let mut given = binding();
        given.credential = Some(x509(CERTIFICATE, KEY));
        let bytes = render(&given).unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        let expected = concat!(
            r#""credential":{"certificates":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n","#,
            r#""key":"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n","#,
            r#""expires":"1970-01-01T00:00:00Z"}}"#
        );
        assert!(text.ends_with(expected), "{text}");
        let read = parse(&bytes).unwrap();
        assert_eq!(*render(&read).unwrap(), *bytes);
        assert!(read.credential.unwrap().authorization().is_none());
        assert!(!format!("{given:?}").contains("hunter2"));
        for (from, to) in [
            (r#""key":"#, r#""password":"#),
            (r#""certificates":"#, r#""username":"#),
            (r#""key":"#, r#""username":"a","password":"b","key":"#),
        ] {
            let error = parse(text.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::ProxyViewUnreadable, "{to}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn the_file_is_one_json_document() {
        let bytes = render(&binding()).unwrap();
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            concat!(
                r#"{"binding":"prod-charts","project":"prod","keySha256":["#,
                r#""2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"],"#,
                r#""target":"quay.example.org","path":"prod/charts","kind":"oci","insecure":false,"#,
                r#""allowedHosts":"","credential":{"username":"prod+argocd","password":"hunter2","#,
                r#""expires":"1970-01-01T00:00:00Z"}}"#
            )
        );
    }

    #[test]
    fn neither_debug_nor_errors_show_a_secret() {
        let shown = format!("{:?}", binding());
        assert!(
            !shown.contains("hunter2") && !shown.contains("2c70"),
            "{shown}"
        );
        for text in [
            r#"{"hunter2"#,
            r#"{"hunter2":1}"#,
            r#"{"binding":"a","keySha256":["hunter2"],"target":"a","path":"","kind":"oci","insecure":false,"allowedHosts":""}"#,
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::ProxyViewUnreadable);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_the_proxy_could_misread_is_refused() {
        let change = |change: fn(&mut ProxyBinding)| {
            let mut it = binding();
            change(&mut it);
            render(&it).unwrap_err()
        };
        for error in [
            change(|it| it.name = "a:b".into()),
            change(|it| it.name = "../a".into()),
            change(|it| it.keys.clear()),
            change(|it| it.path = "a/../b".into()),
            change(|it| it.path = "/a".into()),
            change(|it| it.path = "a%2fb".into()),
            change(|it| it.credential = Some(basic("a:b", "c"))),
            change(|it| it.credential = Some(basic("a", "b\r\nc"))),
            change(|it| it.credential = Some(x509("a certificate", KEY))),
            change(|it| it.credential = Some(x509(CERTIFICATE, "a key"))),
            change(|it| it.credential = Some(x509(&format!("{CERTIFICATE}{KEY}"), KEY))),
            change(|it| it.credential = Some(x509(&format!("{CERTIFICATE}\0"), KEY))),
        ] {
            assert_eq!(error.code, Code::ProxyViewUnreadable);
        }
    }

    #[test]
    fn an_upstream_proxy_is_scheme_host_and_port() {
        assert!(upstream_proxy("http://proxy.test:3128").is_ok());
        for text in [
            "",
            "proxy:3128",
            "https://proxy",
            "http://user@proxy",
            "http://:password@proxy",
            "http://proxy/path",
            "http://proxy?query",
            "socks5://proxy",
        ] {
            let error = upstream_proxy(text).unwrap_err();
            assert!(!error.detail.contains("password"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            name in "[a-z0-9.-]{1,20}",
            project in proptest::option::of("[a-z]{1,5}"),
            path in "([a-z]{1,4}(/[a-z.]{2,4}[a-z]){0,2})?",
            keys in proptest::collection::vec(any::<[u8; 4]>(), 1..=2),
            allowed in "([a-z]{1,9}(:8443)?(;private)?(,[a-z]{1,9};insecure)?)?",
            proxy in proptest::option::of("http://[a-z]{1,9}(:3128)?"),
            insecure: bool,
            secret in proptest::option::of(("[^:\\p{Cc}]{0,9}", "\\PC{0,20}", 0..1_000_000_000_i64)),
        ) {
            let given = ProxyBinding {
                name, project, path, insecure,
                kind: ProxyKind::Git,
                keys: keys.iter().map(|key| KeyHash::of(key)).collect(),
                target: RegistryHost::parse("git.example.org:8443").unwrap(),
                allowed_hosts: AllowList::parse(&allowed).unwrap(),
                upstream_proxy: proxy.map(|it| upstream_proxy(&it).unwrap()),
                credential: secret.map(|(username, password, at)| {
                    let expires = Timestamp::from_second(at).unwrap();
                    ProxyCredential::basic_auth(username, password, expires)
                }),
            };
            if let Ok(bytes) = render(&given) {
                prop_assert_eq!(&*render(&parse(&bytes).unwrap()).unwrap(), &*bytes);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
