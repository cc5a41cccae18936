//! Issuer: a node agent's request flows in, an identity token flows out.
//!
//! ```text
//! POST /v1/identity, /v1/identities ─▶ api ─▶ callers (who is an agent)
//!                                       │
//!                                       ▼
//!                                     issue ─▶ reviewer (TokenReview, Pod, Secret, ServiceAccount)
//!                                       │        │ facts
//!                                       │        ▼
//!                                       │     authorize (pure) ─▶ Grant | Named
//!                                       ▼
//!          svid (signed with keys), or
//!          token_request (made by the API server) ─▶ IdentityResponse
//!
//! Secret ─▶ key_source ─▶ keys ─▶ issue, documents
//!
//! GET /.well-known/openid-configuration, /keys ─▶ documents (public halves of keys)
//! ```
//!
//! Architecture invariant: a token is signed or requested for a
//! [`authorize::Grant`] only, and only [`authorize`] makes one. A
//! CredentialBinding object has no say: subject and audience are derived again
//! from the Secret.

pub mod api;
mod callers;
pub mod documents;
pub mod issue;
pub mod key_source;
pub mod keys;
pub mod metrics;
pub mod reviewer;
pub mod svid;
pub mod token_request;

#[cfg(test)]
pub(crate) mod fake;
