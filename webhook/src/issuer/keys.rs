//! The issuer's keys: PEM from a Secret flows in, signatures and public halves
//! flow out.
//!
//! The private half stays in aws-lc, which overwrites what it frees; nothing
//! here prints it.

mod in_force;
mod jwk;
mod rotation;
mod secret;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{self, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use control_plane_core::identity::algorithm::Algorithm;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Serialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use in_force::InForce;
pub use jwk::PublicJwk;
pub use rotation::{MAX_AGE, READING, RESYNC, Rotation, SETTLE, SPREAD, StoredKeys};
pub use secret::{PUBLISHED, SECRET, SECRET_KEY};

/// 2048 bits: what NIST SP 800-57 allows beyond 2030 is 3072, but the tokens
/// live for an hour and each registry verifies one per refresh.
const KEY_SIZE: KeySize = KeySize::Rsa2048;

/// A key that cannot be used, or an operation with it that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is no key in PEM.
    #[error("not a key in PEM")]
    NotPem(#[source] rustls::pki_types::pem::Error),
    /// The key is of a kind that nothing here can use.
    #[error("neither an RSA nor a P-256 key")]
    Unsupported,
    /// The key is damaged, of another kind, or aws-lc refuses it.
    #[error("not a usable RSA or P-256 key: {0}")]
    Rejected(aws_lc_rs::error::KeyRejected),
    /// Another entry of the Secret is no key.
    #[error("entry {entry}, which is to be published, cannot be used")]
    Published {
        /// The entry.
        entry: String,
        /// Why.
        #[source]
        error: Box<KeyError>,
    },
    /// The key is shorter or longer than is sensible.
    #[error("an RSA key of {bits} bits; use 2048 to 8192")]
    Size {
        /// The length of its modulus.
        bits: usize,
    },
    /// aws-lc could not make or use a key.
    #[error("the cryptographic library failed while {0}")]
    Crypto(&'static str),
    /// The claims cannot be written as JSON.
    #[error("the claims cannot be written")]
    Claims(#[source] serde_json::Error),
}

/// A private key, ready to sign.
pub struct SigningKey {
    pair: Pair,
    public: PublicJwk,
}

enum Pair {
    Rsa(rsa::KeyPair),
    P256(EcdsaKeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.public.kid)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads the first private key of a PEM text.
    ///
    /// # Errors
    /// When there is none, or it is neither an RSA key of 2048 to 8192 bits nor
    /// one on P-256.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = Zeroizing::new(PrivateKeyDer::from_pem_slice(pem).map_err(KeyError::NotPem)?);
        let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = match &*der {
            PrivateKeyDer::Pkcs8(key) => {
                let der = key.secret_pkcs8_der();
                // Its kind is inside, and each reader refuses the other's.
                EcdsaKeyPair::from_pkcs8(curve, der)
                    .map(Pair::P256)
                    .or_else(|_other| rsa::KeyPair::from_pkcs8(der).map(Pair::Rsa))
            }
            PrivateKeyDer::Pkcs1(key) => {
                rsa::KeyPair::from_der(key.secret_pkcs1_der()).map(Pair::Rsa)
            }
            PrivateKeyDer::Sec1(key) => {
                EcdsaKeyPair::from_private_key_der(curve, key.secret_sec1_der()).map(Pair::P256)
            }
            _ => return Err(KeyError::Unsupported),
        };
        Self::new(pair.map_err(KeyError::Rejected)?)
    }

    /// Makes a key; its PKCS#8 PEM is returned beside it, to be stored. Takes
    /// up to a second of CPU.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate(algorithm: Algorithm) -> Result<(Self, Zeroizing<String>), KeyError> {
        let failed = |step| move |_unspecified| KeyError::Crypto(step);
        let (making, writing) = ("making a key", "writing a key");
        let (pair, pem) = match algorithm {
            Algorithm::Rs256 => {
                let pair = rsa::KeyPair::generate(KEY_SIZE).map_err(failed(making))?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed(writing))?;
                let pem = pem(der.as_ref());
                (Pair::Rsa(pair), pem)
            }
            Algorithm::Es256 => {
                let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let pair = EcdsaKeyPair::generate(curve).map_err(failed(making))?;
                let der = pair.to_pkcs8v1().map_err(failed(writing))?;
                let pem = pem(der.as_ref());
                (Pair::P256(pair), pem)
            }
        };
        Ok((Self::new(pair)?, pem))
    }

