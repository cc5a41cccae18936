//! The issuer's keys as their Secret has them: the key that signs, and any
//! number of others to publish beside it.

use super::{KeyError, PublicJwk, SigningKey, StoredKeys};

/// Name of the Secret with the signing key, in the installation's namespace.
pub const SECRET: &str = "argocd-identity-issuer";
/// The key of that Secret; PKCS#8, PKCS#1 or SEC 1, in PEM.
pub const SECRET_KEY: &str = "tls.key";
/// Entries that end like this are published, whether public or private keys.
pub const PUBLISHED: &str = ".pem";

impl StoredKeys {
    /// Reads the Secret's entries; `None` where [`SECRET_KEY`] is missing.
    ///
    /// # Errors
    /// When what is there cannot be used.
    pub fn from_entries<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Option<Self>, KeyError> {
        let mut signing = None;
        let mut listed = Vec::new();
        for (name, value) in entries {
            if name == SECRET_KEY {
                signing = Some(SigningKey::from_pem(value)?);
            } else if name.ends_with(PUBLISHED) {
                let public = PublicJwk::from_pem(value);
                listed.push(public.map_err(|error| KeyError::Published {
                    entry: name.to_owned(),
                    error: Box::new(error),
                })?);
            }
        }
        Ok(signing.map(|signing| Self { signing, listed }))
    }
}
