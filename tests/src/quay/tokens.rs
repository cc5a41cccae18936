//! The stand-in's own signatures: robot tokens (a robot's short-lived password) and registry tokens.
//!
//! Flows in: who a token is for, what it grants, how long it lives. Flows out: a compact JWT, or the
//! claims of one that this key signed.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
};
use serde::{Deserialize, Serialize};

/// One ES256 signing key with its published half.
pub(crate) struct SigningKey {
    id: String,
    private: EncodingKey,
    public: Jwk,
    verifier: DecodingKey,
}

/// Why a robot's password that looks like a JWT was not accepted.
pub(crate) enum Rejection {
    /// Signed by a key that the stand-in does not have (a raw SVID, or a key rotated away).
    UnknownKey,
    /// Expired, or not signed by the key that it names.
    Invalid,
}

/// Claims of a robot token: what the federation endpoint returns and `/v2/auth` takes as a password.
#[derive(Serialize, Deserialize)]
pub(crate) struct RobotClaims {
    iss: String,
    aud: String,
    /// The robot's full name, `namespace+name`.
    pub(crate) sub: String,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// Claims of a registry token, as distribution's token authentication reads them
/// (distribution specification, "Token Authentication Implementation").
#[derive(Serialize)]
struct RegistryClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
    access: &'a [Access],
}

/// One entry of a registry token's `access` list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Access {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    pub(crate) actions: Vec<String>,
}

impl SigningKey {
    /// A fresh P-256 key under the given key ID.
    pub(crate) fn generate(id: impl Into<String>) -> Result<Self> {
        let id = id.into();
        let pair =
            rcgen::KeyPair::generate().context("could not make the registry's signing key")?;
        let private = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut public = Jwk::from_encoding_key(&private, Algorithm::ES256)
            .context("could not derive the public half of the registry's signing key")?;
        public.common.key_id = Some(id.clone());
        let verifier = DecodingKey::from_jwk(&public)
            .context("could not read back the public half of the registry's signing key")?;
        Ok(Self {
            id,
            private,
            public,
            verifier,
        })
    }

    /// The JWKS document that the real registry verifies registry tokens with.
    pub(crate) fn jwks(&self) -> Result<String> {
        let set = JwkSet {
            keys: vec![self.public.clone()],
        };
        serde_json::to_string(&set).context("could not write the registry's key set")
    }

    /// A robot token: the password of `robot` until it expires.
    pub(crate) fn robot_token(
        &self,
        service: &str,
        robot: &str,
        lifetime: Duration,
    ) -> Result<String> {
        let (iat, exp) = validity(lifetime)?;
        self.sign(&RobotClaims {
            iss: ISSUER.into(),
            aud: service.into(),
            sub: robot.into(),
            iat,
            nbf: iat,
            exp,
        })
    }

    /// A registry token that grants exactly `access`; `subject` is empty for anonymous callers.
    pub(crate) fn registry_token(
        &self,
        service: &str,
        subject: &str,
        access: &[Access],
        lifetime: Duration,
    ) -> Result<String> {
        let (iat, exp) = validity(lifetime)?;
        self.sign(&RegistryClaims {
            iss: ISSUER,
            aud: service,
            sub: subject,
            iat,
            nbf: iat,
            exp,
            access,
        })
    }

    /// The claims of a robot token that this key signed and that has not expired.
    pub(crate) fn verify_robot_token(&self, token: &str) -> Result<RobotClaims, Rejection> {
        let known = decode_header(token)
            .ok()
            .and_then(|header| header.kid)
            .is_some_and(|kid| kid == self.id);
        if !known {
            return Err(Rejection::UnknownKey);
        }
        let mut validation = Validation::new(Algorithm::ES256);
        // Tokens of these tests live a minute: the usual minute of leeway would double that.
        validation.leeway = 0;
        // This one accepts the very second of `exp`, which is one too many.
        validation.reject_tokens_expiring_in_less_than = 1;
        validation.validate_aud = false;
        match decode::<RobotClaims>(token, &self.verifier, &validation) {
            Ok(token) => Ok(token.claims),
            Err(_) => Err(Rejection::Invalid),
        }
    }

    fn sign<T: Serialize>(&self, claims: &T) -> Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.clone());
        encode(&header, claims, &self.private).context("could not sign a token of the registry")
    }
}

/// The `iss` of every token made here; the real registry is configured to trust exactly this one.
pub(crate) const ISSUER: &str = "quay";

/// The subject of a registry token, unverified: good for a log line, never for a decision.
pub(crate) fn claimed_subject(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Subject {
        sub: String,
    }
    let claims: Subject = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    Some(claims.sub).filter(|subject| !subject.is_empty())
}

fn validity(lifetime: Duration) -> Result<(i64, i64)> {
    let now = Timestamp::now().as_second();
    let lifetime =
        i64::try_from(lifetime.as_secs()).context("a token lifetime does not fit in seconds")?;
    Ok((now, now.saturating_add(lifetime)))
}
