//! What an identity is traded for. A binding's spec flows in once, a typed
//! trade or the field that is wrong flows out. PURE.

use shared::binding::{CredentialBindingSpec, Exchange as Parameters, ExchangeKind, ProxyKind};
use shared::errors::{Code, Named};
use shared::registry::RegistryHost;

use super::acr::Acr;
use super::distribution::Distribution;
use super::ecr::Ecr;
use super::gar::Gar;
use super::http::Outlet;
use super::passthrough::Passthrough;
use super::quay::Quay;
use super::token_exchange::TokenExchange;
use super::{Credential, Exchange};
use crate::identity::IdentityToken;
use crate::refresh::{Failure, Fresh};

/// What an identity is traded for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trade {
    /// A Quay robot's password.
    Quay(Quay),
    /// Nothing, but the registry is asked whether it takes the token.
    Passthrough(Passthrough),
    /// The right to ask a registry's token realm.
    Distribution(Distribution),
    /// The token of an OAuth 2.0 token service.
    TokenExchange(TokenExchange),
    /// A password of Amazon ECR.
    Ecr(Ecr),
    /// An access token of Google Cloud.
    Gar(Gar),
    /// A refresh token of Azure Container Registry.
    Acr(Acr),
}

impl Trade {
    /// The trade of a binding at the registry `host`; `None` where the identity
    /// itself is the credential.
    ///
    /// # Errors
    /// The code and the field, for parameters that the protocol cannot do with
    /// or without.
    pub fn of(spec: &CredentialBindingSpec, host: &RegistryHost) -> Result<Option<Self>, Named> {
        let (parameters, audience) = (&spec.exchange, spec.identity.audience.as_str());
        Ok(Some(match parameters.kind {
            ExchangeKind::None => return Ok(None),
            ExchangeKind::Quay => Self::Quay(Quay::of(parameters, host)?),
            ExchangeKind::Passthrough => {
                let proxy = spec.proxy.as_ref();
                let is_registry = proxy.is_none_or(|proxy| proxy.kind == ProxyKind::Oci);
                Self::Passthrough(Passthrough::of(parameters, host, is_registry)?)
            }
            ExchangeKind::Distribution => Self::Distribution(Distribution::of(parameters, host)?),
            ExchangeKind::TokenExchange => {
                Self::TokenExchange(TokenExchange::of(parameters, host, audience)?)
            }
            ExchangeKind::Ecr | ExchangeKind::EcrPublic => Self::Ecr(Ecr::of(parameters, host)?),
            ExchangeKind::Gar => Self::Gar(Gar::of(parameters, audience, host)?),
            ExchangeKind::Acr => Self::Acr(Acr::of(parameters, host)?),
        }))
    }

    /// Who is asked first: see [`Exchange::upstream`].
    pub fn upstream(&self) -> String {
        match self {
            Self::Quay(it) => it.upstream(),
            Self::Passthrough(it) => it.upstream(),
            Self::Distribution(it) => it.upstream(),
            Self::TokenExchange(it) => it.upstream(),
            Self::Ecr(it) => it.upstream(),
            Self::Gar(it) => it.upstream(),
            Self::Acr(it) => it.upstream(),
        }
    }

    /// The kind of exchange and the registry that it is for.
    pub(super) fn place(&self) -> (ExchangeKind, &RegistryHost) {
        match self {
            Self::Quay(it) => (ExchangeKind::Quay, &it.host),
            Self::Passthrough(it) => (ExchangeKind::Passthrough, &it.host),
            Self::Distribution(it) => (ExchangeKind::Distribution, &it.host),
            Self::TokenExchange(it) => (ExchangeKind::TokenExchange, &it.host),
            Self::Ecr(it) => (it.kind(), &it.host),
            Self::Gar(it) => (ExchangeKind::Gar, &it.host),
            Self::Acr(it) => (ExchangeKind::Acr, &it.host),
        }
    }

    pub(super) async fn exchange(
        &self,
        outlet: &Outlet,
        identity: &IdentityToken,
    ) -> Result<Fresh<Credential>, Failure> {
        match self {
            Self::Quay(it) => it.exchange(outlet, identity).await,
            Self::Passthrough(it) => it.exchange(outlet, identity).await,
            Self::Distribution(it) => it.exchange(outlet, identity).await,
            Self::TokenExchange(it) => it.exchange(outlet, identity).await,
            Self::Ecr(it) => it.exchange(outlet, identity).await,
            Self::Gar(it) => it.exchange(outlet, identity).await,
            Self::Acr(it) => it.exchange(outlet, identity).await,
        }
    }
}

/// The account at the registry, where it is set: basic authentication has no
/// way to carry a colon in it.
pub(super) fn username(parameters: &Parameters) -> Result<Option<String>, Named> {
    match parameters.username.as_deref() {
        None | Some("") => Ok(None),
        Some(name) if name.contains(':') => Err(Named::new(
            Code::InvalidSecret,
            "exchange.username has a colon",
        )),
        Some(name) => Ok(Some(name.to_owned())),
    }
}

/// `host:port` of a URL, or of the registry where there is none.
pub(super) fn upstream(url: Option<&str>, host: &RegistryHost) -> String {
    let of_url = || {
        let url = url::Url::parse(url?).ok()?;
        Some(format!(
            "{}:{}",
            url.host_str()?,
            url.port_or_known_default()?
        ))
    };
    of_url().unwrap_or_else(|| format!("{}:{}", host.name(), host.port().unwrap_or(443)))
}

/// Whether `text` is one label of a URL's path that needs no encoding and
/// leads nowhere else.
pub(super) fn is_plain(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._@".contains(&byte);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(is_plain)
}