    fn new(pair: Pair) -> Result<Self, KeyError> {
        let public = match &pair {
            Pair::Rsa(pair) => {
                let key = pair.public_key();
                PublicJwk::rsa(
                    key.modulus().big_endian_without_leading_zero(),
                    key.exponent().big_endian_without_leading_zero(),
                )?
            }
            Pair::P256(pair) => PublicJwk::p256(pair.public_key().as_ref())?,
        };
        Ok(Self { pair, public })
    }

    /// The public half.
    pub fn public(&self) -> &PublicJwk {
        &self.public
    }

    /// Signs claims as a JWT in compact form (RFC 7515 section 7.1).
    ///
    /// # Errors
    /// When the claims are no JSON or the cryptographic library fails.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        #[derive(Serialize)]
        struct Header<'a> {
            alg: Algorithm,
            kid: &'a str,
            typ: &'static str,
        }
        let header = Header {
            alg: self.public.algorithm(),
            kid: &self.public.kid,
            typ: "JWT",
        };
        let mut token = segment(&header)?;
        token.push('.');
        token.push_str(&segment(claims)?);
        let signature = self.pair.sign(token.as_bytes());
        let signature = signature.map_err(|_unspecified| KeyError::Crypto("signing"))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl Pair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                Ok(signature)
            }
            // r and s, one after the other (RFC 7518 section 3.4).
            Self::P256(pair) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
        }
    }
}

fn segment(value: &impl Serialize) -> Result<String, KeyError> {
    let json = serde_json::to_vec(value).map_err(KeyError::Claims)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn pem(der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    // Room for everything, so that no copy of a part is left behind.
    let mut pem = Zeroizing::new(String::with_capacity(base64.len() * 2 + 64));
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    for (at, character) in base64.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END PRIVATE KEY-----\n");
    pem
}

/// The keys that are in force, once there are any. Clones share them.
#[derive(Debug, Clone)]
pub struct Keyring {
    lifetime: Duration,
    rotation: Arc<Mutex<Option<Rotation>>>,
}

impl Keyring {
    /// A ring that has no key yet, for tokens that live for `lifetime`.
    pub fn empty(lifetime: Duration) -> Self {
        Self {
            lifetime,
            rotation: Arc::default(),
        }
    }

    /// A ring with these keys.
    #[cfg(test)]
    pub(crate) fn new(keys: impl Into<StoredKeys>, lifetime: Duration) -> Self {
        let ring = Self::empty(lifetime);
        ring.replace(keys);
        ring
    }

    /// The key to sign with, if there is one yet.
    pub fn current(&self) -> Option<Arc<SigningKey>> {
        let mut rotation = self.lock();
        Some(rotation.as_mut()?.signing(Instant::now()))
    }

    /// Public halves of all keys that may have signed a valid token or are
    /// about to sign one.
    pub fn public(&self) -> Vec<PublicJwk> {
        let mut rotation = self.lock();
        let rotation = rotation.as_mut();
        rotation.map_or_else(Vec::new, |rotation| rotation.published(Instant::now()))
    }

    /// Takes over what the Secret has. Returns whether another key is to sign:
    /// the first signs at once, each other is published at once and signs after
    /// [`SETTLE`].
    pub fn replace(&self, keys: impl Into<StoredKeys>) -> bool {
        let (keys, now) = (keys.into(), Instant::now());
        let mut rotation = self.lock();
        match rotation.as_mut() {
            Some(rotation) => rotation.read(keys, now),
            None => {
                *rotation = Some(Rotation::new(keys, self.lifetime, now));
                true
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Rotation>> {
        // What a panic left behind is still a set of keys.
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
