//! Where identities come from. A question with one exact SPIFFE ID and
//! audience flows in, a proof with its real lifetime or an error of a closed
//! set flows out.
//!
//! ```text
//!  acquire ─▶ sources ─┬──────────▶ control_plane
//!                      └─▶ spiffe ─(wire)─┬─▶ delegated     SPIRE's admin socket
//!                          flights, trust └─▶ workload_api  the socket of the agent's own pod
//!  verify, signature, certificate: pure
//! ```
//!
//! All sources answer the same trait. Another API of SPIFFE (the Broker API)
//! would be one more `wire`.

pub mod certificate;
pub mod control_plane;
pub mod delegated;
mod error;
pub mod flights;
pub mod signature;
pub mod sources;
pub mod spiffe;
pub mod trust;
pub mod verify;
pub mod wire;
pub mod workload_api;

use std::fmt;
use std::future::Future;

use jiff::Timestamp;
use secrecy::SecretString;
use shared::binding::CredentialKind;
use shared::errors::Code;

use crate::demand::BindingRef;

pub use error::IdentityError;
pub use shared::selectors::Registration;

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

    /// What it means when there is no answer in time.
    fn silence(&self, credential: CredentialKind) -> Code;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::demand::tests::reference;

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
}
