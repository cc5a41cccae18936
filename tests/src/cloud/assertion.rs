//! Identity tokens as a cloud's token service reads them. A token and the keys of its issuer flow in, its claims or the
//! first thing that is wrong with it flow out.

use std::collections::BTreeMap;

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, dangerous::insecure_decode_claims, decode, decode_header,
};
use serde::Deserialize;

/// The keys of issuers, by their URL; `None` is one whose documents cannot be fetched.
pub(crate) type Issuers = BTreeMap<String, Option<JwkSet>>;

/// The claims that clouds look at.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: Vec<String>,
    pub(crate) iat: i64,
}

/// What is wrong with a token whose claims can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The issuer's documents cannot be fetched.
    Unreachable,
    /// None of the issuer's keys signed it.
    Signature,
    /// It has expired.
    Expired,
}

/// The claims, before anything is verified; `None` for what is no JWT.
pub(crate) fn claims(token: &str) -> Option<Claims> {
    insecure_decode_claims(token).ok()
}

/// Verifies signature and expiry. Audience and subject are the caller's to compare.
pub(crate) fn verify(token: &str, issuers: &Issuers) -> Result<(), Fault> {
    let issuer = claims(token).map(|claims| claims.iss);
    let keys = issuer
        .and_then(|issuer| issuers.get(&issuer)?.as_ref())
        .ok_or(Fault::Unreachable)?;
    let key = decode_header(token)
        .ok()
        .and_then(|header| keys.find(&header.kid?))
        .and_then(|key| DecodingKey::from_jwk(key).ok())
        .ok_or(Fault::Signature)?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.leeway = 0;
    validation.reject_tokens_expiring_in_less_than = 1;
    validation.validate_aud = false;
    match decode::<Claims>(token, &key, &validation) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            jsonwebtoken::errors::ErrorKind::ExpiredSignature => Fault::Expired,
            _ => Fault::Signature,
        }),
    }
}
