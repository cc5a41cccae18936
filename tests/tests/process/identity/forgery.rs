//! Service account tokens as nobody hands them out: a real token flows in, one
//! with other claims, signed with a real or a wrong key, flows out.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, decode_header, encode};
use serde_json::Value;

/// Signs tokens with the key in a file.
pub(super) struct Forger {
    key: EncodingKey,
}

impl Forger {
    /// A forger with the key that an API server signs with.
    pub(super) fn new(cluster: &Path) -> Result<Self> {
        let path = cluster.join("sa.key");
        let pem = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let key = EncodingKey::from_rsa_pem(&pem).context("read the signing key")?;
        Ok(Self { key })
    }

    /// The token with claims changed by `change`, under the same key id.
    pub(super) fn forge(&self, token: &str, change: impl Fn(&mut Value)) -> Result<String> {
        let mut claims = claims(token)?;
        change(&mut claims);
        let header = Header {
            kid: header(token)?.kid,
            ..Header::new(jsonwebtoken::Algorithm::RS256)
        };
        encode(&header, &claims, &self.key).context("sign the token")
    }
}

/// The claims of a token, unverified.
pub(super) fn claims(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("no JWT")?;
    let bytes = URL_SAFE_NO_PAD.decode(payload).context("no base64")?;
    serde_json::from_slice(&bytes).context("the claims are not JSON")
}

/// The header of a token, unverified.
pub(super) fn header(token: &str) -> Result<Header> {
    decode_header(token).context("no JWT header")
}

/// Moves the token's life by so many seconds.
pub(super) fn shift(claims: &mut Value, seconds: i64) {
    for name in ["iat", "nbf", "exp"] {
        if let Some(time) = claims[name].as_i64() {
            claims[name] = (time + seconds).into();
        }
    }
}
