//! Identity → credential. A token and a [`Trade`] flow in, a credential with
//! its real expiry or a named failure flows out. One file per protocol, each an
//! [`Exchange`]; all of them reach the world through the one guarded client of
//! [`http`].
//!
//! ```text
//!  binding.spec ─▶ Trade::of ─▶ Exchange::exchange ──Outlet──▶ token service, registry
//!                                      │
//!                                      └─▶ Fresh<Credential> | Failure
//! ```

pub mod acr;
pub mod distribution;
pub mod ecr;
pub mod gar;
pub mod http;
mod login;
pub mod passthrough;
pub mod quay;
pub mod token_exchange;
mod trade;

use std::future::Future;

use crate::docker_config::BasicCredential;
use secrecy::SecretString;
use shared::clouds;
use shared::errors::{Code, Named};

use crate::demand::Key;
use crate::identity::{IdentityToken, Svid};
use crate::refresh::{Failure, Fresh};
use http::{Outlet, Upstream};

pub use trade::Trade;

/// What a consumer presents to its target.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A user name and its secret (registries).
    Basic(BasicCredential),
    /// A bearer token: of a cluster, or for a registry's token realm alone.
    Bearer(SecretString),
    /// A client certificate (registries).
    Certificate {
        /// The chain, the leaf first, PEM.
        certificates: String,
        /// The leaf's key, PEM.
        key: SecretString,
    },
}

/// A protocol that trades an identity token for a registry's credential.
pub trait Exchange {
    /// Who is asked first, `host:port`: exchanges there share a limit, and
    /// their outages.
    fn upstream(&self) -> String;

    /// Trades `identity`.
    ///
    /// # Errors
    /// The named errors of the protocol, of the guard and of the network.
    fn exchange(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> impl Future<Output = Result<Fresh<Credential>, Failure>> + Send;
}

/// Carries out the trade of `key` for one of its identities.
///
/// # Errors
/// Those of the [`Exchange`]; [`Code::CertificateNotUsable`] for a certificate
/// that would have to be traded.
pub async fn exchange(
    upstream: &Upstream,
    key: &Key,
    identity: Svid,
) -> Result<Fresh<Credential>, Failure> {
    let (trade, token) = match (&key.trade, identity) {
        (Some(trade), Svid::Token(token)) => (trade, token),
        (None, identity) => return Ok(kept(identity)),
        // `undeliverable` refuses such a binding long before.
        (Some(_), Svid::Certificate(_)) => {
            let detail = format!("identity {}", key.subject);
            return Err(Named::new(Code::CertificateNotUsable, detail).into());
        }
    };
    let (kind, own) = trade.place();
    let outlet = upstream.outlet(&key.namespace, kind, own);
    // A cloud's credential is good at more registries than one.
    if !clouds::is_registry(kind, own.name()) && !outlet.lists_registry() {
        let detail = format!("{outlet}: no registry of the cloud of exchange {kind}");
        return Err(Named::new(Code::HostNotAllowed, detail).into());
    }
    trade.exchange(&outlet, &token).await
}

/// The identity as the credential that it is.
fn kept(identity: Svid) -> Fresh<Credential> {
    match identity {
        Svid::Token(token) => Fresh {
            expires_at: token.expires_at,
            credential: Credential::Bearer(token.token),
        },
        Svid::Certificate(certificate) => Fresh {
            expires_at: certificate.expires_at,
            credential: Credential::Certificate {
                certificates: certificate.certificates,
                key: certificate.key,
            },
        },
    }
}
