//! Signature algorithms: which there are, and what does not take one.

use std::fmt;

use serde::{Serialize, Serializer};
use shared::{
    binding::{CredentialKind, ExchangeKind},
    errors::{Code, Named},
};

use crate::settings::Setting;

/// A signature algorithm (RFC 7518 section 3.1). The key decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// RSA: what every registry accepts.
    #[default]
    Rs256,
    /// P-256: shorter tokens, and not for Quay.
    Es256,
}

impl Algorithm {
    /// The `alg` of a JWS header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }

    /// The algorithm with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Rs256, Self::Es256];
        all.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Why the exchange of a binding takes no token that is signed like this,
    /// if it does not: Quay accepts RS256 and RS384 only.
    pub fn objection(
        self,
        object: &str,
        credential: CredentialKind,
        exchange: ExchangeKind,
    ) -> Option<Named> {
        let is_ours = credential == CredentialKind::SpiffeJWT;
        let is_refused = self == Self::Es256 && exchange == ExchangeKind::Quay;
        (is_ours && is_refused).then(|| {
            let detail = format!("{object}: the issuer signs with {self}");
            Named::new(Code::UnsupportedAlgorithm, detail)
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Setting for Algorithm {
    const FIX: &'static str = "Use RS256, which every registry accepts, or ES256";

    fn parse(text: &str) -> Result<Self, String> {
        Self::from_name(text).ok_or_else(|| "it is no algorithm of the issuer".to_owned())
    }
}
