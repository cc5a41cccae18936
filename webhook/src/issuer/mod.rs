//! Issuer: a node agent's request flows in, an identity token flows out.
//!
//! ```text
//! POST /v1/identity ─▶ api ─▶ reviewer (TokenReview, Pod, Secret)
//!                       │        │ facts
//!                       │        ▼
//!                       │     authorize (pure) ─▶ Grant | Named
//!                       ▼
//!                     svid (signed with keys) ─▶ IdentityResponse
//!
//! GET /.well-known/openid-configuration, /keys ─▶ documents (public halves of keys)
//! ```
//!
//! Architecture invariant: a token is signed for a [`authorize::Grant`] only,
//! and only [`authorize`] makes one. A CredentialBinding object has no say:
//! subject and audience are derived again from the Secret.

pub mod api;
pub mod authorize;
pub mod documents;
pub mod keys;
pub mod metrics;
pub mod reviewer;
pub mod svid;

#[cfg(test)]
pub(crate) mod fake;
