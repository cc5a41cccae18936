//! Identity → credential. An identity token and a [`Trade`] flow in, a
//! credential with its expiry or a named error flows out. One file per
//! protocol; all of them use the one guarded client of [`http`].

pub mod http;
pub mod quay;

use secrecy::SecretString;
use shared::docker_config::BasicCredential;
use shared::errors::{Code, Named};

use crate::demand::Trade;
use crate::identity::Svid;
use crate::refresh::Fresh;
use http::Upstream;

/// What a consumer presents to its target.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A user name and its secret (registries).
    Basic(BasicCredential),
    /// A bearer token (clusters).
    Bearer(SecretString),
    /// A client certificate (registries).
    Certificate {
        /// The chain, the leaf first, PEM.
        certificates: String,
        /// The leaf's key, PEM.
        key: SecretString,
    },
}

/// Trades an identity for a credential.
///
/// # Errors
/// The named errors of the protocol, of the address guard and of the network.
pub async fn exchange(
    upstream: &Upstream,
    trade: &Trade,
    identity: Svid,
) -> Result<Fresh<Credential>, Named> {
    match (trade, identity) {
        (Trade::Keep, Svid::Token(token)) => Ok(Fresh {
            credential: Credential::Bearer(token.token),
            expires_at: token.expires_at,
        }),
        (Trade::Keep, Svid::Certificate(certificate)) => Ok(Fresh {
            expires_at: certificate.expires_at,
            credential: Credential::Certificate {
                certificates: certificate.certificates,
                key: certificate.key,
            },
        }),
        (
            Trade::Quay {
                host,
                auth_url,
                username,
            },
            Svid::Token(token),
        ) => quay::exchange(upstream, host, auth_url.as_deref(), username, &token).await,
        // `undeliverable` refuses such a binding long before.
        (Trade::Quay { host, .. }, Svid::Certificate(_)) => Err(Named::new(
            Code::CertificateNotUsable,
            format!("registry {host}"),
        )),
    }
}
