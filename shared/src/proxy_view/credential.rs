//! The credential in a file of the view: a user name with its password, a
//! certificate with its key, or a token for a realm.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::unreadable;
use crate::errors::Named;

/// A credential with its end. Debug shows the end only.
#[derive(Clone)]
pub struct ProxyCredential {
    /// What the target is shown.
    pub secret: ProxySecret,
    /// From then on it is not used any more.
    pub expires: Timestamp,
}

/// What a credential consists of.
#[derive(Clone)]
pub enum ProxySecret {
    /// RFC 7617.
    Basic {
        /// The user name; has no colon.
        username: SecretString,
        /// The password or token.
        password: SecretString,
    },
    /// RFC 6750; shown to the binding's realm, and never to the registry.
    Bearer {
        /// The identity, or what it was exchanged for.
        token: SecretString,
    },
    /// A client certificate for TLS, an X.509-SVID for example.
    X509 {
        /// PEM, the leaf first.
        certificates: String,
        /// The leaf's private key, PEM (PKCS #8, PKCS #1 or SEC 1).
        key: SecretString,
    },
}

impl ProxyCredential {
    /// A user name and a password or token.
    pub fn basic_auth(
        username: impl Into<SecretString>,
        password: impl Into<SecretString>,
        expires: Timestamp,
    ) -> Self {
        let secret = ProxySecret::Basic {
            username: username.into(),
            password: password.into(),
        };
        Self { secret, expires }
    }

    /// A token for the binding's realm.
    pub fn bearer(token: impl Into<SecretString>, expires: Timestamp) -> Self {
        let secret = ProxySecret::Bearer {
            token: token.into(),
        };
        Self { secret, expires }
    }

    /// A certificate chain, the leaf first, and its key; both PEM.
    pub fn x509(
        certificates: impl Into<String>,
        key: impl Into<SecretString>,
        expires: Timestamp,
    ) -> Self {
        let secret = ProxySecret::X509 {
            certificates: certificates.into(),
            key: key.into(),
        };
        Self { secret, expires }
    }

    /// The value of an `Authorization` header (RFC 7617, RFC 6750); none for a
    /// certificate, which the TLS handshake presents.
    pub fn authorization(&self) -> Option<Zeroizing<String>> {
        match &self.secret {
            ProxySecret::Basic { username, password } => {
                let (username, password) = (username.expose_secret(), password.expose_secret());
                let pair = Zeroizing::new(format!("{username}:{password}"));
                let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
                Some(Zeroizing::new(format!("Basic {}", encoded.as_str())))
            }
            ProxySecret::Bearer { token } => {
                Some(Zeroizing::new(format!("Bearer {}", token.expose_secret())))
            }
            ProxySecret::X509 { .. } => None,
        }
    }

    /// What both directions refuse. Whether certificate and key fit is seen
    /// where they are used.
    pub(super) fn check(&self) -> Result<(), Named> {
        match &self.secret {
            ProxySecret::Basic { username, password } => {
                let (username, password) = (username.expose_secret(), password.expose_secret());
                if username.contains(':') {
                    return Err(unreadable("credential.username: has a colon"));
                }
                let mut both = username.chars().chain(password.chars());
                if both.any(char::is_control) {
                    return Err(unreadable("credential: has a control character"));
                }
            }
            ProxySecret::Bearer { token } => {
                let token = token.expose_secret();
                if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(unreadable("credential.token: not a token"));
                }
            }
            ProxySecret::X509 { certificates, key } => {
                let key = key.expose_secret();
                if !pem(certificates, "CERTIFICATE-----") || certificates.contains("PRIVATE KEY") {
                    return Err(unreadable("credential.certificates: not PEM certificates"));
                }
                if !pem(key, "PRIVATE KEY-----") {
                    return Err(unreadable("credential.key: not a PEM private key"));
                }
            }
        }
        Ok(())
    }
}

fn pem(text: &str, label: &str) -> bool {
    let plain = |b: u8| matches!(b, b'\n' | b'\r' | b' '..=b'~');
    text.starts_with("-----BEGIN ") && text.contains(label) && text.bytes().all(plain)
}

impl fmt::Debug for ProxyCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyCredential")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ProxySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic",
            Self::Bearer { .. } => "Bearer",
            Self::X509 { .. } => "X509",
        })
    }
}

/// As it stands in the file. An untagged enum would copy the values into
/// buffers that nobody wipes.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificates: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Zeroizing<String>>,
    expires: Timestamp,
}

impl Written {
    pub(super) fn read(self) -> Result<ProxyCredential, Named> {
        let expires = self.expires;
        let basic = (self.username, self.password);
        match (basic, self.token, self.certificates, self.key) {
            ((Some(username), Some(password)), None, None, None) => Ok(
                ProxyCredential::basic_auth(username.as_str(), password.as_str(), expires),
            ),
            ((None, None), Some(token), None, None) => {
                Ok(ProxyCredential::bearer(token.as_str(), expires))
            }
            ((None, None), None, Some(certificates), Some(key)) => {
                Ok(ProxyCredential::x509(certificates, key.as_str(), expires))
            }
            _ => Err(unreadable(
                "credential: not one of username and password, token, certificates and key",
            )),
        }
    }
}

impl From<&ProxyCredential> for Written {
    fn from(credential: &ProxyCredential) -> Self {
        let copy = |it: &SecretString| Some(Zeroizing::new(it.expose_secret().to_owned()));
        let mut written = Self {
            username: None,
            password: None,
            token: None,
            certificates: None,
            key: None,
            expires: credential.expires,
        };
        match &credential.secret {
            ProxySecret::Basic { username, password } => {
                (written.username, written.password) = (copy(username), copy(password));
            }
            ProxySecret::Bearer { token } => written.token = copy(token),
            ProxySecret::X509 { certificates, key } => {
                (written.certificates, written.key) = (Some(certificates.clone()), copy(key));
            }
        }
        written
    }
}
