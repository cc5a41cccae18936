//! The Docker configuration file that Helm and oras read through `DOCKER_CONFIG`.
//!
//! Only `auths.<host>.auth` is written: every client reads it, while some
//! ignore `username` and `password` (containers/image) or honour
//! `identitytoken` and `registrytoken` only for bearer challenges (oras-go).
//! The format is documented with `docker login`.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use shared::registry::RegistryHost;

/// A user name and its secret, as HTTP basic authentication takes them.
#[derive(Debug, Clone)]
pub struct BasicCredential {
    /// The user name; has no colon.
    pub username: String,
    /// The password or token.
    pub secret: SecretString,
}

#[derive(Serialize, Deserialize)]
struct Document {
    auths: BTreeMap<String, Auth>,
}

#[derive(Serialize, Deserialize)]
struct Auth {
    auth: Zeroizing<String>,
}

/// Why a Docker configuration cannot be made or read. Never repeats content.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not the JSON of a Docker configuration.
    #[error("not a Docker configuration: line {line}, column {column}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// An `auth` is not base64 of `user:secret`.
    #[error("the auth of `{key}` is not base64 of user:secret")]
    Auth {
        /// The key in `auths`.
        key: String,
    },
    /// A user name has a colon, which basic authentication cannot carry.
    #[error("the user name for `{host}` has a colon")]
    Username {
        /// The host.
        host: String,
    },
}

/// Renders the file's content. The same input gives the same bytes.
///
/// # Errors
/// [`Error::Username`] for a user name with a colon.
pub fn render(
    credentials: &BTreeMap<RegistryHost, BasicCredential>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut auths = BTreeMap::new();
    for (host, credential) in credentials {
        if credential.username.contains(':') {
            return Err(Error::Username {
                host: host.to_string(),
            });
        }
        let pair = Zeroizing::new(format!(
            "{}:{}",
            credential.username,
            credential.secret.expose_secret()
        ));
        let auth = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
        auths.insert(host.docker_config_key().to_owned(), Auth { auth });
    }
    let document = Document { auths };
    serde_json::to_vec(&document)
        .map(Zeroizing::new)
        .map_err(|error| Error::Syntax {
            line: error.line(),
            column: error.column(),
        })
}

/// Reads a file's content back: key of `auths` → credential.
///
/// # Errors
/// [`Error::Syntax`] and [`Error::Auth`].
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, BasicCredential>, Error> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| Error::Syntax {
        line: error.line(),
        column: error.column(),
    })?;
    document
        .auths
        .into_iter()
        .map(|(key, Auth { auth })| {
            let decoded = STANDARD.decode(auth.as_bytes()).map(Zeroizing::new).ok();
            let pair = decoded
                .as_ref()
                .and_then(|bytes| std::str::from_utf8(bytes).ok());
            match pair.and_then(|pair| pair.split_once(':')) {
                Some((username, secret)) => {
                    let credential = BasicCredential {
                        username: username.to_owned(),
                        secret: secret.into(),
                    };
                    Ok((key, credential))
                }
                None => Err(Error::Auth { key }),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(host: &str, username: &str, secret: &str) -> BTreeMap<RegistryHost, BasicCredential> {
        let credential = BasicCredential {
            username: username.into(),
            secret: secret.into(),
        };
        BTreeMap::from([(RegistryHost::parse(host).unwrap(), credential)])
    }

    #[test]
    fn renders_what_docker_login_writes() {
        let bytes = render(&one("quay.example.org", "prod+argocd", "token")).unwrap();
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            r#"{"auths":{"quay.example.org":{"auth":"cHJvZCthcmdvY2Q6dG9rZW4="}}}"#
        );
        assert_eq!(
            render(&BTreeMap::new()).unwrap().as_slice(),
            br#"{"auths":{}}"#
        );
    }

    #[test]
    fn errors_name_the_place_and_not_the_content() {
        assert!(matches!(
            render(&one("a", "x:y", "z")),
            Err(Error::Username { .. })
        ));
        let error = parse(br#"{"auths":{"a":{"auth":"aHVudGVyMg=="}}}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the auth of `a` is not base64 of user:secret"
        );
    }

    proptest! {
        #[test]
        fn round_trip(username in "[^:]*", secret in any::<String>()) {
            let bytes = render(&one("host.example:5000", &username, &secret)).unwrap();
            let parsed = parse(&bytes).unwrap();
            let credential = &parsed["host.example:5000"];
            prop_assert_eq!(&credential.username, &username);
            prop_assert_eq!(credential.secret.expose_secret(), secret.as_str());
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
        }
    }
}
