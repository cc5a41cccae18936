//! Where the signing key lives: a Secret flows in, a key flows out; the first
//! start makes one.

use std::time::Duration;

use k8s_openapi::{
    ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::MissedTickBehavior;

use super::{KeyError, Keyring, SigningKey};
use crate::source::wipe;

/// Name of the Secret with the signing key, in the installation's namespace.
pub const SECRET: &str = "argocd-identity-issuer";
/// The key of that Secret; PKCS#8 or PKCS#1, in PEM.
pub const SECRET_KEY: &str = "tls.key";

/// How often the Secret is read again, so that a replaced key is taken over.
pub(super) const REREAD: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the Secret gives no key. Its Display names the Secret and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The API server did not answer.
    #[error("Secret {namespace}/{SECRET} cannot be {step}")]
    Api {
        /// The installation's namespace.
        namespace: String,
        /// `read` or `created`.
        step: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("Secret {namespace}/{SECRET}: no answer from the API server within {} s", DEADLINE.as_secs())]
    Timeout {
        /// The installation's namespace.
        namespace: String,
    },
    /// The Secret is there, but not the key.
    #[error(
        "Secret {namespace}/{SECRET} has no key {SECRET_KEY}; put a PKCS#8 PEM there, or delete the Secret to have one made"
    )]
    Missing {
        /// The installation's namespace.
        namespace: String,
    },
    /// The Secret's key cannot be used.
    #[error(
        "Secret {namespace}/{SECRET}, key {SECRET_KEY} cannot be used; put an RSA key in PKCS#8 PEM there, or delete the Secret to have one made"
    )]
    Bad {
        /// The installation's namespace.
        namespace: String,
        /// The cause.
        #[source]
        source: KeyError,
    },
    /// No key could be made.
    #[error("no signing key could be made for Secret {namespace}/{SECRET}")]
    Generate {
        /// The installation's namespace.
        namespace: String,
        /// The cause.
        #[source]
        source: KeyError,
    },
}

/// The Secret that the key lives in.
#[derive(Clone)]
pub struct KeySource {
    api: Api<Secret>,
    namespace: String,
}

impl KeySource {
    /// The Secret [`SECRET`] of the installation's namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }

    /// Reads the key; makes one if there is no Secret. When several replicas
    /// do that at once, all use the key of the one that was first.
    ///
    /// # Errors
    /// When the API server does not answer, or the key that is there cannot be
    /// used. A bad key is never replaced: it may be the user's own.
    pub async fn load_or_create(&self) -> Result<SigningKey, KeyringError> {
        let work = async {
            if let Some(key) = self.read().await? {
                return Ok(key);
            }
            let generated = tokio::task::spawn_blocking(SigningKey::generate).await;
            let (key, pem) = generated
                .unwrap_or(Err(KeyError::Crypto("making a key")))
                .map_err(|source| KeyringError::Generate {
                    namespace: self.namespace.clone(),
                    source,
                })?;
            if self.create(&pem).await? {
                tracing::info!(
                    namespace = self.namespace,
                    kid = key.public.kid,
                    "made a signing key"
                );
                return Ok(key);
            }
            // Somebody was faster, and somebody else removed it since: next time.
            self.read().await?.ok_or_else(|| KeyringError::Missing {
                namespace: self.namespace.clone(),
            })
        };
        tokio::time::timeout(DEADLINE, work)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(KeyringError::Timeout {
                    namespace: self.namespace.clone(),
                })
            })
    }

    /// Keeps `keyring` at what the Secret has, for as long as it is polled. On
    /// failure the last good key stays; a Secret that was deleted is made
    /// again with a new key.
    pub async fn follow(self, keyring: Keyring) {
        let mut ticks = tokio::time::interval(REREAD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            match self.load_or_create().await {
                Ok(key) => {
                    let kid = key.public.kid.clone();
                    if keyring.replace(key) {
                        tracing::info!(
                            namespace = self.namespace,
                            kid,
                            "took over another signing key"
                        );
                    }
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the signing key stays as it was");
                }
            }
        }
    }

    async fn read(&self) -> Result<Option<SigningKey>, KeyringError> {
        let secret = self.api.get_opt(SECRET).await;
        let Some(mut secret) = secret.map_err(|error| self.api_error("read", error))? else {
            return Ok(None);
        };
        let namespace = self.namespace.clone();
        let key = match secret.data.as_ref().and_then(|data| data.get(SECRET_KEY)) {
            None => Err(KeyringError::Missing { namespace }),
            Some(pem) => SigningKey::from_pem(&pem.0)
                .map(Some)
                .map_err(|source| KeyringError::Bad { namespace, source }),
        };
        wipe(&mut secret);
        key
    }

    /// Returns false if there is a Secret of that name already.
    async fn create(&self, pem: &str) -> Result<bool, KeyringError> {
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(
                    [("app.kubernetes.io/part-of".into(), "argocd-identity".into())].into(),
                ),
                ..ObjectMeta::default()
            },
            data: Some([(SECRET_KEY.to_owned(), ByteString(pem.as_bytes().to_vec()))].into()),
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
            Err(error) => Err(self.api_error("created", error)),
        }
    }

    fn api_error(&self, step: &'static str, error: kube::Error) -> KeyringError {
        KeyringError::Api {
            namespace: self.namespace.clone(),
            step,
            source: Box::new(error),
        }
    }
}
