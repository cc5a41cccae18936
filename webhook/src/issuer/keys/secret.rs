//! The issuer's keys as their Secret has them: the key that signs, and any
//! number of others to publish beside it.

use zeroize::Zeroizing;

use super::{Algorithm, KeyError, PublicJwk, SigningKey, StoredKeys};
use crate::key_secret::{self, Data, StoredKey};

/// Name of the Secret with the signing key, in the installation's namespace.
pub const SECRET: &str = "argocd-identity-issuer";
/// The key of that Secret; PKCS#8, PKCS#1 or SEC 1, in PEM.
pub const SECRET_KEY: &str = "tls.key";
/// Entries that end like this are published, whether public or private keys.
pub const PUBLISHED: &str = ".pem";

/// The Secret that the signing key lives in.
pub type KeySource = key_secret::KeySource<StoredKeys>;

impl StoredKey for StoredKeys {
    type Error = KeyError;
    type Kind = Algorithm;

    const SECRET: &'static str = SECRET;
    const ENTRY: &'static str = SECRET_KEY;
    const NAME: &'static str = "signing key";
    const FORM: &'static str = "an RSA or P-256 key in PKCS#8 PEM";

    fn read(data: &Data) -> Result<Option<Self>, KeyError> {
        let Some(signing) = data.get(SECRET_KEY) else {
            return Ok(None);
        };
        let published = data.iter().filter(|(name, _)| name.ends_with(PUBLISHED));
        let listed = published.map(|(name, value)| {
            PublicJwk::from_pem(&value.0).map_err(|error| KeyError::Published {
                entry: name.clone(),
                error: Box::new(error),
            })
        });
        Ok(Some(Self {
            signing: SigningKey::from_pem(&signing.0)?,
            listed: listed.collect::<Result<_, _>>()?,
        }))
    }

    fn make(algorithm: Algorithm) -> Result<(Self, Zeroizing<Vec<u8>>), KeyError> {
        let (key, pem) = SigningKey::generate(algorithm)?;
        Ok((key.into(), Zeroizing::new(pem.as_bytes().to_vec())))
    }

    fn id(&self) -> String {
        self.signing.public().kid.clone()
    }
}
