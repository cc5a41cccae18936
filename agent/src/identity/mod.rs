//! Where identities come from. A question with one exact SPIFFE ID and
//! audience flows in, a token with its real lifetime or an error of a closed
//! set flows out. There will be more sources; all answer the same trait.

pub mod control_plane;

use std::fmt;
use std::future::Future;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use shared::binding::CredentialKind;
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
    /// The kind of proof.
    pub credential: CredentialKind,
    /// The only acceptable subject: a SPIFFE ID, or the user name of a service
    /// account.
    pub subject: String,
    /// The only acceptable audience; a certificate has none.
    pub audience: String,
    /// Where it is registered, for sources that are asked by that.
    pub registration: Registration,
}

/// What selectors of a registration entry are made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registration {
    /// Namespace of the binding.
    pub namespace: String,
    /// The service account that stands for the project.
    pub service_account: String,
    /// The project, where there is one.
    pub project: Option<String>,
}

/// A proof of an identity, of the kind that was asked for.
#[derive(Debug, Clone)]
pub enum Svid {
    /// A JWT-SVID, or a token of a service account.
    Token(IdentityToken),
    /// An X.509-SVID.
    Certificate(IdentityCertificate),
}

impl Svid {
    /// When it expires.
    pub fn expires_at(&self) -> Timestamp {
        match self {
            Self::Token(token) => token.expires_at,
            Self::Certificate(certificate) => certificate.expires_at,
        }
    }
}

/// An X.509-SVID of the asked SPIFFE ID.
#[derive(Clone)]
pub struct IdentityCertificate {
    /// The chain, the leaf first, PEM.
    pub certificates: String,
    /// The leaf's private key, PEM (PKCS #8).
    pub key: SecretString,
    /// `notAfter` of the leaf.
    pub expires_at: Timestamp,
}

impl fmt::Debug for IdentityCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityCertificate")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A JWT that has the asked subject and audience.
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
    /// The identity of exactly this kind, subject and audience.
    ///
    /// # Errors
    /// See [`IdentityError`].
    fn identity(
        &self,
        request: &IdentityRequest,
    ) -> impl Future<Output = Result<Svid, IdentityError>> + Send;
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
    if claims.sub.as_deref() != Some(&request.subject) {
        let found = claims.sub.unwrap_or_default();
        return Err(mismatch("sub", found, &request.subject));
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
            credential: CredentialKind::SpiffeJWT,
            subject: "spiffe://td/a".into(),
            audience: "quay.test".into(),
            registration: Registration {
                namespace: "argocd".into(),
                service_account: "a".into(),
                project: None,
            },
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
