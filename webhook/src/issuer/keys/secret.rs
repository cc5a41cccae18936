//! The signing key as its Secret has it.

use zeroize::Zeroizing;

use super::{KeyError, SigningKey};
use crate::key_secret::{self, StoredKey};

/// Name of the Secret with the signing key, in the installation's namespace.
pub const SECRET: &str = "argocd-identity-issuer";
/// The key of that Secret; PKCS#8 or PKCS#1, in PEM.
pub const SECRET_KEY: &str = "tls.key";

/// The Secret that the signing key lives in.
pub type KeySource = key_secret::KeySource<SigningKey>;

impl StoredKey for SigningKey {
    type Error = KeyError;

    const SECRET: &'static str = SECRET;
    const ENTRY: &'static str = SECRET_KEY;
    const NAME: &'static str = "signing key";
    const FORM: &'static str = "an RSA key in PKCS#8 PEM";

    fn read<'d>(entry: impl Fn(&str) -> Option<&'d [u8]>) -> Result<Option<Self>, KeyError> {
        entry(SECRET_KEY).map(Self::from_pem).transpose()
    }

    fn make() -> Result<(Self, Zeroizing<Vec<u8>>), KeyError> {
        let (key, pem) = Self::generate()?;
        Ok((key, Zeroizing::new(pem.as_bytes().to_vec())))
    }

    fn id(&self) -> String {
        self.public.kid.clone()
    }
}
