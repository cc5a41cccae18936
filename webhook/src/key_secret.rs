//! A key of the installation that lives in a Secret: the Secret flows in, the
//! key flows out; the first start makes one.
//!
//! The credential proxy's key is kept like this. The issuer's, which is
//! watched, comes through [`key_source`](crate::issuer::key_source).

use std::{collections::BTreeMap, error::Error, fmt, marker::PhantomData, time::Duration};

use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{MissedTickBehavior, sleep};
use zeroize::Zeroizing;

use crate::{readiness::Gate, report::chain, wipe::wipe};

/// How often the Secret is read again, so that a replaced key is taken over.
pub const REREAD: Duration = Duration::from_secs(30);
/// Between two attempts to get the first key.
const RETRY: Duration = Duration::from_secs(2);
/// For one attempt to read it.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The entries of a Secret.
pub type Data = BTreeMap<String, ByteString>;

/// What kind of key a Secret has.
pub trait StoredKey: Sized + Send + 'static {
    /// Why a key cannot be read or made.
    type Error: Error + Send + Sync + 'static;
    /// The kinds of key that can be made.
    type Kind: Copy + Default + Send + 'static;

    /// Name of the Secret, in the installation's namespace.
    const SECRET: &'static str;
    /// The entry of its data that has to be there.
    const ENTRY: &'static str;
    /// What the key is called in logs and errors.
    const NAME: &'static str;
    /// What an administrator puts there.
    const FORM: &'static str;

    /// Reads the Secret's data; `None` where [`Self::ENTRY`] is missing.
    ///
    /// # Errors
    /// When what is there cannot be used.
    fn read(data: &Data) -> Result<Option<Self>, Self::Error>;

    /// Makes a key of that kind, and what [`Self::ENTRY`] is to hold. May take a second.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    fn make(kind: Self::Kind) -> Result<(Self, Zeroizing<Vec<u8>>), Self::Error>;

    /// What a log may say to tell it from another; nothing secret.
    fn id(&self) -> String;
}

/// Why the Secret gives no key. Its Display names the Secret and the remedy.
#[derive(Debug)]
pub struct KeySecretError<K: StoredKey> {
    namespace: String,
    reason: Reason<K::Error>,
    kind: PhantomData<fn() -> K>,
}

#[derive(Debug)]
enum Reason<E> {
    /// The API server did not answer; `read` or `created`.
    Api(&'static str, Box<kube::Error>),
    /// The API server did not answer in time.
    Timeout,
    /// The Secret is there, but not the key.
    Missing,
    /// The Secret's key cannot be used.
    Bad(E),
    /// No key could be made; the library's words where it has any.
    Make(Option<E>),
}

impl<K: StoredKey> KeySecretError<K> {
    fn new(namespace: &str, reason: Reason<K::Error>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            reason,
            kind: PhantomData,
        }
    }
}

impl<K: StoredKey> fmt::Display for KeySecretError<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, secret, entry, form) = (&self.namespace, K::SECRET, K::ENTRY, K::FORM);
        let secret = format_args!("Secret {namespace}/{secret}");
        match &self.reason {
            Reason::Api(step, _) => write!(f, "{secret} cannot be {step}"),
            Reason::Timeout => {
                let seconds = DEADLINE.as_secs();
                write!(
                    f,
                    "{secret}: no answer from the API server within {seconds} s"
                )
            }
            Reason::Missing => write!(
                f,
                "{secret} has no key {entry}; put {form} there, or delete the Secret to have one made"
            ),
            Reason::Bad(_) => write!(
                f,
                "{secret}, key {entry} cannot be used; put {form} there, or delete the Secret to have one made"
            ),
            Reason::Make(_) => write!(f, "no {} could be made for {secret}", K::NAME),
        }
    }
}

impl<K: StoredKey> Error for KeySecretError<K>
where
    Self: fmt::Debug,
{
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            Reason::Api(_, error) => Some(&**error),
            Reason::Bad(error) | Reason::Make(Some(error)) => Some(error),
            Reason::Timeout | Reason::Missing | Reason::Make(None) => None,
        }
    }
}

/// The Secret that a key lives in.
pub struct KeySource<K: StoredKey> {
    api: Api<Secret>,
    namespace: String,
    kind: K::Kind,
}

