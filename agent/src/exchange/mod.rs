//! Identity → credential. An identity token and a [`Trade`] flow in, a
//! credential with its expiry or a named error flows out. One file per
//! protocol; all of them use the one guarded client of [`http`].

pub mod http;
pub mod quay;

use secrecy::SecretString;
use shared::docker_config::BasicCredential;
use shared::errors::Named;

use crate::demand::Trade;
use crate::identity::IdentityToken;
use crate::refresh::Fresh;
use http::Upstream;

/// What a consumer presents to its target.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A user name and its secret (registries).
    Basic(BasicCredential),
    /// A bearer token (clusters).
    Bearer(SecretString),
}

/// Trades an identity for a credential.
///
/// # Errors
/// The named errors of the protocol, of the address guard and of the network.
pub async fn exchange(
    upstream: &Upstream,
    trade: &Trade,
    identity: IdentityToken,
) -> Result<Fresh<Credential>, Named> {
    match trade {
        Trade::Keep => Ok(Fresh {
            credential: Credential::Bearer(identity.token),
            expires_at: identity.expires_at,
        }),
        Trade::Quay {
            host,
            auth_url,
            username,
        } => quay::exchange(upstream, host, auth_url.as_deref(), username, &identity).await,
    }
}
