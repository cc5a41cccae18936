//! Whether a token is the one that was asked for, by its own claims: whatever a
//! source says beside it, the claims are what a registry will see. PURE: a
//! token, what was asked and the time flow in, the token with its lifetime or a
//! [`Flaw`] flows out. Signatures are [`super::signature`]'s.

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use shared::errors::{Code, Named};

use super::IdentityToken;
use crate::jwt::Claims;

/// By so much an issuer's clock may be ahead of this node's.
pub(super) const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// What a token has to say of itself.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The exact `sub`.
    pub subject: &'a str,
    /// One of `aud`.
    pub audience: &'a str,
    /// The exact `iss`, where the installation names one.
    pub issuer: Option<&'a str>,
}

/// What is wrong with an identity that came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is another than was asked for, or has expired.
    #[error("{field} is `{found}`, not `{asked}`")]
    Differs {
        /// Which part differs.
        field: &'static str,
        /// What came back.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// Another issuer made it.
    #[error("iss is `{found}`, not `{asked}`")]
    Issuer {
        /// What came back.
        found: String,
        /// What the installation expects.
        asked: String,
    },
    /// It is in order, but not at the time that this node's clock shows.
    #[error("{instant} while it is {now} here")]
    Skew {
        /// What the identity says of its time.
        instant: String,
        /// This node's clock.
        now: Timestamp,
    },
    /// No key of the trust domain made it.
    #[error("{0}")]
    Signature(String),
}

impl Flaw {
    /// The catalogue's code.
    pub fn code(&self) -> Code {
        match self {
            Self::Differs { .. } => Code::IdentityMismatch,
            Self::Issuer { .. } => Code::IdentityIssuerMismatch,
            Self::Skew { .. } => Code::ClockSkew,
            Self::Signature(_) => Code::IdentitySignatureInvalid,
        }
    }

    pub(super) fn differs(
        field: &'static str,
        found: impl Into<String>,
        asked: impl Into<String>,
    ) -> Self {
        Self::Differs {
            field,
            found: found.into(),
            asked: asked.into(),
        }
    }
}

impl From<&Flaw> for Named {
    fn from(flaw: &Flaw) -> Self {
        Self::new(flaw.code(), flaw.to_string())
    }
}

