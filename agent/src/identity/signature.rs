//! Whether a JWT-SVID was made by its trust domain. PURE: a token and the JWT
//! bundles flow in, a verdict flows out.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::de::IgnoredAny;
use spiffe::{JwtBundleSet, SpiffeId};

use super::verify::Flaw;

/// What the JWT-SVID specification allows and the crypto provider has; never a
/// symmetric one.
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// What the bundles say of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A key of the trust domain made it.
    Valid,
    /// The bundles do not have its key: they may be older than the token.
    UnknownKey(String),
    /// The key that it names did not make it, or cannot have.
    Invalid(String),
}

impl From<Verdict> for Result<(), Flaw> {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Valid => Ok(()),
            Verdict::UnknownKey(reason) | Verdict::Invalid(reason) => Err(Flaw::Signature(reason)),
        }
    }
}

/// Looks for the key of `token`, a JWT-SVID of `subject`, and verifies with it.
pub fn verdict(token: &str, subject: &str, bundles: &JwtBundleSet) -> Verdict {
    let header = match decode_header(token) {
        Ok(header) => header,
        Err(error) => return Verdict::Invalid(format!("its header: {error}")),
    };
    if !ALGORITHMS.contains(&header.alg) {
        return Verdict::Invalid(format!("no JWT-SVID is signed with {:?}", header.alg));
    }
    let Some(kid) = header.kid else {
        return Verdict::Invalid("it names no key".to_owned());
    };
    let Ok(id) = SpiffeId::new(subject) else {
        return Verdict::Invalid("it is no SPIFFE ID".to_owned());
    };
    let domain = id.trust_domain();
    let authority = bundles
        .get_ref(domain)
        .and_then(|bundle| bundle.find_jwt_authority(&kid));
    let Some(authority) = authority else {
        return Verdict::UnknownKey(format!("key `{kid}` is not in the bundle of {domain}"));
    };
    // The times are `verify`'s, which knows what to tolerate.
    let mut validation = Validation::new(header.alg);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let verified = serde_json::from_slice::<Jwk>(authority.jwk_json())
        .map_err(|error| error.to_string())
        .and_then(|jwk| DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string()))
        .and_then(|key| {
            decode::<IgnoredAny>(token, &key, &validation).map_err(|error| error.to_string())
        });
    match verified {
        Ok(_) => Verdict::Valid,
        Err(reason) => Verdict::Invalid(format!("key `{kid}`: {reason}")),
    }
}

#[cfg(test)]
#[path = "signature_tests.rs"]
pub(crate) mod tests;
