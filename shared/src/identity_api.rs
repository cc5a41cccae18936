//! Messages of the identity API: agent → control plane, JSON over TLS.
//!
//! `POST /v1/identity` with the agent's own token as bearer token. The body
//! names a binding and carries a consumer pod's token; the answer is an
//! identity token for exactly the subject and audience that the control plane
//! derives from the binding's Secret. Any other status carries an [`ApiError`].
//!
//! `POST /v1/identities` is the same for several bindings of one pod: what is
//! wrong with the caller or the pod is an [`ApiError`] for all of them, what is
//! wrong with one binding is that binding's answer. A control plane that does
//! not know it yet answers with 404 and without an [`ApiError`]; the first call
//! stays for it, and for agents of before.

use std::collections::BTreeMap;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};

/// Path of the call for one binding.
pub const PATH: &str = "/v1/identity";
/// Path of the call for several.
pub const BATCH_PATH: &str = "/v1/identities";
/// Bindings that one call may name.
pub const LARGEST_BATCH: usize = 100;

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

/// Asks for the identities of several bindings on behalf of one running
/// consumer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentitiesRequest {
    /// Namespace of the bindings.
    pub namespace: String,
    /// Their names, at most [`LARGEST_BATCH`].
    pub bindings: Vec<String>,
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

/// The answers for several bindings.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentitiesResponse {
    /// One for each binding that was named, by its name.
    pub answers: BTreeMap<String, Answer>,
}

/// The answer for one binding of several.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Its identity.
    Issued(IdentityResponse),
    /// Why there is none.
    Refused(ApiError),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn several_are_asked_for_and_answered_by_name() {
        let request = IdentitiesRequest {
            namespace: "argocd".into(),
            bindings: vec!["a".into(), "b".into()],
            pod_token: "token".into(),
        };
        let request = serde_json::to_value(&request).unwrap();
        let expected = json!({"namespace": "argocd", "bindings": ["a", "b"], "podToken": "token"});
        assert_eq!(request, expected);
        let answers = json!({"answers": {
            "a": {"issued": {
                "token": "jwt", "subject": "s", "audience": "x", "expiresAt": "2026-01-01T00:00:00Z",
            }},
            "b": {"refused": {"code": "binding-not-found", "message": "gone"}},
        }});
        let read: IdentitiesResponse = serde_json::from_value(answers.clone()).unwrap();
        assert!(matches!(&read.answers["a"], Answer::Issued(it) if it.subject == "s"));
        assert!(matches!(&read.answers["b"], Answer::Refused(it) if it.message == "gone"));
        assert_eq!(serde_json::to_value(&read).unwrap(), answers);
    }
}
