//! The claims of a JWT that this program looks at, unverified (RFC 7519): the
//! agent verified the token, and the cluster will.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;

/// The claims.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Claims {
    /// Subject.
    pub(crate) sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Claims {
    /// The claims of `token`; none if it is no JWT.
    pub(crate) fn read(token: &str) -> Self {
        token
            .split('.')
            .nth(1)
            .and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok())
            .and_then(|payload| serde_json::from_slice(&payload).ok())
            .unwrap_or_default()
    }

    /// Whether `audience` is one of the token's.
    pub(crate) fn is_for(&self, audience: &str) -> bool {
        match &self.aud {
            Some(Audience::One(one)) => one == audience,
            Some(Audience::Several(several)) => several.iter().any(|it| it == audience),
            None => false,
        }
    }

    /// Expiry.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.exp? as i64).ok()
    }
}
