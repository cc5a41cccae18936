//! Where identities come from. A question with one exact SPIFFE ID and
//! audience flows in, a token with its real lifetime or an error of a closed
//! set flows out. There will be more sources; all answer the same trait.

pub mod control_plane;

use std::future::Future;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use shared::errors::{Code, Named};

use crate::demand::BindingRef;
use crate::jwt::Claims;

/// What is asked of an [`IdentitySource`].
#[derive(Debug, Clone)]
pub struct IdentityRequest {
    /// The binding whose identity it is.
    pub binding: BindingRef,
    /// The token of a running consumer pod, as its proof.
    pub pod_token: SecretString,
    /// The only acceptable subject.
    pub spiffe_id: String,
    /// The only acceptable audience.
    pub audience: String,
}

/// An identity: a JWT that has the asked subject and audience.
#[derive(Debug, Clone)]
pub struct IdentityToken {
    /// The token.
    pub token: SecretString,
    /// Its `exp`.
    pub expires_at: Timestamp,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The source did not answer, or could not at the moment.
    #[error("binding {binding}: {reason}")]
    Unreachable {
        /// The binding.
        binding: BindingRef,
        /// What happened, without any secret.
        reason: String,
    },
    /// The source refused, and said why.
    #[error("binding {binding}: {message}")]
    Refused {
        /// The binding.
        binding: BindingRef,
        /// The source's code.
        code: Code,
        /// The source's words.
        message: String,
    },
    /// The agent's own token cannot be read.
    #[error("token file {path}")]
    OwnToken {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another identity came back than was asked for, or an expired one.
    #[error("binding {binding}: {field} is `{found}`, not `{asked}`")]
    Mismatch {
        /// The binding.
        binding: BindingRef,
        /// Which part differs.
        field: &'static str,
        /// What came back.
        found: String,
        /// What was asked for.
        asked: String,
    },
}

impl IdentityError {
    /// The catalogue's code.
    pub fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => Code::ControlPlaneUnreachable,
            Self::Refused { code, .. } => *code,
            Self::OwnToken { .. } => Code::AgentTokenRejected,
            Self::Mismatch { .. } => Code::IdentityMismatch,
        }
    }
}

impl From<&IdentityError> for Named {
    fn from(error: &IdentityError) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        Self::new(
            error.code(),
            format!("{error}{}", cause.unwrap_or_default()),
        )
    }
}

/// Gives identities.
pub trait IdentitySource: Send + Sync + 'static {
    /// The identity of exactly this SPIFFE ID and audience.
    ///
    /// # Errors
    /// See [`IdentityError`].
    fn identity(
        &self,
        request: &IdentityRequest,
    ) -> impl Future<Output = Result<IdentityToken, IdentityError>> + Send;
}

/// Checks that `token` is what was asked for, by its own claims: whatever a
/// source says beside it, the claims are what a registry will see.
///
/// # Errors
/// [`IdentityError::Mismatch`].
pub fn verify(
    request: &IdentityRequest,
    token: SecretString,
    now: Timestamp,
) -> Result<IdentityToken, IdentityError> {
    let mismatch = |field, found: String, asked: &str| IdentityError::Mismatch {
        binding: request.binding.clone(),
        field,
        found,
        asked: asked.to_owned(),
    };
    let claims = Claims::read(token.expose_secret())
        .ok_or_else(|| mismatch("the answer", "something else".to_owned(), "a JWT"))?;
    if claims.sub.as_deref() != Some(&request.spiffe_id) {
        let found = claims.sub.unwrap_or_default();
        return Err(mismatch("sub", found, &request.spiffe_id));
    }
    if !claims.is_for(&request.audience) {
        return Err(mismatch("aud", "another".to_owned(), &request.audience));
    }
    match claims.expires_at() {
        Some(expires_at) if expires_at > now => Ok(IdentityToken { token, expires_at }),
        Some(past) => Err(mismatch("exp", past.to_string(), "in the future")),
        None => Err(mismatch("exp", "missing".to_owned(), "in the future")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::demand::tests::reference;
    use crate::jwt::tests::token;

    pub(crate) fn request() -> IdentityRequest {
        IdentityRequest {
            binding: reference("charts"),
            pod_token: "pod".into(),
            spiffe_id: "spiffe://td/a".into(),
            audience: "quay.test".into(),
        }
    }

    #[test]
    fn only_the_asked_identity_is_accepted() {
        let now = Timestamp::from_second(100).unwrap();
        let check = |claims: serde_json::Value| verify(&request(), token(&claims).into(), now);
        let good = json!({"sub": "spiffe://td/a", "aud": ["quay.test"], "exp": 101});
        assert_eq!(check(good.clone()).unwrap().expires_at.as_second(), 101);
        for (claim, value) in [
            ("sub", json!("spiffe://td/ab")),
            ("sub", json!(null)),
            ("aud", json!("other")),
            ("aud", json!([])),
            ("exp", json!(100)),
            ("exp", json!(null)),
        ] {
            let mut claims = good.clone();
            claims[claim] = value;
            let error = check(claims).unwrap_err();
            assert_eq!(error.code(), Code::IdentityMismatch, "{claim}: {error}");
        }
        assert!(verify(&request(), "no-jwt".into(), now).is_err());
    }
}
