//! JWT-SVIDs: a grant, a key and the time flow in, a signed token flows out.
//!
//! Claims as in the JWT-SVID specification
//! (<https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md>), plus
//! those that OpenID Connect verifiers want.

use std::time::Duration;

use control_plane_core::{identity::authorize::Grant, settings::IssuerUrl};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Serialize;

use super::keys::{KeyError, SigningKey};

/// A signed token.
#[derive(Debug)]
pub struct Svid {
    /// The token in compact form.
    pub token: SecretString,
    /// Its `exp`.
    pub expires_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: [&'a str; 1],
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: &'a str,
}

/// Signs the token of a grant, valid from `now` for `lifetime`. `id` is a
/// value that no other token has.
///
/// # Errors
/// When the key does not sign.
pub fn issue(
    key: &SigningKey,
    issuer: &IssuerUrl,
    grant: &Grant,
    lifetime: Duration,
    now: Timestamp,
    id: &str,
) -> Result<Svid, KeyError> {
    let issued = now.as_second();
    let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let expires = issued.saturating_add(seconds);
    let claims = Claims {
        iss: issuer.as_str(),
        sub: &grant.identity().subject,
        aud: [&grant.identity().audience],
        iat: issued,
        nbf: issued,
        exp: expires,
        jti: id,
    };
    Ok(Svid {
        token: key.sign(&claims)?.into(),
        expires_at: Timestamp::from_second(expires).unwrap_or(Timestamp::MAX),
    })
}
