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
use crate::bounds;
use crate::errors::{Code, Named};
use crate::layout::FileStem;
use crate::registry::RegistryHost;

mod credential;
mod realm;
mod route;

use credential::Written;
pub use credential::{ProxyCredential, ProxySecret};
pub use realm::Realm;
use realm::Written as WrittenRealm;
pub use route::Route;

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
    /// The token realm that the credential is for. The registry itself is shown
    /// its tokens alone.
    pub realm: Option<Realm>,
    /// The credential, once the agent has one.
    pub credential: Option<ProxyCredential>,
}

/// SHA-256 of a proxy key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    realm: Option<WrittenRealm>,
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
        realm: binding.realm.as_ref().map(WrittenRealm::from),
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
        realm: document.realm.map(WrittenRealm::read).transpose()?,
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
    if url.as_str().len() > bounds::URL {
        return refuse("is too long");
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
    if !route::is_served(&binding.path) {
        return Err(unreadable("path: not a repository path"));
    }
    let Some(credential) = &binding.credential else {
        return Ok(());
    };
    match (&credential.secret, &binding.realm) {
        (ProxySecret::Bearer { .. }, None) => {
            Err(unreadable("credential.token: there is no realm for it"))
        }
        (ProxySecret::X509 { .. }, Some(_)) => {
            Err(unreadable("realm: a certificate goes to no realm"))
        }
        _ => credential.check(),
    }
}

fn unreadable(reason: &str) -> Named {
    Named::new(Code::ProxyViewUnreadable, reason)
}

/// serde_json's own words may repeat a value.
fn syntax(error: &serde_json::Error) -> Named {
    unreadable(&format!("line {}, column {}", error.line(), error.column()))
}

#[cfg(test)]
mod tests;
