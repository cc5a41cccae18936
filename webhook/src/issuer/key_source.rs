//! The Secret with the issuer's keys: it flows in, [`StoredKeys`] flow out each
//! time that it may have others. The first start makes it.
//!
//! It is watched by its metadata, and read when that changes, so that no event
//! carries a key. It is read every [`RESYNC`] besides: a watch can stand still
//! without a word, and [the overlap of keys](super::keys::Rotation) reckons with
//! the latest that a replica may be.

use std::{pin::pin, time::Duration};

use control_plane_core::identity::algorithm::Algorithm;
use futures::{Stream, StreamExt};
use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::PostParams,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::time::{Instant, sleep_until, timeout};

use super::keys::{KeyError, READING, RESYNC, SECRET, SECRET_KEY, SigningKey, StoredKeys};
use crate::{report::chain, wipe::wipe};

/// Between two attempts that fail.
const RETRY: Duration = Duration::from_secs(2);
/// What an administrator puts there.
const FORM: &str = "an RSA or P-256 key in PKCS#8 PEM";

/// Why the Secret gives no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeySourceError {
    /// The API server did not answer; `read` or `created`.
    #[error("Secret {namespace}/{SECRET} cannot be {step}")]
    Api {
        /// The Secret's namespace.
        namespace: String,
        /// What was to be done.
        step: &'static str,
        /// Why it was not.
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("Secret {0}/{SECRET}: no answer from the API server in time")]
    Timeout(String),
    /// The Secret is there, but not the key.
    #[error(
        "Secret {0}/{SECRET} has no key {SECRET_KEY}; put {FORM} there, or delete the Secret to \
         have one made"
    )]
    Missing(String),
    /// The Secret's key cannot be used.
    #[error(
        "Secret {namespace}/{SECRET}, key {SECRET_KEY} cannot be used; put {FORM} there, or \
         delete the Secret to have one made"
    )]
    Bad {
        /// The Secret's namespace.
        namespace: String,
        /// Why.
        source: KeyError,
    },
    /// No key could be made.
    #[error("no signing key could be made for Secret {namespace}/{SECRET}")]
    Make {
        /// The Secret's namespace.
        namespace: String,
        /// The library's words where it has any.
        source: Option<KeyError>,
    },
}

/// The Secret that the issuer's keys live in.
pub struct KeySource {
    client: Client,
    namespace: String,
    algorithm: Algorithm,
}

impl KeySource {
    /// The Secret [`SECRET`] of the installation's namespace; where there is
    /// none, one is made with a key of this algorithm.
    pub fn new(client: Client, namespace: &str, algorithm: Algorithm) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            algorithm,
        }
    }

    /// Hands to `take` what each look at the Secret finds, until dropped. A
    /// Secret that was deleted is made again with a new key.
    pub async fn follow(self, mut take: impl FnMut(Result<StoredKeys, KeySourceError>)) {
        let mut changes = pin!(self.changes());
        loop {
            let begun = Instant::now();
            let found = self.load_or_create().await;
            let pause = if found.is_ok() { RESYNC } else { RETRY };
            take(found);
            tokio::select! {
                () = sleep_until(begun + pause) => {}
                Some(()) = changes.next() => {}
            }
        }
    }

    /// Reads the keys; makes one if there is no Secret. When several replicas
    /// do that at once, all use the key of the one that was first.
    ///
    /// # Errors
    /// When the API server does not answer, or the key that is there cannot be
    /// used. A bad key is never replaced: it may be the user's own.
    pub async fn load_or_create(&self) -> Result<StoredKeys, KeySourceError> {
        let namespace = || self.namespace.clone();
        let work = async {
            if let Some(keys) = self.read().await? {
                return Ok(keys);
            }
            let algorithm = self.algorithm;
            let made = tokio::task::spawn_blocking(move || SigningKey::generate(algorithm));
            let failed = |source| KeySourceError::Make {
                namespace: namespace(),
                source,
            };
            let made = made.await.map_err(|_panicked| failed(None))?;
            let (key, pem) = made.map_err(|error| failed(Some(error)))?;
            if self.create(pem.as_bytes()).await? {
                let kid = &key.public().kid;
                tracing::info!(namespace = self.namespace, kid, "made a signing key");
                return Ok(key.into());
            }
            // Somebody was faster, and somebody else removed it since: next time.
            let read = self.read().await?;
            read.ok_or_else(|| KeySourceError::Missing(namespace()))
        };
        let found = timeout(READING, work).await;
        found.unwrap_or_else(|_elapsed| Err(KeySourceError::Timeout(namespace())))
    }

    /// An item for each event that says that the Secret is another one now.
    fn changes(&self) -> impl Stream<Item = ()> + use<> {
        let api =
            Api::<PartialObjectMeta<Secret>>::namespaced(self.client.clone(), &self.namespace);
        let only = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
        let events = watcher(api, only).default_backoff();
        events.filter_map(|event| {
            let changed = match event {
                // A list that begins again may end another way than the last.
                Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone) => Some(()),
                Ok(Event::Init | Event::InitApply(_)) => None,
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(
                        error,
                        "Secret {SECRET} is not watched; it is read every now and then"
                    );
                    None
                }
            };
            futures::future::ready(changed)
        })
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn read(&self) -> Result<Option<StoredKeys>, KeySourceError> {
        let read = self.api().get_opt(SECRET).await;
        let Some(mut secret) = read.map_err(|error| self.failed("read", error))? else {
            return Ok(None);
        };
        let entries = secret.data.iter().flatten();
        let entries = entries.map(|(name, value)| (name.as_str(), value.0.as_slice()));
        let keys = StoredKeys::from_entries(entries);
        wipe(&mut secret);
        let namespace = self.namespace.clone();
        match keys {
            Ok(Some(keys)) => Ok(Some(keys)),
            Ok(None) => Err(KeySourceError::Missing(namespace)),
            Err(source) => Err(KeySourceError::Bad { namespace, source }),
        }
    }

    /// Returns false if there is a Secret of that name already.
    async fn create(&self, pem: &[u8]) -> Result<bool, KeySourceError> {
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(
                    [("app.kubernetes.io/part-of".into(), "argocd-identity".into())].into(),
                ),
                ..ObjectMeta::default()
            },
            data: Some([(SECRET_KEY.to_owned(), ByteString(pem.to_vec()))].into()),
            ..Secret::default()
        };
        let created = self.api().create(&PostParams::default(), &secret).await;
        wipe(&mut secret);
        match created {
            Ok(mut created) => {
                wipe(&mut created);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
            Err(error) => Err(self.failed("created", error)),
        }
    }

    fn failed(&self, step: &'static str, error: kube::Error) -> KeySourceError {
        KeySourceError::Api {
            namespace: self.namespace.clone(),
            step,
            source: Box::new(error),
        }
    }
}

#[cfg(test)]
mod tests;
