//! The key of a Secret for the credential proxy: random bytes and what the
//! Secret is for flow in, the value of its `proxy` flows out; such a value flows
//! in, and whether it still counts flows out. Pure: the bytes are an argument.
//!
//! Argo CD's API shows a repository's `proxy` to whoever may read the
//! repository, so a key must not outlive what it was made for. The key says so
//! itself:
//!
//! ```text
//! http://<name>:<32 random bytes><mark>@127.0.0.1:15080
//!                                └─ SHA-256(the bytes, namespace, name, project, url, type), 16 bytes of it
//! ```
//!
//! The mark protects nothing from whoever may write the Secret. It lets
//! everybody who reads the Secret see that it was moved since, also when the
//! webhook was down then and the binding has been deleted meanwhile. The Secret
//! is the only place that has the key; a binding carries its SHA-256.

pub mod accepted;

use std::{fmt, net::IpAddr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use shared::{layout::PROXY_ADDRESS, proxy_view::KeyHash, secrets::Place};
use url::Url;
use zeroize::Zeroizing;

/// Length of a key without its mark.
pub const LENGTH: usize = 32;
/// 32 bytes in base64 without padding.
const KEY_LENGTH: usize = 43;
/// Bytes of the mark, and their length in base64 without padding.
const MARK: usize = 16;
const MARK_LENGTH: usize = 22;
/// Tells a mark from anything else that might be hashed.
const PURPOSE: &[u8] = b"argocd-workload-identity proxy v2";

/// The random bytes of a new key.
pub struct KeyBytes(Zeroizing<[u8; LENGTH]>);

impl KeyBytes {
    /// Takes bytes, which have to come from a source that nobody can predict.
    pub fn new(bytes: Zeroizing<[u8; LENGTH]>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes")
    }
}

/// What a key is made for: it counts while none of these changes.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The Secret's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Project, URL and type; `None` where they cannot be read, which no key
    /// was ever made for.
    pub place: Option<&'a Place>,
}

/// What a Secret's `proxy` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Not there.
    Nothing,
    /// A key that was made for what the Secret is for.
    Fits(KeyHash),
    /// A key of an earlier version, which does not say what it was made for.
    Unmarked(KeyHash),
    /// A key that was made for something else.
    Stale(KeyHash),
    /// The credential proxy under this Secret's name, but no key of the webhook's.
    Malformed,
    /// The credential proxy under another name.
    Another,
    /// Some other proxy.
    Own,
}

/// The value of `proxy` with a new key; `None` where there is no place that it
/// could be made for.
pub fn value(subject: &Subject<'_>, bytes: &KeyBytes) -> Option<Zeroizing<String>> {
    let random = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes.0));
    let mark = mark(&random, subject, subject.place?);
    let (name, random) = (subject.name, random.as_str());
    let value = format!("http://{name}:{random}{mark}@{PROXY_ADDRESS}");
    Some(Zeroizing::new(value))
}

/// What a Secret's `proxy` is.
pub fn judge(written: Option<&str>, subject: &Subject<'_>) -> Written {
    let Some(written) = written else {
        return Written::Nothing;
    };
    let Some((name, key)) = parts(written) else {
        return match names(written) {
            Some(name) if name == subject.name => Written::Malformed,
            Some(_) => Written::Another,
            None => Written::Own,
        };
    };
    if name != subject.name {
        return Written::Another;
    }
    let hash = KeyHash::of(key.as_bytes());
    let (random, found) = key.split_at(KEY_LENGTH);
    let fits = |place| mark(random, subject, place) == found;
    if found.is_empty() {
        Written::Unmarked(hash)
    } else if subject.place.is_some_and(fits) {
        Written::Fits(hash)
    } else {
        Written::Stale(hash)
    }
}

/// The Secret that a proxy's URL names at the credential proxy's address;
/// `None` where it leads elsewhere.
pub fn names(proxy: &str) -> Option<String> {
    let url = Url::parse(proxy).ok()?;
    let host = url.host_str()?;
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback());
    let (_, port) = PROXY_ADDRESS.rsplit_once(':')?;
    let is_ours = is_here && url.port().is_some_and(|found| found.to_string() == port);
    is_ours.then(|| url.username().to_owned())
}

/// The Secret for which a webhook of ours wrote this value. Narrower than
/// [`names`]: what is written any other way is for the API server's policy to
/// judge, and nothing that may be overwritten.
pub fn written_for(proxy: &str) -> Option<&str> {
    parts(proxy).map(|(name, _)| name)
}

/// Name and key of a value in exactly the form that the webhook writes.
fn parts(proxy: &str) -> Option<(&str, &str)> {
    let rest = proxy.strip_prefix("http://")?;
    let rest = rest.strip_suffix(PROXY_ADDRESS)?.strip_suffix('@')?;
    let (name, key) = rest.split_once(':')?;
    let is_key = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let has_length = key.len() == KEY_LENGTH || key.len() == KEY_LENGTH + MARK_LENGTH;
    let fits = has_length && key.bytes().all(is_key) && name.bytes().all(is_name);
    fits.then_some((name, key))
}

/// Every field with its length before it, so that no two subjects are alike.
fn mark(random: &str, subject: &Subject<'_>, place: &Place) -> String {
    let mut message = Zeroizing::new(PURPOSE.to_vec());
    for field in [
        random,
        subject.namespace,
        subject.name,
        place.project().unwrap_or_default(),
        place.url(),
        place.kind(),
    ] {
        message.extend((field.len() as u64).to_be_bytes());
        message.extend(field.as_bytes());
    }
    URL_SAFE_NO_PAD.encode(&KeyHash::of(&message).as_bytes()[..MARK])
}

#[cfg(test)]
mod journeys;
#[cfg(test)]
pub(crate) mod tests;
