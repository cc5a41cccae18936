//! Public halves of keys, as JWKS has them: numbers or PEM flow in, a
//! [`PublicJwk`] flows out (RFC 7517, RFC 7518 section 6).

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use control_plane_core::identity::algorithm::Algorithm;
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Serialize;
use x509_parser::{
    oid_registry::OID_EC_P256, prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo,
};

use super::{KeyError, SigningKey};

const MINIMUM_BYTES: usize = 256;
const MAXIMUM_BYTES: usize = 1024;
/// Of a coordinate of P-256.
const COORDINATE: usize = 32;

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicJwk {
    #[serde(flatten)]
    numbers: Numbers,
    #[serde(rename = "use")]
    usage: &'static str,
    alg: Algorithm,
    /// The RFC 7638 thumbprint of the key.
    pub kid: String,
}

/// What tells a key from another, in base64url.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kty")]
enum Numbers {
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "EC")]
    Ec {
        crv: &'static str,
        x: String,
        y: String,
    },
}

impl PublicJwk {
    /// Of an RSA key; both numbers are big-endian, without leading zeros.
    ///
    /// # Errors
    /// When the key is shorter or longer than is sensible.
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        if !(MINIMUM_BYTES..=MAXIMUM_BYTES).contains(&modulus.len()) {
            let bits = modulus.len() * 8;
            return Err(KeyError::Size { bits });
        }
        let numbers = Numbers::Rsa {
            n: URL_SAFE_NO_PAD.encode(modulus),
            e: URL_SAFE_NO_PAD.encode(exponent),
        };
        Ok(Self::new(Algorithm::Rs256, numbers))
    }

    /// Of a key on P-256: its uncompressed point (SEC 1 section 2.3.3).
    ///
    /// # Errors
    /// When it is another kind of point.
    pub(super) fn p256(point: &[u8]) -> Result<Self, KeyError> {
        let (x, y) = match point.split_first() {
            Some((4, coordinates)) if coordinates.len() == 2 * COORDINATE => {
                coordinates.split_at(COORDINATE)
            }
            _ => return Err(KeyError::Unsupported),
        };
        let numbers = Numbers::Ec {
            crv: "P-256",
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
        };
        Ok(Self::new(Algorithm::Es256, numbers))
    }

    /// Reads a PEM text: a public key, or a private one whose public half it
    /// is then.
    ///
    /// # Errors
    /// When there is neither, or it is no key to verify with.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        match SigningKey::from_pem(pem) {
            Ok(key) => return Ok(key.public().clone()),
            Err(KeyError::NotPem(_)) => {}
            Err(error) => return Err(error),
        }
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(KeyError::NotPem)?;
        let Ok((_, key)) = SubjectPublicKeyInfo::from_der(&der) else {
            return Err(KeyError::Unsupported);
        };
        let curve = key.algorithm.parameters.as_ref();
        let curve = curve.and_then(|parameters| parameters.as_oid().ok());
        match key.parsed() {
            Ok(PublicKey::RSA(key)) => Self::rsa(bare(key.modulus), bare(key.exponent)),
            Ok(PublicKey::EC(point)) if curve == Some(OID_EC_P256) => Self::p256(point.data()),
            _ => Err(KeyError::Unsupported),
        }
    }

    /// What it verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.alg
    }

    fn new(alg: Algorithm, numbers: Numbers) -> Self {
        // RFC 7638 section 3.2: required members only, in this order, no blanks.
        let members = match &numbers {
            Numbers::Rsa { n, e } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            Numbers::Ec { crv, x, y } => {
                format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
        };
        let thumbprint = digest::digest(&digest::SHA256, members.as_bytes());
        Self {
            numbers,
            usage: "sig",
            alg,
            kid: URL_SAFE_NO_PAD.encode(thumbprint),
        }
    }
}

/// A DER integer without the zero that keeps it positive.
fn bare(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
