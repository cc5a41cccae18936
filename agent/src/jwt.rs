//! Reads the claims of a JWT *without* verifying its signature: tokens that
//! the agent got over verified TLS or a local socket, to learn their lifetime
//! and to check that they are the ones that were asked for (RFC 7519).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;
use zeroize::Zeroizing;

/// The claims that are looked at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// Subject.
    #[serde(default)]
    pub sub: Option<String>,
    /// Issuer.
    #[serde(default)]
    pub iss: Option<String>,
    #[serde(default)]
    aud: Option<Audience>,
    #[serde(default)]
    exp: Option<NumericDate>,
    #[serde(default)]
    nbf: Option<NumericDate>,
    #[serde(default)]
    iat: Option<NumericDate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// RFC 7519 allows fractions of a second.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "f64")]
struct NumericDate(i64);

impl From<f64> for NumericDate {
    fn from(seconds: f64) -> Self {
        Self(seconds.floor() as i64)
    }
}

impl Claims {
    /// The claims of `token`, or `None` if it is no JWT.
    pub fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
        serde_json::from_slice(&payload).ok()
    }

    /// Expiry.
    pub fn expires_at(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.exp.as_ref()?.0).ok()
    }

    /// Not to be used before.
    pub fn not_before(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.nbf.as_ref()?.0).ok()
    }

    /// When it was issued, by the issuer's clock.
    pub fn issued_at(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.iat.as_ref()?.0).ok()
    }

    /// The token's audiences, as they are written.
    pub fn audiences(&self) -> &[String] {
        match &self.aud {
            Some(Audience::One(one)) => std::slice::from_ref(one),
            Some(Audience::Several(several)) => several,
            None => &[],
        }
    }

    /// Whether `audience` is one of the token's audiences.
    pub fn is_for(&self, audience: &str) -> bool {
        self.audiences().iter().any(|it| it == audience)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An unsigned token with these claims.
    pub(crate) fn token(claims: &serde_json::Value) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part("{}"), part(&claims.to_string()), part("s"))
    }

    #[test]
    fn reads_both_forms_of_aud_and_fractions() {
        let claims = Claims::read(&token(
            &serde_json::json!({"sub": "s", "aud": "a", "exp": 5.9}),
        ))
        .unwrap();
        assert_eq!(claims.sub.as_deref(), Some("s"));
        assert!(claims.is_for("a") && !claims.is_for("b"));
        assert_eq!(claims.expires_at(), Timestamp::from_second(5).ok());
        let claims = Claims::read(&token(&serde_json::json!({"aud": ["a", "b"]}))).unwrap();
        assert!(claims.is_for("b"));
        assert_eq!(claims.expires_at(), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", exp in any::<f64>()) {
            let _ = Claims::read(&text);
            if let Some(claims) = Claims::read(&token(&serde_json::json!({"exp": exp}))) {
                let _ = claims.expires_at();
            }
        }
    }
}
