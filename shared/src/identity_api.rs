//! Messages of the identity API: agent → control plane, JSON over TLS.
//!
//! `POST /v1/identity` with the agent's own token as bearer token. The body
//! names a binding and carries a consumer pod's token; the answer is an
//! identity token for exactly the subject and audience that the control plane
//! derives from the binding's Secret. Any other status carries an [`ApiError`].

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

/// Path of the only call.
pub const PATH: &str = "/v1/identity";

/// Asks for the identity of one binding on behalf of one running consumer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentityRequest {
    /// Namespace of the binding.
    pub namespace: String,
    /// Name of the binding.
    pub binding: String,
    /// The consumer pod's own token, as kubelet handed it to the CSI driver.
    #[serde(serialize_with = "expose")]
    pub pod_token: SecretString,
}

/// The identity.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityResponse {
    /// The token, a JWT: a JWT-SVID or a token of a Kubernetes service account.
    #[serde(serialize_with = "expose")]
    pub token: SecretString,
    /// Its `sub`: a SPIFFE ID or `system:serviceaccount:<namespace>:<name>`.
    pub subject: String,
    /// Its audience.
    pub audience: String,
    /// Its expiry (`exp`).
    pub expires_at: Timestamp,
}

/// Why no identity was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// A code of the catalogue.
    pub code: String,
    /// The whole sentence.
    pub message: String,
}

/// The wire is the one place where these leave their redacting type.
fn expose<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}
