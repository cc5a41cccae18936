//! The issuer's signing key: PEM from a Secret flows in, signatures and the
//! public half flow out.
//!
//! The private half stays in aws-lc, which overwrites what it frees; nothing
//! here prints it.

mod secret;

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    digest,
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Serialize;
use tokio::sync::watch;
use zeroize::Zeroizing;

pub use secret::{KeySource, SECRET, SECRET_KEY};

/// The signature algorithm: the one that every registry accepts (Quay takes
/// RS256 and RS384 only).
pub const ALGORITHM: &str = "RS256";

/// 2048 bits: what NIST SP 800-57 allows beyond 2030 is 3072, but the tokens
/// live for an hour and each registry verifies one per refresh.
const KEY_SIZE: KeySize = KeySize::Rsa2048;
const MINIMUM_BYTES: usize = 256;
const MAXIMUM_BYTES: usize = 1024;

/// A key that cannot be used, or an operation with it that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is no private key in PEM.
    #[error("not a private key in PEM")]
    NotPem(#[source] rustls::pki_types::pem::Error),
    /// The key is no RSA key.
    #[error("not an RSA key; RS256 needs one")]
    NotRsa,
    /// The key is damaged or aws-lc refuses it.
    #[error("not a usable RSA key: {0}")]
    Rejected(aws_lc_rs::error::KeyRejected),
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

/// The public half of a key, as JWKS has it (RFC 7517, RFC 7518 section 6.3.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicJwk {
    kty: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
    alg: &'static str,
    /// The RFC 7638 thumbprint of the key.
    pub kid: String,
    n: String,
    e: String,
}

impl PublicJwk {
    fn new(modulus: &[u8], exponent: &[u8]) -> Self {
        let n = URL_SAFE_NO_PAD.encode(modulus);
        let e = URL_SAFE_NO_PAD.encode(exponent);
        // RFC 7638 section 3.2: required members only, in this order, no blanks.
        let members = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
        let thumbprint = digest::digest(&digest::SHA256, members.as_bytes());
        Self {
            kty: "RSA",
            usage: "sig",
            alg: ALGORITHM,
            kid: URL_SAFE_NO_PAD.encode(thumbprint),
            n,
            e,
        }
    }
}

/// A private key, ready to sign.
pub struct SigningKey {
    pair: KeyPair,
    public: PublicJwk,
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
    /// When there is none, or it is no RSA key of 2048 to 8192 bits.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = Zeroizing::new(PrivateKeyDer::from_pem_slice(pem).map_err(KeyError::NotPem)?);
        let pair = match &*der {
            PrivateKeyDer::Pkcs8(key) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => KeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(KeyError::NotRsa),
        };
        Self::new(pair.map_err(KeyError::Rejected)?)
    }

    /// Makes a key; its PKCS#8 PEM is returned beside it, to be stored. Takes
    /// up to a second of CPU.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate() -> Result<(Self, Zeroizing<String>), KeyError> {
        let pair =
            KeyPair::generate(KEY_SIZE).map_err(|_unspecified| KeyError::Crypto("making a key"))?;
        let der: Pkcs8V1Der<'_> = pair
            .as_der()
            .map_err(|_unspecified| KeyError::Crypto("writing a key"))?;
        let pem = pem(der.as_ref());
        Ok((Self::new(pair)?, pem))
    }

    fn new(pair: KeyPair) -> Result<Self, KeyError> {
        let length = pair.public_modulus_len();
        if !(MINIMUM_BYTES..=MAXIMUM_BYTES).contains(&length) {
            return Err(KeyError::Size { bits: length * 8 });
        }
        let key = pair.public_key();
        let public = PublicJwk::new(
            key.modulus().big_endian_without_leading_zero(),
            key.exponent().big_endian_without_leading_zero(),
        );
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
            alg: &'static str,
            kid: &'a str,
            typ: &'static str,
        }
        let header = Header {
            alg: ALGORITHM,
            kid: &self.public.kid,
            typ: "JWT",
        };
        let mut token = segment(&header)?;
        token.push('.');
        token.push_str(&segment(claims)?);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                token.as_bytes(),
                &mut signature,
            )
            .map_err(|_unspecified| KeyError::Crypto("signing"))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
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

/// The key that is in force. Clones share it.
#[derive(Debug, Clone)]
pub struct Keyring(watch::Sender<Arc<SigningKey>>);

impl Keyring {
    /// A ring with this key.
    pub fn new(key: SigningKey) -> Self {
        Self(watch::Sender::new(Arc::new(key)))
    }

    /// The key to sign with.
    pub fn current(&self) -> Arc<SigningKey> {
        self.0.borrow().clone()
    }

    /// Public halves of all keys that may have signed a valid token.
    pub fn public(&self) -> Vec<PublicJwk> {
        vec![self.0.borrow().public().clone()]
    }

    /// Takes over another key. Returns whether it is another one.
    pub fn replace(&self, key: SigningKey) -> bool {
        self.0.send_if_modified(|current| {
            let differs = current.public != key.public;
            if differs {
                *current = Arc::new(key);
            }
            differs
        })
    }
}

#[cfg(test)]
mod tests;