/// Checks the claims of `token`.
///
/// # Errors
/// The first [`Flaw`] that is found.
pub fn verify(
    expected: Expected<'_>,
    token: SecretString,
    now: Timestamp,
) -> Result<IdentityToken, Flaw> {
    let claims = Claims::read(token.expose_secret())
        .ok_or_else(|| Flaw::differs("the answer", "something else", "a JWT"))?;
    if claims.sub.as_deref() != Some(expected.subject) {
        let found = claims.sub.unwrap_or_default();
        return Err(Flaw::differs("sub", found, expected.subject));
    }
    if !claims.is_for(expected.audience) {
        return Err(Flaw::differs("aud", "another", expected.audience));
    }
    if let Some(asked) = expected.issuer
        && claims.iss.as_deref() != Some(asked)
    {
        return Err(Flaw::Issuer {
            found: claims.iss.unwrap_or_default(),
            asked: asked.to_owned(),
        });
    }
    let expires_at = claims
        .expires_at()
        .ok_or_else(|| Flaw::differs("exp", "missing", "in the future"))?;
    // No source hands out what has expired by its own clock, so a token that
    // had a life at all and is over on arrival tells that the clocks differ.
    let lived = claims.issued_at().is_some_and(|iat| iat < expires_at);
    if expires_at <= now && !lived {
        return Err(Flaw::differs(
            "exp",
            expires_at.to_string(),
            "in the future",
        ));
    }
    let starts = [("nbf", claims.not_before()), ("iat", claims.issued_at())];
    let early = starts
        .into_iter()
        .filter_map(|(claim, at)| Some((claim, at?)))
        .find(|(_, at)| at.duration_since(now) > AHEAD);
    let instant = match early {
        Some(start) => Some(start),
        None => (expires_at <= now).then_some(("exp", expires_at)),
    };
    match instant {
        Some((claim, at)) => Err(Flaw::Skew {
            instant: format!("{claim} is {at}"),
            now,
        }),
        None => Ok(IdentityToken { token, expires_at }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::jwt::tests::token;

    const NOW: i64 = 1_800_000_000;

    fn check(issuer: Option<&str>, changes: &[(&str, Value)]) -> Result<i64, Code> {
        let mut claims = json!({
            "sub": "spiffe://td/a", "aud": ["quay.test"], "exp": NOW + 1,
        });
        for (claim, value) in changes {
            claims[*claim] = value.clone();
        }
        let expected = Expected {
            subject: "spiffe://td/a",
            audience: "quay.test",
            issuer,
        };
        let now = Timestamp::from_second(NOW).unwrap();
        verify(expected, token(&claims).into(), now)
            .map(|token| token.expires_at.as_second() - NOW)
            .map_err(|flaw| flaw.code())
    }

    #[test]
    fn only_the_asked_identity_is_accepted() {
        assert_eq!(check(None, &[]), Ok(1));
        for (claim, value) in [
            ("sub", json!("spiffe://td/ab")),
            ("sub", json!(null)),
            ("aud", json!("other")),
            ("aud", json!([])),
            ("exp", json!(NOW)),
            ("exp", json!(null)),
        ] {
            let code = check(None, &[(claim, value.clone())]);
            assert_eq!(code, Err(Code::IdentityMismatch), "{claim} {value}");
        }
        let expected = Expected {
            subject: "a",
            audience: "b",
            issuer: None,
        };
        assert!(verify(expected, "no-jwt".into(), Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn an_issuer_counts_where_one_is_named() {
        let iss = [("iss", json!("https://issuer.test"))];
        assert_eq!(check(None, &iss), Ok(1));
        assert_eq!(check(Some("https://issuer.test"), &iss), Ok(1));
        for (issuer, claims) in [("https://issuer.test/", &iss[..]), ("https://a", &[])] {
            let code = check(Some(issuer), claims);
            assert_eq!(code, Err(Code::IdentityIssuerMismatch), "{issuer}");
        }
    }

    #[test]
    fn a_wrong_clock_is_told_from_a_wrong_token() {
        let skew = Err(Code::ClockSkew);
        // An issuer ahead, within reason and beyond it.
        for claim in ["iat", "nbf"] {
            let ahead = |by: i64| [(claim, json!(NOW + by)), ("exp", json!(NOW + 3600))];
            assert_eq!(check(None, &ahead(300)), Ok(3600), "{claim}");
            assert_eq!(check(None, &ahead(301)), skew, "{claim}");
        }
        // This node ahead: what has just been issued is over.
        let over = [("iat", json!(NOW - 400)), ("exp", json!(NOW - 100))];
        assert_eq!(check(None, &over), skew);
        // A token that never lived is wrong by any clock.
        let stillborn = [("iat", json!(NOW - 100)), ("exp", json!(NOW - 100))];
        assert_eq!(check(None, &stillborn), Err(Code::IdentityMismatch));
    }

    proptest! {
        #[test]
        fn what_is_accepted_lives_and_is_exact(
            sub in "spiffe://td/[ab]{1,2}", exp: i32, iat: i32, nbf in any::<Option<i32>>(),
        ) {
            let at = |offset: i32| json!(NOW + i64::from(offset % 1000));
            let mut claims = vec![("sub", json!(sub)), ("exp", at(exp)), ("iat", at(iat))];
            claims.extend(nbf.map(|nbf| ("nbf", at(nbf))));
            if let Ok(left) = check(None, &claims) {
                prop_assert!(sub == "spiffe://td/a" && left > 0);
                prop_assert!(iat % 1000 <= 300 && nbf.is_none_or(|nbf| nbf % 1000 <= 300));
            }
        }
    }
}
