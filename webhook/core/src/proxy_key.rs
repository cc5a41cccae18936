//! The installation's proxy key, and what it makes of a Secret: the key and a
//! Secret's identity flow in, the value of the Secret's `proxy` and the hashes
//! for its binding flow out. Pure, but for the making of a new key.
//!
//! Argo CD's API shows a repository's `proxy` to whoever may read the
//! repository. So each Secret has a key of its own, which says nothing about
//! another's, and the binding carries its SHA-256 only.

use std::{fmt, net::IpAddr, sync::Arc};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{Stream, stream};
use shared::{layout::PROXY_ADDRESS, proxy_view::KeyHash};
use tokio::sync::watch;
use url::Url;
use zeroize::Zeroizing;

/// Name of the Secret with the proxy key, in the installation's namespace.
pub const SECRET: &str = "argocd-identity-proxy-key";
/// The entry of that Secret that new values are made with.
pub const CURRENT: &str = "current";
/// The entry whose values are still accepted.
pub const PREVIOUS: &str = "previous";

/// As long as the output of SHA-256 (RFC 2104 section 3).
pub const LENGTH: usize = 32;
const LONGEST: usize = 1024;
/// 32 bytes in base64 without padding.
const KEY_LENGTH: usize = 43;
/// Tells these keys from anything else that might be made with the same key.
const PURPOSE: &[u8] = b"argocd-workload-identity proxy v1";

/// A key that cannot be used, or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyKeyError {
    /// Too short to be a secret, or too long to be meant.
    #[error("entry {entry} has {length} bytes; use {LENGTH} to {LONGEST}")]
    Length {
        /// `current` or `previous`.
        entry: &'static str,
        /// Its length.
        length: usize,
    },
    /// There are no random bytes.
    #[error("the cryptographic library gave no random bytes")]
    Random,
}

/// The key that values are made with, and the one before it while it is still
/// accepted.
#[derive(PartialEq, Eq)]
pub struct ProxyKeys {
    current: Zeroizing<Vec<u8>>,
    previous: Option<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for ProxyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyKeys")
            .field("has_previous", &self.previous.is_some())
            .finish_non_exhaustive()
    }
}

/// What makes the key of a Secret: it changes when one of these does.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The Secret's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The project that it is scoped to.
    pub project: Option<&'a str>,
    /// Its URL as the webhook leaves it.
    pub url: &'a str,
}

/// What a Secret's `proxy` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Not there.
    Nothing,
    /// Made with the current key.
    Current,
    /// Made with the previous key.
    Previous,
    /// The credential proxy under this Secret's name, with another key.
    Stale,
    /// The credential proxy under another name.
    Another,
    /// Some other proxy.
    Own,
}

impl ProxyKeys {
    /// Takes the two keys.
    ///
    /// # Errors
    /// When one has an unusable length.
    pub fn new(current: &[u8], previous: Option<&[u8]>) -> Result<Self, ProxyKeyError> {
        let key = |entry, bytes: &[u8]| match bytes.len() {
            LENGTH..=LONGEST => Ok(Zeroizing::new(bytes.to_vec())),
            length => Err(ProxyKeyError::Length { entry, length }),
        };
        Ok(Self {
            current: key(CURRENT, current)?,
            previous: previous.map(|bytes| key(PREVIOUS, bytes)).transpose()?,
        })
    }

    /// The value of `proxy` for a Secret.
    pub fn value(&self, subject: &Subject<'_>) -> Zeroizing<String> {
        value(subject, &secret_key(&self.current, subject))
    }

    /// Whether a key from before is still accepted.
    pub fn has_previous(&self) -> bool {
        self.previous.is_some()
    }

    /// Lower-case hex SHA-256 of the keys that are accepted from a Secret, that
    /// of the current one first.
    pub fn hashes(&self, subject: &Subject<'_>) -> Vec<String> {
        let keys = [Some(&self.current), self.previous.as_ref()];
        let mut hashes: Vec<_> = keys
            .into_iter()
            .flatten()
            .map(|key| KeyHash::of(secret_key(key, subject).as_bytes()).to_hex())
            .collect();
        hashes.dedup();
        hashes
    }

    /// What a Secret's `proxy` is.
    pub fn judge(&self, written: Option<&str>, subject: &Subject<'_>) -> Written {
        let Some(written) = written else {
            return Written::Nothing;
        };
        let made_with = |key: &[u8]| *value(subject, &secret_key(key, subject)) == *written;
        if made_with(&self.current) {
            Written::Current
        } else if self.previous.as_ref().is_some_and(|key| made_with(key)) {
            Written::Previous
        } else {
            match names(written) {
                Some(name) if name == subject.name => Written::Stale,
                Some(_) => Written::Another,
                None => Written::Own,
            }
        }
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

/// The Secret for which a webhook of ours, with whatever key, wrote this value.
/// Narrower than [`names`]: what is written any other way is for the API
/// server's policy to judge, and nothing that may be overwritten.
pub fn written_for(proxy: &str) -> Option<&str> {
    let rest = proxy.strip_prefix("http://")?;
    let rest = rest.strip_suffix(PROXY_ADDRESS)?.strip_suffix('@')?;
    let (name, key) = rest.split_once(':')?;
    let is_key = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    let fits = key.len() == KEY_LENGTH && key.bytes().all(is_key) && name.bytes().all(is_name);
    fits.then_some(name)
}

fn value(subject: &Subject<'_>, key: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("http://{}:{key}@{PROXY_ADDRESS}", subject.name))
}

fn secret_key(key: &[u8], subject: &Subject<'_>) -> Zeroizing<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, &message(subject));
    Zeroizing::new(URL_SAFE_NO_PAD.encode(tag))
}

/// Every field with its length before it, so that no two subjects are alike.
fn message(subject: &Subject<'_>) -> Vec<u8> {
    let project = subject.project.unwrap_or_default();
    let mut message = PURPOSE.to_vec();
    for field in [subject.namespace, subject.name, project, subject.url] {
        message.extend((field.len() as u64).to_be_bytes());
        message.extend(field.as_bytes());
    }
    message
}

/// The keys that are in force, once there are any. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ProxyKeyring(watch::Sender<Option<Arc<ProxyKeys>>>);

impl ProxyKeyring {
    /// The keys.
    pub fn keys(&self) -> Option<Arc<ProxyKeys>> {
        self.0.borrow().clone()
    }

    /// Takes over other keys. Returns whether they are others.
    pub fn replace(&self, keys: ProxyKeys) -> bool {
        self.0.send_if_modified(|current| {
            let differs = current.as_deref() != Some(&keys);
            if differs {
                *current = Some(Arc::new(keys));
            }
            differs
        })
    }

    /// An item each time that the keys have changed.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + use<> {
        stream::unfold(self.0.subscribe(), |mut keys| async {
            keys.changed().await.ok().map(|()| ((), keys))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
