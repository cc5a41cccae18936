//! ExecCredential of `client.authentication.k8s.io`, what client-go's exec
//! plugins print (Kubernetes documentation, "client-go credential plugins").
//!
//! The agent writes it without an opinion on the version; exec-auth prints it
//! in the version that the caller's configuration names, because client-go
//! refuses any other.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::errors::{Code, Named};

/// Versions of the ExecCredential API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ApiVersion {
    /// `client.authentication.k8s.io/v1`.
    #[serde(rename = "client.authentication.k8s.io/v1")]
    V1,
    /// `client.authentication.k8s.io/v1beta1`, the one that Argo CD's guides use.
    #[default]
    #[serde(rename = "client.authentication.k8s.io/v1beta1")]
    V1Beta1,
}

impl ApiVersion {
    /// Reads the full name, or only `v1` / `v1beta1`.
    ///
    /// # Errors
    /// [`Code::VersionMismatch`].
    pub fn parse(text: &str) -> Result<Self, Named> {
        match text
            .strip_prefix("client.authentication.k8s.io/")
            .unwrap_or(text)
        {
            "v1" => Ok(Self::V1),
            "v1beta1" => Ok(Self::V1Beta1),
            _ => {
                let shown: String = text.chars().take(64).collect();
                Err(Named::new(
                    Code::VersionMismatch,
                    format!("`{}`", shown.escape_debug()),
                ))
            }
        }
    }

    /// The full name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "client.authentication.k8s.io/v1",
            Self::V1Beta1 => "client.authentication.k8s.io/v1beta1",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Kind {
    ExecCredential,
}

/// The document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecCredential {
    /// The API version.
    pub api_version: ApiVersion,
    kind: Kind,
    /// The credential.
    pub status: Status,
}

/// The credential of an [`ExecCredential`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// When client-go must ask again, with whole seconds. client-go keeps a
    /// token without it until the server refuses it.
    pub expiration_timestamp: Timestamp,
    /// The bearer token.
    #[serde(serialize_with = "expose")]
    pub token: SecretString,
}

fn expose<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

impl ExecCredential {
    /// Makes the document; the expiry is cut to whole seconds.
    pub fn new(token: SecretString, expiration: Timestamp) -> Self {
        let expiration = Timestamp::from_second(expiration.as_second()).unwrap_or(expiration);
        Self {
            api_version: ApiVersion::default(),
            kind: Kind::ExecCredential,
            status: Status {
                expiration_timestamp: expiration,
                token,
            },
        }
    }

    /// The same credential in another version of the API.
    #[must_use]
    pub fn in_version(self, api_version: ApiVersion) -> Self {
        Self {
            api_version,
            ..self
        }
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// [`Code::CredentialUnreadable`] with line and column, never the content.
    pub fn parse(bytes: &[u8]) -> Result<Self, Named> {
        serde_json::from_slice(bytes).map_err(|error| {
            Named::new(
                Code::CredentialUnreadable,
                format!(
                    "not an ExecCredential: line {}, column {}",
                    error.line(),
                    error.column()
                ),
            )
        })
    }

    /// Renders the document as one line of JSON.
    ///
    /// # Errors
    /// None in practice; kept because serialisation can fail by its type.
    pub fn render(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        serde_json::to_vec(self).map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_the_documented_shape_in_both_versions() {
        let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        for (version, name) in [(ApiVersion::V1, "v1"), (ApiVersion::V1Beta1, "v1beta1")] {
            let bytes = ExecCredential::new("t".into(), at)
                .in_version(version)
                .render()
                .unwrap();
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(
                value,
                serde_json::json!({
                    "apiVersion": format!("client.authentication.k8s.io/{name}"),
                    "kind": "ExecCredential",
                    "status": {"expirationTimestamp": "2026-01-02T03:04:05Z", "token": "t"},
                })
            );
        }
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let credential = ExecCredential::new("hunter2".into(), Timestamp::UNIX_EPOCH);
        assert!(!format!("{credential:?}").contains("hunter2"));
    }

    #[test]
    fn versions() {
        assert_eq!(ApiVersion::parse("v1").unwrap(), ApiVersion::V1);
        assert_eq!(
            ApiVersion::parse(ApiVersion::V1Beta1.as_str()).unwrap(),
            ApiVersion::V1Beta1
        );
        assert_eq!(
            ApiVersion::parse("v2").unwrap_err().code,
            Code::VersionMismatch
        );
    }

    proptest! {
        #[test]
        fn round_trip(token in any::<String>(), second in 0_i64..4_000_000_000) {
            let at = Timestamp::from_second(second).unwrap();
            let bytes = ExecCredential::new(token.clone().into(), at).render().unwrap();
            let parsed = ExecCredential::parse(&bytes).unwrap();
            prop_assert_eq!(parsed.status.token.expose_secret(), token.as_str());
            prop_assert_eq!(parsed.status.expiration_timestamp, at);
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            let _ = ExecCredential::parse(&bytes);
        }
    }
}