impl<K: StoredKey + fmt::Debug> KeySource<K> {
    /// The Secret [`StoredKey::SECRET`] of the installation's namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            kind: K::Kind::default(),
        }
    }

    /// The same, where a key of this kind is made on first start.
    pub fn making(self, kind: K::Kind) -> Self {
        Self { kind, ..self }
    }

    /// Waits for the first key; `gate` says why there is none yet.
    pub async fn first(&self, gate: &Gate) -> K {
        loop {
            match self.load_or_create().await {
                Ok(key) => {
                    gate.open();
                    return key;
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(error, "no {} yet", K::NAME);
                    gate.close(error);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Reads the key; makes one if there is no Secret. When several replicas
    /// do that at once, all use the key of the one that was first.
    ///
    /// # Errors
    /// When the API server does not answer, or the key that is there cannot be
    /// used. A bad key is never replaced: it may be the user's own.
    pub async fn load_or_create(&self) -> Result<K, KeySecretError<K>> {
        let work = async {
            if let Some(key) = self.read().await? {
                return Ok(key);
            }
            let kind = self.kind;
            let made = tokio::task::spawn_blocking(move || K::make(kind));
            let (key, bytes) = match made.await {
                Ok(made) => made.map_err(|error| self.error(Reason::Make(Some(error))))?,
                Err(_panicked) => return Err(self.error(Reason::Make(None))),
            };
            if self.create(&bytes).await? {
                let (namespace, id) = (&self.namespace, key.id());
                tracing::info!(namespace, id, "made a {}", K::NAME);
                return Ok(key);
            }
            // Somebody was faster, and somebody else removed it since: next time.
            let read = self.read().await?;
            read.ok_or_else(|| self.error(Reason::Missing))
        };
        tokio::time::timeout(DEADLINE, work)
            .await
            .unwrap_or_else(|_elapsed| Err(self.error(Reason::Timeout)))
    }

    /// Hands what the Secret has to `replace`, which tells whether it is
    /// another key, for as long as it is polled. On failure the last good key
    /// stays; a Secret that was deleted is made again with a new key.
    pub async fn follow(self, replace: impl Fn(K) -> bool) {
        let mut ticks = tokio::time::interval(REREAD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            match self.load_or_create().await {
                Ok(key) => {
                    let id = key.id();
                    if replace(key) {
                        let namespace = &self.namespace;
                        tracing::info!(namespace, id, "took over another {}", K::NAME);
                    }
                }
                Err(error) => {
                    let error = &error as &dyn Error;
                    tracing::error!(error, "the {} stays as it was", K::NAME);
                }
            }
        }
    }

    async fn read(&self) -> Result<Option<K>, KeySecretError<K>> {
        let secret = self.api.get_opt(K::SECRET).await;
        let read = secret.map_err(|error| self.error(Reason::Api("read", Box::new(error))))?;
        let Some(mut secret) = read else {
            return Ok(None);
        };
        let key = secret.data.as_ref().map_or(Ok(None), K::read);
        wipe(&mut secret);
        match key {
            Ok(Some(key)) => Ok(Some(key)),
            Ok(None) => Err(self.error(Reason::Missing)),
            Err(error) => Err(self.error(Reason::Bad(error))),
        }
    }

    /// Returns false if there is a Secret of that name already.
    async fn create(&self, bytes: &[u8]) -> Result<bool, KeySecretError<K>> {
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(K::SECRET.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(
                    [("app.kubernetes.io/part-of".into(), "argocd-identity".into())].into(),
                ),
                ..ObjectMeta::default()
            },
            data: Some([(K::ENTRY.to_owned(), ByteString(bytes.to_vec()))].into()),
            ..Secret::default()
        };
        let created = self.api.create(&PostParams::default(), &secret).await;
        wipe(&mut secret);
        match created {
            Ok(mut created) => {
                wipe(&mut created);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
            Err(error) => Err(self.error(Reason::Api("created", Box::new(error)))),
        }
    }

    fn error(&self, reason: Reason<K::Error>) -> KeySecretError<K> {
        KeySecretError::new(&self.namespace, reason)
    }
}
